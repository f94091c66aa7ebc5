//! Threads that work beside the one that starts them.
//!
//! Linux may put a new thread on the processor that its starter runs on while others are idle, as a kernel does that packs
//! virtual processors. There it waits until the starter's time slice is over, 3 to 4 ms: half of a short run.

use std::io;
use std::thread::{Builder, JoinHandle};

use nix::sched::{sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// The processor that a thread is started on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Starter(Option<usize>);

impl Starter {
    /// Whoever asks.
    pub(super) fn here() -> Self {
        Self(sched_getcpu().ok())
    }

    /// Lets what was started begin where it is, which is to [leave](Self::leave); costs nothing where nobody waits.
    pub(super) fn lets_go() {
        std::thread::yield_now();
    }

    /// Takes the calling thread away from there for good, if there is anywhere else that it may run.
    pub(super) fn leave(self) {
        let myself = Pid::from_raw(0);
        if let Some(starter) = self.0
            && sched_getcpu() == Ok(starter)
            && let Ok(mut others) = sched_getaffinity(myself)
            && others.unset(starter).is_ok()
        {
            let _ = sched_setaffinity(myself, &others); // EINVAL: there is no other
        }
    }
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
    let starter = Starter::here();
    let thread = Builder::new().name(name.into()).spawn(move || {
        starter.leave();
        work()
    });
    Starter::lets_go();
    thread
}

#[cfg(test)]
mod tests {
    use nix::sched::CpuSet;

    use super::*;

    fn may_run_on() -> Vec<usize> {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count()).filter(|at| set.is_set(*at).unwrap()).collect()
    }

    fn run_on(processors: &[usize]) {
        let mut set = CpuSet::new();
        for at in processors {
            set.set(*at).unwrap();
        }
        sched_setaffinity(Pid::from_raw(0), &set).unwrap();
    }

    /// Where threads may run and are that left their starter, if they were on the first of some processors. Linux may move
    /// one in between.
    fn left(starter: usize, some: &[usize]) -> Vec<(Vec<usize>, usize)> {
        let leave = || {
            run_on(&some[..1]);
            run_on(some);
            Starter(Some(starter)).leave();
            (may_run_on(), sched_getcpu().unwrap())
        };
        (0..20).map(|_| std::thread::scope(|scope| scope.spawn(leave).join().unwrap())).collect()
    }

    #[test]
    fn a_thread_leaves_the_processor_of_its_starter() {
        let all = may_run_on();
        let first = all[0];
        assert!(left(first, &all[..1]).contains(&(vec![first], first)), "there is no other");
        let [_, second, ..] = *all else { return };
        assert!(left(first, &all[..2]).contains(&(vec![second], second)));
        assert!(left(second, &all[..2]).contains(&(vec![first, second], first)), "it is not there");
    }

    #[test]
    fn what_is_started_is_done() {
        assert_eq!(spawn("seven", || 7).unwrap().join().unwrap(), 7);
    }
}
