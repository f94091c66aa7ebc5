//! How a run ended, for people and for programs.

use serde::Serialize;

use super::confirm::Settled;
use super::failure;
use super::load::Loaded;
use crate::apply::Report;
use crate::diff::render::{self, Summary};
use crate::model::source::Origin;

/// What a run that writes says to programs.
#[derive(Serialize)]
pub(super) struct Applied<'a> {
    pub(super) version: u32,
    pub(super) plan: Option<serde_json::Value>,
    pub(super) outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) confirm: Option<&'a Settled>,
    pub(super) errors: Vec<failure::Json>,
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
        let mut text = format!("{verb}: {} steps, {} failed\n", self.steps, self.failed);
        if self.converged {
            text += "verified: nothing left to do\n";
        } else {
            text += &render::text(&report.residual);
            text += &format!("not converged: {}\n", self.residual);
        }
        text
    }
}
