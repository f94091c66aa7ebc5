//! One writer at a time on a host: flock(2) on a directory, which the kernel releases when its holder dies, however.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::KernelError;

/// The directory that is locked. An empty one: its existence is all there is to it.
const DIRECTORY: &str = "/run/netrec";

/// How often a lock that somebody holds is asked for again.
const RETRY: Duration = Duration::from_millis(50);

/// The right to write, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<File>,
}

/// Waits for the lock at most that long; none if somebody else has it still.
///
/// # Errors
///
/// When the directory cannot be made or locked.
pub fn acquire(timeout: Duration) -> Result<Option<Lock>, KernelError> {
    let until = Instant::now() + timeout;
    let failed = |error: &std::io::Error| KernelError::io(DIRECTORY, error);
    if !Path::new(DIRECTORY).is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY).map_err(|error| failed(&error))?;
    }
    let mut directory = File::open(DIRECTORY).map_err(|error| failed(&error))?;
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(Some(Lock { _held: held })),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < until => {
                directory = back;
                std::thread::sleep(RETRY.min(until.saturating_duration_since(Instant::now())));
            }
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(KernelError::system(DIRECTORY, errno)),
        }
    }
}
