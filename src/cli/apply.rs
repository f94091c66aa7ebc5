//! `netrec apply`: plan, execute, look again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::confirm::{self, Confirming, Settled};
use super::control;
use super::duration::to_confirm;
use super::failure::Failure;
use super::load::{Loaded, read_all, understand};
use super::outcome::{Applied, Outcome};
use super::output::{self, Progress};
use super::{Allowing, Exit, Format, Input, Writing, plan};
use crate::apply::confirm::memory::{self, Memory};
use crate::apply::history::{History, Record};
use crate::apply::rails;
use crate::apply::watch::Content;
use crate::apply::{NoPlan, Prepared, Report, Target, able, execute, look};
use crate::diff::render::{self, Summary};
use crate::kernel::linux::Linux;
use crate::kernel::lock::{self, Lock};
use crate::kernel::probe::Probe;
use crate::kernel::surroundings::Surroundings;
use crate::kernel::{KernelError, privilege, stop};
use crate::model::diagnostic::Diagnostic;
use crate::model::resource::ResourceId;
use crate::model::source::Sources;

/// Make the kernel hold what the topology says: plan, execute, verify.
///
/// Prints the plan and the outcome. Asks on a terminal unless `--yes`; never asks without one. A second apply of the
/// same file does nothing; one that was interrupted or failed is finished by the next.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  netrec apply shop.toml
  netrec apply --yes shop.toml              in a script
  netrec apply --confirm 120s shop.toml     from afar: goes back unless `netrec confirm` is run in time
  netrec apply --format json shop.toml | jq .outcome")]
pub(super) struct Apply {
    #[command(flatten)]
    pub(super) input: Input,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    allowing: Allowing,
    /// Go back by itself unless `netrec confirm` is run within that time: `120s`, `5m`.
    #[arg(long, value_name = "TIME", value_parser = to_confirm)]
    confirm: Option<Duration>,
    /// What must be reachable before and after, else it goes back at once: `tcp:HOST:PORT`, `ping:HOST` or
    /// `route:ADDRESS`.
    #[arg(long = "probe", value_name = "PROBE", requires = "confirm")]
    probes: Vec<Probe>,
    /// Try again what was applied before and never confirmed.
    #[arg(long)]
    retry: bool,
}

impl Apply {
    pub(super) fn run(self, around: Arc<Surroundings>) -> Result<Exit, Failure> {
        let (loaded, ahead) = Ahead::load(&self.input.paths, around)?;
        let (target, writing, allowing) = (Target::Topology(&loaded.topology), self.writing, self.allowing);
        let format = self.input.output.format;
        let errand = Errand { command: "apply", target, loaded: &loaded, ahead, writing, allowing, format };
        let exit = errand.run(Some(&self));
        output::leave(loaded);
        exit
    }

    /// What is seen to before the first write: refuses what was not confirmed once, and what could not be undone.
    fn precautions<'a>(&'a self, errand: &Errand<'a>, prepared: &Prepared) -> Result<Option<Confirming<'a>>, Failure> {
        let (topology, digest) = (errand.topology(), memory::digest(&errand.loaded.sources));
        if self.retry && self.confirm.is_none() {
            // Wanted in spite of all, by whoever is to do it.
            let _ = Memory::default().forget(&topology, &digest);
        } else if let Some(finding) = confirm::discarded(&topology, &digest).filter(|_| !self.retry) {
            return Err(Failure::new(Exit::Refused, finding));
        }
        let Some(timeout) = self.confirm else { return Ok(None) };
        Confirming::new(errand, prepared, timeout, &self.probes).map(Some)
    }
}

/// What begins before files are understood, where that takes a while: the right to write is taken, and the host looked at.
#[derive(Debug)]
pub(super) struct Ahead {
    lock: Option<Lock>,
    kernel: Linux,
}

impl Default for Ahead {
    fn default() -> Self {
        Self { lock: None, kernel: Linux::for_one_run() }
    }
}

impl Ahead {
    /// Nothing but what is known of what is around.
    pub(super) fn of(around: Arc<Surroundings>) -> Self {
        let mut ahead = Self::default();
        ahead.kernel.believe(around);
        ahead
    }

    /// Files as one topology, and what could begin meanwhile.
    pub(super) fn load(paths: &[PathBuf], around: Arc<Surroundings>) -> Result<(Loaded, Self), Failure> {
        let mut ahead = Self::of(around);
        let sources = read_all(paths)?;
        ahead.begin(&sources);
        Ok((understand(sources, None)?, ahead))
    }

