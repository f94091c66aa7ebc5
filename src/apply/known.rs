//! What a topology came to, kept for as long as it stays true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{NoPlan, Prepared, proven};
use crate::diff::{Change, diff};
use crate::model::focus::{self, News};
use crate::model::observed::{Foreign, Observed};
use crate::model::resource::{HOST, KindName, ResourceId, Text};
use crate::model::state::{Desired, State};
use crate::model::wire::{Absent, Scope};

/// What a topology came to, and what of the host it came from besides its own things.
///
/// Of its own things only blanks are filled, with what they hold; they stay filled so, whatever becomes of the things.
#[derive(Clone, Debug)]
pub struct Known {
    scope: Scope,
    foreign: Foreign,
    absent: BTreeMap<Text, Absent>,
    present: BTreeSet<Text>,
    desired: Desired,
    /// What of it stands in a namespace or leads into it.
    within: BTreeMap<Text, Vec<ResourceId>>,
}

impl Known {
    /// Keeps what was wanted of what was seen.
    pub fn new(scope: Scope, observed: Observed, desired: Desired) -> Self {
        let Observed { foreign, absent, present, .. } = observed;
        let mut within = BTreeMap::<Text, Vec<ResourceId>>::new();
        for (id, resource) in desired.state.iter() {
            for netns in focus::namespaces(resource).into_iter().filter(|netns| &**netns != HOST) {
                within.entry(netns).or_default().push(id.clone());
            }
        }
        Self { scope, foreign, absent, present, desired, within }
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
        if focus.namespaces.iter().any(|netns| !self.foreign.is_alike_in(netns, &observed.foreign)) {
            return Ok(None);
        }
        let netfilter = self.desired.state.of_kinds(HOST, KindName::Firewall..=KindName::DockerUser);
        let netfilter = netfilter.filter(|_| focus.netfilter).cloned();
        let inside = focus.namespaces.iter().filter_map(|netns| self.within.get(netns)).flatten();
        let state: State = inside.filter_map(|id| self.desired.state.get(id)).cloned().chain(netfilter).collect();
        let diff = diff(&state, &observed.ours);
        let local = |(id, change): (&ResourceId, &Change)| {
            let stays = matches!(change, Change::Create { .. } | Change::Update { .. });
            stays && (&*id.netns != HOST || focus.holds_netfilter(id.kind))
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
        let Desired { topology, pending, notes, .. } = self.desired.clone();
        let desired = Desired { topology, state: Arc::new(state), origins, pending, notes };
        Ok(Some(Prepared { observed: news.observed, desired, diff, plan, whole: Some(self.desired.state.clone()) }))
    }

    /// What is wanted still, if nothing else has changed.
    pub(super) fn still(&self, observed: &Observed) -> Option<&Desired> {
        let same =
            self.foreign == observed.foreign && self.absent == observed.absent && self.present == observed.present;
        same.then_some(&self.desired)
    }
}
