//! What things are called, and what they were called when they were made: a thing that is renamed keeps the interface
//! names and hardware addresses it was born with, so that the kernel's object lives on and no packet is lost.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;

use super::Lowering;
use crate::model::resource::{Kind, Part, Text};
use crate::model::state::State;
use crate::model::wire::Label;

/// The names that what is there was born with.
#[derive(Default)]
pub(super) struct Labels {
    /// By table and present name.
    born: BTreeMap<&'static str, BTreeMap<Text, Text>>,
    /// Those that are spoken for.
    taken: BTreeSet<(&'static str, Text)>,
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
    pub(super) fn of(state: &State) -> Self {
        let mut labels = Self::default();
        let parts = state.resources().filter_map(Kind::part).filter(|(_, label)| !label.name.is_empty());
        for (part, label) in parts {
            labels.taken.insert((table(&part), label.born.clone()));
            labels.born.entry(table(&part)).or_default().insert(label.name.clone(), label.born.clone());
        }
        labels
    }

    fn born(&self, table: &str, name: &str) -> Option<Text> {
        self.born.get(table)?.get(name).cloned()
    }
}

impl Lowering<'_> {
    /// The name that a thing's own names are derived from: the one it was made under, as itself or as what it was moved
    /// from; else its own, unless something that was moved away still goes by that.
    pub(super) fn born(&self, table: &'static str, name: &str) -> Text {
        let moved = || self.topology.moved_from(table, name).and_then(|from| self.labels.born(table, from));
        self.labels.born(table, name).or_else(moved).unwrap_or_else(|| {
            let numbered = (2..).map(|n| format!("{name}~{n}").into());
            let mut candidates = std::iter::once(Text::from(name)).chain(numbered);
            let free = candidates.find(|candidate| !self.labels.taken.contains(&(table, candidate.clone())));
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
