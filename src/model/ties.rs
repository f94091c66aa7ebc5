//! What ties resources to each other: what each needs and provides, with things by number.

use super::numbers::Numbers;
use super::resource::{Few, Kind, Need, Resource, Thing};

/// How a resource hangs on a thing it needs: a [`Need`] without its thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bond {
    /// [`Need::Inside`].
    Inside,
    /// [`Need::Upon`].
    Upon,
    /// [`Need::After`].
    After,
}

/// What one resource needs and provides.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ties {
    /// In the order in which the resource tells them.
    pub needs: Few<(Bond, u32)>,
    /// Likewise.
    pub provides: Few<u32>,
}

impl Ties {
    /// Whether the resource needs the thing, however.
    pub fn need(&self, thing: u32) -> bool {
        self.needs.iter().any(|(_, needed)| *needed == thing)
    }
}

/// Things that were met, by number.
pub type Things = Numbers<Thing>;

impl Things {
    /// The ties of a resource.
    pub fn ties(&mut self, resource: &Resource) -> Ties {
        let bond = |need| match need {
            Need::Inside(thing) => (Bond::Inside, thing),
            Need::Upon(thing) => (Bond::Upon, thing),
            Need::After(thing) => (Bond::After, thing),
        };
        let needs = resource.needs().into_iter().map(bond).map(|(bond, thing)| (bond, self.number(thing))).collect();
        let provides = resource.provides().into_iter().map(|thing| self.number(thing)).collect();
        Ties { needs, provides }
    }
}
