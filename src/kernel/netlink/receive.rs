//! Datagrams as they come: who sent them, and of which namespace they speak.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

use super::Socket;
use super::frame::Answer;
use crate::kernel::{KernelError, Malformed};

impl Socket {
    /// Adds the next datagram of what was asked, and tells where it begins. Linux has answered when it comes back from the
    /// question, and goes on with a dump as it is read; only if it should not have is there anything to wait for, as long as
    /// the limit.
    pub(super) fn hear(&self, answer: &mut Answer) -> Result<usize, KernelError> {
        match self.receive(answer, libc::MSG_DONTWAIT) {
            Err(KernelError::Lost(Errno::EAGAIN)) => {
                // Zero would mean for ever.
                let (seconds, microseconds) = (self.limit.as_secs().cast_signed(), self.limit.subsec_micros().max(1));
                let limit = libc::timeval { tv_sec: seconds, tv_usec: microseconds.into() };
                self.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &limit)?;
                self.receive(answer, 0)
            }
            heard => heard,
        }
    }

    /// Adds one datagram to the answer, and tells where it begins.
    pub(super) fn receive(&self, answer: &mut Answer, flags: i32) -> Result<usize, KernelError> {
        self.datagram(answer, flags, None)
    }

    /// Adds one datagram that nobody asked for, if there is one. Tells where it begins, and the nsid of the namespace that it
    /// speaks of, as the socket's own namespace numbers others; none: its own.
    pub(super) fn receive_notice(&self, answer: &mut Answer) -> Result<(usize, Option<i32>), KernelError> {
        let mut nsid = None;
        let at = self.datagram(answer, libc::MSG_DONTWAIT, Some(&mut nsid))?;
        Ok((at, nsid))
    }

    /// Adds one datagram that the kernel sent, and tells where it begins; where somebody wants to know, with the nsid that
    /// comes along. To make room for that takes longer.
    fn datagram(
        &self,
        answer: &mut Answer,
        flags: i32,
        mut of: Option<&mut Option<i32>>,
    ) -> Result<usize, KernelError> {
        let (fd, flags) = (self.fd.as_raw_fd(), libc::MSG_TRUNC | flags);
        loop {
            let room = answer.room();
            // Room for one control message with one number, aligned as its header has to be.
            let mut control = [0_u64; 4];
            let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            #[expect(
                unsafe_code,
                reason = "recvfrom(2) and recvmsg(2) with MSG_TRUNC, into room that is not cleared, which nix does not offer"
            )]
            // SAFETY: zeros are a valid address and header; the pointers are to live values and the lengths are theirs. The
            // header is read once recvmsg has filled it in.
            let (length, from) = unsafe {
                let mut from: libc::sockaddr_nl = std::mem::zeroed();
                let mut from_bytes = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
                let length = if let Some(of) = &mut of {
                    let mut header: libc::msghdr = std::mem::zeroed();
                    header.msg_name = (&raw mut from).cast();
                    header.msg_namelen = from_bytes;
                    header.msg_iov = &raw mut part;
                    header.msg_iovlen = 1;
                    header.msg_control = control.as_mut_ptr().cast();
                    header.msg_controllen = size_of_val(&control) as _;
                    let length = libc::recvmsg(fd, &raw mut header, flags);
                    **of = if length >= 0 { nsid(&header) } else { None };
                    length
                } else {
                    libc::recvfrom(fd, part.iov_base, part.iov_len, flags, (&raw mut from).cast(), &raw mut from_bytes)
                };
                (length, from)
            };
            match Errno::result(length) {
                Ok(length) if length.cast_unsigned() > room.len() => {
                    return Err(Malformed("longer than any answer is").into());
                }
                // Only the kernel answers; processes with privilege can write to our port as well.
                Ok(_) if from.nl_pid != 0 && i32::from(from.nl_family) == libc::AF_NETLINK => {}
                #[expect(unsafe_code, reason = "the room was filled by a system call")]
                // SAFETY: it has written so many bytes, which are no more than there is room.
                Ok(length) => return Ok(unsafe { answer.keep(length.cast_unsigned()) }),
                Err(Errno::EINTR) => {}
                Err(errno @ (Errno::EAGAIN | Errno::ENOBUFS)) => return Err(KernelError::Lost(errno)),
                Err(errno) => return Err(KernelError::system("netlink receive", errno)),
            }
        }
    }
}

/// The number in the control message of `NETLINK_LISTEN_ALL_NSID` (linux/netlink.h), if there is one.
///
/// # Safety
///
/// The header must be one that recvmsg(2) has just filled in.
#[expect(unsafe_code, reason = "cmsg(3) is a walk over raw bytes")]
unsafe fn nsid(header: &libc::msghdr) -> Option<i32> {
    // SAFETY: the kernel wrote the control messages, each at least as long as its header says.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(header).as_ref()?;
        let ours = first.cmsg_level == libc::SOL_NETLINK && first.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID;
        ours.then(|| libc::CMSG_DATA(first).cast::<i32>().read_unaligned())
    }
}
