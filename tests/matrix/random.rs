//! Random topologies, as values and as TOML.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

/// splitmix64: a seed gives the same topology everywhere.
pub(crate) struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

#[allow(clippy::struct_excessive_bools, reason = "each is a key of its own in the file")]
pub(crate) struct Network {
    pub name: String,
    pub subnets: Vec<IpNet>,
    pub internal: bool,
    pub icc: bool,
    pub masquerade: bool,
    pub snat: bool,
    pub open: bool,
    pub host_access: Option<bool>,
    pub trusted: bool,
    pub allow_from: Option<Vec<IpNet>>,
}

#[derive(Clone)]
pub(crate) struct Publish {
    pub listen: Option<IpAddr>,
    pub host: u16,
    pub port: u16,
    pub udp: bool,
    pub allow_from: Option<Vec<IpNet>>,
}

pub(crate) struct Endpoint {
    pub name: String,
    pub network: usize,
    pub addresses: Vec<IpAddr>,
    pub publish: Vec<Publish>,
}

#[derive(Clone)]
pub(crate) enum Peer {
    Network(usize),
    Endpoint(usize),
    Cidr(IpNet),
}

pub(crate) struct Policy {
    pub allow: bool,
    pub from: Option<Peer>,
    pub to: Option<Peer>,
    /// First, last, whether udp.
    pub ports: Vec<(u16, u16, bool)>,
}

pub(crate) struct Plan {
    pub networks: Vec<Network>,
    pub endpoints: Vec<Endpoint>,
    pub policies: Vec<Policy>,
    pub bridged_frames_too: bool,
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

impl Plan {
    pub(crate) fn random(dice: &mut Dice) -> Self {
        let bridged_frames_too = dice.chance(40);
        let networks: Vec<Network> = (0..2 + dice.below(3)).map(|at| network(dice, at)).collect();
        let (mut endpoints, mut host) = (Vec::new(), 8000);
        for (at, network) in networks.iter().enumerate() {
            for _ in 0..=dice.below(3) {
                endpoints.push(endpoint(dice, (at, network), endpoints.len(), &mut host));
            }
        }
        let mut plan = Self { networks, endpoints, policies: Vec::new(), bridged_frames_too };
        for _ in 0..dice.below(6) {
            let policy = plan.random_policy(dice);
            plan.policies.push(policy);
        }
        plan
    }

    fn random_policy(&self, dice: &mut Dice) -> Policy {
        let peer = |dice: &mut Dice| match dice.below(8) {
            0..3 => Some(Peer::Network(dice.below(self.networks.len()))),
            3..6 => Some(Peer::Endpoint(dice.below(self.endpoints.len()))),
            6 => {
                let outside = ["192.0.2.0/24", "198.51.100.2/32", "0.0.0.0/0", "::/0", "2001:db8::/32", "10.0.0.0/8"];
                Some(Peer::Cidr(dice.one(&outside).parse().unwrap()))
            }
            _ => None,
        };
        let (from, mut to) = (peer(dice), peer(dice));
        let family =
            |peer: &Option<Peer>| if let Some(Peer::Cidr(net)) = peer { Some(net.addr().is_ipv6()) } else { None };
        if from.is_none() && to.is_none() || family(&from).zip(family(&to)).is_some_and(|(one, other)| one != other) {
            to = Some(Peer::Endpoint(dice.below(self.endpoints.len())));
        }
        let network = |peer: &Option<Peer>| match peer {
            Some(Peer::Network(at)) => Some(*at),
            Some(Peer::Endpoint(at)) => Some(self.endpoints[*at].network),
            _ => None,
        };
        let ends = [network(&from), network(&to)];
        // These are refused.
        let within_icc_off = ends[0].is_some() && ends[0] == ends[1] && !self.networks[ends[0].unwrap()].icc;
        let internal = ends[0] != ends[1] && ends.iter().flatten().any(|at| self.networks[*at].internal);
        let allow = dice.chance(50) && !within_icc_off && !internal;
        let all = [(80, 80, false), (80, 81, false), (53, 53, true), (1, 60, true), (22, 80, false)];
        let ports = (0..dice.below(3)).map(|_| dice.one(&all)).collect();
        Policy { allow, from, to, ports }
    }

