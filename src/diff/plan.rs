//! Order: a graph of steps, cut into stages that can run at once.
//!
//! Whoever makes a thing goes before whoever needs it; whoever needs it goes before whoever removes it; whoever
//! releases an exclusive thing goes before whoever takes it. Nothing else is known about any kind.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::DiGraph;

use super::{Change, Diff};
use crate::model::numbers::ByNumber;
use crate::model::resource::{Few, Kind, Op, Parts, Resource, ResourceId, Step};
use crate::model::simulate::{Refusal, Simulation};
use crate::model::state::State;
use crate::model::ties::{Bond, Things, Ties};
use crate::model::wire::Place;

/// Steps in an order in which each can be taken.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
}

/// A plan that would not do what it is for: a bug in netrec, found before anything was written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Flaw {
    /// Steps wait for each other.
    #[error("steps wait for each other: {0}")]
    Cycle(String),
    /// The simulated kernel refuses a step.
    #[error("step {step} would be refused: {refusal}")]
    Refused {
        /// From 1.
        step: usize,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// All steps taken, something is not as wanted.
    #[error("{0} would not be as wanted after all steps")]
    Misses(ResourceId),
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many stages there are.
    pub fn stages(&self) -> usize {
        self.steps.iter().flat_map(|step| &step.parts).map(|(stage, _)| stage + 1).max().unwrap_or(0)
    }
}

/// Puts the difference of two states in order, and proves that it leads from the one to the other: who holds steps of a plan
/// holds proved ones. That no difference is none is believed.
///
/// # Errors
///
/// The first flaw found, which no difference between two possible states has.
pub fn plan(diff: &Diff, desired: &State, observed: &State) -> Result<Plan, Flaw> {
    // Where nothing is to be done there is nothing to prove, and most looks of a watcher are such.
    if diff.is_empty() {
        return Ok(Plan::default());
    }
    let draft = Draft::new(diff);
    let ordered = |gently| {
        let waits = draft.waits(diff, gently);
        in_order(&waits).map(|order| (waits, order))
    };
    let (waits, order) = ordered(true).or_else(|_| ordered(false)).map_err(|cycle| {
        let ids: Vec<String> = cycle.iter().map(|node| draft.steps[*node as usize].0.to_string()).collect();
        Flaw::Cycle(ids.join(" -> "))
    })?;
    draft.proved(waits, &order, desired, observed)
}

/// The steps before they are in order, and who does what to which thing.
#[derive(Default)]
struct Draft {
    /// Each kind of step in the order of ids.
    steps: Vec<(ResourceId, Op)>,
    /// What each step starts from, in terms of things; no further than the last that starts from anything.
    from: Vec<Ties>,
    /// What each step leaves.
    to: Vec<Ties>,
    things: Things,
    makers: ByNumber<Few<u32>>,
    /// Steps that remove a provider, or something that takes it along.
    removers: ByNumber<Few<u32>>,
    /// Steps that change a provider on the living object.
    updaters: ByNumber<Few<u32>>,
    deletes: BTreeMap<ResourceId, u32>,
}

impl Draft {
    /// Removals come first and creations last where nothing else decides, so that plans read alike.
    fn new(diff: &Diff) -> Self {
        let (mut deletes, mut updates, mut creates) = (Vec::new(), Vec::new(), Vec::with_capacity(diff.len()));
        for (id, change) in diff {
            let id = || id.clone();
            if let Change::Delete { from, implied: None } | Change::Replace { from, implied: None, .. } = change {
                deletes.push((id(), Op::Delete(from.clone())));
            }
            if let Change::Update { from, to, .. } = change {
                updates.push((id(), Op::Update { from: from.clone(), to: to.clone() }));
            }
            if let Change::Create { to } | Change::Replace { to, .. } = change {
                creates.push((id(), Op::Create(to.clone())));
            }
        }
        let mut draft = Self {
            deletes: (0..).zip(&deletes).map(|(node, (id, _))| (id.clone(), node)).collect(),
            steps: deletes.into_iter().chain(updates).chain(creates).collect(),
            ..Self::default()
        };
        draft.to.reserve(draft.steps.len());
        draft.things.reserve(draft.steps.len()); // a link, its addresses: about one each
        for node in 0..draft.steps.len() {
            draft.tie(node);
        }
        for (id, change) in diff.iter().filter(|(_, change)| change.removes()) {
            let remover = draft.deletes.get(change.implied().unwrap_or(id)).copied();
            for thing in change.from().into_iter().flat_map(Kind::provides) {
                let thing = draft.things.number(thing);
                draft.removers.entry(thing).extend(remover);
            }
        }
        draft
    }

