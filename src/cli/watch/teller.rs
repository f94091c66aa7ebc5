//! Events to whoever reads stdout: lines for people, so many a minute at most, however bad things are, with a count of
//! what is left out; or all of them, one JSON object a line. What finds no room, as the reader is held up, is left out
//! and counted as well.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::apply::watch::Clock;
use crate::apply::watch::event::Event;
use crate::cli::{Format, output};

/// Lines that may come at once.
const BURST: u32 = 60;
/// After that one each.
const EVERY: Duration = Duration::from_secs(1);

/// Tells.
pub(super) struct Teller {
    format: Format,
    topology: String,
    /// Lines that may be said now.
    left: u32,
    as_of: Clock,
    /// Events that were not told, for their number or for want of a reader.
    left_out: u64,
}

#[derive(Serialize)]
struct Line<'a, T> {
    version: u32,
    topology: &'a str,
    /// Since the epoch.
    time_ms: u128,
    #[serde(flatten)]
    event: T,
}

impl Teller {
    /// Starts with nothing said.
    pub(super) fn new(format: Format, topology: &str) -> Self {
        Self { format, topology: topology.to_owned(), left: BURST, as_of: Clock::ZERO, left_out: 0 }
    }

    /// Tells an event, or counts it.
    pub(super) fn tell(&mut self, event: &Event, now: Clock) {
        self.catch_up(now);
        if self.left_out == 0 && self.may() && self.say(event) {
            self.left = self.left.saturating_sub(1);
        } else {
            self.left_out += 1;
        }
    }

    /// Tells how many events were left out, as soon as there is room.
    pub(super) fn catch_up(&mut self, now: Clock) {
        let gained = now.saturating_sub(self.as_of).as_secs() / EVERY.as_secs();
        if gained > 0 {
            self.left = self.left.saturating_add(gained as u32).min(BURST);
            self.as_of = now;
        }
        if self.left_out > 0 && self.may() && self.say(&Event::LeftOut { events: self.left_out }) {
            self.left_out = 0;
        }
    }

    /// Whether a line may be told.
    fn may(&self) -> bool {
        self.left > 0 || self.format == Format::Json
    }

    fn say(&self, event: &Event) -> bool {
        let topology = &self.topology;
        let line = match self.format {
            Format::Text => format!("{topology}: {}", event.to_string().trim_end()),
            Format::Json => {
                let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                serde_json::to_string(&Line { version: 1, topology, time_ms, event })
                    .expect("our own types have string keys")
            }
        };
        output::offer(&(line + "\n"))
    }
}