    pub(crate) fn toml(&self) -> String {
        let list = |nets: &[IpNet]| nets.iter().map(|net| format!("\"{net}\"")).collect::<Vec<_>>().join(", ");
        let mut out = "topology = \"matrix\"\n".to_owned();
        for it in &self.networks {
            let _ = writeln!(out, "[networks.{}]\ndriver = \"bridge\"\nsubnets = [{}]", it.name, list(&it.subnets));
            let mut key = |on: bool, line: &str| {
                if on {
                    let _ = writeln!(out, "{line}");
                }
            };
            key(it.internal, "internal = true");
            key(!it.icc, "icc = false");
            key(!it.masquerade && !it.internal && !it.snat, "masquerade = false");
            key(it.snat, "masquerade = false\nsnat = [\"192.0.2.7\"]");
            key(it.open, "open = true");
            key(it.trusted, "trusted_interfaces = [\"up1\"]");
            key(it.host_access == Some(true), "host_access = true");
            key(it.host_access == Some(false), "host_access = false");
            if let Some(nets) = &it.allow_from {
                let _ = writeln!(out, "allow_from = [{}]", list(nets));
            }
        }
        for it in &self.endpoints {
            let addresses: Vec<String> = it.addresses.iter().map(|address| format!("\"{address}\"")).collect();
            let (name, network) = (&it.name, &self.networks[it.network].name);
            let _ =
                writeln!(out, "[containers.{name}]\nnetns = \"{name}\"\n[endpoints.{name}]\ncontainer = \"{name}\"");
            let _ = writeln!(out, "network = \"{network}\"\naddresses = [{}]", addresses.join(", "));
            let (plain, limited): (Vec<_>, Vec<_>) =
                it.publish.iter().partition(|publish| publish.allow_from.is_none());
            let plain: Vec<String> = plain.into_iter().map(Publish::toml).collect();
            let _ = writeln!(out, "publish = [{}]", plain.join(", "));
            for publish in limited {
                let nets = list(publish.allow_from.as_ref().unwrap());
                let _ = writeln!(
                    out,
                    "[[endpoints.{name}.published]]\npublish = {}\nallow_from = [{nets}]",
                    publish.toml()
                );
            }
        }
        for it in &self.policies {
            let _ = writeln!(out, "[[policies]]\naction = \"{}\"", if it.allow { "allow" } else { "deny" });
            for (key, peer) in [("from", &it.from), ("to", &it.to)] {
                let peer = match peer {
                    None => continue,
                    Some(Peer::Network(at)) => format!("network = \"{}\"", self.networks[*at].name),
                    Some(Peer::Endpoint(at)) => format!("endpoint = \"{}\"", self.endpoints[*at].name),
                    Some(Peer::Cidr(net)) => format!("cidr = \"{net}\""),
                };
                let _ = writeln!(out, "{key} = {{ {peer} }}");
            }
            let word = |udp: &bool| if *udp { "udp" } else { "tcp" };
            let ports = it.ports.iter().map(|(first, last, udp)| format!("\"{first}-{last}/{}\"", word(udp)));
            let ports: Vec<String> = ports.collect();
            if !ports.is_empty() {
                let _ = writeln!(out, "ports = [{}]", ports.join(", "));
            }
        }
        out
    }
}

impl Publish {
    fn toml(&self) -> String {
        let at = match self.listen {
            None => String::new(),
            Some(IpAddr::V4(address)) => format!("{address}:"),
            Some(IpAddr::V6(address)) => format!("[{address}]:"),
        };
        format!("\"{at}{}:{}/{}\"", self.host, self.port, if self.udp { "udp" } else { "tcp" })
    }
}

fn network(dice: &mut Dice, at: usize) -> Network {
    let internal = dice.chance(20);
    let (v4, v6) = (format!("10.{at}.0.0/24"), format!("fd00:{at}::/64"));
    let mut subnets = match dice.below(8) {
        0 => nets(&[&v4]),
        1 => nets(&[&v6]),
        _ => nets(&[&v4, &v6]),
    };
    if !internal && dice.chance(20) {
        subnets.push(format!("10.{at}.1.0/24").parse().unwrap());
    }
    let ipv4 = subnets.iter().any(|net| net.addr().is_ipv4());
    let snat = !internal && ipv4 && dice.chance(15);
    let lists =
        [nets(&["192.0.2.0/24", "2001:db8::/64"]), nets(&["198.51.100.2/32"]), nets(&["10.0.0.0/8", "10.0.0.0/24"])];
    Network {
        name: format!("n{at}"),
        subnets,
        internal,
        icc: !dice.chance(25),
        masquerade: !internal && !snat && !dice.chance(30),
        snat,
        open: !internal && dice.chance(15),
        host_access: dice.one(&[None, None, None, Some(true), Some(false)]),
        trusted: !internal && dice.chance(20),
        allow_from: (!internal && dice.chance(20)).then(|| dice.one(&lists)),
    }
}

fn endpoint(dice: &mut Dice, (at, network): (usize, &Network), number: usize, host: &mut u16) -> Endpoint {
    let mut addresses = Vec::new();
    for ipv6 in [false, true] {
        let own: Vec<&IpNet> = network.subnets.iter().filter(|net| net.addr().is_ipv6() == ipv6).collect();
        if own.is_empty() {
            continue;
        }
        addresses.push(dice.one(&own).hosts().nth(10 + number).unwrap());
    }
    let mut publish = Vec::new();
    for _ in 0..if network.internal { 0 } else { dice.below(3) } {
        let listens = ["", "", "", "127.0.0.1", "192.0.2.1", "2001:db8::1"];
        let listen: Option<IpAddr> = dice.one(&listens).parse().ok();
        let leads = listen.is_none_or(|listen| addresses.iter().any(|address| address.is_ipv4() == listen.is_ipv4()));
        let lists =
            [nets(&["192.0.2.2/32", "2001:db8:1::/64"]), nets(&["10.0.0.0/16", "fd00::/16", "198.51.100.0/24"])];
        *host += 1;
        publish.push(Publish {
            listen: listen.filter(|_| leads),
            host: *host,
            port: dice.one(&[53, 80, 81]),
            udp: dice.chance(40),
            allow_from: dice.chance(25).then(|| dice.one(&lists)),
        });
    }
    Endpoint { name: format!("e{number}"), network: at, addresses, publish }
}
