//! Threads that work beside the one that starts them.
//!
//! Linux may put a new thread on the processor that its starter runs on while others are idle, as a kernel does that packs
//! virtual processors. There it waits until the starter's time slice is over, 2 to 4 ms: a third of a short run. So its
//! starter sends it to another one. That takes no longer than to wake it there as long as it has not begun; one that runs is
//! moved by a thread of the kernel's own (`affine_move_task`).

use std::os::unix::thread::JoinHandleExt as _;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::model::both::Both;

/// Where a thread may run on beside its starter, and where it may run on.
struct Way {
    others: CpuSet,
    all: CpuSet,
}

/// `sched_getaffinity(2)`: the calling thread.
const MYSELF: Pid = Pid::from_raw(0);

impl Way {
    /// That of a thread which the calling one starts.
    fn find() -> Option<Self> {
        let (starter, all) = (sched_getcpu().ok()?, sched_getaffinity(MYSELF).ok()?);
        let mut others = all;
        others.unset(starter).ok()?;
        Some(Self { others, all })
    }

    /// Sends a thread there. Then Linux may put it anywhere again; of itself it does so only later.
    fn send<T>(&self, thread: &JoinHandle<T>) {
        // Of one that has ended the C library says the calling one, which would be sent away itself, and come back.
        if thread.is_finished() {
            return;
        }
        for set in [&self.others, &self.all] {
            #[expect(unsafe_code, reason = "pthread_setaffinity_np(3), which nix does not have")]
            // SAFETY: nobody has waited for the thread, so it is known; `CpuSet` is a transparent cpu_set_t.
            unsafe {
                let set = std::ptr::from_ref(set).cast();
                libc::pthread_setaffinity_np(thread.as_pthread_t() as libc::pthread_t, size_of::<CpuSet>(), set);
            }
        }
    }
}

fn count(processors: &CpuSet) -> usize {
    (0..CpuSet::count()).filter(|at| processors.is_set(*at) == Ok(true)).count()
}

/// How many processors the calling thread may run on. What cgroups let it use of their time (`available_parallelism`) is in
/// half a dozen files, which take longer to read than threads too many cost.
pub(crate) fn processors() -> usize {
    // It fails where there are more than fit in.
    sched_getaffinity(MYSELF).map_or_else(|_| CpuSet::count(), |all| count(&all))
}

/// Starts a short-lived thread beside the calling one, which it gives something.
///
/// # Errors
///
/// When there may be no more threads (cgroups(7), `pids.max`): what was to be given.
pub(crate) fn spawn<G: Send + 'static, T: Send + 'static>(
    name: &str,
    given: G,
    work: impl FnOnce(G) -> T + Send + 'static,
) -> Result<JoinHandle<T>, G> {
    let given = Arc::new(Mutex::new(Some(given)));
    let take = |given: &Mutex<Option<G>>| given.lock().ok().and_then(|mut given| given.take());
    let taken = Arc::clone(&given);
    let work = move || work(take(&taken).expect("only a thread that was not started leaves it"));
    match Builder::new().name(name.into()).spawn(work) {
        Ok(thread) => {
            send_elsewhere(&thread);
            Ok(thread)
        }
        Err(_) => Err(take(&given).expect("no thread was started that takes it")),
    }
}

/// What came of a thread's work, when that is done.
///
/// # Panics
///
/// If it did.
pub(crate) fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn send_elsewhere<T>(thread: &JoinHandle<T>) {
    if let Some(way) = Way::find() {
        way.send(thread);
    }
}

/// Waits for what another thread does, on the processor that the calling one is on. Woken where that thread runs, as a kernel
/// does that packs, it would wait for the end of all that is done there.
pub(crate) fn wait<T>(wait: impl FnOnce() -> T) -> T {
    let stays = || {
        let (all, mut here) = (sched_getaffinity(MYSELF)?, CpuSet::new());
        here.set(sched_getcpu()?)?;
        sched_setaffinity(MYSELF, &here).map(|()| Stays { all })
    };
    let _stays: Result<Stays, nix::Error> = stays();
    wait()
}

/// Until then the calling thread stays where it is.
struct Stays {
    all: CpuSet,
}

impl Drop for Stays {
    fn drop(&mut self) {
        let _ = sched_setaffinity(MYSELF, &self.all);
    }
}

/// Has some work done on up to so many threads, as many as there may be, and something else by the calling one, that is told
/// how many there are. Returns when all are done. One for each other processor is sent there; what is more begins where Linux
/// puts it, as one of the calling thread may be idle while it waits.
///
/// # Panics
///
/// If any of it does.
pub(crate) fn scoped<T: Send, R>(
    threads: usize,
    work: impl Fn() -> T + Sync,
    beside: impl FnOnce(usize) -> R,
) -> (Vec<T>, R) {
    let mut started = Started(Vec::with_capacity(threads));
    let others = if threads == 0 { 0 } else { processors().saturating_sub(1) };
    for at in 0..threads {
        #[expect(unsafe_code, reason = "std's own scope does not tell which threads are its")]
        // SAFETY: what is started is waited for before this function is left, by whatever way: `Started`.
        let Ok(thread) = (unsafe { Builder::new().spawn_unchecked(&work) }) else { break };
        started.0.push(thread);
        if let (true, Some(thread)) = (at < others, started.0.last()) {
            send_elsewhere(thread);
        }
    }
    let beside = beside(started.0.len());
    let mut all = Vec::with_capacity(threads);
    while let Some(thread) = started.0.pop() {
        all.push(join(thread));
    }
    (all, beside)
}

