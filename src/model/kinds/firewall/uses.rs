//! Parts of the skeleton that only some topologies use. What is not used is not there: most have none of them, and their
//! packets pass fewer rules, their tables are made, read and listed in half the time.

use std::fmt;
use std::ops::BitOr;

/// Some of the parts; none is what every topology has.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Uses(pub(super) u32);

impl Uses {
    pub(super) const NONE: Self = Self(0);
    pub(super) const INTERNAL: Self = Self(1);
    pub(super) const OPEN: Self = Self(1 << 1);
    pub(super) const HOST_ACCESS: Self = Self(1 << 2);
    pub(super) const NO_ICC: Self = Self(1 << 3);
    pub(super) const TRUSTED: Self = Self(1 << 4);
    pub(super) const MASQUERADE: Self = Self(1 << 5);
    pub(super) const SNAT: Self = Self(1 << 6);
    pub(super) const PUBLISH: Self = Self(1 << 7);
    pub(super) const RANGES: Self = Self(1 << 8);
    pub(super) const PUBLISH_AT: Self = Self(1 << 9);
    pub(super) const RANGES_AT: Self = Self(1 << 10);
    pub(super) const LIMITED: Self = Self(1 << 11);
    pub(super) const LIMITED_AT: Self = Self(1 << 12);
    pub(super) const DENY: Self = Self(1 << 13);
    pub(super) const ALLOW: Self = Self(1 << 14);
    pub(super) const WITHIN: Self = Self(1 << 15);

    /// All that there may be.
    #[allow(dead_code, reason = "the build script's, and tests'")]
    pub(super) const ALL: Self = Self(u32::MAX);

