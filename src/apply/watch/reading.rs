//! When the files are read, and which of their contents count: what stayed the same over a while and two readings.
//!
//! Whoever saves a file may write it in pieces, replace it, or take it away for a moment. Each event starts a time of
//! quiet; only then is anything read, and only what reads alike twice is looked into. A content that cannot be read
//! counts like any other: a moment without the file is not reported, a file that is gone is. Where there is no quiet,
//! because somebody writes all the time, the file is read after some times of quiet nevertheless.

use std::time::Duration;

use super::Clock;
use crate::model::source::Source;

/// Times of quiet that events may put a reading off, from the first one on.
const STORM: u32 = 10;

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
    /// Before a content is believed that looks cut off.
    pub doubt: Duration,
}

/// The reader's mind.
#[derive(Clone, Debug)]
pub struct Reading {
    patience: Patience,
    /// When to read next.
    next: Clock,
    /// The first event since the files were last known.
    disturbed: Option<Clock>,
    /// What the last reading said, if it is not known to stay.
    unsettled: Option<Fingerprint>,
    /// What was looked into last.
    known: Option<Fingerprint>,
    /// What looked cut off, and since when.
    doubted: Option<(Fingerprint, Clock)>,
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
        let next = now + patience.poll;
        Self { patience, next, disturbed: None, unsettled: None, known: Some(known), doubted: None }
    }

    /// Something happened where the files are.
    pub fn disturbed(&mut self, now: Clock) {
        let storm = *self.disturbed.get_or_insert(now) + self.patience.quiet * STORM;
        if now < storm {
            self.unsettled = None;
            self.next = storm.min(now + self.patience.quiet);
        }
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
        let finding = match Some(fingerprint) {
            same if same == self.known => Finding::Known,
            same if same == self.unsettled => Finding::New,
            _ => Finding::Unsettled,
        };
        if finding != Finding::Unsettled {
            (self.disturbed, self.unsettled, self.known) = (None, None, Some(fingerprint));
            self.next = now + self.patience.poll;
            return finding;
        }
        self.unsettled = Some(fingerprint);
        self.next = now + self.patience.settle;
        finding
    }

    /// Whether the new content is believed although it looks cut off, because it has stayed so for long. If not, it is
    /// found to be new once more when that time is up.
    pub fn believes(&mut self, now: Clock) -> bool {
        let Some(fingerprint) = self.known else { return true };
        let (_, since) = self.doubted.filter(|(it, _)| *it == fingerprint).unwrap_or((fingerprint, now));
        if now >= since + self.patience.doubt {
            return true;
        }
        self.doubted = Some((fingerprint, since));
        self.known = None;
        self.next = since + self.patience.doubt;
        false
    }
}

/// Whether one of the files is as before, but for its end: as a full disk or a killed writer leaves it, perhaps at a
/// place where it still means something.
pub fn is_cut_off(files: &[Source], before: &[Source]) -> bool {
    let cut = |new: &Source, old: &Source| {
        let (new, all) = (new.text.trim_end(), old.text.trim_end());
        new.len() < all.len() && all.starts_with(new)
    };
    files.iter().any(|new| before.iter().any(|old| new.path == old.path && cut(new, old)))
}
