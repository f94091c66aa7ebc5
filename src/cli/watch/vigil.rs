//! Namespaces that come and go. After a sign of life, which is that of a file or of a mount, all names are glanced at; what
//! gives none (`/proc`) is glanced at as long as it is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::directories::{Sign, around};
use crate::apply::watch::{Clock, Content};
use crate::kernel::netns::{self, Identity};
use crate::model::focus::otherwise;
use crate::model::resource::Text;
use crate::model::wire::{Containers, NetnsRef};

/// Between glances at what is missing under `/proc`.
const PROC: Duration = Duration::from_millis(20);
/// Between the end of a namespace behind a name and that of the name.
const MOMENT: Duration = Duration::from_millis(20);
/// Glances take at most that share of the time.
const SHARE: u32 = 20;

/// The containers of a topology and what stood there at the last glance.
#[derive(Default)]
pub(super) struct Vigil {
    containers: Containers,
    there: BTreeMap<Text, Identity>,
    /// No glance before that.
    rested: Clock,
    /// Whether something went at the last glance, which is not told yet.
    doubts: bool,
    next: Option<Clock>,
}

impl Vigil {
    /// Turns to the containers of a topology; whether they are others than before. What stood for those that it has in
    /// common with the one before is kept in mind: whoever gave a sign of life is not passed over.
    pub(super) fn turn_to(&mut self, content: &Content) -> bool {
        let before = std::mem::replace(&mut self.containers, content.scope.containers.clone());
        let (gone, new) = (otherwise(&before, &self.containers), otherwise(&self.containers, &before));
        let (gone, new): (Vec<_>, Vec<_>) = (gone.collect(), new.collect());
        let same = gone.is_empty() && new.is_empty();
        for (name, _) in gone {
            self.there.remove(name);
        }
        self.there.extend(new.into_iter().filter_map(|(name, netns)| Some((name.clone(), netns::glance(netns)?))));
        if self.missing_in_proc() {
            self.next = Some(Clock::ZERO);
        }
        !same
    }

    /// Signs of life, where directories give them.
    pub(super) fn signs(&self) -> Vec<Sign> {
        let named = PathBuf::from(netns::DIRECTORY);
        let mut signs = around(&named);
        let links = links_in(&named);
        signs.push(Sign::In(named, |_| true));
        let files = self.containers.values().filter_map(|netns| {
            let file = netns::file_of(netns)?;
            // The directory of names is heard as a whole; a name that is a link leads out of it.
            let heard = matches!(netns, NetnsRef::Named(_)) && !links.contains(&file);
            (!heard && !file.starts_with("/proc")).then_some(file)
        });
        signs.extend(files.flat_map(|file| around(&file)));
        signs
    }

    /// There was a sign of life.
    pub(super) fn wake(&mut self, now: Clock) {
        let soon = now.max(self.rested);
        self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
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
        self.rested = now + cost;
        // A name that is removed loses its namespace first and its file a moment later: whoever does that is let finish.
        let went = self.there.keys().any(|name| !there.contains_key(name));
        self.doubts = went && !self.doubts;
        if self.doubts {
            self.next = Some(now + MOMENT.max(cost));
            return false;
        }
        let changed = std::mem::replace(&mut self.there, there) != self.there;
        self.next = self.missing_in_proc().then(|| now + PROC.max(cost));
        changed
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

/// The symbolic links in a directory, told by one listing of it.
fn links_in(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
    links.map(|entry| entry.path()).collect()
}
