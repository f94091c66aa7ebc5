//! The user's files.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::model::diagnostic::Diagnostic;
use crate::model::parse::parse_again;
use crate::model::source::{Source, Sources};
use crate::model::topology::Topology;

/// A file may be that long, in bytes.
const FILE_BYTES: u64 = 4 << 20;

/// Files that one topology may consist of.
const FILES: usize = 1_000;

/// A topology and the text it was read from.
pub(super) struct Loaded {
    pub(super) topology: Topology,
    pub(super) sources: Sources,
}

/// Reads files, and the `*.toml` of directories in the order of their names, as one topology.
pub(super) fn load(paths: &[PathBuf]) -> Result<Loaded, Failure> {
    understand(read_all(paths)?, None)
}

/// The text of all files, complete or not at all.
pub(super) fn read_all(paths: &[PathBuf]) -> Result<Sources, Failure> {
    let mut files = Vec::new();
    let mut findings = Vec::new();
    for path in paths {
        match expand(path) {
            Ok(found) => files.extend(found),
            Err(error) => findings.push(Diagnostic::new(error)),
        }
    }
    if files.len() > FILES {
        findings.push(Diagnostic::new(format!("{} files are more than one topology may have: {FILES}", files.len())));
        files.truncate(FILES);
    }
    let mut sources = Sources::new();
    for file in files {
        match read(&file) {
            Ok(text) => sources.push(Source::new(file.display().to_string(), text)),
            Err(error) => findings.push(Diagnostic::new(error)),
        }
    }
    if findings.is_empty() { Ok(sources) } else { Err(Failure::invalid(findings.into(), &sources)) }
}

/// What the text says; `before`: what was read before, which is shared where it says the same.
pub(super) fn understand(sources: Sources, before: Option<(&Topology, &[Source])>) -> Result<Loaded, Failure> {
    match parse_again(&sources, before) {
        Ok(topology) => Ok(Loaded { topology, sources }),
        Err(findings) => Err(Failure::invalid(findings, &sources)),
    }
}

/// The files that a path stands for: itself, or those of a directory.
pub(super) fn expand(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |error: std::io::Error| format!("cannot read directory `{}`: {error}", path.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        files.push(entry.map_err(failed)?.path());
    }
    files.retain(|file| counts(file));
    files.sort();
    if files.is_empty() {
        return Err(format!("directory `{}` has no `*.toml`", path.display()));
    }
    Ok(files)
}

/// Whether a file counts in a directory that is given as a whole.
pub(super) fn counts(file: &Path) -> bool {
    let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && file.extension().is_some_and(|extension| extension == "toml")
}

fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
    // Asked before opening: opening a FIFO waits for a writer, perhaps for ever.
    let facts = fs::metadata(path).map_err(failed)?;
    if !facts.is_file() {
        return Err(format!("`{}` is not a file", path.display()));
    }
    let mut bytes = Vec::with_capacity(facts.len().min(FILE_BYTES) as usize + 1);
    File::open(path).map_err(failed)?.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(format!("`{}` is longer than {} MiB", path.display(), FILE_BYTES >> 20));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("`{}` is not UTF-8 from byte {} on", path.display(), error.utf8_error().valid_up_to()))
}
