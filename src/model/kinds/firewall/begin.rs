//! Whether a flow that lives could begin under the rules as they now are: its first packet is led through them once more,
//! as `netrec trace` leads one. What could not is forgotten, for conntrack would let it live on as long as somebody sends.
//!
//! conntrack does not keep by which links a flow came and goes. An address is taken to be behind the link with the
//! longest prefix that holds it; where that does not say, a flow may live that any possible link would let begin.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::evaluate::{Hook, Ruleset};
use super::packet::{Packet, Service};
use super::{Element, Firewall, Role};
use crate::model::resource::Text;
use crate::model::wire::FlowFacts;

/// Something for each of some nets, found by an address.
#[derive(Clone, Debug)]
pub(super) struct Prefixes<T> {
    nets: BTreeMap<IpNet, T>,
    /// Prefix lengths that there are, of both families.
    lengths: BTreeSet<u8>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { nets: BTreeMap::new(), lengths: BTreeSet::new() }
    }
}

impl<T: Default> Prefixes<T> {
    /// What there is for a net.
    pub(super) fn entry(&mut self, net: &IpNet) -> &mut T {
        self.lengths.insert(net.prefix_len());
        self.nets.entry(net.trunc()).or_default()
    }

    /// What there is for the smallest of the nets that hold an address.
    pub(super) fn longest(&self, address: IpAddr) -> Option<&T> {
        let mut nets = self.lengths.iter().rev().filter_map(|length| IpNet::new(address, *length).ok());
        nets.find_map(|net| self.nets.get(&net.trunc()))
    }
}

/// The rules that say whether a flow could begin.
#[derive(Debug)]
pub(super) struct Beginning {
    rules: Ruleset,
    /// Links that have addresses of a net.
    links: Prefixes<Vec<Text>>,
    /// The bridges of the topology: behind one of them is who is in its subnets.
    bridges: Vec<Text>,
    /// Links by which somebody comes whom no net of the host's holds: those that rules know, and one that they do not.
    beyond: Vec<Text>,
}

impl Beginning {
    /// The rules of a firewall, on a host with such addresses on its links.
    pub(super) fn new(firewall: &Firewall, addresses: &[(Text, IpNet)]) -> Self {
        let (mut bridges, mut beyond) = (Vec::new(), vec![Text::default()]);
        for element in firewall.elements.iter() {
            match element {
                Element::Link(Role::Bridge, link) => bridges.push(link.clone()),
                Element::Trusted(link, _) => beyond.push(link.clone()),
                _ => {}
            }
        }
        beyond.retain(|link| !bridges.contains(link));
        beyond.sort_unstable();
        beyond.dedup();
        let mut links: Prefixes<Vec<Text>> = Prefixes::default();
        for (link, net) in addresses {
            links.entry(net).push(link.clone());
        }
        Self { rules: Ruleset::new(firewall), links, bridges, beyond }
    }

