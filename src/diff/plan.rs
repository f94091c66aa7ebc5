//! Order: a graph of steps, cut into stages that can run at once.
//!
//! Whoever makes a thing goes before whoever needs it; whoever needs it goes before whoever removes it; whoever
//! releases an exclusive thing goes before whoever takes it. Nothing else is known about any kind.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use petgraph::Direction;
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::{Change, Diff};
use crate::model::numbers::ByNumber;
use crate::model::resource::{Few, Kind, Op, Parts, Resource, ResourceId, Step};
use crate::model::simulate::{Refusal, Simulation};
use crate::model::state::State;
use crate::model::ties::{Things, Ties};
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
    let graph = draft.graph(diff);
    let order = in_order(&graph).map_err(|cycle| {
        let ids: Vec<String> = cycle.iter().map(|node| draft.steps[node.index()].0.to_string()).collect();
        Flaw::Cycle(ids.join(" -> "))
    })?;
    let plan = draft.staged(&graph, &order);
    draft.prove(&plan, &order, desired, observed)?;
    Ok(plan)
}

/// The steps before they are in order, and who does what to which thing.
#[derive(Default)]
struct Draft<'a> {
    steps: Vec<(&'a ResourceId, Op<&'a Resource>)>,
    /// What each step starts from and what it leaves, in terms of things.
    ties: Vec<(Ties, Ties)>,
    things: Things,
    makers: ByNumber<Few<u32>>,
    /// Steps that remove a provider, or something that takes it along.
    removers: ByNumber<Few<u32>>,
    /// Steps that change a provider on the living object.
    updaters: ByNumber<Few<u32>>,
    deletes: BTreeMap<&'a ResourceId, u32>,
}

