//! What the kernel does with a packet at a hook: the rules, sets and elements are read as the bytes in which they are
//! sent, and done expression by expression as `net/netfilter/nf_tables_core.c` does them. So what is said here of a
//! packet is what the rules say, and not what they were meant to say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::elements::Element;
use super::expression::Expression;
use super::lookup::Set;
use super::numbers::interface;
use super::packet::{Does, Packet, Service};
use super::{Firewall, Uses, compile, compiled, text};
use crate::model::attribute::{self, number};

/// The hooks, by their numbers (`enum nf_inet_hooks`; `NF_BR_*` are the same).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum Hook {
    /// Whatever comes in.
    Prerouting = 0,
    /// What is for the host.
    Input = 1,
    /// What is for others.
    Forward = 2,
    /// What the host sends.
    Output = 3,
    /// Whatever goes out.
    Postrouting = 4,
}

impl Hook {
    /// As nft writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// A rule that held and did something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The chain it stands in.
    pub chain: String,
    /// Which of its [rules](Ruleset::rules), from zero.
    pub rule: usize,
    /// Elements that it found in its sets.
    pub elements: Vec<Element>,
    /// What it did.
    pub does: Does,
}

/// The rules of both tables, compiled.
#[derive(Debug)]
pub struct Ruleset {
    group: u32,
    uses: Uses,
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    bridge: bool,
    /// In the order in which the kernel has them called: those of a hook by priority.
    chains: Vec<Chain>,
    sets: BTreeMap<String, Set>,
}

#[derive(Debug)]
struct Chain {
    name: String,
    /// Where it is called: hook, priority, and whether of type `nat`; none if only rules do.
    base: Option<(u32, i32, bool)>,
    /// What the kernel does.
    rules: Vec<Vec<Expression>>,
}

impl Ruleset {
    /// The rules of a firewall.
    pub fn new(firewall: &Firewall) -> Self {
        let (group, uses) = (super::group(&firewall.table), firewall.uses);
        Self { group, uses, tables: compiled::tables(group, uses).map(|sent| Table::new(sent, firewall)).collect() }
    }

    /// The rules of a chain as nft lists them, in order.
    pub fn rules(&self, bridge: bool, chain: &str) -> Vec<String> {
        text::rules((self.group, self.uses), bridge, chain)
    }

    /// Leads a packet through a hook of the host, or of its bridges: what was decided on the way, and whether it goes on.
    /// `is_local` says which addresses are the host's.
    pub fn hook(
        &self,
        bridge: bool,
        hook: Hook,
        packet: &mut Packet,
        is_local: &dyn Fn(IpAddr) -> bool,
    ) -> (Vec<Decision>, bool) {
        let Some(table) = self.tables.iter().find(|table| table.bridge == bridge) else { return (Vec::new(), true) };
        let side = usize::from(matches!(hook, Hook::Postrouting | Hook::Input));
        let mut walk =
            Walk { table, packet, is_local, registers: [0; REGISTERS], found: Vec::new(), decisions: Vec::new() };
        for chain in &table.chains {
            let Some((_, _, nat)) = chain.base.filter(|(number, ..)| *number == hook as u32) else { continue };
            if nat && walk.packet.settled[side] {
                continue;
            }
            if !walk.chain(chain) {
                return (walk.decisions, false);
            }
        }
        let decisions = walk.decisions;
        packet.settled[side] |= !bridge;
        (decisions, true)
    }
}

impl Table {
    /// As it is sent.
    fn new((family, objects): (u8, Vec<compiled::Object>), firewall: &Firewall) -> Self {
        let bridge = family == compile::BRIDGE;
        let (mut chains, mut sets) = (Vec::new(), BTreeMap::new());
        let mut elements: BTreeMap<&str, Vec<&Element>> = BTreeMap::new();
        for element in firewall.elements.iter().filter(|element| element.is_bridged() == bridge) {
            elements.entry(element.set()).or_default().push(element);
        }
        for (message, bytes) in &objects {
            match *message {
                compile::NEW_CHAIN => chains.push(Chain::new(bytes)),
                compile::NEW_RULE => {
                    let of = attribute::text(bytes, 2);
                    if let Some(chain) = chains.iter_mut().find(|chain: &&mut Chain| chain.name == of) {
                        chain.rules.push(Expression::all(bytes));
                    }
                }
                _ => {
                    let name = attribute::text(bytes, 2);
                    let own = elements.remove(name).unwrap_or_default();
                    sets.insert(name.to_owned(), Set::new(bytes, own.into_iter().cloned()));
                }
            }
        }
        chains.sort_by_key(|chain| chain.base.map(|(_, priority, _)| priority));
        Self { bridge, chains, sets }
    }
}

