//! From elements back to what the user wrote. Which policy an element is of is asked of the packet: policies are cut so
//! that none overlaps another, and the first that matches it is the one.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::World;
use crate::model::kinds::KindName;
use crate::model::kinds::firewall::{Element, Listen, Mapping, Packet, Role, Service};
use crate::model::resource::{HOST, Resource, ResourceId};
use crate::model::source::Span;
use crate::model::topology::{Endpoint, Item, Network, Peer};
use crate::model::values::Protocol;

/// A key of the topology.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    /// Such as `networks.lan.icc` or `policies[2]`; places in a list count from 0.
    pub path: String,
    /// Where it stands, or what it would stand in, for it may be left to its default.
    pub span: Span,
}

impl<'a> World<'a> {
    /// Where in the topology an element that judged a packet comes from.
    pub(super) fn key(&self, element: &Element, packet: &Packet) -> Option<Key> {
        match element {
            Element::Link(role, bridge) => self.role_key(*role, bridge),
            Element::Snat(bridge, _) => {
                self.network_key(bridge, "snat", |it| it.snat.first().map(|value| it.span(value)))
            }
            Element::Trusted(_, bridge) => self.network_key(bridge, "trusted_interfaces", |it| {
                it.trusted_interfaces.first().map(|value| it.span(value))
            }),
            Element::Subnet(net) | Element::Judged(net) => self.topology.networks.iter().find_map(|(name, item)| {
                let own = item.subnets.iter().flatten().find(|own| own.get_ref().trunc() == *net)?;
                Some(Key { path: format!("networks.{name}.subnets"), span: item.span(own) })
            }),
            Element::Publish(mapping) => self.publish_key(mapping).map(|(_, _, key)| key),
            Element::Limited(listen) | Element::AllowFrom(_, listen) => self.allow_from_key(listen),
            Element::Policy(..) => self.policy_key(packet),
            Element::Loose(link) => self.endpoint_key(link, ".anti_spoofing"),
            Element::Mac(link, _) | Element::Source(link, ..) => self.endpoint_key(link, ""),
            Element::Stale(_) => None,
        }
    }

    /// Where it is said that ports of a bridge are isolated.
    pub(super) fn isolation_key(&self, bridge: &str) -> Option<Key> {
        self.role_key(Role::NoIcc, bridge)
    }

    fn role_key(&self, role: Role, bridge: &str) -> Option<Key> {
        let flag = |it: &Item<Network>, flag: Option<&Spanned<bool>>| flag.map(|flag| it.span(flag));
        match role {
            Role::Bridge => self.network_key(bridge, "", |_| None),
            Role::Internal => self.network_key(bridge, "internal", |it| flag(it, it.internal.as_ref())),
            Role::Open => self.network_key(bridge, "open", |it| flag(it, it.open.as_ref())),
            Role::HostAccess => self.network_key(bridge, "host_access", |it| flag(it, it.host_access.as_ref())),
            Role::Icc | Role::NoIcc => self.network_key(bridge, "icc", |it| flag(it, it.icc.as_ref())),
            Role::Masquerade4 | Role::Masquerade6 => {
                self.network_key(bridge, "masquerade", |it| flag(it, it.masquerade.as_ref()))
            }
        }
    }

    fn network_key(&self, bridge: &str, field: &str, at: impl Fn(&Item<Network>) -> Option<Span>) -> Option<Key> {
        let (name, item) = self.network_of(bridge)?;
        let dot = if field.is_empty() { "" } else { "." };
        Some(Key { path: format!("networks.{name}{dot}{field}"), span: at(item).unwrap_or(item.name) })
    }

    /// The network whose bridge it is.
    fn network_of(&self, bridge: &str) -> Option<(&'a str, &'a Item<Network>)> {
        let ours = match self.desired.get(&ResourceId::new(&HOST.into(), KindName::Bridge, bridge)) {
            Some(Resource::Bridge(bridge)) => self.topology.networks.get_key_value(&*bridge.label.name),
            _ => None,
        };
        let named = |item: &Item<Network>| {
            item.bridge.as_ref().and_then(|it| it.get_ref().name.as_ref()).is_some_and(|it| it.get_ref() == bridge)
        };
        let found = ours.or_else(|| self.topology.networks.iter().find(|(_, item)| named(item)))?;
        Some((found.0.as_str(), found.1))
    }

    fn endpoint_key(&self, link: &str, field: &str) -> Option<Key> {
        let veth = self.veths().find(|it| *it.name == *link)?;
        let (name, item) = self.topology.endpoints.get_key_value(&*veth.label.name)?;
        let flag = item.anti_spoofing.as_ref().filter(|_| !field.is_empty());
        Some(Key { path: format!("endpoints.{name}{field}"), span: flag.map_or(item.name, |flag| item.span(flag)) })
    }

    /// The endpoint that has an address.
    fn endpoint_at(&self, address: IpAddr) -> Option<(&'a str, &'a Item<Endpoint>)> {
        let veth = self.veths().find(|veth| {
            veth.bridge
                .as_ref()
                .is_some_and(|bridge| self.port(bridge, address).is_some_and(|port| port.name == veth.name))
        })?;
        self.topology.endpoints.get_key_value(&*veth.label.name).map(|(name, item)| (name.as_str(), item))
    }

