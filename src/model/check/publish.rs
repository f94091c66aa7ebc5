//! Published ports: where they listen, and that no two listen at the same place.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use smallvec::smallvec;
use toml::Spanned;

use super::{Checking, family};
use crate::model::diagnostic::Diagnostic;
use crate::model::resource::Few;
use crate::model::source::Span;
use crate::model::topology::{Endpoint, Item, Network};
use crate::model::values::{Cidr, Ports, Protocol, Publish};

/// What listens: ports at an address, or at every one of the family.
struct Listener {
    address: Option<IpAddr>,
    ports: Ports,
    span: Span,
}

impl Checking<'_> {
    pub(super) fn publishes(&mut self) {
        for item in self.topology.networks.values() {
            for address in &item.publish_address {
                self.listens_at(*address.get_ref(), item.span(address));
            }
        }
        let mut listeners: BTreeMap<(Protocol, bool), Vec<Listener>> = BTreeMap::new();
        for item in self.topology.endpoints.values() {
            self.allowed(item);
            let (Some((name, of)), Some((first, _))) = (self.network_of(item), item.publishes().next()) else {
                continue;
            };
            if let Some(internal) = of.internal.as_ref().filter(|_| of.is_internal()) {
                let span = item.span(first);
                let finding =
                    Diagnostic::at(span, format!("nothing can be published on the internal network `{name}`"));
                let finding = finding.related(of.span(internal), "no way in or out");
                self.say(finding.hint("publish through an endpoint on another network"));
            }
            for (publish, _) in item.publishes() {
                let span = item.span(publish);
                if let Some(address) = publish.get_ref().address {
                    self.listens_at(address, span);
                }
                for (ipv6, listener) in self.listeners(item, of, publish.get_ref(), span) {
                    listeners.entry((publish.get_ref().protocol, ipv6)).or_default().push(listener);
                }
            }
        }
        for ((protocol, _), mut listeners) in listeners {
            listeners.sort_by_key(|listener| (listener.ports, listener.span));
            self.clashes(protocol, &listeners);
        }
    }

    /// Who may reach what an endpoint publishes.
    fn allowed(&mut self, item: &Item<Endpoint>) {
        for published in &item.published {
            if let Some(nets) = &published.allow_from {
                self.allow_from(nets, item);
            }
        }
    }

    /// A list of those who may reach something.
    pub(super) fn allow_from<T>(&mut self, nets: &[Spanned<Cidr>], item: &Item<T>) {
        for net in nets {
            self.host_bits(net.get_ref(), item.span(net));
        }
    }

    /// Where a publish listens, by family. One that leads nowhere is wrong.
    fn listeners(
        &mut self,
        item: &Item<Endpoint>,
        of: &Network,
        publish: &Publish,
        span: Span,
    ) -> Few<(bool, Listener)> {
        let own: Option<Few<IpAddr>> = publish.address.map(|address| smallvec![address]);
        let addresses = own.unwrap_or_else(|| of.publish_address.iter().map(|address| *address.get_ref()).collect());
        let places: Few<(bool, Option<IpAddr>)> = if addresses.is_empty() {
            smallvec![(false, None), (true, None)]
        } else {
            let one = |address: IpAddr| (address.is_ipv6(), (!address.is_unspecified()).then_some(address));
            addresses.into_iter().map(one).collect()
        };
        let led: Few<_> = places.iter().copied().filter(|(ipv6, _)| item.has_family(of, *ipv6)).collect();
        if let ([], [(ipv6, _), ..]) = (led.as_slice(), places.as_slice()) {
            let what = if places.len() > 1 { "address" } else { family(*ipv6) };
            let finding =
                Diagnostic::at(span, format!("`{publish}` leads nowhere")).label(format!("no {what} to lead to"));
            self.say(finding.related(item.name, "the endpoint").hint("publish at an address of a family that it has"));
        }
        let Some(ports) = publish.host else { return Few::new() };
        led.into_iter().map(|(ipv6, address)| (ipv6, Listener { address, ports, span })).collect()
    }

    fn listens_at(&mut self, address: IpAddr, span: Span) {
        if address == IpAddr::V6(Ipv6Addr::LOCALHOST) {
            let finding = Diagnostic::at(span, "the kernel cannot map `[::1]`");
            let label = "what comes from ::1 never leaves the loopback interface";
            self.say(finding.label(label).hint("publish at `127.0.0.1`, or at another address of the host"));
        } else if !address.is_unspecified() && !address.is_loopback() {
            self.host_address(address, span);
        }
    }

    /// Of listeners sorted by their first port, those that share a port and an address.
    fn clashes(&mut self, protocol: Protocol, listeners: &[Listener]) {
        for (at, listener) in listeners.iter().enumerate() {
            let near = listeners[at + 1..].iter().take_while(|other| other.ports.first <= listener.ports.last);
            let same = |other: &&Listener| match (other.address, listener.address) {
                (Some(one), Some(other)) => one == other,
                _ => true,
            };
            for other in near.filter(same) {
                let (first, second) = (listener.span.min(other.span), listener.span.max(other.span));
                let port = listener.ports.first.max(other.ports.first);
                let finding = Diagnostic::at(second, format!("port {port}/{protocol} is published twice"));
                self.say(finding.label("here too").related(first, "first here").hint("choose another host port"));
            }
        }
    }
}
