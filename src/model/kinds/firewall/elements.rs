//! What the sets and maps of the skeleton hold: all that topologies say, but for what they do not use at all. Small typed
//! values, kept sorted; text is made only when somebody reads it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::flows::{Sent, Stale};
use super::wire;
use crate::model::resource::Text;
use crate::model::values::{Mac, Ports, Protocol};

/// What a bridge is to the rules: the set it stands in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Of this topology: whatever comes from or goes to it is judged.
    Bridge,
    /// Nothing is forwarded in or out.
    Internal,
    /// No port filter.
    Open,
    /// Containers reach services of the host.
    HostAccess,
    /// Subnets of the same bridge reach each other through the host.
    Icc,
    /// They do not.
    NoIcc,
    /// IPv4 leaves with the address of the link it leaves by.
    Masquerade4,
    /// So does IPv6.
    Masquerade6,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 8] = [
        Self::Bridge,
        Self::Internal,
        Self::Open,
        Self::HostAccess,
        Self::Icc,
        Self::NoIcc,
        Self::Masquerade4,
        Self::Masquerade6,
    ];

    /// Name of the set.
    pub fn set(self) -> &'static str {
        match self {
            Self::Bridge => "bridges",
            Self::Internal => "internal",
            Self::Open => "open",
            Self::HostAccess => "host_access",
            Self::Icc => "icc",
            Self::NoIcc => "no_icc",
            Self::Masquerade4 => "masquerade4",
            Self::Masquerade6 => "masquerade6",
        }
    }
}

/// A published port or range: where the host listens, and who answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mapping {
    /// The address; none: every address of the host in the family of the target.
    pub listen: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// Ports of the host; several only if the target's are the same.
    pub ports: Ports,
    /// Address of the container.
    pub target: IpAddr,
    /// Its port; none: the one that was asked for.
    pub port: Option<u16>,
}

/// What a policy says of packets, and where.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// They are dropped.
    Deny,
    /// They pass where they would not by default.
    Allow,
    /// They are dropped between ports of one bridge.
    DenyWithin,
}

/// Packets by where they come from, where they go, and for what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Passage {
    /// First and last address of those that ask.
    pub from: (IpAddr, IpAddr),
    /// First and last address of those that are asked; of the same family.
    pub to: (IpAddr, IpAddr),
    /// First and last protocol, by their IANA numbers.
    pub protocols: (u8, u8),
    /// Ports that are asked for; none: whatever it is, with ports or without.
    pub ports: Option<(u16, u16)>,
}

/// Where the host listens: an address, or every one of a family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Listen {
    /// The address; none: every one of the host.
    pub address: Option<IpAddr>,
    /// Whether of IPv6.
    pub ipv6: bool,
    /// The protocol.
    pub protocol: Protocol,
    /// Ports of the host.
    pub ports: Ports,
}

/// One element of one set.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Element {
    /// A bridge in a set of bridges.
    Link(Role, Text),
    /// What leaves that bridge gets that source address.
    Snat(Text, IpAddr),
    /// A subnet of one of our bridges: nothing meant for it may leave another way.
    Subnet(IpNet),
    /// A published port.
    Publish(Mapping),
    /// A published port that only some may reach.
    Limited(Listen),
    /// Those who may.
    AllowFrom(IpNet, Listen),
    /// What comes from that link may go to that bridge.
    Trusted(Text, Text),
    /// What a policy says: behind a pointer, as a passage is twice as large as any other element.
    Policy(Verdict, Box<Passage>),
    /// A subnet of a network within which a policy forbids something: what others send is not asked about.
    Judged(IpNet),
    /// A port of a bridge that may send anything.
    Loose(Text),
    /// The hardware address that it has.
    Mac(Text, Mac),
    /// An address that it may send from, with that hardware address only.
    Source(Text, Mac, IpAddr),
    /// A note that flows may be stale; never wanted, and not seen any more once they are forgotten.
    Stale(Stale),
}

