//! What the documentation promises: who reaches whom. Written from the descriptions of the keys, in the terms of the
//! user, with no word of chains or sets.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::probe::{Probe, What};
use crate::random::{Endpoint, Network, Peer, Plan, Publish};

pub(crate) const LAN: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
pub(crate) const ROUTER: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];
/// Addresses of the host at its uplinks.
const UPLINKS: [&str; 4] = ["192.0.2.1", "198.51.100.1", "2001:db8::1", "2001:db8:1::1"];

#[derive(Clone, Copy, PartialEq)]
enum Who {
    Container(usize),
    Host,
    Lan,
    Router,
}

const SERVICES: [What; 4] = [What::Tcp(80), What::Tcp(81), What::Udp(53), What::Echo];

/// Every question, with the answer that is promised.
pub(crate) fn questions(plan: &Plan) -> Vec<Probe> {
    let mut probes = Vec::new();
    let containers = (0..plan.endpoints.len()).map(Who::Container);
    for who in containers.chain([Who::Host, Who::Lan, Who::Router]) {
        for ipv6 in [false, true] {
            if plan.address(who, ipv6).is_none() && who != Who::Host {
                continue;
            }
            let mut ask = |to: IpAddr, what, wanted: Option<String>| {
                let wanted = wanted.map(|name| if what == What::Echo { "echo".into() } else { name });
                probes.push(Probe { from: plan.name(who), to, what, wanted });
            };
            for (at, endpoint) in plan.endpoints.iter().enumerate().filter(|(at, _)| who != Who::Container(*at)) {
                let Some(address) = endpoint.address(ipv6) else { continue };
                for what in SERVICES {
                    ask(address, what, plan.reaches(who, at, what, ipv6).then(|| endpoint.name.clone()));
                }
            }
            for host in plan.host_addresses(who, ipv6) {
                for what in [What::Tcp(22), What::Udp(22), What::Echo] {
                    ask(host, what, plan.host_answers(who, what).then(|| "host".into()));
                }
                for (at, endpoint) in plan.endpoints.iter().enumerate() {
                    for publish in endpoint.publish.iter().filter(|_| endpoint.address(ipv6).is_some()) {
                        let what = if publish.udp { What::Udp(publish.host) } else { What::Tcp(publish.host) };
                        ask(
                            host,
                            what,
                            plan.reaches_published(who, host, (at, publish)).then(|| endpoint.name.clone()),
                        );
                    }
                }
            }
            for (name, addresses) in [("lan", LAN), ("router", ROUTER)] {
                let to = addresses[usize::from(ipv6)].parse().unwrap();
                for what in [What::Tcp(80), What::Udp(53), What::Echo] {
                    if let Who::Container(at) = who {
                        ask(to, what, plan.gets_out(at, name, to, what).then(|| name.to_owned()));
                    }
                }
            }
        }
    }
    probes
}

impl Endpoint {
    fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv6() == ipv6)
    }
}

impl Network {
    /// Whether its endpoints' own addresses are seen outside.
    fn is_routed(&self, ipv6: bool) -> bool {
        !self.internal && !self.masquerade && (ipv6 || !self.snat)
    }
}

