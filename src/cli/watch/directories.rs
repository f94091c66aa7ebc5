//! Directories in which something is to happen (inotify(7), by way of `notify`). Files themselves are not watched: most
//! programs save by putting a new file in the old one's place, of which a watch on the old one never hears.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Links from one to the next that are followed; Linux itself follows 40.
const LINKS: usize = 40;

/// Some directories, and whether something happened in one of them.
pub(super) struct Directories {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, (u64, u64)>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    woken: Notify,
    /// A watch may have died with its directory, or events were dropped.
    stale: AtomicBool,
}

impl Directories {
    /// None yet. Where inotify has reached its limits nothing is heard, and the slow looks have to do.
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let hearing = shared.clone();
        let watcher = notify::recommended_watcher(move |event| hear(&hearing, &event));
        let watcher = watcher.inspect_err(|error| tracing::warn!(%error, "cannot watch directories")).ok();
        Self { watcher, watched: BTreeMap::new(), shared }
    }

    /// Waits until something happens.
    pub(super) async fn woken(&self) {
        self.shared.woken.notified().await;
    }

    /// Watches these from now on, and of those that are not there the next one above that is.
    pub(super) fn watch(&mut self, wanted: impl Iterator<Item = PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let identity = |path: &Path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_dir);
        let there = |path: PathBuf| path.ancestors().find_map(|path| Some((path.to_owned(), identity(path)?)));
        let wanted: BTreeMap<PathBuf, (u64, u64)> =
            wanted.filter_map(there).map(|(path, it)| (path, (it.dev(), it.ino()))).collect();
        let stale = self.shared.stale.swap(false, Ordering::Relaxed);
        let before = std::mem::take(&mut self.watched);
        for (path, identity) in &before {
            if stale || wanted.get(path) != Some(identity) {
                // Gone already, perhaps.
                let _ = watcher.unwatch(path);
            }
        }
        for (path, identity) in wanted {
            let kept = !stale && before.get(&path) == Some(&identity);
            if kept || watcher.watch(&path, RecursiveMode::NonRecursive).is_ok() {
                self.watched.insert(path, identity);
            } else {
                tracing::warn!(path = %path.display(), "cannot watch the directory; the slow poll has to do");
            }
        }
    }
}

fn hear(shared: &Shared, event: &notify::Result<Event>) {
    let Ok(event) = event else {
        shared.stale.store(true, Ordering::Relaxed);
        shared.woken.notify_one();
        return;
    };
    match event.kind {
        // Our own reading, among others.
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return,
        EventKind::Remove(_) => shared.stale.store(true, Ordering::Relaxed),
        _ if event.need_rescan() => shared.stale.store(true, Ordering::Relaxed),
        _ => {}
    }
    shared.woken.notify_one();
}

/// Where something happens when the content of a file changes: its directory, and those of all links on the way to it.
pub(super) fn around(path: &Path) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let directory = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => path.clone(),
        };
        directories.push(directory.clone());
        match std::fs::read_link(&path) {
            Ok(target) => path = directory.join(target),
            Err(_) => break,
        }
    }
    directories
}
