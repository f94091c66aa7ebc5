//! Generations of a topology that were not confirmed: by the digest of their text, so that neither a watcher nor a
//! second apply walks into the same wall unasked.
//!
//! It is written before the first write of an apply that is to be confirmed and cleared by the confirmation, so it
//! also knows what a reboot or a kill left undecided; that is why it is on a disk (`/var/lib`) and not in `/run`. Nothing
//! else depends on it: losing it costs one more rollback.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::model::hash::words;
use crate::model::source::Source;

/// Where netrec keeps what nothing depends on.
pub const DIRECTORY: &str = "/var/lib/netrec";

/// Generations that are remembered at most; the oldest are forgotten.
const ENTRIES: usize = 256;

/// The digest of a topology's text, whatever its files are called.
pub fn digest(sources: &[Source]) -> String {
    let texts: Vec<&str> = sources.iter().map(|source| source.text.as_str()).collect();
    format!("{:016x}", words(&texts))
}

/// What is remembered: a file of lines `DIGEST TOPOLOGY`, the oldest first.
#[derive(Clone, Debug)]
pub struct Memory {
    file: PathBuf,
}

impl Default for Memory {
    fn default() -> Self {
        Self::at(Path::new(DIRECTORY))
    }
}

impl Memory {
    /// The memory in a directory.
    pub fn at(directory: &Path) -> Self {
        Self { file: directory.join("unconfirmed") }
    }

    /// Whether a generation was not confirmed. One that cannot be read remembers nothing.
    pub fn has(&self, topology: &str, digest: &str) -> bool {
        self.lines().contains(&format!("{digest} {topology}"))
    }

    /// Remembers a generation until it is confirmed.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn remember(&self, topology: &str, digest: &str) -> std::io::Result<()> {
        let line = format!("{digest} {topology}");
        let mut lines = self.lines();
        lines.retain(|other| *other != line);
        lines.push(line);
        self.write(&lines[lines.len().saturating_sub(ENTRIES)..])
    }

    /// Forgets a generation: it is good, or somebody wants it in spite of all.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn forget(&self, topology: &str, digest: &str) -> std::io::Result<()> {
        if !self.has(topology, digest) {
            return Ok(());
        }
        let line = format!("{digest} {topology}");
        self.write(&self.lines().into_iter().filter(|other| *other != line).collect::<Vec<_>>())
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.file).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn write(&self, lines: &[String]) -> std::io::Result<()> {
        replace(&self.file, &(lines.join("\n") + "\n"))
    }
}

/// Puts a file in the place of another, or leaves that as it is.
pub(in crate::apply) fn replace(file: &Path, content: &str) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    let new = file.with_extension("new");
    let mut opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    opened.write_all(content.as_bytes())?;
    opened.sync_all()?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::scratch::Scratch;

    #[test]
    fn a_generation_is_remembered_until_it_is_forgotten() {
        let directory = Scratch::new("memory-one");
        let memory = Memory::at(&directory);
        assert!(!memory.has("shop", "a"));
        memory.remember("shop", "a").unwrap();
        memory.remember("blog", "a").unwrap();
        assert!(memory.has("shop", "a") && memory.has("blog", "a") && !memory.has("shop", "b"));
        memory.forget("shop", "a").unwrap();
        assert!(!memory.has("shop", "a") && memory.has("blog", "a"));
    }

    #[test]
    fn it_does_not_grow_for_ever_and_forgets_the_oldest() {
        let directory = Scratch::new("memory-many");
        let memory = Memory::at(&directory);
        for n in 0..ENTRIES + 10 {
            memory.remember("shop", &n.to_string()).unwrap();
        }
        assert!(!memory.has("shop", "9") && memory.has("shop", "10"));
        assert_eq!(memory.lines().len(), ENTRIES);
    }

    #[test]
    fn what_is_no_memory_remembers_nothing() {
        let directory = Scratch::new("memory-torn");
        let memory = Memory::at(&directory);
        memory.remember("shop", "a").unwrap();
        fs::write(&memory.file, b"\xff\xfe garbage").unwrap();
        assert!(!memory.has("shop", "a"));
        memory.remember("shop", "b").unwrap();
        assert!(memory.has("shop", "b"), "and can be written again");
    }

    #[test]
    fn the_digest_is_of_the_text_alone() {
        let source = |path: &str, text: &str| Source::new(path, text);
        assert_eq!(digest(&[source("a", "x")]), digest(&[source("b", "x")]));
        assert_ne!(digest(&[source("a", "x")]), digest(&[source("a", "y")]));
        assert_ne!(digest(&[source("a", "x"), source("b", "y")]), digest(&[source("a", "xy")]));
    }
}
