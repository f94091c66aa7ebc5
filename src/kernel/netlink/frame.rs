//! Netlink's framing: headers, attributes, errors and ends, read without trust in lengths.

use std::borrow::Cow;
use std::cell::Cell;
use std::mem::MaybeUninit;

use nix::errno::Errno;
use nix::libc;
use rtnetlink::packet_core::NLA_TYPE_MASK;

use super::{HEADER, Reply};
use crate::kernel::{KernelError, Malformed};

/// Room for one datagram. The kernel cuts dumps at 32 KiB; a link with hundreds of virtual functions is longer.
const DATAGRAM_BYTES: usize = 256 << 10;

/// Appends a message and returns the place of its payload, zeroed.
pub(super) fn begin(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: usize) -> &mut [u8] {
    let start = bytes.len();
    bytes.reserve(HEADER + payload.next_multiple_of(4));
    let flags = flags | libc::NLM_F_REQUEST as u16;
    bytes.extend_from_slice(&((HEADER + payload) as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.resize(start + HEADER + payload.next_multiple_of(4), 0);
    &mut bytes[start + HEADER..start + HEADER + payload]
}

/// Sets `NLM_F_ACK` on the message of that position among the encoded ones.
pub(super) fn ask_acknowledgement(bytes: &mut [u8], position: usize) {
    let mut at = 0;
    for _ in 0..position {
        at += (u32_at(bytes, at).unwrap_or(0) as usize).next_multiple_of(4);
    }
    if let Some(flags) = bytes.get_mut(at + 6..at + 8) {
        let value = u16::from_ne_bytes([flags[0], flags[1]]) | libc::NLM_F_ACK as u16;
        flags.copy_from_slice(&value.to_ne_bytes());
    }
}

thread_local! {
    /// The answer buffer of a thread, taken while in use: it need not be mapped anew for each socket.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A datagram of a dump, or those received for one request, one after the other.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// An empty one.
    pub(super) fn take() -> Self {
        let mut answer = Self(BUFFER.take());
        answer.clear();
        answer
    }

    /// Forgets what was received.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Where the next datagram goes. What none reaches is never touched.
    pub(super) fn room(&mut self) -> &mut [MaybeUninit<u8>] {
        if self.0.capacity() == 0 {
            self.0.reserve_exact(2 * DATAGRAM_BYTES); // of two datagrams the first is short
        }
        self.0.reserve(DATAGRAM_BYTES);
        &mut self.0.spare_capacity_mut()[..DATAGRAM_BYTES]
    }

    /// Keeps a datagram that was put into the room; returns where it begins.
    ///
    /// # Safety
    ///
    /// So many bytes of the room have been written.
    #[expect(unsafe_code, reason = "what a system call has written is known to nobody else")]
    pub(super) unsafe fn keep(&mut self, length: usize) -> usize {
        let start = self.0.len();
        // SAFETY: they are behind what is there already, and written.
        unsafe { self.0.set_len(start + length) };
        start
    }

    /// All messages from that place on.
    pub(super) fn since(&self, start: usize) -> Replies<'_> {
        Replies { rest: &self.0[start..] }
    }

    /// The messages that answer a request, without acknowledgements and ends.
    pub(super) fn replies(&self, sequence: u32) -> impl Iterator<Item = Result<Reply<'_>, Malformed>> {
        self.since(0).filter(move |reply| {
            reply
                .as_ref()
                .map_or(true, |reply| reply.sequence == sequence && i32::from(reply.kind) >= libc::NLMSG_MIN_TYPE)
        })
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        BUFFER.set(std::mem::take(&mut self.0));
    }
}

/// Messages of datagrams. Ends after the first that is malformed.
pub(super) struct Replies<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Replies<'a> {
    type Item = Result<Reply<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() {
            return None;
        }
        let reply = u32_at(rest, 0).and_then(|length| {
            let length = length as usize;
            let reply = Reply {
                kind: u16_at(rest, 4)?,
                flags: u16_at(rest, 6)?,
                sequence: u32_at(rest, 8)?,
                port: u32_at(rest, 12)?,
                payload: rest.get(HEADER..length)?,
            };
            self.rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(reply)
        });
        Some(reply.ok_or(Malformed("a message shorter than it says")))
    }
}

/// What an `NLMSG_ERROR` says: an acknowledgement or a refusal.
pub(super) fn verdict(reply: &Reply<'_>) -> Result<(), KernelError> {
    let code = i32_at(reply.payload, 0).ok_or(Malformed("an error without its number"))?;
    if code == 0 {
        return Ok(());
    }
    // After the number comes the header of the request and, unless the answer is capped, the rest of it.
    let request = if i32::from(reply.flags) & libc::NLM_F_CAPPED != 0 {
        HEADER
    } else {
        (u32_at(reply.payload, 4).unwrap_or(0) as usize).next_multiple_of(4)
    };
    refused(code, reply, 4_usize.saturating_add(request))
}

/// What an `NLMSG_DONE` says: the dump is complete, or it ended early. An empty one is complete.
pub(super) fn done(reply: &Reply<'_>) -> Result<(), KernelError> {
    match i32_at(reply.payload, 0) {
        Some(code) if code < 0 => refused(code, reply, 4),
        _ => Ok(()),
    }
}

/// The error with the extended acknowledgement that starts at `at`, if there is one.
fn refused(code: i32, reply: &Reply<'_>, at: usize) -> Result<(), KernelError> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    const NLMSGERR_ATTR_OFFS: u16 = 2;
    const NLMSGERR_ATTR_MISS_TYPE: u16 = 5;

    let (mut text, mut offset) = (String::new(), None);
    if i32::from(reply.flags) & libc::NLM_F_ACK_TLVS != 0 {
        // The number counts, whatever is wrong with the words.
        for (kind, value) in attributes(reply.payload.get(at..).unwrap_or_default()).map_while(Result::ok) {
            match kind {
                NLMSGERR_ATTR_MSG => text = string(value).into_owned(),
                NLMSGERR_ATTR_OFFS => offset = u32_at(value, 0),
                NLMSGERR_ATTR_MISS_TYPE if text.is_empty() => {
                    text = format!("attribute {} is missing", u32_at(value, 0).unwrap_or_default());
                }
                _ => {}
            }
        }
    }
    Err(KernelError::Refused { errno: Errno::from_raw(code.saturating_neg()), text, offset })
}

/// The attributes in some bytes (`struct nlattr`): type without its flags, and content. One that is longer than what
/// is left is an error and the last.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let all = std::mem::take(&mut rest);
        if all.is_empty() {
            return None;
        }
        let attribute = all.first_chunk().and_then(|&[length, further, kind, flags]| {
            let length = usize::from(u16::from_ne_bytes([length, further]));
            let attribute = (u16::from_ne_bytes([kind, flags]) & NLA_TYPE_MASK, all.get(4..length)?);
            rest = all.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(attribute)
        });
        Some(attribute.ok_or(Malformed("an attribute longer than its message")))
    })
}

/// The text of a string attribute up to its end mark. What is not UTF-8 is replaced, not cut off: the beginning of a
/// foreign alias must not pass for a whole one of ours.
pub fn string(value: &[u8]) -> Cow<'_, str> {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    // Which takes longer even where there is nothing to replace.
    str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed)
}

/// A `u16` in host order at that place.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

/// A `u32` in host order at that place.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

/// An `i32` in host order at that place.
pub fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk().map(|chunk| i32::from_ne_bytes(*chunk))
}
