//! Directories in which something is to happen (inotify(7), by way of `notify`). Files themselves are not watched: most
//! programs save by putting a new file in the old one's place, of which a watch on the old one never hears.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Links from one to the next that are followed; Linux itself follows 40.
const LINKS: usize = 40;

/// Whether an entry of a directory counts.
type Counts = fn(&Path) -> bool;

/// What is waited for.
pub(super) enum Sign {
    /// Something happens to that entry of its directory, be it there or not.
    Entry(PathBuf),
    /// Something happens to an entry of that directory that counts.
    In(PathBuf, Counts),
}

/// Some directories, and whether something happened in one of them.
pub(super) struct Directories {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, (u64, u64)>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    woken: Notify,
    /// Whether something else happened than that an entry was put in the place of another.
    otherwise: AtomicBool,
    /// A watch may have died with its directory, or events were dropped.
    stale: AtomicBool,
    wanted: Mutex<Wanted>,
}

#[derive(Default)]
struct Wanted {
    entries: BTreeSet<PathBuf>,
    directories: BTreeMap<PathBuf, Option<Counts>>,
}

impl Wanted {
    /// Whether that is what is waited for; also what happens to a directory itself.
    fn has(&self, path: &Path) -> bool {
        let counts = path.parent().and_then(|parent| *self.directories.get(parent)?);
        self.entries.contains(path) || self.directories.contains_key(path) || counts.is_some_and(|counts| counts(path))
    }
}

impl Directories {
    /// None yet. Where inotify has reached its limits nothing is heard, and the slow looks have to do.
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let hearing = shared.clone();
        let watcher = notify::recommended_watcher(move |event| hearing.hear(&event));
        let watcher = watcher.inspect_err(|error| tracing::warn!(%error, "cannot watch directories")).ok();
        Self { watcher, watched: BTreeMap::new(), shared }
    }

    /// Waits until something happens; whether that is all: an entry was put, whole, in the place of another (rename(2)).
    pub(super) async fn woken(&self) -> bool {
        self.shared.woken.notified().await;
        !self.shared.otherwise.swap(false, Ordering::Relaxed)
    }

    /// Waits for these from now on.
    pub(super) fn watch(&mut self, signs: impl Iterator<Item = Sign>) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = Wanted::default();
        for sign in signs {
            match sign {
                Sign::Entry(entry) => {
                    if let Some(parent) = entry.parent() {
                        wanted.directories.entry(parent.to_owned()).or_insert(None);
                    }
                    wanted.entries.insert(entry);
                }
                Sign::In(directory, counts) => {
                    // Events are told by the path that is watched, which is that of the entries, too.
                    let real = std::fs::canonicalize(&directory);
                    wanted.directories.extend(real.into_iter().map(|real| (real, Some(counts))));
                }
            }
        }
        let identity = |path: &Path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_dir);
        let there = |path: &PathBuf| identity(path).map(|it| (path.clone(), (it.dev(), it.ino())));
        let there: BTreeMap<PathBuf, (u64, u64)> = wanted.directories.keys().filter_map(there).collect();
        *self.shared.wanted.lock().expect("nobody panics with it") = wanted;
        let stale = self.shared.stale.swap(false, Ordering::Relaxed);
        let before = std::mem::take(&mut self.watched);
        for (path, identity) in &before {
            if stale || there.get(path) != Some(identity) {
                // Gone already, perhaps.
                let _ = watcher.unwatch(path);
            }
        }
        for (path, identity) in there {
            let kept = !stale && before.get(&path) == Some(&identity);
            if kept || watcher.watch(&path, RecursiveMode::NonRecursive).is_ok() {
                self.watched.insert(path, identity);
            } else {
                tracing::warn!(path = %path.display(), "cannot watch the directory; the slow poll has to do");
            }
        }
    }
}

impl Shared {
    fn hear(&self, event: &notify::Result<Event>) {
        let wanted = self.wanted.lock().expect("nobody panics with it");
        match event {
            Ok(event) if event.need_rescan() => self.stale.store(true, Ordering::Relaxed),
            Ok(event) if !event.paths.iter().any(|path| wanted.has(path)) => return,
            Ok(event) if is_reading(event.kind) || event.kind == renamed(RenameMode::Both) => return,
            Ok(event) if event.kind == renamed(RenameMode::To) => {
                self.woken.notify_one();
                return;
            }
            Ok(event) => {
                let died =
                    event.kind.is_remove() && event.paths.iter().any(|path| wanted.directories.contains_key(path));
                self.stale.fetch_or(died, Ordering::Relaxed);
            }
            Err(_) => self.stale.store(true, Ordering::Relaxed),
        }
        self.otherwise.store(true, Ordering::Relaxed);
        self.woken.notify_one();
    }
}

/// One that is within a directory that is watched is told as of each of its ends, and of both.
fn renamed(end: RenameMode) -> EventKind {
    EventKind::Modify(ModifyKind::Name(end))
}

/// Our own reading, among others.
fn is_reading(kind: EventKind) -> bool {
    kind.is_access() && kind != EventKind::Access(AccessKind::Close(AccessMode::Write))
}

/// Entries of directories to which something happens when a path comes to lead elsewhere, or to something else: those of
/// all links on the way, the first that is missing, and its own.
pub(super) fn around(path: &Path) -> Vec<Sign> {
    let reversed = |path: &Path| path.components().rev().map(|it| it.as_os_str().to_owned()).collect::<Vec<OsString>>();
    let (mut entries, mut links, mut at) = (Vec::new(), 0, PathBuf::from("/"));
    let mut rest = reversed(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    while let Some(name) = rest.pop() {
        match Path::new(&name).components().next() {
            Some(Component::RootDir) => at = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(at.pop()),
            Some(Component::Normal(name)) => {
                let entry = at.join(name);
                match std::fs::read_link(&entry) {
                    Ok(target) if links < LINKS => {
                        links += 1;
                        rest.extend(reversed(&target));
                    }
                    _ if !rest.is_empty() && entry.exists() => {
                        at = entry;
                        continue;
                    }
                    _ => rest.clear(),
                }
                entries.push(Sign::Entry(entry));
            }
            _ => {}
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::apply::scratch::Scratch;

    #[tokio::test]
    async fn what_is_waited_for_in_a_directory_is_so_beside_its_entries() {
        let directory = Scratch::new("signs");
        let mut directories = Directories::new();
        let signs = [Sign::In(directory.to_path_buf(), |_| true), Sign::Entry(directory.join("one"))];
        directories.watch(signs.into_iter());
        fs::write(directory.join("another"), "").expect("a file");
        let woken = tokio::time::timeout(Duration::from_secs(20), directories.woken()).await;
        assert!(woken.is_ok());
    }
}
