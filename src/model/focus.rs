//! Where something is otherwise than it was when all was as wanted: what a watcher looks into, and nothing else.
//!
//! A drift is an address of one container, or an element of a set, and what thousands of other resources are is known. What
//! stands on the host itself is tied to everything, so a change there is looked at as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::facts::{Facts, NetnsFacts};
use super::kinds::Resource;
use super::observed::Observed;
use super::resource::{HOST, Kind, KindName, Text, Thing};
use super::wire::Owner;

/// More containers than that are looked at as a whole.
const CONTAINERS: usize = 32;

/// The kinds that are nftables'.
pub const NETFILTER: RangeInclusive<KindName> = KindName::Firewall..=KindName::DockerUser;

/// Containers, and perhaps nftables.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Focus {
    /// Namespaces of containers, by the name that ids use.
    pub namespaces: BTreeSet<Text>,
    /// Whether our tables are in it.
    pub netfilter: bool,
}

impl Focus {
    /// Where facts are otherwise than those before; none if that is anywhere else as well.
    pub fn between(before: &Facts, after: &Facts) -> Option<Self> {
        // In full, so that whoever adds a fact says here where it belongs.
        let Facts { namespaces, sysctls, tables, user_rules, docker, absent, chains, rulesets, listeners, topologies } =
            before;
        let beside = *absent == after.absent
            && *chains == after.chains
            && *rulesets == after.rulesets
            && *listeners == after.listeners
            && *topologies == after.topologies;
        if !beside || !namespaces.keys().eq(after.namespaces.keys()) {
            return None;
        }
        let netfilter = *tables != after.tables || *user_rules != after.user_rules || *docker != after.docker;
        let both = namespaces.iter().zip(after.namespaces.values());
        let changed: Vec<_> = both.filter(|((_, was), is)| was != is).collect();
        // The other end of a pair is elsewhere.
        if !changed.iter().all(|((_, was), is)| was.ends().eq(is.ends())) {
            return None;
        }
        let mut namespaces: BTreeSet<Text> = changed.into_iter().map(|((name, _), _)| name.clone()).collect();
        for (one, other) in [(sysctls, &after.sysctls), (&after.sysctls, sysctls)] {
            let changed = one.iter().filter(|(key, value)| other.get(key) != Some(value));
            namespaces.extend(changed.map(|((netns, _), _)| netns.clone()));
        }
        let few = namespaces.len() <= CONTAINERS && !namespaces.contains(HOST);
        few.then_some(Self { namespaces, netfilter })
    }

    /// Whether a resource of that part of the facts stands there, or leads there.
    pub fn holds(&self, resource: &Resource) -> bool {
        namespaces(resource).iter().any(|netns| self.namespaces.contains(netns))
            || self.holds_netfilter(resource.id().kind)
            // Where somebody took the mark off its other end, it leads nowhere that is seen.
            || matches!(resource, Resource::Veth(veth) if veth.ifname.is_none())
    }

    /// Whether resources of a kind are in it because they are nftables'.
    pub fn holds_netfilter(&self, kind: KindName) -> bool {
        self.netfilter && NETFILTER.contains(&kind)
    }

    /// As much of the facts as tells all about it.
    fn part(&self, facts: &Facts) -> Facts {
        let here = |netns: &Text| self.namespaces.contains(netns);
        let inside = facts.namespaces.iter().filter(|(netns, _)| here(netns));
        let mut namespaces: BTreeMap<_, _> = inside.map(|(netns, inside)| (netns.clone(), inside.clone())).collect();
        // Each end names the index of the other.
        let ends = namespaces.values().flat_map(|inside| inside.ends());
        let pairs: BTreeSet<_> = ends.map(|(index, link, _)| (link, Some(index))).collect();
        let host = &facts.host().links;
        let ends = host.iter().filter(|link| pairs.contains(&(Some(link.index), link.link)));
        let indexes: BTreeSet<u32> = ends.flat_map(|link| [Some(link.index), link.master]).flatten().collect();
        let links = host.iter().filter(|link| indexes.contains(&link.index)).cloned().collect();
        let host = NetnsFacts { links, origin: facts.host().origin.clone(), ..NetnsFacts::default() };
        namespaces.insert(HOST.into(), Arc::new(host));
        let sysctls = facts.sysctls.iter().filter(|((netns, _), _)| here(netns));
        let sysctls = sysctls.map(|(key, value)| (key.clone(), value.clone())).collect();
        let part = Facts { namespaces, sysctls, ..Facts::default() };
        if !self.netfilter {
            return part;
        }
        let (tables, docker) = (facts.tables.clone(), facts.docker.clone());
        Facts { tables, docker, user_rules: facts.user_rules, ..part }
    }
}

/// What is otherwise than when all was as wanted.
#[derive(Clone, Debug)]
pub struct News {
    /// Where.
    pub focus: Focus,
    /// What is there now, sorted by whose it is; of others' things those in the containers.
    pub observed: Observed,
    /// All of it, of which that is a part: tests compare what follows from either.
    #[cfg(debug_assertions)]
    pub whole: Observed,
}

