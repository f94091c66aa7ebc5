//! What must be reachable before an apply and after it.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket};

use super::names;

/// How long one try waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries, and what a try takes at least.
const PAUSE: Duration = Duration::from_millis(100);

/// Port that nobody is asked at: a datagram socket that is connected asks for the route only (RFC 863, discard).
const DISCARD: u16 = 9;

/// Something that answers, or a destination that has a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// A TCP connection comes about: host and port.
    Tcp(String, u16),
    /// A host answers an echo request (RFC 792, RFC 4443).
    Ping(String),
    /// The kernel has a route to an address.
    Route(IpAddr),
}

impl FromStr for Probe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, what) = text.split_once(':').unwrap_or((text, ""));
        let tcp = || {
            let (host, port) = what.rsplit_once(':').filter(|(host, _)| !host.is_empty())?;
            Some(Self::Tcp(host.into(), port.parse().ok()?))
        };
        let probe = match kind {
            "tcp" => tcp(),
            "ping" if !what.is_empty() => Some(Self::Ping(what.into())),
            "route" => return what.parse().map(Self::Route).map_err(|_| format!("`{what}` is not an address")),
            _ => None,
        };
        probe.ok_or_else(|| "a probe is written `tcp:HOST:PORT`, `ping:HOST` or `route:ADDRESS`".into())
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "tcp:{host}:{port}"),
            Self::Ping(to) => write!(f, "ping:{to}"),
            Self::Route(to) => write!(f, "route:{to}"),
        }
    }
}

impl Probe {
    /// Tries once.
    ///
    /// # Errors
    ///
    /// Why it did not succeed.
    pub fn run(&self) -> std::io::Result<()> {
        self.attempt(PATIENCE)
    }

    /// Tries until it succeeds or time is up: after a change neighbours must be found anew.
    ///
    /// # Errors
    ///
    /// Why the last try did not succeed.
    pub fn run_until(&self, until: Instant) -> std::io::Result<()> {
        let left = || until.saturating_duration_since(Instant::now());
        loop {
            match self.attempt(left().clamp(PAUSE, PATIENCE)) {
                Ok(()) => return Ok(()),
                Err(error) if left() <= PAUSE => return Err(error),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    fn attempt(&self, patience: Duration) -> std::io::Result<()> {
        match self {
            Self::Tcp(host, port) => TcpStream::connect_timeout(&resolve(host, *port)?, patience).map(drop),
            Self::Ping(to) => ping(resolve(to, 0)?, patience),
            Self::Route(to) => {
                let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
                UdpSocket::bind((any, 0))?.connect((*to, DISCARD))
            }
        }
    }
}

/// Where a host is; behind the link after `%` if its address holds for a link only (RFC 4007, 11).
fn resolve(host: &str, port: u16) -> std::io::Result<SocketAddr> {
    let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
    let Some((address, link)) = host.split_once('%') else { return Ok((names::address(host)?, port).into()) };
    let address = address
        .parse()
        .map_err(|_| std::io::Error::new(ErrorKind::InvalidInput, format!("`{address}` is no IPv6 address")))?;
    let index = link.parse().or_else(|_| if_nametoindex(link))?;
    Ok(SocketAddrV6::new(address, port, 0, index).into())
}

/// One echo request over a raw socket, which gets the kernel's copies of all answers of that address: ours is the one
/// with our process number. The kernel writes the checksum of `ICMPv6` itself.
fn ping(to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    let (family, protocol, request, reply) = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        SocketAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    connect(raw.as_raw_fd(), &SockaddrStorage::from(to))?;
    let id = (std::process::id() as u16).to_be_bytes();
    let mut echo = [request, 0, 0, 0, id[0], id[1], 0, 1];
    let sum = echo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    echo[2..4].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    // The standard library reads, writes and waits on whatever connected socket it is given.
    let mut raw = TcpStream::from(raw);
    raw.set_read_timeout(Some(patience))?;
    raw.write_all(&echo)?;
    let until = Instant::now() + patience;
    let mut packet = [0; 1500];
    while Instant::now() < until {
        let length = match raw.read(&mut packet) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            read => read?,
        };
        // IPv4 comes with its header, whose length is in its first byte in words.
        let header = if to.is_ipv4() { usize::from(packet[0] & 15) * 4 } else { 0 };
        let message = packet.get(header..length).unwrap_or_default();
        if message.len() >= 8 && message[0] == reply && message[4..6] == id {
            return Ok(());
        }
    }
    Err(std::io::Error::new(ErrorKind::TimedOut, "no answer came"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn probes_are_read_as_they_are_written() {
        for text in ["tcp:example.org:22", "tcp:[fd00::1]:22", "ping:fd00::1", "ping:gateway", "route:192.0.2.1"] {
            assert_eq!(text.parse::<Probe>().unwrap().to_string(), text);
        }
        for wrong in ["", "tcp", "tcp:", "tcp:host", "tcp::22", "tcp:host:99999", "ping:", "route:host", "exec:true"] {
            assert!(wrong.parse::<Probe>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_port_answers_as_long_as_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let probe: Probe = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
        assert!(probe.run().is_ok());
        drop(listener);
        // Whoever starts a program meanwhile has it as well until that begins.
        let refused = |_| {
            std::thread::sleep(Duration::from_millis(10));
            probe.run().is_err()
        };
        assert!((0..200).any(refused));
    }

    #[test]
    fn a_host_is_found_however_it_is_said() {
        let found = |host| resolve(host, 22).map(|it| it.to_string()).unwrap();
        assert_eq!(found("192.0.2.1"), "192.0.2.1:22");
        assert_eq!((found("fd00::1"), found("[fd00::1]")), ("[fd00::1]:22".into(), "[fd00::1]:22".into()));
        assert_eq!((found("fe80::1%1"), found("[fe80::1%lo]")), ("[fe80::1%1]:22".into(), "[fe80::1%1]:22".into()));
        assert!(["127.0.0.1:22", "[::1]:22"].contains(&&*found("localhost")));
        for wrong in ["fe80::1%nowhere", "127.0.0.1%lo", "localhost%lo"] {
            assert!(resolve(wrong, 22).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_loopback_has_a_route() {
        assert!(Probe::Route([127, 0, 0, 1].into()).run().is_ok());
    }
}
