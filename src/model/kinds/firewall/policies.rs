//! From policies in order, of which the first that matches wins, to elements of which none overlaps another.
//!
//! Sets cannot hold overlapping intervals and know no order. So what an earlier policy has said is cut out of the later
//! ones, field by field, and what is left of all of them stands in the sets in any order.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Element, Passage, Verdict};
use crate::model::values::{Ports, Protocol};

/// Elements that policies may become at most, of both families together. The kernel's time for them grows with their square
/// (`nft_set_pipapo`): as many take it some seconds, and a transaction must be answered in five.
const ELEMENTS: usize = 16_384;

/// A policy, its names resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Whether it lets through what it matches, or drops it.
    pub allow: bool,
    /// Who asks.
    pub from: Vec<IpNet>,
    /// Who is asked.
    pub to: Vec<IpNet>,
    /// For what; empty: whatever it is.
    pub ports: Vec<(Protocol, Ports)>,
}

/// Policies that became more elements than there may be: the number of the one that was too much.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("more than {ELEMENTS} elements are needed to tell apart what policies say")]
pub struct TooMany(pub usize);

/// Elements of policies in order; `bridged` are the subnets of each network whose endpoints reach each other without
/// the host, none overlapping another.
///
/// # Errors
///
/// [`TooMany`] elements.
pub fn policies(policies: &[Policy], bridged: &[Vec<IpNet>]) -> Result<Vec<Element>, TooMany> {
    let (mut elements, mut judged) = (Vec::new(), Vec::new());
    for ipv6 in [false, true] {
        let said = disjoint(policies, ipv6)?;
        for (cube, allow) in &said {
            let verdict = if *allow { Verdict::Allow } else { Verdict::Deny };
            elements.push(Element::Policy(verdict, cube.passage(ipv6).into()));
        }
        for subnets in bridged {
            let own = || subnets.iter().filter(|net| net.addr().is_ipv6() == ipv6);
            let pairs = || own().flat_map(|from| own().map(move |to| Cube::new(from, to, None)));
            let denied = said.iter().filter(|(_, allow)| !allow);
            let within = denied.flat_map(|(cube, _)| pairs().filter_map(|pair| cube.within(&pair)));
            let before = elements.len();
            elements.extend(within.map(|cube| Element::Policy(Verdict::DenyWithin, cube.passage(ipv6).into())));
            if elements.len() > before {
                judged.extend(own().map(|net| Element::Judged(net.trunc())));
            }
        }
        if elements.len() > ELEMENTS {
            return Err(TooMany(policies.len() - 1));
        }
    }
    elements.append(&mut judged);
    Ok(elements)
}

/// What is left of each policy after all before it.
fn disjoint(policies: &[Policy], ipv6: bool) -> Result<Vec<(Cube, bool)>, TooMany> {
    let (mut said, mut left) = (Said::default(), Vec::new());
    for (at, policy) in policies.iter().enumerate() {
        for cube in cubes(policy, ipv6) {
            let mut pieces = vec![cube];
            for before in said.meeting(&cube) {
                pieces = pieces.iter().flat_map(|piece| piece.without(before)).collect();
            }
            left.extend(pieces.into_iter().map(|piece| (piece, policy.allow)));
            said.add(cube);
            if left.len() > ELEMENTS {
                return Err(TooMany(at));
            }
        }
    }
    Ok(left)
}

/// What was said before. Most of it is about one address that is asked for, as published ports of routed networks are,
/// and is found by it.
#[derive(Default)]
struct Said {
    wide: Vec<Cube>,
    narrow: BTreeMap<u128, Vec<Cube>>,
}

impl Said {
    fn add(&mut self, cube: Cube) {
        let (first, last) = cube.0[0];
        if first == last { self.narrow.entry(first).or_default().push(cube) } else { self.wide.push(cube) }
    }

    fn meeting(&self, cube: &Cube) -> impl Iterator<Item = &Cube> {
        let (first, last) = cube.0[0];
        let narrow = self.narrow.range(first..=last).flat_map(|(_, cubes)| cubes);
        self.wide.iter().chain(narrow).filter(|before| cube.within(before).is_some())
    }
}

