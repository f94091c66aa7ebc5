//! From the types of the `nftables` crate to what nfnetlink takes, as nft 1.0.6 itself compiles them: only the part of
//! the language that [`super::rules`] speaks. Numbers are those of `linux/netfilter/nf_tables.h`.

use std::borrow::Cow;

use nftables::expr::{Expression, FibFlag, MetaKey, NamedExpression, Payload, PayloadField, Prefix};
use nftables::schema::{Chain, NfListObject, Rule};
use nftables::stmt::{self, Mangle, Match, NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::definition::{fields, map, set};
use super::numbers::{
    ETH_ARP, ETH_IPV4, ETH_IPV6, ETHER_TYPE, ICMP, ICMPV6, IPV4, IPV6, TCP, UDP, bit, meta_number, place, value, words,
};
use super::rules::Skeleton;
use crate::model::attribute::{LIST_ELEM, Put as _};

/// `NFTA_FIB_F_SADDR` and `NFTA_FIB_F_DADDR`.
pub(super) const FIB_SADDR: u32 = 1;
const FIB_DADDR: u32 = 2;

/// Registers in steps of four bytes from `NFT_REG32_00`.
const FIRST: u32 = 0;

/// `NFPROTO_INET` and `NFPROTO_BRIDGE` (`linux/netfilter.h`).
pub(in crate::model::kinds) const INET: u8 = 1;
pub(super) const BRIDGE: u8 = 7;

/// `nfgen_family` of a table.
pub(super) fn family(family: NfFamily) -> u8 {
    match family {
        NfFamily::INet => INET,
        NfFamily::Bridge => BRIDGE,
        other => unreachable!("the skeleton has no table of family {other:?}"),
    }
}

/// What stands for the group of ports until it is known which topology it is.
pub(super) const UNKNOWN: u32 = 0x6e3f_3f3f;

/// Beside the number of a message whose attributes hold it.
pub(super) const HOLDS_GROUP: u16 = 0x100;

/// `NFT_MSG_NEWCHAIN`.
pub(in crate::model::kinds) const NEW_CHAIN: u16 = 3;
/// `NFT_MSG_NEWRULE`.
pub(in crate::model::kinds) const NEW_RULE: u16 = 6;
/// `NFT_MSG_NEWSET`.
pub(super) const NEW_SET: u16 = 9;

/// What is in a table: the message that makes an object, and its attributes but for the table.
pub(super) fn objects(skeleton: &Skeleton) -> impl Iterator<Item = (u16, Cow<'static, [u8]>)> {
    skeleton.objects.iter().map(|(_, object)| (message(object), self::object(skeleton, object).into()))
}

fn message(object: &NfListObject<'_>) -> u16 {
    match object {
        NfListObject::Chain(_) => NEW_CHAIN,
        NfListObject::Rule(_) => NEW_RULE,
        _ => NEW_SET,
    }
}

/// Attributes of an object, but for the table that it is in.
fn object(skeleton: &Skeleton, object: &NfListObject<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match object {
        NfListObject::Chain(it) => chain(it, &mut out),
        NfListObject::Rule(it) => rule(it, skeleton, &mut out),
        NfListObject::Set(it) => set(it, &mut out),
        NfListObject::Map(it) => map(it, &mut out),
        other => unreachable!("the skeleton has no such object: {other:?}"),
    }
    out
}

/// `NFT_CHAIN_BASE` (`linux/netfilter/nf_tables.h`).
pub(in crate::model::kinds) const BASE_CHAIN: u32 = 1;

/// Attributes of a chain.
fn chain(chain: &Chain<'_>, out: &mut Vec<u8>) {
    out.put_text(3, &chain.name);
    if let (Some(kind), Some(hook), Some(priority)) = (chain._type, chain.hook, chain.prio) {
        let accept = u32::from(chain.policy != Some(NfChainPolicy::Drop));
        let kind = match kind {
            NfChainType::Filter => "filter",
            NfChainType::Route => "route",
            NfChainType::NAT => "nat",
        };
        out.put_nest(4, |out| out.put_number(1, hook_number(hook)).put_number(2, priority.cast_unsigned()));
        out.put_number(5, accept).put_text(7, kind).put_number(10, BASE_CHAIN);
    }
}

fn hook_number(hook: NfHook) -> u32 {
    match hook {
        NfHook::Prerouting => 0,
        NfHook::Input => 1,
        NfHook::Forward => 2,
        NfHook::Output => 3,
        NfHook::Postrouting => 4,
        other => unreachable!("the skeleton has no chain at {other:?}"),
    }
}

/// Attributes of a rule, with defaults that the kernel dumps, so that it mostly says what it was told; maps are looked up in
/// the skeleton for what they give.
fn rule(rule: &Rule<'_>, skeleton: &Skeleton, out: &mut Vec<u8>) {
    out.put_text(2, &rule.chain);
    out.put_nest(4, |out| {
        let mut code = Code { skeleton, out: &mut *out, network: None, transport: None };
        rule.expr.iter().for_each(|statement| code.statement(statement));
        out
    });
}

struct Code<'a> {
    skeleton: &'a Skeleton,
    out: &'a mut Vec<u8>,
    /// What the rule has already found the packet to be: ether type.
    network: Option<[u8; 2]>,
    /// Protocol within it.
    transport: Option<u8>,
}

