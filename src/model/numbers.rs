//! Numbers for names: order and simulation compare and look up the same few names some million times, and numbers are
//! compared in a hundredth of the time.

use std::hash::{BuildHasher as _, Hash};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Names by number, in the order in which they were first met. The table knows numbers only: it is looked up and never
/// walked, so its order cannot show.
#[derive(Clone, Debug)]
pub struct Numbers<K> {
    numbers: HashTable<u32>,
    names: Vec<K>,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { numbers: HashTable::new(), names: Vec::new() }
    }
}

fn hash(name: &impl Hash) -> u64 {
    FixedState::default().hash_one(name)
}

impl<K: Eq + Hash> Numbers<K> {
    /// Makes room for so many names more.
    pub fn reserve(&mut self, names: usize) {
        let known = &self.names;
        self.numbers.reserve(names, |number| hash(&known[*number as usize]));
        self.names.reserve(names);
    }

    /// The number of a name: the next one if it was never met.
    pub fn number(&mut self, name: K) -> u32 {
        let Self { numbers, names } = self;
        let is = |number: &u32| names[*number as usize] == name;
        match numbers.entry(hash(&name), is, |number| hash(&names[*number as usize])) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                let next = names.len() as u32;
                unknown.insert(next);
                names.push(name);
                next
            }
        }
    }

    /// Whether a name was never met; from now on it was.
    pub fn is_new(&mut self, name: K) -> bool {
        let next = self.names.len();
        self.number(name) as usize == next
    }

    /// The number of a name that was met.
    pub fn known(&self, name: &K) -> Option<u32> {
        // At a set-up nothing is there yet, and what is asked for is not hashed.
        if self.names.is_empty() {
            return None;
        }
        self.numbers.find(hash(name), |number| self.names[*number as usize] == *name).copied()
    }

    /// The same where the number can be guessed: names that come in the order in which they were met are not hashed.
    pub fn known_at(&self, guess: u32, name: &K) -> Option<u32> {
        let right = self.names.get(guess as usize) == Some(name);
        if right { Some(guess) } else { self.known(name) }
    }

    /// All names, in the order of their numbers.
    pub fn names(&self) -> impl Iterator<Item = &K> {
        self.names.iter()
    }

    /// The name of a number.
    ///
    /// # Panics
    ///
    /// On a number that was not given here.
    pub fn name(&self, number: u32) -> &K {
        &self.names[number as usize]
    }
}

impl<K: Eq + Hash> Extend<K> for Numbers<K> {
    fn extend<I: IntoIterator<Item = K>>(&mut self, names: I) {
        let names = names.into_iter();
        self.reserve(names.size_hint().0);
        for name in names {
            self.number(name);
        }
    }
}

/// Something for each number; what was never said is the default.
#[derive(Clone, Debug)]
pub struct ByNumber<T>(Vec<T>);

impl<T> Default for ByNumber<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Default> ByNumber<T> {
    /// What is said of a number, if anything was.
    pub fn get(&self, number: u32) -> Option<&T> {
        self.0.get(number as usize)
    }

    /// What is said of a number, to be changed.
    pub fn entry(&mut self, number: u32) -> &mut T {
        let at = number as usize;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, T::default);
        }
        &mut self.0[at]
    }
}
