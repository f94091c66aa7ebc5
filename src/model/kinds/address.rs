//! An address on one of our links (ip-address(8)).
//!
//! Its mark is `IFA_PROTO`, which also says whether there may be a rule for its replies ([`RULED`]): where no address says
//! so, nobody has to look for rules. It stays when the rules go; one too many costs a question. IPv6 ones are `nodad`: netrec
//! knows who has what, and a tentative address refuses to be bound for 1.6 seconds.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use smallvec::smallvec;

use super::route::{MAIN, Route};
use crate::model::links::route_message;
use crate::model::resource::{Few, FieldChange, Kind, KindName, Need, Op, ResourceId, Text, Thing, Wire, text};
use crate::model::wire::{
    AddressFacts, Body, Facts, Lookup, Message, Missing, NetnsFacts, Owner, PROTOCOL, Place, RULED, RouteFacts,
};

/// `IFA_F_SECONDARY` (`linux/if_addr.h`).
const SECONDARY: u32 = 1;

/// `IP6_RT_PRIO_ADDRCONF` (`net/ip6_route.h`): the metric of IPv6 routes that come with an address.
const METRIC: u32 = 256;

/// An address that netrec gave to a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// Namespace of the link.
    pub netns: Text,
    /// The link.
    pub link: Text,
    /// Address and prefix length of its subnet.
    pub address: IpNet,
    /// Whether it lives by the grace of another IPv4 address of its subnet, as the kernel says; not asked for, and so
    /// not compared.
    pub secondary: bool,
    /// Whether its subnet is routed, which Linux sees to when the address comes, and not afterwards. Somebody's own route
    /// there is as good, and one of several addresses in the subnet sees to it.
    pub routed: bool,
    /// Whether there may be a [rule](super::rule::Rule) for its replies.
    pub ruled: bool,
}

impl Address {
    /// An address to be on a link.
    pub fn new(netns: &Text, link: &Text, address: IpNet) -> Self {
        Self { netns: netns.clone(), link: link.clone(), address, secondary: false, routed: true, ruled: false }
    }

    fn message(&self, index: u32) -> AddressMessage {
        let ip = self.address.addr();
        let mut message = AddressMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = self.address.prefix_len();
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(ip),
            AddressAttribute::Address(ip),
            AddressAttribute::Protocol(AddressProtocol::Other(if self.ruled { RULED } else { PROTOCOL })),
        ];
        match self.address {
            // RFC 3021: a /31 has no broadcast address, and neither has a host's own /32.
            IpNet::V4(net) if net.prefix_len() < 31 => {
                message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
            }
            IpNet::V4(_) => {}
            IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
        }
        message
    }

    fn observed(netns: &Text, inside: &NetnsFacts, owner: &Owner) -> Vec<Self> {
        let observed = |facts: &AddressFacts| {
            let link = inside.link(facts.link).filter(|link| facts.is_ours() && owner.owns(link))?;
            let secondary = facts.address.addr().is_ipv4() && facts.flags & SECONDARY != 0;
            let net = facts.address.trunc();
            let of_subnet = |it: &&AddressFacts| it.link == facts.link && it.is_ours() && it.address.trunc() == net;
            let first = inside.addresses.iter().find(of_subnet).is_some_and(|first| std::ptr::eq(first, facts));
            // A link that is down has no routes, and one of a VRF has them elsewhere.
            let elsewhere = !link.up || link.master.is_some() || secondary || !first;
            let to_subnet = |route: &RouteFacts| route.table == MAIN && route.destination == net;
            let routed = elsewhere || is_alone(facts.address) || inside.routes.iter().any(to_subnet);
            Some(Self {
                secondary,
                routed,
                ruled: facts.protocol == RULED,
                ..Self::new(netns, &link.name, facts.address)
            })
        };
        inside.addresses.iter().filter_map(observed).collect()
    }

    /// The route to its subnet as Linux makes it (`fib_add_ifaddr`, `addrconf_prefix_route`), so that it goes with the
    /// address.
    fn route(&self, index: u32) -> Message {
        let ip = self.address.addr();
        let like_ours = Route {
            netns: self.netns.clone(),
            table: MAIN,
            destination: self.address.trunc(),
            metric: if ip.is_ipv6() { METRIC } else { 0 },
            via: None,
            link: self.link.clone(),
            source: Some(ip).filter(IpAddr::is_ipv4),
        };
        let mut message = like_ours.message(index);
        message.header.protocol = RouteProtocol::Kernel;
        route_message(&self.netns, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_APPEND)
    }

    fn index(&self, lookup: &mut dyn Lookup) -> Result<u32, Missing> {
        lookup.index(&self.netns, &self.link).ok_or_else(|| Missing(format!("link {} in {}", self.link, self.netns)))
    }
}

