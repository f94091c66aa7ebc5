//! The loop: look, lower, compare, order, prove, execute, look again. It knows the [`Kernel`] trait only, so the same
//! loop runs against Linux and against the simulated kernel.
//!
//! Every user's word is this loop with other arguments: `plan` stops before executing, `destroy` wants nothing,
//! verification is the next round's comparison.

pub mod confirm;
pub mod history;
mod known;
pub mod rails;
#[cfg(test)]
pub(crate) mod scratch;
pub mod watch;

use std::collections::BTreeSet;

pub use self::known::Known;

use self::confirm::Before;
use self::rails::Allowance;
use self::watch::Content;
use crate::beside::Threads;
use crate::diff::plan::{Flaw, Plan, plan};
use crate::diff::{Diff, diff};
use crate::kernel::{Kernel, KernelError};
use crate::model::diagnostic::Diagnostics;
use crate::model::focus::Focus;
use crate::model::lower::{self, Rejection};
use crate::model::observed::Observed;
use crate::model::resource::{Kind, ResourceId, Step};
use crate::model::state::{Desired, State};
use crate::model::topology::Topology;
use crate::model::wire::{Owner, Scope};

/// From so many endpoints on it pays to lower them on two threads.
const TWO_FROM: usize = 256;
/// Looks that one run takes at most after executing: the world may move under it, but not for ever.
const ROUNDS_MAX: u32 = 4;

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// What a topology asks for.
    Topology(&'a Topology),
    /// Nothing of what bears that topology's mark; the topology's file, if it is known, says where else to look.
    Nothing(&'a str, Option<&'a Topology>),
    /// What was there before.
    State(&'a Before),
    /// What a topology asks for; as long as of the host nothing but its own things has changed, that is known already.
    Known(&'a Topology, &'a Known),
    /// What files ask for, where that was known of the topology before.
    Turned(&'a Content, &'a Known, &'a Topology),
    /// What a topology asks for, but these are left as they are for now, and so is what cannot be without them.
    Except(&'a Topology, &'a BTreeSet<ResourceId>),
}

impl Target<'_> {
    /// Whose things it is about.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Topology(topology) | Self::Known(topology, _) | Self::Except(topology, _) => {
                Owner::new(&topology.name)
            }
            Self::Turned(content, ..) => content.scope.owner.clone(),
            Self::Nothing(name, _) => Owner::new(name),
            Self::State(before) => before.scope().owner.clone(),
        }
    }

    /// What is to be looked at.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Topology(topology) | Self::Except(topology, _) => lower::scope(topology),
            Self::Turned(content, ..) => content.scope.clone(),
            Self::Known(_, known) => known.scope().clone(),
            Self::Nothing(name, topology) => {
                let owner = Owner::new(name);
                // Named namespaces of ours are found by their mark, and only what is not asked for is looked at for
                // processes; those given by path or pid are found through the file.
                let mut containers = topology.map(lower::namespaces).unwrap_or_default();
                containers.retain(|_, found| !matches!(found, crate::model::wire::NetnsRef::Named(_)));
                Scope { owner, containers, several: BTreeSet::new(), sysctls: Vec::new() }
            }
            Self::State(before) => before.scope().clone(),
        }
    }

    fn desired(&self, observed: &Observed) -> Result<Desired, Rejection> {
        let lower = |topology: &Topology| {
            let by = Threads { two: topology.endpoints.len() >= TWO_FROM };
            lower::lower_by(topology, observed, &by)
        };
        match self {
            Self::Topology(topology) | Self::Except(topology, _) => lower(topology),
            Self::Turned(content, ..) => lower(&content.topology),
            Self::Known(topology, known) => match known.still(observed) {
                Some(desired) => Ok(desired.clone()),
                None => lower(topology),
            },
            Self::Nothing(name, _) => {
                let notes = never_applied(name, observed).into_iter().collect();
                Ok(Desired { topology: (*name).to_owned(), notes, ..Desired::default() })
            }
            Self::State(before) => Ok(before.desired(observed)),
        }
    }
}

