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
    if missing.is_empty() { Ok(()) } else { Err(KernelError::Unable(format!("{} is missing", missing.join(" and ")))) }
}