    fn tie(&mut self, node: usize) {
        let (_, op) = &self.steps[node];
        if let Some(from) = op.from() {
            let from = self.things.ties(from);
            if matches!(op, Op::Update { .. }) {
                for thing in &from.provides {
                    self.updaters.entry(*thing).push(node as u32);
                }
            }
            self.from.push(from);
        }
        let to = op.to().map(|to| self.things.ties(to)).unwrap_or_default();
        for thing in &to.provides {
            self.makers.entry(*thing).push(node as u32);
        }
        self.to.push(to);
    }

    /// The steps that each waits for. Gently: who turns from one thing to another and survives the loss of the first
    /// ([`Need::After`](crate::model::resource::Need::After)) turns before it is gone, and never has to do without. That may
    /// be a circle, if the other thing can only be where the first was: an address that moves together with the route by it.
    fn waits(&self, diff: &Diff, gently: bool) -> Vec<Few<u32>> {
        let mut waits: Vec<Few<u32>> = self.steps.iter().map(|_| Few::new()).collect();
        let mut edge = |before: u32, after: u32| {
            if before != after {
                waits[after as usize].push(before);
            }
        };
        for (node, ((id, op), to)) in (0..).zip(self.steps.iter().zip(&self.to)) {
            for (_, thing) in &to.needs {
                each(&self.makers, *thing, |maker| edge(maker, node));
            }
            for (bond, thing) in self.from.get(node as usize).into_iter().flat_map(|from| &from.needs) {
                let survives = *bond == Bond::After && matches!(op, Op::Update { .. });
                if !to.need(*thing) && (gently || !survives) {
                    each(&self.removers, *thing, |remover| edge(node, remover));
                }
                if matches!(op, Op::Delete(_)) {
                    each(&self.updaters, *thing, |updater| edge(node, updater));
                }
            }
            if self.deletes.is_empty() {
                continue;
            }
            for thing in to.provides.iter().filter(|thing| self.things.name(**thing).is_exclusive()) {
                each(&self.removers, *thing, |remover| edge(remover, node));
            }
            if let (Op::Create(_), Some(change @ Change::Replace { .. })) = (op, diff.get(id)) {
                // After the step that removes the old one of what is made anew.
                let remover = self.deletes.get(change.implied().unwrap_or(id));
                if let Some(remover) = remover {
                    edge(*remover, node);
                }
            }
        }
        waits
    }

    /// Puts the steps in that order, and takes each on a simulated kernel: none may be refused, and what comes out must be
    /// what is wanted. Both at once, while the step is in the processor's cache. Each part of a step has its stage: the
    /// next one after what it waits for, or the same where both are said to the same place, as a place hears in order.
    fn proved(
        mut self,
        mut waits: Vec<Few<u32>>,
        order: &[u32],
        desired: &State,
        observed: &State,
    ) -> Result<Plan, Flaw> {
        let mut simulation = Simulation::of(observed, self.things, order.len());
        for to in &self.to {
            simulation.expect(to);
        }
        // Met in the order of ids, as far as they are made, they are found again in that order without a search.
        let places: Vec<u32> = self.steps.iter().map(|(id, _)| simulation.place(id)).collect();
        // Moved, not copied: what they hold lies in the order of ids, and is not touched in another one.
        let mut drafted: Vec<Option<(ResourceId, Op)>> = self.steps.into_iter().map(Some).collect();
        let mut position = vec![0_u32; order.len()];
        let mut steps: Vec<Step> = Vec::with_capacity(order.len());
        for node in order.iter().map(|node| *node as usize) {
            let (id, op) = drafted[node].take().expect("each step is once in the order");
            position[node] = steps.len() as u32;
            let mut waits = std::mem::take(&mut waits[node]);
            waits.iter_mut().for_each(|before| *before = position[*before as usize]);
            waits.sort_unstable();
            waits.dedup();
            let taken = simulation.take_step(places[node], &op, std::mem::take(&mut self.to[node]));
            taken.map_err(|refusal| Flaw::Refused { step: steps.len() + 1, refusal: Box::new(refusal) })?;
            let parts = parts(&op, &waits, &steps);
            steps.push(Step { id, op, parts, waits });
        }
        simulation.misses(desired).map_or(Ok(Plan { steps }), |id| Err(Flaw::Misses(id)))
    }
}