/// Elements of all sets, sorted, none twice.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Elements(Vec<Element>);

impl IntoIterator for Elements {
    type Item = Element;
    type IntoIter = std::vec::IntoIter<Element>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<Element> for Elements {
    fn from_iter<I: IntoIterator<Item = Element>>(elements: I) -> Self {
        let mut sorted: Vec<Element> = elements.into_iter().collect();
        // Stable, as that merges what is in order already: most of it is.
        sorted.sort();
        sorted.dedup();
        Self(sorted)
    }
}

impl Elements {
    /// None.
    pub(super) const NONE: Self = Self(Vec::new());

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Element> {
        self.0.iter()
    }

    /// Likewise.
    pub(super) fn as_slice(&self) -> &[Element] {
        &self.0
    }

    /// Whether an element is among them.
    pub(super) fn contains(&self, element: &Element) -> bool {
        self.0.binary_search(element).is_ok()
    }

    /// How many bridges.
    pub fn bridges(&self) -> usize {
        self.0.iter().filter(|element| matches!(element, Element::Link(Role::Bridge, _))).count()
    }

    /// How many published ports and ranges.
    pub fn published(&self) -> usize {
        self.0.iter().filter(|element| matches!(element, Element::Publish(_))).count()
    }

    /// How many ports of bridges that send as themselves only.
    pub fn guarded(&self) -> usize {
        self.0.iter().filter(|element| matches!(element, Element::Mac(..))).count()
    }

    /// Names of the sets and maps that they stand in.
    pub(super) fn sets(&self) -> Vec<&'static str> {
        self.0.iter().map(Element::set).fold(Vec::new(), |mut sets, set| {
            // Mostly the one before is of the same.
            if sets.last() != Some(&set) && !sets.contains(&set) {
                sets.push(set);
            }
            sets
        })
    }

    /// The notes of flows that may be stale.
    pub(super) fn notes(&self) -> impl Iterator<Item = &Stale> {
        self.0.iter().filter_map(|element| if let Element::Stale(note) = element { Some(note) } else { None })
    }
}

impl Verdict {
    fn set(self, passage: &Passage) -> &'static str {
        match (self, passage.from.0.is_ipv4(), passage.ports.is_some()) {
            (Self::Deny, true, false) => "deny4",
            (Self::Deny, true, true) => "deny4_port",
            (Self::Deny, false, false) => "deny6",
            (Self::Deny, false, true) => "deny6_port",
            (Self::Allow, true, false) => "allow4",
            (Self::Allow, true, true) => "allow4_port",
            (Self::Allow, false, false) => "allow6",
            (Self::Allow, false, true) => "allow6_port",
            (Self::DenyWithin, true, false) => "within4",
            (Self::DenyWithin, true, true) => "within4_port",
            (Self::DenyWithin, false, false) => "within6",
            (Self::DenyWithin, false, true) => "within6_port",
        }
    }
}

/// As nft writes keys.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(f, "{address} . ")?;
        }
        write!(f, "{} . {}", self.protocol, self.ports)
    }
}

/// As nft writes keys, addresses as prefixes where they are some.
impl fmt::Display for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = |(first, last): (IpAddr, IpAddr)| match wire::net(first, last) {
            _ if first == last => first.to_string(),
            Some(net) => net.to_string(),
            None => format!("{first}-{last}"),
        };
        write!(f, "{} . {} . ", addresses(self.from), addresses(self.to))?;
        let protocol = |number: u8| match number {
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            132 => "sctp".to_owned(),
            number => number.to_string(),
        };
        match self.protocols {
            (first, last) if first == last => f.write_str(&protocol(first))?,
            (first, last) => write!(f, "{first}-{last}")?,
        }
        match self.ports {
            None => Ok(()),
            Some((first, last)) if first == last => write!(f, " . {first}"),
            Some((first, last)) => write!(f, " . {first}-{last}"),
        }
    }
}

