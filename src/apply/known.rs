//! What a topology came to, kept for as long as it stays true.

use std::collections::{BTreeMap, BTreeSet};

use super::{NoPlan, Prepared, proven};
use crate::diff::{Change, Diff, diff, differing};
use crate::model::focus::{self, Focus, News};
use crate::model::lower::{self, Turned};
use crate::model::observed::{Foreign, Observed};
use crate::model::resource::{HOST, Kind, KindName, Resource, ResourceId, Text, host};
use crate::model::shared::Shared;
use crate::model::state::{Desired, State};
use crate::model::topology::Topology;
use crate::model::wire::{Absent, Scope};

/// Of its own things those that decide what is wanted, and how they are.
type Read = Shared<BTreeMap<ResourceId, Text>>;

/// What a topology came to, and what of the host it came from.
///
/// Of its own things most only fill blanks, with what they hold; these stay filled so, whatever becomes of the things.
#[derive(Clone, Debug)]
pub struct Known {
    scope: Scope,
    foreign: Foreign,
    absent: BTreeMap<Text, Absent>,
    present: Shared<BTreeSet<Text>>,
    read: Read,
    /// Of its own things those that nobody asks for: settings that are read.
    unasked: Vec<Resource>,
    desired: Desired,
    /// Whether it is known of a part only where in the files that is asked for, and what is to be said of it.
    in_part: bool,
    /// Where no look has seen yet that all is as wanted.
    open: Focus,
    /// Where something was otherwise when that was planned, and perhaps still is.
    adrift: Focus,
}

impl Known {
    /// Keeps what was wanted of what was seen, when that is the same.
    pub fn new(scope: Scope, observed: Observed, desired: Desired) -> Self {
        let unasked = observed.ours.iter().filter(|(id, _)| desired.state.get(id).is_none());
        let unasked: Vec<Resource> = unasked.map(|(_, resource)| resource.clone()).collect();
        let Observed { foreign, absent, present, .. } = observed;
        let read = read(desired.state.resources().chain(&unasked), &present, &desired.state);
        let (open, adrift) = (Focus::default(), Focus::default());
        Self { scope, foreign, absent, present, read, unasked, desired, in_part: false, open, adrift }
    }

    /// What is to be looked at for it.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Where it is to be looked whether or not that is news.
    pub(super) fn uncertain(&self) -> Focus {
        let mut all = self.open.clone();
        all.extend(&self.adrift);
        all
    }

    /// The same, now that a look has seen that all is as wanted.
    #[must_use]
    pub fn settled(self) -> Self {
        Self { open: Focus::default(), adrift: Focus::default(), ..self }
    }

    /// What is to be done about news, if they leave what is wanted as it is, and nothing goes for them that was to stay; if
    /// not, all must be looked at.
    ///
    /// # Errors
    ///
    /// [`NoPlan::Flawed`].
    pub(super) fn follow(&self, news: News) -> Result<Option<Prepared>, NoPlan> {
        let News { focus, observed, .. } = &news;
        let here = |netns: &Text| self.present.contains(netns) == observed.present.contains(netns);
        let same = self.absent == observed.absent && focus.namespaces.iter().all(here);
        if !same || !self.decides_alike(focus, observed) {
            return Ok(None);
        }
        let state: State = self.within(focus).iter().filter_map(|id| self.desired.state.get(id)).cloned().collect();
        let diff = diff(&state, &observed.ours);
        if !diff.iter().all(|(id, change)| self.is_local(focus, id, change)) {
            return Ok(None);
        }
        tracing::debug!(?focus, "only news were looked into");
        #[cfg(debug_assertions)]
        assert_eq!(diff, crate::diff::diff(&self.desired.state, &news.whole.ours), "{focus:?}");
        let plan = proven(&diff, &state, &observed.ours)?;
        let desired = Desired { state, ..self.desired.clone() };
        let whole = Some(self.desired.state.clone());
        Ok(Some(Prepared { observed: news.observed, desired, diff, plan, whole, next: None }))
    }

    /// Whether all that a change leads to is in the focus. What stands on something that goes is of the same container,
    /// where that is to go.
    fn is_local(&self, focus: &Focus, id: &ResourceId, change: &Change) -> bool {
        let goes = change.removes();
        match id.kind {
            kind if focus.holds_netfilter(kind) => !goes,
            KindName::Veth => !goes || self.open.links.contains(&id.name),
            KindName::Netns => self.open.namespaces.contains(&id.name),
            _ => &*id.netns != HOST && (!goes || self.open.namespaces.contains(&id.netns)),
        }
    }