/// What whoever wants a topology gone should know where there is nothing of it: perhaps the name is misspelt.
fn never_applied(name: &str, observed: &Observed) -> Option<String> {
    if observed.ours.resources().any(|resource| !resource.stays()) {
        return None;
    }
    let others: BTreeSet<&str> = observed.foreign.links.values().filter_map(|link| link.topology.as_deref()).collect();
    let others: Vec<String> = others.into_iter().take(8).map(|other| format!("`{other}`")).collect();
    let others = if others.is_empty() { String::new() } else { format!("; there is {}", others.join(", ")) };
    Some(format!("nothing here bears the mark of topology `{name}`{others}"))
}

/// Why there is no plan. Nothing was touched.
#[derive(Clone, Debug)]
pub enum NoPlan {
    /// The topology is wrong in itself.
    Invalid(Diagnostics),
    /// The topology contradicts what is live, or a safety rail holds.
    Refused(Diagnostics),
    /// What was applied waits to be confirmed: until that is decided nothing is written.
    Undecided(Diagnostics),
    /// The kernel could not be looked at, or has not what is needed.
    Unseen(KernelError),
    /// netrec is wrong: the plan would not do what it is for.
    Flawed(Flaw),
}

/// Whether the kernel has what a plan needs; to be asked once, before the first step.
///
/// # Errors
///
/// [`NoPlan::Unseen`] that says what is missing; nothing was touched.
pub fn able(kernel: &mut impl Kernel, prepared: &Prepared) -> Result<(), NoPlan> {
    if prepared.plan.is_empty() { Ok(()) } else { kernel.able(&prepared.plan.steps).map_err(NoPlan::Unseen) }
}

impl From<Rejection> for NoPlan {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Invalid(findings) => Self::Invalid(findings),
            Rejection::Refused(findings) => Self::Refused(findings),
        }
    }
}

impl std::fmt::Display for NoPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(findings) | Self::Refused(findings) | Self::Undecided(findings) => {
                let messages: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
                f.write_str(&messages.join("; "))
            }
            Self::Unseen(error) => write!(f, "{error}"),
            Self::Flawed(flaw) => write!(f, "the plan is wrong: {flaw}"),
        }
    }
}

/// A look and what follows from it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What was seen.
    pub observed: Observed,
    /// What is wanted.
    pub desired: Desired,
    /// How they differ.
    pub diff: Diff,
    /// In which order the difference goes away.
    pub plan: Plan,
    /// All that is wanted, if the rest of this is only of what is otherwise than when all was so.
    pub whole: Option<State>,
    /// What is known when all of this is done, if it was prepared from what was known before.
    pub next: Option<Box<Known>>,
}

/// Looks, plans what is to be done, and asks the rails whether it may.
///
/// # Errors
///
/// See [`NoPlan`]; nothing was touched.
pub fn prepare(kernel: &mut impl Kernel, target: Target) -> Result<Prepared, NoPlan> {
    prepare_within(kernel, target, &Allowance::default())
}

/// The same with more than the rails let through by themselves.
///
/// # Errors
///
/// See [`NoPlan`]; nothing was touched.
pub fn prepare_within(kernel: &mut impl Kernel, target: Target, allowance: &Allowance) -> Result<Prepared, NoPlan> {
    let mut prepared = look(kernel, target)?;
    let mut verdict = rails::check(&prepared, target, allowance);
    if verdict.is_err() && prepared.whole.is_some() {
        // Where in the file all of it is asked for is known of news alone.
        prepared = decide(target, kernel.observe(&target.scope()).map_err(NoPlan::Unseen)?)?;
        verdict = rails::check(&prepared, target, allowance);
    }
    verdict.map_err(NoPlan::Refused)?;
    Ok(prepared)
}

/// Looks, and plans what is to be done, whether or not it may; the plan has proved itself.
///
/// # Errors
///
/// See [`NoPlan`]; nothing was touched.
pub fn look(kernel: &mut impl Kernel, target: Target) -> Result<Prepared, NoPlan> {
    let scope = target.scope();
    let nowhere = Focus::default();
    let mut news = |open: &Focus, anew| kernel.news(&scope, open, anew).map_err(NoPlan::Unseen);
    if let Target::Known(_, known) = target
        && let Some(news) = news(&known.uncertain(), false)?
        && let Some(prepared) = known.follow(news)?
    {
        return Ok(prepared);
    }
    if let Target::Turned(content, known, last) = target
        && let Some(before) = news(&nowhere, true)?
        && let Some(turn) = known.turn((last, &content.topology), scope.clone(), before)?
        && let Some(news) = news(turn.open(), false)?
        && let Some(prepared) = turn.follow(news)?
    {
        return Ok(prepared);
    }
    decide(target, kernel.observe(&scope).map_err(NoPlan::Unseen)?)
}

