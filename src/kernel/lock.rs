//! One writer at a time on a host, one watcher a topology: flock(2), which the kernel releases when the holder dies,
//! however.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::KernelError;

/// The directory that is locked: for writers its existence is all there is to it. Watchers have their locks and sockets
/// in it.
pub const DIRECTORY: &str = "/run/netrec";

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
    make_directory()?;
    wait_for(File::open(DIRECTORY).map_err(|error| KernelError::io(DIRECTORY, &error))?, timeout)
}

/// The right to watch a topology, which one process at a time has; none if another one has it.
///
/// # Errors
///
/// As [`acquire`].
pub fn watch(topology: &str) -> Result<Option<Lock>, KernelError> {
    make_directory()?;
    let path = Path::new(DIRECTORY).join(format!("{topology}.lock"));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    wait_for(file.map_err(|error| KernelError::io(path.display().to_string(), &error))?, Duration::ZERO)
}

fn make_directory() -> Result<(), KernelError> {
    if Path::new(DIRECTORY).is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY);
    made.map_err(|error| KernelError::io(DIRECTORY, &error))
}

fn wait_for(mut directory: File, timeout: Duration) -> Result<Option<Lock>, KernelError> {
    let until = Instant::now() + timeout;
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
