//! Where something is otherwise than it was when all was as wanted: what a watcher looks into, and nothing else.
//!
//! A drift is an address of one container, its pair, or an element of a set, and what thousands of other resources are is
//! known. So it is with what the files want otherwise than before. What else stands on the host is tied to everything, so a
//! change there is looked at as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::facts::{Facts, LinkFacts, NetnsFacts};
use super::kinds::Resource;
use super::observed::Observed;
use super::resource::{HOST, Kind, KindName, Text, Thing};
use super::shared::Shared;
use super::wire::Owner;

/// More containers than that are looked at as a whole.
pub const CONTAINERS: usize = 32;

/// The kinds that are nftables'.
pub const NETFILTER: RangeInclusive<KindName> = KindName::Firewall..=KindName::DockerUser;

/// Containers, and perhaps nftables.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Focus {
    /// Namespaces of containers, by the name that ids use.
    pub namespaces: BTreeSet<Text>,
    /// Links of the host, by name: ends of pairs that lead into those, or did.
    pub links: BTreeSet<Text>,
    /// Whether our tables are in it.
    pub netfilter: bool,
}

impl Focus {
    /// Where facts are otherwise than those before, and `open`; none if that is anywhere else as well.
    pub fn between<'a>(before: &'a Facts, after: &'a Facts, open: &Self) -> Option<Self> {
        // In full, so that whoever adds a fact says here where it belongs. Who is absent, what listens and what rules are
        // in files is told with any news.
        let Facts {
            namespaces: _,
            sysctls,
            ipv6_fixed,
            tables,
            user_rules,
            docker,
            absent: _,
            chains,
            rulesets: _,
            listeners: _,
            topologies,
        } = before;
        if *chains != after.chains || *topologies != after.topologies || *ipv6_fixed != after.ipv6_fixed {
            return None;
        }
        let netfilter = *tables != after.tables || *user_rules != after.user_rules || *docker != after.docker;
        let changed = changed_links(before.host(), after.host())?;
        let different = |one: &'a Facts, other: &'a Facts| {
            let changed = !one.namespaces.is(&other.namespaces);
            let all = changed.then(|| otherwise(&one.namespaces, &other.namespaces)).into_iter().flatten();
            all.map(|(name, _)| name.clone()).filter(|name| &**name != HOST)
        };
        let different = different(before, after).chain(different(after, before));
        let mut namespaces: BTreeSet<Text> = different.chain(ends(&changed, [before, after])?).collect();
        namespaces.extend(open.namespaces.iter().cloned());
        for (one, other) in [(sysctls, &after.sysctls), (&after.sysctls, sysctls)] {
            namespaces.extend(otherwise(one, other).map(|((netns, _), _)| netns.clone()));
        }
        if namespaces.contains(HOST) {
            return None;
        }
        let inside = |facts: &'a Facts| namespaces.iter().filter_map(|netns| facts.namespaces.get(netns));
        let ends = [before, after].into_iter().flat_map(inside).flat_map(|inside| inside.ends());
        let pairs = pairs(ends.map(|(index, link, _)| (index, link)));
        let leads_there = |link: &&LinkFacts| pairs.contains(&(Some(link.index), link.link));
        let theirs = [before, after].into_iter().flat_map(|facts| facts.host().links.iter().filter(leads_there));
        let links = theirs.map(|link| link.name.clone()).chain(open.links.iter().cloned()).collect();
        let netfilter = netfilter || open.netfilter;
        Some(Self { namespaces, links, netfilter }).filter(Self::is_small)
    }

    /// Where these stand; none if one is of the host in another way than by leading into a container.
    pub fn of<'a>(resources: impl Iterator<Item = &'a Resource>) -> Option<Self> {
        let mut focus = Self::default();
        for resource in resources {
            let id = resource.id();
            match resource {
                _ if NETFILTER.contains(&id.kind) => focus.netfilter = true,
                _ if &*id.netns != HOST => drop(focus.namespaces.insert(id.netns)),
                Resource::Netns(_) => drop(focus.namespaces.insert(id.name)),
                Resource::Veth(veth) => {
                    focus.namespaces.insert(veth.netns.clone());
                    focus.links.insert(id.name);
                }
                _ => return None,
            }
        }
        Some(focus)
    }

    /// Adds another one.
    pub fn extend(&mut self, other: &Self) {
        self.namespaces.extend(other.namespaces.iter().cloned());
        self.links.extend(other.links.iter().cloned());
        self.netfilter |= other.netfilter;
    }

    /// Whether it is worth being told from everything.
    pub fn is_small(&self) -> bool {
        self.namespaces.len() <= CONTAINERS
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
        let mut namespaces: Shared<BTreeMap<_, _>> =
            inside.map(|(netns, inside)| (netns.clone(), inside.clone())).collect();
        let host = &facts.host().links;
        let ends = host.iter().filter(|link| self.links.contains(&link.name));
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
    /// What is there now, sorted by whose it is; of others' things those in the containers. Which containers are absent is
    /// told of all.
    pub observed: Observed,
    /// All of it, of which that is a part: tests compare what follows from either.
    #[cfg(debug_assertions)]
    pub whole: Observed,
}

