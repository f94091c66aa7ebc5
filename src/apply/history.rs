//! What was done: one line a run that did something, bounded, each with its checksum, and purely informative. Nothing
//! reads it but people; losing it loses nothing else.

use std::fmt;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::confirm::memory::{DIRECTORY, replace};
use crate::kernel::names;
use crate::model::hash::words;

/// Bytes of the file at most; then its older half goes.
const BYTES: u64 = 1 << 20;

/// Lines of a plan that are kept at most.
const LINES: usize = 50;

/// One run that did something.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Record {
    /// When it ended, in seconds since 1970.
    pub when: u64,
    /// Who ran it: the login name, or the user id.
    pub who: String,
    /// Whose things.
    pub topology: String,
    /// What was run: `apply`, `destroy`, `rollback`, `watch`.
    pub command: String,
    /// Digest of the topology's text; none where there was none.
    pub digest: Option<String>,
    /// How many of what, of the plan.
    pub summary: String,
    /// The plan, one line a change, the first of them.
    pub plan: Vec<String>,
    /// How it ended, in words.
    pub result: String,
}

impl Record {
    /// A record of now.
    pub fn new(topology: &str, command: &str, result: impl Into<String>) -> Self {
        Self {
            when: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            who: who(),
            topology: topology.into(),
            command: command.into(),
            digest: None,
            summary: String::new(),
            plan: Vec::new(),
            result: result.into(),
        }
    }

    /// Adds the plan's text.
    #[must_use]
    pub fn with_plan(mut self, text: &str) -> Self {
        let count = text.lines().count();
        self.plan = text.lines().take(LINES).map(str::to_owned).collect();
        if count > LINES {
            self.plan.push(format!("and {} more", count - LINES));
        }
        self
    }

    fn line(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{:016x} {json}\n", words(&[&json]))
    }

    fn read(line: &str) -> Option<Self> {
        let (sum, json) = line.split_once(' ')?;
        (sum == format!("{:016x}", words(&[json]))).then(|| serde_json::from_str(json).ok()).flatten()
    }
}

/// Who logged in, whatever they became since (`/proc/self/loginuid`); else who runs this.
pub(super) fn who() -> String {
    let login = fs::read_to_string("/proc/self/loginuid").ok().and_then(|uid| uid.trim().parse::<u32>().ok());
    // A process that nobody logged in for has the highest number.
    let uid = login.filter(|uid| *uid != u32::MAX).map_or_else(nix::unistd::getuid, nix::unistd::Uid::from_raw);
    if uid.is_root() {
        return "root".into(); // as everywhere, and to ask takes longer than all else that a record takes
    }
    names::user(uid.as_raw()).unwrap_or_else(|| uid.to_string())
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.display().fmt(f)
    }
}

/// The record of a host.
#[derive(Clone, Debug)]
pub struct History {
    file: PathBuf,
}

impl Default for History {
    fn default() -> Self {
        Self::at(Path::new(DIRECTORY))
    }
}

impl History {
    /// The history in a directory.
    pub fn at(directory: &Path) -> Self {
        Self { file: directory.join("history") }
    }

    /// Adds a record. That it could not be added is said in the log and changes nothing.
    pub fn add(&self, record: &Record) {
        if let Err(error) = self.append(record) {
            tracing::warn!("no record was made in {}: {error}", self.file.display());
        }
    }

    fn append(&self, record: &Record) -> std::io::Result<()> {
        if let Some(directory) = self.file.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        if fs::metadata(&self.file).is_ok_and(|facts| facts.len() > BYTES) {
            let (records, _) = self.read()?;
            replace(&self.file, &records[records.len() / 2..].iter().map(Record::line).collect::<String>())?;
        }
        let mut file = fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.file)?;
        // What a kill cut short must not take the next line with it.
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(-1)).is_ok() {
            file.read_exact(&mut last)?;
        }
        let start = if last == [b'\n'] { "" } else { "\n" };
        file.write_all(format!("{start}{}", record.line()).as_bytes())
    }

    /// The last thing that somebody did to a topology; what its watcher does by itself is not meant.
    pub fn last(&self, topology: &str) -> Option<Record> {
        let (records, _) = self.read().ok()?;
        records.into_iter().rfind(|record| record.topology == topology && record.command != "watch")
    }

    /// All records, the oldest first, and how many lines are none.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be read.
    pub fn read(&self) -> std::io::Result<(Vec<Record>, usize)> {
        let bytes = match fs::read(&self.file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<Option<Record>> = text.lines().map(Record::read).collect();
        let corrupt = lines.iter().filter(|line| line.is_none()).count();
        Ok((lines.into_iter().flatten().collect(), corrupt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::scratch::Scratch;

    #[test]
    fn what_is_recorded_is_read_and_what_is_corrupt_is_counted() {
        let directory = Scratch::new("history-corrupt");
        let history = History::at(&directory);
        let record = |n: usize| Record::new("shop", "apply", format!("run {n}")).with_plan("+ a\n- b\n");
        (0..3).for_each(|n| history.add(&record(n)));
        let text = fs::read_to_string(&history.file).unwrap();
        fs::write(&history.file, text.replace("run 1", "run 7") + "torn").unwrap();
        let (records, corrupt) = history.read().unwrap();
        let results: Vec<&str> = records.iter().map(|record| record.result.as_str()).collect();
        assert_eq!((results, corrupt), (vec!["run 0", "run 2"], 2));
        assert_eq!(records[0].plan, ["+ a", "- b"]);
        history.add(&record(4));
        let (records, corrupt) = history.read().unwrap();
        assert_eq!((records.len(), corrupt), (3, 2), "the torn line takes nothing with it");
    }

    #[test]
    fn it_is_bounded_and_keeps_the_newest() {
        let directory = Scratch::new("history-long");
        let history = History::at(&directory);
        let plan = "+ something\n".repeat(500);
        for n in 0..4_000 {
            history.add(&Record::new("shop", "apply", n.to_string()).with_plan(&plan));
        }
        assert!(fs::metadata(&history.file).unwrap().len() < BYTES + 4096);
        let (records, corrupt) = history.read().unwrap();
        assert_eq!((records.last().unwrap().result.as_str(), corrupt), ("3999", 0));
        assert_eq!(records[0].plan.len(), LINES + 1);
    }
}
