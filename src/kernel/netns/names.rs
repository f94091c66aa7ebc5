//! Names of namespaces: listed, made with a mark, removed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg};
use nix::libc;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::{DIRECTORY, OWN, Visitor, own, path_of, visit_beside};
use crate::kernel::netlink::{self, Protocol, Socket};
use crate::kernel::{KernelError, descriptors};

/// A named namespace to be made.
#[derive(Clone, Copy, Debug)]
pub struct Creation<'a> {
    /// Its name.
    pub name: &'a str,
    /// Content of its file, complete before the name exists and until the namespace is bound over it.
    pub mark: &'a str,
    /// rtnetlink requests inside, with flags, before the namespace gets its name.
    pub setup: &'a [(RouteNetlinkMessage, u16)],
}

/// A namespace that was just made, for what is said to it first; later it is found by its name. Both keep it alive.
#[derive(Debug)]
pub struct Born {
    /// Stands for it in messages.
    pub netns: OwnedFd,
    /// A socket of rtnetlink in it.
    pub socket: Socket,
}

/// What is in [`DIRECTORY`], by name: whether it may be a namespace or the remains of one, as regular files may. Symbolic
/// links are other people's second names of something.
#[derive(Debug)]
pub struct Listing(BTreeMap<String, bool>);

impl Listing {
    /// Of now; empty where the directory is not there.
    pub fn take() -> Result<Self, KernelError> {
        let entries = match fs::read_dir(DIRECTORY) {
            Ok(entries) => entries,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Self(BTreeMap::new())),
            Err(error) => return Err(KernelError::io(DIRECTORY, &error)),
        };
        let mut listing = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(|error| KernelError::io(DIRECTORY, &error))?;
            let may_be = entry.file_type().is_ok_and(|kind| kind.is_file());
            listing.extend(entry.file_name().into_string().map(|name| (name, may_be)));
        }
        Ok(Self(listing))
    }

    /// Whether nothing has a name that something could have.
    pub fn lacks(&self, name: &str) -> bool {
        path_of(name).is_ok() && !self.0.contains_key(name)
    }

    /// What may be namespaces, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|(name, may_be)| may_be.then_some(name.as_str()))
    }
}

/// The names that may be namespaces, sorted.
pub fn names() -> Result<Vec<String>, KernelError> {
    Ok(Listing::take()?.names().map(ToOwned::to_owned).collect())
}

/// Makes named namespaces, in order. The mark comes before the binding, and all of the setup too, so that a kill leaves
/// either a file that bears the mark or a namespace that is finished.
///
/// # Errors
///
/// For each by itself; what was made of it is removed again. `EEXIST` if something has that name.
pub fn create(creations: &[Creation<'_>]) -> Vec<Result<(), KernelError>> {
    make(creations, 0, drop, || ()).0
}

/// The same, on up to so many further threads in no order, and something else where the calling one is. What was made is
/// given to be furnished, as long as there are descriptors to spare.
pub fn create_beside<B>(
    creations: &[Creation<'_>],
    others: usize,
    beside: impl FnOnce() -> B,
) -> (Vec<Result<Option<Born>, KernelError>>, B) {
    make(creations, others, |born| born, beside)
}

fn make<T: Send, B>(
    creations: &[Creation<'_>],
    others: usize,
    keep: impl Fn(Option<Born>) -> T + Sync,
    beside: impl FnOnce() -> B,
) -> (Vec<Result<T, KernelError>>, B) {
    let directory = OnceLock::new();
    let create = |_: &Visitor<'_>, creation: &Creation<'_>| {
        directory.get_or_init(prepare_directory).clone()?;
        create_one(creation).map(&keep)
    };
    visit_beside(creations, others, create, beside)
}

/// Removes a name, whatever stands behind it, and the namespace, if nothing else holds it. A name that is gone already is
/// no error.
pub fn delete(name: &str) -> Result<(), KernelError> {
    // A name can be mounted over several times; each pass takes one off.
    const LAYERS: usize = 16;

    let path = path_of(name)?;
    netlink::count_writes(1);
    for _ in 0..LAYERS {
        match nix::mount::umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: nothing is mounted there.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(KernelError::system(format!("unmount {}", path.display()), errno)),
        }
        match nix::unistd::unlink(&path) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            // Something is still mounted there.
            Err(Errno::EBUSY) => {}
            Err(errno) => return Err(KernelError::system(format!("remove {}", path.display()), errno)),
        }
    }
    Err(KernelError::system(format!("remove {}", path.display()), Errno::EBUSY))
}

/// Makes [`DIRECTORY`] a mount point of its own whose mounts reach other mount namespaces, as `ip netns add` does:
/// else a name made here could not be removed while a service with a private mount namespace has a copy of it.
fn prepare_directory() -> Result<(), KernelError> {
    let directory = Path::new(DIRECTORY);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|error| KernelError::io(DIRECTORY, &error))?;
    let lock = File::open(directory).map_err(|error| KernelError::io(DIRECTORY, &error))?;
    // `ip netns add` takes the same lock; without it two of us could mount the directory onto itself twice.
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| KernelError::system(format!("lock {DIRECTORY}"), errno))?;
    let none = None::<&Path>;
    let share = || nix::mount::mount(none, directory, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    let shared = match share() {
        Err(Errno::EINVAL) => {
            nix::mount::mount(Some(directory), directory, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
                .and_then(|()| share())
        }
        result => result,
    };
    shared.map_err(|errno| KernelError::system(format!("share {DIRECTORY}"), errno))
}

fn create_one(creation: &Creation<'_>) -> Result<Option<Born>, KernelError> {
    let path = path_of(creation.name)?;
    netlink::count_writes(1);
    write_marked(&path, creation.mark)?;
    let result = bind_new(&path, creation.setup);
    if result.is_err() {
        // Ours: it was made a moment ago, and only if nothing was there.
        let _ = delete(creation.name);
    }
    result
}

/// Makes the file so that it appears with its content, or not at all: written without a name first, then linked.
fn write_marked(path: &Path, mark: &str) -> Result<(), KernelError> {
    let failed = |error: std::io::Error| KernelError::io(format!("make {}", path.display()), &error);
    let mut options = OpenOptions::new();
    options.write(true).mode(0o444);
    match options.clone().custom_flags(libc::O_TMPFILE).open(DIRECTORY) {
        Ok(mut file) => {
            file.write_all(mark.as_bytes()).map_err(failed)?;
            let unnamed = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
            let here = nix::fcntl::AT_FDCWD;
            nix::unistd::linkat(here, unnamed.as_str(), here, path, AtFlags::AT_SYMLINK_FOLLOW)
                .map_err(|errno| failed(errno.into()))
        }
        // A file system without unnamed files: a kill between the next two lines leaves an empty file.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let mut file = options.create_new(true).open(path).map_err(failed)?;
            file.write_all(mark.as_bytes()).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Leaves the calling thread in the new namespace. What that was made with is given as long as there are descriptors to spare.
fn bind_new(path: &Path, setup: &[(RouteNetlinkMessage, u16)]) -> Result<Option<Born>, KernelError> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| KernelError::system("make a network namespace", errno))?;
    let mut socket = Socket::open(Protocol::Route)?;
    socket.batch(setup).into_iter().collect::<Result<(), _>>()?;
    nix::mount::mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|errno| KernelError::system(format!("bind {}", path.display()), errno))?;
    let spare = descriptors::may_hold(socket.as_fd());
    Ok(if spare { own().ok().map(|netns| Born { netns, socket }) } else { None })
}
