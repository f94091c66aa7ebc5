//! How a topology stands, for whoever asks.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::absence::Unguarded;

/// How a topology stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default, Debug)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was looked at yet.
    #[default]
    Starting,
    /// All is as it should be.
    InSync,
    /// Something differs and is about to be put right.
    Drifted,
    /// All is as it should be but for containers that are not there yet.
    Pending,
    /// Something cannot be put right.
    Failed,
    /// Somebody keeps undoing something, which is left alone.
    Contested,
    /// The files, or the host, do not let us go on; the last good topology is kept up as far as possible.
    Degraded,
    /// Nothing is written, because somebody said so.
    Suspended,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::InSync => "in sync",
            Self::Drifted => "drifted",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Contested => "contested",
            Self::Degraded => "degraded",
            Self::Suspended => "suspended",
        })
    }
}

/// Numbers since the start.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default, Debug)]
pub struct Counters {
    /// Looks.
    pub looks: u64,
    /// The time that they and what was written took, in microseconds.
    pub looks_us: u64,
    /// Changes made because somebody had changed the kernel.
    pub corrective: u64,
    /// Changes made because the topology asked for them.
    pub intentional: u64,
    /// Changes that failed.
    pub failed: u64,
    /// Announcements of the kernel.
    pub announcements: u64,
    /// Times that announcements were lost.
    pub overflows: u64,
    /// Contents of the files that were followed.
    pub accepted: u64,
    /// Contents of the files that were not.
    pub rejected: u64,
}

/// How it stands, for whoever asks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default, Debug)]
pub struct Standing {
    /// In a word.
    pub state: State,
    /// Why it is degraded.
    pub reason: Option<String>,
    /// Digest of the content that is kept up.
    pub digest: Option<String>,
    /// Objects that are left alone because somebody keeps undoing them.
    pub contested: Vec<String>,
    /// Who undid each of them most often, where Linux says so.
    #[serde(default)]
    pub undone_by: BTreeMap<String, String>,
    /// Objects that cannot be put right, and why.
    pub failed: BTreeMap<String, String>,
    /// Containers that are not there yet, and what is missing.
    pub pending: BTreeMap<String, String>,
    /// Objects that differ at this moment.
    pub drifted: usize,
    /// Objects wanted.
    pub resources: usize,
    /// Seconds since all was seen to be as it should be.
    pub converged_ago_s: Option<u64>,
    /// Seconds after which a suspension, or the end of one, ends by itself.
    pub until_s: Option<u64>,
    /// Time without the firewall.
    #[serde(default)]
    pub unguarded: Unguarded,
    /// Numbers.
    pub counters: Counters,
}