    /// What a topology comes to that differs from the `last` one; none if all must be looked at for it. What is there is
    /// what was wanted but for the news. Then only what it wants otherwise is to be looked into, and what is news.
    ///
    /// # Errors
    ///
    /// Those of a topology that cannot be [lowered](lower::lower).
    pub(super) fn turn(
        &self,
        (last, topology): (&Topology, &Topology),
        scope: Scope,
        news: News,
    ) -> Result<Option<Turn>, NoPlan> {
        let News { focus, observed: seen, .. } = news;
        if !self.decides_alike(&focus, &seen) {
            return Ok(None);
        }
        let Foreign { flushes, claims, .. } = seen.foreign;
        // Others' ports and what others flush are about all that the topology has.
        let alone = focus == Focus::default() && flushes == self.foreign.flushes && claims == self.foreign.claims;
        let foreign = Foreign { flushes, claims, ..self.foreign.clone() };
        let mut present = self.present.clone();
        for netns in &focus.namespaces {
            present.remove(netns);
        }
        for netns in seen.present.iter().filter(|netns| focus.namespaces.contains(*netns)) {
            present.insert(netns.clone());
        }
        let Observed { absent, looked, .. } = seen;
        let unasked: State = self.unasked.iter().cloned().collect();
        let beside = Observed { ours: unasked, foreign, absent, present, looked };
        let mut observed = Observed { ours: self.desired.state.clone(), ..beside.clone() };
        let turned = alone.then(|| lower::turned((last, topology), &self.desired, &observed, &beside.ours)).flatten();
        let told = turned.is_some();
        let (next, open) = if let Some(turned) = turned {
            (self.turned(scope, beside, &turned), Some(turned.open))
        } else {
            self.within(&focus).iter().for_each(|id| drop(observed.ours.remove(id)));
            put(&mut observed.ours, &beside.ours);
            put(&mut observed.ours, &seen.ours);
            let desired = lower::lower(topology, &observed)?;
            let open = Focus::of(differing(&self.desired.state, &desired.state));
            (Self::new(scope, beside, desired), open)
        };
        tracing::debug!(part = told, "lowered");
        #[cfg(debug_assertions)]
        {
            let beside = Observed { ours: self.unasked.iter().cloned().collect(), ..observed.clone() };
            let whole = lower::lower(topology, &news.whole);
            let whole = whole.map(|whole| Self::new(next.scope.clone(), beside, whole));
            assert!(whole.is_ok_and(|whole| whole.wants_like(&next)), "the same is wanted of all that is there");
        }
        Ok(open.map(|open| Turn { next: Self { open, ..next }, observed }))
    }

    /// What is known of a topology that was told from a part of it.
    fn turned(&self, scope: Scope, beside: Observed, turned: &Turned) -> Self {
        let Observed { foreign, absent, present, .. } = beside;
        let (desired, mut all) = (turned.desired.clone(), self.read.clone());
        let [was, is] = &turned.part;
        was.resources().for_each(|it| drop(all.remove(&it.id())));
        all.extend(read(is.resources(), &present, &desired.state).iter().map(|(id, it)| (id.clone(), it.clone())));
        let (open, adrift) = (Focus::default(), Focus::default());
        let unasked = self.unasked.clone();
        Self { scope, foreign, absent, present, read: all, unasked, desired, in_part: true, open, adrift }
    }

    #[cfg(debug_assertions)]
    fn wants_like(&self, other: &Self) -> bool {
        self.desired.state == other.desired.state
            && self.desired.pending == other.desired.pending
            && self.read == other.read
    }

    /// The same when that difference is gone, which a look is to see.
    fn after(mut self, diff: &Diff) -> Self {
        for (id, change) in diff.iter().filter(|(id, _)| id.kind == KindName::Netns) {
            match change {
                Change::Create { .. } => {
                    self.absent.remove(&id.name);
                    self.present.insert(id.name.clone());
                    self.read.insert(id.clone(), Text::default());
                }
                Change::Delete { .. } => drop(self.present.remove(&id.name)),
                Change::Update { .. } | Change::Replace { .. } => {}
            }
        }
        self
    }

