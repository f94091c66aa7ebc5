//! What a topology came to, kept for as long as it stays true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{NoPlan, Prepared, proven};
use crate::diff::{Change, diff};
use crate::model::focus::{self, News};
use crate::model::observed::{Foreign, Observed};
use crate::model::resource::{HOST, KindName, Resource, ResourceId, Text, host};
use crate::model::state::{Desired, State};
use crate::model::wire::{Absent, Scope};

/// Of its own things those that decide what is wanted, and how they are.
type Read = BTreeMap<ResourceId, Text>;

/// What a topology came to, and what of the host it came from.
///
/// Of its own things most only fill blanks, with what they hold; these stay filled so, whatever becomes of the things.
#[derive(Clone, Debug)]
pub struct Known {
    scope: Scope,
    foreign: Foreign,
    absent: BTreeMap<Text, Absent>,
    present: BTreeSet<Text>,
    read: Read,
    desired: Desired,
    /// What of it stands in a namespace or leads into it.
    within: BTreeMap<Text, Vec<ResourceId>>,
}

impl Known {
    /// Keeps what was wanted of what was seen.
    pub fn new(scope: Scope, observed: Observed, desired: Desired) -> Self {
        let read = read(&observed, &desired.state);
        let Observed { foreign, absent, present, .. } = observed;
        let mut within = BTreeMap::<Text, Vec<ResourceId>>::new();
        for (id, resource) in desired.state.iter() {
            for netns in focus::namespaces(resource).into_iter().filter(|netns| &**netns != HOST) {
                within.entry(netns).or_default().push(id.clone());
            }
        }
        Self { scope, foreign, absent, present, read, desired, within }
    }

    /// What is to be looked at for it.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What is to be done about news, if they leave what is wanted as it is and nothing goes for them; if not, all must be
    /// looked at.
    ///
    /// # Errors
    ///
    /// [`NoPlan::Flawed`].
    pub(super) fn follow(&self, news: News) -> Result<Option<Prepared>, NoPlan> {
        let News { focus, observed, .. } = &news;
        let (was, is) = (&self.foreign, &observed.foreign);
        let here = |(id, _): &(&ResourceId, &Text)| focus.namespaces.contains(&id.netns);
        let read = read(observed, &self.desired.state);
        if focus.namespaces.iter().any(|netns| !was.is_alike_in(netns, is))
            || focus.links.iter().any(|link| !was.is_alike_at(&(host(), link.clone()), is))
            || focus.netfilter && was.docker != is.docker
            || !self.read.iter().filter(here).eq(read.iter().filter(here))
        {
            return Ok(None);
        }
        let netfilter = self.desired.state.of_kinds(HOST, focus::NETFILTER);
        let netfilter = netfilter.filter(|_| focus.netfilter).cloned();
        let inside = focus.namespaces.iter().filter_map(|netns| self.within.get(netns)).flatten();
        let state: State = inside.filter_map(|id| self.desired.state.get(id)).cloned().chain(netfilter).collect();
        let diff = diff(&state, &observed.ours);
        let local = |(id, change): (&ResourceId, &Change)| {
            let stays = matches!(change, Change::Create { .. } | Change::Update { .. });
            stays && (&*id.netns != HOST || id.kind == KindName::Veth || focus.holds_netfilter(id.kind))
        };
        if !diff.iter().all(local) {
            return Ok(None);
        }
        tracing::debug!(?focus, "only news were looked into");
        #[cfg(debug_assertions)]
        assert_eq!(diff, crate::diff::diff(&self.desired.state, &news.whole.ours), "{focus:?}");
        let plan = proven(&diff, &state, &observed.ours)?;
        let origin = |id: &ResourceId| Some((id.clone(), *self.desired.origins.get(id)?));
        let origins = diff.keys().filter_map(origin).collect();
        // Not all of it, whose origins are as many as the resources.
        let Desired { topology, pending, notes, .. } = &self.desired;
        let (topology, pending, notes) = (topology.clone(), pending.clone(), notes.clone());
        let desired = Desired { topology, state: Arc::new(state), origins, pending, notes };
        Ok(Some(Prepared { observed: news.observed, desired, diff, plan, whole: Some(self.desired.state.clone()) }))
    }

