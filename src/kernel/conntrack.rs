//! conntrack over nfnetlink (`linux/netfilter/nfnetlink_conntrack.h`): flows are looked through, and forgotten one by one.

mod few;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread::JoinHandle;

use ipnet::IpNet;
use nix::errno::Errno;
use nix::net::if_::if_indextoname;

use super::netlink::{Protocol as Family, Reply, Request, Socket};
use super::{KernelError, ask};
use crate::beside;
use crate::model::attribute::{self, get, walk};
use crate::model::kinds::firewall::{Flows, FlowsOnHost};
use crate::model::resource::Text;
use crate::model::values::Protocol;
use crate::model::wire::FlowFacts;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// `IPCTNL_MSG_CT_GET_STATS`.
const STATISTICS: u16 = 5;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const EXPECTED: u32 = 1 << 0;
const ASSURED: u32 = 1 << 2;
const DST_NAT: u32 = 1 << 5;

/// Messages in one send.
const BATCH: usize = 256;

/// Forgets the stale ones among the flows of the calling thread's namespace, and says how many there were. It leaves its
/// socket: closed right after a transaction that deleted an element it would wait for a grace period.
///
/// # Errors
///
/// When the flows could not be read, or one of them not be removed; one that has gone meanwhile is no error. Then there is
/// no socket any more.
pub fn forget(kept: &mut Option<Socket>, flows: &Flows) -> Result<usize, KernelError> {
    let mut socket = kept.take().map_or_else(|| Socket::open(Family::Netfilter), Ok)?;
    let forgotten = match around(&mut socket, flows)? {
        Some(addresses) => forget_stale(&mut socket, &flows.on(&addresses))?,
        None => 0,
    };
    *kept = Some(socket);
    Ok(forgotten)
}

/// Flows that are being forgotten beside what else is done: for a walk over all flows the kernel takes the lock of each of a
/// quarter of a million chains, 10 ms.
#[derive(Debug)]
pub(super) enum Forgetting {
    Under(JoinHandle<Result<Socket, KernelError>>),
    Over(Result<Socket, KernelError>),
}

impl Forgetting {
    /// Begins to [forget](forget()). Which addresses are the host's is known then: from now on they may come and go.
    pub(super) fn begin(kept: Option<Socket>, flows: Flows) -> Result<Self, KernelError> {
        let mut socket = kept.map_or_else(|| Socket::open(Family::Netfilter), Ok)?;
        let addresses = match around(&mut socket, &flows) {
            Ok(Some(addresses)) => addresses,
            Ok(None) => return Ok(Self::Over(Ok(socket))),
            Err(error) => return Ok(Self::Over(Err(error))),
        };
        let walk = |(mut socket, flows, addresses): (Socket, Flows, Addresses)| {
            forget_stale(&mut socket, &flows.on(&addresses)).map(|_| socket)
        };
        let thread = beside::spawn("flows", (socket, flows, addresses), walk);
        Ok(thread.map_or_else(|given| Self::Over(walk(given)), Self::Under))
    }

    /// Waits until it is done: its socket.
    pub(super) fn end(self) -> Result<Socket, KernelError> {
        match self {
            Self::Under(thread) => beside::join(thread),
            Self::Over(ended) => ended,
        }
    }
}

/// Those of the host, with the names of their links.
type Addresses = Vec<(Text, IpNet)>;

/// The host's addresses, if any flow may be stale.
fn around(socket: &mut Socket, flows: &Flows) -> Result<Option<Addresses>, KernelError> {
    let counted = number(socket)?;
    if counted == Some(0) {
        return Ok(None);
    }
    let addresses = addresses()?;
    let on_host = flows.on(&addresses);
    let none = counted.and_then(few::all).is_some_and(|all| !all.iter().any(|flow| on_host.is_stale(flow)));
    Ok((!none).then_some(addresses))
}

