//! One round of the watcher: the same look, plan and execution as `apply`'s, with what is held left alone.

use std::collections::BTreeSet;

use crate::apply::rails::{self, Allowance};
use crate::apply::{Known, NoPlan, Prepared, Target, decide, execute, prepare};
use crate::diff::plan::plan;
use crate::diff::{Change, Diff, diff};
use crate::kernel::{Kernel, KernelError};
use crate::model::kinds::firewall::Rules;
use crate::model::resource::{Kind, Need, Resource, ResourceId, Thing};
use crate::model::state::{Desired, Pending, State};
use crate::model::topology::Topology;
use crate::model::wire::Scope;

/// A look and a plan; nothing was written yet.
#[derive(Debug)]
pub struct Draft<'a> {
    target: Target<'a>,
    prepared: Prepared,
    /// What is wanted of everything, what is held included.
    wanted: State,
    /// Whether only what is otherwise than before was looked into.
    news: bool,
    /// What is known when this is done, if another topology was known before.
    next: Option<Box<Known>>,
    /// Differs and is left as it is.
    left: BTreeSet<ResourceId>,
    /// Whether the firewall was not there, or had others' rules.
    unguarded: bool,
}

/// What a round came to.
#[derive(Clone, Default, Debug)]
pub struct Round {
    /// What was changed or tried.
    pub fixes: Vec<Fix>,
    /// What could not be changed, and why.
    pub failed: Vec<(ResourceId, KernelError)>,
    /// What differs and was left as it is.
    pub left: BTreeSet<ResourceId>,
    /// Whether all else is as it should be, as a look showed.
    pub converged: bool,
    /// Containers that are not there yet.
    pub pending: Vec<Pending>,
    /// What is wanted.
    pub wanted: State,
    /// The same and what it came from, if all is as it should be.
    pub known: Option<Box<Known>>,
    /// Whether all is as what was known before wants it, as the last look showed.
    pub settled: bool,
    /// Whether the firewall's table was not there when the round began, or its rules were others.
    pub unguarded: bool,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fix {
    /// Of what.
    pub id: ResourceId,
    /// `create`, `update`, `replace` or `delete`.
    pub action: &'static str,
    /// Whether the topology asks for something else than before; if not, somebody had changed the kernel.
    pub intentional: bool,
    /// Whether it follows from another fix: what was in a link that had gone is made again with it.
    pub follows: bool,
}

impl<'a> Draft<'a> {
    /// Looks and plans. `target` is the topology, with what an earlier round knew if there was one.
    ///
    /// # Errors
    ///
    /// See [`NoPlan`].
    pub fn new(
        kernel: &mut impl Kernel,
        topology: &'a Topology,
        held: &'a BTreeSet<ResourceId>,
        target: Target<'a>,
    ) -> Result<Self, NoPlan> {
        let mut prepared = prepare(kernel, target)?;
        if prepared.whole.is_some() && prepared.diff.keys().any(|id| held.contains(id)) {
            // What hangs on what is held is not only among the news.
            prepared = decide(target, kernel.observe(&target.scope()).map_err(NoPlan::Unseen)?)?;
            rails::check(&prepared, target, &Allowance::default()).map_err(NoPlan::Refused)?;
        }
        let news = prepared.whole.is_some();
        let wanted = prepared.whole.take().unwrap_or_else(|| prepared.desired.state.clone());
        let unguarded = prepared.diff.values().any(unguards);
        let left: BTreeSet<ResourceId> = prepared.diff.keys().filter(|id| held.contains(*id)).cloned().collect();
        let next = prepared.next.take();
        if left.is_empty() {
            return Ok(Self { target, prepared, wanted, news, next, left, unguarded });
        }
        let all: BTreeSet<ResourceId> = prepared.diff.keys().cloned().collect();
        let target = Target::Except(topology, held);
        let prepared = decide(target, prepared.observed)?;
        rails::check(&prepared, target, &Allowance::default()).map_err(NoPlan::Refused)?;
        let left = all.into_iter().filter(|id| !prepared.diff.contains_key(id)).collect();
        Ok(Self { target, prepared, wanted, news, next: None, left, unguarded })
    }

    /// Whether there is something to be done.
    pub fn is_idle(&self) -> bool {
        self.prepared.plan.is_empty()
    }

