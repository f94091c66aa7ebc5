//! nftables over nfnetlink: transactions, and reading of tables (linux/netfilter/nfnetlink.h, `nf_tables.h`).
//!
//! A transaction may say which generation of the ruleset it was made for; if somebody else changed it meanwhile the
//! kernel refuses the whole. Reading is bracketed by generation numbers for the same reason.

mod outline;

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::TimeVal;

pub use self::outline::Outline;
use super::netlink;
use crate::model::attribute::{LIST_ELEM, Put as _, number, text};
use crate::model::kinds::firewall::Firewall;
use crate::model::wire::{NftMessage, Owner, TableFacts};

/// How long one answer may take, in seconds.
const PATIENCE_S: i64 = 5;
/// How often a view that somebody spoils is taken again.
pub(super) const LOOKS: u32 = 20;
/// Room for answers, in bytes.
const BUFFER: usize = 4 << 20;
/// How many questions are asked in one go.
const AT_ONCE: usize = 64;
/// Room for what is asked, in bytes.
const QUESTION: usize = 64 << 10;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const HEADER: usize = 16;
const GENMSG: usize = 4;

/// `NFTA_*_TABLE`, and `NFTA_RULE_CHAIN` and `NFTA_SET_NAME`.
const TABLE: u16 = 1;
const IN_TABLE: u16 = 2;

const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const DELETE_CHAIN: u16 = 5;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;
const GET_ELEMENTS: u16 = 13;
const GET_GENERATION: u16 = 16;

const INET: u8 = 1;
const BRIDGE: u8 = 7;

/// Why nftables could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The socket failed: no netlink, no privilege, no memory.
    #[error("nftables: {what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// No answer in time; the transaction may or may not have happened.
    #[error("nftables: no answer within {PATIENCE_S} s")]
    Timeout,
    /// The ruleset is not of the generation that the transaction was made for; nothing was changed.
    #[error("nftables: the ruleset was changed by somebody else meanwhile")]
    Stale,
    /// The kernel refused a message; nothing was changed.
    #[error("nftables: {source}{}{text}", if text.is_empty() { "" } else { ": " })]
    Refused {
        /// Which of the batch's messages, from 0; none: the transaction as a whole.
        message: Option<usize>,
        /// Why not.
        source: io::Error,
        /// What the kernel says about it (extended acknowledgement); often empty.
        text: String,
    },
    /// The ruleset changed during every look at it.
    #[error("nftables: the ruleset changes too often to be read")]
    Restless,
}

/// The generation that a transaction makes of one: the next, and never 0 (`nf_tables_commit`).
pub fn next(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

/// What is asked about others' tables.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question<'a> {
    /// The rules of a chain, in order.
    Rules {
        /// `ip`, `inet` and the like.
        family: &'a str,
        /// Its table.
        table: &'a str,
        /// Its name.
        chain: &'a str,
    },
    /// The elements of a set of an inet table.
    Elements {
        /// Its table.
        table: &'a str,
        /// Its name.
        set: &'a str,
    },
}

/// Address families of tables (`NFPROTO_*`).
const FAMILIES: [(u8, &str); 5] = [(1, "inet"), (2, "ip"), (3, "arp"), (7, "bridge"), (10, "ip6")];

/// A connection to nftables of the namespace it was opened in.
#[derive(Debug)]
pub struct Nft {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    /// The largest message that may be sent, in bytes.
    room: usize,
}

/// One message as received.
struct Answer {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: Vec<u8>,
}

/// Answers without their `struct nfgenmsg`.
fn attributes(listed: Vec<Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    listed.into_iter().filter(|it| it.len() >= GENMSG).map(|mut it| {
        it.drain(..GENMSG);
        it
    })
}