impl News {
    /// Sorts what is in the focus.
    pub fn new(focus: Focus, facts: &Facts, owner: &Owner) -> Self {
        let mut observed = Observed::new(focus.part(facts), owner);
        observed.ours = observed.ours.resources().filter(|it| focus.holds(it)).cloned().collect();
        Self {
            focus,
            observed,
            #[cfg(debug_assertions)]
            whole: Observed::new(facts.clone(), owner),
        }
    }
}

/// The namespaces that a resource stands in or leads into: where it is seen.
pub fn namespaces(resource: &Resource) -> BTreeSet<Text> {
    let things = resource.provides();
    let led_into = things.iter().filter_map(|thing| match thing {
        Thing::Netns(netns) | Thing::Link(netns, _) => Some(netns.clone()),
        _ => None,
    });
    led_into.chain([resource.id().netns]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::facts::{
        Absent, ChainFacts, DockerFacts, LinkFacts, ListenerFacts, RuleFacts, RulesetFacts, TableFacts,
    };
    use crate::model::values::Protocol;

    fn host() -> Facts {
        let mut facts = Facts::default();
        for netns in [HOST, "api", "db"] {
            facts.namespaces.insert(netns.into(), Arc::default());
            facts.sysctls.insert((netns.into(), "net.ipv4.ip_forward".into()), "0".into());
        }
        facts
    }

    fn link(facts: &mut Facts, netns: &str) {
        let inside = facts.namespaces.entry(netns.into()).or_default();
        Arc::make_mut(inside).links.push(LinkFacts::default());
    }

    fn chain() -> ChainFacts {
        let [family, table, chain, hook] = ["ip", "filter", "FORWARD", "forward"].map(String::from);
        ChainFacts { family, table, chain, hook, priority: 0, drops: true, maps: false, rules: Vec::new() }
    }

    fn rule(facts: &mut Facts, netns: &str) {
        let inside = facts.namespaces.entry(netns.into()).or_default();
        let rule = RuleFacts { ipv6: false, priority: 1, table: 1, protocol: 0, source: None };
        Arc::make_mut(inside).rules.push(rule);
    }

    /// Where a change is: the containers, and whether nftables.
    fn seen(change: impl FnOnce(&mut Facts)) -> Option<(Vec<String>, bool)> {
        let (before, mut after) = (host(), host());
        change(&mut after);
        let focus = Focus::between(&before, &after);
        assert_eq!(focus, Focus::between(&after, &before), "the way back is in the same places");
        focus.map(|focus| (focus.namespaces.iter().map(ToString::to_string).collect(), focus.netfilter))
    }

    #[test]
    fn what_happens_in_containers_and_to_our_tables_is_news() {
        let of = |netns: &[&str], netfilter| Some((netns.iter().map(ToString::to_string).collect(), netfilter));
        assert_eq!(seen(|_| ()), of(&[], false));
        assert_eq!(seen(|facts| rule(facts, "api")), of(&["api"], false));
        let forward = |netns: &str| (Text::from(netns), Text::from("net.ipv4.ip_forward"));
        assert_eq!(seen(|facts| drop(facts.sysctls.insert(forward("db"), "1".into()))), of(&["db"], false));
        assert_eq!(seen(|facts| drop(facts.sysctls.remove(&forward("db")))), of(&["db"], false));
        assert_eq!(seen(|facts| facts.tables = vec![TableFacts::default()].into()), of(&[], true));
        assert_eq!(
            seen(|facts| facts.docker.push(DockerFacts { ipv6: false, before: None, rules: Vec::new() })),
            of(&[], true)
        );
        let both = |facts: &mut Facts| {
            facts.user_rules = true;
            rule(facts, "api");
            rule(facts, "db");
        };
        assert_eq!(seen(both), of(&["api", "db"], true));
    }

    #[test]
    fn what_happens_elsewhere_as_well_is_looked_at_as_a_whole() {
        assert_eq!(seen(|facts| link(facts, HOST)), None);
        assert_eq!(seen(|facts| facts.sysctls.clear()), None);
        assert_eq!(seen(|facts| link(facts, "new")), None);
        assert_eq!(seen(|facts| link(facts, "api")), None, "its other end is elsewhere");
        assert_eq!(seen(|facts| drop(facts.absent.insert("web".into(), Absent::Host))), None);
        assert_eq!(seen(|facts| facts.chains = vec![chain()].into()), None);
        assert_eq!(seen(|facts| facts.topologies = vec![TableFacts::default()].into()), None);
        let ruleset = RulesetFacts { unit: "nftables.service", path: "/etc/nftables.conf", text: String::new() };
        assert_eq!(seen(|facts| facts.rulesets.push(ruleset)), None);
        let address = [127, 0, 0, 1].into();
        assert_eq!(
            seen(|facts| facts.listeners.push(ListenerFacts { protocol: Protocol::Tcp, address, port: 1 })),
            None
        );
    }

    #[test]
    fn many_containers_are_no_news() {
        let many = |count: usize, changed: usize| {
            let (mut before, mut names) = (host(), (0..count).map(|at| format!("c{at}")));
            names.clone().for_each(|name| drop(before.namespaces.insert(name.into(), Arc::default())));
            let mut after = before.clone();
            names.by_ref().take(changed).for_each(|name| rule(&mut after, &name));
            Focus::between(&before, &after).is_some()
        };
        assert!(many(CONTAINERS + 1, CONTAINERS));
        assert!(!many(CONTAINERS + 1, CONTAINERS + 1));
    }
}
