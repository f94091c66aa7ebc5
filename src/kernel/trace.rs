//! The kernel's own trace of a packet: it is marked in tables of our own, sent, and what becomes of it is heard over
//! nfnetlink (`NFTA_TRACE_*` in `linux/netfilter/nf_tables.h`). No table of others is written.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage};

use super::netlink::{Protocol as Netlink, Socket};
use super::nft::{Nft, Question};
use super::{KernelError, netns, stop};
use crate::model::attribute::{self, get, number};
use crate::model::kinds::firewall::{Packet, Service, tracing};
use crate::model::values::Protocol;

/// `NFNLGRP_NFTRACE` (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 9;
/// `NFNL_SUBSYS_NFTABLES << 8`.
const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_TRACE`.
const TRACE: u16 = NFTABLES | 0x11;

/// What is heard when a packet was sent comes at once; this is for slow hosts, and less than TCP waits to send again.
const PATIENCE: Duration = Duration::from_millis(600);
const PAUSE: Duration = Duration::from_millis(5);
/// Events of one packet at most, whoever's rules they are of.
const EVENTS: usize = 4096;

/// A rule that held, or a policy that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// `inet`, `ip`, `ip6` or `bridge`.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Which rule of the chain, from 0, and of how many; none for its policy.
    pub rule: Option<(usize, usize)>,
    /// What was decided.
    pub verdict: Verdict,
}

/// What a rule or a policy decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The packet passes the chain.
    Accept,
    /// It ends here.
    Drop,
    /// The next rule is asked, or another chain.
    On,
}

/// Sends a packet like this one from a namespace (none: the host's), and says what the kernel did with it, in order.
///
/// # Errors
///
/// Whatever keeps it from being sent or heard.
pub fn trace(packet: &Packet, from: Option<BorrowedFd<'_>>) -> Result<Vec<Event>, KernelError> {
    let mut heard = Socket::open(Netlink::Netfilter)?;
    heard.join(GROUP)?;
    let mut nft = Nft::open()?;
    let table = format!("trace-netrec-{}", std::process::id()).into();
    nft.commit(&tracing(&table, packet), None)?;
    let sent = match from {
        Some(netns) => netns::inside(netns, || send(packet))?,
        None => send(packet),
    }?;
    let (mut raw, started) = (Vec::new(), Instant::now());
    while started.elapsed() < PATIENCE && raw.len() < EVENTS && !stop::asked() {
        if !heard.overhear(|reply, _| {
            if reply.kind == TRACE {
                raw.push(reply.payload.to_vec());
            }
        })? {
            std::thread::sleep(PAUSE);
        }
    }
    drop(sent);
    let events = raw.iter().filter_map(|payload| read(payload));
    events.filter(|(_, event)| *event.table != *table).map(|(handle, event)| placed(&mut nft, handle, event)).collect()
}

/// The rule's place instead of its handle.
fn placed(nft: &mut Nft, handle: Option<[u8; 8]>, event: Event) -> Result<Event, KernelError> {
    let Some(handle) = handle else { return Ok(event) };
    let Event { family, table, chain, .. } = &event;
    let rules = nft.listed(Question::Rules { family, table, chain })?;
    let is = |rule: &Vec<u8>| get(rule, 3) == Some(&handle);
    Ok(Event { rule: rules.iter().position(is).map(|at| (at, rules.len())), ..event })
}

/// One message of the kernel's: the handle of the rule, and all else. Only rules and policies are read, not what is
/// told of the packet.
fn read(payload: &[u8]) -> Option<(Option<[u8; 8]>, Event)> {
    let family = match payload.first()? {
        1 => "inet",
        2 => "ip",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    };
    let body = payload.get(4..)?;
    let text = |kind| get(body, kind).map(|_| attribute::text(body, kind).to_owned());
    let code = |code: u32| match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        _ => Verdict::On,
    };
    let within = || number(get(body, 5)?, 1);
    let verdict = code(number(body, 16).or_else(within)?);
    let handle = get(body, 3).and_then(|handle| handle.try_into().ok());
    Some((handle, Event { family, table: text(1)?, chain: text(2)?, rule: None, verdict }))
}

/// Sends it once; the socket is to live until it is heard of.
fn send(packet: &Packet) -> Result<OwnedFd, KernelError> {
    let (source, to) = (packet.source(), packet.destination());
    let family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let (kind, protocol, port) = match (packet.service(), to.is_ipv6()) {
        (Service::Port(Protocol::Tcp, port), _) => (SockType::Stream, None, port),
        (Service::Port(Protocol::Udp, port), _) => (SockType::Datagram, None, port),
        (Service::Port(Protocol::Sctp, _), _) => {
            return Err(KernelError::unable("sctp cannot be sent", "ask without `--live`, or for tcp or udp"));
        }
        (Service::Echo, false) => (SockType::Raw, Some(SockProtocol::Icmp), 0),
        (Service::Echo, true) => (SockType::Raw, Some(SockProtocol::IcmpV6), 0),
    };
    let failed = |what: &'static str| move |errno| KernelError::system(what, errno);
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, kind, flags, protocol).map_err(failed("open a socket to send from"))?;
    if !source.is_loopback() && !source.is_unspecified() {
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))
            .map_err(failed("send from the endpoint's address"))?;
    }
    let to = SockaddrStorage::from(SocketAddr::new(to, port));
    match packet.service() {
        Service::Port(Protocol::Tcp, _) => match socket::connect(socket.as_raw_fd(), &to) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(KernelError::system("send", errno)),
        },
        service => {
            let icmp_v6 = packet.is_ipv6();
            let echo = if icmp_v6 { [128, 0, 0, 0, 0x6e, 0x72, 0, 1] } else { [8, 0, 0x89, 0x8c, 0x6e, 0x72, 0, 1] };
            let bytes: &[u8] = if service == Service::Echo { &echo } else { &[] };
            // A rule that drops what is sent is told as a refusal, and heard of all the same.
            match socket::sendto(socket.as_raw_fd(), bytes, &to, MsgFlags::empty()) {
                Ok(_) | Err(Errno::EPERM) => {}
                Err(errno) => return Err(KernelError::system("send", errno)),
            }
        }
    }
    Ok(socket)
}
