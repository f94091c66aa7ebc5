//! `netrec apply`: plan, execute, look again.

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::load::{Loaded, load};
use super::output::{self, Progress};
use super::{Exit, Format, Input, Writing, plan};
use crate::apply::{Prepared, Report, Target, execute, prepare};
use crate::diff::render::{self, Summary};
use crate::kernel::linux::Linux;
use crate::kernel::{lock, privilege};
use crate::model::source::Origin;

/// Make the kernel hold what the topology says: plan, execute, verify.
///
/// Prints the plan and the outcome. Asks on a terminal unless `--yes`; never asks without one.
#[derive(Args, Debug)]
pub(super) struct Apply {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    writing: Writing,
}

impl Apply {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let format = self.input.output.format;
        let loaded = load(&self.input.paths).map_err(|failure| failure.in_form(format))?;
        carry_out(Target::Topology(&loaded.topology), &loaded, self.writing, format)
    }
}

/// Plans, shows, asks, executes, verifies and tells: what `apply` and `destroy` do.
pub(super) fn carry_out(target: Target, loaded: &Loaded, writing: Writing, format: Format) -> Result<Exit, Failure> {
    privilege::check().map_err(Failure::Kernel)?;
    let failed = |no_plan| Failure::of(no_plan, &loaded.sources).in_form(format);
    let _lock = lock::acquire(writing.timeout()).map_err(Failure::Kernel)?.ok_or(Failure::Busy)?;
    let mut kernel = Linux::default();
    let prepared = prepare(&mut kernel, target).map_err(failed)?;
    let planned = match format {
        Format::Text => {
            output::say(&plan::text(&prepared));
            None
        }
        Format::Json => {
            let context = plan::context(&prepared, loaded);
            Some(serde_json::to_value(render::json(&prepared.diff, &context)).expect("our own types have string keys"))
        }
    };
    if !prepared.diff.is_empty() && !writing.yes && output::is_interactive() && !output::ask("apply this?") {
        return Err(Failure::Other(Exit::Refused, "not applied".into()));
    }
    let nothing = prepared.diff.is_empty();
    let report = if nothing { idle(prepared) } else { run(&mut kernel, target, prepared).map_err(failed)? };
    let outcome = Outcome::new(&report, loaded);
    match planned {
        Some(plan) => output::say_json(&Applied { version: 1, plan, outcome: &outcome }),
        None if nothing => {}
        None => output::say(&outcome.text(&report)),
    }
    Ok(exit(&report))
}

fn idle(prepared: Prepared) -> Report {
    Report { done: 0, failed: Vec::new(), residual: prepared.diff, desired: prepared.desired, rounds: 0 }
}

fn run(kernel: &mut Linux, target: Target, prepared: Prepared) -> Result<Report, crate::apply::NoPlan> {
    let mut progress = Progress::new();
    execute(kernel, target, prepared, &mut |ended, of| progress.tell(ended, of))
}

fn exit(report: &Report) -> Exit {
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
}

/// How it ended, for programs.
#[derive(Serialize)]
struct Outcome {
    steps: usize,
    converged: bool,
    rounds: u32,
    failed: Vec<FailedStep>,
    pending: Vec<PendingContainer>,
    residual: Summary,
}

#[derive(Serialize)]
struct FailedStep {
    id: String,
    error: String,
    origin: Option<Origin>,
}

#[derive(Serialize)]
struct PendingContainer {
    container: String,
    reason: String,
    origin: Origin,
}

impl Outcome {
    fn new(report: &Report, loaded: &Loaded) -> Self {
        let origin = |id| report.desired.origins.get(id).map(|span| span.origin(&loaded.sources));
        let failed = report.failed.iter();
        let pending = report.desired.pending.iter();
        Self {
            steps: report.done,
            converged: report.is_converged(),
            rounds: report.rounds,
            failed: failed
                .map(|(id, error)| FailedStep { id: id.to_string(), error: error.to_string(), origin: origin(id) })
                .collect(),
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

    fn text(&self, report: &Report) -> String {
        let mut text = format!("applied: {} steps, {} failed\n", self.steps + self.failed.len(), self.failed.len());
        for failed in &self.failed {
            let place = failed.origin.as_ref().map(|it| format!(" ({}:{}:{})", it.file, it.line, it.column));
            text += &format!("failed: {}{}: {}\n", failed.id, place.unwrap_or_default(), failed.error);
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