/// Plans what is to be done about what was seen, whether or not it may; the plan has proved itself.
///
/// # Errors
///
/// See [`NoPlan`].
pub fn decide(target: Target, mut observed: Observed) -> Result<Prepared, NoPlan> {
    let mut desired = target.desired(&observed)?;
    tracing::debug!("lowered");
    if let Target::Except(_, held) = target {
        watch::hold::leave(&mut desired.state, &mut observed.ours, held);
    }
    let diff = diff(&desired.state, &observed.ours);
    let plan = proven(&diff, &desired.state, &observed.ours)?;
    Ok(Prepared { observed, desired, diff, plan, whole: None, next: None })
}

/// A plan that has proved itself, and a word about it.
fn proven(diff: &Diff, desired: &State, observed: &State) -> Result<Plan, NoPlan> {
    let plan = plan(diff, desired, observed).map_err(NoPlan::Flawed)?;
    tracing::debug!(steps = plan.steps.len(), stages = plan.stages(), "planned");
    Ok(plan)
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// Steps taken with success, in all rounds.
    pub done: usize,
    /// Steps of the last round that failed: which, and why.
    pub failed: Vec<(ResourceId, KernelError)>,
    /// What still differs after the last look: empty when the run has converged.
    pub residual: Diff,
    /// What is wanted as of the last look.
    pub desired: Desired,
    /// How often was executed.
    pub rounds: u32,
    /// Whether the last look was into news only.
    pub news: bool,
}

impl Report {
    /// Of a run that had nothing to do.
    pub fn idle(residual: Diff, desired: Desired) -> Self {
        Self { done: 0, failed: Vec::new(), residual, desired, rounds: 0, news: false }
    }

    /// Whether all that is wanted is there, as the last look showed.
    pub fn is_converged(&self) -> bool {
        self.residual.is_empty()
    }
}

/// Executes what was prepared and looks again, until nothing differs or a round brings nothing new. Everything that a
/// busy host moves under a plan is refused by the kernel or by the checks before each deletion, and is planned anew.
///
/// # Errors
///
/// When a look after executing is not possible, or shows something that the topology contradicts.
pub fn execute(
    kernel: &mut impl Kernel,
    target: Target,
    prepared: Prepared,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report, NoPlan> {
    // What was seen and wanted is let go before it is seen and wanted anew: at large sizes it is most of the memory.
    let Prepared { mut plan, observed, desired, diff, whole, next } = prepared;
    drop((observed, desired, diff, whole, next));
    let mut done = 0;
    for round in 1..=ROUNDS_MAX {
        let (mut failed, count) = (Vec::new(), plan.steps.len());
        if count > 0 {
            let results = kernel.execute(&plan.steps, &mut |ended| progress(ended, count));
            done += results.iter().filter(|result| result.is_ok()).count();
            failed = failures(&plan.steps, results);
        }
        // A plan is kept for comparison only where something failed.
        let failing = (!failed.is_empty()).then_some(plan);
        let next = prepare_within(kernel, target, &Allowance::granted())?;
        let stuck =
            failing.as_ref() == Some(&next.plan) || failed.iter().any(|(_, error)| *error == KernelError::Stopped);
        if next.plan.is_empty() || stuck || round == ROUNDS_MAX {
            let (residual, desired, news) = (next.diff, next.desired, next.whole.is_some());
            return Ok(Report { done, failed, residual, desired, rounds: round, news });
        }
        tracing::info!(round, left = next.plan.steps.len(), "not converged yet");
        plan = next.plan;
    }
    unreachable!("the last round returns")
}

fn failures(steps: &[Step], results: Vec<Result<(), KernelError>>) -> Vec<(ResourceId, KernelError)> {
    let mut failures = Vec::new();
    for (step, result) in steps.iter().zip(results) {
        match result {
            Ok(()) => tracing::info!(id = %step.id, "done"),
            Err(error) => {
                tracing::info!(id = %step.id, %error, "failed");
                failures.push((step.id.clone(), error));
            }
        }
    }
    failures
}
