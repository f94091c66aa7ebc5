//! What is said between the watcher and whoever carries out what it decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Clock;
use super::round::{Guard, Round};
use crate::apply::NoPlan;
use crate::model::lower;
use crate::model::resource::ResourceId;
use crate::model::source::{Source, Sources};
use crate::model::topology::Topology;
use crate::model::wire::Scope;

/// What the files say.
#[derive(Clone, Debug)]
pub struct Content {
    /// What they mean.
    pub topology: Topology,
    /// What is to be looked at for that.
    pub scope: Scope,
    /// Their text.
    pub sources: Sources,
    /// Digest of their text.
    pub digest: String,
}

impl Content {
    /// Files that were read and understood.
    pub fn new(topology: Topology, sources: Sources) -> Self {
        let (scope, digest) = (lower::scope(&topology), Self::digest(&sources));
        Self { topology, scope, sources, digest }
    }

    /// 16 hexadecimal digits, the same for the same text in the same order, wherever the files are.
    pub fn digest(sources: &[Source]) -> String {
        crate::apply::confirm::memory::digest(sources)
    }
}

/// What comes next.
#[derive(Clone, Debug)]
pub enum Next {
    /// A round, to be answered with [`Watcher::looked`](super::Watcher::looked).
    Look(Order),
    /// Nothing before that time, unless something happens; none: nothing at all.
    Wait(Option<Clock>),
}

/// A round to be made.
#[derive(Clone, Debug)]
pub struct Order {
    /// When it was given.
    pub at: Clock,
    /// What is to be reached.
    pub content: Arc<Content>,
    /// What is to be left as it is.
    pub held: BTreeSet<ResourceId>,
    /// Whether something may be written.
    pub write: bool,
    /// Whether everything is to be looked at, announced or not.
    pub whole: bool,
    /// Whether it is to be made sure that names stand for the namespaces they stood for.
    pub glance: bool,
}

/// How an order was carried out.
#[derive(Debug)]
pub struct Sight {
    /// When it was ordered: what somebody wanted later it does not know.
    pub ordered: Clock,
    /// When it began: what was announced before is seen.
    pub began: Clock,
    /// Whether everything was looked at.
    pub whole: bool,
    /// How long the round took.
    pub took: Duration,
    /// Whether there are namespaces since then of which nothing was heard before.
    pub deaf: bool,
    /// What became of the firewall, if nothing came of the rest and that was seen.
    pub guard: Option<Guard>,
    /// What came of it; or why there was none, and the same for people, with places in the files.
    pub result: Result<Round, (NoPlan, String)>,
}
