//! Whether a topology is right in itself: every rule that can be decided without looking at a host. What contradicts a
//! live host is found out by [`lower`](super::lower::lower()).
//!
//! A rule is a function that adds findings; none relies on another having passed.

mod containers;
mod endpoints;
mod moved;
mod names;
mod networks;
mod policies;
mod publish;
mod routes;

use std::fmt::Display;
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::diagnostic::Diagnostic;
use super::numbers::Numbers;
use super::parse::Broken;
use super::source::Span;
use super::topology::{Endpoint, Item, Network, Topology};

/// All that is wrong with a topology in itself, as far as its tables could be read.
pub(super) fn check(topology: &Topology, broken: &Broken) -> Vec<Diagnostic> {
    let mut containers = Numbers::default();
    containers.extend(topology.containers.keys().map(String::as_str));
    let mut checking = Checking { topology, broken, containers, findings: Vec::new() };
    checking.names();
    checking.containers();
    checking.pools();
    checking.networks();
    checking.endpoints();
    checking.publishes();
    checking.routes();
    checking.policies();
    checking.left_of_broken();
    checking.moved();
    checking.findings
}

struct Checking<'a> {
    topology: &'a Topology,
    broken: &'a Broken,
    /// The names of those that could be read: each endpoint asks for its own.
    containers: Numbers<&'a str>,
    findings: Vec<Diagnostic>,
}

/// What may be claimed once, and the first place each was seen at, by its number.
struct Once<K>(Numbers<K>, Vec<Span>);

impl<K: Eq + Hash> Once<K> {
    fn new() -> Self {
        Self(Numbers::default(), Vec::new())
    }

    /// Makes room for so many more.
    fn reserve(&mut self, keys: usize) {
        self.0.reserve(keys);
        self.1.reserve(keys);
    }

    /// The place that claimed it before, if any did.
    fn claim(&mut self, key: K, span: Span) -> Option<Span> {
        let first = self.1.get(self.0.number(key) as usize).copied();
        if first.is_none() {
            self.1.push(span);
        }
        first
    }
}

impl<'a> Checking<'a> {
    /// Of tables that were refused, what can be said of their values one by one.
    fn left_of_broken(&mut self) {
        let Broken { networks, containers, endpoints, .. } = self.broken;
        for item in networks {
            self.network_values(item);
        }
        for item in containers {
            self.container_values(item);
        }
        for item in endpoints {
            self.endpoint_values(item);
        }
    }

    fn say(&mut self, finding: Diagnostic) {
        self.findings.push(finding);
    }

    /// What is claimed a second time is wrong.
    fn twice(&mut self, what: impl Display, span: Span, first: Span) {
        let (first, span) = (first.min(span), first.max(span));
        let finding = Diagnostic::at(span, format!("{what} is given twice"));
        self.say(finding.label("again here").related(first, "first here"));
    }

    /// The network of an endpoint, if it is known and could be read.
    fn network_of(&self, endpoint: &Endpoint) -> Option<(&'a str, &'a Item<Network>)> {
        let found = self.topology.networks.get_key_value(endpoint.network.get_ref());
        found.map(|(name, item)| (name.as_str(), item))
    }
}

fn is(flag: Option<&Spanned<bool>>, default: bool) -> bool {
    flag.map_or(default, |flag| *flag.get_ref())
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

impl Network {
    /// Whether its driver is that one.
    fn has_driver(&self, driver: &str) -> bool {
        self.driver.get_ref() == driver
    }

    /// Whether its endpoints have addresses of a family.
    fn has_family(&self, ipv6: bool) -> bool {
        match &self.subnets {
            Some(subnets) => subnets.iter().any(|net| net.get_ref().addr().is_ipv6() == ipv6),
            None => is(if ipv6 { self.ipv6.as_ref() } else { self.ipv4.as_ref() }, true),
        }
    }

    fn is_external(&self) -> bool {
        self.bridge.as_ref().is_some_and(|bridge| is(bridge.get_ref().external.as_ref(), false))
    }

    fn is_internal(&self) -> bool {
        is(self.internal.as_ref(), false)
    }

    fn subnet_of(&self, address: IpAddr) -> Option<IpNet> {
        self.subnets.iter().flatten().map(|net| **net.get_ref()).find(|net| net.contains(&address))
    }
}

impl Endpoint {
    /// Whether it has an address of a family on a network.
    fn has_family(&self, network: &Network, ipv6: bool) -> bool {
        let flag = if ipv6 { self.ipv6.as_ref() } else { self.ipv4.as_ref() };
        let named = self.addresses.iter().any(|address| address.get_ref().is_ipv6() == ipv6);
        named || (network.has_family(ipv6) && is(flag, true))
    }
}

#[cfg(test)]
mod tests {
    use crate::model::diagnostic::render;
    use crate::model::parse::parse;
    use crate::model::source::Source;

    fn messages(text: &str) -> Vec<String> {
        let sources = [Source::new("t.toml", text)];
        let findings = parse(&sources).err().unwrap_or_default();
        assert_eq!(findings.is_empty(), render(&findings, &sources).is_empty());
        findings.iter().map(|finding| finding.message.clone()).collect()
    }

    const RIGHT: &str = r#"
[networks.n]
driver = "bridge"
subnets = ["10.0.0.0/24", "fd00::/64"]
[containers.c]
netns = "c"
[endpoints.e]
container = "c"
network = "n"
"#;

    #[test]
    fn a_right_topology_has_no_findings() {
        assert_eq!(messages(RIGHT), Vec::<String>::new());
    }

    #[test]
    fn each_wrong_line_is_found() {
        // A line that goes into the endpoint, and what is said of it.
        for (line, said) in [
            (r#"addresses = ["10.0.1.5"]"#, "`10.0.1.5` is in no subnet of `n`"),
            (r#"addresses = ["10.0.0.0"]"#, "`10.0.0.0` is the subnet's own address"),
            (r#"addresses = ["10.0.0.255"]"#, "`10.0.0.255` is the broadcast address of `10.0.0.0/24`"),
            (r#"addresses = ["10.0.0.1"]"#, "`10.0.0.1` is the gateway of `n`"),
            (r#"addresses = ["fd00::"]"#, "`fd00::` is the subnet's own address"),
            (r#"addresses = ["10.0.0.5"]"#, ""),
            (r#"mac = "01:00:5e:00:00:01""#, "`01:00:5e:00:00:01` is a group address"),
            (r#"ifname = "a-very-long-name""#, "`a-very-long-name` is 16 bytes long"),
            (r#"ifname = "lo""#, "`lo` is taken by every namespace"),
            (r#"publish = ["[::1]:80:80"]"#, "the kernel cannot map `[::1]`"),
            (r#"publish = ["80:80", "0.0.0.0:80:81"]"#, "port 80/tcp is published twice"),
            (r#"publish = ["80-90:80-91"]"#, "11 host ports for 12 container ports"),
            (r#"routes = [{ to = "192.0.2.0/24", via = "10.9.0.1" }]"#, "`10.9.0.1` is in no subnet of `e`"),
            (r#"routes = [{ to = "192.0.2.1/24" }]"#, "`192.0.2.1/24` has bits set after its prefix"),
            ("ipv4 = false\naddresses = [\"10.0.0.7\"]", "`10.0.0.7` contradicts `ipv4 = false`"),
            ("colour = 1", "unknown key `colour`"),
        ] {
            let found = messages(&format!("{RIGHT}{line}\n"));
            let wanted: Vec<&str> = if said.is_empty() { Vec::new() } else { vec![said] };
            assert_eq!(found, wanted, "{line}");
        }
    }
}