    /// What is in a focus, whether or not it is wanted.
    fn within(&self, focus: &Focus) -> BTreeSet<ResourceId> {
        let state = &self.desired.state;
        let inside = focus.namespaces.iter().flat_map(|netns| state.of_netns(netns));
        let leads_there = |it: &&Resource| matches!(it, Resource::Veth(veth) if focus.namespaces.contains(&veth.netns));
        let pairs = state.of_kind(HOST, KindName::Veth).filter(leads_there);
        let names = focus.namespaces.iter().map(|netns| ResourceId::new(&host(), KindName::Netns, netns.clone()));
        let netfilter = state.of_kinds(HOST, focus::NETFILTER).filter(|_| focus.netfilter);
        inside.chain(netfilter).chain(pairs).map(Kind::id).chain(names).collect()
    }

    /// Whether what decides what is wanted is as it was, as far as it is in the focus.
    fn decides_alike(&self, focus: &Focus, observed: &Observed) -> bool {
        let (was, is) = (&self.foreign, &observed.foreign);
        let here = |(id, _): &(&ResourceId, &Text)| focus.namespaces.contains(&id.netns);
        let read = read(observed.ours.resources(), &observed.present, &self.desired.state);
        focus.namespaces.iter().all(|netns| was.is_alike_in(netns, is))
            && focus.links.iter().all(|link| was.is_alike_at(&(host(), link.clone()), is))
            && !(focus.netfilter && was.docker != is.docker)
            && self.read.iter().filter(here).eq(read.iter().filter(here))
    }

    /// What is wanted still, if nothing else has changed.
    pub(super) fn still(&self, observed: &Observed) -> Option<&Desired> {
        let same =
            self.foreign == observed.foreign && self.absent == observed.absent && self.present == observed.present;
        let settled = self.uncertain() == Focus::default() && !self.in_part;
        let read = || read(observed.ours.resources(), &observed.present, &self.desired.state);
        (settled && same && self.read == read()).then_some(&self.desired)
    }
}

/// What another topology comes to where one is known.
#[derive(Debug)]
pub(super) struct Turn {
    next: Known,
    /// All that is there, as far as it is known.
    observed: Observed,
}

impl Turn {
    /// Where something is wanted otherwise.
    pub(super) fn open(&self) -> &Focus {
        &self.next.open
    }

    /// What is to be done for it, and for news; none if all must be looked at.
    ///
    /// # Errors
    ///
    /// [`NoPlan::Flawed`].
    pub(super) fn follow(self, news: News) -> Result<Option<Prepared>, NoPlan> {
        let Self { next, mut observed } = self;
        let adrift = news.focus.clone();
        let Some(prepared) = next.follow(news)? else { return Ok(None) };
        let next = Some(Box::new(Known { adrift, ..next.after(&prepared.diff) }));
        if prepared.diff.values().any(Change::removes) {
            // Who is to say how much may go has to know how much there is.
            put(&mut observed.ours, &prepared.observed.ours);
            return Ok(Some(Prepared { observed, next, ..prepared }));
        }
        Ok(Some(Prepared { next, ..prepared }))
    }
}

fn put(state: &mut State, others: &State) {
    others.resources().for_each(|it| state.insert(it.clone()));
}

