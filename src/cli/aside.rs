//! Work that nobody waits for: a thread of its own does one piece after the other, in order, and what it has no room for is
//! not taken.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::time::Duration;

/// The thread, and the way to it.
pub(super) struct Aside<T> {
    pieces: SyncSender<T>,
    /// Hears when the thread has ended.
    ended: Receiver<Infallible>,
}

impl<T: Send + 'static> Aside<T> {
    /// Starts the thread, for which so many pieces may wait.
    pub(super) fn start(name: &str, room: usize, work: impl Fn(T) + Send + 'static) -> std::io::Result<Self> {
        let (pieces, taken) = sync_channel(room);
        let (alive, ended) = channel();
        let serve = move || {
            let _alive = alive;
            taken.into_iter().for_each(work);
        };
        std::thread::Builder::new().name(name.into()).spawn(serve)?;
        Ok(Self { pieces, ended })
    }

    /// Has it done; or gives it back.
    ///
    /// # Errors
    ///
    /// When there is no room for it.
    pub(super) fn put(&self, piece: T) -> Result<(), T> {
        let back = |(TrySendError::Full(piece) | TrySendError::Disconnected(piece))| piece;
        self.pieces.try_send(piece).map_err(back)
    }

    /// Waits until all is done, but no longer than that.
    pub(super) fn end(self, patience: Duration) {
        drop(self.pieces);
        let _ = self.ended.recv_timeout(patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_comes_back_and_the_rest_is_done_in_order() {
        let (go, wait) = channel::<()>();
        let (done, seen) = channel();
        let aside = Aside::start("test", 2, move |piece| {
            let _ = wait.recv();
            done.send(piece).expect("somebody looks");
        })
        .expect("a thread");
        let taken = (0..100).filter(|piece| aside.put(*piece).is_ok()).collect::<Vec<u32>>();
        assert!((2..=3).contains(&taken.len()), "{taken:?}");
        drop(go);
        aside.end(Duration::from_secs(20));
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), taken);
    }

    #[test]
    fn whoever_is_held_up_is_not_waited_for() {
        let (go, wait) = channel::<()>();
        let aside = Aside::start("test", 2, move |()| {
            let _ = wait.recv();
        })
        .expect("a thread");
        assert!(aside.put(()).is_ok());
        aside.end(Duration::from_millis(10));
        assert!(go.send(()).is_ok(), "it is held up still");
    }
}
