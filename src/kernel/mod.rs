//! The door: the only room that touches Linux.
//!
//! Blocking sockets with a time limit, on threads of our own: the kernel does the work inside `sendmsg`, so waiting
//! asynchronously gains nothing, and a thread that changed its namespace must never go back to a pool.
//!
//! - [`netlink`]: requests, acknowledged one by one; dumps, whole or not at all.
//! - [`netns`]: finding, entering, making and removing network namespaces.
//! - [`read`]: one complete look, as [`Facts`](crate::model::wire::Facts); [`decode`] reads the kernel's attributes.
//! - [`sysctl`]: settings under `/proc/sys/net`.

use nix::errno::Errno;

pub mod decode;
pub mod netlink;
pub mod netns;
pub mod read;
pub mod sysctl;

/// Why Linux did not do, or did not say, what was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KernelError {
    /// A netlink request was answered with an error.
    #[error("{}", refusal(*errno, text))]
    Refused {
        /// The error number.
        errno: Errno,
        /// The kernel's own words (`NLMSGERR_ATTR_MSG`); empty where it has none.
        text: String,
        /// Offset in bytes of the offending attribute in the request (`NLMSGERR_ATTR_OFFS`).
        offset: Option<u32>,
    },
    /// A request may or may not have been carried out: its answer did not come in time (`EAGAIN`) or was dropped for
    /// want of room (`ENOBUFS`).
    #[error("no answer from the kernel: {}", .0.desc())]
    Lost(Errno),
    /// Every try of a dump was interrupted by changes.
    #[error("the kernel's tables changed during each of {0} looks")]
    Interrupted(u32),
    /// The kernel's answer is not netlink as documented, or longer than we read.
    #[error("unreadable answer from the kernel: {0}")]
    Malformed(&'static str),
    /// What stands where a network namespace is expected is none.
    #[error("{0}")]
    NotANamespace(String),
    /// A name that is no file name, or no setting under `net`.
    #[error("{0}")]
    BadName(String),
    /// Another system call failed.
    #[error("{what}: {}", errno.desc())]
    System {
        /// What was tried, for a person.
        what: String,
        /// The error number.
        errno: Errno,
    },
}

impl KernelError {
    /// A failed system call other than a netlink request.
    pub fn system(what: impl Into<String>, errno: Errno) -> Self {
        Self::System { what: what.into(), errno }
    }

    /// The same from the standard library's error; one that did not come from Linux counts as `EIO`.
    pub fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        Self::system(what, Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))
    }

    /// The error number, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } | Self::System { errno, .. } | Self::Lost(errno) => Some(*errno),
            Self::Interrupted(_) | Self::Malformed(_) | Self::NotANamespace(_) | Self::BadName(_) => None,
        }
    }
}

/// Errno and text in one line; many refusals have no text.
fn refusal(errno: Errno, text: &str) -> String {
    if text.is_empty() { errno.desc().to_owned() } else { format!("{text} ({})", errno.desc()) }
}
