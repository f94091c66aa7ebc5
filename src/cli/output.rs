//! The two streams, and whether a person is at them.

use std::io::{IsTerminal, Write};

use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// Writes to stdout. A reader that has gone is no error: it has read what it wanted.
pub(super) fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes a value to stdout as JSON.
pub(super) fn say_json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).expect("our own types have string keys");
    say(&(text + "\n"));
}

/// Writes to stderr.
pub(super) fn complain(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Whether stdout is a terminal that wants colours (<https://no-color.org>).
pub(super) fn is_colourful() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
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

/// Sends logs to stderr: warnings always, more with `-v`, in detail with `RUST_LOG`.
pub(super) fn log(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "netrec=info",
        2 => "netrec=debug",
        _ => "netrec=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    let _ = subscriber.with_target(false).try_init();
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
