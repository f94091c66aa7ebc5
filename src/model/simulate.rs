//! What the kernel would make of a step, for every kind alike: existence, exclusive things, what goes with what.
//!
//! It knows only what the kinds say of themselves and so proves nothing about Linux; the kernel tests hold it to Linux
//! by comparing both after every step of every story. A plan is run through it before anything is written.

use super::numbers::{ByNumber, Numbers};
use super::resource::{Few, Kind, Op, Resource, ResourceId, Thing};
use super::state::State;
use super::ties::{Bond, Things, Ties};

/// A kernel that is nothing but a state.
#[derive(Clone, Default, Debug)]
pub struct Simulation {
    ids: Numbers<ResourceId>,
    /// One an id, by its number.
    places: Vec<Place>,
    things: Things,
    /// Who provides a thing, by place.
    providers: ByNumber<Few<u32>>,
    /// Who needs a thing, or did when it was last there, by place; not known before anything goes.
    dependents: Option<ByNumber<Few<u32>>>,
    /// Things that some resource provides at some time: needed while absent, they are missed. All others are the host's.
    known: ByNumber<bool>,
}

/// Where a resource is, or was.
#[derive(Clone, Default, Debug)]
struct Place {
    /// What is there, if anything is.
    resource: Option<Resource>,
    /// Of the resource that is or last was there.
    ties: Ties,
}

/// Why the simulated kernel does not take a step.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Created although it is there.
    #[error("{0} exists")]
    Exists(ResourceId),
    /// Updated or deleted although it is not there.
    #[error("{0} does not exist")]
    Absent(ResourceId),
    /// It needs something that is not there.
    #[error("{id} needs {thing:?}, which is not there")]
    Missing {
        /// What was to be made.
        id: ResourceId,
        /// What it needs.
        thing: Thing,
    },
    /// Something exclusive is another's.
    #[error("{id} wants {thing:?}, which is {holder}'s")]
    Taken {
        /// What was to be made.
        id: ResourceId,
        /// What it wants.
        thing: Thing,
        /// Who has it.
        holder: ResourceId,
    },
    /// Something would be left in it that the kernel must not be left with.
    #[error("{id} still carries {holder}")]
    Carries {
        /// What was to be deleted.
        id: ResourceId,
        /// What stands upon it.
        holder: ResourceId,
    },
}

impl Simulation {
    /// Starts from a state. `wanted` is where the steps lead: what it provides is missed until it is made.
    pub fn new(state: &State, wanted: &State) -> Self {
        let mut simulation = Self::of(state, Things::default(), wanted.len());
        for resource in wanted.resources() {
            let ties = simulation.things.ties(resource);
            simulation.expect(&ties);
        }
        simulation
    }

    /// Starts from a state, with things that have their numbers already and room for so many resources more.
    pub fn of(state: &State, things: Things, more: usize) -> Self {
        let mut simulation = Self { things, ..Self::default() };
        simulation.ids.reserve(state.len() + more);
        simulation.places.reserve(state.len() + more);
        for (id, resource) in state.iter() {
            let (at, ties) = (simulation.place(id), simulation.things.ties(resource));
            simulation.put(at, resource.clone(), ties);
        }
        simulation
    }

    /// What a step is to leave: what it provides is missed until it is made.
    pub fn expect(&mut self, ties: &Ties) {
        for thing in &ties.provides {
            *self.known.entry(*thing) = true;
        }
    }

    /// The state it has come to.
    pub fn state(&self) -> State {
        self.places.iter().filter_map(|place| place.resource.clone()).collect()
    }

    /// The first resource, in the order of ids, that is not as wanted.
    pub fn misses(&self, wanted: &State) -> Option<ResourceId> {
        let (mut missing, mut met, mut next) = (None, vec![false; self.places.len()], 0);
        for (id, to) in wanted.iter() {
            let at = self.ids.known_at(next, id);
            next = at.map_or(next, |at| at + 1);
            let resource = at.and_then(|at| self.places[at as usize].resource.as_ref());
            if !resource.is_some_and(|resource| to.changes(resource).is_empty()) {
                missing = missing.or(Some(id));
            }
            if let Some(at) = at {
                met[at as usize] = true;
            }
        }
        let left = |((id, place), met): ((_, &Place), bool)| {
            let stands = place.resource.as_ref().is_some_and(|resource| !resource.stays());
            (stands && !met).then_some(id)
        };
        let left = self.ids.names().zip(&self.places).zip(met).filter_map(left).min();
        missing.into_iter().chain(left).min().cloned()
    }

    /// Takes a step with all its consequences, or refuses it and stays as it is.
    ///
    /// # Errors
    ///
    /// When Linux would refuse it, as far as the kinds know.
    pub fn apply(&mut self, id: &ResourceId, op: &Op) -> Result<(), Refusal> {
        let ties = op.to().map(|to| self.things.ties(to)).unwrap_or_default();
        let at = self.place(id);
        self.take_step(at, op, ties)
    }

