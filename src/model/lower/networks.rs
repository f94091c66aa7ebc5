//! Networks: subnets, gateways, MTU, and the link of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::containers::Sandboxes;
use super::endpoints::Birth;
use super::names::bridge_name;
use super::{Lowering, NetworkPlan, Subnet};
use crate::model::diagnostic::Diagnostic;
use crate::model::hash::words;
use crate::model::ipam;
use crate::model::kinds::KindName;
use crate::model::kinds::veth::Veth;
use crate::model::observed::ForeignRoute;
use crate::model::resource::{HOST, Resource, Text, host};
use crate::model::topology::{Endpoint, Item, Network};
use crate::model::values::MTU_IPV6;

/// MTU of a host without an uplink: Ethernet's.
const MTU: u32 = 1500;

fn is(flag: Option<&Spanned<bool>>, default: bool) -> bool {
    flag.map_or(default, |flag| *flag.get_ref())
}

impl<'a> Lowering<'a> {
    /// Fills the blanks of every network. Explicit subnets are taken first, then held ones, so that neither moves for a
    /// network that comes to the pools later.
    pub(super) fn networks(&mut self, sandboxes: &Sandboxes<'a>) -> BTreeMap<&'a str, NetworkPlan<'a>> {
        let topology = self.topology;
        let mut plans: BTreeMap<&str, NetworkPlan> = BTreeMap::new();
        for (name, item) in &topology.networks {
            plans.insert(name, self.network(name, item));
        }
        let mut taken: Vec<IpNet> =
            plans.values().flat_map(|plan| plan.subnets.iter().map(|subnet| subnet.net)).collect();
        let mut wanting = Vec::new();
        for plan in plans.values().filter(|plan| plan.item.subnets.is_none() && plan.is_bridged()) {
            for ipv6 in [false, true] {
                let flag = if ipv6 { &plan.item.ipv6 } else { &plan.item.ipv4 };
                if !is(flag.as_ref(), true) {
                    continue;
                }
                let held = self.held_subnet(plan, &plans, sandboxes, ipv6);
                let held = held.filter(|net| !taken.iter().any(|other| ipam::overlap(net, other)));
                taken.extend(held);
                wanting.push((plan.name, ipv6, held));
            }
        }
        taken.extend(self.live().map(|route| route.destination));
        for (name, ipv6, held) in wanting {
            let Some(net) = held.or_else(|| self.pooled(name, ipv6, &taken)) else { continue };
            taken.push(net);
            if let Some(plan) = plans.get_mut(name) {
                plan.subnets.push(Subnet { net, gateway: None });
            }
        }
        for plan in plans.values_mut() {
            give_gateways(plan);
            if plan.item.mtu.is_none() && plan.has(true) {
                plan.mtu = plan.mtu.max(MTU_IPV6);
            }
        }
        let made: BTreeSet<Text> = plans.values().filter(|plan| !plan.external).map(|plan| plan.link.clone()).collect();
        for plan in plans.values() {
            self.refuse_conflicts(plan, &made);
        }
        plans
    }

