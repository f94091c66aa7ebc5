//! Network namespaces: found by name, path or process, entered and left again, made and removed by name.
//!
//! Names live under `/run/netns` and are made as ip-netns(8) makes them, so `ip netns` and netrec see the same ones.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::KernelError;
use crate::beside;
use crate::model::resource::Text;
use crate::model::wire::NetnsRef;

mod names;

pub use names::{Born, Creation, Listing, create, create_beside, delete, names};

/// Where names of namespaces live.
pub const DIRECTORY: &str = "/run/netns";

/// The namespace of the calling thread; `self` would be that of the process's first thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// How often the way back is tried, and the pause between.
const RETURNS: u32 = 100;
const RETURN_PAUSE: Duration = Duration::from_millis(20);

/// What is read at most of a file that no namespace is bound over, in bytes.
const CONTENT_BYTES: u64 = 256;

/// What stands behind a name or a path.
#[derive(Debug)]
pub enum Found {
    /// A network namespace. The descriptor keeps it alive.
    Bound(OwnedFd, Identity),
    /// A regular file under [`DIRECTORY`] that no namespace is bound over, with the first 256 bytes of its content.
    Unbound(String),
    /// Nothing, for the reason given.
    Absent(String),
}

/// A namespace as long as it lives: device and inode of its file. The numbers are used again later.
pub type Identity = (u64, u64);

/// Looks for a namespace.
///
/// # Errors
///
/// [`KernelError::NotANamespace`] for anything else than a network namespace; `System` if it cannot be opened for
/// another reason than that it is not there.
pub fn find(netns: &NetnsRef) -> Result<Found, KernelError> {
    match netns {
        NetnsRef::Named(name) => by_name(name),
        NetnsRef::Path(path) => by_path(Path::new(path)),
        NetnsRef::Pid(pid) => by_pid(*pid),
    }
}

/// The namespace of the calling thread.
pub fn own() -> Result<OwnedFd, KernelError> {
    File::open(OWN).map(Into::into).map_err(|error| KernelError::io(OWN, &error))
}

/// The identity of an open namespace.
pub fn identity(netns: BorrowedFd<'_>) -> Result<Identity, KernelError> {
    let stat = nix::sys::stat::fstat(netns).map_err(|errno| KernelError::system("namespace identity", errno))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The identity of a namespace without opening it, if one stands there: cheap enough to ask often.
pub fn glance(netns: &NetnsRef) -> Option<Identity> {
    identity_of(&fs::metadata(file_of(netns)?).ok()?)
}

/// The identity of a namespace of whatever kind, if the file is one: all live in one file system (nsfs), that of our own.
fn identity_of(file: &fs::Metadata) -> Option<Identity> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    let device = *DEVICE.get_or_init(|| fs::metadata(OWN).ok().map(|own| own.dev()));
    (Some(file.dev()) == device).then(|| (file.dev(), file.ino()))
}

/// Whether a namespace is of a user namespace that is none of ours, nor below (`NS_GET_USERNS`, `ioctl_nsfs(2)`): only there
/// the kernel does not say which.
pub(super) fn is_beyond(netns: BorrowedFd<'_>) -> bool {
    #[expect(unsafe_code, reason = "an ioctl without argument, on a file of nsfs")]
    // SAFETY: no pointers; the descriptor, if one comes, is owned by nobody else.
    unsafe {
        match Errno::result(libc::ioctl(netns.as_raw_fd(), libc::NS_GET_USERNS)) {
            Ok(fd) => drop(OwnedFd::from_raw_fd(fd)),
            Err(errno) => return errno == Errno::EPERM,
        }
    }
    false
}

/// The file that stands for a namespace, there or not; none for a name that cannot be one.
pub fn file_of(netns: &NetnsRef) -> Option<PathBuf> {
    match netns {
        NetnsRef::Named(name) => path_of(name).ok(),
        NetnsRef::Path(path) => Some(PathBuf::from(path)),
        NetnsRef::Pid(pid) => Some(PathBuf::from(format!("/proc/{pid}/ns/net"))),
    }
}

