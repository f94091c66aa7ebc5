//! Threads that work beside the one that starts them.
//!
//! Linux may put a new thread on the processor that its starter runs on while others are idle, as a kernel does that packs
//! virtual processors. There it waits until the starter's time slice is over, 3 to 4 ms: half of a short run.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// A place for a thread on another processor than the one it is started on.
struct Place {
    starter: usize,
    others: CpuSet,
}

/// How many are taken: more than there are other processors would share one while the starter's may be idle.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

impl Place {
    fn find() -> Option<Self> {
        let (starter, mut others) = (sched_getcpu().ok()?, sched_getaffinity(MYSELF).ok()?);
        others.unset(starter).ok()?;
        let count = (0..CpuSet::count()).filter(|at| others.is_set(*at) == Ok(true)).count();
        let taken = |taken| (taken < count).then_some(taken + 1);
        TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        Some(Self { starter, others })
    }

    /// Takes the calling thread away from its starter, for as long as it lives.
    fn take(&self) {
        if sched_getcpu() == Ok(self.starter) {
            // Where it may not, it stays.
            let _ = sched_setaffinity(MYSELF, &self.others);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `sched_setaffinity(2)`: the calling thread.
const MYSELF: Pid = Pid::from_raw(0);

/// What a thread is to do that is started now, on another processor if there is one; and what its starter does then: lets it
/// begin, for it has to run to go. That costs nothing where it is elsewhere already.
pub(super) fn elsewhere<T>(work: impl FnOnce() -> T) -> (impl FnOnce() -> T, impl FnOnce()) {
    let place = Place::find();
    let goes = place.is_some();
    let work = move || {
        place.iter().for_each(Place::take);
        work()
    };
    (work, move || {
        if goes {
            std::thread::yield_now();
        }
    })
}

/// Starts a short-lived thread beside the calling one.
///
/// # Errors
///
/// When there may be no more threads (cgroups(7), `pids.max`).
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let (work, let_begin) = elsewhere(work);
    let thread = Builder::new().name(name.into()).spawn(work);
    let_begin();
    thread
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_run_on() -> Vec<usize> {
        let set = sched_getaffinity(MYSELF).unwrap();
        (0..CpuSet::count()).filter(|at| set.is_set(*at).unwrap()).collect()
    }

    fn run_on(processors: &[usize]) {
        let mut set = CpuSet::new();
        for at in processors {
            set.set(*at).unwrap();
        }
        sched_setaffinity(MYSELF, &set).unwrap();
    }

    /// Where threads may run and are that took a place, if they were on the first of some processors. Linux may move one
    /// in between.
    fn took(starter: usize, some: &[usize]) -> Vec<(Vec<usize>, usize)> {
        let take = || {
            run_on(&some[..1]);
            run_on(some);
            let mut others = sched_getaffinity(MYSELF).unwrap();
            others.unset(starter).unwrap();
            TAKEN.fetch_add(1, Ordering::Relaxed);
            Place { starter, others }.take();
            (may_run_on(), sched_getcpu().unwrap())
        };
        (0..20).map(|_| std::thread::scope(|scope| scope.spawn(take).join().unwrap())).collect()
    }

    #[test]
    fn a_thread_leaves_the_processor_of_its_starter() {
        let all = may_run_on();
        let first = all[0];
        assert!(took(first, &all[..1]).contains(&(vec![first], first)), "there is no other");
        let [_, second, ..] = *all else { return };
        assert!(took(first, &all[..2]).contains(&(vec![second], second)));
        assert!(took(second, &all[..2]).contains(&(vec![first, second], first)), "it is not there");
    }

    #[test]
    fn there_are_as_many_places_as_other_processors() {
        let all = may_run_on();
        let found = |some: &[usize]| {
            std::thread::scope(|scope| {
                let find = || {
                    run_on(some);
                    // Other tests may have taken them.
                    let places: Vec<_> = (0..all.len()).map(|_| Place::find()).collect();
                    places.iter().flatten().count()
                };
                scope.spawn(find).join().unwrap()
            })
        };
        assert_eq!(found(&all[..1]), 0);
        let most = (0..1000).map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            found(&all)
        });
        let others = all.len() - 1;
        assert_eq!(most.take_while(|found| *found <= others).find(|found| *found == others), Some(others));
    }

    #[test]
    fn what_is_started_is_done() {
        assert_eq!(spawn("seven", || 7).unwrap().join().unwrap(), 7);
    }
}
