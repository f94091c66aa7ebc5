//! A route through one of our links (ip-route(8)).
//!
//! Its mark is its protocol number, and the kernel itself refuses to delete a route when asked with another one.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use smallvec::smallvec;

use crate::model::links::{NEW, route_message};
use crate::model::resource::{Few, FieldChange, Kind, KindName, Need, Op, ResourceId, Text, Thing, Wire, text};
use crate::model::wire::{Facts, Lookup, Message, Missing, NetnsFacts, Owner, PROTOCOL, Place, RouteFacts};

/// `RT_TABLE_MAIN` and `RTN_UNICAST` (linux/rtnetlink.h).
pub const MAIN: u32 = 254;
const UNICAST: u8 = 1;

/// A route that netrec made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Its namespace.
    pub netns: Text,
    /// Its table: [`MAIN`], or one of the owner's for replies.
    pub table: u32,
    /// Destination; the default route is the net of length 0.
    pub destination: IpNet,
    /// Metric, `RTA_PRIORITY`: part of its identity.
    pub metric: u32,
    /// Next hop; none: the destination is on the link.
    pub via: Option<IpAddr>,
    /// The link.
    pub link: Text,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

impl Route {
    /// The metric that the kernel gives a route that asks for none (`IP6_RT_PRIO_USER` in `net/ip6_fib.h`).
    pub fn default_metric(destination: &IpNet) -> u32 {
        if destination.addr().is_ipv6() { 1024 } else { 0 }
    }

    pub(super) fn message(&self, index: u32) -> RouteMessage {
        let ipv6 = self.destination.addr().is_ipv6();
        let mut message = RouteMessage::default();
        message.header.address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.destination_prefix_length = self.destination.prefix_len();
        message.header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.header.protocol = RouteProtocol::from(PROTOCOL);
        message.header.scope = match self.via {
            None if !ipv6 => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        message.header.kind = RouteType::Unicast;
        message.attributes =
            vec![RouteAttribute::Table(self.table), RouteAttribute::Oif(index), RouteAttribute::Priority(self.metric)];
        if self.destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(self.destination.addr().into()));
        }
        message.attributes.extend(self.via.map(|via| RouteAttribute::Gateway(via.into())));
        message.attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        message
    }

    fn observed(netns: &Text, inside: &NetnsFacts, owner: &Owner) -> Vec<Self> {
        let observed = |route: &RouteFacts| {
            let link = inside.link(route.link?)?;
            let ours = route.protocol == PROTOCOL && route.route_type == UNICAST && owner.owns(link);
            ours.then(|| Self {
                netns: netns.clone(),
                table: route.table,
                destination: route.destination,
                metric: route.metric,
                via: route.gateway,
                link: link.name.clone(),
                source: route.source,
            })
        };
        inside.routes.iter().filter_map(observed).collect()
    }
}

/// A destination as ids name it: one text of each family for all default routes.
fn name(destination: &IpNet) -> Text {
    static DEFAULT: LazyLock<[Text; 2]> = LazyLock::new(|| ["0.0.0.0/0", "::/0"].map(Text::from));
    let ip = destination.addr();
    if destination.prefix_len() == 0 && ip.is_unspecified() {
        return DEFAULT[usize::from(ip.is_ipv6())].clone();
    }
    text(format_args!("{destination}"))
}

impl Kind for Route {
    fn id(&self) -> ResourceId {
        let mut name = name(&self.destination);
        if self.table != MAIN {
            name = text(format_args!("{name}@{:x}", self.table));
        }
        if self.metric != Self::default_metric(&self.destination) {
            name = text(format_args!("{name}:{}", self.metric));
        }
        ResourceId::new(&self.netns, KindName::Route, name)
    }

    fn needs(&self) -> Few<Need> {
        let (netns, link) = (self.netns.clone(), self.link.clone());
        let ipv6 = self.destination.addr().is_ipv6();
        let on_link = Thing::OnLink(netns.clone(), link.clone(), ipv6);
        // With the last IPv4 address of a link go its IPv4 routes (`fib_disable_ip`); IPv6 ones stay, but a next hop
        // that no address reaches is refused when the route is made.
        let family = if ipv6 { Need::After(on_link) } else { Need::Inside(on_link) };
        let mut needs = smallvec![Need::Inside(Thing::Link(netns, link)), family];
        needs.extend(self.source.map(|source| Need::Inside(Thing::Address(source))));
        // Nobody uses a table that no rule leads to, so the rule is there before and after.
        needs.extend((self.table != MAIN).then(|| Need::After(Thing::Table(self.netns.clone(), self.table))));
        needs
    }

    fn provides(&self) -> Few<Thing> {
        Few::new()
    }

    fn changes(&self, observed: &Self) -> Vec<FieldChange> {
        let mut changes = Vec::new();
        let shown = |ip: Option<IpAddr>| ip.map_or_else(String::new, |ip| ip.to_string());
        if self.via != observed.via {
            changes.push(FieldChange::in_place("via", shown(observed.via), shown(self.via)));
        }
        if self.link != observed.link {
            changes.push(FieldChange::in_place("dev", &observed.link, &self.link));
        }
        if self.source != observed.source {
            changes.push(FieldChange::in_place("src", shown(observed.source), shown(self.source)));
        }
        changes
    }

    fn summary(&self) -> String {
        match self.via {
            Some(via) => format!("via {via} on {}", self.link),
            None => format!("on {}", self.link),
        }
    }
}

impl Wire for Route {
    fn places(op: &Op<&Self>) -> Few<Place> {
        smallvec![Place::Netns(op.subject().netns.clone())]
    }

    fn encode(op: &Op<&Self>, lookup: &mut dyn Lookup) -> Result<Vec<Message>, Missing> {
        let it = op.subject();
        let index =
            lookup.index(&it.netns, &it.link).ok_or_else(|| Missing(format!("link {} in {}", it.link, it.netns)))?;
        let message = it.message(index);
        Ok(vec![match op {
            Op::Create(_) => route_message(&it.netns, RouteNetlinkMessage::NewRoute(message), NEW),
            Op::Update { .. } => {
                route_message(&it.netns, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            }
            Op::Delete(_) => route_message(&it.netns, RouteNetlinkMessage::DelRoute(message), 0),
        }])
    }

    fn observe(facts: &Facts, owner: &Owner) -> Vec<Self> {
        facts.namespaces.iter().flat_map(|(netns, inside)| Self::observed(netns, inside, owner)).collect()
    }
}
