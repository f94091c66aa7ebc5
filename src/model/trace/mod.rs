//! The way of one packet through the host that a plan leads to: containers and their routes, bridges, the hooks of the
//! firewall, the host's routes. Rules are not interpreted here but done ([`Ruleset`]); what the kernel decides outside of
//! nftables, such as routes and the isolation of bridge ports, is done as it does it.
//!
//! It is the first packet of a flow that is followed; answers pass by what conntrack knows.

mod keys;
mod question;
mod routes;

use std::net::IpAddr;

pub use keys::Key;
pub use question::{Question, Sender};

use super::kinds::KindName;
use super::kinds::firewall::{Decision, Does, Element, Firewall, Hook, Packet, Ruleset};
use super::kinds::veth::Veth;
use super::neighbours::Way;
use super::observed::Observed;
use super::resource::{HOST, Resource, ResourceId, Text};
use super::state::State;
use super::topology::Topology;

/// What packets are followed through.
pub struct World<'a> {
    topology: &'a Topology,
    desired: &'a State,
    observed: &'a Observed,
    firewall: Option<(&'a Firewall, Ruleset)>,
}

/// How it went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    /// The packet as it was sent; none if it never came as far as a hook.
    pub sent: Option<Packet>,
    /// What decided something, in order.
    pub steps: Vec<Step>,
    /// Whom it reached, or what ended it; for a person.
    pub outcome: Result<String, String>,
}

/// One decision about the packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Where: family and hook, or `kernel` for what is decided outside of nftables.
    pub at: String,
    /// The chain; empty outside of nftables.
    pub chain: String,
    /// The rule as nft lists it, or what else decided.
    pub rule: String,
    /// The elements that the rule found in its sets, as nft lists them.
    pub elements: Vec<String>,
    /// What became of the packet: `accept`, `drop`, or how it was changed.
    pub verdict: String,
    /// The keys of the topology that the elements come from, as far as they are known.
    pub keys: Vec<Key>,
}

impl<'a> World<'a> {
    /// The host as it will be.
    pub fn new(topology: &'a Topology, desired: &'a State, observed: &'a Observed) -> Self {
        let firewall = desired.resources().find_map(|it| if let Resource::Firewall(it) = it { Some(it) } else { None });
        Self { topology, desired, observed, firewall: firewall.map(|it| (&**it, Ruleset::new(it))) }
    }

    /// The rules of a chain of the topology's as nft lists them, in order.
    pub fn rules(&self, bridge: bool, chain: &str) -> Vec<String> {
        self.firewall.iter().flat_map(|(_, rules)| rules.rules(bridge, chain)).collect()
    }

    /// Follows a packet.
    pub fn trace(&self, question: &Question) -> Trace {
        let to = question.to;
        let nowhere: IpAddr = if to.is_ipv6() { [0; 16].into() } else { [0; 4].into() };
        let mut walk =
            Walk { world: self, packet: Packet::new(nowhere, to, question.service), sent: None, steps: Vec::new() };
        let outcome = match &question.from {
            Sender::Host => walk.host_sends(),
            Sender::Container(netns, source) => walk.container_sends(netns, *source),
            Sender::Outside(source) => walk.outside_sends(*source),
        };
        Trace { sent: walk.sent, steps: walk.steps, outcome }
    }

    fn veths(&self) -> impl Iterator<Item = &'a Veth> + use<'a> {
        let veths = self.desired.of_kind(HOST, KindName::Veth);
        veths.filter_map(|it| if let Resource::Veth(veth) = it { Some(&**veth) } else { None })
    }

    fn is_bridge(&self, link: &Text) -> bool {
        self.desired.get(&ResourceId::new(&HOST.into(), KindName::Bridge, link.clone())).is_some()
    }

    /// A setting of the host as it will be; none if nobody reads it.
    fn setting(&self, key: &str) -> Option<&'a str> {
        let id = ResourceId::new(&HOST.into(), KindName::Sysctl, key);
        match self.desired.get(&id).or_else(|| self.observed.ours.get(&id)) {
            Some(Resource::Sysctl(sysctl)) => Some(&sysctl.value),
            _ => None,
        }
    }

    /// Whether bridged packets meet the rules for routed ones (`br_netfilter`).
    fn filters_bridged(&self, ipv6: bool) -> bool {
        self.setting(if ipv6 { "net.bridge.bridge-nf-call-ip6tables" } else { "net.bridge.bridge-nf-call-iptables" })
            == Some("1")
    }
}

/// The endpoint's name where the mark tells it.
fn name(veth: &Veth) -> &str {
    if veth.label.name.is_empty() { &veth.netns } else { &veth.label.name }
}

/// A packet on its way. Functions give whom it reached, or what ended it.
struct Walk<'a> {
    world: &'a World<'a>,
    packet: Packet,
    sent: Option<Packet>,
    steps: Vec<Step>,
}

type Ends = Result<String, String>;