/// What a map holds that another one has not, or has otherwise, in linear time.
pub fn otherwise<'a, K: Ord, V: PartialEq>(
    one: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    otherwise_by(one, other, V::eq)
}

/// The same, by what is the same.
pub fn otherwise_by<'a, K: Ord, V>(
    one: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let mut others = other.iter().peekable();
    one.iter().filter(move |(key, value)| {
        while others.next_if(|(other, _)| other < key).is_some() {}
        !others.peek().is_some_and(|(other, its)| other == key && same(value, its))
    })
}

/// The host's links that are otherwise, as they were and as they are; none if something else of it is.
fn changed_links<'a>(before: &'a NetnsFacts, after: &'a NetnsFacts) -> Option<Vec<&'a LinkFacts>> {
    let NetnsFacts { origin, links, addresses, routes, rules, processes, reference } = before;
    if std::ptr::eq(before, after) {
        return Some(Vec::new());
    }
    let beside = *origin == after.origin
        && *addresses == after.addresses
        && *routes == after.routes
        && *rules == after.rules
        && *processes == after.processes
        && *reference == after.reference;
    let was = links.iter().filter(|link| after.link(link.index) != Some(link));
    let is = after.links.iter().filter(|link| before.link(link.index) != Some(link));
    beside.then(|| was.chain(is).collect())
}

/// The other ends of these, each by its index and that of its own other end.
fn pairs(ends: impl Iterator<Item = (u32, Option<u32>)>) -> BTreeSet<(Option<u32>, Option<u32>)> {
    ends.map(|(index, link)| (link, Some(index))).collect()
}

/// The namespaces that these links of the host lead into; none if one leads nowhere.
fn ends(links: &[&LinkFacts], looks: [&Facts; 2]) -> Option<BTreeSet<Text>> {
    let of_pairs = links.iter().filter(|link| link.link_netnsid.is_some());
    let wanted = pairs(of_pairs.map(|link| (link.index, link.link)));
    let (mut namespaces, mut found) = (BTreeSet::new(), BTreeSet::new());
    if links.is_empty() {
        return Some(namespaces);
    }
    let containers = looks.into_iter().flat_map(|facts| facts.namespaces.iter()).filter(|(netns, _)| &***netns != HOST);
    for (netns, inside) in containers {
        for (_, link, _) in inside.ends().filter(|(index, link, _)| wanted.contains(&(Some(*index), *link))) {
            namespaces.insert(netns.clone());
            found.extend(link);
        }
    }
    links.iter().all(|link| found.contains(&link.index)).then_some(namespaces)
}

impl News {
    /// Sorts what is in the focus; for what is decided `anew` also which ports others have, and what they would flush.
    pub fn new(focus: Focus, facts: &Facts, owner: &Owner, anew: bool) -> Self {
        let mut part = focus.part(facts);
        if anew {
            part.rulesets.clone_from(&facts.rulesets);
            part.listeners.clone_from(&facts.listeners);
            (part.chains, part.topologies) = (facts.chains.clone(), facts.topologies.clone());
        }
        let mut observed = Observed::new(&part, owner);
        observed.absent = facts.absent.clone();
        observed.ours = observed.ours.resources().filter(|it| focus.holds(it)).cloned().collect();
        Self {
            focus,
            observed,
            #[cfg(debug_assertions)]
            whole: Observed::new(facts, owner),
        }
    }
}

