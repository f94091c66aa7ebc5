//! What the watcher did, put together for the history: a thousand changes of one object are one line with their number,
//! and whoever changes things all day long gets an entry an hour.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Clock;
use super::event::Event;

/// From the first change to its entry, if there was none shortly before; else twice as long each time.
const FIRST: Duration = Duration::from_mins(1);
/// At most that long.
const LAST: Duration = Duration::from_hours(1);
/// Objects counted each for itself; of further ones only the changes are.
const OBJECTS: usize = 50;

/// Changes since the last entry.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    since: Option<Clock>,
    window: Duration,
    /// When the last entry was made.
    ended: Clock,
    corrective: usize,
    intentional: usize,
    objects: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts what an event tells of changes.
    pub fn note(&mut self, event: &Event, now: Clock) {
        let Event::Changed { corrective, intentional, objects, .. } = event else { return };
        if self.since.is_none() {
            self.since = Some(now);
            self.window = if now < self.ended + self.window { (self.window * 2).min(LAST) } else { FIRST };
        }
        self.corrective += corrective;
        self.intentional += intentional;
        for object in objects {
            if self.objects.len() < OBJECTS || self.objects.contains_key(object) {
                *self.objects.entry(object.clone()).or_default() += 1;
            }
        }
    }

    /// When the next entry is due; none as long as nothing is changed.
    pub fn due(&self) -> Option<Clock> {
        self.since.map(|since| since + self.window)
    }

    /// The entry: how many changes, and of what, one a line. None if there were none.
    pub fn take(&mut self, now: Clock) -> Option<(String, String)> {
        self.since.take()?;
        let line = |(object, count): (String, u64)| match count {
            1 => format!("~ {object}\n"),
            count => format!("~ {object} ({count} times)\n"),
        };
        let lines = std::mem::take(&mut self.objects).into_iter().map(line).collect();
        let summary = format!("{} healed, {} asked for", self.corrective, self.intentional);
        *self = Self { window: self.window, ended: now, ..Self::default() };
        Some((summary, lines))
    }
}
