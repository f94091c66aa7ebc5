//! What messages name of the kernel's: indexes of links, and descriptors of namespaces.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use super::linux::Linux;
use super::netlink::Socket;
use super::netns::Born;
use crate::model::resource::Text;

/// What is known by name in a lane.
pub(super) struct Names<'a> {
    linux: &'a Linux,
    born: &'a BTreeMap<Text, Born>,
    indexes: BTreeMap<Text, u32>,
    /// Descriptors named in messages that were not sent yet.
    held: Vec<OwnedFd>,
}

impl<'a> Names<'a> {
    pub(super) fn new(linux: &'a Linux, born: &'a BTreeMap<Text, Born>) -> Self {
        Self { linux, born, indexes: BTreeMap::new(), held: Vec::new() }
    }

    /// What was written has been sent, so the descriptors named in it are not needed any more.
    pub(super) fn let_go(&mut self) {
        self.held.clear();
    }

    /// Links have gone, and with them their indexes.
    pub(super) fn forget_links(&mut self) {
        self.indexes.clear();
    }

    /// The index of a link in the socket's namespace.
    pub(super) fn index(&mut self, socket: &Socket, link: &str) -> Option<u32> {
        if let Some(index) = self.indexes.get(link) {
            return Some(*index);
        }
        let index = index(socket, link)?;
        self.indexes.insert(link.into(), index);
        Some(index)
    }

    pub(super) fn netns_fd(&mut self, netns: &str) -> Option<RawFd> {
        if let Some(born) = self.born.get(netns) {
            return Some(born.netns.as_raw_fd());
        }
        let fd = self.linux.open(&netns.into()).ok()?;
        let raw = fd.as_raw_fd();
        self.held.push(fd);
        Some(raw)
    }
}

/// Asks of any socket (netdevice(7)): what one of netlink does not know, it hands on.
fn index(socket: &Socket, link: &str) -> Option<u32> {
    #[expect(unsafe_code, reason = "SIOCGIFINDEX, which nix only asks with a socket of its own")]
    // SAFETY: zeros are a valid request; the kernel reads the name, which ends with NUL, and writes into the request only.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        let (last, name) = request.ifr_name.split_last_mut()?;
        *last = 0;
        name.get_mut(..link.len())?
            .iter_mut()
            .zip(link.bytes())
            .for_each(|(to, byte)| *to = libc::c_char::from_ne_bytes([byte]));
        Errno::result(libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request)).ok()?;
        u32::try_from(request.ifr_ifru.ifru_ifindex).ok()
    }
}