fn cubes(policy: &Policy, ipv6: bool) -> Vec<Cube> {
    let own = |nets: &[IpNet]| nets.iter().copied().filter(|net| net.addr().is_ipv6() == ipv6).collect::<Vec<_>>();
    let mut ports: Vec<Option<(Protocol, Ports)>> = policy.ports.iter().copied().map(Some).collect();
    if ports.is_empty() {
        ports.push(None);
    }
    let (from, to) = (own(&policy.from), own(&policy.to));
    let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (from, to)));
    pairs.flat_map(|(from, to)| ports.iter().map(move |ports| Cube::new(from, to, *ports))).collect()
}

/// Packets as a cube of intervals: destination, source, protocols, ports. It is cut in this order, as what policies say
/// of addresses is mostly narrow, and what is said of other addresses then stays in one piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cube([(u128, u128); 4]);

const PROTOCOLS: (u128, u128) = (0, u8::MAX as u128);
const PORTS: (u128, u128) = (0, u16::MAX as u128);

impl Cube {
    fn new(from: &IpNet, to: &IpNet, ports: Option<(Protocol, Ports)>) -> Self {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let interval = |net: &IpNet| (number(net.network()), number(net.broadcast()));
        let (protocols, ports) = match ports {
            None => (PROTOCOLS, PORTS),
            Some((protocol, ports)) => {
                ((protocol as u128, protocol as u128), (u128::from(ports.first), u128::from(ports.last)))
            }
        };
        Self([interval(to), interval(from), protocols, ports])
    }

    /// What is in both.
    fn within(&self, other: &Self) -> Option<Self> {
        let mut both = *self;
        for (own, other) in both.0.iter_mut().zip(other.0) {
            *own = (own.0.max(other.0), own.1.min(other.1));
            if own.0 > own.1 {
                return None;
            }
        }
        Some(both)
    }

    /// What is in this one only, in pieces.
    fn without(&self, other: &Self) -> Vec<Self> {
        let Some(both) = self.within(other) else { return vec![*self] };
        let (mut pieces, mut rest) = (Vec::new(), *self);
        for field in 0..4 {
            let ((first, last), (from, to)) = (rest.0[field], both.0[field]);
            let mut piece = |interval| {
                let mut piece = rest;
                piece.0[field] = interval;
                pieces.push(piece);
            };
            if first < from {
                piece((first, from - 1));
            }
            if to < last {
                piece((to + 1, last));
            }
            rest.0[field] = (from, to);
        }
        pieces
    }

    fn passage(&self, ipv6: bool) -> Passage {
        let address = |number: u128| -> IpAddr {
            if ipv6 { Ipv6Addr::from(number).into() } else { Ipv4Addr::from(number as u32).into() }
        };
        let [to, from, protocols, ports] = self.0;
        let addresses = |(first, last)| (address(first), address(last));
        Passage {
            from: addresses(from),
            to: addresses(to),
            protocols: (protocols.0 as u8, protocols.1 as u8),
            ports: (ports != PORTS).then_some((ports.0 as u16, ports.1 as u16)),
        }
    }
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::*;

    fn net(address: u32, length: u8) -> IpNet {
        Ipv4Net::new_assert((0x0a00_0000 | address).into(), 28 + length).trunc().into()
    }

    prop_compose! {
        fn policy()(
            allow: bool,
            from in (0..16_u32, 0..=4_u8),
            to in (0..16_u32, 0..=4_u8),
            ports in prop::collection::vec((0..2_u8, 1..6_u16, 0..4_u16), 0..3),
        ) -> Policy {
            let protocol = |number| if number == 0 { Protocol::Tcp } else { Protocol::Udp };
            let ports = ports.into_iter().map(|(number, first, more)| (protocol(number), Ports { first, last: first + more }));
            Policy { allow, from: vec![net(from.0, from.1)], to: vec![net(to.0, to.1)], ports: ports.collect() }
        }
    }

