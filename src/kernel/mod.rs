//! The door: the only room that touches Linux.
//!
//! Blocking sockets with a time limit: the kernel does the work inside `sendmsg`, so waiting asynchronously gains nothing,
//! and a thread that is in another namespace must not be one of a pool.
//!
//! - [`netlink`]: requests, acknowledged one by one; dumps, whole or not at all.
//! - [`netns`]: finding, entering, making and removing network namespaces.
//! - [`ask`]: the questions that rtnetlink is asked.
//! - [`read`]: one complete look, as [`Facts`](crate::model::wire::Facts); [`decode`] reads the kernel's attributes.
//! - [`memory`], `netfilter`: what need not be asked again.
//! - [`sysctl`]: settings under `/proc/sys/net`.
//! - [`surroundings`]: who listens, whose rules there are, whom netrec is run by.
//! - [`descriptors`]: how many there may be, and room for them.
//! - [`privilege`], [`feature`]: whether this process and this kernel can do what is to be done, before anything is.
//! - [`throwaway`]: a host to rehearse on.
//! - [`events`]: what Linux announces, and who did it.

use nix::errno::Errno;

use crate::model::focus::{Focus, News};
use crate::model::observed::Observed;
use crate::model::resource::Step;
use crate::model::wire::Scope;

pub mod ask;
pub mod conntrack;
pub mod decode;
pub mod descriptors;
pub mod events;
pub mod feature;
#[cfg(test)]
mod forked;
mod kept;
mod lane;
pub mod linux;
pub mod listeners;
pub mod lock;
mod lookup;
pub mod memory;
pub mod names;
mod neighbours;
mod netfilter;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod privilege;
pub mod probe;
pub mod read;
mod run;
mod session;
pub mod simulated;
pub mod stop;
pub mod surroundings;
pub mod sysctl;
pub mod throwaway;
pub mod trace;
mod waves;

/// A kernel: Linux, or one that is simulated.
pub trait Kernel {
    /// Looks at everything in the scope.
    ///
    /// # Errors
    ///
    /// When any part could not be read completely: nothing is decided from part of a look.
    fn observe(&mut self, scope: &Scope) -> Result<Observed, KernelError>;

    /// Looks as well, and tells what is otherwise than at the look that was [settled](Self::settle) on, and how it is where
    /// that was `open`, if that is little. None says nothing: [`observe`](Self::observe) does. `anew`: with all that is of
    /// interest only to who decides anew what is wanted.
    ///
    /// # Errors
    ///
    /// Those of [`observe`](Self::observe).
    fn news(&mut self, scope: &Scope, open: &Focus, anew: bool) -> Result<Option<News>, KernelError> {
        let _ = (scope, open, anew);
        Ok(None)
    }

    /// From here on what is otherwise than at the last look is [news](Self::news).
    fn settle(&mut self) {}

    /// Whether this kernel has what the steps need, asked before the first of them is taken.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unable`], and nothing was changed.
    fn able(&mut self, steps: &[Step]) -> Result<(), KernelError> {
        let _ = steps;
        Ok(())
    }

    /// Takes the steps of a plan made from the last look, and tells of each how it ended. What does not wait for a
    /// failed step goes on. `progress` hears how many steps have ended.
    fn execute(&mut self, steps: &[Step], progress: &mut dyn FnMut(usize)) -> Vec<Result<(), KernelError>>;
}

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
    Malformed(#[from] Malformed),
    /// What stands where a network namespace is expected is none.
    #[error("{0}")]
    NotANamespace(String),
    /// A name that is no file name, or no setting under `net`.
    #[error("{0}")]
    BadName(String),
    /// What a message names is not there.
    #[error("{0}")]
    Missing(String),
    /// What was to be deleted is no longer what was looked at.
    #[error("{0} changed since it was looked at: left alone")]
    Changed(String),
    /// Somebody took away what a step had made before the step had ended.
    #[error("{0} went again while they were made")]
    Undone(&'static str),
    /// A step that this one waits for failed.
    #[error("not tried, as {0} failed")]
    Skipped(String),
    /// A privilege, or a feature of this kernel, is missing.
    #[error("{what}")]
    Unable {
        /// What is missing.
        what: String,
        /// Where it is to be had.
        hint: String,
    },
    /// Somebody asked to stop ([`stop`]) before this step was taken.
    #[error("not tried, as it was asked to stop")]
    Stopped,
    /// Another system call failed.
    #[error("{what}: {}", errno.desc())]
    System {
        /// What was tried, for a person.
        what: String,
        /// The error number.
        errno: Errno,
    },
}

/// What is wrong with an answer. Not a [`KernelError`] yet: of those that never happen, whoever reads bytes would drop some
/// with each byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

impl KernelError {
    /// A failed system call other than a netlink request.
    pub fn system(what: impl Into<String>, errno: Errno) -> Self {
        Self::System { what: what.into(), errno }
    }

    /// The same from the standard library's error; one that did not come from Linux counts as `EIO`.
    pub fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        Self::system(what, Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))
    }

    /// A privilege or a feature is missing, and where it is to be had.
    pub fn unable(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unable { what: what.into(), hint: hint.into() }
    }

    /// Whether a step failed only because it was never tried.
    pub fn is_consequence(&self) -> bool {
        matches!(self, Self::Skipped(_) | Self::Stopped)
    }

    /// The error number, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } | Self::System { errno, .. } | Self::Lost(errno) => Some(*errno),
            _ => None,
        }
    }
}

/// Errno and text in one line; many refusals have no text.
fn refusal(errno: Errno, text: &str) -> String {
    if text.is_empty() { errno.desc().to_owned() } else { format!("{text} ({})", errno.desc()) }
}

impl From<nft::NftError> for KernelError {
    fn from(error: nft::NftError) -> Self {
        match error {
            nft::NftError::Socket { what, source } => Self::io(format!("nftables: {what}"), &source),
            nft::NftError::Refused { source, text, .. } => Self::Refused {
                errno: Errno::from_raw(source.raw_os_error().unwrap_or(nix::libc::EIO)),
                text: format!("nftables {text}").trim_end().to_owned(),
                offset: None,
            },
            nft::NftError::Timeout => Self::Lost(Errno::EAGAIN),
            nft::NftError::Stale => Self::Changed("the nftables ruleset".into()),
            nft::NftError::Restless => Self::Interrupted(nft::LOOKS),
        }
    }
}
