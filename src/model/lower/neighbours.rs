//! Tables of others that stop, or never see, what this topology forwards: said, and never written to.

use std::collections::{BTreeMap, BTreeSet};

use super::{Lowering, NetworkPlan};
use crate::model::kinds::docker_user::{Accept, DockerUser};
use crate::model::neighbours::{Flush, Way, Whose};
use crate::model::resource::{Resource, Text};
use crate::model::wire::ChainFacts;

impl Lowering<'_> {
    /// Says which chains of others stop what this topology accepts, for an accept is not final across tables; and which
    /// guard the host and are by-passed by published ports, which are forwarded.
    pub(super) fn neighbours_notes(&mut self, networks: &BTreeMap<&str, NetworkPlan>) {
        if !self.wants_firewall() {
            return;
        }
        let observed = self.observed;
        let uplinks = observed.foreign.uplinks();
        let uplink = uplinks.first().and_then(|route| route.link.as_deref());
        for chain in observed.foreign.chains.iter().filter(|chain| chain.hook == "forward") {
            if chain.whose() == Whose::Docker && self.wants_docker_user(&chain.family) {
                continue;
            }
            let stopped = stopped(chain, networks, |link| {
                let out = Way { from: Some(link), to: uplink, mapped: false };
                let back = Way { from: uplink, to: Some(link), mapped: true };
                chain.stops(out) || chain.stops(back)
            });
            if !stopped.is_empty() {
                let advice = advice(chain.whose(), &chain.hook, &stopped);
                self.note(format!("{chain} drops what its rules do not accept, also what netrec forwards: {advice}"));
            }
            self.bridged_note(chain, networks);
        }
        self.host_access_notes(networks);
        self.bypassed_note(networks);
        for flush in &observed.foreign.flushes {
            self.note(flushed(flush));
        }
    }

    fn wants_firewall(&self) -> bool {
        self.wanted.iter().any(|(_, it, _)| matches!(it, Resource::Firewall(_)))
    }

    /// Whether accepts go into docker's chain of a family, and so what docker drops at the end is not ours.
    fn wants_docker_user(&self, family: &str) -> bool {
        self.wanted.iter().any(|(_, it, _)| matches!(it, Resource::DockerUser(it) if it.ipv6 == (family == "ip6")))
    }

    /// Wants accepts in docker's chain for rules of users, where the topology asks for them and the chain is there: for
    /// what our own table lets come to its networks, and for what leaves by a default route; while `br_netfilter` shows
    /// it there, for what stays within an internal network. Nothing is accepted from them to docker's own networks.
    pub(super) fn docker_user(&mut self, networks: &BTreeMap<&str, NetworkPlan>) {
        let Some(asked) = self.topology.docker_user.as_ref().filter(|asked| ***asked) else { return };
        // Behind an external bridge without endpoints nothing is guarded, and so nothing let pass.
        if !self.wants_firewall() {
            return;
        }
        let observed = self.observed;
        for (ipv6, family) in [(false, "ip"), (true, "ip6")] {
            let links = forwarded(family, networks);
            let filtered = networks.values().filter(|network| network.internal && self.filters_bridged(ipv6));
            let within: Vec<Text> = talking(filtered, ipv6).map(|network| network.link.clone()).collect();
            let Some(before) = observed.foreign.docker.get(&ipv6).copied() else {
                if !ipv6 && observed.looked && !(links.is_empty() && within.is_empty()) {
                    self.note("docker has no chain DOCKER-USER here: nothing to be accepted there".into());
                }
                continue;
            };
            let uplinks = observed.foreign.uplinks().into_iter();
            let uplinks = uplinks.filter(|route| route.destination.addr().is_ipv6() == ipv6);
            let uplinks: Vec<Text> = uplinks.filter_map(|route| route.link.clone()).collect();
            let out = |link: &Text| {
                let out = uplinks.iter().map(|to| Accept { from: Some(link.clone()), to: to.clone() });
                out.chain([Accept { from: None, to: link.clone() }]).collect::<Vec<_>>()
            };
            let within = within.iter().map(|link| Accept { from: Some(link.clone()), to: link.clone() });
            let accepts: BTreeSet<Accept> = links.iter().flat_map(out).chain(within).collect();
            if !accepts.is_empty() {
                let (topology, found) = (self.owner.topology.clone(), Vec::new());
                let wanted = DockerUser { topology, ipv6, accepts, before, found };
                self.want(wanted, asked.name);
            }
        }
    }

    /// With `br_netfilter` frames between ports of one bridge pass by the rules for routed packets; those of internal
    /// networks, too.
    fn bridged_note(&mut self, chain: &ChainFacts, networks: &BTreeMap<&str, NetworkPlan>) {
        let settings = ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"].into_iter();
        let (mut on, mut links) = (Vec::new(), BTreeSet::new());
        for ((setting, ipv6), family) in settings.zip([false, true]).zip(["ip", "ip6"]) {
            let met = [family, "inet"].contains(&&*chain.family) && self.filters_bridged(ipv6);
            let within = |link: &Text| chain.stops(Way { from: Some(link), to: Some(link), mapped: false });
            let stopped = talking(networks.values(), ipv6).map(|network| network.link.clone());
            let stopped: Vec<Text> = stopped.filter(|link| met && within(link)).collect();
            on.extend((!stopped.is_empty()).then(|| format!("{setting} = 1")));
            links.extend(stopped);
        }
        if !on.is_empty() {
            let (on, links) = (on.join(" and "), links.iter().map(|link| &**link).collect::<Vec<_>>().join(" or "));
            self.note(format!(
                "{chain} drops frames between endpoints of one bridge, too, by {on}: set that to 0, or accept there \
                 what comes from and goes to {links}"
            ));
        }
    }

    /// Whoever guards the host stops what containers ask of it, too, where a network says in words that they may.
    fn host_access_notes(&mut self, networks: &BTreeMap<&str, NetworkPlan>) {
        let asks = |network: &&NetworkPlan| network.item.host_access.as_ref().is_some_and(|asked| *asked.get_ref());
        let guards = |chain: &&ChainFacts| chain.hook == "input" && chain.family != "arp";
        for chain in self.observed.foreign.chains.iter().filter(guards) {
            let links = networks.values().filter(asks).filter(|network| in_family(&chain.family, network));
            let stopped = |link: &Text| chain.stops(Way { from: Some(link), to: None, mapped: false });
            let stopped: Vec<Text> = links.map(|network| network.link.clone()).filter(stopped).collect();
            if !stopped.is_empty() {
                let advice = advice(chain.whose(), &chain.hook, &stopped);
                self.note(format!("{chain} drops what its rules do not accept, also what host_access opens: {advice}"));
            }
        }
    }

    /// Whoever closed the host's ports by its own rules is told that published ones do not pass there.
    fn bypassed_note(&mut self, networks: &BTreeMap<&str, NetworkPlan>) {
        let publishes = self.whole.endpoints.values().any(|endpoint| endpoint.publishes().next().is_some());
        let observed = self.observed;
        let guards =
            |chain: &&ChainFacts| chain.hook == "input" && chain.stops(Way { from: None, to: None, mapped: false });
        let guard = observed.foreign.chains.iter().filter(guards).find(|chain| {
            let all = stopped(chain, networks, |_| true);
            ["ip", "ip6", "inet"].contains(&&*chain.family) && !all.is_empty()
        });
        if let (true, Some(chain)) = (publishes, guard) {
            self.note(format!("published ports are forwarded, so {chain}, which guards the host, does not see them"));
        }
    }
}

