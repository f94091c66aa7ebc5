//! Threads that work beside the one that starts them.
//!
//! Linux may put a new thread on the processor that its starter runs on while others are idle, as a kernel does that packs
//! virtual processors. There it waits until the starter's time slice is over, 2 to 4 ms: a third of a short run.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// A place for a thread on another processor than the one it is started on.
struct Place {
    starter: usize,
    others: CpuSet,
    taken: &'static AtomicUsize,
}

/// How many are taken: more than there are other processors would share one while the starter's may be idle.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// `sched_setaffinity(2)`: the calling thread.
const MYSELF: Pid = Pid::from_raw(0);

impl Place {
    fn find(taken: &'static AtomicUsize) -> Option<Self> {
        let (starter, mut others) = (sched_getcpu().ok()?, sched_getaffinity(MYSELF).ok()?);
        others.unset(starter).ok()?;
        let one_more = |taken| (taken < count(&others)).then_some(taken + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self { starter, others, taken })
    }

    /// Takes the calling thread away from its starter, if it is there. From then on Linux may put it anywhere again.
    fn take(&self) {
        if sched_getcpu() == Ok(self.starter)
            && let Ok(all) = sched_getaffinity(MYSELF)
            && sched_setaffinity(MYSELF, &self.others).is_ok()
        {
            let _ = sched_setaffinity(MYSELF, &all);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

fn count(processors: &CpuSet) -> usize {
    (0..CpuSet::count()).filter(|at| processors.is_set(*at) == Ok(true)).count()
}

/// How many processors the calling thread may run on. What cgroups let it use of their time (`available_parallelism`) is in
/// half a dozen files, which take longer to read than threads too many cost.
pub(super) fn processors() -> usize {
    // It fails where there are more than fit in.
    sched_getaffinity(MYSELF).map_or_else(|_| CpuSet::count(), |all| count(&all))
}

/// Starts a short-lived thread beside the calling one.
///
/// # Errors
///
/// When there may be no more threads (cgroups(7), `pids.max`).
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let (work, goes) = elsewhere(work, &TAKEN);
    let thread = Builder::new().name(name.into()).spawn(work);
    make_way(goes);
    thread
}

/// The same, for as long as a scope.
///
/// # Errors
///
/// As [`spawn`].
pub(super) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    let (work, goes) = elsewhere(work, &TAKEN);
    let thread = Builder::new().spawn_scoped(scope, work);
    make_way(goes);
    thread
}

/// Work that begins by going to another processor, and whether it does.
fn elsewhere<T>(work: impl FnOnce() -> T, taken: &'static AtomicUsize) -> (impl FnOnce() -> T, bool) {
    let place = Place::find(taken);
    let goes = place.is_some();
    let work = move || {
        place.iter().for_each(Place::take);
        work()
    };
    (work, goes)
}

/// A thread has to run to go: its starter lets it, and whoever else waits for this processor.
fn make_way(goes: bool) {
    if goes {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_run_on() -> Vec<usize> {
        let set = sched_getaffinity(MYSELF).unwrap();
        (0..CpuSet::count()).filter(|at| set.is_set(*at).unwrap()).collect()
    }

    /// On threads that are on the first of some processors, and may go to the others; Linux may move one by itself.
    fn tried<T: Send>(some: &[usize], run: impl Fn() -> T + Sync) -> Vec<T> {
        let run_on = |processors: &[usize]| {
            let mut set = CpuSet::new();
            for at in processors {
                set.set(*at).unwrap();
            }
            sched_setaffinity(MYSELF, &set).unwrap();
        };
        let run = || {
            run_on(&some[..1]);
            run_on(some);
            run()
        };
        (0..20).map(|_| std::thread::scope(|scope| scope.spawn(run).join().unwrap())).collect()
    }

    #[test]
    fn a_thread_goes_to_another_processor_than_its_starter_if_it_can() {
        static TAKEN: AtomicUsize = AtomicUsize::new(0);
        // What a thread does that was started where it is itself.
        let goes = || {
            let (work, goes) = elsewhere(|| (sched_getcpu().unwrap(), TAKEN.load(Ordering::Relaxed)), &TAKEN);
            let (now, taken) = work();
            (now, goes, taken, may_run_on().len())
        };
        let all = may_run_on();
        assert!(tried(&all[..1], goes).contains(&(all[0], false, 0, 1)), "there is no other");
        let [first, second, ..] = *all else { return };
        let gone = tried(&[first, second], goes);
        assert!(gone.contains(&(second, true, 1, 2)) && !gone.contains(&(first, true, 1, 1)), "{gone:?}");
        assert_eq!(TAKEN.load(Ordering::Relaxed), 0, "each place was given back");
    }

    #[test]
    fn who_is_elsewhere_stays() {
        static TAKEN: AtomicUsize = AtomicUsize::new(0);
        let [first, second, ..] = *may_run_on() else { return };
        let stays = || {
            let (starter, others) = (second, sched_getaffinity(MYSELF).unwrap());
            TAKEN.fetch_add(1, Ordering::Relaxed);
            Place { starter, others, taken: &TAKEN }.take();
            sched_getcpu().unwrap()
        };
        assert!(tried(&[first, second], stays).contains(&first));
    }

    #[test]
    fn there_are_as_many_places_as_other_processors() {
        static TAKEN: AtomicUsize = AtomicUsize::new(0);
        let all = may_run_on();
        let places: Vec<_> = (0..=all.len()).map(|_| Place::find(&TAKEN)).collect();
        assert_eq!(places.iter().flatten().count(), all.len() - 1);
        drop(places);
        assert_eq!(TAKEN.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_started_is_done() {
        assert_eq!(spawn("seven", || 7).unwrap().join().unwrap(), 7);
        assert_eq!(std::thread::scope(|scope| spawn_scoped(scope, || 7).unwrap().join().unwrap()), 7);
    }

    #[test]
    fn what_is_started_has_a_place_where_there_is_one() {
        let taken = || TAKEN.load(Ordering::Relaxed) > 0;
        let spawned = || spawn("taken", taken).unwrap().join().unwrap();
        let scoped = || std::thread::scope(|scope| spawn_scoped(scope, taken).unwrap().join().unwrap());
        // Other tests may have all of them, and give them back in between.
        for started in [(0..20).any(|_| spawned()), (0..20).any(|_| scoped())] {
            assert_eq!(started, processors() > 1);
        }
    }
}