    /// Each, with a word for people.
    const WORDS: [(Self, &'static str); 16] = [
        (Self::INTERNAL, "internal"),
        (Self::OPEN, "open"),
        (Self::HOST_ACCESS, "host_access"),
        (Self::NO_ICC, "no icc"),
        (Self::TRUSTED, "trusted"),
        (Self::MASQUERADE, "masquerade"),
        (Self::SNAT, "snat"),
        (Self::PUBLISH, "publish"),
        (Self::RANGES, "publish ranges"),
        (Self::PUBLISH_AT, "publish at an address"),
        (Self::RANGES_AT, "publish ranges at an address"),
        (Self::LIMITED, "allow_from"),
        (Self::LIMITED_AT, "allow_from at an address"),
        (Self::DENY, "deny"),
        (Self::ALLOW, "allow"),
        (Self::WITHIN, "deny within a bridge"),
    ];

    /// Whether all of some are among these.
    pub(super) fn contains(self, some: Self) -> bool {
        self.0 & some.0 == some.0
    }
}

impl BitOr for Uses {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Uses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Self::WORDS.into_iter().filter(|(part, _)| self.contains(*part)).map(|(_, word)| word);
        f.write_str(&words.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::{Firewall, Guard, Hook, NetworkRules, Packet, Policy, Publication, Ruleset, Service, SourceNat};
    use super::super::{group, policies};
    use super::*;
    use crate::model::values::{Mac, Protocol};

    fn parsed<T: std::str::FromStr<Err: fmt::Debug>>(text: &str) -> T {
        text.parse().expect("what a test says is valid")
    }

    const LINKS: [&str; 4] = ["br-front", "br-back", "wg0", "nr-one"];
    const ADDRESSES: [&str; 8] =
        ["10.1.0.2", "10.1.0.3", "10.2.0.2", "192.0.2.1", "fd01::2", "fd01::3", "fd02::2", "2001:db8::1"];
    const SERVICES: [Service; 2] = [Service::Port(Protocol::Tcp, 8080), Service::Echo];

    /// A packet that meets every rule that anything could have a say about.
    fn packets() -> Vec<Packet> {
        let mut packets = Vec::new();
        for (from, to) in ADDRESSES.iter().flat_map(|from| ADDRESSES.map(|to| (*from, to))) {
            let (from, to): (IpAddr, IpAddr) = (parsed(from), parsed(to));
            for service in SERVICES.into_iter().filter(|_| from != to && from.is_ipv4() == to.is_ipv4()) {
                for (iif, oif) in LINKS.iter().flat_map(|iif| ["br-front", "wg0"].map(|oif| (*iif, oif))) {
                    let mut packet = Packet::new(from, to, service);
                    (packet.iif, packet.oif) = (iif.into(), oif.into());
                    packet.iif_group = Some(if iif == "nr-one" { group("netrec-t") } else { 0 });
                    packet.set_sender(Mac([2, 0, 0, 0, 0, 1]));
                    packets.extend(otherwise(&packet));
                    packets.push(packet);
                }
            }
        }
        packets
    }

    /// Packets that open nothing: of TCP in the middle, an answer to an echo, and a later fragment.
    fn otherwise(packet: &Packet) -> Vec<Packet> {
        let with = |header: usize, at: usize, byte: u8| {
            let mut packet = packet.clone();
            packet.headers[header][at] = byte;
            packet
        };
        match (packet.service(), packet.is_ipv6()) {
            (Service::Port(..), false) => vec![with(2, 13, 0x10), with(1, 7, 1)],
            (Service::Port(..), true) => vec![with(2, 13, 0x10)],
            (Service::Echo, false) => vec![with(2, 0, 0)],
            (Service::Echo, true) => vec![with(2, 0, 129)],
        }
    }

    /// What each part is for, and something of each of its rules; with a network that is as it is by itself, or `generous`, so
    /// that what closes shows.
    fn firewalls(generous: bool) -> Vec<Firewall> {
        let mut front = NetworkRules::new("br-front", vec![parsed("10.1.0.0/24"), parsed("fd01::/64")]);
        if generous {
            (front.open, front.host_access, front.trusted) = (true, true, vec!["wg0".into()]);
        }
        let back = NetworkRules::new("br-back", vec![parsed("10.2.0.0/24"), parsed("fd02::/64")]);
        let plain = || Firewall::new("t", &[front.clone(), back.clone()], &[]);
        let with = |change: &dyn Fn(&mut NetworkRules)| {
            let mut changed = front.clone();
            change(&mut changed);
            Firewall::new("t", &[changed, back.clone()], &[])
        };
        let publishing = |listen: [Option<&str>; 2], ports, first, limited: bool| {
            let published = listen.into_iter().zip(["10.1.0.2", "fd01::2"]).map(|(listen, target)| Publication {
                listen: listen.map(parsed),
                protocol: Protocol::Tcp,
                ports: parsed(ports),
                target: parsed(target),
                first,
                allow_from: limited.then(|| vec![parsed("10.2.0.0/24"), parsed("fd02::/64")]),
            });
            Firewall::new("t", &[front.clone(), back.clone()], &published.collect::<Vec<_>>())
        };
        let policy = |allow, nets: [&str; 2], port: Option<&str>| {
            let said = Policy {
                allow,
                from: nets.map(parsed).to_vec(),
                to: vec![parsed("10.1.0.0/24"), parsed("fd01::/64")],
                ports: port.map(|port| (Protocol::Tcp, parsed(port))).into_iter().collect(),
            };
            plain().with(policies(&[said], std::slice::from_ref(&front.subnets)).expect("few"))
        };
        let (all, at) = ([None, None], [Some("192.0.2.1"), Some("2001:db8::1")]);
        let guard =
            |address| Guard { link: "nr-one".into(), mac: Mac([2, 0, 0, 0, 0, 1]), addresses: vec![parsed(address)] };
        vec![
            Firewall::new("t", &[], &[]),
            plain(),
            plain().with(Guard::elements(vec![guard("10.1.0.2"), guard("fd01::2")])),
            with(&|it| it.internal = true),
            with(&|it| it.open = true),
            with(&|it| it.host_access = true),
            with(&|it| it.icc = false),
            with(&|it| it.trusted = vec!["wg0".into()]),
            with(&|it| (it.ipv4, it.ipv6) = (SourceNat::Keep, SourceNat::Keep)),
            with(&|it| it.ipv4 = SourceNat::Fixed([203, 0, 113, 7].into())),
            with(&|it| it.ipv6 = SourceNat::Fixed(parsed("2001:db8::7"))),
            publishing(all, "8080", 80, false),
            publishing(all, "8080-8090", 8080, false),
            publishing(at, "8080", 80, false),
            publishing(at, "8080-8090", 8080, false),
            publishing(all, "8080", 80, true),
            publishing(at, "8080-8090", 8080, true),
            policy(false, ["10.2.0.0/24", "fd02::/64"], None),
            policy(false, ["10.2.0.0/24", "fd02::/64"], Some("8080")),
            policy(true, ["10.2.0.0/24", "fd02::/64"], None),
            policy(true, ["192.0.2.0/24", "2001:db8::/64"], Some("8080")),
            policy(false, ["10.1.0.0/24", "fd01::/64"], None),
            policy(false, ["10.1.0.0/24", "fd01::/64"], Some("8080")),
        ]
    }

    #[test]
    fn what_is_not_used_would_say_nothing() {
        let (packets, hosts) = (packets(), [parsed::<IpAddr>("192.0.2.1"), parsed("2001:db8::1")]);
        let mut used = Uses::NONE;
        for some in [false, true].into_iter().flat_map(firewalls) {
            used = used | some.uses;
            let all = Ruleset::new(&Firewall { uses: Uses::ALL, ..some.clone() });
            let own = Ruleset::new(&some);
            let each = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
            let mapped = [Hook::Forward, Hook::Postrouting].map(|hook| (hook, false, true));
            let bridged = [Hook::Prerouting, Hook::Forward].map(|hook| (hook, true, false));
            let plain = each.map(|hook| (hook, false, false));
            for (hook, bridge, mapped) in plain.into_iter().chain(mapped).chain(bridged) {
                for packet in &packets {
                    let through = |rules: &Ruleset| {
                        let mut packet = Packet { mapped, ..packet.clone() };
                        let passes = rules.hook(bridge, hook, &mut packet, &|address| hosts.contains(&address)).1;
                        (passes, packet)
                    };
                    assert_eq!(through(&own), through(&all), "{hook:?} of {packet:?} by {}", some.uses);
                }
            }
        }
        assert_eq!(used.to_string(), Uses::ALL.to_string(), "each part is tried");
    }
}