    /// Whether there are links by which the first packet of a flow would pass. What the host itself sends always does.
    pub(super) fn possible(&self, flow: &FlowFacts, ours: &Prefixes<()>, is_local: &dyn Fn(IpAddr) -> bool) -> bool {
        let links = |address| match self.links.longest(address) {
            Some(links) => links,
            None if ours.longest(address).is_some() => &self.bridges,
            None => &self.beyond,
        };
        let service = |port| flow.protocol.map_or(Service::Echo, |protocol| Service::Port(protocol, port));
        let packet = |(to, port)| Packet::new(flow.source, to, service(port));
        let (asks, mut goes) = (packet(flow.destination), packet(flow.answers));
        goes.mapped = flow.mapped;
        let to = flow.answers.0;
        let passes = |hook, mut packet: Packet| self.rules.hook(false, hook, &mut packet, is_local).1;
        is_local(flow.source)
            || links(flow.source).iter().any(|iif| {
                // What is mapped where is conntrack's to say; here it counts who may ask at all.
                let by = |packet: &Packet, oif: &Text| Packet { iif: iif.clone(), oif: oif.clone(), ..packet.clone() };
                if !passes(Hook::Prerouting, by(&asks, &Text::default())) {
                    return false;
                }
                if is_local(to) {
                    return passes(Hook::Input, by(&goes, &Text::default()));
                }
                links(to).iter().any(|oif| passes(Hook::Forward, by(&goes, oif)))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kinds::firewall::flows::{Flows, stale_of};
    use crate::model::kinds::firewall::{NetworkRules, Policy, Publication, policies};
    use crate::model::values::{Ports, Protocol};

    /// Two networks, and what is said of them.
    #[derive(Clone)]
    struct Topology {
        front: NetworkRules,
        back: NetworkRules,
        policies: Vec<Policy>,
        published: Vec<Publication>,
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().expect("what a test says is valid")
    }

    fn topology() -> Topology {
        let front = NetworkRules::new("front", vec![parsed("10.1.0.0/24"), parsed("fd01::/64")]);
        let subnets = vec![parsed("10.2.0.0/24"), parsed("fd02::/64")];
        let back = NetworkRules { bridge: "back".into(), subnets, ..front.clone() };
        Topology { front, back, policies: Vec::new(), published: Vec::new() }
    }

    impl Topology {
        fn changed(&self, change: impl FnOnce(&mut Self)) -> Self {
            let mut changed = self.clone();
            change(&mut changed);
            changed
        }

        fn firewall(&self) -> Firewall {
            let said = policies(&self.policies, &[]).expect("few enough");
            Firewall::new("t", &[self.front.clone(), self.back.clone()], &self.published).with(said)
        }
    }

    fn policy(allow: bool, from: &str, to: &str, ports: &[(Protocol, &str)]) -> Policy {
        let ports = ports.iter().map(|(protocol, ports)| (*protocol, parsed(ports))).collect();
        Policy { allow, from: vec![parsed(from)], to: vec![parsed(to)], ports }
    }

    fn publication(allow_from: Option<&[&str]>) -> Publication {
        Publication {
            listen: None,
            protocol: Protocol::Tcp,
            ports: Ports { first: 8080, last: 8080 },
            target: parsed("10.1.0.2"),
            first: 80,
            allow_from: allow_from.map(|nets| nets.iter().map(|net| parsed(net)).collect()),
        }
    }

    /// `PROTOCOL SOURCE DESTINATION[:PORT] [=> MAPPED:PORT]`, an IPv6 address in brackets.
    fn flow(text: &str) -> FlowFacts {
        let words: Vec<&str> = text.split(' ').collect();
        let protocol = match words[0] {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "icmp" => None,
            other => panic!("{other}"),
        };
        let end = |text: &str| {
            if protocol.is_none() {
                return (parsed(text), 0);
            }
            let end: std::net::SocketAddr = parsed(text);
            (end.ip(), end.port())
        };
        let destination = end(words[2]);
        let mapped = words.get(4);
        let answers = mapped.map_or(destination, |to| end(to));
        let (source, mapped) = (parsed(words[1]), mapped.is_some());
        FlowFacts { protocol, source, destination, answers, mapped, assured: true, related: false }
    }

    /// Addresses of the host: on an uplink, a link to a VPN, and the bridges.
    fn host() -> Vec<(Text, IpNet)> {
        let addresses = [
            ("up0", "192.0.2.1/24"),
            ("wg0", "10.99.0.1/24"),
            ("front", "10.1.0.1/24"),
            ("front", "fd01::1/64"),
            ("front", "fe80::1/64"),
            ("back", "10.2.0.1/24"),
            ("back", "fd02::1/64"),
            ("back", "fe80::1/64"),
        ];
        addresses.map(|(link, address)| (link.into(), parsed(address))).to_vec()
    }

    /// Which of some flows a change makes be forgotten; the others live on.
    #[track_caller]
    fn forgets(from: &Topology, to: &Topology, flows: &[(&str, bool)]) {
        forgets_on(&host(), from, to, flows);
    }

    #[track_caller]
    fn forgets_on(host: &[(Text, IpNet)], from: &Topology, to: &Topology, flows: &[(&str, bool)]) {
        let (from, to) = (from.firewall(), to.firewall());
        let changed = Flows::new(&stale_of(Some(&from), &to.elements), &to);
        for (text, forgotten) in flows {
            assert_eq!(changed.on(host).is_stale(&flow(text)), *forgotten, "{text}");
        }
    }

    const WITHIN: &str = "tcp 10.1.0.2 10.1.0.3:80";
    const ACROSS: &str = "tcp 10.1.0.2 10.2.0.2:5432";
    const OUT: &str = "tcp 10.1.0.2 198.51.100.1:443";

    #[test]
    fn a_policy_that_goes_takes_its_flows_with_it() {
        let plain = topology();
        let allowing = plain.changed(|it| {
            it.policies = vec![
                policy(true, "10.1.0.0/24", "10.2.0.0/24", &[(Protocol::Tcp, "5432")]),
                policy(true, "10.1.0.2/32", "10.2.0.0/24", &[(Protocol::Udp, "53")]),
                policy(true, "fd01::/64", "fd02::/64", &[]),
            ];
        });
        let less = allowing.changed(|it| drop(it.policies.remove(0)));
        let six = "icmp fd01::2 fd02::2";
        forgets(&allowing, &less, &[(ACROSS, true), ("udp 10.1.0.2 10.2.0.2:53", false), (six, false), (OUT, false)]);
        forgets(&allowing, &plain, &[(ACROSS, true), ("udp 10.1.0.2 10.2.0.2:53", true), (six, true), (OUT, false)]);
        let denying = allowing.changed(|it| it.policies.insert(0, policy(false, "10.1.0.2/32", "0.0.0.0/0", &[])));
        let others = ("tcp 10.1.0.3 10.2.0.2:5432", false);
        forgets(&allowing, &denying, &[(ACROSS, true), (OUT, true), (six, false), others]);
        // Cut into other pieces, the same is said.
        let more = allowing.changed(|it| it.policies.insert(0, policy(true, "10.1.0.2/32", "0.0.0.0/0", &[])));
        forgets(&allowing, &more, &[(ACROSS, false), (OUT, false), (six, false)]);
    }

    #[test]
    fn a_network_that_closes_forgets_what_came_in() {
        let plain = topology();
        let inward = [
            ("tcp 192.0.2.9 10.1.0.2:22", true),
            ("icmp 198.51.100.1 10.1.0.2", true),
            ("tcp 10.2.0.2 10.1.0.2:22", true),
        ];
        let open = plain.changed(|it| it.front.open = true);
        let live = [(WITHIN, false), (OUT, false), ("tcp 192.0.2.1 10.1.0.2:22", false)];
        forgets(&open, &plain, &inward);
        forgets(&open, &plain, &live);
        let internal = plain.changed(|it| it.front.internal = true);
        forgets(&plain, &internal, &[(OUT, true), (WITHIN, false), ("tcp 10.2.0.2 198.51.100.1:443", false)]);
        let apart = plain.changed(|it| (it.front.icc, it.back.icc) = (false, true));
        forgets(&plain, &apart, &[(WITHIN, true), (OUT, false), ("tcp 10.2.0.2 10.2.0.3:22", false)]);
        let access = plain.changed(|it| it.front.host_access = true);
        let to_host =
            [("tcp 10.1.0.2 10.1.0.1:53", true), ("icmp 10.1.0.2 10.1.0.1", false), ("icmp fd01::2 fd01::1", false)];
        forgets(&access, &plain, &to_host);
    }

    #[test]
    fn who_may_no_more_ask_for_a_port_is_forgotten() {
        let published = |nets| topology().changed(|it| it.published = vec![publication(nets)]);
        let (all, some, few) = (
            published(None),
            published(Some(&["192.0.2.0/24", "198.51.100.0/24"])),
            published(Some(&["192.0.2.0/28"])),
        );
        let (near, far) =
            ("tcp 192.0.2.9 192.0.2.1:8080 => 10.1.0.2:80", "tcp 192.0.2.99 192.0.2.1:8080 => 10.1.0.2:80");
        let beyond = "tcp 198.51.100.1 192.0.2.1:8080 => 10.1.0.2:80";
        let own = ("tcp 127.0.0.1 127.0.0.1:8080 => 10.1.0.2:80", false);
        let others = ("tcp 198.51.100.1 192.0.2.1:8080 => 172.17.0.2:80", false);
        forgets(&all, &some, &[(near, false), (far, false), (beyond, false), own]);
        forgets(&some, &few, &[(near, false), (far, true), (beyond, true), own, others]);
        forgets(&all, &few, &[(near, false), (far, true), (beyond, true), own, others]);
    }

    #[test]
    fn a_link_that_is_trusted_no_more_is_told_by_its_addresses() {
        let trusting = |links: &[&str]| {
            topology().changed(|it| it.front.trusted = links.iter().map(|link| (*link).into()).collect())
        };
        let (near, far) = ("tcp 10.99.0.2 10.1.0.2:22", "tcp 10.98.0.2 10.1.0.2:22");
        forgets(&trusting(&["wg0"]), &trusting(&[]), &[(near, true), (far, true), (OUT, false)]);
        forgets(&trusting(&["wg0", "wg1"]), &trusting(&["wg0"]), &[(near, false), (far, false)]);
        forgets(&trusting(&["wg0", "wg1"]), &trusting(&["wg1"]), &[(near, true), (far, false)]);
    }

    #[test]
    fn what_is_looser_or_somebody_elses_or_not_known_lives_on() {
        let plain = topology();
        let looser = plain.changed(|it| {
            (it.front.open, it.front.host_access) = (true, true);
            it.policies = vec![policy(true, "10.1.0.0/24", "10.2.0.0/24", &[])];
            it.published = vec![publication(Some(&["192.0.2.0/24"]))];
            it.front.trusted = vec!["wg0".into()];
        });
        let (from, to) = (plain.firewall(), looser.firewall());
        let notes = |from, to: &Firewall| {
            stale_of(from, &to.elements).iter().filter(|note| matches!(note, super::super::Stale::Begun { .. })).count()
        };
        let unlimited = looser.changed(|it| it.published = vec![publication(None)]).firewall();
        let counts = [notes(Some(&from), &to), notes(Some(&to), &unlimited), notes(Some(&to), &from)];
        assert_eq!(counts, [2, 0, 2]);
        // What is flushed lets everything through.
        assert_eq!(notes(None, &from), 2);

        let internal = plain.changed(|it| (it.front.internal, it.back.internal) = (true, true));
        let open = plain.changed(|it| it.front.open = true);
        let others = [
            ("tcp 10.9.0.2 10.8.0.2:80", false),
            ("tcp 192.0.2.9 192.0.2.1:22", false),
            ("icmp 10.99.0.2 192.0.2.1", false),
        ];
        forgets(&open, &plain, &others);
        // Without their addresses it is not known which bridge they are behind, but that it is one of them.
        let bare = &host()[..1];
        forgets_on(
            bare,
            &open,
            &internal,
            &[(WITHIN, false), (ACROSS, false), (OUT, true), ("tcp 192.0.2.9 10.1.0.2:22", true)],
        );
        // An address of the link alone says nothing.
        forgets(&open, &plain, &[("icmp fe80::9 fd01::2", false)]);
        let related = FlowFacts { related: true, ..flow("tcp 192.0.2.9 10.1.0.2:22") };
        let changed = Flows::new(&stale_of(Some(&open.firewall()), &from.elements), &from);
        assert!(!changed.on(&host()).is_stale(&related));
    }
}
