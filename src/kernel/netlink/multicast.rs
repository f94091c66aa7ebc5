//! Hearing what nobody asked for: notifications of multicast groups.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

use super::frame::Answer;
use super::{Reply, Socket};
use crate::kernel::KernelError;

impl Socket {
    /// Hears the notifications of a multicast group (`RTNLGRP_*`, `NFNLGRP_*`) from now on.
    pub fn join(&mut self, group: u32) -> Result<(), KernelError> {
        // One that never asked anything has the port 0, as what the kernel announces by itself, and would be passed over.
        let any = nix::sys::socket::NetlinkAddr::new(0, 0);
        match nix::sys::socket::bind(self.fd.as_raw_fd(), &any) {
            // EINVAL: it has a port.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(KernelError::system("netlink bind", errno)),
        }
        self.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group)
    }

    /// Hears also those of other namespaces, as far as they have an nsid in the socket's own.
    ///
    /// # Errors
    ///
    /// [`KernelError::Unable`] without `CAP_NET_BROADCAST`.
    pub fn hear_all_namespaces(&mut self) -> Result<(), KernelError> {
        let set = self.set(libc::SOL_NETLINK, libc::NETLINK_LISTEN_ALL_NSID, &1_i32);
        set.map_err(|error| match error.errno() {
            Some(Errno::EPERM) => KernelError::unable(
                "CAP_NET_BROADCAST is missing",
                "without it nothing is heard of changes in containers; dist/netrec@.service has all that is needed",
            ),
            _ => error,
        })
    }

    /// Sets the room for notifications that nobody has read yet, in bytes; the kernel doubles it.
    pub fn set_receive_buffer(&mut self, bytes: i32) -> Result<(), KernelError> {
        self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes)
            .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes))
    }

    /// Hands over the notifications of one datagram, if one waits, each with the nsid of the namespace it is of (none: the
    /// socket's own); whether one did. Never waits itself.
    ///
    /// # Errors
    ///
    /// [`KernelError::Lost`] if notifications were dropped for want of room; those that follow are heard.
    pub fn overhear(&mut self, mut each: impl FnMut(Reply<'_>, Option<i32>)) -> Result<bool, KernelError> {
        let mut answer = Answer::take();
        match self.receive_notice(&mut answer) {
            Ok((at, nsid)) => {
                answer.since(at).try_for_each(|reply| reply.map(|reply| each(reply, nsid)))?;
                Ok(true)
            }
            Err(KernelError::Lost(Errno::EAGAIN)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
