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
        // It may be there, but elsewhere.
        let there = observed.remove(&id).map(|it| it.provides()).unwrap_or_default();
        for thing in wanted.iter().flat_map(Kind::provides).filter(|thing| !there.contains(thing)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kinds::address::Address;
    use crate::model::kinds::veth::{End, Veth};
    use crate::model::resource::{HOST, Resource, Text};
    use crate::model::values::Mac;
    use crate::model::wire::{Label, Owner};

    /// A pair that leads into a namespace, and an address at its end.
    fn plugged(netns: &str) -> State {
        let (netns, ifname) = (Text::from(netns), Text::from("eth0"));
        let end = End::new(Mac([2, 0, 0, 0, 0, 1]), 1500);
        let address = Address::new(&netns, &ifname, "10.0.0.2/24".parse().expect("an address"));
        let veth = Veth {
            place: HOST.into(),
            name: "nr-1".into(),
            owner: Owner::new("t"),
            label: Label::new("a", false),
            host: end.clone(),
            bridge: None,
            isolated: false,
            hairpin: false,
            ipv6: false,
            netns,
            ifname: Some(ifname),
            peer: end,
        };
        [Resource::from(veth), Resource::from(address)].into_iter().collect()
    }

    #[test]
    fn nothing_is_wanted_in_what_is_held_elsewhere() {
        let held = BTreeSet::from([plugged("one").resources().next().expect("the pair").id()]);
        let (mut desired, mut observed) = (plugged("one"), plugged("one"));
        leave(&mut desired, &mut observed, &held);
        assert_eq!((desired.len(), observed.len()), (1, 1), "its address is wanted where the pair is");
        let (mut desired, mut observed) = (plugged("one"), plugged("two"));
        leave(&mut desired, &mut observed, &held);
        assert_eq!((desired.len(), observed.len()), (0, 1), "and not where it is not");
    }
}
