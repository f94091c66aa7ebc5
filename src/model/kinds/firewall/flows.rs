//! Flows that conntrack has decided otherwise than the rules now would. A packet of a known flow is mapped as the first
//! one was, whatever the maps say since, and is let through as the first one was, whatever the rules say since; and a flow
//! lives for as long as somebody sends.
//!
//! The transaction that changes a mapping, or makes the rules tighter, notes in the sets `stale4` and `stale6` where such
//! flows may be; they are forgotten, and that is noted beside. What a kill leaves without that word is found by the next
//! look. The notes of before go with the first transaction that leaves new ones: whoever has deleted an element waits for
//! a grace period when it closes its socket, and a set-up has nothing else to delete.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::begin::{Beginning, Prefixes};
use super::{Element, Elements, Firewall, Mapping, Role, Rules, Turn, Verdict};
use crate::model::resource::Text;
use crate::model::values::{Ports, Protocol};
use crate::model::wire::FlowFacts;

/// Which flows may be stale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stale {
    /// Those that were sent to where a mapping is, or was.
    Sent(Sent),
    /// Any of a family: the rules became tighter, and some could not begin any more.
    Begun {
        /// Whether of IPv6.
        ipv6: bool,
    },
    /// None of a family any more: what is noted beside this is forgotten.
    Forgotten {
        /// Whether of IPv6.
        ipv6: bool,
    },
}

impl Stale {
    /// Of which family.
    pub fn is_ipv6(&self) -> bool {
        match self {
            Self::Sent(sent) => sent.at.is_ipv6(),
            Self::Begun { ipv6 } | Self::Forgotten { ipv6 } => *ipv6,
        }
    }

    /// The set that it is noted in.
    pub(super) fn set(&self) -> &'static str {
        if self.is_ipv6() { "stale6" } else { "stale4" }
    }
}

/// Where flows of a mapping were sent to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Sent {
    /// The protocol.
    pub protocol: Protocol,
    /// Where they were sent to; unspecified: any address of the host.
    pub at: IpAddr,
    /// The ports they were sent to.
    pub ports: Ports,
    /// Where they were mapped to by an entry that is no more; unspecified: an entry is new, and they were not mapped by it.
    pub to: IpAddr,
}

impl Sent {
    fn removed(mapping: &Mapping) -> Self {
        Self { to: mapping.target, ..Self::added(mapping) }
    }

    fn added(mapping: &Mapping) -> Self {
        let any = unspecified(mapping.target.is_ipv6());
        let at = mapping.listen.unwrap_or(any);
        Self { protocol: mapping.protocol, at, ports: mapping.ports, to: any }
    }

    /// Notes of new entries are of ports only, so those of neighbouring ports are one.
    fn joins(&mut self, next: &Self) -> bool {
        let same = (self.protocol, self.at, self.to) == (next.protocol, next.at, next.to);
        let joins = same && self.to.is_unspecified() && self.ports.last.checked_add(1) == Some(next.ports.first);
        if joins {
            self.ports.last = next.ports.last;
        }
        joins
    }
}

/// As people read it in a plan: `udp 8080 -> 10.10.0.10`.
impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sent { protocol, at, ports, to } = match self {
            Self::Sent(sent) => sent,
            Self::Begun { ipv6 } => return write!(f, "IPv{} that could not begin", if *ipv6 { 6 } else { 4 }),
            Self::Forgotten { ipv6 } => return write!(f, "IPv{} that are forgotten", if *ipv6 { 6 } else { 4 }),
        };
        match (at.is_unspecified(), at) {
            (true, _) => write!(f, "{protocol} {ports}")?,
            (false, IpAddr::V4(at)) => write!(f, "{protocol} {at}:{ports}")?,
            (false, IpAddr::V6(at)) => write!(f, "{protocol} [{at}]:{ports}")?,
        }
        if to.is_unspecified() { Ok(()) } else { write!(f, " -> {to}") }
    }
}