impl Chain {
    fn new(bytes: &[u8]) -> Self {
        let base = attribute::get(bytes, 4).and_then(|hook| {
            Some((number(hook, 1)?, number(hook, 2)?.cast_signed(), attribute::text(bytes, 7) == "nat"))
        });
        Self { name: attribute::text(bytes, 3).to_owned(), base, rules: Vec::new() }
    }
}

/// `struct nft_regs`: the verdict in the first sixteen bytes, and sixteen words.
const REGISTERS: usize = 80;

/// `NF_DROP`, `NF_ACCEPT`, `NFT_JUMP`, `NFT_GOTO` and `NFT_RETURN`.
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

/// A packet on its way through a table.
struct Walk<'a> {
    table: &'a Table,
    packet: &'a mut Packet,
    is_local: &'a dyn Fn(IpAddr) -> bool,
    registers: [u8; REGISTERS],
    /// Elements that the present rule found.
    found: Vec<Element>,
    decisions: Vec<Decision>,
}

/// How a rule ends.
enum End<'a> {
    /// It does not hold, or says nothing: the next one is asked (`NFT_BREAK`, `NFT_CONTINUE`).
    Next,
    Jump(&'a str),
    Goto(&'a str),
    Return,
    Does(Does),
}

impl<'a> Walk<'a> {
    /// Whether the packet passes a base chain; where nothing decides, by its policy, which is to accept.
    fn chain(&mut self, base: &'a Chain) -> bool {
        self.through(base).unwrap_or(true)
    }

    /// What a chain decides, if it does: whether the packet passes.
    fn through(&mut self, chain: &'a Chain) -> Option<bool> {
        let named = |name: &str| self.table.chains.iter().find(|chain| chain.name == name);
        for (at, rule) in chain.rules.iter().enumerate() {
            match self.rule(rule) {
                End::Next => {}
                End::Return => return None,
                End::Goto(name) => return named(name).and_then(|next| self.through(next)),
                End::Jump(name) => {
                    if let Some(passes) = named(name).and_then(|next| self.through(next)) {
                        return Some(passes);
                    }
                }
                End::Does(does) => {
                    let elements = std::mem::take(&mut self.found);
                    let (chain, goes_on) = (chain.name.clone(), does == Does::Remember);
                    self.decisions.push(Decision { chain, rule: at, elements, does: does.clone() });
                    if !goes_on {
                        return Some(does != Does::Drop);
                    }
                }
            }
        }
        None
    }

    fn rule(&mut self, rule: &'a [Expression]) -> End<'a> {
        self.found.clear();
        let mut end = End::Next;
        for expression in rule {
            match self.expression(expression) {
                None => return End::Next,
                Some(End::Next) => {}
                Some(other) => end = other,
            }
        }
        end
    }

    /// Does one expression; none if the rule breaks off at it.
    fn expression(&mut self, data: &'a Expression) -> Option<End<'a>> {
        match &*data.name {
            "meta" => self.meta(data)?,
            "payload" if data.has(5) => self.write(data)?,
            "payload" => self.load(data)?,
            "ct" => self.store(data.number(1), &self.conntrack(data.number(2)).to_ne_bytes()),
            "fib" => {
                let of_source = data.number(3) == compile::FIB_SADDR;
                let of = if of_source { self.packet.source() } else { self.packet.destination() };
                let kind: u32 = if (self.is_local)(of) { 2 } else { 1 }; // RTN_LOCAL, RTN_UNICAST
                self.store(data.number(1), &kind.to_ne_bytes());
            }
            "bitwise" => self.bitwise(data)?,
            "cmp" => {
                let with = data.value(3)?;
                let order = self.register(data.number(1), with.len())?.cmp(with);
                let holds = match data.number(2) {
                    0 => order.is_eq(),
                    1 => order.is_ne(),
                    3 => order.is_le(),
                    5 => order.is_ge(),
                    other => unreachable!("the skeleton does not compare by {other}"),
                };
                holds.then_some(())?;
            }
            "lookup" => self.lookup(data)?,
            "immediate" => return Some(verdict(data.verdict(2)?)),
            "dynset" => return Some(End::Does(Does::Remember)),
            "nat" => return self.nat(data),
            "masq" => return Some(End::Does(Does::Masquerade)),
            other => unreachable!("the skeleton has no such expression: {other}"),
        }
        Some(End::Next)
    }

    fn meta(&mut self, data: &Expression) -> Option<()> {
        let to = data.number(1);
        match data.number(2) {
            1 => self.store(to, if self.packet.is_ipv6() { &[0x86, 0xdd] } else { &[0x08, 0x00] }),
            6 => self.store(to, &interface(&self.packet.iif)),
            7 => self.store(to, &interface(&self.packet.oif)),
            15 => self.store(to, &[if self.packet.is_ipv6() { 10 } else { 2 }]),
            16 => self.store(to, &[self.packet.protocol()]),
            21 => self.store(to, &self.packet.iif_group?.to_ne_bytes()),
            22 => return None, // asked of listener reports only, which open nothing
            other => unreachable!("the skeleton asks for no {other}"),
        }
        Some(())
    }

    /// Conntrack's state, and its status: of a flow that this packet opens.
    fn conntrack(&self, key: u32) -> u32 {
        const NEW: u32 = 1 << 3;
        const DST_NAT: u32 = 1 << 5;
        match (key, self.packet.mapped) {
            (0, _) => NEW,
            (_, mapped) => {
                if mapped {
                    DST_NAT
                } else {
                    0
                }
            }
        }
    }

    fn load(&mut self, data: &Expression) -> Option<()> {
        let (offset, length) = (data.number(3) as usize, data.number(4) as usize);
        let mut bytes = [0; 16];
        let read = self.packet.headers.get(data.number(2) as usize)?.get(offset..offset + length)?;
        bytes.get_mut(..length)?.copy_from_slice(read);
        self.store(data.number(1), &bytes[..length]);
        Some(())
    }

    fn write(&mut self, data: &Expression) -> Option<()> {
        let (offset, length) = (data.number(3) as usize, data.number(4) as usize);
        let bytes = self.register(data.number(5), length)?.to_vec();
        let header = self.packet.headers.get_mut(data.number(2) as usize)?;
        header.get_mut(offset..offset + length)?.copy_from_slice(&bytes);
        Some(())
    }

    fn bitwise(&mut self, data: &Expression) -> Option<()> {
        let (mask, xor) = (data.value(4)?, data.value(5)?);
        let from = self.register(data.number(1), data.number(3) as usize)?;
        let result: Vec<u8> = from.iter().zip(mask).zip(xor).map(|((byte, mask), xor)| byte & mask ^ xor).collect();
        self.store(data.number(2), &result);
        Some(())
    }

    fn lookup(&mut self, data: &Expression) -> Option<()> {
        let table = self.table;
        let set = table.sets.get(data.text(1))?;
        let found = set.find(self.register(data.number(2), set.width)?);
        (found.is_none() == (data.number(5) == 1)).then_some(())?;
        if let Some((element, gives)) = found {
            self.found.push(element.clone());
            if data.has(3) {
                self.store(data.number(3), gives);
            }
        }
        Some(())
    }

    fn nat(&mut self, data: &Expression) -> Option<End<'a>> {
        let ipv6 = data.number(2) == 10;
        if ipv6 != self.packet.is_ipv6() {
            return Some(End::Next);
        }
        let address = self.register(data.number(3), if ipv6 { 16 } else { 4 })?;
        let address: IpAddr = match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address)) {
            (Ok(ipv4), _) => ipv4.into(),
            (_, Ok(ipv6)) => ipv6.into(),
            _ => return None,
        };
        if data.number(1) == 0 {
            self.packet.set_source(address);
            return Some(End::Does(Does::Snat(address)));
        }
        let port = data.has(5).then(|| self.register(data.number(5), 2)?.first_chunk().copied()).flatten();
        let port = port.map(u16::from_be_bytes);
        self.packet.set_destination(address, port);
        self.packet.mapped = true;
        let kept = if let Service::Port(_, port) = self.packet.service() { Some(port) } else { None };
        Some(End::Does(Does::Dnat(address, kept)))
    }

    fn register(&self, number: u32, length: usize) -> Option<&[u8]> {
        self.registers.get(offset(number)..offset(number) + length)
    }

    /// The rest of the last word is zero.
    fn store(&mut self, number: u32, bytes: &[u8]) {
        let to = offset(number);
        self.registers[to..to + bytes.len().next_multiple_of(4)].fill(0);
        self.registers[to..to + bytes.len()].copy_from_slice(bytes);
    }
}