impl Walk<'_> {
    fn container_sends(&mut self, netns: &Text, source: Option<IpAddr>) -> Ends {
        let (world, to) = (self.world, self.packet.destination());
        if to.is_loopback() || world.addresses(netns).any(|it| it.address.addr() == to) {
            return Ok(format!("{netns} itself: it never leaves it"));
        }
        let hop = world.route(netns, source, to).ok_or_else(|| self.ended(&format!("no route to {to} in {netns}")))?;
        let Some(veth) = world.veths().find(|it| it.netns == *netns && it.ifname.as_ref() == Some(&hop.link)) else {
            return Ok(format!("what is behind {} of {netns}, which is not netrec's", hop.link));
        };
        if let Some(source) = source.or(hop.source) {
            self.packet.set_source(source);
        }
        self.packet.set_sender(veth.peer.mac);
        self.bridge_takes(veth, hop.via.unwrap_or(to))
    }

    fn outside_sends(&mut self, source: IpAddr) -> Ends {
        self.packet.set_source(source);
        let hop = self.world.route(HOST, None, source);
        let link = hop.ok_or_else(|| self.ended(&format!("the host has no route to {source}")))?.link;
        if self.world.is_bridge(&link) {
            return Err(self.ended(&format!("nobody on {link} has {source}")));
        }
        self.host_takes(&link, false)
    }

    /// `ip_local_out`: the host's own packets are mapped, routed anew, and on their way to itself come in again.
    fn host_sends(&mut self) -> Ends {
        let loopback = Text::from("lo");
        let (source, link) = self.way_out(&loopback)?;
        self.packet.set_source(source.unwrap_or(self.packet.destination()));
        self.packet.oif = link;
        self.hook(false, Hook::Output)?;
        self.packet.oif = self.way_out(&loopback)?.1;
        self.hook(false, Hook::Postrouting)?;
        if self.packet.oif != loopback {
            return self.out();
        }
        self.comes_by(&loopback);
        self.hook(false, Hook::Prerouting)?;
        self.hook(false, Hook::Input)?;
        Ok("the host".into())
    }

    fn way_out(&mut self, loopback: &Text) -> Result<(Option<IpAddr>, Text), String> {
        let to = self.packet.destination();
        if self.world.is_local(to) {
            return Ok((Some(to), loopback.clone()));
        }
        let hop = self.world.route(HOST, None, to);
        let hop = hop.ok_or_else(|| self.ended(&format!("the host has no route to {to}")))?;
        Ok((hop.source, hop.link))
    }

    /// `br_handle_frame`: a frame for `next` comes by a port.
    fn bridge_takes(&mut self, veth: &Veth, mut next: IpAddr) -> Ends {
        let world = self.world;
        let Some(bridge) = &veth.bridge else { return Err(self.ended(&format!("{} is in no bridge", veth.name))) };
        self.comes_by(&veth.name);
        self.hook(true, Hook::Prerouting)?;
        let filtered = world.filters_bridged(self.packet.is_ipv6());
        if filtered {
            self.comes_by(bridge);
            self.hook(false, Hook::Prerouting)?;
            // What is mapped to a port of the same bridge is sent there by the bridge itself, all else goes up.
            if self.packet.mapped {
                let to = self.packet.destination();
                if world.route(HOST, None, to).is_none_or(|hop| hop.link != *bridge) {
                    return self.host_takes(bridge, true);
                }
                next = to;
            }
        }
        if world.is_local(next) {
            return self.host_takes(bridge, filtered);
        }
        match world.port(bridge, next) {
            Some(to) => self.within(veth, to, bridge),
            None => self.no_port(bridge, next),
        }
    }

    /// `br_forward`: from one port of a bridge to another.
    fn within(&mut self, from: &Veth, to: &Veth, bridge: &Text) -> Ends {
        if from.isolated && to.isolated {
            let ends = self.ended(&format!("ports {} and {} of {bridge} are isolated", from.name, to.name));
            self.steps.last_mut().into_iter().for_each(|step| step.keys.extend(self.world.isolation_key(bridge)));
            return Err(ends);
        }
        if from.name == to.name && !from.hairpin {
            return Err(self.ended(&format!("{bridge} sends nothing back to port {}", from.name)));
        }
        self.comes_by(&from.name);
        self.packet.oif = to.name.clone();
        self.hook(true, Hook::Forward)?;
        if self.world.filters_bridged(self.packet.is_ipv6()) {
            self.comes_by(bridge);
            self.packet.oif = bridge.clone();
            self.hook(false, Hook::Forward)?;
            // `br_nf_post_routing` does not tell where it came in.
            self.packet.iif = Text::default();
            self.hook(false, Hook::Postrouting)?;
        }
        Ok(name(to).to_owned())
    }

    /// `ip_rcv`: in by a link of the host; bridged packets may have met the first hook already.
    fn host_takes(&mut self, link: &Text, met: bool) -> Ends {
        self.comes_by(link);
        if !met {
            self.hook(false, Hook::Prerouting)?;
        }
        let (world, to) = (self.world, self.packet.destination());
        if world.is_local(to) {
            let routed = world.setting(&super::lower::route_localnet(link)) == Some("1") && to.is_ipv4();
            if to.is_loopback() && !routed {
                return Err(self.ended(&format!("{to} does not come in by {link}")));
            }
            self.hook(false, Hook::Input)?;
            return Ok("the host".into());
        }
        let hop = world.route(HOST, None, to);
        let hop = hop.ok_or_else(|| self.ended(&format!("the host has no route to {to}")))?;
        let forwarding = if to.is_ipv6() { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
        if world.setting(forwarding) == Some("0") {
            return Err(self.ended(&format!("{forwarding} is 0")));
        }
        self.packet.oif = hop.link;
        self.hook(false, Hook::Forward)?;
        self.hook(false, Hook::Postrouting)?;
        self.out()
    }

    /// Out by a link of the host.
    fn out(&mut self) -> Ends {
        let (link, to) = (self.packet.oif.clone(), self.packet.destination());
        match self.world.port(&link, to) {
            Some(veth) => Ok(name(veth).to_owned()),
            None => self.no_port(&link, to),
        }
    }

    /// On a bridge of netrec's are endpoints and nobody else.
    fn no_port(&mut self, link: &Text, to: IpAddr) -> Ends {
        if self.world.is_bridge(link) {
            return Err(self.ended(&format!("nobody on {link} has {to}")));
        }
        Ok(format!("what is behind {link}"))
    }

    fn comes_by(&mut self, link: &Text) {
        let veth = self.world.veths().find(|it| it.name == *link).filter(|it| it.host.grouped);
        let id = ResourceId::new(&HOST.into(), KindName::Bridge, link.clone());
        let bridge = match self.world.desired.get(&id) {
            Some(Resource::Bridge(bridge)) if bridge.grouped => Some(bridge.owner.group),
            _ => None,
        };
        self.packet.iif = link.clone();
        self.packet.iif_group = Some(veth.map(|it| it.owner.group).or(bridge).unwrap_or(0));
        self.packet.oif = Text::default();
    }

    /// Asks the rules at a hook, and says what they decided; an error is what ended it.
    fn hook(&mut self, bridge: bool, hook: Hook) -> Result<(), String> {
        let world = self.world;
        self.sent.get_or_insert_with(|| self.packet.clone());
        if let Some((_, rules)) = &world.firewall {
            let (decisions, passes) = rules.hook(bridge, hook, &mut self.packet, &|address| world.is_local(address));
            let at = format!("{} {}", if bridge { "bridge" } else { "inet" }, hook.word());
            for decision in decisions {
                let step = self.step(&at, bridge, decision);
                self.steps.push(step);
            }
            if let (false, Some(last)) = (passes, self.steps.last()) {
                return Err(format!("{}, chain {}: {}", last.at, last.chain, last.rule));
            }
        }
        if hook == Hook::Forward { self.others(bridge) } else { Ok(()) }
    }

    fn step(&self, at: &str, bridge: bool, Decision { chain, rule, elements, does }: Decision) -> Step {
        // What is remembered is the way back, which says nothing about this one.
        let known = elements.iter().filter(|_| does != Does::Remember);
        let mut keys: Vec<Key> = Vec::new();
        for key in known.filter_map(|element| self.world.key(element, &self.packet)) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let elements = elements.iter().map(Element::nft).collect();
        let rule = self.world.rules(bridge, &chain).swap_remove(rule);
        Step { at: at.into(), chain, rule, elements, verdict: does.to_string(), keys }
    }

    /// Chains of others, of which only what they do by links is known.
    fn others(&mut self, bridge: bool) -> Result<(), String> {
        let family = if self.packet.is_ipv6() { "ip6" } else { "ip" };
        let of_family = |name: &str| if bridge { name == "bridge" } else { name == "inet" || name == family };
        let (from, to) = (self.packet.iif.clone(), self.packet.oif.clone());
        let way = Way { from: Some(&from), to: Some(&to), mapped: self.packet.mapped };
        let mut chains = self.world.observed.foreign.chains.iter();
        let chain = chains.find(|it| it.hook == "forward" && of_family(&it.family) && it.stops(way));
        let Some(chain) = chain else { return Ok(()) };
        let (at, by) = (format!("{} forward", chain.family), format!("table {}", chain.table));
        let step = Step {
            at,
            chain: chain.chain.clone(),
            rule: format!("{by}: not accepted by rules about links, and not accepted otherwise"),
            elements: Vec::new(),
            verdict: "drop".into(),
            keys: Vec::new(),
        };
        let ends = format!("{} {by}, chain {}", chain.family, step.chain);
        self.steps.push(step);
        Err(ends)
    }

    /// Notes what the kernel decided by itself.
    fn ended(&mut self, what: &str) -> String {
        let (at, rule, verdict) = ("kernel".into(), what.to_owned(), "drop".into());
        self.steps.push(Step { at, chain: String::new(), rule, elements: Vec::new(), verdict, keys: Vec::new() });
        format!("the kernel: {what}")
    }
}
