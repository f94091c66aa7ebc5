//! Programs kept in memory between their runs.
//!
//! A host of virtual machines may have them page out what was read of files and nobody has mapped for a minute (DAMON's
//! `pageout` of unmapped pages, admin-guide/mm/damon). A program that runs for some milliseconds every few seconds is not seen to
//! be used, and read from the disk again, page by page: `netrec check` takes 15 ms so, and not 1.5. What is small loses least.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;

/// Keeps programs and the libraries that they are linked with in memory, as long as this process lives.
pub(super) fn in_memory(programs: impl Iterator<Item = PathBuf>) {
    let all: BTreeSet<PathBuf> =
        programs.flat_map(|program| libraries(&program).into_iter().chain([program])).collect();
    for file in all {
        map(&file).unwrap_or_else(|error| panic!("{} cannot be kept in memory: {error}", file.display()));
    }
}

/// As ldd(1) tells them; of a program that has none it says so in words.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let told = Command::new("ldd").arg(program).output().expect("ldd comes with the C library");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    told.split_ascii_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .filter(|it| it.is_file())
        .collect()
}

fn map(file: &Path) -> std::io::Result<()> {
    let file = File::open(file)?;
    let length = file.metadata()?.len() as usize;
    let (none, read, shared) = (std::ptr::null_mut(), libc::PROT_READ, libc::MAP_SHARED);
    #[expect(unsafe_code, reason = "mmap(2) and mlock(2): nobody reads through the mapping, and nothing ends it")]
    // SAFETY: a new mapping, at an address of the kernel's choice, that no reference is made into.
    let failed = unsafe {
        let at = libc::mmap(none, length, read, shared, file.as_raw_fd(), 0);
        at == libc::MAP_FAILED || libc::mlock(at, length) != 0
    };
    if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
