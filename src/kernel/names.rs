//! What the host calls users, and where the hosts are that have names.
//!
//! Modules of the C library know (nsswitch.conf(5)), which a program that has that library in itself cannot load
//! (`docs/decisions/0015`). getent(1) can.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::process::{Command, Stdio};

/// The name of a user, of `/etc/passwd` (passwd(5)) or of wherever else the host has users.
pub fn user(uid: u32) -> Option<String> {
    let local = fs::read_to_string("/etc/passwd").ok().and_then(|users| name_of(&users, uid));
    local.or_else(|| name_of(&getent("passwd", &uid.to_string()).ok()?, uid))
}

/// The address of a host that is said by its name, or its address: the first one to be tried (RFC 6724).
///
/// # Errors
///
/// When nobody knows the name, or can be asked. When its address holds for a link only, which getent does not tell.
pub fn address(host: &str) -> io::Result<IpAddr> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    first_of(&getent("ahosts", host)?, host)
}

fn first_of(known: &str, host: &str) -> io::Result<IpAddr> {
    let first = known.split(char::is_whitespace).next().and_then(|it| it.split('%').next()?.parse().ok());
    match first.ok_or_else(|| io::Error::new(ErrorKind::NotFound, format!("no address of `{host}` is known")))? {
        IpAddr::V6(address) if address.is_unicast_link_local() => Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("`{host}` is {address}, which holds for a link only: say it as `{address}%LINK`"),
        )),
        address => Ok(address),
    }
}

fn name_of(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// What a database has under a key: nothing if it does not know that.
fn getent(database: &str, key: &str) -> io::Result<String> {
    /// What getent ends with if the key is not known.
    const UNKNOWN: i32 = 2;
    let output = Command::new("getent").args(["--", database, key]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| io::Error::new(error.kind(), format!("cannot run getent: {error}")))?;
    if !output.status.success() && output.status.code() != Some(UNKNOWN) {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("getent: {}: {}", output.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_name_that_stands_beside_the_number() {
        let users = "root:x:0:0::/root:/bin/sh\n+nis\nten:x:10:1::/:\nother:x:1:10::/:\n";
        assert_eq!(name_of(users, 10).as_deref(), Some("ten"));
        assert_eq!(name_of(users, 100), None);
        assert_eq!(user(0).as_deref(), Some("root"));
        assert_eq!(user(u32::MAX - 7), None);
        assert_eq!(name_of(&getent("passwd", "0").unwrap(), 0).as_deref(), Some("root"));
    }

    #[test]
    fn a_host_is_where_its_name_says() {
        assert_eq!(address("192.0.2.1").unwrap(), IpAddr::from([192, 0, 2, 1]));
        assert!(address("localhost").unwrap().is_loopback());
        for unknown in ["", "--help"] {
            let error = address(unknown).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{unknown}: {error}");
        }
        assert_eq!(first_of("fd00::1 STREAM gw\n192.0.2.1 STREAM\n", "gw").unwrap().to_string(), "fd00::1");
        for link in ["fe80::1  STREAM gw\n", "fe80::1%3 STREAM gw\n"] {
            assert!(first_of(link, "gw").unwrap_err().to_string().contains("`fe80::1%LINK`"), "{link}");
        }
        let error = getent("nothing", "").unwrap_err().to_string();
        assert!(error.contains("status: 1") && error.contains("nothing"), "{error}");
    }
}