/// Which namespaces bear the mark, as under the same name may stand somebody else's next; and settings of namespaces that
/// are not wanted in any way themselves.
fn read<'a>(ours: impl Iterator<Item = &'a Resource>, present: &BTreeSet<Text>, desired: &State) -> Read {
    let counts = |it: &Resource| match it {
        Resource::Netns(netns) => present.contains(&netns.name).then(|| (it.id(), Text::default())),
        Resource::Sysctl(setting) if setting.link().is_none() && desired.get(&it.id()).is_none() => {
            Some((it.id(), setting.value.clone()))
        }
        _ => None,
    };
    ours.filter_map(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Target, decide};
    use crate::model::kinds::address::Address;
    use crate::model::kinds::firewall::Rules;
    use crate::model::observed::{Claim, ForeignLink};
    use crate::model::parse::parse;
    use crate::model::source::Source;
    use crate::model::values::{Ports, Protocol};

    const SHOP: &str = r#"
topology = "shop"
[networks.front]
driver = "bridge"
subnets = ["10.10.0.0/24"]
[containers]
api.netns = "api"
db.netns = "db"
[endpoints]
api = { container = "api", network = "front", publish = ["80:80"] }
db = { container = "db", network = "front" }
"#;

    /// A host on which all is as wanted, and then not any more.
    struct Host {
        topology: Topology,
        known: Known,
        observed: Observed,
    }

    fn read(text: &str) -> Topology {
        parse(&[Source::new("shop.toml", text)]).expect("a valid topology")
    }

    impl Host {
        fn new() -> Self {
            let topology = read(SHOP);
            let target = Target::Topology(&topology);
            let present = ["api", "db"].map(Text::from).into();
            let Prepared { desired, .. } =
                decide(target, Observed { present, looked: true, ..Observed::default() }).expect("a plan");
            let present = ["api", "db"].map(Text::from).into();
            let observed = Observed { ours: desired.state.clone(), present, ..Observed::default() };
            let known = Known::new(target.scope(), observed.clone(), desired);
            Self { topology, known, observed }
        }

        fn id(&self, netns: &str, kind: KindName) -> ResourceId {
            self.observed.ours.of_kind(netns, kind).next().map(Kind::id).expect("wanted")
        }

        /// How it is where something happened.
        fn news(&self, focus: Focus) -> News {
            let mut observed = self.observed.clone();
            observed.ours = observed.ours.resources().filter(|it| focus.holds(it)).cloned().collect();
            News {
                focus,
                observed,
                #[cfg(debug_assertions)]
                whole: self.observed.clone(),
            }
        }

        fn turn_to(&self, topology: &Topology, focus: Focus) -> Result<Option<Turn>, NoPlan> {
            self.known.turn((&self.topology, topology), lower::scope(topology), self.news(focus))
        }

        /// What is to be done where the file says something else, if that is looked into alone.
        fn turn(&self, from: &str, to: &str) -> Result<Option<Vec<String>>, NoPlan> {
            let topology = read(&SHOP.replace(from, to));
            let Some(turn) = self.turn_to(&topology, Focus::default())? else { return Ok(None) };
            let news = self.news(turn.open().clone());
            let Some(prepared) = turn.follow(news)? else { return Ok(None) };
            let goes = prepared.diff.values().any(Change::removes);
            assert!(!goes || prepared.observed.ours == self.observed.ours, "all is known for the rails");
            Ok(Some(prepared.diff.keys().map(ToString::to_string).collect()))
        }

        /// What is to be done about it, if that is looked into where something happened.
        fn follow(&self, netns: &[&str], netfilter: bool) -> Option<Vec<String>> {
            let namespaces = netns.iter().map(|netns| Text::from(*netns)).collect();
            let prepared =
                self.known.follow(self.news(Focus { namespaces, netfilter, ..Focus::default() })).expect("no flaw")?;
            assert_eq!(prepared.whole, Some(self.known.desired.state.clone()));
            assert!(prepared.diff.keys().all(|id| prepared.desired.origins.get(id).is_some()), "each has its place");
            assert_eq!(prepared.plan.steps.len(), prepared.diff.len());
            Some(prepared.diff.keys().map(ToString::to_string).collect())
        }
    }

    #[test]
    fn what_is_gone_or_altered_there_is_put_right_and_nothing_else_is_looked_at() {
        let mut host = Host::new();
        assert_eq!(host.follow(&[], false), Some(vec![]));
        assert_eq!(host.follow(&["api", "db"], true), Some(vec![]));
        let route = host.id("api", KindName::Route);
        host.observed.ours.remove(&route);
        assert_eq!(host.follow(&["api"], false), Some(vec![route.to_string()]));
        let id = host.id(HOST, KindName::Firewall);
        let Some(Resource::Firewall(firewall)) = host.observed.ours.remove(&id) else { panic!("{id}") };
        let mut firewall = (*firewall).clone();
        firewall.rules = Rules::Altered("a rule".into());
        host.observed.ours.insert(firewall.into());
        assert_eq!(host.follow(&["api"], true), Some(vec![route.to_string(), id.to_string()]));
    }

    #[test]
    fn a_pair_is_made_again_with_what_is_in_it() {
        let mut host = Host::new();
        let here = |(id, it): (&ResourceId, &Resource)| {
            let inside = [KindName::Address, KindName::Route].contains(&id.kind) && &*id.netns == "api";
            let pair = matches!(it, Resource::Veth(veth) if &*veth.netns == "api");
            (inside || pair).then(|| id.clone())
        };
        let gone: Vec<ResourceId> = host.observed.ours.iter().filter_map(here).collect();
        assert!(gone.iter().any(|id| id.kind == KindName::Veth) && gone.len() > 2, "{gone:?}");
        for id in &gone {
            host.observed.ours.remove(id);
        }
        let mut again = host.follow(&["api"], false).expect("news");
        again.sort_unstable();
        let mut gone: Vec<String> = gone.iter().map(ToString::to_string).collect();
        gone.sort_unstable();
        assert_eq!(again, gone);
    }

    #[test]
    fn what_goes_is_for_a_whole_look() {
        let mut host = Host::new();
        let id = host.id("api", KindName::Address);
        let Some(Resource::Address(address)) = host.observed.ours.get(&id).cloned() else { panic!("{id}") };
        let stray = Address { address: "10.10.0.99/24".parse().expect("a net"), ..(*address).clone() };
        host.observed.ours.insert(stray.into());
        assert_eq!(host.follow(&["api"], false), None);
    }

    #[test]
    fn who_comes_or_goes_by_itself_is_for_a_whole_look() {
        let mut host = Host::new();
        host.observed.absent.insert("web".into(), Absent::Host);
        assert_eq!(host.follow(&["api"], false), None);
        let mut host = Host::new();
        host.observed.present.remove("db");
        assert_eq!(host.follow(&["db"], false), None);
    }

    #[test]
    fn what_others_do_there_is_for_a_whole_look() {
        let link = ForeignLink { kind: "dummy".into(), mtu: 1500, ports: 0, topology: None };
        let mut host = Host::new();
        host.observed.foreign.links.insert(("db".into(), "d0".into()), link);
        assert_eq!(host.follow(&["api"], false), Some(vec![]), "not there");
        assert_eq!(host.follow(&["db"], false), None);
        let turns = |netns: &str| {
            let there = Focus { namespaces: [netns.into()].into(), ..Focus::default() };
            host.turn_to(&host.topology, there).expect("it may be").is_some()
        };
        assert_eq!((turns("api"), turns("db")), (true, false), "also for another topology");

        let mut host = Host::new();
        host.observed.foreign.docker.insert(false, Some(7));
        assert_eq!(host.follow(&["api"], false), Some(vec![]));
        assert_eq!(host.follow(&[], true), None, "accepts are put before another rule");
    }

    #[test]
    fn what_drifted_while_another_topology_came_is_looked_at_until_it_is_seen_to_be_right() {
        let mut host = Host::new();
        let route = host.id("api", KindName::Route);
        host.observed.ours.remove(&route);
        let published = SHOP.replace("network = \"front\" }\n", "network = \"front\", publish = [\"8080:80\"] }\n");
        let topology = read(&published);
        let api = Focus { namespaces: ["api".into()].into(), ..Focus::default() };
        let turn = host.turn_to(&topology, api.clone()).expect("it may be").expect("it is looked into alone");
        let mut both = turn.open().clone();
        both.extend(&api);
        let prepared = turn.follow(host.news(both.clone())).expect("no flaw").expect("it is looked into alone");
        assert_eq!(
            prepared.diff.keys().map(ToString::to_string).collect::<Vec<_>>(),
            [route.to_string(), "host/firewall/netrec-shop".into()]
        );
        let next = prepared.next.expect("what is known when that is done");
        assert_eq!(next.uncertain(), both);
        assert_eq!(next.settled().uncertain(), Focus::default());
    }

    #[test]
    fn what_another_topology_wants_otherwise_is_looked_into_alone() {
        let host = Host::new();
        let turn = |from: &str, to: &str| host.turn(from, to).expect("it may be");
        assert_eq!(turn("", ""), Some(vec![]));
        let db = "db = { container = \"db\", network = \"front\"";
        let published = format!("{db}, publish = [\"8080:80\"]");
        assert_eq!(turn(db, &published), Some(vec!["host/firewall/netrec-shop".into()]));
        let gone = turn(&format!("{db} }}"), "").expect("it goes with what stands on it");
        assert!(gone.len() > 3 && gone.iter().all(|id| id.starts_with("db/") || id.starts_with("host/")), "{gone:?}");
        let front = "driver = \"bridge\"";
        assert_eq!(turn(front, "driver = \"bridge\"\nmtu = 1400"), None, "everything hangs on a bridge");
    }

    #[test]
    fn what_others_have_by_now_counts_for_another_topology() {
        let mut host = Host::new();
        let db = "db = { container = \"db\", network = \"front\"";
        let published = format!("{db}, publish = [\"8080:80\"]");
        let ports = Ports { first: 8080, last: 8080 };
        let holder = "a process".to_owned();
        let claim = Claim { protocol: Protocol::Tcp, ipv6: None, address: None, ports, holder };
        host.observed.foreign.claims.push(claim);
        assert!(matches!(host.turn(db, &published), Err(NoPlan::Refused(_))), "the port is taken");
    }
}
