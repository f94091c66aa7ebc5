//! Endpoints: what they join, and what they claim there.

use std::net::IpAddr;

use super::{Checking, Once, is};
use crate::model::diagnostic::Diagnostic;
use crate::model::ipam;
use crate::model::lower::TABLES;
use crate::model::numbers::{ByNumber, Numbers};
use crate::model::topology::{Endpoint, Item, Network};

impl Checking<'_> {
    pub(super) fn endpoints(&mut self) {
        let (mut addresses, mut macs, mut ifnames) = (Once::new(), Once::new(), Once::new());
        addresses.reserve(self.topology.endpoints.len());
        for (name, item) in &self.topology.endpoints {
            self.endpoint_values(item);
            if let Some(ifname) = &item.ifname {
                let span = item.span(ifname);
                if let Some(first) = ifnames.claim((item.container.get_ref(), ifname.get_ref()), span) {
                    let message = format!("interface `{}` in `{}`", ifname.get_ref(), item.container.get_ref());
                    self.twice(message, span, first);
                }
            }
            if let Some(mac) = &item.mac {
                let span = item.span(mac);
                if let Some(first) = macs.claim(*mac.get_ref(), span) {
                    self.twice(format!("hardware address `{}`", mac.get_ref()), span, first);
                }
            }
            let Some((network, of)) = self.network_of(item) else { continue };
            if of.has_driver("bridge") {
                self.addresses(item, network, of);
            } else {
                self.nothing_to_give(name, item, of);
            }
            for address in &item.addresses {
                if let Some(first) = addresses.claim(*address.get_ref(), item.span(address)) {
                    self.twice(format!("address `{}`", address.get_ref()), item.span(address), first);
                }
            }
        }
        self.alone();
        self.few_enough();
    }

    /// Each endpoint of a container with several has a routing table of its own.
    fn few_enough(&mut self) {
        let (mut containers, mut counts) = (Numbers::default(), ByNumber::<usize>::default());
        containers.reserve(self.topology.containers.len());
        for item in self.topology.endpoints.values() {
            let count = counts.entry(containers.number(item.container.get_ref().as_str()));
            *count += 1;
            if *count == TABLES as usize + 1 {
                let finding = Diagnostic::at(item.name, format!("more than {TABLES} endpoints of one container"));
                self.say(finding.label("the first too many").hint("give some of them another container"));
            }
        }
    }

    /// What can be said of each of its values by itself.
    pub(super) fn endpoint_values(&mut self, item: &Item<Endpoint>) {
        self.references(item);
        if let Some(ifname) = &item.ifname {
            self.ifname(ifname, item.span(ifname));
        }
        if let Some(mac) = item.mac.as_ref().filter(|mac| !mac.get_ref().is_unicast()) {
            let finding = Diagnostic::at(item.span(mac), format!("`{}` is a group address", mac.get_ref()));
            self.say(finding.hint("the first byte is even, such as `02`, and not all bytes are zero"));
        }
        for alias in &item.aliases {
            let label = |label: &str| {
                let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                (1..=63).contains(&label.len()) && label.bytes().all(good) && !label.starts_with('-')
            };
            if alias.get_ref().len() > 253 || !alias.get_ref().split('.').all(label) {
                let finding = Diagnostic::at(item.span(alias), format!("`{}` is not a host name", alias.get_ref()));
                self.say(finding.hint("labels of letters, digits and `-`, with `.` between them (RFC 1123)"));
            }
        }
    }

    fn references(&mut self, item: &Item<Endpoint>) {
        let (container, network) = (&item.container, &item.network);
        let name = container.get_ref().as_str();
        if self.containers.known(&name).is_none() && !self.broken.has("containers", name) {
            let finding = Diagnostic::at(item.span(container), format!("there is no container `{name}`"));
            self.say(finding.nearest(name, self.topology.containers.keys().map(String::as_str)));
        }
        let name = network.get_ref().as_str();
        if !self.topology.networks.contains_key(name) && !self.broken.has("networks", name) {
            let finding = Diagnostic::at(item.span(network), format!("there is no network `{name}`"));
            self.say(finding.nearest(name, self.topology.networks.keys().map(String::as_str)));
        }
    }

    fn addresses(&mut self, item: &Item<Endpoint>, network: &str, of: &Item<Network>) {
        for address in &item.addresses {
            let (span, address) = (item.span(address), *address.get_ref());
            let (key, flag) = if address.is_ipv6() { ("ipv6", &item.ipv6) } else { ("ipv4", &item.ipv4) };
            if let Some(flag) = flag.as_ref().filter(|flag| !*flag.get_ref()) {
                let finding = Diagnostic::at(span, format!("`{address}` contradicts `{key} = false`"));
                self.say(
                    finding.related(item.span(flag), "no address of this family").hint("leave one of the two out"),
                );
            }
            let Some(net) = of.subnet_of(address) else {
                self.no_subnet(&address, network, of, span);
                continue;
            };
            if !self.usable(&net, address, span) {
                continue;
            }
            let given = of.gateways.iter().find(|gateway| net.contains(gateway.get_ref()));
            let addressed = is(of.host_address.as_ref(), true) && !of.is_external();
            let gateway: Option<IpAddr> =
                given.map(|gateway| *gateway.get_ref()).or_else(|| addressed.then(|| ipam::first(&net)));
            if gateway == Some(address) {
                let place = given.map_or(of.name, |gateway| of.span(gateway));
                let label = if given.is_some() { "here" } else { "by default the first address of a subnet" };
                let finding = Diagnostic::at(span, format!("`{address}` is the gateway of `{network}`"));
                self.say(finding.related(place, label).hint("choose another address, or another one in `gateways`"));
            }
        }
    }

    /// On networks without links there is nothing to configure.
    fn nothing_to_give(&mut self, name: &str, item: &Item<Endpoint>, of: &Item<Network>) {
        let keys = [
            ("addresses", item.addresses.first().map(|it| item.span(it))),
            ("ipv4", item.ipv4.as_ref().map(|it| item.span(it))),
            ("ipv6", item.ipv6.as_ref().map(|it| item.span(it))),
            ("mac", item.mac.as_ref().map(|it| item.span(it))),
            ("ifname", item.ifname.as_ref().map(|it| item.span(it))),
            ("gateway_priority", item.gateway_priority.as_ref().map(|it| item.span(it))),
            ("publish", item.publish.first().map(|it| item.span(it))),
            ("published", item.published.first().map(|it| item.span(&it.publish))),
            ("anti_spoofing", item.anti_spoofing.as_ref().map(|it| item.span(it))),
            ("routes", item.routes.first().map(|it| item.span(&it.to))),
        ];
        for (key, span) in keys.into_iter().filter_map(|(key, span)| Some((key, span?))) {
            let message = format!("`{key}` means nothing for `{name}`");
            let label = format!("driver `{}` makes no interface", of.driver.get_ref());
            self.say(Diagnostic::at(span, message).related(of.span(&of.driver), label).hint("leave it out"));
        }
    }
}
