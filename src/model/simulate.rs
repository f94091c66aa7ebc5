//! What the kernel would make of a step, for every kind alike: existence, exclusive things, what goes with what.
//!
//! It knows only what the kinds say of themselves and so proves nothing about Linux; the kernel tests hold it to Linux
//! by comparing both after every step of every story. A plan is run through it before anything is written.

use std::collections::{BTreeMap, BTreeSet};

use super::resource::{Kind, Need, Op, Resource, ResourceId, Thing};
use super::state::State;

/// A kernel that is nothing but a state.
#[derive(Clone, Default, Debug)]
pub struct Simulation {
    state: State,
    providers: BTreeMap<Thing, BTreeSet<ResourceId>>,
    inside: BTreeMap<Thing, BTreeSet<ResourceId>>,
    after: BTreeMap<Thing, BTreeSet<ResourceId>>,
    /// Things that some resource provides at some time: needed while absent, they are missed. All others are the host's.
    known: BTreeSet<Thing>,
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
        let mut simulation = Self::default();
        for resource in wanted.resources() {
            simulation.known.extend(resource.provides());
        }
        for (id, resource) in state.iter() {
            simulation.link(id, resource);
        }
        simulation.state = state.clone();
        simulation
    }

    /// The state it has come to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes a step with all its consequences, or refuses it and stays as it is.
    ///
    /// # Errors
    ///
    /// When Linux would refuse it, as far as the kinds know.
    pub fn apply(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::Create(to) => {
                let id = to.id();
                if self.state.get(&id).is_some() {
                    return Err(Refusal::Exists(id));
                }
                self.admit(&id, to)?;
                let mut settled = to.clone();
                settled.settle(&self.state);
                self.insert(&id, settled);
            }
            Op::Update { to, .. } => {
                let id = to.id();
                let Some(old) = self.remove(&id) else { return Err(Refusal::Absent(id)) };
                if let Err(refusal) = self.admit(&id, to) {
                    self.insert(&id, old);
                    return Err(refusal);
                }
                self.insert(&id, to.clone());
            }
            Op::Delete(from) => self.delete(&from.id())?,
        }
        Ok(())
    }

    fn admit(&self, id: &ResourceId, to: &Resource) -> Result<(), Refusal> {
        for need in to.needs() {
            let thing = need.thing();
            if !self.providers.contains_key(thing) && self.known.contains(thing) {
                return Err(Refusal::Missing { id: id.clone(), thing: thing.clone() });
            }
        }
        for thing in to.provides().into_iter().filter(Thing::is_exclusive) {
            if let Some(holder) = self.providers.get(&thing).and_then(BTreeSet::first) {
                return Err(Refusal::Taken { id: id.clone(), thing, holder: holder.clone() });
            }
        }
        Ok(())
    }

    fn delete(&mut self, id: &ResourceId) -> Result<(), Refusal> {
        let Some(resource) = self.state.get(id) else { return Err(Refusal::Absent(id.clone())) };
        for thing in resource.provides() {
            let only_provider = self.providers.get(&thing).is_some_and(|providers| providers.len() == 1);
            let upon = self.after.get(&thing).into_iter().flatten().find(|holder| {
                let needs = self.state.get(holder).map(Kind::needs).unwrap_or_default();
                needs.contains(&Need::Upon(thing.clone()))
            });
            if let (true, Some(holder)) = (only_provider, upon) {
                return Err(Refusal::Carries { id: id.clone(), holder: holder.clone() });
            }
        }
        let mut gone = vec![id.clone()];
        while let Some(id) = gone.pop() {
            let Some(resource) = self.remove(&id) else { continue };
            for thing in resource.provides() {
                if self.providers.contains_key(&thing) {
                    continue;
                }
                gone.extend(self.inside.get(&thing).into_iter().flatten().cloned());
                for id in self.after.get(&thing).cloned().unwrap_or_default() {
                    self.bereave(&id, &thing);
                }
            }
        }
        Ok(())
    }

    fn bereave(&mut self, id: &ResourceId, gone: &Thing) {
        if let Some(mut resource) = self.remove(id) {
            resource.bereft(gone);
            self.insert(id, resource);
        }
    }

    fn insert(&mut self, id: &ResourceId, resource: Resource) {
        self.link(id, &resource);
        self.state.insert(resource);
    }

    fn link(&mut self, id: &ResourceId, resource: &Resource) {
        for thing in resource.provides() {
            self.known.insert(thing.clone());
            self.providers.entry(thing).or_default().insert(id.clone());
        }
        for need in resource.needs() {
            let (dependents, thing) = match need {
                Need::Inside(thing) => (&mut self.inside, thing),
                Need::Upon(thing) | Need::After(thing) => (&mut self.after, thing),
            };
            dependents.entry(thing).or_default().insert(id.clone());
        }
    }

    fn remove(&mut self, id: &ResourceId) -> Option<Resource> {
        let resource = self.state.remove(id)?;
        for thing in resource.provides() {
            unlink(&mut self.providers, &thing, id);
        }
        for need in resource.needs() {
            match need {
                Need::Inside(thing) => unlink(&mut self.inside, &thing, id),
                Need::Upon(thing) | Need::After(thing) => unlink(&mut self.after, &thing, id),
            }
        }
        Some(resource)
    }
}

fn unlink(index: &mut BTreeMap<Thing, BTreeSet<ResourceId>>, thing: &Thing, id: &ResourceId) {
    if let Some(ids) = index.get_mut(thing) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(thing);
        }
    }
}
