//! `netrec confirm`: what was applied is good. And the side of `netrec apply --confirm` that waits for it.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::apply::Errand;
use super::failure::Failure;
use super::{Exit, Format, Output, output};
use crate::apply::confirm::guard::{Answer, Guard, Job, Order, Question, ask, pending};
use crate::apply::confirm::memory::{self, Memory};
use crate::apply::confirm::{Certainty, undo};
use crate::apply::{NoPlan, Prepared, Report};
use crate::kernel::probe::Probe;
use crate::model::diagnostic::Diagnostic;

/// How long probes are tried after an apply: neighbours must be found anew, and a lost SYN is sent again after a second.
const SETTLING: Duration = Duration::from_secs(5);

/// Keep what `netrec apply --confirm` applied; without this it is rolled back when its time is up.
#[derive(Args, Debug)]
pub(super) struct Confirm {
    /// The topology; needed only if several wait to be confirmed.
    topology: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Confirm {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        decide(self.topology, Question::Confirm, self.output.format)
    }
}

#[derive(Serialize)]
struct Decided<'a> {
    version: u32,
    topology: &'a str,
    confirm: &'a Answer,
}

/// Asks the guard of a topology, or of the only one that is pending.
pub(super) fn decide(topology: Option<String>, question: Question, format: Format) -> Result<Exit, Failure> {
    let gone = |name: Option<&str>| {
        let of = name.map(|name| format!(" of topology `{name}`")).unwrap_or_default();
        let finding = Diagnostic::new(format!("nothing{of} waits to be confirmed"));
        Failure::new(Exit::Refused, finding.hint("`netrec history` says what was done"))
    };
    let topology = match topology {
        Some(topology) => topology,
        None => match pending().map_err(|error| Failure::silent("what waits to be confirmed", &error))?.as_slice() {
            [] => return Err(gone(None)),
            [only] => only.clone(),
            several => {
                let text = format!("several topologies wait to be confirmed: {}", several.join(", "));
                return Err(Failure::new(Exit::Usage, Diagnostic::new(text).hint("say which")));
            }
        },
    };
    let answer = ask(&topology, question)
        .map_err(|error| Failure::silent(&format!("the guard of `{topology}`"), &error))?
        .ok_or_else(|| gone(Some(&topology)))?;
    let (exit, text) = match &answer {
        Answer::Confirmed => (Exit::Done, "confirmed: it stays as it is\n".to_owned()),
        Answer::RolledBack { complete: true, .. } => (Exit::Done, "rolled back: all is as it was\n".to_owned()),
        Answer::RolledBack { left, .. } => {
            (Exit::RollbackIncomplete, format!("rolled back, but for:\n  {}\n", left.join("\n  ")))
        }
        Answer::Applying | Answer::Pending { .. } => (Exit::Busy, "it is still being applied\n".to_owned()),
    };
    match format {
        Format::Text => output::say(&text),
        Format::Json => output::say_json(&Decided { version: 1, topology: &topology, confirm: &answer }),
    }
    Ok(exit)
}

/// Nobody writes to a topology that waits to be confirmed.
pub(super) fn is_free(topology: &str) -> Result<(), Failure> {
    undecided(topology).map_or(Ok(()), |finding| Err(Failure::new(Exit::Busy, finding)))
}

/// That a topology waits to be confirmed, if it does.
pub(super) fn undecided(topology: &str) -> Option<Diagnostic> {
    let until = match ask(topology, Question::Status) {
        Ok(None) => return None,
        Ok(Some(Answer::Pending { until, who })) => format!(", by {who}, until {}", output::utc(until)),
        Ok(Some(_)) | Err(_) => String::new(),
    };
    let finding = Diagnostic::new(format!("what was applied to `{topology}` waits to be confirmed{until}"));
    Some(finding.hint(format!("`netrec confirm {topology}` keeps it, `netrec rollback {topology}` takes it back")))
}

/// That this text of a topology was not confirmed once, if so.
pub(super) fn discarded(topology: &str, digest: &str) -> Option<Diagnostic> {
    let finding = Diagnostic::new("this was applied before, and rolled back or never confirmed");
    let hint = "change it, or try it again with `netrec apply --retry`, best with `--confirm 120s`";
    Memory::default().has(topology, digest).then(|| finding.hint(hint))
}

/// An apply that is to be confirmed.
pub(super) struct Confirming<'a> {
    topology: String,
    digest: String,
    job: Job,
    probes: &'a [Probe],
    certainty: Certainty,
}

/// How an apply that is to be confirmed stands when netrec ends.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum Settled {
    /// It is applied, and waits.
    Pending { until: u64, undo: String },
    /// It is taken back.
    RolledBack { complete: bool, reason: String, left: Vec<String> },
    /// It is applied, and nothing will take it back.
    Unguarded { reason: String },
}

