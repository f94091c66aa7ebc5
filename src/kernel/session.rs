//! The connections that this program is run through: what the SSH server says in the environment, and established TCP
//! connections of the processes above this one, as sudo(8) clears the environment.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{OFlag, readlinkat};
use nix::libc;
use nix::sys::stat::Mode;

use crate::model::observed::Session;

/// Processes above this one that are looked at, at most.
const ANCESTORS: usize = 64;

/// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` as /proc/net/tcp writes them (`net/tcp_states.h`): a peer that has said all it had
/// to say still hears.
const HEARD: [&str; 2] = ["01", "08"];

/// The connections of the calling thread's network namespace (`proc_pid_net`(5)).
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

/// Inodes of the sockets of TCP that this process and those above it hold.
pub(super) fn sockets() -> BTreeSet<u64> {
    let mut sockets = BTreeSet::new();
    let mut pid = std::process::id();
    for _ in 0..ANCESTORS {
        sockets.extend(sockets_of(pid));
        match parent(pid) {
            Some(parent) if parent > 1 => pid = parent,
            _ => break,
        }
    }
    sockets
}

/// Those of them that end in the network namespace of the calling thread, and what the SSH server says.
pub(super) fn of(sockets: &BTreeSet<u64>) -> Vec<Session> {
    let told = std::env::var("SSH_CONNECTION").ok().and_then(|said| told(&said));
    // The kernel walks all of its hash table, half a million chains of connections on a big machine, for each read(2).
    let tables: &[&str] = if sockets.is_empty() { &[] } else { &TABLES };
    let held = tables.iter().flat_map(|table| established(&whole(table), sockets));
    let all: BTreeSet<Session> = told.into_iter().chain(held).collect();
    all.into_iter().collect()
}

/// `SSH_CONNECTION` of sshd(8): client address and port, server address and port.
fn told(said: &str) -> Option<Session> {
    let mut words = said.split_whitespace();
    let mut next = || {
        let address: IpAddr = words.next()?.parse().ok()?;
        Some(SocketAddr::new(address.to_canonical(), words.next()?.parse().ok()?))
    };
    Some(Session { peer: next()?, local: next()? })
}

/// Its parent: the fourth field of `proc_pid_stat(5)`; the second is in brackets and may hold anything.
fn parent(pid: u32) -> Option<u32> {
    // A line of some 50 numbers, made when it is read: one read(2) has all of it.
    let mut line = [0; 2 << 10];
    let length = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut line)).ok()?;
    String::from_utf8_lossy(&line[..length]).rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A file in as few reads as it takes: with no room to begin with, the standard library tries by 32 bytes first.
fn whole(path: &str) -> String {
    let mut text = String::with_capacity(16 << 10);
    // What cannot be read holds nothing.
    let _ = File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    text
}

/// Inodes of the sockets of TCP that a process holds.
fn sockets_of(pid: u32) -> Vec<u64> {
    let path = PathBuf::from(format!("/proc/{pid}/fd"));
    let Ok(mut folder) = Dir::open(&path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) else {
        return Vec::new();
    };
    let names = folder.iter().map_while(Result::ok).map(|entry| entry.file_name().to_owned());
    // Descriptors are numbers; `.` and `..` are none.
    let names: Vec<CString> = names.filter(|name| name.to_bytes().first().is_some_and(u8::is_ascii_digit)).collect();
    let socket = |name: CString| {
        // From its folder: on the way there the kernel asks each time whether we may look into that process.
        let target = readlinkat(&folder, &*name).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        may_be_tcp(&path.join(OsStr::from_bytes(name.to_bytes()))).then_some(inode)
    };
    names.into_iter().filter_map(socket).collect()
}

/// Whether a socket may be one of TCP: the kernel names its protocol in an attribute (`sockfs_xattr_get`), as to lsof(8).
/// Otherwise the log's socket of every service, and netrec's own, would have the tables read.
fn may_be_tcp(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return true };
    let mut name = [0_u8; 32];
    #[expect(unsafe_code, reason = "getxattr(2), which nix does not have")]
    // SAFETY: both strings end with NUL, and the length is that of the buffer.
    let length = unsafe {
        libc::getxattr(path.as_ptr(), c"system.sockprotoname".as_ptr(), name.as_mut_ptr().cast(), name.len())
    };
    // A kernel that does not say: who knows.
    usize::try_from(length).is_err() || name.starts_with(b"TCP") || name.starts_with(b"MPTCP")
}

/// The established connections of those sockets in the text of `/proc/net/tcp` or `tcp6` (`proc_pid_net`(5)).
fn established(table: &str, sockets: &BTreeSet<u64>) -> Vec<Session> {
    let session = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, peer, state, inode) = (words.get(1)?, words.get(2)?, words.get(3)?, words.get(9)?);
        let ours = HEARD.contains(state) && sockets.contains(&inode.parse().ok()?);
        ours.then(|| Some(Session { peer: end(peer)?, local: end(local)? })).flatten()
    };
    table.lines().skip(1).filter_map(session).collect()
}

/// `0100007F:0016`: the address in words of the machine's byte order, the port as a number.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<u32>> =
        (0..address.len() / 8).map(|at| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()).collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let address = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(address.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_the_ssh_server_says_is_read() {
        let session = told("192.0.2.9 50022 ::ffff:198.51.100.1 22").unwrap();
        assert_eq!(session.peer, "192.0.2.9:50022".parse().unwrap());
        assert_eq!(session.local, "198.51.100.1:22".parse().unwrap());
        for wrong in ["", "192.0.2.9", "192.0.2.9 x 198.51.100.1 22", "192.0.2.9 1 198.51.100.1"] {
            assert_eq!(told(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_sockets_of_tcp_count() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        let may_be = |fd: RawFd| may_be_tcp(Path::new(&format!("/proc/self/fd/{fd}")));
        assert!(may_be(tcp.as_raw_fd()) && !may_be(unix.as_raw_fd()));
        assert!(may_be(-1), "what cannot be asked is looked up");
    }

    #[test]
    fn a_connection_that_this_process_holds_is_found() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let session = Session { peer: client.peer_addr().unwrap(), local: client.local_addr().unwrap() };
            let find = || of(&sockets());
            assert!(find().contains(&session), "{session:?} of {}", client.as_raw_fd());
            drop(client);
            assert!(!find().contains(&session));
        }
    }
}
