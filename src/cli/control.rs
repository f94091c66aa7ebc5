//! The control socket of a watcher, seen from outside: one JSON object a line, a question and its answer.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Exit;
use super::failure::Failure;
use crate::apply::watch::standing::{Standing, State};
use crate::kernel::lock;
use crate::model::diagnostic::Diagnostic;

/// A question or an answer may be that long, in bytes.
pub(super) const LINE_BYTES: u64 = 4 << 20;

/// How long is waited for what is answered at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The same where others' watchers are asked as well.
const SHORT: Duration = Duration::from_secs(2);

/// A question to the watcher of a topology.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// 1.
    pub(super) version: u32,
    /// What is wanted.
    #[serde(rename = "do")]
    pub(super) verb: Verb,
    /// For how long; until told otherwise if it is missing.
    #[serde(default)]
    pub(super) for_ms: Option<u64>,
    /// Digest of the files' text that whoever asks has read.
    #[serde(default)]
    pub(super) digest: Option<String>,
}

/// What may be asked.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verb {
    /// How it stands.
    Status,
    /// Write nothing from now on.
    Suspend,
    /// Go on.
    Resume,
    /// Read the files and put everything right now; the answer comes when that is done.
    Apply,
}

/// The watcher's answer.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct Answer {
    /// 1.
    pub(super) version: u32,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// The files that are watched.
    pub(super) files: Vec<String>,
    /// How it stands.
    pub(super) standing: Standing,
}

impl Question {
    /// A question without more to it.
    pub(super) fn new(verb: Verb) -> Self {
        Self { version: 1, verb, for_ms: None, digest: None }
    }
}

/// Paths as a watcher tells them, wherever it was started.
pub(super) fn told(paths: &[PathBuf]) -> Vec<String> {
    let absolute = paths.iter().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    absolute.map(|path| path.display().to_string()).collect()
}

/// The topology that is watched by these very files, whatever they say by now, and its watcher's answer.
pub(super) fn followed(paths: &[PathBuf]) -> Option<(String, Answer)> {
    let entries = std::fs::read_dir(lock::DIRECTORY).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".sock")?.to_owned()));
    let answer = |name: String| ask(&name, &Question::new(Verb::Status), SHORT).ok()?.map(|answer| (name, answer));
    let files: BTreeSet<String> = told(paths).into_iter().collect();
    names.filter_map(answer).find(|(_, answer)| answer.files.iter().cloned().collect::<BTreeSet<_>>() == files)
}

/// Where the watcher of a topology listens.
pub(super) fn socket(topology: &str) -> PathBuf {
    Path::new(lock::DIRECTORY).join(format!("{topology}.sock"))
}

/// Asks the watcher of a topology; none if there is none.
///
/// # Errors
///
/// When it does not answer in time, or not as it should.
pub(super) fn ask(topology: &str, question: &Question, patience: Duration) -> Result<Option<Answer>, Failure> {
    let watcher = format!("the watcher of {topology}");
    let failed = |what: &str| Failure::new(Exit::Unexpected, Diagnostic::new(format!("{watcher}: {what}")));
    let silent = |error: io::Error| Failure::silent(&watcher, &error);
    let mut stream = match UnixStream::connect(socket(topology)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(silent(error)),
    };
    stream.set_read_timeout(Some(patience)).map_err(silent)?;
    let line = serde_json::to_string(question).expect("our own types have string keys") + "\n";
    stream.write_all(line.as_bytes()).map_err(silent)?;
    let mut answer = String::new();
    let read = BufReader::new(stream.take(LINE_BYTES)).read_line(&mut answer);
    match read {
        // It ended between our connecting and its answer.
        Ok(0) => Ok(None),
        Ok(_) => {
            serde_json::from_str(&answer).map(Some).map_err(|error| failed(&format!("unreadable answer: {error}")))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(failed("no answer in time")),
        Err(error) => Err(silent(error)),
    }
}

/// The watcher that writes what a topology asks for, if there is one that is not suspended.
///
/// # Errors
///
/// As [`ask`].
pub(super) fn active(topology: &str) -> Result<Option<Answer>, Failure> {
    let answer = ask(topology, &Question::new(Verb::Status), PATIENCE)?;
    Ok(answer.filter(|answer| answer.standing.state != State::Suspended))
}

/// Has the watcher put everything right, if its files say what `digest` stands for; returns when it has tried.
///
/// # Errors
///
/// As [`demand`].
pub(super) fn apply(topology: &str, digest: String) -> Result<Answer, Failure> {
    /// A thousand containers are made in seconds, and another netrec may be writing for half a minute.
    const PATIENCE: Duration = Duration::from_mins(5);
    checked(topology, ask(topology, &Question { digest: Some(digest), ..Question::new(Verb::Apply) }, PATIENCE)?)
}

/// Asks the watcher of a topology, which has to be there.
///
/// # Errors
///
/// As [`ask`], when there is none, and when it refuses.
pub(super) fn demand(topology: &str, question: &Question) -> Result<Answer, Failure> {
    checked(topology, ask(topology, question, PATIENCE)?)
}

fn checked(topology: &str, answer: Option<Answer>) -> Result<Answer, Failure> {
    let answer = answer.ok_or_else(|| {
        let finding = Diagnostic::new(format!("topology {topology} is not watched"));
        Failure::new(Exit::Unexpected, finding.hint("`netrec watch` does that"))
    })?;
    match answer.error {
        Some(error) => Err(Failure::new(Exit::Busy, Diagnostic::new(error))),
        None => Ok(answer),
    }
}