impl Nft {
    /// Connects, in the namespace of the calling thread.
    pub fn open() -> Result<Self, NftError> {
        let failed = |what| move |errno: nix::Error| NftError::Socket { what, source: errno.into() };
        let (family, flags) = (AddressFamily::Netlink, SockFlag::SOCK_CLOEXEC);
        let socket = socket::socket(family, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)
            .map_err(failed("cannot open a netlink socket"))?;
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed("cannot bind"))?;
        let patience = TimeVal::new(PATIENCE_S, 0);
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &patience).map_err(failed("cannot set a time limit"))?;
        socket::setsockopt(&socket, sockopt::SendTimeout, &patience).map_err(failed("cannot set a time limit"))?;
        if socket::setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            socket::setsockopt(&socket, sockopt::RcvBuf, &BUFFER).map_err(failed("cannot set the buffer"))?;
        }
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            switch_on(&socket, option)?;
        }
        Ok(Self { socket, sequence: 1, buffer: vec![0; 256 << 10], room: 0 })
    }

    /// Number of the ruleset's generation: the same as long as nobody changes anything.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let answers = self.ask((GET_GENERATION, 0), 0, &[])?;
        let id = answers.iter().find_map(|it| number(it.get(GENMSG..)?, 1));
        id.ok_or_else(|| odd("no generation in the answer"))
    }

    /// Says a whole transaction, which happens completely or not at all; of `generation` only, if that is given.
    ///
    /// # Errors
    ///
    /// [`NftError::Stale`] if the generation is another one, [`NftError::Refused`] with the message the kernel stumbled over.
    pub fn commit(&mut self, batch: &[NftMessage], generation: Option<u32>) -> Result<(), NftError> {
        let Some(last) = batch.len().checked_sub(1) else { return Ok(()) };
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(2 + batch.len() as u32);
        let waits = batch.iter().filter(|it| matches!(it.message, DELETE_TABLE | DELETE_CHAIN)).count();
        netlink::count_transaction(batch.len(), waits);
        self.send(&transaction(batch, generation, first))?;
        self.verdict(first, last)
    }

    /// Waits for the word on a transaction: the last message is acknowledged, after all that was refused.
    fn verdict(&mut self, first: u32, last: usize) -> Result<(), NftError> {
        let mut refused = None;
        loop {
            for it in self.receive()?.into_iter().filter(|it| it.kind == NLMSG_ERROR) {
                let at = it.sequence.wrapping_sub(first) as usize;
                let whole = at == u32::MAX as usize;
                if !whole && at > last {
                    continue; // of something before that timed out
                }
                if let Some(error) = refusal(&it, (!whole).then_some(at)) {
                    refused.get_or_insert(error);
                }
                if whole || at == last {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// What tables and chains there are.
    pub fn outline(&mut self) -> Result<Outline, NftError> {
        let (tables, chains) = (self.ask((GET_TABLE, NLM_F_DUMP), 0, &[])?, self.ask((GET_CHAIN, NLM_F_DUMP), 0, &[])?);
        Ok(Outline { tables, chains })
    }

    /// The two tables of a topology, as many as there are.
    pub fn tables(&mut self, outline: &Outline, owner: &Owner) -> Result<Vec<TableFacts>, NftError> {
        let name = Firewall::table_name(&owner.topology);
        let mut tables = Vec::new();
        for family in [INET, BRIDGE] {
            tables.extend(self.table(outline, family, &name)?);
        }
        Ok(tables)
    }

    /// What others have of a sort, as attributes; nothing where it is not there.
    pub(super) fn listed(&mut self, what: Question<'_>) -> Result<Vec<Vec<u8>>, NftError> {
        let (kind, family, (table, name)) = match what {
            Question::Rules { family, table, chain } => {
                let family = FAMILIES.into_iter().find(|(_, word)| *word == family).map_or(0, |(number, _)| number);
                (GET_RULE, family, (table, chain))
            }
            Question::Elements { table, set } => (GET_ELEMENTS, INET, (table, set)),
        };
        let mut filter = Vec::new();
        filter.put_text(TABLE, table).put_text(IN_TABLE, name);
        let listed = self.one((kind, NLM_F_DUMP), family, &filter)?.unwrap_or_default();
        Ok(match what {
            Question::Rules { table, chain, .. } => {
                attributes(listed).filter(|it| text(it, TABLE) == table && text(it, IN_TABLE) == chain).collect()
            }
            Question::Elements { .. } => attributes(listed).collect(),
        })
    }

    /// Looks until nothing was changed meanwhile: a consistent view, and the generation that it is of.
    ///
    /// # Errors
    ///
    /// Those of the look, if the ruleset stood still meanwhile; [`NftError::Restless`] if it never does.
    pub fn steadily<T>(
        &mut self,
        mut look: impl FnMut(&mut Self, &Outline) -> Result<T, NftError>,
    ) -> Result<(T, u32), NftError> {
        for _ in 0..LOOKS {
            let before = self.generation()?;
            match self.outline().and_then(|outline| look(self, &outline)) {
                Ok(view) if self.generation()? == before => return Ok((view, before)),
                Ok(_) | Err(NftError::Restless) => {}
                // What was listed may be gone when it is looked into.
                Err(error) if self.generation()? == before => return Err(error),
                Err(_) => {}
            }
        }
        Err(NftError::Restless)
    }

    /// Asks for an element by its key: the list that it comes in, if it is there.
    pub fn element(&mut self, asked: &NftMessage) -> Result<Option<Vec<u8>>, NftError> {
        let mut all = Vec::new();
        all.put_text(TABLE, &asked.table).extend_from_slice(&asked.attributes);
        let found = self.one((asked.message, 0), asked.family, &all)?;
        Ok(found.and_then(|answers| Some(answers.first()?.get(GENMSG..)?.to_vec())))
    }

    /// Asks for what may not be there.
    fn one(&mut self, what: (u16, u16), family: u8, filter: &[u8]) -> Result<Option<Vec<Vec<u8>>>, NftError> {
        match self.ask(what, family, filter) {
            Err(NftError::Refused { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            answers => answers.map(Some),
        }
    }

    fn table(&mut self, outline: &Outline, family: u8, name: &str) -> Result<Option<TableFacts>, NftError> {
        let Some(own) = outline.table(family, name) else { return Ok(None) };
        let flags = number(own, 2).unwrap_or_default();
        let chains = outline.chains_of(family, name).map(<[u8]>::to_vec).collect();
        let mut by_name = Vec::new();
        by_name.put_text(TABLE, name);
        let mut dump = |what, filter: &[u8]| -> Result<Vec<Vec<u8>>, NftError> {
            let listed = self.ask((what, NLM_F_DUMP), family, filter)?;
            Ok(attributes(listed).filter(|it| text(it, TABLE) == name).collect())
        };
        let (rules, sets) = (dump(GET_RULE, &by_name)?, dump(GET_SET, &by_name)?);
        let named = |set: &Vec<u8>| {
            let mut named = by_name.clone();
            named.put_text(IN_TABLE, text(set, IN_TABLE));
            named
        };
        let (listed, others): (Vec<_>, Vec<_>) = sets.iter().partition(|set| may_hold(set));
        let mut elements = Vec::new();
        for set in listed {
            elements.extend(dump(GET_ELEMENTS, &named(set))?);
        }
        let others: Vec<Vec<u8>> = others.into_iter().map(named).collect();
        for some in others.chunks(AT_ONCE) {
            elements.extend(self.catch_alls(family, some)?);
        }
        Ok(Some(TableFacts { family, name: name.to_owned(), flags, chains, rules, sets, elements }))
    }

    /// The elements of some sets that stand for all others (`NFT_SET_ELEM_CATCHALL`), which Linux counts nowhere and which
    /// let through whatever is looked up. All in one go: there has to be room for as many answers.
    fn catch_alls(&mut self, family: u8, sets: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, NftError> {
        const CATCH_ALL: u32 = 2;
        let (first, count) = (self.sequence.wrapping_add(1), sets.len() as u32);
        let mut out = Vec::new();
        for (set, sequence) in sets.iter().zip(0..) {
            let one = |out: &mut Vec<u8>| {
                out.extend_from_slice(set);
                out.put_nest(3, |out| out.put_nest(LIST_ELEM, |out| out.put_number(3, CATCH_ALL)));
            };
            let header = (NFTABLES << 8 | GET_ELEMENTS, NLM_F_REQUEST, first.wrapping_add(sequence));
            push(&mut out, header, (family, 0), one);
        }
        self.sequence = self.sequence.wrapping_add(count);
        self.send(&out)?;
        let (mut found, mut answered) = (Vec::new(), 0);
        while answered < count {
            for it in self.receive()?.into_iter().filter(|it| it.sequence.wrapping_sub(first) < count) {
                answered += 1;
                match refusal(&it, None).filter(|_| it.kind == NLMSG_ERROR) {
                    Some(NftError::Refused { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                    Some(error) => return Err(error),
                    None => found.push(it.body),
                }
            }
        }
        Ok(attributes(found).collect())
    }

    /// Asks one question: the answers with their `struct nfgenmsg`. What is no dump has one, or is refused.
    fn ask(&mut self, (what, flags): (u16, u16), family: u8, filter: &[u8]) -> Result<Vec<Vec<u8>>, NftError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut out = Vec::new();
        let all = |out: &mut Vec<u8>| out.extend_from_slice(filter);
        push(&mut out, (NFTABLES << 8 | what, NLM_F_REQUEST | flags, sequence), (family, 0), all);
        self.send(&out)?;
        let (mut answers, mut interrupted) = (Vec::new(), false);
        loop {
            for it in self.receive()?.into_iter().filter(|it| it.sequence == sequence) {
                interrupted |= it.flags & NLM_F_DUMP_INTR != 0;
                match it.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match refusal(&it, None) {
                            Some(error) => Err(error),
                            None if interrupted => Err(NftError::Restless),
                            None => Ok(answers),
                        };
                    }
                    _ if flags & NLM_F_DUMP == 0 => return Ok(vec![it.body]),
                    _ => answers.push(it.body),
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        if self.room < bytes.len() {
            self.room = bytes.len().max(QUESTION);
            let room = self.room + 4096;
            if socket::setsockopt(&self.socket, sockopt::SndBufForce, &room).is_err() {
                // Without privilege the system's limit holds; sending says so if it is too low.
                let _ = socket::setsockopt(&self.socket, sockopt::SndBuf, &room);
            }
        }
        let kernel = NetlinkAddr::new(0, 0);
        let sent = socket::sendto(self.socket.as_raw_fd(), bytes, &kernel, MsgFlags::empty());
        sent.map(drop).map_err(|errno| NftError::Socket { what: "cannot send", source: errno.into() })
    }

    /// The messages of the next datagram.
    fn receive(&mut self) -> Result<Vec<Answer>, NftError> {
        let length = loop {
            match socket::recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => break length,
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Err(NftError::Timeout),
                Err(errno) => return Err(NftError::Socket { what: "cannot receive", source: errno.into() }),
            }
        };
        netlink::count_rules(length);
        let (mut answers, mut rest) = (Vec::new(), &self.buffer[..length]);
        while let Some(header) = rest.first_chunk::<HEADER>() {
            let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
            let length = word(0) as usize;
            let Some(body) = rest.get(HEADER..length) else { return Err(odd("a message longer than its datagram")) };
            answers.push(Answer { kind: half(4), flags: half(6), sequence: word(8), body: body.to_vec() });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(answers)
    }
}

fn odd(what: &'static str) -> NftError {
    NftError::Socket { what, source: ErrorKind::InvalidData.into() }
}

#[expect(unsafe_code, reason = "nix has no netlink socket options")]
fn switch_on(socket: &OwnedFd, option: libc::c_int) -> Result<(), NftError> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel reads `length` bytes of `on`, which outlives the call.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), length) };
    if done == 0 {
        Ok(())
    } else {
        Err(NftError::Socket { what: "cannot set an option", source: io::Error::last_os_error() })
    }
}

/// What an error or the end of a dump says; none: all is well.
fn refusal(answer: &Answer, message: Option<usize>) -> Option<NftError> {
    let code = answer.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 {
        return None;
    }
    if -code == libc::ERESTART {
        return Some(NftError::Stale);
    }
    // The header of the request stands between code and text, as NETLINK_CAP_ACK asks; dumps end without it.
    let text = if answer.kind == NLMSG_ERROR { answer.body.get(4 + HEADER..).map(|it| text(it, 1)) } else { None };
    let source = io::Error::from_raw_os_error(-code);
    Some(NftError::Refused { message, source, text: text.unwrap_or_default().to_owned() })
}

/// A transaction as it goes over the wire, of a generation if one is given: its messages are numbered from `first` on, and
/// the last is acknowledged.
pub fn transaction(batch: &[NftMessage], generation: Option<u32>, first: u32) -> Vec<u8> {
    let room = |it: &NftMessage| HEADER + GENMSG + it.table.len() + 8 + it.attributes.len();
    let mut out = Vec::with_capacity(batch.iter().map(room).sum::<usize>() + 64);
    let begin = |out: &mut Vec<u8>| {
        if let Some(id) = generation {
            out.put_number(1, id);
        }
    };
    push(&mut out, (BATCH_BEGIN, NLM_F_REQUEST, first.wrapping_sub(1)), (0, NFTABLES), begin);
    for (at, it) in batch.iter().enumerate() {
        let flags = it.flags | NLM_F_REQUEST | if at + 1 == batch.len() { NLM_F_ACK } else { 0 };
        let sequence = first.wrapping_add(at as u32);
        let all = |out: &mut Vec<u8>| out.put_text(TABLE, &it.table).extend_from_slice(&it.attributes);
        push(&mut out, (NFTABLES << 8 | it.message, flags, sequence), (it.family, 0), all);
    }
    push(&mut out, (BATCH_END, NLM_F_REQUEST, first.wrapping_add(batch.len() as u32)), (0, NFTABLES), |_| {});
    out
}

fn push(
    out: &mut Vec<u8>,
    (kind, flags, sequence): (u16, u16, u32),
    (family, resource): (u8, u16),
    attributes: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    attributes(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Whether it is worth asking for a set's elements: a newer kernel says how many there are (`NFTA_SET_COUNT`, exact but for
/// intervals of one field, which it counts by halves, and for [some](Nft::catch_alls)), and what packets left in a set is
/// nothing that anybody wrote.
fn may_hold(set: &[u8]) -> bool {
    const INTERVAL: u32 = 0x4;
    const FILLED_BY_PACKETS: u32 = 0x20; // NFT_SET_EVAL
    const CONCAT: u32 = 0x80;
    let flags = number(set, 3).unwrap_or(0);
    let halves = flags & (INTERVAL | CONCAT) == INTERVAL;
    flags & FILLED_BY_PACKETS == 0 && (halves || number(set, 20) != Some(0))
}