    #[test]
    fn only_subnets_of_networks_with_a_policy_within_are_judged() {
        let nets = |all: &[&str]| all.iter().map(|net| net.parse().expect("a net")).collect::<Vec<IpNet>>();
        let (front, back) = (nets(&["10.1.0.0/24", "10.2.0.0/24", "fd01::/64"]), nets(&["10.3.0.0/24", "fd03::/64"]));
        let judged = |allow, from: &str, to: &str| {
            let policy = Policy { allow, from: nets(&[from]), to: nets(&[to]), ports: Vec::new() };
            let elements = policies(&[policy], &[front.clone(), back.clone()]).expect("few enough");
            let net = |element| if let Element::Judged(net) = element { Some(net.to_string()) } else { None };
            elements.into_iter().filter_map(net).collect::<Vec<_>>()
        };
        assert_eq!(judged(false, "10.1.0.9/32", "10.2.0.9/32"), ["10.1.0.0/24", "10.2.0.0/24"]);
        assert_eq!(judged(false, "::/0", "fd03::9/128"), ["fd03::/64"]);
        assert_eq!(judged(false, "10.1.0.9/32", "10.3.0.9/32"), [""; 0], "it is not within one");
        assert_eq!(judged(true, "0.0.0.0/0", "0.0.0.0/0"), [""; 0], "it denies nothing");
    }

    #[test]
    fn elements_are_limited_and_judged_subnets_are_none_of_them() {
        let nets = |first: u32, count: u32| {
            (first..first + count).map(|at| IpNet::from(IpAddr::from(Ipv4Addr::from(at)))).collect::<Vec<_>>()
        };
        let subnets = || vec!["10.0.0.0/24".parse().expect("a net")];
        let policy = |from, to| Policy { allow: false, from, to, ports: Vec::new() };
        let within = policy(nets(0x0a00_0001, 2), nets(0x0a00_0003, 2)); // four elements, each twice
        let count = |more: u32| {
            policies(&[within.clone(), policy(nets(0x0b00_0000, 8), nets(0x0c00_0000, more))], &[subnets()])
        };
        let most = u32::try_from((ELEMENTS - 8) / 8).expect("few");
        assert_eq!(count(most).map(|elements| elements.len()), Ok(ELEMENTS + 1));
        assert_eq!(count(most + 1), Err(TooMany(1)));
    }

    proptest! {
        /// Of each packet the elements say what the first policy that matches it says, and no two match it.
        #[test]
        fn the_first_policy_wins(all in prop::collection::vec(policy(), 0..6)) {
            let said = disjoint(&all, false).expect("few enough");
            for (from, to) in (0..16).flat_map(|from| (0..16).map(move |to| (from, to))) {
                for (protocol, port) in [(6, 0), (6, 2), (6, 3), (6, 5), (17, 1), (17, 7), (1, 3)] {
                    let address = |number: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0000 | number));
                    let first = all.iter().find(|policy| {
                        let named = |(of, ports): &(Protocol, Ports)| {
                            *of as u8 == protocol && (ports.first..=ports.last).contains(&port)
                        };
                        policy.from[0].contains(&address(from))
                            && policy.to[0].contains(&address(to))
                            && (policy.ports.is_empty() || policy.ports.iter().any(named))
                    });
                    let packet = Cube([
                        (u128::from(0x0a00_0000 | to), u128::from(0x0a00_0000 | to)),
                        (u128::from(0x0a00_0000 | from), u128::from(0x0a00_0000 | from)),
                        (u128::from(protocol), u128::from(protocol)),
                        (u128::from(port), u128::from(port)),
                    ]);
                    let matching: Vec<bool> =
                        said.iter().filter(|(cube, _)| packet.within(cube).is_some()).map(|(_, allow)| *allow).collect();
                    prop_assert_eq!(matching, first.map(|policy| policy.allow).into_iter().collect::<Vec<_>>());
                }
            }
        }
    }
}