/// Processes by the namespace of their first thread. Reads `/proc` once; processes that end meanwhile, or that we may
/// not look into, are left out.
pub fn processes() -> Result<BTreeMap<Identity, Vec<u32>>, KernelError> {
    let mut processes = BTreeMap::<Identity, Vec<u32>>::new();
    for entry in fs::read_dir("/proc").map_err(|error| KernelError::io("/proc", &error))?.map_while(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(netns) = fs::metadata(entry.path().join("ns/net")) {
            processes.entry((netns.dev(), netns.ino())).or_default().push(pid);
        }
    }
    Ok(processes)
}

/// The right to change the namespace of the calling thread. It exists only where that goes back, or ends, with the visits.
#[derive(Debug)]
pub struct Visitor<'a> {
    way_back: Option<&'a WayBack>,
    away: Cell<bool>,
}

impl<'a> Visitor<'a> {
    fn new(way_back: Option<&'a WayBack>) -> Self {
        Self { way_back, away: Cell::new(false) }
    }

    /// [Looks](find()) for a namespace from where the calling thread came from, if it can go back: what a path stands for
    /// may depend on that (`/proc/self/ns/net`), what a name stands for does not, unless somebody made a link of it.
    pub fn find(&self, netns: &NetnsRef) -> Result<Found, KernelError> {
        let by_name = matches!(netns, NetnsRef::Named(_));
        self.way_back.filter(|_| !by_name && self.away.take()).inspect(|way_back| way_back.take());
        find(netns)
    }

    /// Puts the calling thread into a namespace (setns(2)).
    pub fn enter(&self, netns: BorrowedFd<'_>) -> Result<(), KernelError> {
        self.away.set(true);
        nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| KernelError::system("enter a network namespace", errno))
    }
}

/// The calling thread's way back to the namespace it is in.
#[derive(Debug)]
struct WayBack(OwnedFd);

impl WayBack {
    /// None where whoever leaves may not come back: that takes `CAP_SYS_ADMIN` over the namespace (setns(2)).
    fn mark() -> Option<Self> {
        let own = own().ok()?;
        nix::sched::setns(&own, CloneFlags::CLONE_NEWNET).ok()?;
        Some(Self(own))
    }

    fn take(&self) {
        // It was possible a moment ago: what may fail is to find memory for it.
        for _ in 0..RETURNS {
            match nix::sched::setns(&self.0, CloneFlags::CLONE_NEWNET) {
                Ok(()) => return,
                Err(errno) => tracing::error!(%errno, "no way back from a container's network namespace yet"),
            }
            std::thread::sleep(RETURN_PAUSE);
        }
        // Whatever came next would be done to somebody else.
        std::process::abort();
    }
}

impl Drop for WayBack {
    fn drop(&mut self) {
        self.take();
    }
}