fn each(index: &ByNumber<Few<u32>>, thing: u32, edge: impl FnMut(u32)) {
    index.get(thing).into_iter().flatten().copied().for_each(edge);
}

fn parts(op: &Op, waits: &[u32], steps: &[Step]) -> Parts {
    let after = |(stage, before): &(usize, Place), place: &Place| stage + usize::from(before != place);
    let mut parts = Parts::new();
    for place in Resource::places(op) {
        let stage = if let Some(part) = parts.last() {
            after(part, &place)
        } else {
            let ends = waits.iter().filter_map(|wait| steps[*wait as usize].parts.last());
            ends.map(|end| after(end, &place)).max().unwrap_or(0)
        };
        parts.push((stage, place));
    }
    parts
}

/// Kahn's order, the lowest ready step first; or the steps of a cycle.
fn in_order(waits: &[Few<u32>]) -> Result<Vec<u32>, Vec<u32>> {
    let mut graph = DiGraph::<(), ()>::with_capacity(waits.len(), waits.iter().map(Few::len).sum());
    for _ in waits {
        graph.add_node(());
    }
    graph.extend_with_edges((0_u32..).zip(waits).flat_map(|(node, waits)| waits.iter().map(move |it| (*it, node))));
    let mut left: Vec<usize> = waits.iter().map(Few::len).collect();
    let ready = (0_u32..).zip(&left).filter(|(_, left)| **left == 0);
    let mut ready: BinaryHeap<Reverse<u32>> = ready.map(|(node, _)| Reverse(node)).collect();
    let mut order = Vec::with_capacity(waits.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for after in graph.neighbors(node.into()) {
            left[after.index()] -= 1;
            if left[after.index()] == 0 {
                ready.push(Reverse(after.index() as u32));
            }
        }
    }
    if order.len() == waits.len() {
        return Ok(order);
    }
    let cycle = kosaraju_scc(&graph).into_iter().max_by_key(Vec::len).unwrap_or_default();
    Err(cycle.into_iter().map(|node| node.index() as u32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::diff;
    use crate::model::kinds::address::Address;

    fn state(addresses: &[&str]) -> State {
        let address = |net: &&str| Address::new(&"api".into(), &"eth0".into(), net.parse().expect("a net"));
        addresses.iter().map(address).map(Resource::from).collect()
    }

    #[test]
    fn who_waits_in_a_circle_is_told() {
        let order = |waits: &[&[u32]]| in_order(&waits.iter().map(|waits| Few::from_slice(waits)).collect::<Vec<_>>());
        assert_eq!(order(&[&[2], &[], &[3, 3], &[1]]), Ok(vec![1, 3, 2, 0]));
        // The first and the last are in no circle.
        let mut circle = order(&[&[1], &[3], &[1, 4], &[2], &[]]).unwrap_err();
        circle.sort_unstable();
        assert_eq!(circle, [1, 2, 3]);
    }

    #[test]
    fn a_difference_of_other_states_is_no_plan() {
        let (none, one, two) = (state(&[]), state(&["10.0.0.2/24"]), state(&["10.0.0.2/24", "10.0.0.3/24"]));
        let difference = diff(&one, &none);
        assert_eq!(plan(&difference, &one, &none).map(|plan| plan.steps.len()), Ok(1));
        let missed = two.iter().nth(1).map(|(id, _)| id.clone()).expect("two");
        assert_eq!(plan(&difference, &two, &none), Err(Flaw::Misses(missed)));
        assert!(matches!(plan(&difference, &one, &one), Err(Flaw::Refused { step: 1, .. })));
    }
}
