//! Endpoints: addresses, interface names, hardware addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::containers::Sandboxes;
use super::names::endpoint_mac;
use super::{Lowering, NetworkPlan, Port, veth_name};
use crate::model::diagnostic::Diagnostic;
use crate::model::hash::words;
use crate::model::ipam;
use crate::model::kinds::KindName;
use crate::model::kinds::veth::Veth;
use crate::model::numbers::Numbers;
use crate::model::observed::ForeignLink;
use crate::model::resource::{Resource, Text, host};
use crate::model::topology::{Endpoint, Item};

/// Addresses that no endpoint is given.
struct Taken {
    /// Gateways, reserved ones, and those that endpoints name.
    by_right: Numbers<IpAddr>,
    /// Those that endpoints hold, or were given.
    held: Numbers<IpAddr>,
}

impl Taken {
    fn has(&self, address: &IpAddr) -> bool {
        self.by_right.known(address).is_some() || self.held.known(address).is_some()
    }
}

/// The same, worked out when somebody asks: where all addresses are named nobody does.
struct Spoken<'t, 'a> {
    all: Option<Taken>,
    networks: &'t BTreeMap<&'t str, NetworkPlan<'t>>,
    births: &'t [Birth<'a>],
}

impl<'a> Spoken<'_, 'a> {
    fn by(&mut self, lowering: &Lowering<'a>) -> &mut Taken {
        self.all.get_or_insert_with(|| lowering.taken(self.networks, self.births))
    }
}

/// What an endpoint was born as.
#[derive(Clone)]
pub(super) struct Birth<'a> {
    /// Its name then.
    born: Text,
    /// The host's end, whose name follows from that.
    link: Text,
    /// The pair, if it is there.
    pub veth: Option<&'a Veth>,
}

