//! Who changed things lately, as far as the kernel tells.

use std::collections::{BTreeMap, VecDeque};

use super::event;
use crate::kernel::events::Author;
use crate::model::resource::KindName;

/// Changes of which the author is kept in mind.
const CHANGES: usize = 64;

/// The authors of the last changes.
#[derive(Clone, Default, Debug)]
pub struct Authors(VecDeque<Author>);

impl Authors {
    /// Somebody changed something.
    pub fn note(&mut self, author: &Author) {
        self.0.push_back(author.clone());
        if self.0.len() > CHANGES {
            self.0.pop_front();
        }
    }

    /// Who changed things of that kind most often.
    pub fn suspect(&self, kind: KindName) -> Option<String> {
        let mut counts = BTreeMap::<(&str, bool), (usize, &Author)>::new();
        for author in self.0.iter().filter(|author| author.could_change(kind)) {
            let count = counts.entry((author.name.as_str(), author.name.is_empty())).or_insert((0, author));
            *count = (count.0 + 1, author);
        }
        counts.into_values().max_by_key(|(count, _)| *count).map(|(_, author)| event::author(author))
    }
}