    /// The same of a step on what has this place, that leaves something with these ties.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub fn take_step(&mut self, at: u32, op: &Op, ties: Ties) -> Result<(), Refusal> {
        let id = || self.ids.name(at).clone();
        let there = self.places[at as usize].resource.is_some();
        match op {
            Op::Create(_) if there => Err(Refusal::Exists(id())),
            Op::Update { .. } | Op::Delete(_) if !there => Err(Refusal::Absent(id())),
            Op::Create(to) => {
                self.admit(at, &ties)?;
                let settled =
                    to.settled(&|thing| self.things.known(thing).is_some_and(|thing| self.is_provided(thing)));
                let ties = settled.as_ref().map_or(ties, |settled| self.things.ties(settled));
                self.put(at, settled.unwrap_or_else(|| to.clone()), ties);
                Ok(())
            }
            Op::Update { to, .. } => {
                let old = self.take(at);
                let admitted = self.admit(at, &ties);
                match (&admitted, old) {
                    (Err(_), Some(old)) => {
                        let ties = self.things.ties(&old);
                        self.put(at, old, ties);
                    }
                    _ => self.put(at, to.clone(), ties),
                }
                admitted
            }
            Op::Delete(_) => self.delete(at),
        }
    }

    fn admit(&self, at: u32, ties: &Ties) -> Result<(), Refusal> {
        let id = || self.ids.name(at).clone();
        for (_, thing) in &ties.needs {
            if !self.is_provided(*thing) && self.known.get(*thing) == Some(&true) {
                return Err(Refusal::Missing { id: id(), thing: self.things.name(*thing).clone() });
            }
        }
        for number in &ties.provides {
            let (thing, holder) =
                (self.things.name(*number), self.providers.get(*number).and_then(|them| them.first()));
            if let (true, Some(holder)) = (thing.is_exclusive(), holder) {
                let holder = self.ids.name(*holder).clone();
                return Err(Refusal::Taken { id: id(), thing: thing.clone(), holder });
            }
        }
        Ok(())
    }

    fn is_provided(&self, thing: u32) -> bool {
        self.providers.get(thing).is_some_and(|providers| !providers.is_empty())
    }

    /// Who is there and hangs on a thing in one of these ways.
    fn bound(&self, thing: u32, bonds: &[Bond]) -> Vec<u32> {
        let bound = |at: &u32| {
            let place = &self.places[*at as usize];
            place.resource.is_some() && place.ties.needs.iter().any(|(bond, it)| *it == thing && bonds.contains(bond))
        };
        let dependents = self.dependents.as_ref().and_then(|dependents| dependents.get(thing));
        let mut all: Vec<u32> = dependents.into_iter().flatten().copied().filter(bound).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn delete(&mut self, at: u32) -> Result<(), Refusal> {
        self.know_dependents();
        for thing in &self.places[at as usize].ties.provides {
            let only_provider = self.providers.get(*thing).is_some_and(|providers| providers.len() == 1);
            if let (true, Some(holder)) = (only_provider, self.bound(*thing, &[Bond::Upon]).first()) {
                let (id, holder) = (self.ids.name(at).clone(), self.ids.name(*holder).clone());
                return Err(Refusal::Carries { id, holder });
            }
        }
        let mut gone = vec![at];
        while let Some(at) = gone.pop() {
            if self.take(at).is_none() {
                continue;
            }
            for thing in self.places[at as usize].ties.provides.clone() {
                if self.is_provided(thing) {
                    continue;
                }
                gone.extend(self.bound(thing, &[Bond::Inside]));
                for at in self.bound(thing, &[Bond::Upon, Bond::After]) {
                    self.bereave(at, thing);
                }
            }
        }
        Ok(())
    }

    fn know_dependents(&mut self) {
        let Self { dependents, places, .. } = self;
        dependents.get_or_insert_with(|| {
            let mut all = ByNumber::<Few<u32>>::default();
            for (at, place) in (0..).zip(places.iter()) {
                place.ties.needs.iter().for_each(|(_, thing)| all.entry(*thing).push(at));
            }
            all
        });
    }

    fn bereave(&mut self, at: u32, gone: u32) {
        if let Some(mut resource) = self.take(at) {
            resource.bereft(self.things.name(gone));
            let ties = self.things.ties(&resource);
            self.put(at, resource, ties);
        }
    }

    /// The place of a resource, made if it never was there.
    pub fn place(&mut self, id: &ResourceId) -> u32 {
        let at = self.ids.number(id.clone());
        if at as usize == self.places.len() {
            self.places.push(Place::default());
        }
        at
    }

    fn put(&mut self, at: u32, resource: Resource, ties: Ties) {
        for thing in &ties.provides {
            *self.known.entry(*thing) = true;
            self.providers.entry(*thing).push(at);
        }
        if let Some(dependents) = &mut self.dependents {
            let before = &self.places[at as usize].ties;
            for (_, thing) in ties.needs.iter().filter(|(_, thing)| !before.need(*thing)) {
                dependents.entry(*thing).push(at);
            }
        }
        self.places[at as usize].resource = Some(resource);
        self.places[at as usize].ties = ties;
    }

    fn take(&mut self, at: u32) -> Option<Resource> {
        let resource = self.places[at as usize].resource.take()?;
        for thing in &self.places[at as usize].ties.provides {
            self.providers.entry(*thing).retain(|provider| *provider != at);
        }
        Some(resource)
    }
}
