//! Addresses and routes of containers: the default route by priority, the user's static routes, and for containers with
//! several endpoints a table each, so that an answer leaves by the endpoint that was asked.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Lowering, Port};
use crate::model::diagnostic::Diagnostic;
use crate::model::hash::words;
use crate::model::kinds::KindName;
use crate::model::kinds::address::Address;
use crate::model::kinds::route::{MAIN, Route};
use crate::model::kinds::rule::{PRIORITY, Rule};
use crate::model::resource::{Kind, Text};
use crate::model::source::Span;
use crate::model::topology::StaticRoute;

/// Tables of one container at most: the lowest byte of their number.
pub(in crate::model) const TABLES: u32 = 256;

impl Lowering<'_> {
    /// Wants the addresses, routes and rules of every container: in the order of ids, as far as can be, so that they are
    /// hardly sorted any more, and lie in memory as they will be walked over.
    pub(super) fn routes(&mut self, ports: &[Port]) {
        let mut all: Vec<&Port> = ports.iter().collect();
        all.sort_by(|one, other| (&one.netns, one.rank()).cmp(&(&other.netns, other.rank())));
        for ports in all.chunk_by(|one, other| one.netns == other.netns) {
            let defaults = [false, true].map(|ipv6| self.default_route(ports, ipv6));
            let several_ways = ports.len() > 1 || defaults.iter().flatten().any(|default| default.taken);
            for port in ports {
                for address in &port.addresses {
                    let address = Address::new(&port.netns, &port.ifname, *address);
                    self.want(Address { ruled: several_ways, ..address }, port.item.name);
                }
            }
            for port in ports {
                for route in &port.item.routes {
                    let wanted = static_route(port, route, MAIN);
                    self.reached_directly(port, route);
                    self.is_free(port, route, &wanted);
                    self.want(wanted, port.item.span(&route.to));
                }
            }
            for DefaultRoute { port, route, taken } in defaults.into_iter().flatten() {
                if !taken {
                    self.want(route, port.item.name);
                    continue;
                }
                let family = if route.destination.addr().is_ipv6() { "IPv6" } else { "IPv4" };
                self.note(format!(
                    "{} has an {family} default route that is not netrec's: it stays, the one by endpoint `{}` is left out",
                    port.netns, port.name
                ));
            }
            if several_ways {
                self.reply_tables(ports);
            }
        }
    }

    /// A next hop is in a subnet that the endpoint has an address in, which is known for certain only now.
    fn reached_directly(&mut self, port: &Port, route: &StaticRoute) {
        let Some(via) = &route.via else { return };
        if port.addresses.iter().any(|net| net.contains(via.get_ref())) {
            return;
        }
        let subnets: Vec<String> = port.addresses.iter().map(|net| format!("`{}`", net.trunc())).collect();
        let finding =
            Diagnostic::at(port.item.span(via), format!("`{}` is in no subnet of `{}`", via.get_ref(), port.name));
        let finding = finding.label("not reached directly").related(port.item.name, "the endpoint");
        self.invalid.push(finding.hint(format!("it has addresses in {}", subnets.join(", "))));
    }

    /// A static route whose place somebody else's has.
    fn is_free(&mut self, port: &Port, route: &StaticRoute, wanted: &Route) {
        let place = (&wanted.netns, wanted.destination, wanted.table, wanted.metric);
        let mut foreign = self.observed.foreign.routes.iter();
        let theirs = foreign.any(|(netns, it)| (netns, it.destination, it.table, it.metric) == place);
        if theirs && self.ours_named(&wanted.netns, KindName::Route, &wanted.id().name).is_none() {
            let message =
                format!("a route to `{}` exists in `{}` and is not netrec's", wanted.destination, wanted.netns);
            let finding = Diagnostic::at(port.item.span(&route.to), message).label("taken");
            self.refuse(finding.hint("remove it, or give this one another `metric`"));
        }
    }

    /// The default route of a container, if it is netrec's to give.
    fn default_route<'a>(&self, ports: &[&'a Port<'a>], ipv6: bool) -> Option<DefaultRoute<'a>> {
        let way_out = ports.iter().find_map(|port| default_via(port, ipv6, MAIN).map(|route| (port, route)));
        let (port, route) = way_out?;
        // The user's own, through an internal network.
        let mut own = ports.iter().flat_map(|port| port.item.routes.iter().map(|own| static_route(port, own, MAIN)));
        if own.any(|own| own.id() == route.id()) {
            return None;
        }
        let taken = self.has_foreign_default(&port.netns, ipv6)
            && self.ours_named(&port.netns, KindName::Route, &route.id().name).is_none();
        Some(DefaultRoute { port, route, taken })
    }

    fn has_foreign_default(&self, netns: &Text, ipv6: bool) -> bool {
        self.observed.foreign.routes.iter().any(|(of, route)| {
            let default = route.destination.prefix_len() == 0 && route.destination.addr().is_ipv6() == ipv6;
            of == netns && default && route.table == MAIN
        })
    }

    fn reply_tables(&mut self, ports: &[&Port]) {
        let mut used = BTreeSet::new();
        let mut by_name = ports.to_vec();
        by_name.sort_by_key(|port| port.name);
        for port in by_name {
            let hash = words(&[&self.topology.name, "table", port.name]) as u32;
            let free = (0..TABLES)
                .map(|step| self.owner.tables() + (hash.wrapping_add(step) % TABLES))
                .find(|table| used.insert(*table));
            let Some(table) = free else { continue };
            self.reply_table(port, table);
        }
    }

    fn reply_table(&mut self, port: &Port, table: u32) {
        let origin: Span = port.item.name;
        let mut subnets = BTreeSet::new();
        for address in &port.addresses {
            let rule = Rule { netns: port.netns.clone(), source: address.addr(), priority: PRIORITY, table };
            self.want(rule, origin);
            if subnets.insert(address.trunc()) {
                self.want(on_link(port, address.trunc(), table), origin);
            }
        }
        for ipv6 in [false, true] {
            if let Some(route) = default_via(port, ipv6, table) {
                self.want(route, origin);
            }
        }
        for route in &port.item.routes {
            self.want(static_route(port, route, table), port.item.span(&route.to));
        }
    }
}

/// Where a container's packets to everywhere else go.
struct DefaultRoute<'a> {
    port: &'a Port<'a>,
    route: Route,
    /// There is one of somebody else's, so that answers would go their way.
    taken: bool,
}

fn on_link(port: &Port, destination: IpNet, table: u32) -> Route {
    Route {
        netns: port.netns.clone(),
        table,
        destination,
        metric: Route::default_metric(&destination),
        via: None,
        link: port.ifname.clone(),
        source: None,
    }
}

fn default_via(port: &Port, ipv6: bool, table: u32) -> Option<Route> {
    let address = port.address(ipv6).filter(|_| !port.network.internal)?;
    let via = port.network.gateway_of(address)?;
    let all = if ipv6 { IPV6_DEFAULT } else { IPV4_DEFAULT };
    Some(Route { via: Some(via), ..on_link(port, all, table) })
}

const IPV4_DEFAULT: IpNet = IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0));
const IPV6_DEFAULT: IpNet = IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0));

fn static_route(port: &Port, route: &StaticRoute, table: u32) -> Route {
    let destination = **route.to.get_ref();
    Route {
        metric: route.metric.as_ref().map_or(Route::default_metric(&destination), |metric| *metric.get_ref()),
        via: route.via.as_ref().map(|via| *via.get_ref()),
        ..on_link(port, destination, table)
    }
}
