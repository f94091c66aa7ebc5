//! From the types of the `nftables` crate to what nfnetlink takes, as nft 1.0.6 itself compiles them: only the part of
//! the language that [`super::rules`] speaks. Numbers are those of `linux/netfilter/nf_tables.h`.

use nftables::expr::{Expression, MetaKey, NamedExpression, Payload, PayloadField, Prefix};
use nftables::schema::{Chain, Map, NfListObject, Rule, Set, SetType, SetTypeValue};
use nftables::stmt::{Match, NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::attribute::Attr;
use super::rules::Skeleton;

const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Registers in steps of four bytes from `NFT_REG32_00`.
const FIRST: u32 = 0;

/// `nfgen_family` of a table.
pub(super) fn family(family: NfFamily) -> u8 {
    match family {
        NfFamily::INet => 1,
        NfFamily::Bridge => 7,
        other => unreachable!("the skeleton has no table of family {other:?}"),
    }
}

/// Attributes of an object of the skeleton other than the table itself.
pub(super) fn object(skeleton: &Skeleton, object: &NfListObject<'_>) -> Option<Vec<Attr>> {
    match object {
        NfListObject::Chain(it) => Some(chain(it)),
        NfListObject::Rule(it) => Some(rule(it, skeleton)),
        NfListObject::Set(it) => Some(set(it)),
        NfListObject::Map(it) => Some(map(it)),
        _ => None,
    }
}

/// Attributes of a set's definition, but for its number within the transaction.
fn set(set: &Set<'_>) -> Vec<Attr> {
    let flags = if set.flags.is_some() { INTERVAL } else { 0 };
    let mut attributes = definition(&set.table, &set.name, flags, &set.set_type);
    attributes.push(Attr::bytes(13, byte_orders(&set.set_type, None)));
    attributes
}

/// Attributes of a map's definition.
fn map(map: &Map<'_>) -> Vec<Attr> {
    const MAP: u32 = 0x8;
    let flags = MAP | if map.flags.is_some() { INTERVAL } else { 0 };
    let mut attributes = definition(&map.table, &map.name, flags, &map.set_type);
    attributes.push(Attr::number(6, type_number(&map.map))); // NFTA_SET_DATA_TYPE
    attributes.push(Attr::number(7, width(&map.map))); // NFTA_SET_DATA_LEN
    attributes.push(Attr::bytes(13, byte_orders(&map.set_type, Some(&map.map))));
    attributes
}

const INTERVAL: u32 = 0x4;
const CONCAT: u32 = 0x80;

fn definition(table: &str, name: &str, flags: u32, key: &SetTypeValue<'_>) -> Vec<Attr> {
    let fields = fields(key);
    // Only sets of intervals need to know the fields; to others a concatenation is one key.
    let concat = fields.len() > 1 && flags & INTERVAL != 0;
    let flags = if concat { flags | CONCAT } else { flags };
    let mut attributes = vec![
        Attr::text(1, table),
        Attr::text(2, name),
        Attr::number(3, flags),
        Attr::number(4, type_number(key)),
        Attr::number(5, width(key)),
    ];
    if concat {
        // NFTA_SET_DESC > NFTA_SET_DESC_CONCAT > NFTA_LIST_ELEM > NFTA_SET_FIELD_LEN
        let length = |field: &SetType| Attr::nest(1, vec![Attr::number(1, type_of(*field).1)]);
        attributes.push(Attr::nest(9, vec![Attr::list(2, fields.iter().map(length).collect())]));
    }
    attributes
}

pub(super) fn fields<'a>(types: &'a SetTypeValue<'_>) -> &'a [SetType] {
    match types {
        SetTypeValue::Single(one) => std::slice::from_ref(one),
        SetTypeValue::Concatenated(several) => several,
    }
}

/// nft's number of a type (its `enum datatypes`), and its width in bytes.
fn type_of(field: SetType) -> (u32, u32) {
    match field {
        SetType::Ipv4Addr => (7, 4),
        SetType::Ipv6Addr => (8, 16),
        SetType::EtherAddr => (9, 6),
        SetType::InetProto => (12, 1),
        SetType::InetService => (13, 2),
        SetType::Mark => (19, 4),
        SetType::Ifname => (41, 16),
    }
}

/// Six bits a field.
fn type_number(types: &SetTypeValue<'_>) -> u32 {
    fields(types).iter().fold(0, |number, field| number << 6 | type_of(*field).0)
}

/// In bytes; fields of concatenations fill registers.
fn width(types: &SetTypeValue<'_>) -> u32 {
    match fields(types) {
        [one] => type_of(*one).1,
        several => several.iter().map(|field| type_of(*field).1.next_multiple_of(4)).sum(),
    }
}

/// `NFTA_SET_USERDATA`: what nft wants to know when it lists, the byte order of keys and data (libnftnl's udata.h).
fn byte_orders(key: &SetTypeValue<'_>, data: Option<&SetTypeValue<'_>>) -> Vec<u8> {
    let order = |types: &SetTypeValue<'_>| -> u32 {
        match fields(types) {
            [SetType::Ifname | SetType::Mark] => 1, // of the host
            [_] => 2,                               // of the network
            _ => 0,
        }
    };
    let mut bytes = vec![0, 4];
    bytes.extend(order(key).to_ne_bytes());
    if let Some(data) = data {
        bytes.extend([1, 4]);
        bytes.extend(order(data).to_ne_bytes());
    }
    bytes
}

