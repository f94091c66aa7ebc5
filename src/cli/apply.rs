//! `netrec apply`: plan, execute, look again.

use clap::Args;
use serde::Serialize;

use super::failure::{self, Failure};
use super::load::{Loaded, load};
use super::output::{self, Progress};
use super::{Exit, Format, Input, Writing, plan};
use crate::apply::{NoPlan, Prepared, Report, Target, able, execute, prepare};
use crate::diff::render::{self, Summary};
use crate::kernel::linux::Linux;
use crate::kernel::{KernelError, lock, privilege, stop};
use crate::model::diagnostic::Diagnostic;
use crate::model::source::Origin;

/// Make the kernel hold what the topology says: plan, execute, verify.
///
/// Prints the plan and the outcome. Asks on a terminal unless `--yes`; never asks without one. A second apply of the
/// same file does nothing; one that was interrupted or failed is finished by the next.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  netrec apply shop.toml
  netrec apply --yes shop.toml              in a script
  netrec apply --format json shop.toml | jq .outcome")]
pub(super) struct Apply {
    #[command(flatten)]
    pub(super) input: Input,
    #[command(flatten)]
    writing: Writing,
}

impl Apply {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let loaded = load(&self.input.paths)?;
        carry_out(Target::Topology(&loaded.topology), &loaded, self.writing, self.input.output.format)
    }
}

/// Plans, shows, asks, executes, verifies and tells: what `apply` and `destroy` do.
pub(super) fn carry_out(target: Target, loaded: &Loaded, writing: Writing, format: Format) -> Result<Exit, Failure> {
    privilege::check()?;
    let _lock = lock::acquire(writing.timeout())?.ok_or_else(busy)?;
    let mut kernel = Linux::default();
    let unplanned = |no_plan| Failure::unplanned(no_plan, &loaded.sources);
    let prepared = prepare(&mut kernel, target).map_err(unplanned)?;
    able(&mut kernel, &prepared).map_err(unplanned)?;
    let (nothing, asks) = (prepared.diff.is_empty(), !writing.yes && output::is_interactive());
    match format {
        Format::Text => output::say(&plan::text(&prepared)),
        Format::Json if asks && !nothing => output::complain(&plan::text(&prepared)),
        Format::Json => {}
    }
    if !nothing && asks && !output::ask("apply this?") {
        return Err(Failure::new(Exit::Refused, Diagnostic::new("not confirmed: nothing was touched")));
    }
    let planned = serde_json::to_value(plan::json(&prepared, loaded)).expect("our own types have string keys");
    let report = run(&mut kernel, target, prepared).map_err(|it| Failure::unverified(it, &loaded.sources))?;
    let (outcome, failed) = (Outcome::new(&report, loaded), Failure::of_steps(&report, &loaded.sources));
    match format {
        Format::Json => {
            let errors = failed.as_ref().map(Failure::json).unwrap_or_default();
            output::say_json(&Applied { version: 1, plan: planned, outcome: &outcome, errors });
        }
        Format::Text if nothing => {}
        Format::Text => output::say(&outcome.text("applied", &report)),
    }
    if let Some(failed) = failed {
        failed.complain();
    }
    Ok(exit(&report))
}

fn busy() -> Failure {
    let finding = Diagnostic::new("another netrec is writing").hint("wait longer with `--lock-timeout`");
    Failure::new(Exit::Busy, finding)
}

/// Executes what was prepared, unless that is nothing, with a word on how far it has come.
pub(super) fn run(kernel: &mut Linux, target: Target, prepared: Prepared) -> Result<Report, NoPlan> {
    if prepared.diff.is_empty() {
        let (residual, desired) = (prepared.diff, prepared.desired);
        return Ok(Report { done: 0, failed: Vec::new(), residual, desired, rounds: 0 });
    }
    stop::listen();
    let mut progress = Progress::new();
    execute(kernel, target, prepared, &mut |ended, of| progress.tell(ended, of))
}

/// The exit code that a report stands for.
pub(super) fn exit(report: &Report) -> Exit {
    match () {
        () if !report.failed.is_empty() && !report.is_converged() => Exit::Partial,
        () if !report.is_converged() || !report.desired.pending.is_empty() => Exit::NotConverged,
        () => Exit::Done,
    }
}

#[derive(Serialize)]
struct Applied<'a> {
    version: u32,
    plan: serde_json::Value,
    outcome: &'a Outcome,
    errors: Vec<failure::Json>,
}

/// How it ended, for programs.
#[derive(Serialize)]
pub(super) struct Outcome {
    steps: usize,
    failed: usize,
    converged: bool,
    rounds: u32,
    pending: Vec<PendingContainer>,
    residual: Summary,
}

#[derive(Serialize)]
struct PendingContainer {
    container: String,
    reason: String,
    origin: Origin,
}

impl Outcome {
    pub(super) fn new(report: &Report, loaded: &Loaded) -> Self {
        let pending = report.desired.pending.iter();
        Self {
            steps: report.done,
            failed: report.failed.len(),
            converged: report.is_converged(),
            rounds: report.rounds,
            pending: pending
                .map(|it| PendingContainer {
                    container: it.container.clone(),
                    reason: it.reason.clone(),
                    origin: it.origin.origin(&loaded.sources),
                })
                .collect(),
            residual: Summary::of(&report.residual, 0),
        }
    }

    /// The same for people; why steps failed is told on the other stream.
    pub(super) fn text(&self, verb: &str, report: &Report) -> String {
        let mut text = format!("{verb}: {} steps, {} failed\n", self.steps + self.failed, self.failed);
        if report.failed.iter().any(|(_, error)| *error == KernelError::Stopped) {
            text += "stopped as asked: the next apply goes on\n";
        }
        if self.converged {
            text += "verified: nothing left to do\n";
        } else {
            text += &render::text(&report.residual);
            text += &format!("not converged: {}\n", self.residual);
        }
        text
    }
}