impl<'a> Lowering<'a> {
    /// Fills the blanks of every endpoint whose container is there, in the order of their names.
    pub(super) fn endpoints<'n>(
        &mut self,
        sandboxes: &Sandboxes<'a>,
        networks: &'n BTreeMap<&str, NetworkPlan<'n>>,
    ) -> Vec<Port<'n>>
    where
        'a: 'n,
    {
        let (mut ports, mut veths) = (Vec::new(), Vec::new());
        let topology = self.topology;
        let births: Vec<Birth> = topology.endpoints.keys().map(|name| self.birth(name)).collect();
        let mut taken = Spoken { all: None, networks, births: &births };
        for ((name, item), birth) in topology.endpoints.iter().zip(&births) {
            let Birth { born, link, veth } = birth.clone();
            let network = networks.get(item.network.get_ref().as_str());
            let sandbox = sandboxes.get(item.container.get_ref().as_str());
            let (Some(network), Some(sandbox)) = (network, sandbox) else { continue };
            if !network.is_bridged() {
                continue;
            }
            // The address of an endpoint that is waited for is kept for it.
            let addresses = self.addresses((name, veth), item, network, &mut taken);
            if sandbox.there {
                veths.push(veth);
                ports.push(Port {
                    name,
                    item,
                    network,
                    netns: sandbox.netns.clone(),
                    link,
                    ifname: Text::default(),
                    mac: item.mac.as_ref().map_or_else(|| endpoint_mac(&topology.name, &born), |mac| *mac.get_ref()),
                    addresses,
                    born,
                });
            }
        }
        self.host_ends(&ports);
        self.give_names(&mut ports, &veths);
        ports
    }

    /// Nobody else has the names of the host's ends.
    fn host_ends(&mut self, ports: &[Port]) {
        for port in ports {
            if let Some(link) = self.observed.foreign.host_link(&port.link) {
                let message = format!("a link named `{}` exists and is {}", port.link, self.whose(link));
                let finding = Diagnostic::at(port.item.name, message).label("netrec would create it");
                self.refuse(finding.hint(format!("remove it: `ip link delete {}`", port.link)));
            }
        }
    }

    pub(super) fn birth(&self, endpoint: &str) -> Birth<'a> {
        let born = self.born("endpoints", endpoint);
        let link = veth_name(&self.topology.name, &born);
        let veth = match self.ours_named(&host(), KindName::Veth, &link) {
            Some(Resource::Veth(veth)) => Some(&**veth),
            _ => None,
        };
        Birth { born, link, veth }
    }

    /// What endpoints have, or name, of the whole topology.
    fn taken(&self, networks: &BTreeMap<&str, NetworkPlan>, births: &[Birth<'a>]) -> Taken {
        let gateways = networks.values().flat_map(|plan| plan.subnets.iter().filter_map(|subnet| subnet.gateway));
        let reserved = networks.values().flat_map(|plan| &plan.item.reserved);
        let endpoints = &self.whole.endpoints;
        let named = endpoints.values().flat_map(|item| &item.addresses);
        let (mut by_right, mut held) = (Numbers::default(), Numbers::default());
        by_right.extend(gateways.chain(reserved.chain(named).map(|address| *address.get_ref())));
        let mut holds = |item: &Endpoint, veth| {
            if let Some(plan) = networks.get(item.network.get_ref().as_str()) {
                held.extend(self.keeps(veth, plan, &by_right));
            }
        };
        let own = &self.topology.endpoints;
        own.values().zip(births).for_each(|(item, birth)| holds(item, birth.veth));
        if !std::ptr::eq(self.topology, self.whole) {
            let others = endpoints.iter().filter(|(name, _)| !own.contains_key(*name));
            others.for_each(|(name, item)| holds(item, self.birth(name).veth));
        }
        Taken { by_right, held }
    }

    /// The addresses an endpoint has and may keep: in a subnet of its network, and nobody else's by right.
    fn keeps<'k>(
        &self,
        veth: Option<&'a Veth>,
        plan: &'k NetworkPlan,
        by_right: &'k Numbers<IpAddr>,
    ) -> impl Iterator<Item = IpAddr> + use<'a, 'k> {
        let usable = |net: &IpNet| {
            plan.subnets.iter().any(|subnet| subnet.net == net.trunc() && ipam::is_usable(&subnet.net, net.addr()))
        };
        let held = self.held_addresses(veth).filter(usable).map(|net| net.addr());
        held.filter(|address| by_right.known(address).is_none())
    }

    fn addresses(
        &mut self,
        (name, veth): (&str, Option<&'a Veth>),
        item: &Item<Endpoint>,
        plan: &NetworkPlan,
        taken: &mut Spoken<'_, 'a>,
    ) -> Vec<IpNet> {
        let in_subnet = |address: IpAddr| {
            let subnet = plan.subnets.iter().find(|subnet| subnet.net.contains(&address))?;
            IpNet::new(address, subnet.net.prefix_len()).ok()
        };
        let mut addresses: Vec<IpNet> =
            item.addresses.iter().filter_map(|address| in_subnet(*address.get_ref())).collect();
        for ipv6 in [false, true] {
            let flag = if ipv6 { &item.ipv6 } else { &item.ipv4 };
            let wants = flag.as_ref().is_none_or(|flag| *flag.get_ref());
            let named = addresses.iter().any(|net| net.addr().is_ipv6() == ipv6);
            let mut subnets = plan.subnets.iter().map(|subnet| subnet.net).filter(|net| net.addr().is_ipv6() == ipv6);
            if !wants || named || subnets.clone().next().is_none() {
                continue;
            }
            let taken = taken.by(self);
            let held = self.keeps(veth, plan, &taken.by_right).find(|address| address.is_ipv6() == ipv6);
            let hash = words(&[&self.topology.name, "address", name]);
            match held.or_else(|| subnets.find_map(|subnet| ipam::free_address(&subnet, hash, |it| taken.has(it)))) {
                Some(address) => {
                    taken.held.number(address);
                    addresses.extend(in_subnet(address));
                }
                None => self.invalid.push(
                    Diagnostic::at(item.name, format!("no address is left in `{}` for `{name}`", plan.name))
                        .label("needs one more address than there are")
                        .related(plan.item.name, "this network is full")
                        .hint("give the network another entry in `subnets`, or a larger one"),
                ),
            }
        }
        addresses
    }

    /// Gives interface names: the user's, then those that their pairs hold, then `eth0`, `eth1`, … by rank.
    fn give_names(&mut self, ports: &mut [Port], veths: &[Option<&'a Veth>]) {
        // What bears our mark and was taken out of our group goes when its pair is made anew.
        let own = |link: &ForeignLink| link.topology.as_ref().is_some_and(|it| **it == *self.topology.name);
        let links = self.observed.foreign.links.iter();
        let mut taken = Numbers::default();
        taken.reserve(ports.len());
        taken.extend(links.filter(|(_, link)| !own(link)).map(|(place, _)| place.clone()));
        for port in ports.iter_mut() {
            let Some(own) = &port.item.ifname else { continue };
            port.ifname = own.get_ref().as_str().into();
            if !taken.is_new((port.netns.clone(), port.ifname.clone())) {
                let message = format!("a link named `{}` exists in `{}` and is not netrec's", port.ifname, port.netns);
                let span = port.item.span(own);
                self.refused.push(Diagnostic::at(span, message).label("taken").hint("choose another `ifname`"));
            }
        }
        for (port, veth) in ports.iter_mut().zip(veths).filter(|(port, _)| port.ifname.is_empty()) {
            let held = veth.filter(|veth| veth.netns == port.netns).and_then(|veth| veth.ifname.clone());
            if let Some(held) = held.filter(|held| is_default_name(held))
                && taken.is_new((port.netns.clone(), held.clone()))
            {
                port.ifname = held;
            }
        }
        let mut unnamed: Vec<&mut Port> = ports.iter_mut().filter(|port| port.ifname.is_empty()).collect();
        unnamed.sort_by(|one, other| one.rank().cmp(&other.rank()));
        let mut names: Vec<Text> = Vec::new();
        for port in unnamed {
            for at in 0.. {
                if at == names.len() {
                    names.push(format!("eth{at}").into());
                }
                if taken.is_new((port.netns.clone(), names[at].clone())) {
                    port.ifname = names[at].clone();
                    break;
                }
            }
        }
    }
}

fn is_default_name(name: &str) -> bool {
    name.strip_prefix("eth")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