    /// Where others write, or it may not be, later is soon enough, and says why.
    fn begin(&mut self, sources: &Sources) {
        /// Less is understood before another thread has started.
        const BYTES: usize = 32 << 10;
        let short = sources.iter().map(|source| source.text.len()).sum::<usize>() < BYTES;
        // It is not made for a file that may be wrong.
        if short || privilege::check().is_err() || !Path::new(lock::DIRECTORY).is_dir() {
            return;
        }
        self.lock = lock::acquire(Duration::ZERO).ok().flatten();
        if self.lock.is_some() {
            self.kernel.look_ahead();
        }
    }
}

/// One run of a command that writes.
pub(super) struct Errand<'a> {
    pub(super) command: &'static str,
    pub(super) target: Target<'a>,
    pub(super) loaded: &'a Loaded,
    pub(super) ahead: Ahead,
    pub(super) writing: Writing,
    pub(super) allowing: Allowing,
    pub(super) format: Format,
}

impl Errand<'_> {
    /// Plans, shows, asks, executes, verifies and tells: what `apply` and `destroy` do.
    pub(super) fn run(mut self, apply: Option<&Apply>) -> Result<Exit, Failure> {
        privilege::check()?;
        let topology = self.topology();
        let watched = self.is_watched(apply.is_some_and(|apply| apply.confirm.is_some()))?;
        let Ahead { lock, mut kernel } = std::mem::take(&mut self.ahead);
        // A watcher that is to do the work takes the lock itself.
        let lock = match lock.filter(|_| !watched) {
            None if !watched => Some(self.lock(&mut kernel)?),
            held => held,
        };
        confirm::is_free(&topology)?;
        let unplanned = |no_plan| Failure::unplanned(no_plan, &self.loaded.sources);
        let prepared = look(&mut kernel, self.target).map_err(unplanned)?;
        let (nothing, asks) = (prepared.diff.is_empty(), !self.writing.yes && output::is_interactive());
        let changes = render::text(&prepared.diff);
        if self.format == Format::Text {
            output::say(&plan::told(&prepared, &changes));
        }
        // Whoever is asked has to see what about.
        if asks && !nothing && (self.format == Format::Json || !output::is_seen()) {
            output::complain(&plan::told(&prepared, &changes));
        }
        self.may(&mut kernel, &prepared).map_err(unplanned)?;
        let json = || serde_json::to_value(plan::json(&prepared, self.loaded)).expect("our own types have string keys");
        let plan = matches!(self.format, Format::Json).then(json);
        if nothing {
            let report = Ok(Report::idle(prepared.diff, prepared.desired));
            self.tell(plan, &report, None);
            let exit = settled_exit(&report, None);
            output::leave((report, prepared.observed, kernel));
            return Ok(exit);
        }
        let confirming = apply.map(|apply| apply.precautions(&self, &prepared)).transpose()?.flatten();
        let prepared = if asks { self.asked(&mut kernel, &changes)? } else { prepared };
        let mut record = self.record(&prepared, &changes);
        let confirming = confirming.map(Confirming::begin).transpose()?;
        let report = if watched {
            Ok(self.through_watcher(&mut kernel, &prepared)?)
        } else {
            run(&mut kernel, self.target, prepared)
        };
        drop(lock);
        let settled = confirming.map(|confirming| confirming.settle(&report));
        if apply.is_some() && settled.is_none() && report.as_ref().is_ok_and(Report::is_converged) {
            let _ = Memory::default().forget(&topology, &memory::digest(&self.loaded.sources));
        }
        record.result = result(&report, settled.as_ref());
        History::default().add(&record);
        self.tell(plan, &report, settled.as_ref());
        let exit = settled_exit(&report, settled.as_ref());
        output::leave((report, kernel));
        Ok(exit)
    }

    /// Whether it is safe, and possible.
    fn may(&self, kernel: &mut Linux, prepared: &Prepared) -> Result<(), NoPlan> {
        let allowance = self.allowing.allowance(prepared, kernel.around());
        rails::check(prepared, self.target, &allowance).map_err(NoPlan::Refused)?;
        able(kernel, prepared)
    }

    /// Asks whether to go on, and looks again: a host does not wait for an answer, and what was free before may be
    /// somebody's by now.
    fn asked(&self, kernel: &mut Linux, changes: &str) -> Result<Prepared, Failure> {
        let refused = |why| Failure::new(Exit::Refused, Diagnostic::new(format!("{why}: nothing was touched")));
        if !output::ask(&format!("{} this?", self.command)) {
            return Err(refused("not confirmed"));
        }
        kernel.believe(Arc::default());
        let unplanned = |it| Failure::unplanned(it, &self.loaded.sources);
        let prepared = look(kernel, self.target).map_err(unplanned)?;
        if render::text(&prepared.diff) != changes {
            return Err(refused("the plan is another one by now"));
        }
        self.may(kernel, &prepared).map_err(unplanned)?;
        Ok(prepared)
    }

    /// The right to write. What was asked before somebody else gave it away is of another time.
    fn lock(&self, kernel: &mut Linux) -> Result<Lock, Failure> {
        if let Some(lock) = lock::acquire(Duration::ZERO)? {
            return Ok(lock);
        }
        let lock = lock::acquire(self.writing.lock_timeout)?.ok_or_else(busy)?;
        kernel.believe(Arc::default());
        Ok(lock)
    }

    /// Whether a watcher is to do the work; what it would undo is refused.
    fn is_watched(&self, confirming: bool) -> Result<bool, Failure> {
        let topology = self.topology();
        let watched = control::active(&topology)?.is_some();
        if watched && (confirming || !matches!(self.target, Target::Topology(_))) {
            let finding = Diagnostic::new(format!("topology {topology} is watched, and its watcher would go on"));
            return Err(Failure::new(Exit::Busy, finding.hint("end its watcher first, or suspend it")));
        }
        Ok(watched)
    }

    /// Has the topology's watcher do it, and looks for ourselves what came of it.
    fn through_watcher(&self, kernel: &mut Linux, prepared: &Prepared) -> Result<Report, Failure> {
        let sources = &self.loaded.sources;
        let answer = control::apply(&self.loaded.topology.name, Content::digest(sources))?;
        let after = look(kernel, self.target).map_err(|it| Failure::unverified(it, sources))?;
        let failure = |id: &ResourceId| answer.standing.failed.get(&id.to_string()).cloned();
        let failed = after.diff.keys().filter_map(|id| Some((id.clone(), KernelError::Missing(failure(id)?))));
        let done = prepared.diff.keys().filter(|id| !after.diff.contains_key(*id)).count();
        Ok(Report {
            done,
            failed: failed.collect(),
            residual: after.diff,
            desired: after.desired,
            rounds: 1,
            news: false,
        })
    }

    pub(super) fn topology(&self) -> String {
        self.target.owner().topology.to_string()
    }

    fn record(&self, prepared: &Prepared, changes: &str) -> Record {
        let mut record = Record::new(&self.topology(), self.command, "").with_plan(changes);
        record.summary = Summary::of(&prepared.diff, 0).to_string();
        record.digest = matches!(self.target, Target::Topology(_)).then(|| memory::digest(&self.loaded.sources));
        record
    }

    fn tell(&self, plan: Option<serde_json::Value>, report: &Result<Report, NoPlan>, settled: Option<&Settled>) {
        let (outcome, failed) = match report {
            Ok(report) => (Some(Outcome::new(report, self.loaded)), Failure::of_steps(report, &self.loaded.sources)),
            Err(no_plan) => (None, Some(Failure::unverified(no_plan.clone(), &self.loaded.sources))),
        };
        match (self.format, &outcome, report) {
            (Format::Json, ..) => {
                let errors = failed.as_ref().map(Failure::json).unwrap_or_default();
                output::say_json(&Applied { version: 1, plan, outcome, confirm: settled, errors });
            }
            (Format::Text, Some(outcome), Ok(report)) if report.rounds > 0 => {
                output::say(&outcome.text("applied", report));
            }
            (Format::Text, ..) => {}
        }
        if let Some(failed) = failed {
            failed.complain();
        }
        if let (Some(settled), Format::Text) = (settled, self.format) {
            output::say(&settled.text(&self.topology()));
        }
    }
}

