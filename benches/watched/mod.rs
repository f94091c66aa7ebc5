//! A watcher that a benchmark starts, and what it says: that all is well, and in its log how far it has come.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use netrec::apply::{Target, prepare};
use netrec::kernel::linux::Linux;
use netrec::model::parse::parse;
use netrec::model::source::Source;
use netrec::model::topology::Topology;

/// What takes longer was not done.
const PATIENCE: Duration = Duration::from_secs(5);
/// The file that is watched, and where its next content is written.
const FILE: &str = "/run/w.toml";
const NEXT: &str = "/run/w.toml.next";

/// A watcher and what it says.
pub(crate) struct Watched {
    child: Child,
    changes: Receiver<Instant>,
    log: Receiver<(Instant, String)>,
    topology: Topology,
    kernel: Linux,
}

impl Watched {
    /// Starts one and waits until it has converged.
    pub(crate) fn start(text: &str) -> Self {
        Self::start_as(Command::new(env!("CARGO_BIN_EXE_netrec")), text)
    }

    /// Starts one that tells in its log how far it has come.
    pub(crate) fn start_in_detail(text: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netrec"));
        command.env("RUST_LOG", "netrec=debug");
        Self::start_as(command, text)
    }

    fn start_as(mut command: Command, text: &str) -> Self {
        fs::write(FILE, text).expect("/run is ours");
        command.args(["watch", "--format", "json", FILE]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("netrec starts");
        let (stdout, stderr) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
        let (changes, log) = (channel(), channel());
        hear(stdout, changes.0, |line, at| {
            if line.contains("contested") || line.contains("failed") {
                report(&line);
            }
            line.contains("\"event\":\"changed\"").then_some(at)
        });
        hear(stderr, log.0, |line, at| {
            if line.contains("WARN") || line.contains("ERROR") {
                report(&line);
            }
            Some((at, line))
        });
        let mut watched =
            Self { child, changes: changes.1, log: log.1, topology: understood(text), kernel: Linux::default() };
        assert!(watched.changes.recv_timeout(Duration::from_mins(2)).is_ok() && watched.is_right(), "it converges");
        watched
    }

    /// Puts a file with this content in the place of the one that is watched; when, and when that was done. None if it
    /// never was.
    pub(crate) fn replace(&mut self, text: &str) -> Option<(Instant, Instant)> {
        self.topology = understood(text);
        fs::write(NEXT, text).expect("/run is ours");
        self.log.try_iter().for_each(drop);
        let began = Instant::now();
        fs::rename(NEXT, FILE).expect("/run is ours");
        Some((began, self.healed()?))
    }

    fn is_right(&mut self) -> bool {
        prepare(&mut self.kernel, Target::Topology(&self.topology)).is_ok_and(|prepared| prepared.diff.is_empty())
    }

    /// When all was right again: the watcher's last word, once a look of ours confirms it.
    pub(crate) fn healed(&mut self) -> Option<Instant> {
        let until = Instant::now() + PATIENCE;
        let mut said = self.changes.recv_timeout(PATIENCE).ok()?;
        while !self.is_right() {
            if Instant::now() > until {
                return None;
            }
            said = self.changes.recv_timeout(Duration::from_millis(5)).unwrap_or(said);
        }
        Some(said)
    }

    /// What it logged since the content was replaced, up to that time.
    pub(crate) fn logged(&self, until: Instant) -> Vec<(Instant, String)> {
        self.log.try_iter().filter(|(at, _)| *at <= until).collect()
    }

    /// Seconds of CPU time so far.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum();
        ticks / 100.0
    }

    pub(crate) fn memory(&self) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let lines = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("Threads"));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hears each line as it comes, and tells of those that count.
fn hear<T: Send + 'static>(
    pipe: impl Read + Send + 'static,
    tell: Sender<T>,
    counts: impl Fn(String, Instant) -> Option<T> + Send + 'static,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Some(counted) = counts(line, Instant::now()) {
                let _ = tell.send(counted);
            }
        }
    });
}

#[expect(clippy::print_stdout, reason = "a benchmark prints")]
fn report(line: &str) {
    println!("{line}");
}

fn understood(text: &str) -> Topology {
    parse(&[Source::new("w.toml", text)]).expect("a valid topology")
}