fn forget_stale(socket: &mut Socket, flows: &FlowsOnHost) -> Result<usize, KernelError> {
    // Of any family, version 0, no resource.
    let every = Request { kind: SUBSYSTEM | GET, flags: 0, payload: vec![0; 4] };
    let stale = socket.dump(&every, |reply: Reply<'_>| {
        let is_stale = flow(reply.payload).is_some_and(|flow| flows.is_stale(&flow));
        Ok(is_stale.then(|| deletion(reply.payload)))
    })?;
    for batch in stale.chunks(BATCH) {
        for ended in socket.transact(batch, batch.len() - 1) {
            match ended {
                Ok(()) | Err(KernelError::Refused { errno: Errno::ENOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    tracing::debug!(forgotten = stale.len(), "conntrack");
    Ok(stale.len())
}

/// How many flows the namespace has, if the kernel says so. It has one hash table for all namespaces, and walks all of it,
/// a quarter of a million chains on a big machine, for a namespace without any.
fn number(socket: &mut Socket) -> Result<Option<u32>, KernelError> {
    let mut number = None;
    let statistics = Request { kind: SUBSYSTEM | STATISTICS, flags: 0, payload: vec![0; 4] };
    socket.request(&statistics, |reply| {
        let entries = reply.payload.get(4..).and_then(|body| attribute::number(body, 1)); // CTA_STATS_GLOBAL_ENTRIES
        number = entries.or(number);
        Ok(())
    })?;
    Ok(number)
}

/// The host's addresses; a link that goes meanwhile has no name.
fn addresses() -> Result<Addresses, KernelError> {
    let mut links = BTreeMap::new();
    let found = ask::addresses(&mut Socket::open(Family::Route)?)?;
    let named = found.into_iter().filter_map(|facts| {
        let name = links.entry(facts.link).or_insert_with(|| if_indextoname(facts.link).ok()?.into_string().ok());
        Some((name.as_deref()?.into(), facts.address))
    });
    Ok(named.collect())
}

/// A flow of a protocol that rules tell apart.
fn flow(message: &[u8]) -> Option<FlowFacts> {
    let message = message.get(4..)?;
    let (original, reply) = (get(message, ORIGINAL)?, get(message, REPLY)?);
    let protocol = match *get(get(original, 2)?, 1)?.first()? {
        ICMP | ICMPV6 => None,
        number => Some(known(number)?),
    };
    let status = attribute::number(message, STATUS)?;
    let port = |tuple, destination| if protocol.is_some() { port(tuple, destination) } else { Some(0) };
    Some(FlowFacts {
        protocol,
        source: address(original, false)?,
        destination: (address(original, true)?, port(original, true)?),
        answers: (address(reply, false)?, port(reply, false)?),
        mapped: status & DST_NAT != 0,
        assured: status & ASSURED != 0,
        related: status & EXPECTED != 0,
    })
}

/// Protocols that rules tell apart by ports.
fn known(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|it| *it as u8 == number)
}

/// `CTA_TUPLE_IP`.
fn address(tuple: &[u8], destination: bool) -> Option<IpAddr> {
    let addresses = get(tuple, 1)?;
    let (four, six) = if destination { (2, 4) } else { (1, 3) };
    let four = get(addresses, four).and_then(|bytes| bytes.first_chunk::<4>()).map(|bytes| IpAddr::from(*bytes));
    four.or_else(|| get(addresses, six)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)))
}

/// `CTA_TUPLE_PROTO`.
fn port(tuple: &[u8], destination: bool) -> Option<u16> {
    let port = get(get(tuple, 2)?, if destination { 3 } else { 2 })?;
    port.first_chunk().map(|port| u16::from_be_bytes(*port))
}

/// The removal of just that flow: by what its packets look like, and by its number, as another may look the same by now.
fn deletion(message: &[u8]) -> Request {
    const NESTED: u16 = 0x8000;
    let (header, body) = message.split_at(message.len().min(4));
    let mut payload = header.to_vec();
    for (kind, content) in walk(body).filter(|(kind, _)| [ORIGINAL, ID, ZONE].contains(kind)) {
        payload.extend((content.len() as u16 + 4).to_ne_bytes());
        payload.extend((if kind == ORIGINAL { kind | NESTED } else { kind }).to_ne_bytes());
        payload.extend(content);
        payload.resize(payload.len().next_multiple_of(4), 0);
    }
    Request { kind: SUBSYSTEM | DELETE, flags: 0, payload }
}
