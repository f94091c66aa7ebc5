//! Flows that conntrack has decided otherwise than the rules now would: a packet of a known flow is mapped as the first
//! one was, whatever the maps say since, and a UDP flow lives for as long as somebody sends.
//!
//! The transaction that changes a mapping notes in the sets `stale4` and `stale6` where such flows may be; they are
//! forgotten, and the notes are taken out. What a kill leaves in the sets is found by the next look. One note is of every
//! flow: it stands in a table that was made anew, before which anything may have begun ([`super::judge`]).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::judge::Judge;
use super::{Element, Elements, Firewall, Mapping};
use crate::model::values::{Ports, Protocol};
use crate::model::wire::FlowFacts;

/// Where stale flows may be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stale {
    /// The protocol.
    pub protocol: Protocol,
    /// Where they were sent to; unspecified: any address of the host.
    pub at: IpAddr,
    /// The ports they were sent to.
    pub ports: Ports,
    /// Where they were mapped to by an entry that is no more; unspecified: an entry is new, and they were not mapped by it.
    pub to: IpAddr,
}

impl Stale {
    /// Every flow is to be judged by the rules as they now are; no port is 0.
    pub(super) const EVERY: Self = Self {
        protocol: Protocol::Tcp,
        at: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ports: Ports { first: 0, last: 0 },
        to: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };

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
        let Self { protocol, at, ports, to } = self;
        if *self == Self::EVERY {
            return f.write_str("all");
        }
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

/// What is to be noted for a change of elements, sorted: the notes that are there, and those of each mapping that goes
/// or comes.
pub(super) fn stale(from: &Elements, to: &Elements) -> Vec<Stale> {
    let removed = from.without(to).filter_map(mapping).map(Stale::removed);
    let mut notes: Vec<Stale> = from.notes().copied().chain(removed).collect();
    let mut added: Vec<Stale> = to.without(from).filter_map(mapping).map(Stale::added).collect();
    added.sort_unstable();
    added.dedup_by(|next, last| last.joins(next));
    notes.extend(added);
    notes.sort_unstable();
    notes.dedup();
    notes
}

/// Notes, and the mappings as they now are: together they say of each flow whether it is to be forgotten.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    /// By protocol and address, sorted by first port, with the width of the widest.
    notes: BTreeMap<(Protocol, IpAddr), (Vec<Stale>, u16)>,
    /// By protocol, address and first port; those of one protocol and address do not overlap.
    mappings: BTreeMap<(Protocol, IpAddr, u16), Mapping>,
    subnets: Vec<IpNet>,
    /// Whoever judges those that the rules may not have let begin.
    judge: Option<Arc<Judge>>,
}

impl Flows {
    /// The flows at `notes`, sorted, that a firewall means otherwise.
    pub(super) fn new(notes: &[Stale], firewall: &Firewall) -> Self {
        let judge = notes.contains(&Stale::EVERY).then(|| Arc::new(Judge::new(firewall)));
        let mut flows = Self { judge, ..Self::default() };
        for note in notes.iter().filter(|note| **note != Stale::EVERY) {
            let (at, widest) = flows.notes.entry((note.protocol, note.at)).or_default();
            *widest = (*widest).max(note.ports.last - note.ports.first);
            at.push(*note);
        }
        for element in firewall.elements.iter() {
            match element {
                Element::Publish(mapping) => {
                    let Stale { protocol, at, ports, .. } = Stale::added(mapping);
                    flows.mappings.insert((protocol, at, ports.first), *mapping);
                }
                Element::Subnet(net) => flows.subnets.push(*net),
                _ => {}
            }
        }
        flows
    }

    /// Whether conntrack is to forget a flow: it is mapped otherwise than it should be, or would not have begun.
    pub fn is_stale(&self, flow: &FlowFacts) -> bool {
        let mapped = flow.protocol.is_some_and(|protocol| self.is_mapped_otherwise(protocol, flow));
        mapped || self.judge.as_ref().is_some_and(|judge| !judge.lets_begin(flow))
    }