fn unspecified(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

fn mapping(element: &Element) -> Option<&Mapping> {
    match element {
        Element::Publish(mapping) => Some(mapping),
        _ => None,
    }
}

/// Whether less passes than before: something that lets pass is gone, or something that stops is new. What conntrack never
/// sees, the frames within a bridge, does not count.
fn tighter(turn: &Turn, to: &Elements) -> bool {
    let lets_pass = |element: &Element| match element {
        Element::Link(role, _) => matches!(role, Role::Open | Role::HostAccess | Role::Icc),
        Element::Policy(verdict, _) => *verdict == Verdict::Allow,
        Element::AllowFrom(_, listen) => to.contains(&Element::Limited(*listen)),
        Element::Trusted(..) => true,
        _ => false,
    };
    let stops = |element: &Element| match element {
        Element::Link(role, _) => matches!(role, Role::Bridge | Role::Internal | Role::NoIcc),
        Element::Policy(verdict, _) => *verdict == Verdict::Deny,
        Element::Limited(_) => true,
        _ => false,
    };
    turn.gone.iter().any(|element| lets_pass(element)) || turn.new.iter().any(|element| stops(element))
}

/// What is to be noted for a change of elements, sorted: the notes that are there, those of each mapping that goes or
/// comes, and one for each family if the rules become tighter. Rules that were not there let through everything, and
/// those that were altered nobody knows what. The turn is that from the one to the other.
pub(super) fn stale(from: Option<&Firewall>, to: &Elements, turn: &Turn) -> Vec<Stale> {
    let intact = from.is_some_and(|from| from.rules == Rules::Intact);
    let removed = turn.gone.iter().copied().filter_map(mapping).map(Sent::removed).map(Stale::Sent);
    let before = from.into_iter().flat_map(|from| from.elements.notes());
    let mut notes: Vec<Stale> = before.copied().chain(removed).collect();
    let mut added: Vec<Sent> = turn.new.iter().copied().filter_map(mapping).map(Sent::added).collect();
    added.sort_unstable();
    added.dedup_by(|next, last| last.joins(next));
    notes.extend(added.into_iter().map(Stale::Sent));
    if !intact || tighter(turn, to) {
        let ours =
            |element: &Element| if let Element::Subnet(net) = element { Some(net.addr().is_ipv6()) } else { None };
        notes.extend(to.iter().filter_map(ours).map(|ipv6| Stale::Begun { ipv6 }));
    }
    notes.sort_unstable();
    notes.dedup();
    notes
}

/// The same where nobody has found the turn yet.
#[cfg(test)]
pub(super) fn stale_of(from: Option<&Firewall>, to: &Elements) -> Vec<Stale> {
    stale(from, to, &Turn::between(from, to))
}

/// The words that what was noted is done.
pub(super) fn forgotten(notes: &[Stale]) -> Elements {
    notes.iter().map(|note| Element::Stale(Stale::Forgotten { ipv6: note.is_ipv6() })).collect()
}

/// Notes, and the rules as they now are: together they say of each flow whether it is to be forgotten.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    /// By protocol and address, sorted by first port, with the width of the widest.
    notes: BTreeMap<(Protocol, IpAddr), (Vec<Sent>, u16)>,
    /// By protocol, address and first port; those of one protocol and address do not overlap.
    mappings: BTreeMap<(Protocol, IpAddr, u16), Mapping>,
    subnets: Prefixes<()>,
    /// Whether flows of IPv4, and of IPv6, are to be judged by the rules.
    begun: [bool; 2],
    rules: Option<Firewall>,
}

impl Flows {
    /// The flows at `notes`, sorted, that a firewall means otherwise.
    pub(super) fn new(notes: &[Stale], firewall: &Firewall) -> Self {
        let mut flows = Self::default();
        for note in notes {
            match note {
                Stale::Sent(sent) => {
                    let (at, widest) = flows.notes.entry((sent.protocol, sent.at)).or_default();
                    *widest = (*widest).max(sent.ports.last - sent.ports.first);
                    at.push(*sent);
                }
                Stale::Begun { ipv6 } => flows.begun[usize::from(*ipv6)] = true,
                Stale::Forgotten { .. } => {}
            }
        }
        for element in firewall.elements.iter() {
            match element {
                Element::Publish(mapping) => {
                    let Sent { protocol, at, ports, .. } = Sent::added(mapping);
                    flows.mappings.insert((protocol, at, ports.first), *mapping);
                }
                Element::Subnet(net) => *flows.subnets.entry(net) = (),
                _ => {}
            }
        }
        flows.rules = flows.begun.contains(&true).then(|| firewall.clone());
        flows
    }

