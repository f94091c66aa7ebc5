//! Values that have a grammar of their own: nets, hardware addresses and published ports.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Deref;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

/// The smallest MTU that IPv6 works with (RFC 8200, 5).
pub const MTU_IPV6: u32 = 1_280;

/// A net in CIDR notation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr(pub IpNet);

impl Deref for Cidr {
    type Target = IpNet;

    fn deref(&self) -> &IpNet {
        &self.0
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As for ip(8), Go and the standard library, which IpNet is more lenient than.
        let (address, length) = text.split_once('/').unwrap_or((text, ""));
        let octets = address.rsplit(':').next().filter(|last| last.contains('.')).unwrap_or_default();
        let octal = |number: &&str| number.len() > 1 && number.starts_with('0');
        if let Some(number) = octets.split('.').chain([length]).find(octal) {
            return Err(format!("`{number}` begins with a zero, which some programs take for octal"));
        }
        text.parse().map(Self).map_err(|error: ipnet::AddrParseError| error.to_string())
    }
}

/// A 48-bit hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a hardware address such as `02:42:0a:0a:00:0a`");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let hex = |part: &&str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            let part = parts.next().filter(hex).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

impl Mac {
    /// A locally administered unicast address from a hash.
    pub fn derived(hash: u64) -> Self {
        let [_, _, mut address @ ..] = hash.to_be_bytes();
        address[0] = (address[0] & 0xfc) | 0x02;
        Self(address)
    }

    /// The IPv6 link-local address that Linux makes of it (RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let octet = |at: usize| u16::from(self.0[at]);
        let [first, last] = [(octet(0) ^ 0x02) << 8 | octet(1), octet(4) << 8 | octet(5)];
        Ipv6Addr::new(0xfe80, 0, 0, 0, first, octet(2) << 8 | 0xff, 0xfe00 | octet(3), last)
    }

    /// Whether it can be an interface's own: neither a group address nor all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

/// A transport protocol, by its IANA number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp = 6,
    /// User Datagram Protocol.
    Udp = 17,
    /// Stream Control Transmission Protocol.
    Sctp = 132,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Ports from `first` to `last`, both included, at least 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ports {
    /// Lowest.
    pub first: u16,
    /// Highest; not below `first`.
    pub last: u16,
}

impl Ports {
    /// How many ports.
    pub fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// Whether a port is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
            _ => Err(format!("`{text}` is not a port from 1 to 65535")),
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = Self { first: port(first)?, last: port(last)? };
        if ports.first > ports.last {
            return Err(format!("`{text}` runs backwards"));
        }
        Ok(ports)
    }
}

/// A published port or range, as docker writes them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Publish {
    /// Where the host listens; none: what the network says.
    pub address: Option<IpAddr>,
    /// Ports of the host; none: chosen by netrec.
    pub host: Option<Ports>,
    /// Ports of the container: as many as `host`.
    pub container: Ports,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        if let Some(host) = self.host {
            write!(f, "{host}:")?;
        }
        write!(f, "{}/{}", self.container, self.protocol)
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, protocol) = with_protocol(text)?;
        let (address, ports) = match rest.strip_prefix('[') {
            Some(bracketed) => {
                let (address, ports) = bracketed.split_once("]:").ok_or("`[` without `]:`")?;
                let address = address.parse().map_err(|_| format!("`{address}` is not an IPv6 address"))?;
                (Some(IpAddr::V6(address)), ports)
            }
            None if rest.matches(':').count() > 2 => {
                return Err("an IPv6 address stands in brackets: `[::]:8080:80`".into());
            }
            None => match rest.split_once(':') {
                Some((address, ports)) if ports.contains(':') => {
                    let address = address.parse().map_err(|_| format!("`{address}` is not an IPv4 address"))?;
                    (Some(IpAddr::V4(address)), ports)
                }
                _ => (None, rest),
            },
        };
        let (host, container) = match ports.split_once(':') {
            Some(("", container)) => (None, container.parse()?),
            Some((host, container)) => (Some(host.parse::<Ports>()?), container.parse()?),
            None => (None, ports.parse::<Ports>()?),
        };
        if let Some(host) = host.filter(|host| host.count() != container.count()) {
            let (n, m) = (host.count(), container.count());
            return Err(format!("{n} host port{} for {m} container port{}", plural(n), plural(m)));
        }
        Ok(Self { address, host, container, protocol })
    }
}