/// A further thread for one of two things, where that is asked for, may be started, and has a processor to run on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Threads {
    /// Whether there is so much to do that it pays: to start one takes a tenth of a millisecond.
    pub two: bool,
}

impl Both for Threads {
    fn both<A: Send, B>(&self, one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
        let one = Mutex::new(Some(one));
        let take = || one.lock().ok().and_then(|mut one| one.take()).map(|one| one());
        let (mut done, other) = scoped(usize::from(self.two && processors() > 1), take, |_| other());
        (done.pop().flatten().or_else(take).expect("only a thread that was not started leaves it"), other)
    }
}

/// Threads that are waited for whatever happens.
struct Started<T>(Vec<JoinHandle<T>>);

impl<T> Drop for Started<T> {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

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
    fn both_are_done_on_two_threads_or_on_one() {
        let me = std::thread::current().id();
        for two in [true, false] {
            let text = String::from("moved");
            let (one, other) =
                Threads { two }.both(|| (text, std::thread::current().id()), || std::thread::current().id());
            assert_eq!(((one.1 != me), one.0.as_str(), other), (two && processors() > 1, "moved", me));
        }
    }

    #[test]
    fn a_thread_goes_to_another_processor_than_its_starter_if_it_can() {
        // Whether it began elsewhere, and where it may run on when its starter is through with it.
        let begun = |starter, go: mpsc::Receiver<()>| {
            let began = sched_getcpu().unwrap();
            go.recv().unwrap();
            (began != starter, may_run_on().len())
        };
        let one = || {
            let (go, gone) = mpsc::channel();
            let starter = sched_getcpu().unwrap();
            let thread = spawn("one", (starter, gone), move |(starter, gone)| begun(starter, gone)).ok().unwrap();
            go.send(()).unwrap();
            thread.join().unwrap()
        };
        let scoped = || {
            let (go, gone) = mpsc::channel();
            let (starter, gone) = (sched_getcpu().unwrap(), Mutex::new(Some(gone)));
            scoped(1, || begun(starter, gone.lock().unwrap().take().unwrap()), |_| go.send(()).unwrap()).0[0]
        };
        let all = may_run_on();
        assert_eq!(tried(&all[..1], one), [(false, 1); 20], "there is no other");
        assert_eq!(tried(&all[..1], scoped), [(false, 1); 20], "there is no other");
        let [first, second, ..] = *all else { return };
        for gone in [tried(&[first, second], one), tried(&[first, second], scoped)] {
            assert!(gone.contains(&(true, 2)), "{gone:?}");
            assert!(gone.iter().all(|(_, processors)| *processors == 2), "{gone:?}");
        }
    }

    #[test]
    fn a_thread_is_sent_to_where_it_is_to_be_and_may_be_anywhere_then() {
        let all = may_run_on();
        let [first, second, ..] = *all else { return };
        let only = |processor| {
            let mut set = CpuSet::new();
            set.set(processor).unwrap();
            set
        };
        // One that runs does not move by itself to where it is not allowed.
        let sent = || {
            let (here, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let (tell, go) = (Arc::clone(&here), Arc::clone(&sent));
            let thread = std::thread::spawn(move || {
                sched_setaffinity(MYSELF, &only(first)).unwrap();
                tell.store(true, Ordering::Relaxed);
                while !go.load(Ordering::Relaxed) {}
                (sched_getcpu().unwrap(), may_run_on())
            });
            while !here.load(Ordering::Relaxed) {}
            Way { others: only(second), all: sched_getaffinity(MYSELF).unwrap() }.send(&thread);
            sent.store(true, Ordering::Relaxed);
            thread.join().unwrap()
        };
        // Where other tests are busy there it may be fetched back before it runs.
        let tries = (0..10_000).map(|_| sent());
        let arrived = tries.inspect(|(_, may)| assert_eq!(*may, all)).filter(|(on, _)| *on == second).take(3).count();
        assert_eq!(arrived, 3);
    }

    #[test]
    fn who_waits_stays_where_it_is_until_then() {
        let all = may_run_on();
        let (may, is) = wait(|| (may_run_on(), sched_getcpu().unwrap()));
        assert_eq!(may, [is]);
        assert_eq!(may_run_on(), all);
    }

    #[test]
    fn what_is_started_is_done() {
        assert_eq!(spawn("seven", 7, |seven| seven).ok().unwrap().join().unwrap(), 7);
        let seven = 7;
        let (done, beside) = scoped(3, || seven, |threads| (threads, seven));
        assert_eq!((&*done, beside), ([7; 3].as_slice(), (3, 7)));
    }

    #[test]
    fn what_was_started_is_waited_for_though_something_panics() {
        let done = AtomicBool::new(false);
        let work = || {
            std::thread::sleep(Duration::from_millis(100));
            done.store(true, Ordering::Relaxed);
        };
        // Without a word, which takes longer than the thread.
        let all = || scoped(1, work, |_| resume_unwind(Box::new("on purpose")));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(all)).is_err());
        assert!(done.load(Ordering::Relaxed));
    }
}
