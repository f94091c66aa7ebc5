//! Comparison and order: [`diff`] says what must change and why, [`plan`](plan::plan) in which order, [`render`] how
//! people and programs read it; [`unified`] puts the two states side by side.
//!
//! Nothing here does I/O, and nothing can fail: two states always have a difference, and a difference that cannot be
//! ordered is a bug in netrec.

pub mod plan;
pub mod render;
pub mod unified;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::numbers::ByNumber;
use crate::model::resource::{FieldChange, Kind, Resource, ResourceId, Thing};
use crate::model::state::State;
use crate::model::ties::{Bond, Things};

/// What must change, by id.
pub type Diff = BTreeMap<ResourceId, Change>;

/// What must happen to one resource.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// It is wanted and not there.
    Create {
        /// What is wanted.
        to: Resource,
    },
    /// It is there and the kernel can change it on the living object.
    Update {
        /// What is there.
        from: Resource,
        /// What is wanted.
        to: Resource,
        /// Why.
        why: Why,
    },
    /// It is there and must be made anew.
    Replace {
        /// What is there.
        from: Resource,
        /// What is wanted.
        to: Resource,
        /// Why.
        why: Why,
        /// Whether the kernel takes the old one with something else that goes.
        implied: Option<Box<ResourceId>>,
    },
    /// It is there and not wanted.
    Delete {
        /// What is there.
        from: Resource,
        /// Whether the kernel takes it with something else that goes.
        implied: Option<Box<ResourceId>>,
    },
}

/// Why a living resource must change. It only explains: nothing is decided by it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// Fields differ.
    Fields(Vec<FieldChange>),
    /// What it cannot be without is removed or replaced.
    Lost(Box<ResourceId>),
}

impl Change {
    /// What is wanted, if anything.
    pub fn to(&self) -> Option<&Resource> {
        match self {
            Self::Create { to } | Self::Update { to, .. } | Self::Replace { to, .. } => Some(to),
            Self::Delete { .. } => None,
        }
    }

    /// What is there, if anything.
    pub fn from(&self) -> Option<&Resource> {
        match self {
            Self::Create { .. } => None,
            Self::Update { from, .. } | Self::Replace { from, .. } | Self::Delete { from, .. } => Some(from),
        }
    }

    /// What is done, in a word.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Update { .. } => "update",
            Self::Replace { .. } => "replace",
            Self::Delete { .. } => "delete",
        }
    }

    /// Whether it only follows from another change.
    pub fn is_consequence(&self) -> bool {
        self.implied().is_some()
            || matches!(self, Self::Update { why: Why::Lost(_), .. } | Self::Replace { why: Why::Lost(_), .. })
    }

    /// Whether what is there goes, for good or for a moment.
    pub fn removes(&self) -> bool {
        matches!(self, Self::Replace { .. } | Self::Delete { .. })
    }

    /// The resource whose removal takes this one, if one does.
    pub fn implied(&self) -> Option<&ResourceId> {
        match self {
            Self::Replace { implied, .. } | Self::Delete { implied, .. } => implied.as_deref(),
            Self::Create { .. } | Self::Update { .. } => None,
        }
    }
}

/// What must change for `observed` to become `desired`, consequences included.
pub fn diff(desired: &State, observed: &State) -> Diff {
    let changed = |(id, to, from): (&ResourceId, _, _)| Some((id.clone(), change(to, from)?));
    let mut all = Vec::with_capacity(desired.len());
    all.extend(side_by_side(desired, observed).filter_map(changed));
    let mut diff: Diff = all.into_iter().collect();
    if diff.values().any(Change::removes) {
        Spread::new(desired, observed).run(&mut diff);
    }
    diff
}

/// What two states have otherwise: of each id what the one has of it and what the other has.
pub fn differing<'a>(one: &'a State, other: &'a State) -> impl Iterator<Item = &'a Resource> {
    let different = side_by_side(one, other).filter(|(_, one, other)| one != other);
    different.flat_map(|(_, one, other)| one.into_iter().chain(other))
}

/// Both states in the order of ids: each id once, what the one has of it and what the other has.
fn side_by_side<'a>(
    one: &'a State,
    other: &'a State,
) -> impl Iterator<Item = (&'a ResourceId, Option<&'a Resource>, Option<&'a Resource>)> {
    let (mut ones, mut others) = (one.iter().peekable(), other.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (ones.peek(), others.peek()) {
            (Some((one, _)), Some((other, _))) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let one = if order.is_le() { ones.next() } else { None };
        let other = if order.is_ge() { others.next() } else { None };
        let (id, _) = one.or(other)?;
        Some((id, one.map(|(_, it)| it), other.map(|(_, it)| it)))
    })
}