    /// Leaves everything as it is.
    pub fn rest(self) -> Round {
        let (mut left, wanted, unguarded) = (self.left, self.wanted, self.unguarded);
        let Prepared { observed, desired, diff, .. } = self.prepared;
        left.extend(diff.into_keys());
        let (pending, settled) = (desired.pending.clone(), left.is_empty());
        let known = match self.next {
            Some(next) => Some(next.settled()),
            None if self.news => None,
            None => Some(Known::new(self.target.scope(), observed, Desired { state: wanted.clone(), ..desired })),
        };
        let known = known.filter(|_| settled).map(Box::new);
        let settled = settled && self.news;
        Round { converged: true, left, pending, wanted, known, settled, unguarded, ..Round::default() }
    }

    /// Executes and looks again. `before` is what the round before wanted, if there was one.
    ///
    /// # Errors
    ///
    /// See [`execute`].
    pub fn carry_out(self, kernel: &mut impl Kernel, before: Option<&State>) -> Result<Round, NoPlan> {
        let fixes = fixes(&self.prepared.diff, before);
        let target = match (self.target, &self.next) {
            (Target::Turned(content, ..), Some(next)) => {
                kernel.settle();
                Target::Known(&content.topology, next)
            }
            (target, _) => target,
        };
        let report = execute(kernel, target, self.prepared, &mut |_, _| {})?;
        let (converged, pending) = (report.is_converged(), report.desired.pending);
        // A step may fail because what it is for has happened already: only what still differs counts. What was done and
        // undone before the step had ended is no different from what is undone after it.
        let mut failed = report.failed;
        failed.retain(|(id, error)| report.residual.contains_key(id) && !matches!(error, KernelError::Undone(_)));
        let (left, wanted, unguarded) = (self.left, self.wanted, self.unguarded);
        // A whole look may have found that something else is wanted.
        let settled = self.news && report.news && converged && left.is_empty();
        let known = self.next.filter(|_| settled).map(|next| Box::new(next.settled()));
        Ok(Round { fixes, failed, left, converged, pending, wanted, known, settled, unguarded })
    }
}

/// What became of the firewall where no round was possible.
#[derive(Clone, Default, Debug)]
pub struct Guard {
    /// Whether it was not there, or had others' rules.
    pub gone: bool,
    /// Whether it stands now.
    pub stands: bool,
    /// What was put back.
    pub fixes: Vec<Fix>,
}

/// Sees to the firewall where no round was possible: it is put back as the `last` round wanted it, if that is given, so that what
/// it keeps closed stays closed, whatever else may not be touched. None if nothing can be seen.
pub fn guard(kernel: &mut impl Kernel, scope: &Scope, last: Option<&State>) -> Option<Guard> {
    let firewall = |state: &State| -> State {
        state.resources().filter(|it| matches!(it, Resource::Firewall(_))).cloned().collect()
    };
    let there = firewall(&kernel.observe(scope).ok()?.ours);
    let intact = |it: &Resource| matches!(it, Resource::Firewall(firewall) if firewall.rules == Rules::Intact);
    let gone = !there.resources().any(intact);
    let left = Guard { gone, stands: !gone, fixes: Vec::new() };
    let Some(wanted) = last.map(firewall).filter(|wanted| !wanted.is_empty()) else { return Some(left) };
    let diff = diff(&wanted, &there);
    let Some(plan) = plan(&diff, &wanted, &there).ok().filter(|plan| !plan.is_empty()) else { return Some(left) };
    if !kernel.execute(&plan.steps, &mut |_| {}).iter().all(Result::is_ok) {
        return Some(left);
    }
    Some(Guard { gone, stands: true, fixes: fixes(&diff, Some(&wanted)) })
}

fn unguards(change: &Change) -> bool {
    match change {
        Change::Create { to } => matches!(to, Resource::Firewall(_)),
        Change::Update { from: Resource::Firewall(there), .. } => there.rules != Rules::Intact,
        _ => false,
    }
}

fn fixes(diff: &Diff, before: Option<&State>) -> Vec<Fix> {
    let mended = |in_place: bool| -> BTreeSet<Thing> {
        let changes = diff.values().filter(|change| matches!(change, Change::Update { .. }) == in_place);
        changes.filter_map(Change::to).flat_map(Kind::provides).collect()
    };
    let (made, changed) = (mended(false), mended(true));
    // A link that somebody sets down loses what is in it without being gone itself.
    let hangs = |need: &Need| match need {
        Need::After(thing) => made.contains(thing),
        Need::Inside(thing) | Need::Upon(thing) => made.contains(thing) || changed.contains(thing),
    };
    let within = |resource: &Resource| resource.needs().iter().any(hangs);
    let fix = |(id, change): (&ResourceId, &Change)| Fix {
        id: id.clone(),
        action: change.action(),
        intentional: before.is_none_or(|before| before.get(id) != change.to()),
        follows: change.is_consequence() || change.to().is_some_and(within),
    };
    diff.iter().map(fix).collect()
}