    /// The same on a host with such addresses on its links.
    pub fn on(&self, addresses: &[(Text, IpNet)]) -> FlowsOnHost<'_> {
        FlowsOnHost {
            flows: self,
            local: addresses.iter().map(|(_, address)| address.addr()).collect(),
            beginning: self.rules.as_ref().map(|rules| Beginning::new(rules, addresses)),
        }
    }

    /// Notes of a protocol and address that hold a port.
    fn at(&self, protocol: Protocol, address: IpAddr, port: u16) -> impl Iterator<Item = &Sent> {
        let (notes, widest) =
            self.notes.get(&(protocol, address)).map_or((&[] as &[Sent], 0), |(notes, widest)| (notes, *widest));
        let begun = notes.partition_point(|note| note.ports.first <= port);
        let near = notes[..begun].iter().rev().take_while(move |note| port - note.ports.first <= widest);
        near.filter(move |note| note.ports.last >= port)
    }

    /// Where a mapping at an address leads.
    fn mapped(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<(IpAddr, u16)> {
        let (_, mapping) = self.mappings.range(..=(protocol, address, port)).next_back()?;
        let here = mapping.protocol == protocol && Sent::added(mapping).at == address && mapping.ports.last >= port;
        here.then_some((mapping.target, mapping.port.unwrap_or(port)))
    }
}

/// What is to be forgotten on a host.
#[derive(Debug)]
pub struct FlowsOnHost<'a> {
    flows: &'a Flows,
    local: BTreeSet<IpAddr>,
    beginning: Option<Beginning>,
}