impl Code<'_> {
    fn say(&mut self, name: &str, data: impl for<'a> FnOnce(&'a mut Vec<u8>) -> &'a mut Vec<u8>) {
        self.out.put_nest(LIST_ELEM, |out| out.put_text(1, name).put_nest(2, data));
    }

    fn statement(&mut self, statement: &Statement<'_>) {
        match statement {
            Statement::Match(it) => self.matches(it),
            Statement::Accept(None) => self.verdict(1, None),
            Statement::Drop(None) => self.verdict(0, None),
            Statement::Return(None) => self.verdict(-5, None),
            Statement::Jump(to) => self.verdict(-3, Some(&to.target)),
            Statement::Goto(to) => self.verdict(-4, Some(&to.target)),
            Statement::Masquerade(None) => self.say("masq", |out| out),
            Statement::DNAT(Some(nat)) => self.nat(1, nat),
            Statement::SNAT(Some(nat)) => self.nat(0, nat),
            Statement::Set(it) => self.update(it),
            Statement::Mangle(it) => self.assign(it),
            other => unreachable!("the skeleton has no such statement: {other:?}"),
        }
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.say("immediate", |out| {
            out.put_number(1, 0).put_nest(2, |out| {
                out.put_nest(2, |out| {
                    let out = out.put_number(1, code.cast_unsigned());
                    if let Some(chain) = chain { out.put_text(2, chain) } else { out }
                })
            })
        });
    }

    fn matches(&mut self, Match { left, right, op }: &Match<'_>) {
        self.depend(left);
        if let Expression::Named(NamedExpression::Prefix(Prefix { addr, len })) = right {
            return self.prefix(left, addr, *len);
        }
        self.load(left, FIRST);
        match right {
            Expression::String(set) if set.starts_with('@') => self.lookup(&set[1..], *op == Operator::NEQ, false),
            Expression::List(words) if *op == Operator::IN => self.any_of(left, words),
            Expression::Range(range) => {
                for (op, end) in [Operator::GEQ, Operator::LEQ].into_iter().zip(&range.range) {
                    let Expression::String(word) = end else { unreachable!("a range ends with a word: {end:?}") };
                    self.compare(op, &value(left, word));
                }
            }
            Expression::String(word) => self.compare(*op, &value(left, word)),
            other => unreachable!("the skeleton compares with no such thing: {other:?}"),
        }
    }

    /// nft loads the bytes that the prefix covers, and no more.
    fn prefix(&mut self, left: &Expression<'_>, address: &Expression<'_>, length: u32) {
        let Expression::String(address) = address else { unreachable!("a prefix is written as text: {address:?}") };
        let address = value(left, address);
        let (base, offset, _) = place(left);
        assert!(length.is_multiple_of(8), "only whole bytes are compared without a mask");
        self.payload((base, offset, length / 8), FIRST);
        self.compare(Operator::EQ, &address[..length as usize / 8]);
    }

    fn any_of(&mut self, left: &Expression<'_>, words: &[Expression<'_>]) {
        const MASK_AND_XOR: u32 = 0; // NFT_BITWISE_MASK_XOR, as where NFTA_BITWISE_OP is left out
        let bits = words.iter().fold(0, |bits, word| match word {
            Expression::String(word) => bits | bit(left, word),
            other => unreachable!("bits have names: {other:?}"),
        });
        // Of the host's order, or a single byte.
        let width =
            if matches!(left, Expression::Named(NamedExpression::Payload(_))) { place(left).2 as usize } else { 4 };
        let bits = if width == 4 { bits.to_ne_bytes() } else { [bits as u8, 0, 0, 0] };
        self.say("bitwise", |out| {
            out.put_number(1, register(FIRST)).put_number(2, register(FIRST)).put_number(3, width as u32);
            out.put_number(6, MASK_AND_XOR)
                .put_nest(4, |out| out.put(1, &bits[..width]))
                .put_nest(5, |out| out.put(1, &[0; 4][..width]))
        });
        self.compare(Operator::NEQ, &[0; 4][..width]);
    }

    fn compare(&mut self, op: Operator, with: &[u8]) {
        let op = match op {
            Operator::EQ => 0,
            Operator::NEQ => 1,
            Operator::LEQ => 3,
            Operator::GEQ => 5,
            other => unreachable!("the skeleton does not compare by {other:?}"),
        };
        self.say("cmp", |out| out.put_number(1, register(FIRST)).put_number(2, op).put_nest(3, |out| out.put(1, with)));
    }

    fn lookup(&mut self, set: &str, absent: bool, gives: bool) {
        const INVERTED: u32 = 1;
        self.say("lookup", |out| {
            out.put_text(1, set).put_number(2, register(FIRST));
            if gives {
                out.put_number(3, register(FIRST));
            }
            out.put_number(5, if absent { INVERTED } else { 0 })
        });
    }

    fn update(&mut self, it: &stmt::Set<'_>) {
        const UPDATE: u32 = 1;
        self.depend(&it.elem);
        self.load(&it.elem, FIRST);
        let set = &it.set[1..];
        self.say("dynset", |out| out.put_number(4, register(FIRST)).put_number(3, UPDATE).put_text(1, set));
    }

    /// The kernel corrects the checksum of what is carried, as for an address it must.
    fn assign(&mut self, Mangle { key, value }: &Mangle<'_>) {
        const L4_CHECKSUM: u32 = 1;
        if let (Expression::Named(NamedExpression::Meta(meta)), Expression::String(word)) = (key, value) {
            let on = [u8::from(*word == "1")];
            self.say("immediate", |out| out.put_number(1, register(FIRST)).put_nest(2, |out| out.put(1, &on)));
            let key = meta_number(meta.key);
            return self.say("meta", |out| out.put_number(2, key).put_number(3, register(FIRST))); // NFTA_META_SREG
        }
        self.depend(key);
        self.load(value, FIRST);
        let (base, offset, length) = place(key);
        self.say("payload", |out| {
            out.put_number(5, register(FIRST)).put_number(2, base).put_number(3, offset).put_number(4, length);
            out.put_number(6, 0).put_number(7, 0).put_number(8, L4_CHECKSUM)
        });
    }

    fn nat(&mut self, kind: u32, nat: &NAT<'_>) {
        let Some(Expression::Named(NamedExpression::Map(found))) = &nat.addr else {
            unreachable!("the skeleton translates by maps only: {nat:?}")
        };
        let Expression::String(name) = &found.data else { unreachable!("maps have names: {found:?}") };
        self.depend(&found.key);
        self.load(&found.key, FIRST);
        self.lookup(&name[1..], false, true);
        let (family, words) = if nat.family == Some(NATFamily::IP6) { (IPV6, 4) } else { (IPV4, 1) };
        let address = register(FIRST);
        let gives_port = self.gives_port(&name[1..]);
        self.say("nat", |out| {
            out.put_number(1, kind).put_number(2, u32::from(family)).put_number(3, address).put_number(4, address);
            if gives_port {
                let port = register(FIRST + words);
                out.put_number(5, port).put_number(6, port);
            }
            // NF_NAT_RANGE_MAP_IPS and NF_NAT_RANGE_PROTO_SPECIFIED: the kernel adds and dumps them in any case.
            out.put_number(7, if gives_port { 3 } else { 1 })
        });
    }

    fn gives_port(&self, name: &str) -> bool {
        self.skeleton.objects.iter().any(|(_, object)| match object {
            NfListObject::Map(map) => map.name == name && fields(&map.map).len() > 1,
            _ => false,
        })
    }

    /// What must be known of the packet before its headers mean anything; nft adds it before the statement.
    fn depend(&mut self, on: &Expression<'_>) {
        let Expression::Named(named) = on else { return };
        match named {
            NamedExpression::Concat(parts) => parts.iter().for_each(|part| self.depend(part)),
            NamedExpression::Payload(Payload::PayloadField(PayloadField { protocol, .. })) => {
                let (network, transport) = match &**protocol {
                    "arp" => (Some(ETH_ARP), None),
                    "ip" => (Some(ETH_IPV4), None),
                    "ip6" => (Some(ETH_IPV6), None),
                    "icmp" => (Some(ETH_IPV4), Some(ICMP)),
                    "icmpv6" => (Some(ETH_IPV6), Some(ICMPV6)),
                    "tcp" => (None, Some(TCP)),
                    "udp" => (None, Some(UDP)),
                    _ => return,
                };
                if let Some(network) = network
                    && self.network.replace(network) != Some(network)
                {
                    self.is_network(network, protocol.starts_with("ip"));
                }
                if let Some(transport) = transport
                    && self.transport.replace(transport) != Some(transport)
                {
                    self.meta(MetaKey::L4proto, FIRST);
                    self.compare(Operator::EQ, &[transport]);
                }
            }
            _ => {}
        }
    }

    /// In the bridge family nft looks into the frame's header, or for what comes from the network header itself at what
    /// the kernel took the frame for.
    fn is_network(&mut self, network: [u8; 2], own_header: bool) {
        if self.skeleton.family == NfFamily::INet {
            self.meta(MetaKey::Nfproto, FIRST);
            return self.compare(Operator::EQ, &[if network == ETH_IPV4 { IPV4 } else { IPV6 }]);
        }
        if own_header {
            self.meta(MetaKey::Protocol, FIRST);
        } else {
            self.payload(ETHER_TYPE, FIRST);
        }
        self.compare(Operator::EQ, &network);
    }

    fn load(&mut self, from: &Expression<'_>, to: u32) {
        let Expression::Named(named) = from else { unreachable!("the skeleton loads no {from:?}") };
        match named {
            NamedExpression::Meta(meta) => self.meta(meta.key, to),
            NamedExpression::Payload(_) => self.payload(place(from), to),
            NamedExpression::CT(ct) => {
                let key = if ct.key == "status" { 2 } else { 0 };
                self.say("ct", |out| out.put_number(1, register(to)).put_number(2, key));
            }
            NamedExpression::Fib(it) => {
                const ADDRTYPE: u32 = 3;
                let of = if it.flags.contains(&FibFlag::Saddr) { FIB_SADDR } else { FIB_DADDR };
                self.say("fib", |out| out.put_number(1, register(to)).put_number(2, ADDRTYPE).put_number(3, of));
            }
            NamedExpression::Concat(parts) => {
                let mut next = to;
                for part in parts {
                    self.load(part, next);
                    next += words(part);
                }
            }
            other => unreachable!("the skeleton loads no {other:?}"),
        }
    }

    fn meta(&mut self, key: MetaKey, to: u32) {
        self.say("meta", |out| out.put_number(2, meta_number(key)).put_number(1, register(to)));
    }

    fn payload(&mut self, (base, offset, length): (u32, u32, u32), to: u32) {
        self.say("payload", |out| {
            out.put_number(1, register(to)).put_number(2, base).put_number(3, offset).put_number(4, length)
        });
    }
}

/// As the kernel dumps registers: by the old 16-byte numbers where they begin there (`nft_dump_register`).
fn register(word: u32) -> u32 {
    if word.is_multiple_of(4) { 1 + word / 4 } else { 8 + word }
}