fn contains(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

impl Plan {
    fn name(&self, who: Who) -> String {
        match who {
            Who::Container(at) => self.endpoints[at].name.clone(),
            Who::Host => "host".into(),
            Who::Lan => "lan".into(),
            Who::Router => "router".into(),
        }
    }

    /// The address it asks with.
    fn address(&self, who: Who, ipv6: bool) -> Option<IpAddr> {
        match who {
            Who::Container(at) => self.endpoints[at].address(ipv6),
            Who::Host => None,
            Who::Lan => LAN[usize::from(ipv6)].parse().ok(),
            Who::Router => ROUTER[usize::from(ipv6)].parse().ok(),
        }
    }

    fn network_of(&self, at: usize) -> &Network {
        &self.networks[self.endpoints[at].network]
    }

    /// Addresses of the host that somebody may ask.
    fn host_addresses(&self, who: Who, ipv6: bool) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = UPLINKS.iter().map(|text| text.parse().unwrap()).collect();
        if let Who::Container(at) = who {
            addresses.extend(
                self.network_of(at)
                    .subnets
                    .iter()
                    .map(|net| net.hosts().nth(usize::from(net.addr().is_ipv6())).unwrap()),
            );
        }
        if who == Who::Host {
            addresses.push("127.0.0.1".parse().unwrap());
        }
        addresses.retain(|address| address.is_ipv6() == ipv6);
        // Without a route nobody asks: an internal network has no way to any but its own gateway, the LAN to its host only.
        let reachable = |address: &IpAddr| match who {
            Who::Container(at) if self.network_of(at).internal => {
                let own = self.endpoints[at].address(ipv6);
                self.network_of(at)
                    .subnets
                    .iter()
                    .any(|net| net.contains(address) && own.is_some_and(|own| net.contains(&own)))
            }
            Who::Lan => ["192.0.2.1", "2001:db8::1"].contains(&address.to_string().as_str()),
            _ => true,
        };
        addresses.into_iter().filter(reachable).collect()
    }

    /// What the first policy that matches says.
    fn policy(&self, from: IpAddr, to: IpAddr, what: What) -> Option<bool> {
        let of = |peer: &Option<Peer>, address: IpAddr| match peer {
            None => true,
            Some(Peer::Network(at)) => contains(&self.networks[*at].subnets, address),
            Some(Peer::Endpoint(at)) => self.endpoints[*at].addresses.contains(&address),
            Some(Peer::Cidr(net)) => net.contains(&address),
        };
        let asked = |ports: &[(u16, u16, bool)]| {
            let named = |(first, last, udp): &(u16, u16, bool)| match what {
                What::Tcp(port) => !udp && (*first..=*last).contains(&port),
                What::Udp(port) => *udp && (*first..=*last).contains(&port),
                What::Echo => false,
            };
            ports.is_empty() || ports.iter().any(named)
        };
        let first = self.policies.iter().find(|it| of(&it.from, from) && of(&it.to, to) && asked(&it.ports));
        first.map(|policy| policy.allow)
    }

    /// Whether somebody reaches an endpoint at its own address.
    fn reaches(&self, who: Who, at: usize, what: What, ipv6: bool) -> bool {
        let (network, to) = (self.network_of(at), self.endpoints[at].address(ipv6).unwrap());
        let from = match who {
            Who::Host => return true,
            Who::Lan => return false, // has no route
            _ => self.address(who, ipv6).unwrap(),
        };
        if let Who::Container(other) = who {
            if self.endpoints[other].network == self.endpoints[at].network {
                return network.icc && self.policy(from, to, what) != Some(false);
            }
            if self.network_of(other).internal {
                return false;
            }
        }
        if network.internal {
            return false;
        }
        if let Some(allow) = self.policy(from, to, what) {
            return allow;
        }
        let trusted = network.trusted && who == Who::Router;
        network.open || trusted || (network.is_routed(ipv6) && self.publishes(at, what, from))
    }

    /// Whether an endpoint publishes a port at every address of the host, for an asker.
    fn publishes(&self, at: usize, what: What, from: IpAddr) -> bool {
        self.endpoints[at].publish.iter().any(|publish| {
            let asked = if publish.udp { What::Udp(publish.port) } else { What::Tcp(publish.port) };
            publish.listen.is_none() && asked == what && self.may_ask(at, publish, from)
        })
    }

    fn may_ask(&self, at: usize, publish: &Publish, from: IpAddr) -> bool {
        let nets = publish.allow_from.as_ref().or(self.network_of(at).allow_from.as_ref());
        nets.is_none_or(|nets| contains(nets, from))
    }

    /// Whether somebody reaches a published port at an address of the host.
    fn reaches_published(&self, who: Who, host: IpAddr, (at, publish): (usize, &Publish)) -> bool {
        let Some(to) = self.endpoints[at].address(host.is_ipv6()) else { return false };
        if publish.listen.is_some_and(|listen| listen != host) {
            return false;
        }
        let Some(from) = self.address(who, host.is_ipv6()) else { return who == Who::Host };
        let what = if publish.udp { What::Udp(publish.port) } else { What::Tcp(publish.port) };
        if let Who::Container(other) = who {
            let neighbours = self.endpoints[other].network == self.endpoints[at].network;
            // As `plan` notes: the bridge maps the port itself then, and there they are cut off, each from itself as well.
            let cut_off = neighbours && !self.network_of(at).icc && self.bridged_frames_too;
            if self.network_of(other).internal || cut_off {
                return false;
            }
        }
        self.may_ask(at, publish, from) && self.policy(from, to, what) != Some(false)
    }

    /// Whether the host itself answers somebody.
    fn host_answers(&self, who: Who, what: What) -> bool {
        let Who::Container(at) = who else { return true };
        let network = self.network_of(at);
        what == What::Echo || network.host_access.unwrap_or(network.internal)
    }

    /// Whether an endpoint gets an answer from outside.
    fn gets_out(&self, at: usize, name: &str, to: IpAddr, what: What) -> bool {
        let network = self.network_of(at);
        let from = self.endpoints[at].address(to.is_ipv6()).unwrap();
        // The LAN has no route back to addresses that are not the host's.
        let answered = name == "router" || !network.is_routed(to.is_ipv6());
        !network.internal && answered && self.policy(from, to, what) != Some(false)
    }
}