impl Settled {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "to be confirmed",
            Self::RolledBack { complete: true, .. } => "failed, rolled back",
            Self::RolledBack { complete: false, .. } => "failed, rollback incomplete",
            Self::Unguarded { .. } => "failed, not rolled back",
        }
    }

    pub(super) fn text(&self, topology: &str) -> String {
        match self {
            Self::Pending { until, .. } => {
                let until = output::utc(*until);
                format!("to be confirmed until {until}, else it is rolled back: netrec confirm {topology}\n")
            }
            Self::RolledBack { complete: true, reason, .. } => format!("rolled back, all is as it was: {reason}\n"),
            Self::RolledBack { reason, left, .. } => {
                format!("rolled back: {reason}\nrollback incomplete:\n  {}\n", left.join("\n  "))
            }
            Self::Unguarded { reason } => format!("not rolled back: {reason}\n"),
        }
    }
}

impl<'a> Confirming<'a> {
    /// Says how well it can be undone, and tries the probes.
    pub(super) fn new(
        errand: &Errand<'a>,
        prepared: &Prepared,
        timeout: Duration,
        probes: &'a [Probe],
    ) -> Result<Self, Failure> {
        let (_, certainty) = undo(prepared, errand.target);
        if errand.format == Format::Text {
            output::say(&format!("undo: {certainty}\n"));
        }
        if let Certainty::Impossible(why) = &certainty {
            return Err(Failure::new(Exit::Refused, Diagnostic::new(format!("it could not be rolled back: {why}"))));
        }
        for probe in probes {
            probe.run().map_err(|error| {
                let finding = Diagnostic::new(format!("probe {probe} fails already before: {error}"));
                Failure::new(Exit::Refused, finding.hint("leave it out, or mend that first"))
            })?;
        }
        let sources = errand.loaded.sources.iter().map(|source| (source.path.clone(), source.text.clone()));
        let job = Job { sources: sources.collect(), timeout };
        let digest = memory::digest(&errand.loaded.sources);
        Ok(Self { topology: errand.topology(), digest, job, probes, certainty })
    }

    /// Starts the guard, and remembers the generation as one that was never confirmed.
    pub(super) fn begin(self) -> Result<Guarded<'a>, Failure> {
        // This very program, even if its file was replaced meanwhile.
        let mut program = Command::new("/proc/self/exe");
        program.arg0("netrec").arg("guard").arg(&self.topology).current_dir("/");
        let guard = Guard::start(program, &self.job).map_err(|error| {
            Failure::new(Exit::Unexpected, Diagnostic::new(format!("nothing was touched: {error}")))
        })?;
        if let Err(error) = Memory::default().remember(&self.topology, &self.digest) {
            tracing::warn!("a generation that is not confirmed will not be remembered: {error}");
        }
        let until = Instant::now() + self.job.timeout;
        Ok(Guarded { guard, until, probes: self.probes, certainty: self.certainty })
    }
}

/// An apply that its guard watches.
pub(super) struct Guarded<'a> {
    guard: Guard,
    /// When the guard's time is over.
    until: Instant,
    probes: &'a [Probe],
    certainty: Certainty,
}

impl Guarded<'_> {
    /// Leaves what was applied to its confirmation, or takes it back at once if it is not good already.
    pub(super) fn settle(mut self, report: &Result<Report, NoPlan>) -> Settled {
        let now = Instant::now();
        let left = self.until.saturating_duration_since(now);
        // The guard is told how they ended well before its time is over.
        let settled = now + SETTLING.min(left / 2);
        let wrong = match report {
            _ if left.is_zero() => Some("it was not applied in time".into()),
            Err(no_plan) => Some(format!("what came of it could not be verified: {no_plan}")),
            Ok(report) if !report.is_converged() => Some(match report.failed.first() {
                Some((id, error)) => format!("{id}: {error}"),
                None => "it did not converge".into(),
            }),
            Ok(_) => self.probes.iter().find_map(|probe| {
                let failed = probe.run_until(settled).err()?;
                Some(format!("probe {probe} fails now: {failed}"))
            }),
        };
        let order = if wrong.is_some() { Order::RollBack } else { Order::Applied };
        match self.guard.order(order) {
            Ok(Answer::Pending { until, .. }) => Settled::Pending { until, undo: self.certainty.to_string() },
            Ok(Answer::RolledBack { complete, left, why }) => {
                Settled::RolledBack { complete, reason: wrong.unwrap_or(why), left }
            }
            Ok(Answer::Confirmed | Answer::Applying) | Err(_) => {
                Settled::Unguarded { reason: "its guard was ended by somebody".into() }
            }
        }
    }
}