/// Runs what may change the namespace of its thread: on the calling one, which goes back, as a thread of its own costs
/// more than a visit; where there is no way back, on one that ends.
fn away<R: Send>(run: impl FnOnce(Option<&WayBack>) -> R + Send) -> R {
    if let Some(way_back) = WayBack::mark() {
        return run(Some(&way_back));
    }
    let run = || run(None);
    std::thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Does something with each item, going from namespace to namespace, on up to so many further threads; with none, on the
/// calling one where that may come back. Results are in the order of the items.
pub fn visit<T: Sync, R: Send>(items: &[T], others: usize, each: impl Fn(&Visitor<'_>, &T) -> R + Sync) -> Vec<R> {
    visit_beside(items, others, each, || ()).0
}

/// The same, and something else where the calling thread is, beside the others or before it goes itself.
pub fn visit_beside<T: Sync, R: Send, B>(
    items: &[T],
    others: usize,
    each: impl Fn(&Visitor<'_>, &T) -> R + Sync,
    beside: impl FnOnce() -> B,
) -> (Vec<R>, B) {
    let (others, next) = (others.min(items.len()), AtomicUsize::new(0));
    let work = |way_back: Option<&WayBack>| {
        let (mut done, visitor) = (Vec::new(), Visitor::new(way_back));
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, each(&visitor, item)));
        }
    };
    let (done, (own, beside)) = beside::scoped(
        others,
        || work(None),
        // The calling thread goes by itself also where no other can be started (`pids.max`). Beside others it stays:
        // `/proc/self` is where the process's first is.
        |threads| {
            let beside = beside();
            (if threads == 0 && !items.is_empty() { away(work) } else { Vec::new() }, beside)
        },
    );
    let mut all = own;
    all.extend(done.into_iter().flatten());
    all.sort_unstable_by_key(|(at, _)| *at);
    (all.into_iter().map(|(_, result)| result).collect(), beside)
}

/// Runs something in a namespace.
pub fn inside<R: Send>(netns: BorrowedFd<'_>, run: impl FnOnce() -> R + Send) -> Result<R, KernelError> {
    away(|way_back| Visitor::new(way_back).enter(netns).map(|()| run()))
}

/// The path of a name.
///
/// # Errors
///
/// [`KernelError::BadName`] if it could lead out of [`DIRECTORY`].
fn path_of(name: &str) -> Result<PathBuf, KernelError> {
    if name.is_empty() || name.len() > 255 || matches!(name, "." | "..") || name.contains(['/', '\0']) {
        return Err(KernelError::BadName(format!("`{name}` cannot be the name of a namespace")));
    }
    Ok(Path::new(DIRECTORY).join(name))
}

/// Why nothing is found by a name.
pub(super) fn nobody(name: &str) -> String {
    format!("no namespace is named {name}")
}

/// What stands behind a name under [`DIRECTORY`].
pub fn by_name(name: &str) -> Result<Found, KernelError> {
    let path = path_of(name)?;
    let Some(file) = open(&path)? else {
        // A link that leads nowhere, such as to a process that has ended: its name is taken nevertheless.
        let linked = fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_symlink());
        return if linked { Err(not_one(&path)) } else { Ok(Found::Absent(nobody(name))) };
    };
    let facts = facts(&file, &path)?;
    if let Some(identity) = identity_of(&facts) {
        return network_namespace(file, identity, &path);
    }
    if !facts.is_file() {
        return Err(not_one(&path));
    }
    let mut content = Vec::new();
    file.take(CONTENT_BYTES)
        .read_to_end(&mut content)
        .map_err(|error| KernelError::io(path.display().to_string(), &error))?;
    Ok(Found::Unbound(String::from_utf8_lossy(&content).into_owned()))
}

/// A path is the user's, so its file system is checked before it is opened: opening a device or a pipe has effects.
fn by_path(path: &Path) -> Result<Found, KernelError> {
    match statfs(path) {
        Ok(found) if found.filesystem_type() == NSFS_MAGIC => {}
        Ok(_) => return Err(not_one(path)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Found::Absent(format!("{} is not there", path.display()))),
        // A process of somebody else, or one that may do more than we (ptrace(2), access mode checking).
        Err(Errno::EACCES) if path.starts_with("/proc") => {
            let hint =
                "it takes CAP_SYS_PTRACE, as dist/netrec@.service has it, and no security module that forbids it";
            return Err(KernelError::unable(format!("{} may not be looked into", path.display()), hint));
        }
        Err(errno) => return Err(KernelError::system(path.display().to_string(), errno)),
    }
    let Some(file) = open(path)? else { return Ok(Found::Absent(format!("{} is not there", path.display()))) };
    match identity_of(&facts(&file, path)?) {
        Some(identity) => network_namespace(file, identity, path),
        None => Err(not_one(path)),
    }
}

