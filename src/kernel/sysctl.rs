//! Settings under `/proc/sys/net` of the namespace that the calling thread is in.
//!
//! Names are as sysctl(8) and sysctl.d(5) read them: components separated by `.`, where a dot that belongs to a
//! component (`eth0.100`) is written `/`; or, if the first separator is a `/`, components separated by `/` with dots
//! left alone. `net.ipv4.conf.eth0/100.forwarding` and `net/ipv4/conf/eth0.100/forwarding` are the same setting.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{AccessFlags, access};

use super::{KernelError, netlink};
use crate::model::kinds::sysctl::Sysctl;
use crate::model::resource::Text;
use crate::model::wire::Body;

/// A value written in one go is shorter, in bytes; with its end mark it is a page in the kernel (`proc_sys_call_handler`).
const VALUE_BYTES: usize = 4095;

/// Where all settings are.
const ROOT: &str = "/proc/sys/";

/// The file of a setting.
///
/// # Errors
///
/// [`KernelError::BadName`] if it is not under `net` or not the name of a file.
pub fn path(name: &str) -> Result<PathBuf, KernelError> {
    let dotted = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'.');
    let swapped = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let mut path = String::with_capacity(ROOT.len() + name.len());
    path.push_str(ROOT);
    path.extend(name.chars().map(|letter| if dotted { swapped(letter) } else { letter }));
    let within = &path[ROOT.len()..];
    let sound = |component: &str| !matches!(component, "" | "." | "..") && !component.contains('\0');
    if !within.starts_with("net/") || !within.split('/').all(sound) {
        return Err(KernelError::BadName(format!("`{name}` is not a setting under net")));
    }
    Ok(path.into())
}

/// The value of a setting, several numbers separated by one space each; none if it does not exist, or has no value
/// that can be read.
pub fn read(name: &str) -> Result<Option<String>, KernelError> {
    // One read(2), as most settings give what is left of a value to none but the first.
    let mut bytes = [0; VALUE_BYTES];
    match File::open(path(name)?).and_then(|mut file| file.read(&mut bytes)) {
        Ok(length) => {
            let value = String::from_utf8_lossy(&bytes[..length]);
            Ok(Some(value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")))
        }
        // EPERM and EACCES: only for writing, as route.flush. EIO: never set, as stable_secret.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EPERM | libc::EACCES | libc::EIO)) => {
            Ok(None)
        }
        Err(error) => Err(KernelError::io(format!("read {name}"), &error)),
    }
}

/// Whether a setting can be written, if it is there yet: container engines mount `/proc/sys` read-only. Writes nothing.
///
/// # Errors
///
/// [`KernelError::Unable`].
pub fn writable(name: &str) -> Result<(), KernelError> {
    match OpenOptions::new().write(true).open(path(name)?) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            let what = KernelError::io(format!("write {name}"), &error).to_string();
            Err(KernelError::unable(what, "set it beforehand, or run where `/proc/sys/net` can be written"))
        }
        _ => Ok(()),
    }
}

/// Whether IPv6 cannot be switched off on links: where settings are out of reach, as in containers of engines, and where
/// there is no IPv6.
pub fn ipv6_fixed() -> bool {
    access("/proc/sys/net/ipv6/conf/default/disable_ipv6", AccessFlags::W_OK).is_err()
}

/// Writes a setting.
///
/// # Errors
///
/// `System` with the kernel's number: `ENOENT` if there is no such setting, `EINVAL` if it does not take that value.
pub fn write(name: &str, value: &str) -> Result<(), KernelError> {
    let path = path(name)?;
    netlink::count_writes(1);
    let failed = |error: std::io::Error| KernelError::io(format!("write {value} to {name}"), &error);
    // One write(2): the kernel takes each as a whole value.
    OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes())).map_err(failed)
}

/// Does what is said of a setting.
///
/// # Errors
///
/// As [`write`].
pub(super) fn set(said: &Body) -> Result<(), KernelError> {
    match said {
        Body::Sysctl(key, value) => write(key, value),
        Body::NoIpv6(link) => match write(&Sysctl::disable_ipv6(Some(link)), "1") {
            // A kernel without IPv6, or a link of less than 1,280 bytes.
            Err(KernelError::System { errno: Errno::ENOENT, .. }) => Ok(()),
            ended => ended,
        },
        _ => unreachable!("only settings are said there: Wire::places"),
    }
}

/// Those settings of the namespace that the calling thread is in which are there.
pub(super) fn values<'a>(names: impl IntoIterator<Item = &'a Text>) -> Result<Vec<(Text, Text)>, KernelError> {
    let mut values = Vec::new();
    for name in names {
        values.extend(read(name)?.map(|value| (name.clone(), value.into())));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_sysctl_reads_them() {
        for (name, file) in [
            ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/100.forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding"),
            ("net/ipv4/conf/eth0.100/forwarding", "/proc/sys/net/ipv4/conf/eth0.100/forwarding"),
        ] {
            assert_eq!(path(name), Ok(PathBuf::from(file)));
        }
        for wrong in
            ["", "net", "net.", "kernel.hostname", "net.//.x", "net/../kernel/hostname", "/net/x", "net..x", "net.a\0"]
        {
            assert!(path(wrong).is_err(), "{wrong:?}");
        }
    }
}
