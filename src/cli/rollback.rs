//! `netrec rollback`: take back what waits to be confirmed.

use clap::Args;

use super::failure::Failure;
use super::{Exit, Output, confirm};
use crate::apply::confirm::guard::Question;

/// Take back at once what `netrec apply --confirm` applied and nobody confirmed yet.
#[derive(Args, Debug)]
pub(super) struct Rollback {
    /// The topology; needed only if several wait to be confirmed.
    topology: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Rollback {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        confirm::decide(self.topology, Question::RollBack, self.output.format)
    }
}
