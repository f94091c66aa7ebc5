//! When the files are read, and which of their contents count: what stayed the same over a while and two readings.
//!
//! Whoever saves a file may write it in pieces, replace it, or take it away for a moment. Each event starts a time of
//! quiet; only then is anything read, and only what reads alike twice is looked into. A content that cannot be read
//! counts like any other: a moment without the file is not reported, a file that is gone is.

use std::time::Duration;

use super::Clock;

/// What the files said, reduced to a number: the same for the same content, or for the same error.
pub type Fingerprint = u64;

/// How patient the reader is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// After the last event, before anything is read.
    pub quiet: Duration,
    /// Between the two readings that must be alike.
    pub settle: Duration,
    /// Between readings that no event asked for.
    pub poll: Duration,
}

/// The reader's mind.
#[derive(Clone, Debug)]
pub struct Reading {
    patience: Patience,
    /// When to read next.
    next: Clock,
    /// What the last reading said, if it is not known to stay.
    unsettled: Option<Fingerprint>,
    /// What was looked into last.
    known: Option<Fingerprint>,
}

/// What to make of a reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// What is known already.
    Known,
    /// Something else, which may be on its way to something else again.
    Unsettled,
    /// Something new that stays.
    New,
}

impl Reading {
    /// Starts at that time with a content that was looked into.
    pub fn new(patience: Patience, known: Fingerprint, now: Clock) -> Self {
        Self { patience, next: now + patience.poll, unsettled: None, known: Some(known) }
    }

    /// Something happened where the files are.
    pub fn disturbed(&mut self, now: Clock) {
        self.unsettled = None;
        self.next = now + self.patience.quiet;
    }

    /// Somebody wants the files read now.
    pub fn urge(&mut self, now: Clock) {
        self.next = now;
    }

    /// How patient it is.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// When to read next.
    pub fn next(&self) -> Clock {
        self.next
    }

    /// What a reading at that time said.
    pub fn read(&mut self, fingerprint: Fingerprint, now: Clock) -> Finding {
        if self.known == Some(fingerprint) {
            self.unsettled = None;
            self.next = now + self.patience.poll;
            return Finding::Known;
        }
        if self.unsettled == Some(fingerprint) {
            self.unsettled = None;
            self.known = Some(fingerprint);
            self.next = now + self.patience.poll;
            return Finding::New;
        }
        self.unsettled = Some(fingerprint);
        self.next = now + self.patience.settle;
        Finding::Unsettled
    }
}
