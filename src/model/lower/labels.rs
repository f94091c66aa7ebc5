//! What things are called, and what they were called when they were made: a thing that is renamed keeps the interface
//! names and hardware addresses it was born with, so that the kernel's object lives on and no packet is lost.

use toml::Spanned;

use super::Lowering;
use crate::model::numbers::{ByNumber, Numbers};
use crate::model::resource::{HOST, Kind, KindName, Part, Text};
use crate::model::state::State;
use crate::model::topology::Topology;
use crate::model::wire::Label;

/// The names that what is there was born with.
#[derive(Default)]
pub(super) struct Labels {
    /// What is there, by table and present name.
    names: Numbers<(&'static str, Text)>,
    /// What each was born as.
    born: ByNumber<Option<Text>>,
    /// What is spoken for.
    taken: Numbers<(&'static str, Text)>,
}

/// The table of the file that declares such a thing.
pub fn table(part: &Part) -> &'static str {
    match part {
        Part::Network => "networks",
        Part::Container => "containers",
        Part::Endpoint(_) => "endpoints",
    }
}

impl Labels {
    /// Those of all things, or those that matter for a part of the topology.
    pub(super) fn of(topology: &Topology, whole: &Topology, state: &State) -> Self {
        let mut labels = Self::default();
        let parts = |it| Kind::part(it).filter(|(_, label)| !label.name.is_empty());
        if std::ptr::eq(topology, whole) {
            state.resources().filter_map(parts).for_each(|(part, label)| labels.add(&part, label));
        } else {
            // All that is there is as it was wanted, so nothing stands elsewhere. What is still called as it was born is in
            // the way of its own name alone.
            let marked = state.of_kinds(HOST, KindName::Netns..=KindName::Veth).filter_map(parts);
            let matters = |(part, label): &(Part, &Label)| {
                label.name != label.born || topology.declares(table(part), &label.name)
            };
            marked.filter(matters).for_each(|(part, label)| labels.add(&part, label));
        }
        labels
    }

    fn add(&mut self, part: &Part, label: &Label) {
        let at = self.names.number((table(part), label.name.clone()));
        *self.born.entry(at) = Some(label.born.clone());
        self.taken.number((table(part), label.born.clone()));
    }

    fn born(&self, table: &'static str, name: &Text) -> Option<Text> {
        self.born.get(self.names.known(&(table, name.clone()))?)?.clone()
    }
}

impl Lowering<'_> {
    /// The name that a thing's own names are derived from: the one it was made under, as itself or as what it was moved
    /// from; else its own, unless something that was moved away still goes by that.
    pub(super) fn born(&self, table: &'static str, name: &str) -> Text {
        let own = Text::from(name);
        let moved = || self.topology.moved_from(table, name).and_then(|from| self.labels.born(table, &from.into()));
        self.labels.born(table, &own).or_else(moved).unwrap_or_else(|| {
            let numbered = (2..).map(|n| format!("{name}~{n}").into());
            let mut candidates = std::iter::once(own).chain(numbered);
            let free = candidates.find(|candidate| self.labels.taken.known(&(table, candidate.clone())).is_none());
            free.unwrap_or_default()
        })
    }

    /// What the mark of a thing is to tell.
    pub fn label(&self, name: &str, born: &Text, protect: Option<&Spanned<bool>>) -> Label {
        let protected = protect.is_some_and(|protect| *protect.get_ref());
        let name = if **born == *name { born.clone() } else { name.into() };
        Label { name, born: born.clone(), protected }
    }
}
