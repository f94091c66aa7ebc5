//! Where the routes of the host and of containers lead, as they will be.

use std::cmp::Reverse;
use std::net::IpAddr;

use super::World;
use crate::model::kinds::KindName;
use crate::model::kinds::address::Address;
use crate::model::kinds::route::MAIN;
use crate::model::kinds::veth::Veth;
use crate::model::resource::{HOST, Resource, Text};

/// `RT_TABLE_LOCAL` (linux/rtnetlink.h): addresses of the host, with its loopback net.
const LOCAL: u32 = 255;

/// The next hop.
pub(super) struct Hop {
    /// The link; empty where a route has several.
    pub(super) link: Text,
    /// None: the destination is on the link.
    pub(super) via: Option<IpAddr>,
    /// Source address for who has chosen none.
    pub(super) source: Option<IpAddr>,
}

impl<'a> World<'a> {
    pub(super) fn addresses(&self, netns: &str) -> impl Iterator<Item = &'a Address> + use<'a> {
        let found = self.desired.of_kind(netns, KindName::Address);
        found.filter_map(|it| if let Resource::Address(address) = it { Some(&**address) } else { None })
    }

    /// Whether it is an address of the host.
    pub(super) fn is_local(&self, address: IpAddr) -> bool {
        let routes = self.observed.foreign.routes.iter();
        let mut theirs = routes.filter(|(netns, route)| &**netns == HOST && route.table == LOCAL);
        address.is_loopback()
            || self.addresses(HOST).any(|it| it.address.addr() == address)
            || theirs.any(|(_, route)| route.destination.contains(&address))
    }

    /// The port of a bridge behind which an address is.
    pub(super) fn port(&self, bridge: &Text, address: IpAddr) -> Option<&'a Veth> {
        self.veths().filter(|it| it.bridge.as_ref() == Some(bridge)).find(|veth| {
            self.addresses(&veth.netns).any(|it| veth.ifname.as_ref() == Some(&it.link) && it.address.addr() == address)
        })
    }

    /// The best route: of the tables for this source first, of the main table then; the longest prefix, the lowest metric.
    pub(super) fn route(&self, netns: &str, source: Option<IpAddr>, to: IpAddr) -> Option<Hop> {
        let rules = self.desired.of_kind(netns, KindName::Rule);
        let mut tables: Vec<(u32, u32)> = rules
            .filter_map(|it| if let Resource::Rule(rule) = it { Some(rule) } else { None })
            .filter(|rule| Some(rule.source) == source)
            .map(|rule| (rule.priority, rule.table))
            .collect();
        tables.sort_unstable();
        tables.into_iter().map(|(_, table)| table).chain([MAIN]).find_map(|table| self.best(netns, table, to))
    }

    fn best(&self, netns: &str, table: u32, to: IpAddr) -> Option<Hop> {
        let connected = self.addresses(netns).filter(|it| table == MAIN && it.address.contains(&to)).map(|it| {
            let hop = Hop { link: it.link.clone(), via: None, source: Some(it.address.addr()) };
            ((it.address.prefix_len(), Reverse(0)), hop)
        });
        let routes = self.desired.of_kind(netns, KindName::Route);
        let routes = routes.filter_map(|it| if let Resource::Route(route) = it { Some(route) } else { None });
        let ours = routes.filter(|it| it.table == table && it.destination.contains(&to)).map(|it| {
            let source = it.source.or_else(|| self.source(netns, &it.link, it.via.unwrap_or(to)));
            ((it.destination.prefix_len(), Reverse(it.metric)), Hop { link: it.link.clone(), via: it.via, source })
        });
        let all = self.observed.foreign.routes.iter().filter(|(place, _)| &**place == netns).map(|(_, route)| route);
        let theirs = all.filter(|it| it.table == table && it.destination.contains(&to)).map(|it| {
            let link = it.link.clone().unwrap_or_default();
            let source = self.source(netns, &link, to);
            ((it.destination.prefix_len(), Reverse(it.metric)), Hop { link, via: None, source })
        });
        connected.chain(ours).chain(theirs).max_by_key(|(order, _)| *order).map(|(_, hop)| hop)
    }

    /// The address that a link has for whoever asks `to` by it.
    pub(super) fn source(&self, netns: &str, link: &Text, to: IpAddr) -> Option<IpAddr> {
        let own = self.addresses(netns).filter(|it| it.link == *link && it.address.addr().is_ipv4() == to.is_ipv4());
        // The last of the greatest is taken, and the first address counts.
        let near = own.enumerate().max_by_key(|(at, it)| (it.address.contains(&to), Reverse(*at))).map(|(_, it)| it);
        let all = self.observed.foreign.routes.iter().filter(|(place, _)| &**place == netns).map(|(_, route)| route);
        let theirs =
            all.filter(|it| it.table == LOCAL && it.link.as_ref() == Some(link)).map(|it| it.destination.addr());
        let mut theirs = theirs.filter(|address| address.is_ipv4() == to.is_ipv4());
        near.map(|it| it.address.addr()).or_else(|| theirs.next())
    }
}