    /// Of an endpoint's published ports the one that leads to its port from the host's, if that is known.
    fn publish_of(
        (name, item): (&'a str, &'a Item<Endpoint>),
        service: (Protocol, u16),
        host: Option<u16>,
    ) -> Option<(usize, &'a Item<Endpoint>, Key)> {
        let (protocol, port) = service;
        let at = item.publishes().position(|(publish, _)| {
            let (it, within) = (publish.get_ref(), |first: u16, last: u16, port: u16| (first..=last).contains(&port));
            let same_host = host.zip(it.host).is_none_or(|(port, ports)| within(ports.first, ports.last, port));
            it.protocol == protocol && within(it.container.first, it.container.last, port) && same_host
        })?;
        let (publish, _) = item.publishes().nth(at)?;
        let path = match at.checked_sub(item.publish.len()) {
            None => format!("endpoints.{name}.publish[{at}]"),
            Some(at) => format!("endpoints.{name}.published[{at}]"),
        };
        Some((at, item, Key { path, span: item.span(publish) }))
    }

    fn publish_key(&self, mapping: &Mapping) -> Option<(usize, &'a Item<Endpoint>, Key)> {
        let port = mapping.port.unwrap_or(mapping.ports.first);
        let host = Some(mapping.ports.first);
        Self::publish_of(self.endpoint_at(mapping.target)?, (mapping.protocol, port), host)
    }

    fn allow_from_key(&self, listen: &Listen) -> Option<Key> {
        let (firewall, _) = self.firewall.as_ref()?;
        let mapping = firewall.elements.iter().find_map(|element| match element {
            Element::Publish(it) => {
                let same = it.listen == listen.address && it.protocol == listen.protocol;
                (same && it.target.is_ipv6() == listen.ipv6 && it.ports.overlaps(listen.ports)).then_some(it)
            }
            _ => None,
        })?;
        let (at, item, key) = self.publish_key(mapping)?;
        let own = item.publishes().nth(at).and_then(|(_, own)| own);
        if own.is_some() {
            return Some(Key { path: key.path + ".allow_from", ..key });
        }
        let network = item.network.get_ref();
        let of_network = self.topology.networks.get(network)?;
        let span = of_network.allow_from.iter().flatten().next().map_or(of_network.name, |net| of_network.span(net));
        Some(Key { path: format!("networks.{network}.allow_from"), span })
    }

    fn policy_key(&self, packet: &Packet) -> Option<Key> {
        let (from, to, service) = (packet.source(), packet.destination(), packet.service());
        let of = |peer: Option<&Spanned<Peer>>, address| peer.is_none_or(|peer| self.is_of(peer.get_ref(), address));
        let first = self.topology.policies.iter().position(|policy| {
            let named = |protocol, port| {
                policy
                    .ports
                    .iter()
                    .map(Spanned::get_ref)
                    .any(|it| it.protocol == protocol && (it.ports.first..=it.ports.last).contains(&port))
            };
            let asked = match service {
                _ if policy.ports.is_empty() => true,
                Service::Port(protocol, port) => named(protocol, port),
                Service::Echo => false,
            };
            asked && of(policy.from.as_ref(), from) && of(policy.to.as_ref(), to)
        });
        if let Some(at) = first {
            return Some(Key { path: format!("policies[{at}]"), span: self.topology.policies[at].name });
        }
        // A published port of a routed network is a policy behind the user's.
        let Service::Port(protocol, port) = service else { return None };
        Self::publish_of(self.endpoint_at(to)?, (protocol, port), None).map(|(_, _, key)| key)
    }

    fn is_of(&self, peer: &Peer, address: IpAddr) -> bool {
        if let Some(endpoint) = &peer.endpoint {
            return self.endpoint_at(address).is_some_and(|(name, _)| name == endpoint.get_ref());
        }
        if let Some(network) = &peer.network {
            return self.subnets(network.get_ref()).iter().any(|net| net.contains(&address));
        }
        peer.cidr.as_ref().is_some_and(|net| net.get_ref().contains(&address))
    }

    /// The subnets of a network: those it names, or those that its bridge and its endpoints have addresses of.
    fn subnets(&self, network: &str) -> Vec<IpNet> {
        if let Some(subnets) = self.topology.networks.get(network).and_then(|item| item.subnets.as_ref()) {
            return subnets.iter().map(|net| **net.get_ref()).collect();
        }
        let of_bridge = |link: &str| self.network_of(link).is_some_and(|(name, _)| name == network);
        let bridges = self.addresses(HOST).filter(|it| of_bridge(&it.link)).map(|it| it.address.trunc());
        let ports = self.veths().filter(|veth| veth.bridge.as_ref().is_some_and(|bridge| of_bridge(bridge)));
        let inside = ports.flat_map(|veth| {
            let own = self.addresses(&veth.netns).filter(|it| veth.ifname.as_ref() == Some(&it.link));
            own.map(|it| it.address.trunc())
        });
        bridges.chain(inside).collect()
    }
}
