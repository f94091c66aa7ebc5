//! Tables for as long as a trace: the kernel tells what becomes of the packets that they mark (nft(8), `meta nftrace`).
//! They are owned by the socket that makes them, so the kernel removes them with it, however its process ends.

use nftables::expr::{Expression, MetaKey};
use nftables::types::{NfChainType, NfFamily, NfHook};

use super::language::{Expr, Said, any, assign, is, meta, payload};
use super::packet::{Packet, Service};
use super::rules::Skeleton;
use super::{CREATE, EXCLUSIVE, NEW_TABLE, compile, made, said};
use crate::model::attribute::Put as _;
use crate::model::resource::Text;
use crate::model::values::Protocol;
use crate::model::wire::NftMessage;

/// Before all that netrec and others usually have, and before packets are put together from fragments (-400).
const FIRST: i32 = -450;

/// `NFT_TABLE_F_OWNER` (`linux/netfilter/nf_tables.h`), of Linux 5.12.
const OWNED: u32 = 2;

/// The messages that make tables of that name, in which packets like this one are marked.
pub fn tracing(table: &Text, packet: &Packet) -> Vec<NftMessage> {
    let mut messages = Vec::new();
    for (family, hooks) in [
        (NfFamily::INet, &[("prerouting", NfHook::Prerouting), ("output", NfHook::Output)][..]),
        (NfFamily::Bridge, &[("prerouting", NfHook::Prerouting)][..]),
    ] {
        let mut skeleton = Skeleton::new(family);
        for (chain, hook) in hooks {
            skeleton.base(chain, NfChainType::Filter, (*hook, FIRST));
            skeleton.rule(chain, like(packet));
        }
        let (family, mut owned) = (compile::family(family), Vec::new());
        owned.put_number(2, OWNED);
        messages.push(said(table, family, (NEW_TABLE, CREATE | EXCLUSIVE), owned));
        messages.extend(compile::objects(&skeleton).map(|object| made(table, family, object)));
    }
    messages
}

/// Matches what the packet asks for, from whom and of whom, and marks it.
fn like(packet: &Packet) -> Vec<Said> {
    let word = |text: String| -> Expr { Expression::String(text.into()) };
    let family = if packet.is_ipv6() { "ip6" } else { "ip" };
    let mut said = vec![
        is(payload(family, "saddr"), word(packet.source().to_string())),
        is(payload(family, "daddr"), word(packet.destination().to_string())),
    ];
    match packet.service() {
        Service::Echo => {
            said.push(is(payload(if packet.is_ipv6() { "icmpv6" } else { "icmp" }, "type"), "echo-request"));
        }
        // Only what opens the connection: the rest of it is not judged anew.
        Service::Port(Protocol::Tcp, port) => {
            said.push(any(payload("tcp", "flags"), &["syn"]));
            said.push(is(payload("tcp", "dport"), word(port.to_string())));
        }
        Service::Port(Protocol::Udp, port) => said.push(is(payload("udp", "dport"), word(port.to_string()))),
        Service::Port(Protocol::Sctp, _) => said.push(is(meta(MetaKey::L4proto), "sctp")),
    }
    said.push(assign(meta(MetaKey::Nftrace), word("1".into())));
    said
}
