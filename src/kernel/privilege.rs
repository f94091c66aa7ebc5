//! Whether this process may do what netrec does (capabilities(7)).

use super::KernelError;

/// Bits of the capabilities that netrec needs: to configure networks, and to enter and make namespaces.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// Looks at the effective capabilities.
///
/// # Errors
///
/// [`KernelError::Unable`] that names what is missing.
pub fn check() -> Result<(), KernelError> {
    let status =
        std::fs::read_to_string("/proc/self/status").map_err(|error| KernelError::io("/proc/self/status", &error))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
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