impl Kind for Address {
    fn id(&self) -> ResourceId {
        let (ip, length) = (self.address.addr(), self.address.prefix_len());
        ResourceId::new(&self.netns, KindName::Address, text(format_args!("{}:{ip}/{length}", self.link)))
    }

    fn needs(&self) -> Few<Need> {
        let mut needs = smallvec![Need::Inside(Thing::Link(self.netns.clone(), self.link.clone()))];
        if let (IpNet::V4(net), true) = (self.address, self.secondary) {
            needs.push(Need::Upon(Thing::Primary(self.netns.clone(), self.link.clone(), net.trunc())));
        }
        if self.address.addr().is_ipv6() {
            needs.push(Need::After(Thing::Ipv6(self.netns.clone(), self.link.clone())));
        }
        needs
    }

    fn provides(&self) -> Few<Thing> {
        let ip = self.address.addr();
        let mut things = smallvec![Thing::OnLink(self.netns.clone(), self.link.clone(), ip.is_ipv6())];
        if !is_link_local(ip) {
            things.push(Thing::Address(ip));
        }
        if let (IpNet::V4(net), false) = (self.address, self.secondary) {
            things.push(Thing::Primary(self.netns.clone(), self.link.clone(), net.trunc()));
        }
        things
    }

    fn changes(&self, observed: &Self) -> Vec<FieldChange> {
        let lost = || FieldChange::in_place("route", "none", self.address.trunc());
        let unsaid = || FieldChange::in_place("proto", PROTOCOL, RULED);
        let lost = (self.routed && !observed.routed).then(lost);
        lost.into_iter().chain((self.ruled && !observed.ruled).then(unsaid)).collect()
    }

    fn settled(&self, is_there: &dyn Fn(&Thing) -> bool) -> Option<Self> {
        let IpNet::V4(net) = self.address else { return None };
        let secondary = is_there(&Thing::Primary(self.netns.clone(), self.link.clone(), net.trunc()));
        (secondary != self.secondary).then(|| Self { secondary, ..self.clone() })
    }

    fn summary(&self) -> String {
        format!("on {}", self.link)
    }
}

/// Whether nobody is reached by the route to its subnet: there is nobody else in it, or every link has that subnet.
fn is_alone(address: IpNet) -> bool {
    address.prefix_len() == address.max_prefix_len() || is_link_local(address.addr())
}

/// Whether an address means something on its link only, so that many links may have it.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

impl Wire for Address {
    fn places(op: &Op<&Self>) -> Few<Place> {
        smallvec![Place::Netns(op.subject().netns.clone())]
    }

    fn encode(op: &Op<&Self>, lookup: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        let it = op.subject();
        let index = it.index(lookup)?;
        let put = || {
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            route_message(&it.netns, RouteNetlinkMessage::NewAddress(it.message(index)), flags)
        };
        Ok(match op {
            Op::Update { from, to } => {
                let said = (to.ruled && !from.ruled).then(put);
                // An IPv6 address that is put again brings its route along (`inet6_addr_modify`).
                let comes = said.is_some() && it.address.addr().is_ipv6();
                let lost = to.routed && !from.routed && !comes;
                said.into_iter().chain(lost.then(|| it.route(index))).collect()
            }
            // On our own link the same address is the same, whoever put it there: it gets our mark.
            Op::Create(_) => vec![put()],
            Op::Delete(_) => {
                let facts = AddressFacts { link: index, address: it.address, protocol: PROTOCOL, flags: 0 };
                vec![Message { place: Place::Netns(it.netns.clone()), body: Body::DeleteAddress(facts) }]
            }
        })
    }

    fn observe(facts: &Facts, owner: &Owner) -> Vec<Self> {
        facts.namespaces.iter().flat_map(|(netns, inside)| Self::observed(netns, inside, owner)).collect()
    }
}