impl<'a> Draft<'a> {
    /// Removals come first and creations last where nothing else decides, so that plans read alike.
    fn new(diff: &'a Diff) -> Self {
        let mut draft = Self::default();
        draft.steps.reserve(diff.len());
        draft.ties.reserve(diff.len());
        draft.things.reserve(diff.len()); // a link, its addresses: about one each
        for (id, change) in diff {
            if let Change::Delete { from, implied: None } | Change::Replace { from, implied: None, .. } = change {
                draft.deletes.insert(id, draft.steps.len() as u32);
                draft.push(id, Op::Delete(from));
            }
        }
        for (id, change) in diff {
            if let Change::Update { from, to, .. } = change {
                draft.push(id, Op::Update { from, to });
            }
        }
        for (id, change) in diff {
            if let Change::Create { to } | Change::Replace { to, .. } = change {
                draft.push(id, Op::Create(to));
            }
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

    fn push(&mut self, id: &'a ResourceId, op: Op<&'a Resource>) {
        let node = self.steps.len() as u32;
        let from = op.from().map(|from| self.things.ties(from)).unwrap_or_default();
        let to = op.to().map(|to| self.things.ties(to)).unwrap_or_default();
        for thing in &to.provides {
            self.makers.entry(*thing).push(node);
        }
        if matches!(op, Op::Update { .. }) {
            for thing in &from.provides {
                self.updaters.entry(*thing).push(node);
            }
        }
        self.steps.push((id, op));
        self.ties.push((from, to));
    }

    fn graph(&self, diff: &Diff) -> DiGraph<(), ()> {
        let mut graph = DiGraph::with_capacity(self.steps.len(), self.steps.len() * 4);
        for _ in &self.steps {
            graph.add_node(());
        }
        let mut edge = |before: u32, after: u32| {
            if before != after {
                graph.add_edge(before.into(), after.into(), ());
            }
        };
        for (node, ((id, op), (from, to))) in (0..).zip(self.steps.iter().zip(&self.ties)) {
            for (_, thing) in &to.needs {
                each(&self.makers, *thing, |maker| edge(maker, node));
            }
            for (_, thing) in &from.needs {
                if !to.need(*thing) {
                    each(&self.removers, *thing, |remover| edge(node, remover));
                }
                if matches!(op, Op::Delete(_)) {
                    each(&self.updaters, *thing, |updater| edge(node, updater));
                }
            }
            for thing in to.provides.iter().filter(|thing| self.things.name(**thing).is_exclusive()) {
                each(&self.removers, *thing, |remover| edge(remover, node));
            }
            if let (Op::Create(_), false) = (op, self.deletes.is_empty())
                && let Some(change @ Change::Replace { .. }) = diff.get(id)
            {
                // After the step that removes the old one of what is made anew.
                let remover = self.deletes.get(change.implied().unwrap_or(id));
                if let Some(remover) = remover {
                    edge(*remover, node);
                }
            }
        }
        graph
    }

    /// Gives each part of each step its stage: the next one after what it waits for, or the same where both are said to
    /// the same place, as a place hears in order.
    fn staged(&self, graph: &DiGraph<(), ()>, order: &[NodeIndex]) -> Plan {
        let mut position = vec![0_u32; order.len()];
        for (at, node) in order.iter().enumerate() {
            position[node.index()] = at as u32;
        }
        let mut steps: Vec<Step> = Vec::with_capacity(self.steps.len());
        for node in order {
            let (id, op) = &self.steps[node.index()];
            let (id, op) = ((*id).clone(), op.cloned());
            let before = graph.neighbors_directed(*node, Direction::Incoming);
            let mut waits: Few<u32> = before.map(|before| position[before.index()]).collect();
            waits.sort_unstable();
            waits.dedup();
            let parts = parts(&op, &waits, &steps);
            steps.push(Step { id, op, parts, waits });
        }
        Plan { steps }
    }

    /// Takes all steps on a simulated kernel: none may be refused, and what comes out must be what is wanted.
    fn prove(mut self, plan: &Plan, order: &[NodeIndex], desired: &State, observed: &State) -> Result<(), Flaw> {
        let mut simulation = Simulation::of(observed, self.things, plan.steps.len());
        for (_, to) in &self.ties {
            simulation.expect(to);
        }
        // Met in the order of ids, as far as they are made, they are found again in that order without a search.
        let places: Vec<u32> = self.steps.iter().map(|(id, _)| simulation.place(id)).collect();
        for (at, (step, node)) in plan.steps.iter().zip(order).enumerate() {
            let (_, to) = std::mem::take(&mut self.ties[node.index()]);
            let taken = simulation.take_step(places[node.index()], &step.op, to);
            taken.map_err(|refusal| Flaw::Refused { step: at + 1, refusal: Box::new(refusal) })?;
        }
        simulation.misses(desired).map_or(Ok(()), |id| Err(Flaw::Misses(id)))
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

/// Kahn's order, the lowest ready node first; or a cycle.
fn in_order(graph: &DiGraph<(), ()>) -> Result<Vec<NodeIndex>, Vec<NodeIndex>> {
    let mut waits: Vec<usize> =
        graph.node_indices().map(|node| graph.neighbors_directed(node, Direction::Incoming).count()).collect();
    let mut ready: BinaryHeap<Reverse<NodeIndex>> =
        graph.node_indices().filter(|node| waits[node.index()] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(waits.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for after in graph.neighbors(node) {
            waits[after.index()] -= 1;
            if waits[after.index()] == 0 {
                ready.push(Reverse(after));
            }
        }
    }
    if order.len() == waits.len() {
        return Ok(order);
    }
    let cycles = kosaraju_scc(graph);
    Err(cycles.into_iter().max_by_key(Vec::len).unwrap_or_default())
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
    fn a_difference_of_other_states_is_no_plan() {
        let (none, one, two) = (state(&[]), state(&["10.0.0.2/24"]), state(&["10.0.0.2/24", "10.0.0.3/24"]));
        let difference = diff(&one, &none);
        assert_eq!(plan(&difference, &one, &none).map(|plan| plan.steps.len()), Ok(1));
        let missed = two.iter().nth(1).map(|(id, _)| id.clone()).expect("two");
        assert_eq!(plan(&difference, &two, &none), Err(Flaw::Misses(missed)));
        assert!(matches!(plan(&difference, &one, &one), Err(Flaw::Refused { step: 1, .. })));
    }
}