fn busy() -> Failure {
    let finding = Diagnostic::new("another netrec is writing").hint("wait longer with `--lock-timeout`");
    Failure::new(Exit::Busy, finding)
}

/// Executes what was prepared, unless that is nothing, with a word on how far it has come.
pub(super) fn run(kernel: &mut Linux, target: Target, prepared: Prepared) -> Result<Report, NoPlan> {
    if prepared.diff.is_empty() {
        return Ok(Report::idle(prepared.diff, prepared.desired));
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

fn settled_exit(report: &Result<Report, NoPlan>, settled: Option<&Settled>) -> Exit {
    match (settled, report) {
        (Some(Settled::RolledBack { complete: true, .. }), _) => Exit::RolledBack,
        (Some(Settled::RolledBack { .. } | Settled::Unguarded { .. }), _) => Exit::RollbackIncomplete,
        (_, Err(_)) => Exit::NotConverged,
        (_, Ok(report)) => exit(report),
    }
}

/// How it ended, in a few words for the history.
fn result(report: &Result<Report, NoPlan>, settled: Option<&Settled>) -> String {
    match (settled, report) {
        (Some(settled), _) => settled.word().into(),
        (None, Err(_)) => "not verified".into(),
        (None, Ok(report)) if report.is_converged() => "done".into(),
        (None, Ok(report)) => format!("{} failed, not converged", report.failed.len()),
    }
}