impl Element {
    /// Name of the set or map it stands in.
    pub(super) fn set(&self) -> &'static str {
        let family = |address: &IpAddr, four, six| if address.is_ipv4() { four } else { six };
        match self {
            Self::Link(role, _) => role.set(),
            Self::Snat(_, address) => family(address, "snat4", "snat6"),
            Self::Subnet(net) => family(&net.network(), "subnets4", "subnets6"),
            Self::Publish(Mapping { listen, target, port, .. }) => match (listen, port) {
                (None, Some(_)) => family(target, "publish4", "publish6"),
                (None, None) => family(target, "ranges4", "ranges6"),
                (Some(_), Some(_)) => family(target, "publish4_at", "publish6_at"),
                (Some(_), None) => family(target, "ranges4_at", "ranges6_at"),
            },
            Self::Limited(listen) => match (listen.address, listen.ipv6) {
                (None, false) => "limited4",
                (None, true) => "limited6",
                (Some(_), false) => "limited4_at",
                (Some(_), true) => "limited6_at",
            },
            Self::AllowFrom(_, listen) => match (listen.address, listen.ipv6) {
                (None, false) => "allow_from4",
                (None, true) => "allow_from6",
                (Some(_), false) => "allow_from4_at",
                (Some(_), true) => "allow_from6_at",
            },
            Self::Trusted(..) => "trusted",
            Self::Policy(verdict, passage) => verdict.set(passage),
            Self::Judged(net) => family(&net.network(), "judged4", "judged6"),
            Self::Loose(_) => "loose",
            Self::Mac(..) => "macs",
            Self::Source(.., address) => family(address, "sources4", "sources6"),
            Self::Stale(note) => note.set(),
        }
    }

    /// Whether it is an interval that forbids what would be allowed without it ([`Skeleton::shut`](super::rules::Skeleton)).
    pub(super) fn closes(&self) -> bool {
        matches!(self, Self::Limited(_) | Self::Policy(Verdict::Deny | Verdict::DenyWithin, _))
    }

    /// Whether it stands in a set of keys, not of intervals.
    pub(super) fn has_key(&self) -> bool {
        match self {
            Self::Publish(mapping) => mapping.port.is_some(),
            Self::Subnet(_) | Self::Limited(_) | Self::AllowFrom(..) | Self::Policy(..) | Self::Judged(_) => false,
            _ => true,
        }
    }

    /// Whether its set is in the bridge table.
    pub(super) fn is_bridged(&self) -> bool {
        let within = |verdict: &Verdict| *verdict == Verdict::DenyWithin;
        match self {
            Self::Judged(_) | Self::Loose(_) | Self::Mac(..) | Self::Source(..) => true,
            Self::Policy(verdict, _) => within(verdict),
            _ => false,
        }
    }

    /// The port of whose guard it is a part.
    pub(super) fn guarded(&self) -> Option<&Text> {
        match self {
            Self::Mac(link, _) | Self::Source(link, ..) => Some(link),
            _ => None,
        }
    }

    /// The word in plans.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Link(Role::Bridge, _) => "bridge",
            Self::Link(Role::Masquerade4 | Role::Masquerade6, _) => "masquerade",
            Self::Link(role, _) => role.set(),
            Self::Snat(..) => "snat",
            Self::Subnet(_) => "subnet",
            Self::Publish(_) => "publish",
            Self::Limited(_) => "limited",
            Self::AllowFrom(..) => "allow_from",
            Self::Trusted(..) => "trusted",
            Self::Policy(Verdict::Allow, _) => "allow",
            Self::Policy(Verdict::Deny, _) => "deny",
            Self::Policy(Verdict::DenyWithin, _) => "deny within",
            Self::Judged(_) => "judged within",
            Self::Loose(_) => "loose",
            Self::Mac(..) | Self::Source(..) => "guard",
            Self::Stale(_) => "stale flows",
        }
    }

    /// The element without what its map gives: the same for two that cannot be in it together.
    pub(super) fn key(&self) -> Self {
        let blank = |address: &IpAddr| match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        match self {
            Self::Snat(link, address) => Self::Snat(link.clone(), blank(address)),
            Self::Publish(mapping) => {
                let target = blank(&mapping.target);
                Self::Publish(Mapping { target, port: mapping.port.map(|_| 0), ..*mapping })
            }
            other => other.clone(),
        }
    }

    /// The element in nft's syntax.
    pub fn nft(&self) -> String {
        match self {
            Self::Link(Role::Icc | Role::NoIcc, link) => format!("\"{link}\" . \"{link}\""),
            Self::Link(_, link) | Self::Loose(link) => format!("\"{link}\""),
            Self::Snat(link, address) => format!("\"{link}\" : {address}"),
            Self::Subnet(net) | Self::Judged(net) => net.to_string(),
            Self::Limited(listen) => listen.to_string(),
            Self::AllowFrom(net, listen) => format!("{net} . {listen}"),
            Self::Trusted(link, bridge) => format!("\"{link}\" . \"{bridge}\""),
            Self::Policy(_, passage) => passage.to_string(),
            Self::Mac(link, mac) => format!("\"{link}\" . {mac}"),
            Self::Source(link, mac, address) => format!("\"{link}\" . {mac} . {address}"),
            Self::Publish(Mapping { listen, protocol, ports, target, port }) => {
                let at = listen.map(|address| format!("{address} . ")).unwrap_or_default();
                let port = port.map(|port| format!(" . {port}")).unwrap_or_default();
                format!("{at}{protocol} . {ports} : {target}{port}")
            }
            Self::Stale(Stale::Sent(Sent { protocol, at, ports, to })) => {
                format!("{at} . {protocol} . {} . {} . {to}", ports.first, ports.last)
            }
            Self::Stale(Stale::Begun { ipv6: false }) => "0.0.0.0 . 0 . 0 . 0 . 0.0.0.0".into(),
            Self::Stale(Stale::Begun { ipv6: true }) => ":: . 0 . 0 . 0 . ::".into(),
            Self::Stale(Stale::Forgotten { ipv6: false }) => "0.0.0.0 . 0 . 0 . 0 . 255.255.255.255".into(),
            Self::Stale(Stale::Forgotten { ipv6: true }) => {
                ":: . 0 . 0 . 0 . ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".into()
            }
        }
    }
}

