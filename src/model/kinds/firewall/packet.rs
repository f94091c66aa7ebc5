//! The first packet of a flow as rules see it: bytes of its headers, and what the kernel knows of it beside them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::resource::Text;
use crate::model::values::{Mac, Protocol};

/// The port that is asked from: one of those that Linux gives to whoever names none (`ip_local_port_range`).
const EPHEMERAL: u16 = 40_000;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Service {
    /// A port.
    Port(Protocol, u16),
    /// An answer to an ICMP echo request.
    Echo,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, port) => write!(f, "{protocol} port {port}"),
            Self::Echo => f.write_str("icmp echo"),
        }
    }
}

/// What a rule does with a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Does {
    /// Lets it through this chain.
    Accept,
    /// Ends it.
    Drop,
    /// Gives it this destination, and lets it through.
    Dnat(IpAddr, Option<u16>),
    /// Gives it this source, and lets it through.
    Snat(IpAddr),
    /// Gives it the address of the link it leaves by, and lets it through.
    Masquerade,
    /// Remembers its answer.
    Remember,
}

impl fmt::Display for Does {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Dnat(IpAddr::V6(address), Some(port)) => write!(f, "dnat to [{address}]:{port}"),
            Self::Dnat(address, Some(port)) => write!(f, "dnat to {address}:{port}"),
            Self::Dnat(address, None) => write!(f, "dnat to {address}"),
            Self::Snat(address) => write!(f, "snat to {address}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Remember => f.write_str("remember"),
        }
    }
}

/// The first packet of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Name of the link it came by; empty: it is the host's own.
    pub iif: Text,
    /// Group of that link.
    pub iif_group: Option<u32>,
    /// Name of the link it leaves by; empty where that is not known yet.
    pub oif: Text,
    /// Header of the link, of the network, and of what it carries.
    pub(super) headers: [Vec<u8>; 3],
    pub(super) service: Service,
    /// Whether its destination was mapped (`IPS_DST_NAT`).
    pub mapped: bool,
    /// Whether chains of type `nat` have had their say about its destination, and about its source.
    pub(super) settled: [bool; 2],
}

/// Lengths of the headers (`struct ethhdr`, RFC 791 without options, RFC 8200, and TCP's, which is the longest).
const LINK: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TRANSPORT: usize = 20;

impl Packet {
    /// A packet that opens something; both addresses of one family.
    pub fn new(source: IpAddr, destination: IpAddr, service: Service) -> Self {
        let ipv6 = destination.is_ipv6();
        let (mut link, mut network, mut transport) =
            (vec![0; LINK], vec![0; if ipv6 { IPV6 } else { IPV4 }], vec![0; TRANSPORT]);
        link[12..14].copy_from_slice(if ipv6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        network[0] = if ipv6 { 0x60 } else { 0x45 };
        match service {
            Service::Port(protocol, port) => {
                transport[..2].copy_from_slice(&EPHEMERAL.to_be_bytes());
                transport[2..4].copy_from_slice(&port.to_be_bytes());
                if protocol == Protocol::Tcp {
                    transport[13] = 0x02; // SYN
                }
            }
            Service::Echo => transport[0] = if ipv6 { 128 } else { 8 },
        }
        let (name, headers) = (Text::default(), [link, network, transport]);
        let mut packet = Self {
            iif: name.clone(),
            iif_group: None,
            oif: name,
            headers,
            service,
            mapped: false,
            settled: [false; 2],
        };
        packet.set_source(source);
        packet.set_destination(destination, None);
        packet
    }

    /// Whether it is IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.headers[1].len() == IPV6
    }

    /// Number of what it carries.
    pub fn protocol(&self) -> u8 {
        match self.service {
            Service::Port(protocol, _) => protocol as u8,
            Service::Echo if self.is_ipv6() => 58,
            Service::Echo => 1,
        }
    }

    /// Where it goes.
    pub fn destination(&self) -> IpAddr {
        self.address(if self.is_ipv6() { 24 } else { 16 })
    }

    /// Where it comes from.
    pub fn source(&self) -> IpAddr {
        self.address(if self.is_ipv6() { 8 } else { 12 })
    }

    /// What it asks for by now.
    pub fn service(&self) -> Service {
        match (self.service, &*self.headers[2]) {
            (Service::Port(protocol, _), [_, _, high, low, ..]) => {
                Service::Port(protocol, u16::from_be_bytes([*high, *low]))
            }
            (service, _) => service,
        }
    }

    /// Gives it another source.
    pub fn set_source(&mut self, address: IpAddr) {
        self.set(if self.is_ipv6() { 8 } else { 12 }, address);
    }

    /// Gives it another destination, and perhaps another port.
    pub fn set_destination(&mut self, address: IpAddr, port: Option<u16>) {
        self.set(if self.is_ipv6() { 24 } else { 16 }, address);
        if let Some(port) = port {
            self.headers[2][2..4].copy_from_slice(&port.to_be_bytes());
        }
    }

    /// Says whose hardware address the frame is sent from.
    pub fn set_sender(&mut self, mac: Mac) {
        self.headers[0][6..12].copy_from_slice(&mac.0);
    }

    fn set(&mut self, at: usize, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.headers[1][at..at + 4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => self.headers[1][at..at + 16].copy_from_slice(&address.octets()),
        }
    }

    fn address(&self, at: usize) -> IpAddr {
        let bytes = self.headers[1].get(at..).unwrap_or_default();
        let ipv4 = || bytes.first_chunk::<4>().map_or(Ipv4Addr::UNSPECIFIED, |octets| (*octets).into());
        let ipv6 = || bytes.first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |octets| (*octets).into());
        if self.is_ipv6() { ipv6().into() } else { ipv4().into() }
    }
}
