//! A netlink socket (netlink(7)) that never says Ok without an acknowledgement and never hands over half a dump.
//!
//! Requests are encoded by the caller's types; answers are handed over as bytes, to be read with [`attributes`].

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, sendmsg};
use rtnetlink::packet_core::NetlinkSerializable;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;

use super::{KernelError, Malformed, netns};
use frame::{Answer, ask_acknowledgement, begin, done, verdict};

mod frame;
mod multicast;
mod receive;
#[cfg(test)]
mod tests;

pub use frame::{attributes, i32_at, string, u16_at, u32_at};

/// How long one answer may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Messages in one `sendmsg`: more gain nothing measurable. Should each be refused with a copy of it, that is 140 KiB of
/// memory at most, and every socket has room for 208 (`rmem_default`). Where that was made less they may be
/// [`KernelError::Lost`].
pub(super) const BATCH_MESSAGES: usize = 64;
/// Bytes in one `sendmsg`, exceeded only by a single message that is longer.
const BATCH_BYTES: usize = 32 << 10;
/// Socket buffers for more than that. Limits, not allocations.
const SOCKET_BYTES: i32 = 8 << 20;
/// How often an interrupted dump is tried; the pauses between add up to about a quarter of a second.
const DUMP_TRIES: u32 = 10;

const HEADER: usize = size_of::<libc::nlmsghdr>();

static SENDS: AtomicU64 = AtomicU64::new(0);
static MESSAGES: AtomicU64 = AtomicU64::new(0);
static OBJECTS: AtomicU64 = AtomicU64::new(0);
static RULES: AtomicU64 = AtomicU64::new(0);
static WRITES: AtomicU64 = AtomicU64::new(0);
static WAITS: AtomicU64 = AtomicU64::new(0);

/// What this process has said to the kernel since it started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// `sendmsg` calls on netlink sockets.
    pub sends: u64,
    /// Netlink messages in them.
    pub messages: u64,
    /// Objects that dumps on these sockets were answered with; nftables has a socket of its own.
    pub objects: u64,
    /// Bytes that nftables answered questions with: elements come by the hundred in one message.
    pub rules: u64,
    /// What was meant to change something: messages of batches and transactions, settings written, namespaces made
    /// and removed.
    pub writes: u64,
    /// Those of them for which the kernel waits until nobody reads what is to go (an RCU grace period, 10 to 20 ms): a
    /// link deleted, moved or renamed, a table or chain of nftables deleted. Few in any plan, whatever its size.
    pub waits: u64,
}

/// The counters as of now.
pub fn counters() -> Counters {
    Counters {
        sends: SENDS.load(Ordering::Relaxed),
        messages: MESSAGES.load(Ordering::Relaxed),
        objects: OBJECTS.load(Ordering::Relaxed),
        rules: RULES.load(Ordering::Relaxed),
        writes: WRITES.load(Ordering::Relaxed),
        waits: WAITS.load(Ordering::Relaxed),
    }
}

/// Counts writes that are no netlink messages.
pub(super) fn count_writes(writes: usize) {
    WRITES.fetch_add(writes as u64, Ordering::Relaxed);
}

/// Counts what nftables was heard to say.
pub(super) fn count_rules(bytes: usize) {
    RULES.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Asks nftables what is not counted: what only debugging asks.
#[cfg(debug_assertions)]
pub(super) fn uncounted(ask: impl FnOnce()) {
    let before = RULES.load(Ordering::Relaxed);
    ask();
    RULES.store(before, Ordering::Relaxed);
}

/// Counts a transaction of nftables, said in one send: its messages, and those that wait.
pub(super) fn count_transaction(messages: usize, waits: usize) {
    SENDS.fetch_add(1, Ordering::Relaxed);
    MESSAGES.fetch_add(messages as u64, Ordering::Relaxed);
    WRITES.fetch_add(messages as u64, Ordering::Relaxed);
    WAITS.fetch_add(waits as u64, Ordering::Relaxed);
}

/// Whether the kernel waits for a grace period before it answers.
fn waits((message, flags): &(RouteNetlinkMessage, u16)) -> bool {
    match message {
        RouteNetlinkMessage::DelLink(_) => true,
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::SetLink(link) => {
            let made = flags & libc::NLM_F_CREATE as u16 != 0;
            let by_index = link.header.index != 0;
            !made
                && link.attributes.iter().any(|attribute| match attribute {
                    LinkAttribute::NetNsFd(_) | LinkAttribute::NetNsPid(_) => true,
                    // Without an index it says which link is meant.
                    LinkAttribute::IfName(_) => by_index,
                    _ => false,
                })
        }
        _ => false,
    }
}

/// Which netlink family a socket speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// rtnetlink(7).
    Route,
    /// nfnetlink: nftables, conntrack.
    Netfilter,
    /// Sockets: `sock_diag(7)`.
    SockDiag,
}

