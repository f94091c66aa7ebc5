//! A polite end: after SIGINT or SIGTERM what is being said to the kernel is said to its end, and nothing more is begun.
//! Whoever asks twice gets what the signal does by default.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: c_int) {
    ASKED.store(true, Ordering::Relaxed);
}

/// From now on the first SIGINT or SIGTERM only asks.
pub fn listen() {
    let action =
        SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESETHAND | SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        #[expect(unsafe_code, reason = "sigaction(2)")]
        // SAFETY: the handler does nothing but store to an atomic, which is async-signal-safe.
        let result = unsafe { sigaction(signal, &action) };
        if let Err(errno) = result {
            tracing::warn!(%signal, %errno, "a signal will end this at once");
        }
    }
}

/// Whether somebody asked.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
