//! How long the firewall was away: what netrec's drops are worth while somebody flushes them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Clock;

/// The times that the table, or a rule of it, was gone since it first stood.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default, Debug)]
pub struct Unguarded {
    /// How many.
    pub times: u64,
    /// All of them, in milliseconds: each from the announcement on, or from the look that found it gone, until it was seen
    /// to stand again.
    pub total_ms: u64,
    /// The last one, in milliseconds.
    pub last_ms: Option<u64>,
    /// How long it is gone by now, in milliseconds.
    pub now_ms: Option<u64>,
}

/// Follows a table from round to round.
#[derive(Clone, Default, Debug)]
pub(super) struct Absence {
    stood: bool,
    since: Option<Clock>,
    times: u64,
    total: Duration,
    last: Option<Duration>,
}

impl Absence {
    /// A round that was asked for at `asked` found the table gone or not and left it, now, standing or not. Says how long
    /// it was gone if that is over.
    pub(super) fn saw(&mut self, (gone, stands): (bool, bool), asked: Clock, now: Clock) -> Option<Duration> {
        if gone && self.stood {
            self.since.get_or_insert(asked);
        }
        self.stood |= stands;
        let took = now.saturating_sub(self.since.take_if(|_| stands)?);
        self.times += 1;
        self.total += took;
        self.last = Some(took);
        self.last
    }

    /// No table is wanted any more.
    pub(super) fn unwanted(&mut self) {
        (self.stood, self.since) = (false, None);
    }

    pub(super) fn told(&self, now: Clock) -> Unguarded {
        let ms = |time: Duration| time.as_millis() as u64;
        Unguarded {
            times: self.times,
            total_ms: ms(self.total),
            last_ms: self.last.map(ms),
            now_ms: self.since.map(|since| ms(now.saturating_sub(since))),
        }
    }
}