/// As people read it in a plan: `tcp 8080 -> 10.10.0.10:80`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(Role::Masquerade4, link) => write!(f, "{link} (IPv4)"),
            Self::Link(Role::Masquerade6, link) => write!(f, "{link} (IPv6)"),
            Self::Link(_, link) | Self::Loose(link) => f.write_str(link),
            Self::Snat(link, address) => write!(f, "{link} -> {address}"),
            Self::Subnet(net) | Self::Judged(net) => net.fmt(f),
            Self::Limited(listen) => listen.fmt(f),
            Self::AllowFrom(net, listen) => write!(f, "{net} to {listen}"),
            Self::Trusted(link, bridge) => write!(f, "{link} to {bridge}"),
            Self::Policy(_, passage) => passage.fmt(f),
            Self::Mac(_, mac) => mac.fmt(f),
            Self::Source(.., address) => address.fmt(f),
            Self::Stale(note) => note.fmt(f),
            Self::Publish(Mapping { listen, protocol, ports, target, port }) => {
                write!(f, "{protocol} ")?;
                match listen {
                    Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
                    Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
                    None => {}
                }
                let answered = port.map_or(*ports, |port| Ports { first: port, last: port });
                match target {
                    IpAddr::V4(target) => write!(f, "{ports} -> {target}:{answered}"),
                    IpAddr::V6(target) => write!(f, "{ports} -> [{target}]:{answered}"),
                }
            }
        }
    }
}