/// The namespaces that a resource stands in or leads into: where it is seen.
fn namespaces(resource: &Resource) -> BTreeSet<Text> {
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
    use crate::model::facts::{ChainFacts, DockerFacts, LinkFacts, RuleFacts, TableFacts};

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

    /// A pair from the host into a container, by their indexes.
    fn pair(facts: &mut Facts, netns: &str, outer: u32, inner: u32) {
        for (netns, index, link) in [(HOST, outer, inner), (netns, inner, outer)] {
            let end =
                LinkFacts { index, link: Some(link), link_netnsid: Some(0), name: "v".into(), ..LinkFacts::default() };
            Arc::make_mut(facts.namespaces.entry(netns.into()).or_default()).links.push(end);
        }
    }

    fn chain() -> ChainFacts {
        let [family, table, chain, hook] = ["ip", "filter", "FORWARD", "forward"].map(String::from);
        ChainFacts { family, table, chain, hook, priority: 0, drops: true, maps: false, rules: Vec::new() }
    }

    fn rule(facts: &mut Facts, netns: &str) {
        let inside = facts.namespaces.entry(netns.into()).or_default();
        let rule = RuleFacts { priority: 1, table: 1, source: "10.0.0.1/32".parse().unwrap() };
        Arc::make_mut(inside).rules.push(rule);
    }

    fn between(before: &Facts, after: &Facts) -> Option<Focus> {
        Focus::between(before, after, &Focus::default())
    }

    /// Where a change is: the containers, and whether nftables.
    fn seen(change: impl FnOnce(&mut Facts)) -> Option<(Vec<String>, bool)> {
        let (before, mut after) = (host(), host());
        change(&mut after);
        let focus = between(&before, &after);
        assert_eq!(focus, between(&after, &before), "the way back is in the same places");
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
    fn a_pair_is_where_it_leads_to() {
        let here = Focus { namespaces: ["db".into()].into(), links: ["v".into()].into(), netfilter: false };
        let (before, mut after) = (host(), host());
        pair(&mut after, "db", 5, 3);
        assert_eq!(between(&before, &after), Some(here.clone()), "it came");
        assert_eq!(between(&after, &before), Some(here.clone()), "it went");
        let mut down = after.clone();
        Arc::make_mut(down.namespaces.get_mut(HOST).expect("it is there")).links[0].up = true;
        assert_eq!(between(&after, &down), Some(here), "only its end in the host is otherwise");
        let part = |facts: &Facts| {
            let focus = between(&after, &down).expect("news");
            focus.part(facts).host().links.len()
        };
        assert_eq!((part(&after), part(&before)), (1, 0));
    }

    #[test]
    fn what_happens_elsewhere_as_well_is_looked_at_as_a_whole() {
        assert_eq!(seen(|facts| link(facts, HOST)), None);
        assert_eq!(seen(|facts| facts.sysctls.clear()), None);
        assert_eq!(seen(|facts| link(facts, "new")), Some((vec!["new".into()], false)), "it came");
        assert_eq!(seen(|facts| pair(facts, "api", 5, 3)), Some((vec!["api".into()], false)));
        assert_eq!(seen(|facts| (pair(facts, "api", 5, 3), link(facts, HOST)).1), None, "it leads nowhere");
        let beside = |facts: &mut Facts| {
            pair(facts, "api", 5, 3);
            rule(facts, HOST);
        };
        assert_eq!(seen(beside), None);
        assert_eq!(seen(|facts| facts.chains = vec![chain()].into()), None);
        assert_eq!(seen(|facts| facts.topologies = vec![TableFacts::default()].into()), None);
    }

    #[test]
    fn many_containers_are_no_news() {
        let many = |count: usize, changed: usize| {
            let (mut before, mut names) = (host(), (0..count).map(|at| format!("c{at}")));
            names.clone().for_each(|name| drop(before.namespaces.insert(name.into(), Arc::default())));
            let mut after = before.clone();
            names.by_ref().take(changed).for_each(|name| rule(&mut after, &name));
            between(&before, &after).is_some()
        };
        assert!(many(CONTAINERS + 1, CONTAINERS));
        assert!(!many(CONTAINERS + 1, CONTAINERS + 1));
    }
}