impl FlowsOnHost<'_> {
    /// Whether conntrack is to forget a flow.
    pub fn is_stale(&self, flow: &FlowFacts) -> bool {
        self.is_mapped_otherwise(flow) || self.could_not_begin(flow)
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.local.contains(&address)
    }

    /// Whether it is a flow at a note that is mapped by an entry of ours that is no more, or that an entry of ours should
    /// map and that goes to the host itself. Of the latter a connection that stands is left alone: whoever on the host
    /// has it was there before.
    fn is_mapped_otherwise(&self, flow: &FlowFacts) -> bool {
        let (flows, (address, port)) = (self.flows, flow.destination);
        let Some(protocol) = flow.protocol else { return false };
        let any = unspecified(address.is_ipv6());
        let at_any = flow.mapped || self.is_local(address);
        let means =
            flows.mapped(protocol, address, port).or_else(|| flows.mapped(protocol, any, port).filter(|_| at_any));
        if means == Some(flow.answers) {
            return false;
        }
        let stale = |note: &Sent| match (note.to.is_unspecified(), flow.mapped) {
            (false, mapped) => mapped && note.to == flow.answers.0,
            (true, true) => flows.subnets.longest(flow.answers.0).is_some(),
            (true, false) => means.is_some() && (protocol == Protocol::Udp || !flow.assured),
        };
        flows.at(protocol, address, port).any(stale) || at_any && flows.at(protocol, any, port).any(stale)
    }

    /// Whether it is a flow of our networks that could not begin any more. One that another flow led to, as FTP's data,
    /// did not begin by itself.
    fn could_not_begin(&self, flow: &FlowFacts) -> bool {
        let Some(beginning) = self.beginning.as_ref().filter(|_| !flow.related) else { return false };
        let ends = [flow.source, flow.destination.0, flow.answers.0];
        self.flows.begun[usize::from(flow.source.is_ipv6())]
            && ends.iter().any(|end| self.flows.subnets.longest(*end).is_some())
            && !beginning.possible(flow, &self.flows.subnets, &|address| self.is_local(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(listen: Option<&str>, ports: &str, target: &str, port: Option<u16>) -> Element {
        let listen = listen.and_then(|listen| listen.parse().ok());
        let (ports, target) = (ports.parse().expect("ports"), target.parse().expect("an address"));
        Element::Publish(Mapping { listen, protocol: Protocol::Udp, ports, target, port })
    }

    fn elements(publishes: &[Element]) -> Elements {
        let subnets = ["10.10.0.0/24", "fd10::/64"].map(|net| Element::Subnet(net.parse().expect("a net")));
        publishes.iter().cloned().chain(subnets).collect()
    }

    fn flow(to: (&str, u16), answers: (&str, u16)) -> FlowFacts {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (destination, answers) = ((address(to.0), to.1), (address(answers.0), answers.1));
        let (source, mapped) = (address("198.51.100.9"), destination != answers);
        FlowFacts { protocol: Some(Protocol::Udp), source, destination, answers, mapped, assured: true, related: false }
    }

    /// A firewall of one network with these mappings.
    fn firewall(publishes: &[Element]) -> Firewall {
        let elements = elements(publishes);
        Firewall::holding("netrec-t".into(), elements)
    }

    fn host() -> [(Text, IpNet); 1] {
        [("up0".into(), "192.0.2.1/24".parse().expect("an address"))]
    }

    /// Which of some flows a change makes stale.
    fn told(from: &[Element], to: &[Element], flows: &[FlowFacts]) -> Vec<bool> {
        let (from, to) = (firewall(from), firewall(to));
        let changed = Flows::new(&stale_of(Some(&from), &to.elements), &to);
        flows.iter().map(|flow| changed.on(&host()).is_stale(flow)).collect()
    }

    #[test]
    fn of_a_mapping_that_goes_its_own_flows_are_forgotten() {
        let flows = [
            flow(("192.0.2.1", 53), ("10.10.0.10", 5353)),
            flow(("192.0.2.1", 53), ("172.17.0.2", 5353)), // somebody else's
            flow(("192.0.2.1", 54), ("10.10.0.10", 5353)), // of another port
            flow(("192.0.2.1", 53), ("192.0.2.1", 53)),    // the host's own
            flow(("198.51.100.1", 53), ("198.51.100.1", 53)), // passing through
        ];
        let own = publish(None, "53", "10.10.0.10", Some(5353));
        assert_eq!(told(std::slice::from_ref(&own), &[], &flows), [true, false, false, false, false]);
        assert_eq!(told(std::slice::from_ref(&own), std::slice::from_ref(&own), &flows), [false; 5]);
        // What another mapping means just so stays.
        let at = publish(Some("192.0.2.1"), "53", "10.10.0.10", Some(5353));
        assert_eq!(told(&[own, at.clone()], &[at], &flows), [false; 5]);
    }

    #[test]
    fn a_mapping_that_comes_takes_what_went_to_the_host() {
        let flows = [
            flow(("192.0.2.1", 53), ("192.0.2.1", 53)),
            flow(("198.51.100.1", 53), ("198.51.100.1", 53)), // passing through
            flow(("192.0.2.1", 53), ("172.17.0.2", 53)),      // mapped by others
            flow(("192.0.2.1", 53), ("10.10.0.11", 53)),      // mapped by us, before the rules were flushed
            flow(("192.0.2.1", 53), ("10.10.0.10", 53)),
            FlowFacts { protocol: Some(Protocol::Tcp), ..flow(("192.0.2.1", 53), ("192.0.2.1", 53)) },
        ];
        let wild = publish(None, "53", "10.10.0.10", Some(53));
        assert_eq!(told(&[], std::slice::from_ref(&wild), &flows), [true, false, false, true, false, false]);
        let other = publish(Some("192.0.2.9"), "53", "10.10.0.10", Some(53));
        assert_eq!(told(&[], &[other], &flows), [false; 6]);
        let six = publish(None, "53", "fd10::10", Some(53));
        assert_eq!(told(&[], &[six], &flows), [false; 6]);
        let moved = publish(None, "53", "10.10.0.12", Some(53));
        assert_eq!(told(&[wild], &[moved], &flows), [true, false, false, true, true, false]);
    }

    #[test]
    fn ranges_are_one_note_and_hold_all_their_ports() {
        let range = publish(None, "1000-1999", "10.10.0.10", None);
        let single = publish(None, "1500", "10.10.0.11", Some(80));
        let notes = stale_of(Some(&firewall(&[range.clone(), single])), &elements(&[]));
        assert_eq!(
            notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["udp 1000-1999 -> 10.10.0.10", "udp 1500 -> 10.10.0.11"]
        );
        let flows = [
            flow(("192.0.2.1", 1500), ("10.10.0.10", 1500)),
            flow(("192.0.2.1", 1999), ("10.10.0.10", 1999)),
            flow(("192.0.2.1", 1500), ("10.10.0.11", 80)),
        ];
        assert_eq!(flows.map(|flow| Flows::new(&notes, &firewall(&[])).on(&host()).is_stale(&flow)), [true; 3]);
        let many = (2000..3000).map(|port| publish(None, &port.to_string(), "10.10.0.10", Some(80)));
        let many: Vec<Element> = many.collect();
        assert_eq!(stale_of(Some(&firewall(&[])), &elements(&many)).len(), 1);
        assert_eq!(stale_of(Some(&firewall(&[range])), &elements(&many)).len(), 2);
    }
}