/// One request of any family, encoded but for its netlink header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags` beyond `NLM_F_REQUEST`.
    pub flags: u16,
    /// The family's header and the attributes.
    pub payload: Vec<u8>,
}

impl Request {
    /// Encodes an rtnetlink request.
    pub fn route(message: &RouteNetlinkMessage, flags: u16) -> Self {
        let mut payload = vec![0; message.buffer_len()];
        message.serialize(&mut payload);
        Self { kind: message.message_type(), flags, payload }
    }
}

/// One message of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// `nlmsg_pid`. Of a notification: the port of the socket whose request made the change, 0 for the kernel's own.
    pub port: u32,
    /// The family's header and the attributes.
    pub payload: &'a [u8],
}

/// A netlink socket. It keeps the namespace it was opened in alive, so it is to be closed soon; after an error
/// of [`KernelError::Lost`] it is best not used again.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    limit: Duration,
    strict: bool,
    roomy: bool,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread, with extended acknowledgements. What else it takes is set
    /// when it is first needed: most sockets say one small batch in a namespace and are closed.
    pub fn open(protocol: Protocol) -> Result<Self, KernelError> {
        let family = match protocol {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::Netfilter => libc::NETLINK_NETFILTER,
            Protocol::SockDiag => libc::NETLINK_SOCK_DIAG,
        };
        // nix has no nfnetlink number that its socket() takes on every target.
        #[expect(unsafe_code, reason = "socket(2) with a plain protocol number")]
        // SAFETY: no pointers; the descriptor is owned by nobody else.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, family);
            OwnedFd::from_raw_fd(Errno::result(fd).map_err(|errno| KernelError::system("netlink socket", errno))?)
        };
        let socket = Self { fd, sequence: 0, limit: TIME_LIMIT, strict: false, roomy: false };
        socket.set(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, &1_i32)?;
        Ok(socket)
    }

    /// Has requests checked strictly, so that filters of dumps are obeyed.
    fn be_strict(&mut self) -> Result<(), KernelError> {
        if !self.strict {
            self.set(libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, &1_i32)?;
            self.strict = true;
        }
        Ok(())
    }

    /// Makes room for more than a batch at once, and for an answer to each message.
    fn make_room(&mut self) -> Result<(), KernelError> {
        if std::mem::replace(&mut self.roomy, true) {
            return Ok(());
        }
        for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
            // In a user namespace only the plain one is allowed, and the kernel cuts it down.
            if self.set(libc::SOL_SOCKET, forced, &SOCKET_BYTES).is_err() {
                self.set(libc::SOL_SOCKET, plain, &SOCKET_BYTES)?;
            }
        }
        Ok(())
    }

    /// Opens a socket in that namespace. To open many, see [`netns::visit`].
    pub fn open_in(netns: BorrowedFd<'_>, protocol: Protocol) -> Result<Self, KernelError> {
        netns::inside(netns, || Self::open(protocol))?
    }

    /// Sends rtnetlink requests with their flags beyond `NLM_F_REQUEST`, in order, many in one `sendmsg`, and tells of
    /// each how it ended. The kernel goes on after one that fails, so they must not depend on each other unless the
    /// failure of the later ones is harmless.
    ///
    /// Ok is only what the kernel acknowledged: it reports every error by sequence number, so the acknowledgement of
    /// the last message vouches for those before it. Otherwise each message is [`KernelError::Lost`].
    pub fn batch(&mut self, messages: &[(RouteNetlinkMessage, u16)]) -> Vec<Result<(), KernelError>> {
        WAITS.fetch_add(messages.iter().filter(|message| waits(message)).count() as u64, Ordering::Relaxed);
        let mut results = Vec::with_capacity(messages.len());
        let mut bytes = Vec::new();
        let mut first = 0;
        for (at, (message, flags)) in messages.iter().enumerate() {
            let length = HEADER + message.buffer_len();
            if at > first && (at - first == BATCH_MESSAGES || bytes.len() + length > BATCH_BYTES) {
                results.extend(self.acknowledged(&mut bytes, at - first, at - first - 1));
                first = at;
            }
            let sequence = self.sequence.wrapping_add((at - first) as u32 + 1);
            let payload = begin(&mut bytes, message.message_type(), *flags, sequence, message.buffer_len());
            message.serialize(payload);
        }
        if first < messages.len() {
            let count = messages.len() - first;
            results.extend(self.acknowledged(&mut bytes, count, count - 1));
        }
        results
    }

    /// Sends requests of any family in one `sendmsg`, however long, and tells of each how it ended, as
    /// [`batch`](Self::batch) does. `flush` is the one whose acknowledgement is asked for and ends the wait: the last
    /// of an nftables transaction before its end message.
    pub fn transact(&mut self, requests: &[Request], flush: usize) -> Vec<Result<(), KernelError>> {
        let mut bytes = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            let sequence = self.sequence.wrapping_add(at as u32 + 1);
            begin(&mut bytes, request.kind, request.flags, sequence, request.payload.len())
                .copy_from_slice(&request.payload);
        }
        if flush >= requests.len() {
            return requests.iter().map(|_| Err(Malformed("nothing to wait for").into())).collect();
        }
        match self.make_room() {
            Ok(()) => self.acknowledged(&mut bytes, requests.len(), flush),
            Err(error) => vec![Err(error); requests.len()],
        }
    }

    /// Asks for a table and tells all that is read of its messages, once it is known to be a complete and consistent copy;
    /// tries again, a bounded number of times, if the kernel says that it changed meanwhile.
    ///
    /// # Errors
    ///
    /// Those of the kernel, also when they come with the end of the dump; and what `read` returns.
    pub fn dump<I: IntoIterator>(
        &mut self,
        request: &Request,
        read: impl Fn(Reply<'_>) -> Result<I, Malformed>,
    ) -> Result<Vec<I::Item>, KernelError> {
        self.be_strict()?;
        for attempt in 1..=DUMP_TRIES {
            if let Some(table) = self.whole_dump(request, &read)? {
                return Ok(table);
            }
            if attempt < DUMP_TRIES {
                std::thread::sleep(Duration::from_millis(1 << attempt.min(6)));
            }
        }
        Err(KernelError::Interrupted(DUMP_TRIES))
    }

    /// Asks for one object and hands over what comes; nothing may come, and only the acknowledgement ends the wait.
    ///
    /// # Errors
    ///
    /// `Refused` with `ENODEV`, `ENOENT` or the like when it does not exist; and what `each` returns.
    pub fn request(
        &mut self,
        request: &Request,
        mut each: impl FnMut(Reply<'_>) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let mut answer = Answer::take();
        let sequence = self.ask(request, libc::NLM_F_ACK as u16)?;
        loop {
            let from = self.hear(&mut answer)?;
            for reply in answer.since(from) {
                let reply = reply?;
                if reply.sequence == sequence && i32::from(reply.kind) == libc::NLMSG_ERROR {
                    verdict(&reply)?;
                    return answer.replies(sequence).try_for_each(|reply| each(reply?));
                }
            }
        }
    }

    /// The cookie of the socket's namespace (`SO_NETNS_COOKIE`, Linux 5.14): unlike an inode number never used again.
    pub fn cookie(&self) -> Result<u64, KernelError> {
        const SO_NETNS_COOKIE: i32 = 71;
        let mut cookie = 0_u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        #[expect(unsafe_code, reason = "an option that nix does not have")]
        // SAFETY: both pointers are to locals, and the length is that of the value.
        let done = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        Errno::result(done).map(|_| cookie).map_err(|errno| KernelError::system("namespace cookie", errno))
    }

    fn set<T>(&self, level: i32, option: i32, value: &T) -> Result<(), KernelError> {
        #[expect(unsafe_code, reason = "options that nix does not have")]
        // SAFETY: the value outlives the call and the length is its own.
        let done = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        Errno::result(done)
            .map(drop)
            .map_err(|errno| KernelError::system(format!("netlink socket option {level}/{option}"), errno))
    }

    /// One `sendmsg`; the kernel has executed every message when it returns.
    fn send(&mut self, bytes: &[u8], messages: usize) -> Result<(), KernelError> {
        self.sequence = self.sequence.wrapping_add(messages as u32);
        SENDS.fetch_add(1, Ordering::Relaxed);
        MESSAGES.fetch_add(messages as u64, Ordering::Relaxed);
        loop {
            match sendmsg::<()>(self.fd.as_raw_fd(), &[IoSlice::new(bytes)], &[], MsgFlags::empty(), None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                // `wmem_default` may have been made less than a batch.
                Err(Errno::EMSGSIZE) if !self.roomy => self.make_room()?,
                Err(errno) => return Err(KernelError::system("netlink send", errno)),
            }
        }
    }

    fn ask(&mut self, request: &Request, flags: u16) -> Result<u32, KernelError> {
        let mut bytes = Vec::with_capacity(HEADER + request.payload.len());
        let sequence = self.sequence.wrapping_add(1);
        begin(&mut bytes, request.kind, request.flags | flags, sequence, request.payload.len())
            .copy_from_slice(&request.payload);
        self.send(&bytes, 1)?;
        Ok(sequence)
    }

    /// Sends `count` encoded messages and reads until the one at `flush` is answered; empties `bytes`.
    fn acknowledged(&mut self, bytes: &mut Vec<u8>, count: usize, flush: usize) -> Vec<Result<(), KernelError>> {
        let first = self.sequence.wrapping_add(1);
        ask_acknowledgement(bytes, flush);
        // Before, as what is done by then may be known before whoever says it comes back.
        WRITES.fetch_add(count as u64, Ordering::Relaxed);
        let sent = self.send(bytes, count);
        bytes.clear();
        if let Err(error) = sent {
            return vec![Err(error); count];
        }
        let mut results: Vec<Option<Result<(), KernelError>>> = vec![None; count];
        let outcome = self.verdicts(first, flush, &mut results);
        results.into_iter().map(|result| result.unwrap_or_else(|| outcome.clone())).collect()
    }

    /// Fills in what the kernel says of each message; the result is what is true of those it says nothing about.
    fn verdicts(
        &mut self,
        first: u32,
        flush: usize,
        results: &mut [Option<Result<(), KernelError>>],
    ) -> Result<(), KernelError> {
        let mut answer = Answer::take();
        let deadline = Instant::now() + self.limit;
        let mut silence = Ok(());
        while results[flush].is_none() {
            answer.clear();
            let heard =
                if silence.is_ok() { self.hear(&mut answer) } else { self.receive(&mut answer, libc::MSG_DONTWAIT) };
            match heard {
                Ok(_) => {}
                // Answers were dropped, so silence means nothing any more; those that were kept are still read.
                Err(KernelError::Lost(Errno::ENOBUFS)) => silence = Err(KernelError::Lost(Errno::ENOBUFS)),
                Err(error) => return silence.and(Err(error)),
            }
            for reply in answer.since(0) {
                let reply = reply?;
                let at = reply.sequence.wrapping_sub(first) as usize;
                if at < results.len() && i32::from(reply.kind) == libc::NLMSG_ERROR {
                    results[at] = Some(verdict(&reply));
                }
            }
            if results[flush].is_none() && Instant::now() > deadline {
                return Err(KernelError::Lost(Errno::EAGAIN));
            }
        }
        silence
    }

    /// What is read of a dump, each datagram as it comes; none if it is not consistent. An answer that is not complete is
    /// an error.
    fn whole_dump<I: IntoIterator>(
        &mut self,
        request: &Request,
        read: impl Fn(Reply<'_>) -> Result<I, Malformed>,
    ) -> Result<Option<Vec<I::Item>>, KernelError> {
        let sequence = self.ask(request, libc::NLM_F_DUMP as u16)?;
        let (mut answer, mut table, mut objects, mut consistent) = (Answer::take(), Vec::new(), 0, true);
        let mut wrong: Option<Malformed> = None;
        loop {
            answer.clear();
            self.hear(&mut answer)?;
            for reply in answer.since(0) {
                let reply = reply?;
                if reply.sequence != sequence {
                    continue;
                }
                consistent &= i32::from(reply.flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(reply.kind) {
                    libc::NLMSG_DONE => {
                        done(&reply)?;
                        OBJECTS.fetch_add(objects, Ordering::Relaxed);
                        // What is wrong in a copy that is none says nothing.
                        return match wrong {
                            Some(wrong) if consistent => Err(wrong.into()),
                            _ => Ok(consistent.then_some(table)),
                        };
                    }
                    libc::NLMSG_ERROR => {
                        verdict(&reply)?;
                        return Err(Malformed("an acknowledgement instead of a dump").into());
                    }
                    libc::NLMSG_OVERRUN => return Err(KernelError::Lost(Errno::ENOBUFS)),
                    libc::NLMSG_MIN_TYPE.. => {
                        objects += 1;
                        match read(reply) {
                            Ok(items) => table.extend(items),
                            Err(error) => wrong = wrong.or(Some(error)),
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
