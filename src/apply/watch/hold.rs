//! Leaving things alone for now: what is held is nobody's, neither wanted nor seen, like anything else of the host's.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::resource::{Kind, Need, ResourceId, Thing};
use crate::model::state::State;

/// Takes `held` out of what is wanted and of what is seen. Of something that is not there, what exists in it cannot be
/// wanted either, as the kernel would only refuse it; what merely wants it first goes on without.
pub fn leave(desired: &mut State, observed: &mut State, held: &BTreeSet<ResourceId>) {
    let (mut providers, dependents) = index(desired);
    let mut rest: Vec<ResourceId> = held.iter().cloned().collect();
    let mut seen = held.clone();
    while let Some(id) = rest.pop() {
        let wanted = desired.remove(&id);
        if observed.remove(&id).is_some() {
            continue;
        }
        for thing in wanted.iter().flat_map(Kind::provides) {
            let left = providers.get_mut(&thing);
            let last = left.is_some_and(|left| {
                *left -= 1;
                *left == 0
            });
            if last {
                let orphans = dependents.get(&thing).into_iter().flatten();
                rest.extend(orphans.filter(|id| seen.insert((*id).clone())).cloned());
            }
        }
    }
}

type Providers = BTreeMap<Thing, usize>;
type Dependents = BTreeMap<Thing, Vec<ResourceId>>;

/// How many provide a thing, and what cannot be without it.
fn index(state: &State) -> (Providers, Dependents) {
    let (mut providers, mut dependents) = (Providers::new(), Dependents::new());
    for (id, resource) in state.iter() {
        for thing in resource.provides() {
            *providers.entry(thing).or_default() += 1;
        }
        for need in resource.needs() {
            if let Need::Inside(thing) | Need::Upon(thing) = need {
                dependents.entry(thing).or_default().push(id.clone());
            }
        }
    }
    (providers, dependents)
}
