//! Static routes of endpoints.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::{Checking, Once, family};
use crate::model::diagnostic::Diagnostic;
use crate::model::kinds::route::Route;
use crate::model::topology::{Endpoint, Item, Network, StaticRoute};

impl Checking<'_> {
    pub(super) fn routes(&mut self) {
        let mut once = Once::new();
        for (name, item) in &self.topology.endpoints {
            let network = self.network_of(item).map(|(_, network)| network);
            for route in &item.routes {
                let (to, span) = (**route.to.get_ref(), item.span(&route.to));
                if !self.host_bits(&to, span) {
                    continue;
                }
                self.destination(&to, item, route, network);
                let metric = route.metric.as_ref().map_or(Route::default_metric(&to), |metric| *metric.get_ref());
                let key = (item.container.get_ref(), to, metric);
                if let Some(first) = once.claim(key, span) {
                    let finding = Diagnostic::at(span, format!("a second route to `{to}` in the same container"));
                    self.say(
                        finding.related(first, "the first").hint("routes of different `metric` can stand side by side"),
                    );
                }
                if let Some(via) = &route.via {
                    self.next_hop((name, item), route, via, network);
                }
            }
        }
    }

    fn destination(&mut self, to: &IpNet, item: &Item<Endpoint>, route: &StaticRoute, network: Option<&Item<Network>>) {
        let span = item.span(&route.to);
        let Some(network) = network else { return };
        if to.prefix_len() == 0 && !network.is_internal() {
            let finding = Diagnostic::at(span, "the default route is not a static one");
            self.say(
                finding.hint("the endpoint with the highest `gateway_priority` has it; its next hop is in `gateways`"),
            );
        }
        if to.addr().is_multicast() || to.addr().is_loopback() {
            self.say(Diagnostic::at(span, format!("`{to}` is not routed through an endpoint")));
        }
        if !item.has_family(network, to.addr().is_ipv6()) {
            let finding = Diagnostic::at(span, format!("`{to}` leads nowhere"));
            let label = format!("no {} address to go there from", family(to.addr().is_ipv6()));
            self.say(finding.label(label).related(item.name, "the endpoint").hint("leave the route out"));
        }
        if let Some(own) = network.subnets.iter().flatten().find(|net| **net.get_ref() == *to) {
            let finding = Diagnostic::at(span, format!("`{to}` is the endpoint's own subnet"));
            self.say(finding.related(network.span(own), "reached without a route").hint("leave the route out"));
        }
    }

    fn next_hop(
        &mut self,
        (name, item): (&str, &Item<Endpoint>),
        route: &StaticRoute,
        via: &Spanned<IpAddr>,
        network: Option<&Item<Network>>,
    ) {
        let (to, address, span) = (**route.to.get_ref(), *via.get_ref(), item.span(via));
        if address.is_ipv6() != to.addr().is_ipv6() {
            let finding = Diagnostic::at(span, format!("`{address}` and `{to}` are of different families"));
            self.say(finding.related(item.span(&route.to), "the destination"));
            return;
        }
        if item.addresses.iter().any(|own| *own.get_ref() == address) {
            self.say(
                Diagnostic::at(span, format!("`{address}` is the endpoint itself"))
                    .hint("the next hop is another host"),
            );
        }
        let Some(network) = network.filter(|network| network.subnets.is_some()) else { return };
        if network.subnet_of(address).is_none() {
            let finding = Diagnostic::at(span, format!("`{address}` is in no subnet of `{name}`"));
            self.say(finding.label("not reached directly").hint("a next hop is in one of the endpoint's subnets"));
        }
    }
}
