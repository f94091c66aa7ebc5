//! Whether this process may do what netrec does (capabilities(7)).

use nix::errno::Errno;
use nix::libc;

use super::KernelError;

/// Capabilities that netrec needs, by number: to configure networks, and to enter and make namespaces.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// Looks at the effective capabilities.
///
/// # Errors
///
/// [`KernelError::Unable`] that names what is missing.
pub fn check() -> Result<(), KernelError> {
    let effective = effective().map_err(|errno| KernelError::system("capget", errno))?;
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect();
    let hint = if nix::unistd::geteuid().is_root() {
        "this root is without them, as in a container: grant them, or run `netrec rehearse`, which needs none"
    } else {
        "run it as root, or run `netrec rehearse`, which needs no privilege"
    };
    match missing.as_slice() {
        [] => Ok(()),
        [one] => Err(KernelError::unable(format!("the capability {one} is missing"), hint)),
        several => Err(KernelError::unable(format!("the capabilities {} are missing", several.join(" and ")), hint)),
    }
}

/// The lower half of the calling thread's effective set (capget(2)).
fn effective() -> Result<u32, Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let (mut header, mut sets) = ([VERSION_3, 0], [0_u32; 6]);
    #[expect(unsafe_code, reason = "capget(2), which nix does not have")]
    // SAFETY: version, process, and twice the three sets of 32 capabilities each are what that version reads and writes.
    let done = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    Errno::result(done).map(|_| sets[0])
}
