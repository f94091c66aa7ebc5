//! Sockets of the calling thread's namespace that wait for whoever comes (`sock_diag(7)`).

use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;

use super::KernelError;
use super::netlink::{Protocol as Family, Reply, Request, Socket, attributes};
use crate::model::values::Protocol;
use crate::model::wire::ListenerFacts;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `struct inet_diag_req_v2` and `struct inet_diag_msg` (`linux/inet_diag.h`).
const QUESTION: usize = 56;
const ANSWER: usize = 72;
const INET: u8 = 2;
const INET6: u8 = 10;
/// `INET_DIAG_SKV6ONLY`.
const V6ONLY: u16 = 11;

/// The state of what listens: `TCP_LISTEN`, and for UDP `TCP_CLOSE`, which is a bound socket without a peer.
const TCP: (Protocol, u32) = (Protocol::Tcp, 1 << 10);
const UDP: (Protocol, u32) = (Protocol::Udp, 1 << 7);

/// All of them, sorted; one of IPv6 that hears IPv4 as well is two.
///
/// # Errors
///
/// When they could not be read. A kernel without `sock_diag` for a protocol shows none.
pub fn all() -> Result<Vec<ListenerFacts>, KernelError> {
    let mut socket = Socket::open(Family::SockDiag)?;
    let mut all = Vec::new();
    for family in [INET, INET6] {
        for (protocol, states) in [TCP, UDP] {
            let mut payload = vec![0; QUESTION];
            payload[0] = family;
            payload[1] = protocol as u8;
            payload[4..8].copy_from_slice(&states.to_ne_bytes());
            let question = Request { kind: SOCK_DIAG_BY_FAMILY, flags: 0, payload };
            match socket.dump(&question, |reply: Reply<'_>| Ok(listeners(protocol, reply.payload))) {
                Ok(found) => all.extend(found),
                Err(KernelError::Refused { errno: Errno::ENOENT | Errno::EOPNOTSUPP, .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn listeners(protocol: Protocol, message: &[u8]) -> Vec<ListenerFacts> {
    let listener = |address| {
        let port = message.get(4..6)?.first_chunk().map(|port| u16::from_be_bytes(*port))?;
        (port > 0).then_some(ListenerFacts { protocol, address, port })
    };
    let address: Option<IpAddr> = match message.first() {
        Some(&INET) => message.get(8..12).and_then(|it| it.first_chunk::<4>()).map(|it| (*it).into()),
        _ => message.get(8..24).and_then(|it| it.first_chunk::<16>()).map(|it| (*it).into()),
    };
    let Some(address) = address else { return Vec::new() };
    let mut further = attributes(message.get(ANSWER..).unwrap_or_default()).map_while(Result::ok);
    let only = further.any(|(kind, value)| kind == V6ONLY && value.first() == Some(&1));
    let both = address.is_ipv6() && address.is_unspecified() && !only;
    let four = both.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    [Some(address.to_canonical()), four].into_iter().flatten().filter_map(listener).collect()
}