/// `NFT_CHAIN_BASE` (`linux/netfilter/nf_tables.h`).
const BASE_CHAIN: u32 = 1;

/// Attributes of a chain.
fn chain(chain: &Chain<'_>) -> Vec<Attr> {
    let mut attributes = vec![Attr::text(1, &chain.table), Attr::text(3, &chain.name)];
    if let (Some(kind), Some(hook), Some(priority)) = (chain._type, chain.hook, chain.prio) {
        let hook = Attr::nest(4, vec![Attr::number(1, hook_number(hook)), Attr::number(2, priority.cast_unsigned())]);
        let accept = u32::from(chain.policy != Some(NfChainPolicy::Drop));
        let kind = match kind {
            NfChainType::Filter => "filter",
            NfChainType::Route => "route",
            NfChainType::NAT => "nat",
        };
        attributes.extend([hook, Attr::number(5, accept), Attr::text(7, kind), Attr::number(10, BASE_CHAIN)]);
    }
    attributes
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

/// Attributes of a rule; maps are looked up in the skeleton for what they give.
fn rule(rule: &Rule<'_>, skeleton: &Skeleton) -> Vec<Attr> {
    let mut code = Code { skeleton, said: Vec::new(), nfproto: None };
    rule.expr.iter().for_each(|statement| code.statement(statement));
    vec![Attr::text(1, &rule.table), Attr::text(2, &rule.chain), Attr::list(4, code.said)]
}

struct Code<'a> {
    skeleton: &'a Skeleton,
    said: Vec<Attr>,
    /// What the rule has already found the packet to be.
    nfproto: Option<u8>,
}