/// The process is held by a pidfd and is still alive after its namespace was opened, so the number was not used again
/// in between.
fn by_pid(pid: u32) -> Result<Found, KernelError> {
    let absent = || Ok(Found::Absent(format!("process {pid} is not there")));
    let Ok(number) = libc::pid_t::try_from(pid) else { return absent() };
    #[expect(unsafe_code, reason = "pidfd_open(2), which nix does not have")]
    // SAFETY: no pointers; the descriptor is owned by nobody else.
    let process = unsafe {
        match Errno::result(libc::syscall(libc::SYS_pidfd_open, number, 0)) {
            Ok(fd) => OwnedFd::from_raw_fd(fd as i32),
            // EINVAL: 0, or the number of a thread.
            Err(Errno::ESRCH | Errno::EINVAL) => return absent(),
            Err(errno) => return Err(KernelError::system(format!("process {pid}"), errno)),
        }
    };
    let found = by_path(&PathBuf::from(format!("/proc/{pid}/ns/net")))?;
    #[expect(unsafe_code, reason = "pidfd_send_signal(2), which nix does not have")]
    // SAFETY: signal 0 is none, it only asks whether the process is there; the null pointer is allowed.
    let alive = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), 0, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if matches!(found, Found::Bound(..)) && Errno::result(alive) != Err(Errno::ESRCH) { Ok(found) } else { absent() }
}

/// Opens a file without waiting for whatever it may be; none if it is not there.
fn open(path: &Path) -> Result<Option<File>, KernelError> {
    match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(KernelError::io(path.display().to_string(), &error)),
    }
}

fn facts(file: &File, path: &Path) -> Result<fs::Metadata, KernelError> {
    file.metadata().map_err(|error| KernelError::io(path.display().to_string(), &error))
}

/// Checks that a namespace is one of the network (`NS_GET_NSTYPE`, `ioctl_nsfs(2)`).
fn network_namespace(file: File, identity: Identity, path: &Path) -> Result<Found, KernelError> {
    #[expect(unsafe_code, reason = "an ioctl without argument, on a file of nsfs")]
    // SAFETY: no pointers; nsfs was checked, so the number means what we mean.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    match Errno::result(kind) {
        Ok(libc::CLONE_NEWNET) => Ok(Found::Bound(file.into(), identity)),
        Ok(_) => Err(not_one(path)),
        Err(errno) => Err(KernelError::system(path.display().to_string(), errno)),
    }
}

/// How to find a namespace by the name that ids use.
pub(super) fn reference(containers: &BTreeMap<Text, NetnsRef>, netns: &Text) -> NetnsRef {
    containers.get(netns).cloned().unwrap_or_else(|| NetnsRef::Named(netns.clone()))
}

fn not_one(path: &Path) -> KernelError {
    KernelError::NotANamespace(format!("{} is not a network namespace", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::kernel::forked::forked;

    /// `/proc/self/ns/net` is where the process's first thread is, which a test of several is not.
    #[test]
    fn whoever_helps_finds_the_process_where_it_is() {
        assert!(forked(all_are_found_at_home));
    }

    fn all_are_found_at_home() -> bool {
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).unwrap();
        let home = own().unwrap();
        let at_home = identity(home.as_fd()).unwrap();
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let away = own().unwrap();
        nix::sched::setns(&home, CloneFlags::CLONE_NEWNET).unwrap();
        let process = NetnsRef::Path("/proc/self/ns/net".into());
        let look = |visitor: &Visitor<'_>, (): &()| {
            let Ok(Found::Bound(_, found)) = visitor.find(&process) else { return false };
            visitor.enter(away.as_fd()).unwrap();
            std::thread::sleep(Duration::from_millis(1));
            found == at_home
        };
        // On threads of their own; on this one, which goes away itself.
        let found = [4, 0].map(|others| visit(&[(); 64], others, look));
        found.into_iter().flatten().all(|at_home| at_home)
    }
}
