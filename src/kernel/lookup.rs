//! What messages name of the kernel's: indexes of links, and descriptors of namespaces.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::linux::Linux;
use crate::model::resource::Text;
use crate::model::wire::Lookup;

/// Looks up in the namespace that the calling thread is in.
pub(super) struct LaneLookup<'a> {
    linux: &'a Linux,
    netns: &'a Text,
    indexes: BTreeMap<Text, u32>,
    /// Descriptors named in messages that were not sent yet.
    held: Vec<OwnedFd>,
}

impl<'a> LaneLookup<'a> {
    /// Of a namespace that the calling thread is in.
    pub(super) fn new(linux: &'a Linux, netns: &'a Text) -> Self {
        Self { linux, netns, indexes: BTreeMap::new(), held: Vec::new() }
    }

    /// What was written has been sent, so the descriptors named in it are not needed any more.
    pub(super) fn let_go(&mut self) {
        self.held.clear();
    }

    /// Links have gone, and with them their indexes.
    pub(super) fn forget_links(&mut self) {
        self.indexes.clear();
    }
}

impl Lookup for LaneLookup<'_> {
    fn index(&mut self, netns: &str, link: &str) -> Option<u32> {
        if netns != &**self.netns {
            return None;
        }
        if let Some(index) = self.indexes.get(link) {
            return Some(*index);
        }
        let index = nix::net::if_::if_nametoindex(link).ok()?;
        self.indexes.insert(link.into(), index);
        Some(index)
    }

    fn netns_fd(&mut self, netns: &str) -> Option<RawFd> {
        let fd = self.linux.open(&netns.into()).ok()?;
        let raw = fd.as_raw_fd();
        self.held.push(fd);
        Some(raw)
    }
}

/// For messages that name nothing of the kernel's.
pub(super) struct NoLookup;

impl Lookup for NoLookup {
    fn index(&mut self, _: &str, _: &str) -> Option<u32> {
        None
    }

    fn netns_fd(&mut self, _: &str) -> Option<RawFd> {
        None
    }
}