/// Byte at which a register begins (`nft_parse_register`).
fn offset(register: u32) -> usize {
    4 * if register <= 4 { register as usize * 4 } else { register as usize - 4 }
}

/// `NFTA_DATA_VERDICT`.
fn verdict(verdict: &[u8]) -> End<'_> {
    match number(verdict, 1).map(u32::cast_signed) {
        Some(ACCEPT) => End::Does(Does::Accept),
        Some(DROP) => End::Does(Does::Drop),
        Some(JUMP) => End::Jump(attribute::text(verdict, 2)),
        Some(GOTO) => End::Goto(attribute::text(verdict, 2)),
        Some(RETURN) => End::Return,
        other => unreachable!("the skeleton has no verdict {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kinds::firewall::{Guard, NetworkRules, Publication, SourceNat};
    use crate::model::values::{Mac, Ports, Protocol};

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn rules() -> Ruleset {
        let subnets = vec!["10.0.0.0/24".parse().expect("a net")];
        let network = NetworkRules { ipv6: SourceNat::Keep, ..NetworkRules::new("br0", subnets) };
        let publication = |first, last, to: u16, from: Option<&str>| Publication {
            listen: None,
            protocol: Protocol::Tcp,
            ports: Ports { first, last },
            target: address("10.0.0.2"),
            first: to,
            allow_from: from.map(|net| vec![net.parse().expect("a net")]),
        };
        let published = [publication(9000, 9010, 9000, None), publication(8000, 8001, 80, Some("192.0.2.0/28"))];
        let guard = Guard { link: "p0".into(), mac: Mac([2, 0, 0, 0, 0, 1]), addresses: vec![address("10.0.0.2")] };
        Ruleset::new(&Firewall::new("t", &[network], &published).with(Guard::elements(vec![guard])))
    }

    /// Where a packet from outside to a port of the host goes; none: it is dropped.
    fn mapped(from: &str, port: u16) -> Option<(IpAddr, Service)> {
        let host = address("192.0.2.1");
        let mut packet = Packet::new(address(from), host, Service::Port(Protocol::Tcp, port));
        packet.iif = "up0".into();
        let (_, passes) = rules().hook(false, Hook::Prerouting, &mut packet, &|address| address == host);
        passes.then(|| (packet.destination(), packet.service()))
    }

    #[test]
    fn intervals_end_where_they_end() {
        let port = |port| Service::Port(Protocol::Tcp, port);
        let (host, inside) = (address("192.0.2.1"), address("10.0.0.2"));
        for (asked, to) in [(8999, host), (9000, inside), (9010, inside), (9011, host)] {
            assert_eq!(mapped("198.51.100.1", asked), Some((to, port(asked))));
        }
        assert_eq!(mapped("192.0.2.15", 8001), Some((inside, port(81))));
        assert_eq!(mapped("192.0.2.16", 8001), None, "not of those who may");
    }

    #[test]
    fn a_port_sends_as_itself_only() {
        let group = crate::model::wire::Owner::new("t").group;
        for (link, mac, source, passes) in [
            ("p0", 1, "10.0.0.2", true),
            ("p0", 2, "10.0.0.2", false),
            ("p0", 1, "10.0.0.3", false),
            ("p1", 1, "10.0.0.2", false),
        ] {
            let mut packet = Packet::new(address(source), address("10.0.0.3"), Service::Echo);
            (packet.iif, packet.iif_group) = (link.into(), Some(group));
            packet.set_sender(Mac([2, 0, 0, 0, 0, mac]));
            assert_eq!(
                rules().hook(true, Hook::Prerouting, &mut packet, &|_| false).1,
                passes,
                "{link} {mac} {source}"
            );
            packet.iif_group = Some(0);
            assert!(rules().hook(true, Hook::Prerouting, &mut packet, &|_| false).1, "no port of ours");
        }
    }
}
