//! Namespaces that come and go. A name appears before its namespace is bound over it, of which nothing is announced, so
//! after a sign of life the names are glanced at for a while; what has no directory that could give a sign (`/proc`) is
//! glanced at as long as it is missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::directories::{Sign, around};
use crate::apply::watch::{Clock, Content};
use crate::kernel::netns::{self, Identity};
use crate::model::lower;
use crate::model::resource::Text;
use crate::model::wire::NetnsRef;

/// Between the first glances after a sign of life; doubled up to the last.
const FIRST: Duration = Duration::from_millis(1);
const LAST: Duration = Duration::from_millis(50);
/// How long after a sign of life a namespace may take to stand behind its name.
const LONG: Duration = Duration::from_secs(2);
/// Between glances at what is missing under `/proc`.
const PROC: Duration = Duration::from_millis(20);
/// Glances take at most that share of the time.
const SHARE: u32 = 20;

/// The containers of a topology and what stood there at the last glance.
#[derive(Default)]
pub(super) struct Vigil {
    containers: BTreeMap<Text, NetnsRef>,
    there: BTreeMap<Text, Identity>,
    every: Duration,
    until: Clock,
    next: Option<Clock>,
}

impl Vigil {
    /// Turns to the containers of a topology.
    pub(super) fn turn_to(&mut self, content: &Content) {
        self.containers = lower::scope(&content.topology).containers;
        self.there = self.glance();
        self.next = self.missing_in_proc().then_some(Clock::ZERO);
    }

    /// Signs of life, where directories give them.
    pub(super) fn signs(&self) -> Vec<Sign> {
        let named = PathBuf::from(netns::DIRECTORY);
        let mut signs = around(&named);
        signs.push(Sign::In(named, |_| true));
        let files = self.containers.values().filter_map(netns::file_of);
        signs.extend(files.filter(|file| !file.starts_with("/proc")).flat_map(|file| around(&file)));
        signs
    }

    /// There was a sign of life.
    pub(super) fn wake(&mut self, now: Clock) {
        self.every = FIRST;
        self.until = now + LONG;
        self.next = Some(now);
    }

    /// When to glance next.
    pub(super) fn next(&self) -> Option<Clock> {
        self.next
    }

    /// Glances; whether something came, went or became another one.
    pub(super) fn changed(&mut self, now: Clock) -> bool {
        let began = Instant::now();
        let there = self.glance();
        let cost = began.elapsed() * SHARE;
        self.next = if now < self.until {
            self.every = (self.every * 2).min(LAST);
            Some(now + self.every.max(cost))
        } else {
            self.missing_in_proc().then(|| now + PROC.max(cost))
        };
        std::mem::replace(&mut self.there, there) != self.there
    }

    fn glance(&self) -> BTreeMap<Text, Identity> {
        self.containers.iter().filter_map(|(name, netns)| Some((name.clone(), netns::glance(netns)?))).collect()
    }

    fn missing_in_proc(&self) -> bool {
        let in_proc = |netns: &NetnsRef| match netns {
            NetnsRef::Pid(_) => true,
            NetnsRef::Path(path) => Path::new(path).starts_with("/proc"),
            NetnsRef::Named(_) => false,
        };
        self.containers.iter().any(|(name, netns)| in_proc(netns) && !self.there.contains_key(name))
    }
}
