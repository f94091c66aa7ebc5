//! A state of the host as far as netrec is concerned: desired and observed are the same type, so comparing them,
//! verifying, undoing and destroying are all the same function.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use super::resource::{Kind, KindName, Resource, ResourceId, Text};
use super::shared::Shared;
use super::source::Span;

/// Resources by id. Only what bears our mark, or is wanted, can be in one: what belongs to others is
/// [`Foreign`](super::observed::Foreign), which no operation accepts.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct State {
    resources: Shared<BTreeMap<ResourceId, Resource>>,
}

impl State {
    /// Puts a resource in; the last one of an id wins.
    pub fn insert(&mut self, resource: Resource) {
        self.resources.insert(resource.id(), resource);
    }

    /// Puts all of another one in.
    pub fn append(&mut self, mut other: Self) {
        self.resources.append(&mut other.resources);
    }

    /// Takes a resource out.
    pub fn remove(&mut self, id: &ResourceId) -> Option<Resource> {
        self.resources.remove(id)
    }

    /// The resource of that id.
    pub fn get(&self, id: &ResourceId) -> Option<&Resource> {
        self.resources.get(id)
    }

    /// All resources in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceId, &Resource)> {
        self.resources.iter()
    }

    /// All resources in the order of their ids.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    /// All of a kind in a namespace.
    pub fn of_kind<'a>(&'a self, netns: &str, kind: KindName) -> impl Iterator<Item = &'a Resource> + use<'a> {
        self.of_kinds(netns, kind..=kind)
    }

    /// All in a namespace.
    pub fn of_netns<'a>(&'a self, netns: &str) -> impl Iterator<Item = &'a Resource> + use<'a> {
        let [first, .., last] = KindName::ALL else { unreachable!("there are several kinds") };
        self.of_kinds(netns, *first..=*last)
    }

    /// All of some kinds in a namespace.
    pub fn of_kinds<'a>(
        &'a self,
        netns: &str,
        kinds: RangeInclusive<KindName>,
    ) -> impl Iterator<Item = &'a Resource> + use<'a> {
        let netns = Text::from(netns);
        let first = ResourceId::new(&netns, *kinds.start(), "");
        let among = move |id: &ResourceId| id.netns == netns && kinds.contains(&id.kind);
        self.resources.range(first..).map_while(move |(id, it)| among(id).then_some(it))
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
}

impl FromIterator<Resource> for State {
    fn from_iter<I: IntoIterator<Item = Resource>>(resources: I) -> Self {
        Self { resources: resources.into_iter().map(|resource| (resource.id(), resource)).collect() }
    }
}

/// What is wanted: only [`lower`](super::lower::lower) makes one, so whoever holds one holds a topology that was checked.
#[derive(Clone, Default, Debug)]
pub struct Desired {
    /// Owner of everything in it.
    pub topology: String,
    /// The resources.
    pub state: State,
    /// Where in the TOML each resource was asked for. Beside the state, so that spans never spoil equality.
    pub origins: Origins,
    /// Containers that are declared but not there yet; what they need is not in `state`.
    pub pending: Vec<Pending>,
    /// What the user should know before saying yes; never an error.
    pub notes: Vec<String>,
}

impl Desired {
    /// Takes what is wanted, and where each was asked for; of two with one id the last is meant.
    pub fn fill(&mut self, mut wanted: Vec<(ResourceId, Resource, Span)>) {
        // Stable: those of one id stay as they were asked for.
        wanted.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        wanted.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                std::mem::swap(next, kept);
            }
            same
        });
        let spans = wanted.iter().map(|(.., span)| *span).collect();
        self.state = State { resources: wanted.into_iter().map(|(id, resource, _)| (id, resource)).collect() };
        self.origins = Origins(Arc::new(Places { state: self.state.clone(), spans, ids: OnceLock::new() }));
    }
}

/// Places in the TOML by id: there are tens of thousands of them, and mostly none is ever asked for.
#[derive(Clone, Default, Debug)]
pub struct Origins(Arc<Places>);

#[derive(Default, Debug)]
struct Places {
    /// What was asked for.
    state: State,
    /// Where, in the order of ids.
    spans: Vec<Span>,
    /// Those ids, once somebody wants to know.
    ids: OnceLock<Vec<ResourceId>>,
}

impl Origins {
    /// Where a resource was asked for; the last of several.
    pub fn get(&self, id: &ResourceId) -> Option<Span> {
        let Places { state, spans, ids } = &*self.0;
        let ids = ids.get_or_init(|| state.iter().map(|(id, _)| id.clone()).collect());
        ids.binary_search(id).ok().map(|at| spans[at])
    }
}

/// A container that is declared but not there yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// Its name in the topology.
    pub container: String,
    /// What is missing, for a person.
    pub reason: String,
    /// Where it is declared.
    pub origin: Span,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kinds::sysctl::Sysctl;
    use crate::model::resource::HOST;

    #[test]
    fn of_several_with_one_id_the_last_is_wanted_where_it_was_asked_for() {
        let asked = [("b", "1"), ("a", "1"), ("b", "2"), ("c", "1"), ("b", "3")];
        let wanted = (0..).zip(&asked).map(|(start, (key, value))| {
            let setting: Resource = Sysctl { netns: HOST.into(), key: (*key).into(), value: (*value).into() }.into();
            (setting.id(), setting, Span { start, ..Span::default() })
        });
        let mut desired = Desired::default();
        desired.fill(wanted.collect());
        let found: Vec<_> = desired.state.iter().map(|(id, it)| (it.clone(), desired.origins.get(id))).collect();
        let last = |key: &str| asked.iter().rposition(|(it, _)| *it == key).unwrap();
        let expected = ["a", "b", "c"].map(last).map(|at| {
            let (key, value) = asked[at];
            let setting = Sysctl { netns: HOST.into(), key: key.into(), value: value.into() };
            (setting.into(), Some(Span { start: at as u32, ..Span::default() }))
        });
        assert_eq!(found, expected);
    }
}
