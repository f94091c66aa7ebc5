//! Tables of others that stop, or never see, what this topology forwards: said, and never written to.

use std::collections::BTreeMap;

use super::{Lowering, NetworkPlan};
use crate::model::neighbours::{Way, Whose};
use crate::model::resource::{Resource, Text};
use crate::model::wire::ChainFacts;

impl Lowering<'_> {
    /// Says which chains of others stop what this topology accepts, for an accept is not final across tables; and which
    /// guard the host and are by-passed by published ports, which are forwarded.
    pub(super) fn neighbours_notes(&mut self, networks: &BTreeMap<&str, NetworkPlan>) {
        if !self.wanted.iter().any(|(resource, _)| matches!(resource, Resource::Firewall(_))) {
            return;
        }
        let observed = self.observed;
        for chain in observed.foreign.chains.iter().filter(|chain| chain.hook == "forward") {
            let stopped = stopped(chain, networks, |link| {
                let out = Way { from: Some(link), to: None, mapped: false };
                let back = Way { from: None, to: Some(link), mapped: true };
                chain.stops(out) || chain.stops(back)
            });
            if let Some(link) = stopped.first() {
                let where_ = format!("chain {} of table {} {}", chain.chain, chain.family, chain.table);
                let advice = advice(chain.whose(), &stopped);
                self.note(format!("{where_} drops what its rules do not accept, also what netrec forwards: {advice}"));
                self.bridged_note(chain, link, &where_);
            }
        }
        self.bypassed_note(networks);
    }

    /// With `br_netfilter` frames between ports of one bridge pass by the rules for routed packets.
    fn bridged_note(&mut self, chain: &ChainFacts, link: &Text, where_: &str) {
        let within = chain.stops(Way { from: Some(link), to: Some(link), mapped: false });
        let settings = [("ip6", "net.bridge.bridge-nf-call-iptables"), ("ip", "net.bridge.bridge-nf-call-ip6tables")];
        let on = |family: &str, ipv6| chain.family != family && self.filters_bridged(ipv6);
        let on = settings.iter().zip([false, true]).find(|((other, _), ipv6)| on(other, *ipv6));
        if let (true, Some(((_, setting), _))) = (within, on) {
            self.note(format!(
                "{where_} drops frames between endpoints of one bridge, too, as {setting} is 1: set it to 0, or accept \
                 what comes from and goes to {link} there"
            ));
        }
    }

    /// Whoever closed the host's ports by its own rules is told that published ones do not pass there.
    fn bypassed_note(&mut self, networks: &BTreeMap<&str, NetworkPlan>) {
        let publishes = self.topology.endpoints.values().any(|endpoint| endpoint.publishes().next().is_some());
        let observed = self.observed;
        let guards =
            |chain: &&ChainFacts| chain.hook == "input" && chain.stops(Way { from: None, to: None, mapped: false });
        let guard = observed.foreign.chains.iter().filter(guards).find(|chain| {
            let all = stopped(chain, networks, |_| true);
            ["ip", "ip6", "inet"].contains(&&*chain.family) && !all.is_empty()
        });
        if let (true, Some(chain)) = (publishes, guard) {
            self.note(format!(
                "published ports are forwarded, so chain {} of table {} {}, which guards the host, does not see them",
                chain.chain, chain.family, chain.table
            ));
        }
    }
}

/// Bridges of networks in the chain's family that it stops.
fn stopped(chain: &ChainFacts, networks: &BTreeMap<&str, NetworkPlan>, stops: impl Fn(&str) -> bool) -> Vec<Text> {
    let in_family = |network: &&NetworkPlan| match &*chain.family {
        "ip" => network.subnets.iter().any(|subnet| subnet.net.addr().is_ipv4()),
        "ip6" => network.subnets.iter().any(|subnet| subnet.net.addr().is_ipv6()),
        _ => true,
    };
    let routed = |network: &&NetworkPlan| *network.item.driver.get_ref() == "bridge" && !network.internal;
    let bridges = networks.values().filter(routed);
    let bridges = bridges.filter(in_family).map(|network| network.link.clone());
    bridges.filter(|link| stops(link)).collect()
}

fn advice(whose: Whose, stopped: &[Text]) -> String {
    let each = |one: &dyn Fn(&str) -> String| stopped.iter().map(|link| one(link)).collect::<Vec<_>>().join(", ");
    match whose {
        Whose::Docker => {
            let rules = |link: &str| {
                format!("`iptables -I DOCKER-USER -i {link} -j ACCEPT`, `iptables -I DOCKER-USER -o {link} -j ACCEPT`")
            };
            format!("{} let it pass", each(&rules))
        }
        Whose::Firewalld => {
            let zone = |link: &str| format!("`firewall-cmd --permanent --zone=trusted --add-interface={link}`");
            format!("{} and `firewall-cmd --reload` let it pass", each(&zone))
        }
        Whose::Ufw => {
            let route = |link: &str| format!("`ufw route allow in on {link}`, `ufw route allow out on {link}`");
            format!("{} let it pass", each(&route))
        }
        Whose::Unknown => "accept there what this topology is to forward".into(),
    }
}