    /// Whether it is one at a note that is mapped by an entry of ours that is no more, or that
    /// an entry of ours should map and that goes to the host itself. Of the latter a connection that stands is left alone:
    /// whoever on the host has it was there before.
    fn is_mapped_otherwise(&self, protocol: Protocol, flow: &FlowFacts) -> bool {
        let (address, port) = flow.destination;
        let any = unspecified(address.is_ipv6());
        let means = self.mapped(protocol, address, port).or_else(|| {
            let local = flow.mapped || flow.local;
            self.mapped(protocol, any, port).filter(|_| local)
        });
        if means == Some(flow.answers) {
            return false;
        }
        let into_ours = |address: &IpAddr| self.subnets.iter().any(|net| net.contains(address));
        let stale = |note: &Stale| match (note.to.is_unspecified(), flow.mapped) {
            (false, mapped) => mapped && note.to == flow.answers.0,
            (true, true) => into_ours(&flow.answers.0),
            (true, false) => means.is_some() && (protocol == Protocol::Udp || !flow.assured),
        };
        let at_any = flow.mapped || flow.local;
        self.at(protocol, address, port).any(stale) || at_any && self.at(protocol, any, port).any(stale)
    }

    /// Notes of a protocol and address that hold a port.
    fn at(&self, protocol: Protocol, address: IpAddr, port: u16) -> impl Iterator<Item = &Stale> {
        let (notes, widest) =
            self.notes.get(&(protocol, address)).map_or((&[] as &[Stale], 0), |(notes, widest)| (notes, *widest));
        let begun = notes.partition_point(|note| note.ports.first <= port);
        let near = notes[..begun].iter().rev().take_while(move |note| port - note.ports.first <= widest);
        near.filter(move |note| note.ports.last >= port)
    }

    /// Where a mapping at an address leads.
    fn mapped(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<(IpAddr, u16)> {
        let (_, mapping) = self.mappings.range(..=(protocol, address, port)).next_back()?;
        let here = mapping.protocol == protocol && Stale::added(mapping).at == address && mapping.ports.last >= port;
        here.then_some((mapping.target, mapping.port.unwrap_or(port)))
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
        FlowFacts {
            protocol: Some(Protocol::Udp),
            source: address(if to.0.contains(':') { "2001:db8::9" } else { "203.0.113.9" }),
            own: false,
            destination,
            answers,
            mapped: destination != answers,
            assured: true,
            local: to.0.starts_with("192.0.2."),
        }
    }

    fn firewall(elements: Elements) -> Firewall {
        Firewall { elements, ..Firewall::new("shop", &[], &[]) }
    }

    /// Which of some flows a change makes stale.
    fn told(from: &[Element], to: &[Element], flows: &[FlowFacts]) -> Vec<bool> {
        let (from, to) = (elements(from), elements(to));
        let changed = Flows::new(&stale(&from, &to), &firewall(to));
        flows.iter().map(|flow| changed.is_stale(flow)).collect()
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
        let notes = stale(&elements(&[range.clone(), single]), &elements(&[]));
        assert_eq!(notes.iter().map(ToString::to_string).collect::<Vec<_>>(), [
            "udp 1000-1999 -> 10.10.0.10",
            "udp 1500 -> 10.10.0.11"
        ]);
        let flows = [
            flow(("192.0.2.1", 1500), ("10.10.0.10", 1500)),
            flow(("192.0.2.1", 1999), ("10.10.0.10", 1999)),
            flow(("192.0.2.1", 1500), ("10.10.0.11", 80)),
        ];
        assert_eq!(flows.map(|flow| Flows::new(&notes, &firewall(elements(&[]))).is_stale(&flow)), [true; 3]);
        let many = (2000..3000).map(|port| publish(None, &port.to_string(), "10.10.0.10", Some(80)));
        let many: Vec<Element> = many.collect();
        assert_eq!(stale(&elements(&[]), &elements(&many)).len(), 1);
        assert_eq!(stale(&elements(&[range]), &elements(&many)).len(), 2);
    }
}
