//! The two streams, and whether a person is at them.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use serde::Serialize;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::aside::Aside;

/// Why something that was said did not get out, the first time.
static UNSAID: OnceLock<String> = OnceLock::new();

/// Lines that wait for a reader who is held up.
const WAITING: usize = 1_000;
/// How long is waited for one when all is over.
const PATIENCE: Duration = Duration::from_millis(500);

/// Both streams, where whoever speaks does not wait for who reads.
static ASIDE: Mutex<Option<Streams>> = Mutex::new(None);

struct Streams {
    said: Aside<String>,
    complaints: Aside<String>,
    /// Complaints for which there was no room.
    left_out: usize,
}

/// From now on nobody who speaks waits for who reads: a terminal may be stopped, and a log's reader may stall.
pub(super) fn aside() -> std::io::Result<()> {
    let said = Aside::start("stdout", WAITING, |text: String| write(&text))?;
    let complaints = Aside::start("stderr", WAITING, |text: String| write_complaint(&text))?;
    *ASIDE.lock().expect("nobody panics with it") = Some(Streams { said, complaints, left_out: 0 });
    Ok(())
}

/// Waits for a moment until all that was said is read.
pub(super) fn end() {
    let streams = ASIDE.lock().expect("nobody panics with it").take();
    if let Some(Streams { said, complaints, .. }) = streams {
        said.end(PATIENCE);
        complaints.end(PATIENCE);
    }
}

/// Leaves something as it is when the program is about to end: taking thousands of objects apart would be for nobody.
pub(super) fn leave<T>(it: T) {
    std::mem::forget(it);
}

/// Writes to stdout, or has it written.
pub(super) fn say(text: &str) {
    offer(text);
}

/// The same; whether there was room for it.
pub(super) fn offer(text: &str) -> bool {
    let put = |streams: &Streams| streams.said.put(text.to_owned()).is_ok();
    let room = ASIDE.lock().expect("nobody panics with it").as_ref().map(put);
    if room.is_none() {
        write(text);
    }
    room.unwrap_or(true)
}

/// A reader that has gone is no error: it has read what it wanted. Any other failure is kept for [`unsaid`], so that an
/// apply is not left half done for want of a listener.
fn write(text: &str) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            UNSAID.get_or_init(|| error.to_string());
        }
        _ => {}
    }
}

/// Why not all that was said got out; none if it did.
pub(super) fn unsaid() -> Option<&'static str> {
    UNSAID.get().map(String::as_str)
}

/// Writes a value to stdout as JSON.
pub(super) fn say_json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).expect("our own types have string keys");
    say(&(text + "\n"));
}

/// Writes to stderr, or has it written.
pub(super) fn complain(text: &str) {
    let mut aside = ASIDE.lock().expect("nobody panics with it");
    let Some(Streams { complaints, left_out, .. }) = &mut *aside else {
        drop(aside);
        return write_complaint(text);
    };
    if *left_out > 0 && complaints.put(format!("{left_out} complaints were left out\n")).is_ok() {
        *left_out = 0;
    }
    if *left_out > 0 || complaints.put(text.to_owned()).is_err() {
        *left_out += 1;
    }
}

fn write_complaint(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Whether stdout is a terminal.
pub(super) fn is_seen() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether stdout is a terminal that wants colours (<https://no-color.org>).
pub(super) fn is_colourful() -> bool {
    is_seen() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The lines of a plan in colour by their symbol, where colours are wanted; the symbol alone says it all.
pub(super) fn coloured(plan: &str) -> String {
    if !is_colourful() {
        return plan.to_owned();
    }
    let colour = |line: &str| match line.chars().next() {
        Some('+') => 32,
        Some('-') => 31,
        Some('~' | '±') => 33,
        _ => 0,
    };
    let mut coloured = String::with_capacity(plan.len() * 2);
    for line in plan.lines() {
        coloured += &format!("\x1b[{}m{line}\x1b[0m\n", colour(line));
    }
    coloured
}

/// Asks a person at the terminal; whoever answers otherwise than yes says no.
pub(super) fn ask(question: &str) -> bool {
    complain(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

/// Whether somebody is there to be asked.
pub(super) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// A moment in seconds since 1970 as people read it (the civil calendar of
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>).
pub(super) fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Sends logs to stderr: warnings always, more with `-v`, in detail with `RUST_LOG`.
pub(super) fn log(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "netrec=info",
        2 => "netrec=debug",
        _ => "netrec=trace",
    };
    let asked = std::env::var("RUST_LOG").ok().filter(|asked| !asked.is_empty());
    let asked = asked.and_then(|asked| asked.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| default.parse().expect("it is one of those above"));
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Complaints).without_time().with_target(false);
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
}

/// Where logs go: line by line.
struct Complaints;

impl Write for Complaints {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        complain(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A line on the terminal that says how far an apply has come, once that takes longer than half a second.
pub(super) struct Progress {
    since: std::time::Instant,
    shown: bool,
}

impl Progress {
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

    /// Starts to wait.
    pub(super) fn new() -> Self {
        Self { since: std::time::Instant::now(), shown: false }
    }

    /// So many of so many steps have ended.
    pub(super) fn tell(&mut self, ended: usize, of: usize) {
        if self.since.elapsed() >= Self::PATIENCE && std::io::stderr().is_terminal() {
            complain(&format!("\r\x1b[K{ended} of {of} steps"));
            self.shown = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            complain("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn moments_are_read_as_date_tells_them() {
        for (seconds, told) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (4_102_444_800, "2100-01-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), told);
        }
    }
}
