//! What a topology asks of its firewall, in the words of networks and published ports, and how that becomes elements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Element, Firewall, Listen, Mapping, Role};
use crate::model::resource::Text;
use crate::model::values::{Mac, Ports, Protocol};

/// What the rules must know of a network.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own in the file, and a set of its own")]
pub struct NetworkRules {
    /// Name of its bridge, ours or an external one; 1 to 15 bytes, no two networks with the same.
    pub bridge: Text,
    /// Its subnets in both families, none overlapping another of any network; host bits are ignored.
    pub subnets: Vec<IpNet>,
    /// Nothing is forwarded in or out; `ipv4` and `ipv6` are then ignored.
    pub internal: bool,
    /// Source address of IPv4 on the way out.
    pub ipv4: SourceNat<Ipv4Addr>,
    /// Source address of IPv6 on the way out.
    pub ipv6: SourceNat<Ipv6Addr>,
    /// Whether two subnets of the network reach each other through the host; ports of its bridge are the bridge's own.
    pub icc: bool,
    /// No port filter: whoever has a route to the subnets reaches every port. Does not lift `internal` or `icc = false`.
    pub open: bool,
    /// Containers reach services of the host. The host reaches its containers, and they may ping it, in any case.
    pub host_access: bool,
    /// Links of the host from which every port is reached. Does not lift `internal` or `icc = false`.
    pub trusted: Vec<Text>,
}

/// An endpoint that sends as itself only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    /// Its link on the host's side, a port of a bridge.
    pub link: Text,
    /// Its hardware address.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What happens to the source address of what leaves the host.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SourceNat<A> {
    /// Nothing: routed mode.
    #[default]
    Keep,
    /// It becomes the address of the link it leaves by.
    Masquerade,
    /// It becomes this one, which should be an address of the host.
    Fixed(A),
}

/// A published port or range, its blanks filled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// Where the host listens; none: every address of the host in the family of `target`. Must be of that family, for
    /// the kernel translates no other way; never `::1`, which it cannot map. No two of the same address, protocol and port.
    pub listen: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// Ports of the host.
    pub ports: Ports,
    /// Address of the endpoint.
    pub target: IpAddr,
    /// The endpoint's port that answers for the first of `ports`; the others follow.
    pub first: u16,
    /// Who may reach it besides the host itself, none of them in another; nothing: everybody.
    pub allow_from: Option<Vec<IpNet>>,
}

impl Firewall {
    /// The firewall of a topology.
    pub fn new(topology: &str, networks: &[NetworkRules], publications: &[Publication]) -> Self {
        // In the order of what most of them become, as for those of guards.
        let mut sorted: Vec<&Publication> = publications.iter().collect();
        sorted.sort_by_key(|it| (it.protocol, it.ports));
        let published = sorted.into_iter().flat_map(Publication::elements);
        let elements = networks.iter().flat_map(NetworkRules::elements).chain(published).collect();
        Self::holding(Self::table_name(topology).into(), elements)
    }

    /// With more elements: of [`Guard`]s, and of [`policies`](super::policies()).
    #[must_use]
    pub fn with(self, more: impl IntoIterator<Item = Element>) -> Self {
        Self::holding(self.table, self.elements.into_iter().chain(more).collect())
    }
}

impl Guard {
    /// What the rules must know of some of them, in order: tens of thousands are then not sorted one by one, but merged
    /// into all others.
    pub fn elements(mut guards: Vec<Self>) -> Vec<Element> {
        guards.sort_by(|one, other| one.link.cmp(&other.link));
        let sources: usize = guards.iter().map(|guard| guard.addresses.len() + 1).sum();
        let mut elements = Vec::with_capacity(guards.len() + sources);
        elements.extend(guards.iter().map(|guard| Element::Mac(guard.link.clone(), guard.mac)));
        elements.extend(guards.iter().flat_map(Self::sources));
        elements
    }

    /// What it may send from: an endpoint with IPv6 may also have the link-local address that Linux makes of its hardware
    /// address (`addr_gen_mode eui64`), but no other one.
    fn sources(&self) -> impl Iterator<Item = Element> {
        let ipv6 = self.addresses.iter().any(IpAddr::is_ipv6);
        let link_local = ipv6.then(|| self.mac.link_local().into());
        let addresses = self.addresses.iter().copied().chain(link_local);
        addresses.map(|address| Element::Source(self.link.clone(), self.mac, address))
    }
}

impl NetworkRules {
    /// Those of a network of which a topology says nothing but its subnets: out by masquerade, in by published ports only.
    pub fn new(bridge: impl Into<Text>, subnets: Vec<IpNet>) -> Self {
        Self {
            bridge: bridge.into(),
            subnets,
            internal: false,
            ipv4: SourceNat::Masquerade,
            ipv6: SourceNat::Masquerade,
            icc: true,
            open: false,
            host_access: false,
            trusted: Vec::new(),
        }
    }

    fn elements(&self) -> Vec<Element> {
        let mut elements = Vec::new();
        let mut role = |wanted: bool, role| wanted.then(|| elements.push(Element::Link(role, self.bridge.clone())));
        role(true, Role::Bridge);
        role(self.internal, Role::Internal);
        role(self.open, Role::Open);
        role(self.host_access, Role::HostAccess);
        role(self.icc, Role::Icc);
        role(!self.icc, Role::NoIcc);
        role(!self.internal && self.ipv4 == SourceNat::Masquerade, Role::Masquerade4);
        role(!self.internal && self.ipv6 == SourceNat::Masquerade, Role::Masquerade6);
        elements.extend(self.trusted.iter().map(|link| Element::Trusted(link.clone(), self.bridge.clone())));
        elements.extend(self.subnets.iter().map(|net| Element::Subnet(net.trunc())));
        if self.internal {
            return elements;
        }
        let bridge = || self.bridge.clone();
        if let SourceNat::Fixed(address) = self.ipv4 {
            elements.push(Element::Snat(bridge(), address.into()));
        }
        if let SourceNat::Fixed(address) = self.ipv6 {
            elements.push(Element::Snat(bridge(), address.into()));
        }
        elements
    }
}

impl Publication {
    /// A range of equal ports is one interval; of others the kernel is told each.
    fn elements(&self) -> impl Iterator<Item = Element> + use<> {
        let Self { listen, protocol, ports, target, first, .. } = *self;
        let possible = listen.is_none_or(|listen| listen.is_ipv4() == target.is_ipv4());
        let whole = ports.count() > 1 && first == ports.first;
        let range = whole.then_some(Mapping { listen, protocol, ports, target, port: None });
        let singly = (ports.first..=ports.last).filter(move |_| !whole).filter_map(move |port| {
            let answering = first.checked_add(port - ports.first)?;
            let ports = Ports { first: port, last: port };
            Some(Mapping { listen, protocol, ports, target, port: Some(answering) })
        });
        let at = Listen { address: listen, ipv6: target.is_ipv6(), protocol, ports };
        let limited = self.allow_from.as_ref().map(|_| Element::Limited(at));
        let own_family = move |net: &&IpNet| net.addr().is_ipv6() == at.ipv6;
        let allowed: Vec<Element> =
            self.allow_from.iter().flatten().filter(own_family).map(|net| Element::AllowFrom(*net, at)).collect();
        let mapped = range.into_iter().chain(singly).map(Element::Publish);
        mapped.chain(limited).chain(allowed).filter(move |_| possible)
    }
}
