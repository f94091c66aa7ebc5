//! When the files are read, and which of their contents count: what stayed the same over a while and two readings.
//!
//! Whoever saves a file may write it in pieces, replace it, or take it away for a moment. Each event starts a time of
//! quiet; only then is anything read, and only what reads alike twice is looked into. A content that cannot be read
//! counts like any other: a moment without the file is not reported, a file that is gone is. Where there is no quiet,
//! because somebody writes all the time, the file is read after some times of quiet nevertheless.
//!
//! Who puts a whole file in the place of another does so in order that nobody reads a part of it: that is read and believed
//! at once, unless something has happened within a time of quiet before. Only where it takes something away, or is not
//! right, a small part of the time of quiet is waited for something else to happen: a script may put back in its next line
//! what it has cut out in this one.

use std::time::Duration;

use super::Clock;
use crate::model::source::Source;

/// Into how many parts a time of quiet is divided, of which one is waited for after a file that came whole and less.
const WHOLE: u32 = 8;

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
    /// The last event.
    stirred: Option<Clock>,
    /// Whether the next reading is of a file that came whole.
    whole: bool,
    /// Whether the last one was, and found something new by that.
    hasty: bool,
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
        Self {
            patience,
            next,
            disturbed: None,
            stirred: None,
            whole: false,
            hasty: false,
            unsettled: None,
            known: Some(known),
            doubted: None,
        }
    }

    /// The only file was put in the place of another.
    pub fn replaced(&mut self, now: Clock) {
        let rested = self.stirred.is_none_or(|last| last + self.patience.quiet <= now);
        self.disturbed(now);
        if rested {
            (self.whole, self.next) = (true, now);
        }
    }

    /// Something happened where the files are.
    pub fn disturbed(&mut self, now: Clock) {
        (self.stirred, self.whole) = (Some(now), false);
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

    /// What a reading at that time said, and whether it could be read.
    pub fn read(&mut self, (fingerprint, is_read): (Fingerprint, bool), now: Clock) -> Finding {
        let whole = std::mem::take(&mut self.whole) && is_read;
        self.hasty = whole && Some(fingerprint) != self.unsettled;
        let finding = match Some(fingerprint) {
            same if same == self.known => Finding::Known,
            same if whole || same == self.unsettled => Finding::New,
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

    /// Whether a new content that leaves something out is waited with, because it was believed at once. It is found to be
    /// new once more a moment later, unless something else happens.
    pub fn hesitates(&mut self) -> bool {
        let hasty = std::mem::take(&mut self.hasty);
        let Some(stirred) = self.stirred.filter(|_| hasty) else { return false };
        self.unsettled = self.known.take();
        // However long it took to read it.
        self.next = stirred + self.patience.quiet / WHOLE;
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(ms: u64) -> Clock {
        Duration::from_millis(ms)
    }

    /// A reader that knows content 1.
    fn reading() -> Reading {
        let patience =
            Patience { quiet: millis(200), settle: millis(100), poll: millis(30_000), doubt: millis(60_000) };
        Reading::new(patience, 1, Clock::ZERO)
    }

    #[test]
    fn a_file_that_comes_whole_is_read_and_believed_at_once() {
        let mut reading = reading();
        reading.replaced(millis(1_000));
        assert_eq!((reading.next(), reading.read((2, true), millis(1_000))), (millis(1_000), Finding::New));
        reading.disturbed(millis(2_000));
        assert_eq!(reading.next(), millis(2_200), "what comes in pieces is waited for");
        assert_eq!(reading.read((3, true), millis(2_200)), Finding::Unsettled);
    }

    #[test]
    fn it_is_not_believed_when_something_else_happens_to_it_as_well() {
        let mut reading = reading();
        reading.replaced(millis(1_000));
        reading.disturbed(millis(1_000));
        assert_eq!((reading.next(), reading.read((2, true), millis(1_200))), (millis(1_200), Finding::Unsettled));
        assert_eq!(reading.read((2, true), millis(1_300)), Finding::New);
        reading.replaced(millis(1_600));
        assert_eq!(reading.read((0, false), millis(1_600)), Finding::Unsettled, "it is gone again");
        reading.disturbed(millis(2_000));
        reading.replaced(millis(2_001));
        assert_eq!((reading.next(), reading.read((3, true), millis(2_201))), (millis(2_201), Finding::Unsettled));
    }

    #[test]
    fn where_it_leaves_something_out_it_is_believed_a_moment_later() {
        let mut reading = reading();
        reading.replaced(millis(1_000));
        assert_eq!(reading.read((2, true), millis(1_004)), Finding::New);
        assert!(reading.hesitates());
        assert_eq!((reading.next(), reading.read((2, true), millis(1_025))), (millis(1_025), Finding::New));
        assert!(!reading.hesitates(), "once is enough");
        // A script cuts out and appends.
        reading.replaced(millis(2_000));
        assert_eq!(reading.read((3, true), millis(2_000)), Finding::New);
        assert!(reading.hesitates());
        reading.disturbed(millis(2_001));
        assert_eq!((reading.next(), reading.read((4, true), millis(2_201))), (millis(2_201), Finding::Unsettled));
        assert_eq!(reading.read((4, true), millis(2_301)), Finding::New);
        assert!(!reading.hesitates(), "it has been quiet");
    }

    #[test]
    fn what_comes_after_it_is_another_content() {
        let mut reading = reading();
        reading.replaced(millis(1_000));
        assert_eq!(reading.read((2, true), millis(1_000)), Finding::New);
        reading.replaced(millis(1_001));
        assert_eq!((reading.next(), reading.read((3, true), millis(1_201))), (millis(1_201), Finding::Unsettled));
        assert_eq!(reading.read((3, true), millis(1_301)), Finding::New);
    }

    #[test]
    fn of_many_that_come_one_after_the_other_only_the_first_is_believed_at_once() {
        let (mut reading, mut believed) = (reading(), Vec::new());
        for ms in (1_000..11_000).step_by(10) {
            reading.replaced(millis(ms));
            if reading.next() <= millis(ms) && reading.read((ms, true), millis(ms)) == Finding::New {
                believed.push(ms);
            }
        }
        assert_eq!(believed, [1_000]);
    }
}
