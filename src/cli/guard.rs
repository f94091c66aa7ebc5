//! `netrec guard`: the process that `netrec apply --confirm` leaves behind. Not for people.

use clap::Args;
use nix::sys::signal::{SigSet, Signal};

use super::Exit;
use super::failure::Failure;
use crate::apply::confirm::guard::{Answer, Job, Waiting};
use crate::apply::confirm::memory::{self, Memory};
use crate::apply::confirm::undo;
use crate::apply::history::{History, Record};
use crate::apply::{Target, look};
use crate::kernel::linux::Linux;
use crate::model::diagnostic::Diagnostic;
use crate::model::parse::parse;

/// Waits for a confirmation, or goes back.
#[derive(Args, Debug)]
pub(super) struct Guard {
    /// Shown in lists of processes.
    topology: String,
}

impl Guard {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Unexpected, Diagnostic::new(error.to_string()));
        // The login's end must not be ours: neither the terminal's hang-up nor its keys.
        nix::unistd::setsid().map_err(|errno| failed(&errno))?;
        let ends = SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT]);
        ends.thread_block().map_err(|errno| failed(&errno))?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(|error| failed(&error))?;
        let job: Job = serde_json::from_str(&line).map_err(|error| failed(&error))?;
        let sources = job.sources();
        let topology = parse(&sources).map_err(|findings| Failure::invalid(findings, &sources))?;
        let mut kernel = Linux::default();
        let target = Target::Topology(&topology);
        let prepared = look(&mut kernel, target).map_err(|no_plan| Failure::unplanned(no_plan, &sources))?;
        let (before, _) = undo(&prepared, target);
        drop(prepared);
        let waiting =
            Waiting::begin(&self.topology, job.timeout, Box::new(std::io::stdout())).map_err(|error| failed(&error))?;
        let digest = memory::digest(&sources);
        waiting.decide(&mut kernel, &before, |answer| note(&self.topology, &digest, answer));
        Ok(Exit::Done)
    }
}

/// Keeps a record of the decision, and clears the memory of what is confirmed.
fn note(topology: &str, digest: &str, answer: &Answer) {
    let (command, result) = match answer {
        Answer::Confirmed => ("confirm", "confirmed".to_owned()),
        Answer::RolledBack { complete: true, why, .. } => ("rollback", format!("rolled back: {why}")),
        Answer::RolledBack { why, left, .. } => {
            ("rollback", format!("rollback incomplete: {why}: {}", left.join("; ")))
        }
        Answer::Applying | Answer::Pending { .. } => return,
    };
    if *answer == Answer::Confirmed {
        // What cannot be forgotten costs one `--retry`.
        let _ = Memory::default().forget(topology, digest);
    }
    History::default().add(&Record { digest: Some(digest.to_owned()), ..Record::new(topology, command, result) });
}