/// Ports of a protocol: `PORT[-LAST][/tcp|udp|sctp]`, tcp by default.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PortRange {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports.
    pub ports: Ports,
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let icmp = |word: &str| ["icmp", "icmpv6", "icmp6", "ipv6-icmp"].contains(&&*word.to_ascii_lowercase());
        if text.split('/').any(icmp) {
            return Err("ICMP has no ports: a policy without `ports` is of everything, ICMP included".into());
        }
        let (ports, protocol) = with_protocol(text)?;
        Ok(Self { protocol, ports: ports.parse()? })
    }
}

/// Takes the protocol from the end of a text.
fn with_protocol(text: &str) -> Result<(&str, Protocol), String> {
    match text.rsplit_once('/') {
        None => Ok((text, Protocol::Tcp)),
        Some((rest, "tcp")) => Ok((rest, Protocol::Tcp)),
        Some((rest, "udp")) => Ok((rest, Protocol::Udp)),
        Some((rest, "sctp")) => Ok((rest, Protocol::Sctp)),
        Some((_, other)) => Err(format!("`{other}` is not a protocol: tcp, udp or sctp")),
    }
}

fn plural(n: u32) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// Reads a string within serde's visitor, so that what is wrong with it has its place.
struct FromText<T>(PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! deserialize_from_str {
    ($($value:ty),*) => {$(
        impl<'de> Deserialize<'de> for $value {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(FromText(PhantomData))
            }
        }
    )*};
}
deserialize_from_str!(Cidr, Mac, PortRange, Publish);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishes_are_read_as_docker_writes_them() {
        for (text, shown) in [
            ("8080:80", "8080:80/tcp"),
            ("80", "80/tcp"),
            ("127.0.0.1:5353:53/udp", "127.0.0.1:5353:53/udp"),
            ("127.0.0.1::53/udp", "127.0.0.1:53/udp"),
            ("[::]:9000-9010:9000-9010/tcp", "[::]:9000-9010:9000-9010/tcp"),
            ("9000-9010:80-90/sctp", "9000-9010:80-90/sctp"),
        ] {
            assert_eq!(text.parse::<Publish>().map(|publish| publish.to_string()), Ok(shown.to_owned()));
        }
        for wrong in ["", "0:80", "80:0", "65536:1", "90-80:80-90", "1-2:1-3", "::1:80:80", "a:1:2", "80/icmp", "+8:8"]
        {
            assert!(wrong.parse::<Publish>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nets_have_no_number_that_could_be_octal() {
        for (text, net) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00:0db8::/64", "fd00:db8::/64"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().map(|net| net.to_string()), Ok(net.to_owned()));
        }
        for wrong in
            ["010.0.0.0/24", "10.00.0.0/24", "10.0.0.08/32", "10.0.0.0/08", "fd00::/064", "::ffff:10.0.0.010/128"]
        {
            assert!(wrong.parse::<Cidr>().is_err_and(|why| why.contains("octal")), "{wrong}");
        }
        for wrong in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0/24", "10.0.0.0/+8", "10.0.0.0/8/8", "fd00::"]
        {
            assert!(wrong.parse::<Cidr>().is_err_and(|why| !why.contains("octal")), "{wrong}");
        }
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!("02:42:0A:0a:00:0a".parse::<Mac>().map(|mac| mac.to_string()), Ok("02:42:0a:0a:00:0a".into()));
        for wrong in
            ["", "02:42:0a:0a:00", "02:42:0a:0a:00:0a:00", "2:42:0a:0a:00:0a", "02-42-0a-0a-00-0a", "+2:42:0a:0a:00:0a"]
        {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
        let link_local = "02:42:0a:0b:0c:0d".parse::<Mac>().map(|mac| mac.link_local().to_string());
        assert_eq!(link_local, Ok("fe80::42:aff:fe0b:c0d".into()));
        assert!(Mac::derived(u64::MAX).is_unicast() && Mac::derived(0).is_unicast());
    }
}
