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

#[cfg(test)]
mod tests;

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
    present: Shared<BTreeSet<Text>>,
    read: Shared<Read>,
    /// Of its own things those that nobody asks for: settings that are read.
    unasked: State,
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
        let unasked: State = unasked.map(|(_, resource)| resource.clone()).collect();
        let Observed { foreign, absent, present, .. } = observed;
        let read = Shared::new(read(desired.state.resources().chain(unasked.resources()), &present, &desired.state));
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
        let beside = Observed { ours: self.unasked.clone(), foreign, absent, present, looked };
        let mut observed = Observed { ours: self.desired.state.clone(), ..beside.clone() };
        let turned = alone.then(|| lower::turned((last, topology), &self.desired, &observed, &beside.ours)).flatten();
        let (next, open) = if let Some(turned) = turned {
            let open = turned.open.clone();
            (self.turned(scope, beside, turned), Some(open))
        } else {
            self.within(&focus).iter().for_each(|id| drop(observed.ours.remove(id)));
            put(&mut observed.ours, &beside.ours);
            put(&mut observed.ours, &seen.ours);
            let desired = lower::lower(topology, &observed)?;
            let open = Focus::of(differing(&self.desired.state, &desired.state));
            (Self::new(scope, beside, desired), open)
        };
        tracing::debug!(part = next.in_part, "lowered");
        #[cfg(debug_assertions)]
        {
            let beside = Observed { ours: self.unasked.clone(), ..observed.clone() };
            let whole = lower::lower(topology, &news.whole);
            let whole = whole.map(|whole| Self::new(next.scope.clone(), beside, whole));
            assert!(whole.is_ok_and(|whole| whole.wants_like(&next)), "the same is wanted of all that is there");
        }
        Ok(open.map(|open| Turn { next: Self { open, ..next }, observed }))
    }

    /// What is known of a topology that was told from a part of it.
    fn turned(&self, scope: Scope, beside: Observed, Turned { desired, part, open }: Turned) -> Self {
        let Observed { foreign, absent, present, .. } = beside;
        let ([was, is], mut all) = (part, self.read.clone());
        was.resources().for_each(|it| drop(all.remove(&it.id())));
        all.extend(read(is.resources(), &present, &desired.state));
        let (unasked, adrift) = (self.unasked.clone(), Focus::default());
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
        (settled && same && *self.read == read()).then_some(&self.desired)
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
