//! The program that the user wants to be run when the state changes: one at a time, never by way of a shell, for a
//! bounded time, on a thread of its own.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::apply::watch::standing::State;
use crate::cli::aside::Aside;

/// How long it may run.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether it has ended.
const ASK: Duration = Duration::from_millis(20);
/// Changes that wait for the one before; more are dropped.
const WAITING: usize = 16;

/// One change of state.
pub(super) struct Change {
    pub(super) topology: String,
    pub(super) from: State,
    pub(super) to: State,
    pub(super) reason: Option<String>,
}

/// Runs it.
pub(super) struct Hook(Aside<Change>);

impl Hook {
    /// Starts the thread that does.
    pub(super) fn start(program: PathBuf) -> std::io::Result<Self> {
        Aside::start("hook", WAITING, move |change| run(&program, change)).map(Self)
    }

    /// Has it run for a change.
    pub(super) fn run(&self, change: Change) {
        if let Err(change) = self.0.put(change) {
            tracing::warn!(to = %change.to, "the hook takes too long: not run for this change");
        }
    }
}

fn run(program: &Path, change: Change) {
    let started = Command::new(program)
        .env("NETREC_TOPOLOGY", &change.topology)
        .env("NETREC_FROM", change.from.to_string())
        .env("NETREC_STATE", change.to.to_string())
        .env("NETREC_REASON", change.reason.unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn();
    match started {
        Ok(child) => wait(child, program),
        Err(error) => tracing::warn!(hook = %program.display(), %error, "cannot be run"),
    }
}

fn wait(mut child: Child, program: &Path) {
    let until = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return,
            Ok(Some(status)) => return tracing::warn!(hook = %program.display(), %status, "failed"),
            Ok(None) if Instant::now() < until => std::thread::sleep(ASK),
            Ok(None) | Err(_) => break,
        }
    }
    tracing::warn!(hook = %program.display(), "ran too long and was killed");
    // With all that it started.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let _ = child.wait();
}