impl Code<'_> {
    fn say(&mut self, name: &str, data: Vec<Attr>) {
        self.said.push(Attr::nest(1, vec![Attr::text(1, name), Attr::nest(2, data)]));
    }

    fn statement(&mut self, statement: &Statement<'_>) {
        match statement {
            Statement::Match(it) => self.matches(it),
            Statement::Accept(None) => self.verdict(1, None),
            Statement::Drop(None) => self.verdict(0, None),
            Statement::Return(None) => self.verdict(-5, None),
            Statement::Goto(to) => self.verdict(-4, Some(&to.target)),
            Statement::Masquerade(None) => self.say("masq", Vec::new()),
            Statement::DNAT(Some(nat)) => self.nat(1, nat),
            Statement::SNAT(Some(nat)) => self.nat(0, nat),
            other => unreachable!("the skeleton has no such statement: {other:?}"),
        }
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        let mut verdict = vec![Attr::number(1, code.cast_unsigned())];
        verdict.extend(chain.map(|chain| Attr::text(2, chain)));
        let data = Attr::nest(2, vec![Attr::nest(2, verdict)]);
        self.say("immediate", vec![Attr::number(1, 0), data]);
    }

    fn matches(&mut self, Match { left, right, op }: &Match<'_>) {
        self.depend(left);
        if let Expression::Named(NamedExpression::Prefix(Prefix { addr, len })) = right {
            return self.prefix(left, addr, *len);
        }
        self.load(left, FIRST);
        match right {
            Expression::String(set) if set.starts_with('@') => self.lookup(&set[1..], false),
            Expression::List(words) if *op == Operator::IN => self.any_of(left, words),
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
        let bits = words.iter().fold(0, |bits, word| match word {
            Expression::String(word) => bits | bit(left, word),
            other => unreachable!("bits have names: {other:?}"),
        });
        let data = |value: u32| vec![Attr::bytes(1, value.to_ne_bytes())];
        let mut bitwise = vec![Attr::number(1, register(FIRST)), Attr::number(2, register(FIRST)), Attr::number(3, 4)];
        bitwise.extend([Attr::nest(4, data(bits)), Attr::nest(5, data(0))]);
        self.say("bitwise", bitwise);
        self.compare(Operator::NEQ, &[0; 4]);
    }

    fn compare(&mut self, op: Operator, with: &[u8]) {
        let op = match op {
            Operator::EQ => 0,
            Operator::NEQ => 1,
            other => unreachable!("the skeleton does not compare by {other:?}"),
        };
        let data = Attr::nest(3, vec![Attr::bytes(1, with)]);
        self.say("cmp", vec![Attr::number(1, register(FIRST)), Attr::number(2, op), data]);
    }

    fn lookup(&mut self, set: &str, gives: bool) {
        let mut attributes = vec![Attr::text(1, set), Attr::number(2, register(FIRST))];
        if gives {
            attributes.push(Attr::number(3, register(FIRST)));
        }
        self.say("lookup", attributes);
    }

    fn nat(&mut self, kind: u32, nat: &NAT<'_>) {
        let Some(Expression::Named(NamedExpression::Map(found))) = &nat.addr else {
            unreachable!("the skeleton translates by maps only: {nat:?}")
        };
        let Expression::String(name) = &found.data else { unreachable!("maps have names: {found:?}") };
        self.depend(&found.key);
        self.load(&found.key, FIRST);
        self.lookup(&name[1..], true);
        let (family, words) = if nat.family == Some(NATFamily::IP6) { (IPV6, 4) } else { (IPV4, 1) };
        let address = register(FIRST);
        let mut attributes = vec![Attr::number(1, kind), Attr::number(2, u32::from(family))];
        attributes.extend([Attr::number(3, address), Attr::number(4, address)]);
        let gives_port = self.gives_port(&name[1..]);
        if gives_port {
            let port = register(FIRST + words);
            attributes.extend([Attr::number(5, port), Attr::number(6, port)]);
        }
        // NF_NAT_RANGE_MAP_IPS and NF_NAT_RANGE_PROTO_SPECIFIED: the kernel adds and dumps them in any case.
        attributes.push(Attr::number(7, if gives_port { 3 } else { 1 }));
        self.say("nat", attributes);
    }

    fn gives_port(&self, name: &str) -> bool {
        self.skeleton.objects.iter().any(|object| match object {
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
                    "ip" => (IPV4, None),
                    "ip6" => (IPV6, None),
                    "icmp" => (IPV4, Some(1)),
                    "icmpv6" => (IPV6, Some(58)),
                    _ => return,
                };
                if self.nfproto.replace(network) != Some(network) {
                    self.meta(MetaKey::Nfproto, FIRST);
                    self.compare(Operator::EQ, &[network]);
                }
                if let Some(transport) = transport {
                    self.meta(MetaKey::L4proto, FIRST);
                    self.compare(Operator::EQ, &[transport]);
                }
            }
            _ => {}
        }
    }

    fn load(&mut self, from: &Expression<'_>, to: u32) {
        let Expression::Named(named) = from else { unreachable!("the skeleton loads no {from:?}") };
        match named {
            NamedExpression::Meta(meta) => self.meta(meta.key, to),
            NamedExpression::Payload(_) => self.payload(place(from), to),
            NamedExpression::CT(ct) => {
                let key = if ct.key == "status" { 2 } else { 0 };
                self.say("ct", vec![Attr::number(1, register(to)), Attr::number(2, key)]);
            }
            NamedExpression::Fib(_) => {
                const ADDRTYPE: u32 = 3;
                const DADDR: u32 = 2;
                let attributes =
                    vec![Attr::number(1, register(to)), Attr::number(2, ADDRTYPE), Attr::number(3, DADDR)];
                self.say("fib", attributes);
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
        self.say("meta", vec![Attr::number(2, meta_number(key)), Attr::number(1, register(to))]);
    }

    fn payload(&mut self, (base, offset, length): (u32, u32, u32), to: u32) {
        let place = [Attr::number(2, base), Attr::number(3, offset), Attr::number(4, length)];
        self.say("payload", [Attr::number(1, register(to))].into_iter().chain(place).collect());
    }
}

/// As the kernel dumps registers: by the old 16-byte numbers where they begin there (`nft_dump_register`).
fn register(word: u32) -> u32 {
    if word.is_multiple_of(4) { 1 + word / 4 } else { 8 + word }
}

/// How many registers of four bytes a value fills.
fn words(of: &Expression<'_>) -> u32 {
    match of {
        Expression::Named(NamedExpression::Meta(meta)) if meta.key == MetaKey::L4proto => 1,
        Expression::Named(NamedExpression::Meta(_)) => 4,
        payload => place(payload).2.div_ceil(4),
    }
}

fn meta_number(key: MetaKey) -> u32 {
    match key {
        MetaKey::Iifname => 6,
        MetaKey::Oifname => 7,
        MetaKey::Nfproto => 15,
        MetaKey::L4proto => 16,
        other => unreachable!("the skeleton asks for no {other:?}"),
    }
}

/// Header (1 network, 2 transport), offset and length of a field in bytes.
fn place(of: &Expression<'_>) -> (u32, u32, u32) {
    let Expression::Named(NamedExpression::Payload(Payload::PayloadField(field))) = of else {
        unreachable!("no field of a header: {of:?}")
    };
    match (&*field.protocol, &*field.field) {
        ("ip", "saddr") => (1, 12, 4),
        ("ip", "daddr") => (1, 16, 4),
        ("ip6", "saddr") => (1, 8, 16),
        ("ip6", "daddr") => (1, 24, 16),
        ("th", "dport") => (2, 2, 2),
        ("icmp" | "icmpv6", "type") => (2, 0, 1),
        other => unreachable!("the skeleton looks at no {other:?}"),
    }
}

/// A word as the bytes that the left side has in its register.
fn value(of: &Expression<'_>, word: &str) -> Vec<u8> {
    if let Ok(address) = word.parse::<std::net::Ipv4Addr>() {
        return address.octets().to_vec();
    }
    if let Ok(address) = word.parse::<std::net::Ipv6Addr>() {
        return address.octets().to_vec();
    }
    let icmp = matches!(of, Expression::Named(NamedExpression::Payload(Payload::PayloadField(field))) if field.protocol == "icmp");
    match (of, word) {
        (_, "ipv4") => vec![IPV4],
        (_, "ipv6") => vec![IPV6],
        (_, "local") => 2u32.to_ne_bytes().to_vec(), // RTN_LOCAL
        (_, "echo-request") if icmp => vec![8],
        (_, "echo-request") => vec![128],
        (_, "nd-neighbor-solicit") => vec![135],
        (_, "nd-neighbor-advert") => vec![136],
        (Expression::Named(NamedExpression::Meta(_)), name) => interface(name).to_vec(),
        other => unreachable!("the skeleton compares with no {other:?}"),
    }
}

/// An interface name as it stands in a register: filled up with NUL.
pub(super) fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// Bits of conntrack's state (`NF_CT_STATE_BIT`) and status (`enum ip_conntrack_status`).
fn bit(of: &Expression<'_>, word: &str) -> u32 {
    match word {
        "invalid" => 1,
        "established" => 1 << 1,
        "related" => 1 << 2,
        "dnat" => 1 << 5,
        other => unreachable!("the skeleton asks {of:?} for no {other}"),
    }
}
