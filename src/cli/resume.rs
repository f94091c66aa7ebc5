//! `netrec resume`: have the watcher go on.

use std::time::Duration;

use clap::Args;

use super::Exit;
use super::control::Verb;
use super::duration::duration;
use super::failure::Failure;
use super::suspend::{Watched, tell};

/// Have a suspended watcher go on.
#[derive(Args, Debug)]
pub(super) struct Resume {
    #[command(flatten)]
    pub(super) watched: Watched,
    /// Suspend again after that time.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
}

impl Resume {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        tell(&self.watched, Verb::Resume, self.time)
    }
}