    fn network(&self, name: &'a str, item: &'a Item<Network>) -> NetworkPlan<'a> {
        let options = item.bridge.as_ref().map(Spanned::get_ref);
        let own_name = options.and_then(|options| options.name.as_ref());
        let born = self.born("networks", name);
        let link =
            own_name.map_or_else(|| bridge_name(&self.topology.name, &born), |own| own.get_ref().as_str().into());
        let external = is(options.and_then(|options| options.external.as_ref()), false);
        let theirs = self.observed.foreign.host_link(&link).filter(|_| external).map(|bridge| bridge.mtu);
        let subnets = item.subnets.iter().flatten();
        NetworkPlan {
            name,
            item,
            born,
            link,
            external,
            subnets: subnets.map(|net| Subnet { net: **net.get_ref(), gateway: None }).collect(),
            mtu: item.mtu.as_ref().map_or_else(|| self.mtu(theirs), |mtu| *mtu.get_ref()),
            internal: is(item.internal.as_ref(), false),
            icc: is(item.icc.as_ref(), true),
        }
    }

    /// The MTU of a bridge of others, as a port with a smaller one would make theirs smaller; else of the link that the
    /// host reaches the world through.
    fn mtu(&self, theirs: Option<u32>) -> u32 {
        let uplink = || self.observed.foreign.uplinks().first().and_then(|route| route.link.clone());
        let link = || uplink().and_then(|link| self.observed.foreign.host_link(&link));
        theirs.or_else(|| link().map(|link| link.mtu)).unwrap_or(MTU)
    }

    /// The subnet that a network has in the kernel and will have still: that of its bridge's address, or of an endpoint's
    /// that was not on another network. One that nothing holds afterwards would be another at the next look.
    fn held_subnet(
        &self,
        plan: &NetworkPlan,
        plans: &BTreeMap<&str, NetworkPlan>,
        sandboxes: &Sandboxes<'a>,
        ipv6: bool,
    ) -> Option<IpNet> {
        let addressed = is(plan.item.host_address.as_ref(), true) && !plan.external;
        let bridge = self.held(HOST, &plan.link).filter(|_| addressed);
        let stays = |item: &'a Endpoint| {
            let flag = if ipv6 { &item.ipv6 } else { &item.ipv4 };
            let there = sandboxes.get(item.container.get_ref().as_str()).is_some_and(|sandbox| sandbox.there);
            there && item.network.get_ref() == plan.name && is(flag.as_ref(), true)
        };
        let moved = |birth: &Birth| {
            let bridge = birth.veth.and_then(|veth| veth.bridge.as_ref());
            bridge.is_some_and(|bridge| *bridge != plan.link && plans.values().any(|other| other.link == *bridge))
        };
        let endpoints = self.topology.endpoints.iter().filter(|(_, item)| stays(item));
        let births = endpoints.map(|(name, _)| self.birth(name)).filter(|birth| !moved(birth));
        let ports = births.flat_map(|birth| self.held_addresses(birth.veth));
        bridge.chain(ports).find(|net| net.addr().is_ipv6() == ipv6).map(|net| net.trunc())
    }

    /// The addresses that an endpoint has in the kernel at the end of its pair, wherever that is attached.
    pub(super) fn held_addresses(&self, veth: Option<&'a Veth>) -> impl Iterator<Item = IpNet> + use<'a> {
        let end = veth.and_then(|veth| Some((&veth.netns, veth.ifname.as_ref()?)));
        end.map(|(netns, ifname)| self.held(netns, ifname)).into_iter().flatten()
    }

    fn pooled(&mut self, network: &str, ipv6: bool, taken: &[IpNet]) -> Option<IpNet> {
        let (pools, prefix) = self.pool(ipv6);
        let word = if ipv6 { "subnet6" } else { "subnet4" };
        let net = ipam::free_subnet(&pools, prefix, words(&[&self.topology.name, word, network]), taken);
        if net.is_none() {
            let span = self.topology.networks[network].name;
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            let finding = Diagnostic::at(span, format!("no {family} subnet of /{prefix} is left in the pools"))
                .label(format!("`{network}` names no `subnets`"))
                .hint("give it `subnets`, or give `[pools]` more room");
            self.refuse(finding);
        }
        net
    }

    fn pool(&self, ipv6: bool) -> (Vec<IpNet>, u8) {
        let pools = self.topology.pools.as_ref();
        let (own, prefix) = match (pools, ipv6) {
            (None, _) => (None, None),
            (Some(pools), false) => (pools.ipv4.as_ref(), pools.ipv4_prefix.as_ref()),
            (Some(pools), true) => (pools.ipv6.as_ref(), pools.ipv6_prefix.as_ref()),
        };
        let default = || vec![if ipv6 { self.local_pool() } else { IPV4_POOL }];
        let nets = own.map_or_else(default, |nets| nets.iter().map(|net| **net.get_ref()).collect());
        (nets, prefix.map_or(if ipv6 { 64 } else { 24 }, |prefix| *prefix.get_ref()))
    }

    /// A unique local /48 (RFC 4193) with the hash of the topology's name as its global id.
    fn local_pool(&self) -> IpNet {
        let id = u128::from(words(&[&self.topology.name, "pool6"]) >> 24);
        let network = (0xfd << 120) | (id << 80);
        ipnet::Ipv6Net::new_assert(network.into(), 48).into()
    }

    /// The host's live routes, of every table, but for defaults: also those in two halves, as of VPNs.
    fn live(&self) -> impl Iterator<Item = &'a ForeignRoute> + use<'a> {
        let routes = self.observed.foreign.routes.iter();
        routes.filter(|(netns, route)| &**netns == HOST && route.destination.prefix_len() > 1).map(|(_, route)| route)
    }

    fn refuse_conflicts(&mut self, plan: &NetworkPlan<'a>, made: &BTreeSet<Text>) {
        if *plan.item.driver.get_ref() != "bridge" {
            return;
        }
        let options = plan.item.bridge.as_ref().map(Spanned::get_ref);
        let span =
            options.and_then(|options| options.name.as_ref()).map_or(plan.item.name, |name| plan.item.span(name));
        let there = self.observed.foreign.host_link(&plan.link).cloned();
        match (there, plan.external) {
            (Some(link), false) => {
                let message = format!("a link named `{}` exists and is {}", plan.link, self.whose(&link));
                let finding = Diagnostic::at(span, message)
                    .label("netrec would create it")
                    .hint("choose another name, remove the link, or use it as it is with `external = true`");
                self.refuse(finding);
            }
            (Some(link), true) if &*link.kind != "bridge" => {
                let finding = Diagnostic::at(span, format!("`{}` is not a bridge", plan.link))
                    .label("`external = true` needs a bridge");
                self.refuse(finding);
            }
            (None, true) if self.observed.looked && !made.contains(&plan.link) => {
                let goes = self.ours_named(&host(), KindName::Bridge, &plan.link).is_some();
                let message = if goes {
                    format!("`{}` is netrec's own bridge, which goes with its network", plan.link)
                } else {
                    format!("there is no bridge named `{}`", plan.link)
                };
                let finding = Diagnostic::at(span, message)
                    .label("`external = true` uses a bridge that exists")
                    .hint("create it first, or leave `external` out and let netrec make it");
                self.refuse(finding);
            }
            _ => {}
        }
        self.refuse_overlaps(plan);
    }

    /// Routes that were there before the network. One that came later is no reason to let go of what is there: packets take
    /// the way of the narrowest.
    fn refuse_overlaps(&mut self, plan: &NetworkPlan<'a>) {
        let holds = |net: IpNet| {
            let held = |it: &Resource| matches!(it, Resource::Address(it) if it.address.trunc() == net);
            self.observed.ours.resources().any(held)
        };
        for net in plan.item.subnets.iter().flatten() {
            let theirs = self.live().filter(|route| route.link.as_ref() != Some(&plan.link));
            let overlapping = theirs.filter(|route| ipam::overlap(net.get_ref(), &route.destination));
            // The widest says most: an address of the host in the subnet comes with the route to its net.
            let widest = overlapping.min_by_key(|route| route.destination.prefix_len());
            let Some(route) = widest.filter(|_| !holds(**net.get_ref())) else { continue };
            let link = route.link.as_ref().map_or(String::new(), |link| format!(" through `{link}`"));
            let message =
                format!("subnet `{}` overlaps the live route to {}{link}", **net.get_ref(), route.destination);
            let finding = Diagnostic::at(plan.item.span(net), message)
                .label("already routed on this host")
                .hint("choose a subnet that no route of `ip route show table all` overlaps");
            self.refuse(finding);
        }
    }
}

const IPV4_POOL: IpNet = IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 208, 0, 0), 12));

/// The user's gateways go to their subnets; the others get their first address. On an external bridge netrec has no
/// address, so only the user knows one.
fn give_gateways(plan: &mut NetworkPlan) {
    let given: Vec<IpAddr> = plan.item.gateways.iter().map(|gateway| *gateway.get_ref()).collect();
    let addressed = is(plan.item.host_address.as_ref(), true) && !plan.external;
    for subnet in &mut plan.subnets {
        let own = given.iter().copied().find(|gateway| subnet.net.contains(gateway));
        subnet.gateway = own.or_else(|| addressed.then(|| ipam::first(&subnet.net)));
    }
}