/// What must change of one resource by itself.
fn change(to: Option<&Resource>, from: Option<&Resource>) -> Option<Change> {
    let (to, from) = match (to, from) {
        (Some(to), Some(from)) => (to, from),
        (Some(to), None) => return Some(Change::Create { to: to.clone() }),
        (None, Some(from)) if !from.stays() => return Some(Change::Delete { from: from.clone(), implied: None }),
        (None, _) => return None,
    };
    let fields = to.changes(from);
    if fields.is_empty() {
        return None;
    }
    let (from, to, in_place) = (from.clone(), to.clone(), fields.iter().all(|field| field.in_place));
    let why = Why::Fields(fields);
    Some(if in_place { Change::Update { from, to, why } } else { Change::Replace { from, to, why, implied: None } })
}

/// Follows what goes to everything that cannot be without it.
struct Spread<'a> {
    desired: &'a State,
    observed: &'a State,
    things: Things,
    /// How many providers of a thing are left.
    providers: ByNumber<usize>,
    dependents: ByNumber<Vec<(&'a ResourceId, Bond)>>,
}

impl<'a> Spread<'a> {
    fn new(desired: &'a State, observed: &'a State) -> Self {
        let (things, providers, dependents) = Default::default();
        let mut spread = Self { desired, observed, things, providers, dependents };
        for (id, resource) in observed.iter() {
            let ties = spread.things.ties(resource);
            for thing in ties.provides {
                *spread.providers.entry(thing) += 1;
            }
            for (bond, thing) in ties.needs {
                spread.dependents.entry(thing).push((id, bond));
            }
        }
        spread
    }

    fn run(mut self, diff: &mut Diff) {
        let removed = diff.iter().filter(|(_, change)| change.removes());
        // The resource that goes, and the one whose removal is said to the kernel.
        let mut going: Vec<(ResourceId, ResourceId)> = removed.map(|(id, _)| (id.clone(), id.clone())).collect();
        let mut seen: BTreeSet<ResourceId> = going.iter().map(|(id, _)| id.clone()).collect();
        while let Some((id, root)) = going.pop() {
            let gone = self.observed.get(&id).map(Kind::provides).unwrap_or_default();
            for thing in gone {
                let number = self.things.number(thing.clone());
                if !self.is_last(number) {
                    continue;
                }
                for (dependent, bond) in self.dependents.get(number).into_iter().flatten() {
                    match bond {
                        Bond::Inside => {
                            self.lose(diff, dependent, &id, Some(&root));
                            if seen.insert((*dependent).clone()) {
                                going.push(((*dependent).clone(), root.clone()));
                            }
                        }
                        Bond::Upon => {
                            self.lose(diff, dependent, &id, None);
                            if seen.insert((*dependent).clone()) {
                                going.push(((*dependent).clone(), (*dependent).clone()));
                            }
                        }
                        Bond::After => self.bereave(diff, dependent, &thing, &id),
                    }
                }
            }
        }
        settle_roots(diff);
    }

    /// Takes one provider away; whether it was the last.
    fn is_last(&mut self, thing: u32) -> bool {
        let left = self.providers.entry(thing);
        *left = left.saturating_sub(1);
        *left == 0
    }

    /// A dependent goes with `cause`; `root` where the kernel takes it with that.
    fn lose(&self, diff: &mut Diff, id: &ResourceId, cause: &ResourceId, root: Option<&ResourceId>) {
        match diff.get_mut(id) {
            Some(Change::Delete { implied, .. } | Change::Replace { implied, .. }) => {
                if implied.is_none() {
                    *implied = root.cloned().map(Box::new);
                }
            }
            Some(Change::Create { .. }) => {}
            Some(Change::Update { .. }) | None => {
                if let (Some(from), Some(to)) = (self.observed.get(id), self.desired.get(id)) {
                    let (from, to, why) = (from.clone(), to.clone(), Why::Lost(Box::new(cause.clone())));
                    diff.insert(id.clone(), Change::Replace { from, to, why, implied: root.cloned().map(Box::new) });
                }
            }
        }
    }

    /// A dependent that survives may have lost something.
    fn bereave(&self, diff: &mut Diff, id: &ResourceId, thing: &Thing, cause: &ResourceId) {
        let (Some(to), Some(from)) = (self.desired.get(id), self.observed.get(id)) else { return };
        let mut left = match diff.get(id) {
            None => from.clone(),
            Some(Change::Update { from, .. }) => from.clone(),
            Some(_) => return,
        };
        left.bereft(thing);
        if !to.changes(&left).is_empty() {
            let why = Why::Lost(Box::new(cause.clone()));
            diff.insert(id.clone(), Change::Update { from: left, to: to.clone(), why });
        }
    }
}

/// A resource can go with one that itself goes with a third: what is said to the kernel is the removal of the outermost.
fn settle_roots(diff: &mut Diff) {
    let implied: Vec<ResourceId> =
        diff.iter().filter(|(_, change)| change.implied().is_some()).map(|(id, _)| id.clone()).collect();
    for id in implied {
        let mut root = id.clone();
        for _ in 0..diff.len() {
            match diff.get(&root).and_then(Change::implied) {
                Some(next) if *next != root => root = next.clone(),
                _ => break,
            }
        }
        if let Some(Change::Replace { implied, .. } | Change::Delete { implied, .. }) = diff.get_mut(&id) {
            *implied = Some(Box::new(root));
        }
    }
}
