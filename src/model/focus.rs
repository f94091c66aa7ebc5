//! Where something is otherwise than it was when all was as wanted: what a watcher looks into, and nothing else.
//!
//! A drift is an address of one container, or an element of a set, and what thousands of other resources are is known. What
//! stands on the host itself is tied to everything, so a change there is looked at as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::facts::{Facts, NetnsFacts};
use super::kinds::Resource;
use super::observed::Observed;
use super::resource::{HOST, Kind, KindName, Text, Thing};
use super::wire::Owner;

/// More containers than that are looked at as a whole.
const CONTAINERS: usize = 32;

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
        let beside = |one: &Facts, other: &Facts| {
            one.absent == other.absent
                && one.chains == other.chains
                && one.listeners == other.listeners
                && one.topologies == other.topologies
        };
        if !beside(before, after) || !before.namespaces.keys().eq(after.namespaces.keys()) {
            return None;
        }
        let both = before.namespaces.iter().zip(after.namespaces.values());
        let mut namespaces: BTreeSet<Text> =
            both.filter(|((_, was), is)| was != is).map(|((name, _), _)| name.clone()).collect();
        for (one, other) in [(before, after), (after, before)] {
            let changed = one.sysctls.iter().filter(|(key, value)| other.sysctls.get(key) != Some(value));
            namespaces.extend(changed.map(|((netns, _), _)| netns.clone()));
        }
        let netfilter =
            before.tables != after.tables || before.user_rules != after.user_rules || before.docker != after.docker;
        let few = namespaces.len() <= CONTAINERS && !namespaces.contains(HOST);
        few.then_some(Self { namespaces, netfilter })
    }

    /// Whether a resource stands there, or leads there.
    pub fn holds(&self, resource: &Resource) -> bool {
        namespaces(resource).iter().any(|netns| self.namespaces.contains(netns))
            || self.holds_netfilter(resource.id().kind)
    }

    /// Whether resources of a kind are in it because they are nftables'.
    pub fn holds_netfilter(&self, kind: KindName) -> bool {
        self.netfilter && matches!(kind, KindName::Firewall | KindName::UserRules | KindName::DockerUser)
    }

    /// As much of the facts as tells all about it.
    fn part(&self, facts: &Facts) -> Facts {
        let here = |netns: &Text| self.namespaces.contains(netns);
        let inside = facts.namespaces.iter().filter(|(netns, _)| here(netns));
        let mut namespaces: BTreeMap<_, _> = inside.map(|(netns, inside)| (netns.clone(), inside.clone())).collect();
        let ends: BTreeSet<u32> =
            namespaces.values().flat_map(|inside| &inside.links).filter_map(|link| link.link).collect();
        let on_host = |indexes: &BTreeSet<u32>| -> Vec<_> {
            facts.host().links.iter().filter(|link| indexes.contains(&link.index)).cloned().collect()
        };
        let masters = on_host(&ends).iter().filter_map(|link| link.master).collect();
        let links = on_host(&ends.union(&masters).copied().collect());
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