    /// What is wanted still, if nothing else has changed.
    pub(super) fn still(&self, observed: &Observed) -> Option<&Desired> {
        let same =
            self.foreign == observed.foreign && self.absent == observed.absent && self.present == observed.present;
        (same && self.read == read(observed, &self.desired.state)).then_some(&self.desired)
    }
}

/// Which namespaces bear the mark, as under the same name may stand somebody else's next; and settings of namespaces that
/// are not wanted in any way themselves.
fn read(observed: &Observed, desired: &State) -> Read {
    let counts = |(id, it): (&ResourceId, &Resource)| match it {
        Resource::Netns(netns) => observed.present.contains(&netns.name).then(|| (id.clone(), Text::default())),
        Resource::Sysctl(setting) if setting.link().is_none() && desired.get(id).is_none() => {
            Some((id.clone(), setting.value.clone()))
        }
        _ => None,
    };
    observed.ours.iter().filter_map(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Target, decide};
    use crate::model::focus::Focus;
    use crate::model::kinds::address::Address;
    use crate::model::kinds::firewall::Rules;
    use crate::model::observed::ForeignLink;
    use crate::model::parse::parse;
    use crate::model::resource::{Kind, KindName};
    use crate::model::source::Source;

    const SHOP: &str = r#"
topology = "shop"
[networks.front]
driver = "bridge"
subnets = ["10.10.0.0/24"]
[containers]
api.netns = "api"
db.netns = "db"
[endpoints]
api = { container = "api", network = "front" }
db = { container = "db", network = "front" }
"#;

    /// A host on which all is as wanted, and then not any more.
    struct Host {
        known: Known,
        observed: Observed,
    }

    impl Host {
        fn new() -> Self {
            let topology = parse(&[Source::new("shop.toml", SHOP)]).expect("a valid topology");
            let target = Target::Topology(&topology);
            let present = ["api", "db"].map(Text::from).into();
            let Prepared { desired, .. } =
                decide(target, Observed { present, looked: true, ..Observed::default() }).expect("a plan");
            let observed = Observed { ours: (*desired.state).clone(), ..Observed::default() };
            Self { known: Known::new(target.scope(), observed.clone(), desired), observed }
        }

        fn id(&self, netns: &str, kind: KindName) -> ResourceId {
            self.observed.ours.of_kind(netns, kind).next().map(Kind::id).expect("wanted")
        }

        /// What is to be done about it, if that is looked into where something happened.
        fn follow(&self, netns: &[&str], netfilter: bool) -> Option<Vec<String>> {
            let namespaces = netns.iter().map(|netns| Text::from(*netns)).collect();
            let focus = Focus { namespaces, netfilter, ..Focus::default() };
            let mut observed = self.observed.clone();
            observed.ours = observed.ours.resources().filter(|it| focus.holds(it)).cloned().collect();
            let news = News {
                focus,
                observed,
                #[cfg(debug_assertions)]
                whole: self.observed.clone(),
            };
            let prepared = self.known.follow(news).expect("no flaw")?;
            assert_eq!(prepared.whole, Some(self.known.desired.state.clone()));
            assert!(prepared.diff.keys().all(|id| prepared.desired.origins.contains_key(id)), "each has its place");
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
    fn what_others_do_there_is_for_a_whole_look() {
        let link = ForeignLink { kind: "dummy".into(), mtu: 1500, ports: 0, topology: None };
        let mut host = Host::new();
        host.observed.foreign.links.insert(("db".into(), "d0".into()), link);
        assert_eq!(host.follow(&["api"], false), Some(vec![]), "not there");
        assert_eq!(host.follow(&["db"], false), None);

        let mut host = Host::new();
        host.observed.foreign.docker.insert(false, Some(7));
        assert_eq!(host.follow(&["api"], false), Some(vec![]));
        assert_eq!(host.follow(&[], true), None, "accepts are put before another rule");
    }
}
