//! Settings under `/proc/sys/net`: what the topology needs of them is a change like any other, shown before it is made.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Lowering, NetworkPlan, Port, bridge_name};
use crate::model::kinds::KindName;
use crate::model::kinds::sysctl::{IPV4_FORWARD, Sysctl};
use crate::model::resource::{Resource, ResourceId, Text, host};
use crate::model::source::Span;
use crate::model::state::State;
use crate::model::topology::Topology;

const IPV6_FORWARD: &str = "net.ipv6.conf.all.forwarding";

/// `br_netfilter`: whether bridged packets, IPv4 and IPv6, meet the rules that are meant for routed ones. Read only.
const BRIDGED: [&str; 2] = ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"];

/// All settings that lowering may ask for, to be read beforehand; those of uplinks are read wherever a router
/// advertisement gave the default route, and so is whether links are born without IPv6.
pub(super) fn all(topology: &Topology) -> Vec<(Text, Text)> {
    let bridges = topology.networks.iter().map(|(name, network)| {
        let own = network.bridge.as_ref().and_then(|options| options.get_ref().name.as_ref());
        own.map_or_else(|| bridge_name(&topology.name, name), |own| own.get_ref().as_str().into())
    });
    let global = [IPV4_FORWARD, IPV6_FORWARD].into_iter().chain(BRIDGED).map(Text::from);
    global.chain(bridges.map(|bridge| route_localnet(&bridge))).map(|key| (host(), key)).collect()
}

/// Lets packets to 127.0.0.0/8 be routed through the link: what a port published to the host's loopback needs.
pub fn route_localnet(link: &str) -> Text {
    format!("net.ipv4.conf.{}.route_localnet", link.replace('.', "/")).into()
}

/// Whether a port is published so that 127.0.0.1 leads to it: there, or on every IPv4 address of the host.
fn on_loopback(port: &Port) -> bool {
    let publishes = port.item.publishes().map(|(publish, _)| publish.get_ref());
    let mut listens = publishes.flat_map(|publish| super::publish::listens(port.network, publish));
    let answers = |(ipv6, at): (bool, Option<IpAddr>)| !ipv6 && at.is_none_or(|address| address.is_loopback());
    port.address(false).is_some() && listens.any(answers)
}

fn accept_ra(link: &str) -> Text {
    format!("net.ipv6.conf.{}.accept_ra", link.replace('.', "/")).into()
}

/// Whether bridged packets of each family meet the rules that are meant for routed ones.
pub(super) fn bridged(ours: &State) -> [bool; 2] {
    BRIDGED.map(|key| {
        let setting = ours.get(&ResourceId::new(&host(), KindName::Sysctl, key));
        matches!(setting, Some(Resource::Sysctl(setting)) if &*setting.value == "1")
    })
}

impl Lowering<'_> {
    /// Wants the settings that the networks need.
    pub(super) fn settings(&mut self, ports: &[Port], networks: &BTreeMap<&str, NetworkPlan>) {
        for ipv6 in [false, true] {
            let Some(network) = networks.values().find(|network| network.forwards(ipv6)) else { continue };
            if ipv6 {
                self.keep_learnt_routes(network.item.name);
            }
            self.want_sysctl(if ipv6 { IPV6_FORWARD } else { IPV4_FORWARD }.into(), "1", network.item.name);
        }
        self.enable_ipv6(ports, networks);
        for network in networks.values().filter(|network| !network.external) {
            let answers = |port: &&Port| std::ptr::eq(port.network, network) && on_loopback(port);
            let published = ports.iter().find(answers);
            if let Some(port) = published {
                self.want_sysctl(route_localnet(&network.link), "1", port.item.name);
            }
        }
    }

    /// Wants IPv6 switched on for links that are to have IPv6 addresses, where links are born without, or somebody
    /// switched it off.
    fn enable_ipv6(&mut self, ports: &[Port], networks: &BTreeMap<&str, NetworkPlan>) {
        let host = host();
        let routes = |plan: &&NetworkPlan| {
            let gateways = plan.subnets.iter().filter_map(|subnet| subnet.gateway);
            !plan.external && gateways.into_iter().any(|gateway| gateway.is_ipv6())
        };
        let bridges = networks.values().filter(routes).map(|plan| (host.clone(), plan.link.clone(), plan.item.name));
        let ports = ports.iter().filter(|port| port.address(true).is_some());
        let ends = ports.map(|port| (port.netns.clone(), port.ifname.clone(), port.item.name));
        let lacks_ipv6 = self.observed.lacks_ipv6(self.read);
        for (netns, link, origin) in bridges.chain(ends) {
            if lacks_ipv6(&netns, &link) {
                let key = Sysctl::disable_ipv6(Some(&link));
                self.want(Sysctl { netns, key, value: "0".into() }, origin);
            }
        }
    }

    /// Whether bridged packets of a family meet the rules that are meant for routed ones.
    pub(super) fn filters_bridged(&self, ipv6: bool) -> bool {
        self.bridged[usize::from(ipv6)]
    }

    /// Whether a container that asks for its own published port is answered through the bridge port the question came
    /// by: the bridge itself maps it then, and sends nothing back where it came from unless the port is told to.
    pub fn reflects(&self, port: &Port) -> bool {
        let mapped = |ipv6| port.address(ipv6).is_some() && self.filters_bridged(ipv6);
        port.item.publishes().next().is_some() && (mapped(false) || mapped(true))
    }

    /// Turning IPv6 forwarding on makes Linux drop default routes learnt from router advertisements at once, unless the
    /// link says `accept_ra = 2` before.
    fn keep_learnt_routes(&mut self, origin: Span) {
        let uplinks = self.observed.foreign.uplinks();
        let learnt = uplinks.iter().filter(|route| route.learnt).filter_map(|route| route.link.clone());
        for link in learnt.collect::<Vec<_>>() {
            self.want_sysctl(accept_ra(&link), "2", origin);
        }
    }

    fn want_sysctl(&mut self, key: Text, value: &str, origin: Span) {
        self.want(Sysctl { netns: host(), key, value: value.into() }, origin);
    }
}
