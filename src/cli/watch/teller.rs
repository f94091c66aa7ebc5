//! Events to whoever reads stdout: lines for people, so many a minute at most, however bad things are, with a count of
//! what is left out; or all of them, one JSON object a line.

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
    suppressed: u64,
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
        Self { format, topology: topology.to_owned(), left: BURST, as_of: Clock::ZERO, suppressed: 0 }
    }

    /// Tells an event, or counts it.
    pub(super) fn tell(&mut self, event: &Event, now: Clock) {
        let gained = now.saturating_sub(self.as_of).as_secs() / EVERY.as_secs();
        if gained > 0 {
            self.left = self.left.saturating_add(gained as u32).min(BURST);
            self.as_of = now;
        }
        if self.left == 0 && self.format == Format::Text {
            self.suppressed += 1;
            return;
        }
        self.left = self.left.saturating_sub(1);
        let left_out = std::mem::take(&mut self.suppressed);
        if left_out > 0 {
            output::say(&format!("{}: {left_out} events were left out\n", self.topology));
        }
        self.say(event.to_string().trim_end(), event);
    }

    fn say(&self, text: &str, event: &Event) {
        let topology = &self.topology;
        let line = match self.format {
            Format::Text => format!("{topology}: {text}"),
            Format::Json => {
                let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                serde_json::to_string(&Line { version: 1, topology, time_ms, event })
                    .expect("our own types have string keys")
            }
        };
        output::say(&(line + "\n"));
    }
}
