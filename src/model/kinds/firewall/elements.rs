//! What the sets and maps of the skeleton hold: all that differs from one topology to the next. Small typed values,
//! kept sorted; text is made only when somebody reads it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::resource::{FieldChange, Text};
use crate::model::values::{Ports, Protocol};

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

/// One element of one set.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Element {
    /// A bridge in a set of bridges.
    Link(Role, Text),
    /// What leaves that bridge gets that source address.
    Snat(Text, IpAddr),
    /// A subnet of one of our bridges: nothing meant for it may leave another way.
    Subnet(IpNet),
    /// Mapped packets from these sources into that bridge are answered through the host.
    Hairpin(Text, IpNet),
    /// A published port.
    Publish(Mapping),
}

/// Elements of all sets, sorted, none twice.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Elements(Vec<Element>);

impl FromIterator<Element> for Elements {
    fn from_iter<I: IntoIterator<Item = Element>>(elements: I) -> Self {
        let mut sorted: Vec<Element> = elements.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        Self(sorted)
    }
}

impl Elements {
    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Element> {
        self.0.iter()
    }

    /// How many bridges.
    pub fn bridges(&self) -> usize {
        self.0.iter().filter(|element| matches!(element, Element::Link(Role::Bridge, _))).count()
    }

    /// How many published ports and ranges.
    pub fn published(&self) -> usize {
        self.0.iter().filter(|element| matches!(element, Element::Publish(_))).count()
    }

    /// What is here and not in the other, in linear time.
    pub fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Element> {
        let mut others = other.0.iter().peekable();
        self.0.iter().filter(move |element| {
            while others.next_if(|other| other < element).is_some() {}
            others.peek() != Some(element)
        })
    }

    /// The differences from what is there to this, as fields; a target that changed is one of them.
    pub fn changes(&self, observed: &Self) -> Vec<FieldChange> {
        let mut by_key: BTreeMap<Element, (Option<&Element>, Option<&Element>)> = BTreeMap::new();
        for element in observed.without(self) {
            by_key.entry(element.key()).or_default().0 = Some(element);
        }
        for element in self.without(observed) {
            by_key.entry(element.key()).or_default().1 = Some(element);
        }
        let text = |element: Option<&Element>| element.map(ToString::to_string).unwrap_or_default();
        by_key.iter().map(|(key, (from, to))| FieldChange::in_place(key.field(), text(*from), text(*to))).collect()
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
            Self::Hairpin(_, net) => family(&net.network(), "hairpin4", "hairpin6"),
            Self::Publish(Mapping { listen, target, port, .. }) => match (listen, port) {
                (None, Some(_)) => family(target, "publish4", "publish6"),
                (None, None) => family(target, "ranges4", "ranges6"),
                (Some(_), Some(_)) => family(target, "publish4_at", "publish6_at"),
                (Some(_), None) => family(target, "ranges4_at", "ranges6_at"),
            },
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
            Self::Hairpin(..) => "hairpin",
            Self::Publish(_) => "publish",
        }
    }

    /// The element without what its map gives: the same for two that cannot be in it together.
    fn key(&self) -> Self {
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
    pub(super) fn nft(&self) -> String {
        match self {
            Self::Link(Role::Icc | Role::NoIcc, link) => format!("\"{link}\" . \"{link}\""),
            Self::Link(_, link) => format!("\"{link}\""),
            Self::Snat(link, address) => format!("\"{link}\" : {address}"),
            Self::Subnet(net) => net.to_string(),
            Self::Hairpin(link, net) => format!("\"{link}\" . {net}"),
            Self::Publish(Mapping { listen, protocol, ports, target, port }) => {
                let at = listen.map(|address| format!("{address} . ")).unwrap_or_default();
                let port = port.map(|port| format!(" . {port}")).unwrap_or_default();
                format!("{at}{protocol} . {ports} : {target}{port}")
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
            Self::Link(_, link) => f.write_str(link),
            Self::Snat(link, address) => write!(f, "{link} -> {address}"),
            Self::Subnet(net) => net.fmt(f),
            Self::Hairpin(link, net) => write!(f, "{link} from {net}"),
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