/// Bridges of networks in the chain's family that it stops.
fn stopped(chain: &ChainFacts, networks: &BTreeMap<&str, NetworkPlan>, stops: impl Fn(&str) -> bool) -> Vec<Text> {
    forwarded(&chain.family, networks).into_iter().filter(|link| stops(link)).collect()
}

/// Bridges of networks whose packets of a table's family are forwarded.
fn forwarded(family: &str, networks: &BTreeMap<&str, NetworkPlan>) -> Vec<Text> {
    let routed = |network: &&NetworkPlan| network.is_bridged() && !network.internal && in_family(family, network);
    networks.values().filter(routed).map(|network| network.link.clone()).collect()
}

/// Whether a table of a family sees packets of a network.
fn in_family(family: &str, network: &NetworkPlan) -> bool {
    match family {
        "ip" => network.has(false),
        "ip6" => network.has(true),
        _ => true,
    }
}

/// Those of some networks whose endpoints talk with each other by a bridge, in a family.
fn talking<'a, 'p: 'a>(
    networks: impl Iterator<Item = &'a NetworkPlan<'p>>,
    ipv6: bool,
) -> impl Iterator<Item = &'a NetworkPlan<'p>> {
    networks.filter(move |network| network.icc && network.is_bridged() && network.has(ipv6))
}

/// What a service does that flushes the whole ruleset, and what to write for that.
fn flushed(flush: &Flush) -> String {
    let (path, line) = flush.place;
    let own: Vec<String> = flush.own.iter().map(|table| format!("add table {table}; delete table {table}")).collect();
    let instead = if own.is_empty() {
        "there `add table` and `delete table` for each of its own tables".to_owned()
    } else {
        format!("`{}` there", own.join("; "))
    };
    format!(
        "{path}:{line} flushes the ruleset whenever {} starts or reloads: netrec's tables go with it, and with them \
         published ports and what keeps networks apart, until the next apply: write {instead} instead, or run `netrec \
         watch`, which puts them back at once",
        flush.unit
    )
}

/// How to have a chain of a hook let pass what comes from some bridges, and what is forwarded to them.
fn advice(whose: Whose, hook: &str, stopped: &[Text]) -> String {
    let each = |one: &dyn Fn(&str) -> String| stopped.iter().map(|link| one(link)).collect::<Vec<_>>().join(", ");
    match whose {
        Whose::Docker => {
            let rules = |link: &str| {
                format!("`iptables -I DOCKER-USER -i {link} -j ACCEPT`, `iptables -I DOCKER-USER -o {link} -j ACCEPT`")
            };
            format!("{}, or docker_user = true in the topology, let it pass", each(&rules))
        }
        Whose::Firewalld => {
            let zone = |link: &str| format!("`firewall-cmd --permanent --zone=trusted --add-interface={link}`");
            format!("{} and `firewall-cmd --reload` let it pass", each(&zone))
        }
        Whose::Ufw if hook == "input" => format!("{} let it pass", each(&|link| format!("`ufw allow in on {link}`"))),
        Whose::Ufw => {
            let route = |link: &str| format!("`ufw route allow in on {link}`, `ufw route allow out on {link}`");
            format!("{} let it pass", each(&route))
        }
        Whose::Unknown if hook == "input" => format!("accept there what comes from {}", each(&str::to_owned)),
        Whose::Unknown => "accept there what this topology is to forward".into(),
    }
}
