//! The skeleton: chains, rules and set definitions, the same for every topology but for the table's name, the group of its
//! ports, and [parts](Uses) that it does not use. All else that differs between topologies is in the elements (`elements`),
//! so the number of rules never grows with them.
//!
//! The build script takes this module as well (`compiled`), so it knows the language of rules and nothing of netrec.
//!
//! Base chains accept by policy and judge only what comes from, goes to or is mapped to a bridge of the topology.

use std::borrow::Cow;

use nftables::expr::{Expression, FibFlag, MetaKey, NamedExpression};
use nftables::schema::{Chain, Map, NfListObject, Rule, Set, SetFlag, SetType};
use nftables::stmt::{Match, NATFamily, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::language::{
    ACCEPT, DROP, MASQUERADE, RETURN, Said, concat, ct, dnat, goto, iifname, ip, ip6, is, is_not, jump, local,
    loopback, meta, midstream, neighbour_discovery, nfproto, oifname, passage, payload, snat, types,
};
use super::uses::Uses;

/// Priorities as nft names them (nft(8), standard priority names); bridge chains have their own (`bridged`).
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// The chain that is there while the tables are replaced.
pub(super) const SHUT: &str = "shut";

pub(super) type Object = NfListObject<'static>;

/// One of the two tables of a topology, empty of elements.
#[derive(Clone, Debug)]
pub(super) struct Skeleton {
    /// `inet` or `bridge`.
    pub(super) family: NfFamily,
    /// What is in it as the kernel lists it: sets and maps, chains, and rules chain by chain; each with the parts that it is
    /// there for only if all of them are.
    pub(super) objects: Vec<(Uses, Object)>,
    /// The part that what is added belongs to.
    part: Uses,
}

impl Skeleton {
    /// Both tables of a topology whose ports are in that group and that uses those parts.
    pub(super) fn both(group: u32, uses: Uses) -> [Self; 2] {
        [Self::inet(), Self::bridge(group)].map(|whole| whole.in_order(uses))
    }

    fn in_order(mut self, uses: Uses) -> Self {
        self.objects.retain(|(needs, _)| uses.contains(*needs));
        let chains = self
            .objects
            .iter()
            .filter_map(|(_, it)| if let NfListObject::Chain(it) = it { Some(&it.name) } else { None });
        let chains: Vec<Cow<'static, str>> = chains.cloned().collect();
        self.objects.sort_by_key(|(_, object)| match object {
            NfListObject::Rule(it) => 2 + chains.iter().position(|chain| *chain == it.chain).unwrap_or_default(),
            NfListObject::Chain(_) => 1,
            _ => 0,
        });
        self
    }

    /// What is laid over both tables while they are replaced. Linux puts new rules in force before it fills their sets of
    /// intervals (`nft_set_commit_update`, after `gencursor` has moved on): for that time, milliseconds on a busy host, what
    /// only such an element forbids would pass. So nothing is forwarded until the transaction is over.
    pub(super) fn shut(group: u32) -> [Self; 2] {
        let [mut inet, mut bridge] = [NfFamily::INet, NfFamily::Bridge].map(Self::new);
        inet.base(SHUT, NfChainType::Filter, (NfHook::Forward, FILTER));
        inet.rule(SHUT, [is(iifname(), "@bridges"), DROP]);
        inet.rule(SHUT, [is(oifname(), "@bridges"), DROP]);
        bridge.shut_ports(group);
        [inet, bridge]
    }

    pub(super) fn new(family: NfFamily) -> Self {
        Self { family, objects: Vec::new(), part: Uses::NONE }
    }

    /// Adds what belongs to a part.
    pub(super) fn only(&mut self, part: Uses, add: impl FnOnce(&mut Self)) {
        let whole = self.part;
        self.part = whole | part;
        add(self);
        self.part = whole;
    }

    fn add(&mut self, uses: Uses, object: Object) {
        self.objects.push((self.part | uses, object));
    }

    /// The parts that the sets and maps belong to which a rule asks; they are declared before.
    fn asked(&self, rule: &[Said]) -> Uses {
        let sets = self.objects.iter().filter_map(|(part, object)| match object {
            NfListObject::Set(it) => Some((part, &it.name)),
            NfListObject::Map(it) => Some((part, &it.name)),
            _ => None,
        });
        let asks = |set: &str| rule.iter().any(|statement| names(statement).is_some_and(|it| it == set));
        sets.filter(|(_, set)| asks(set)).fold(Uses::NONE, |uses, (part, _)| uses | *part)
    }

    /// Routing, NAT and filter.
    fn inet() -> Self {
        let mut it = Self::new(NfFamily::INet);
        it.sets();
        it.base("raw", NfChainType::Filter, (NfHook::Prerouting, RAW));
        it.base("prerouting", NfChainType::NAT, (NfHook::Prerouting, DSTNAT));
        it.base("output", NfChainType::NAT, (NfHook::Output, DSTNAT));
        it.base("input", NfChainType::Filter, (NfHook::Input, FILTER));
        it.base("forward", NfChainType::Filter, (NfHook::Forward, FILTER));
        it.base("from_host", NfChainType::Filter, (NfHook::Output, FILTER));
        it.base("leave", NfChainType::Filter, (NfHook::Postrouting, FILTER));
        it.base("postrouting", NfChainType::NAT, (NfHook::Postrouting, SRCNAT));
        for chain in ["publish", "to_host", "between", "midstream", "host_midstream", "hairpin", "own"] {
            it.chain(chain);
        }
        it.publishing();
        it.judging();
        it.leaving();
        it
    }

    fn sets(&mut self) {
        use SetType::{Ifname, InetProto, InetService, Ipv4Addr, Ipv6Addr};
        self.set("bridges", &[Ifname], Matching::Exact);
        self.set("icc", &[Ifname, Ifname], Matching::Exact);
        let of_one = [("internal", Uses::INTERNAL), ("open", Uses::OPEN), ("host_access", Uses::HOST_ACCESS)];
        for (name, part) in of_one {
            self.only(part, |it| it.set(name, &[Ifname], Matching::Exact));
        }
        for (name, part) in [("no_icc", Uses::NO_ICC), ("trusted", Uses::TRUSTED)] {
            self.only(part, |it| it.set(name, &[Ifname, Ifname], Matching::Exact));
        }
        for (family, address) in [("4", Ipv4Addr), ("6", Ipv6Addr)] {
            let name = |stem: &str, at: &str| format!("{stem}{family}{at}");
            self.set(name("subnets", ""), &[address], Matching::Interval);
            self.set(name("stale", ""), &[address, InetProto, InetService, InetService, address], Matching::Exact);
            self.only(Uses::MASQUERADE, |it| it.set(name("masquerade", ""), &[Ifname], Matching::Exact));
            self.only(Uses::SNAT, |it| it.map(name("snat", ""), &[Ifname], &[address], Matching::Exact));
            let somewhere = [Uses::PUBLISH_AT, Uses::RANGES_AT, Uses::LIMITED_AT];
            let everywhere = [Uses::PUBLISH, Uses::RANGES, Uses::LIMITED];
            for (at, key, [publish, ranges, limited]) in [
                ("_at", vec![address, InetProto, InetService], somewhere),
                ("", vec![InetProto, InetService], everywhere),
            ] {
                self.only(publish, |it| {
                    it.map(name("publish", at), &key, &[address, InetService], Matching::Exact);
                });
                self.only(ranges, |it| it.map(name("ranges", at), &key, &[address], Matching::Interval));
                self.only(limited, |it| {
                    it.set(name("limited", at), &key, Matching::Interval);
                    it.set(name("allow_from", at), &[&[address], &*key].concat(), Matching::Interval);
                });
            }
            for (stem, part) in [("deny", Uses::DENY), ("allow", Uses::ALLOW)] {
                self.only(part, |it| it.policies(&name(stem, ""), address));
            }
        }
    }

    /// A set for policies about all ports, and one for those about some.
    pub(super) fn policies(&mut self, name: &str, address: SetType) {
        use SetType::{InetProto, InetService};
        self.set(name.to_owned(), &[address, address, InetProto], Matching::Interval);
        self.set(format!("{name}_port"), &[address, address, InetProto, InetService], Matching::Interval);
    }

    /// Published ports: the packet's destination becomes the container's.
    fn publishing(&mut self) {
        // With route_localnet on a bridge 127/8 must neither come in nor be answered to over it; and nobody on the
        // wire may reach what is published on the loopback by asking for 127.0.0.1 at our hardware address.
        self.rule("raw", [is_not(iifname(), "@bridges"), RETURN]);
        self.rule("raw", [is(ip("saddr"), loopback()), DROP]);
        self.rule("raw", [is(ip("daddr"), loopback()), DROP]);
        self.rule("prerouting", [is(ip("daddr"), loopback()), RETURN]);
        self.limiting();
        self.rule("prerouting", [goto("publish")]);
        self.rule("output", [goto("publish")]);

        let port = || concat(vec![meta(MetaKey::L4proto), payload("th", "dport")]);
        let at = |address| concat(vec![address, meta(MetaKey::L4proto), payload("th", "dport")]);
        self.rule("publish", [dnat(NATFamily::IP, at(ip("daddr")), "@publish4_at")]);
        self.rule("publish", [dnat(NATFamily::IP, at(ip("daddr")), "@ranges4_at")]);
        self.rule("publish", [dnat(NATFamily::IP6, at(ip6("daddr")), "@publish6_at")]);
        self.rule("publish", [dnat(NATFamily::IP6, at(ip6("daddr")), "@ranges6_at")]);
        // ::1 never leaves the host, mapped or not: let its own listeners, or a reset, answer at once.
        self.rule("publish", [is(ip6("daddr"), "::1"), RETURN]);
        self.rule("publish", [is_not(local(FibFlag::Daddr), "local"), RETURN]);
        // Of the other family's packets nothing is translated (`nft_nat_inet_eval`).
        self.rule("publish", [dnat(NATFamily::IP, port(), "@publish4")]);
        self.rule("publish", [dnat(NATFamily::IP, port(), "@ranges4")]);
        self.rule("publish", [dnat(NATFamily::IP6, port(), "@publish6")]);
        self.rule("publish", [dnat(NATFamily::IP6, port(), "@ranges6")]);
    }

    /// Published ports that only some may reach: for others they are not there. The host itself always may.
    fn limiting(&mut self) {
        let to = || vec![meta(MetaKey::L4proto), payload("th", "dport")];
        for (family, limited, from) in [("ip", "@limited4", "@allow_from4"), ("ip6", "@limited6", "@allow_from6")] {
            let unwanted = is_not(concat([vec![payload(family, "saddr")], to()].concat()), from);
            let local = is(local(FibFlag::Daddr), "local");
            self.rule("prerouting", [local, unwanted, is(concat(to()), limited), DROP]);
        }
        for (family, limited, from) in
            [("ip", "@limited4_at", "@allow_from4_at"), ("ip6", "@limited6_at", "@allow_from6_at")]
        {
            let at = || [vec![payload(family, "daddr")], to()].concat();
            let unwanted = is_not(concat([vec![payload(family, "saddr")], at()].concat()), from);
            self.rule("prerouting", [is(concat(at()), limited), unwanted, DROP]);
        }
    }

    /// Who may talk to whom.
    fn judging(&mut self) {
        let pair = || concat(vec![iifname(), oifname()]);
        self.rule("input", [is(iifname(), "@bridges"), goto("to_host")]);
        self.known("to_host");
        self.rule("to_host", [is(iifname(), "@host_access"), ACCEPT]);
        self.rule("to_host", [is(payload("icmp", "type"), "echo-request"), ACCEPT]);
        self.rule("to_host", [is(payload("icmpv6", "type"), "echo-request"), ACCEPT]);
        self.rule("to_host", [is(payload("icmpv6", "type"), neighbour_discovery()), ACCEPT]);
        self.rule("to_host", [DROP]);

        self.rule("forward", [is(iifname(), "@bridges"), goto("between")]);
        self.rule("forward", [is(oifname(), "@bridges"), goto("between")]);
        self.known("between");
        // conntrack takes up a connection in the middle of it (`nf_conntrack_tcp_loose`), by whichever side speaks first. So
        // one that was forgotten, as it could not begin any more, would begin backwards: with an answer. Within a network
        // only if it is denied: there is no telling when `br_netfilter` begins to show its frames.
        self.rule("between", midstream(jump("midstream")));
        self.rule("midstream", [is_not(pair(), "@icc"), DROP]);
        for (family, all, some) in [("ip", "@deny4", "@deny4_port"), ("ip6", "@deny6", "@deny6_port")] {
            let back = |ports: &[&'static str]| passage(family, ["daddr", "saddr"], ports);
            self.rule("midstream", [is(back(&[]), all), DROP]);
            self.rule("midstream", [is(back(&["sport"]), some), DROP]);
        }
        // Nor by the host itself. What is mapped bears its new address here, but is still on its way to the link of the old one.
        self.rule("from_host", midstream(goto("host_midstream")));
        self.rule("host_midstream", [is(local(FibFlag::Daddr), "local"), RETURN]);
        self.rule("host_midstream", [is(ip("daddr"), "@subnets4"), DROP]);
        self.rule("host_midstream", [is(ip6("daddr"), "@subnets6"), DROP]);
        // Who is redirected goes on within the bridge, whose rules have not seen how it began (`ip_rt_send_redirect`). Those of
        // IPv6 come from the bridge's link-local address, which is nobody's gateway, so they are passed over.
        self.rule("from_host", [is(payload("icmp", "type"), "redirect"), is(oifname(), "@bridges"), DROP]);
        // Frames within a bridge come here too while br_netfilter is on, and no policy is to stop neighbour discovery.
        self.rule("between", [is(payload("icmpv6", "type"), neighbour_discovery()), ACCEPT]);
        // No element of theirs overlaps another, whichever set it is in: the order is in the elements.
        self.policy("between", "ip", ["@deny4", "@deny4_port"], &DROP);
        self.policy("between", "ip6", ["@deny6", "@deny6_port"], &DROP);
        self.rule("between", [is(pair(), "@icc"), ACCEPT]);
        self.rule("between", [is(iifname(), "@internal"), DROP]);
        self.rule("between", [is(oifname(), "@internal"), DROP]);
        self.rule("between", [is(oifname(), "@bridges"), ct("status", &["dnat"]), ACCEPT]);
        self.rule("between", [is(pair(), "@no_icc"), DROP]);
        self.policy("between", "ip", ["@allow4", "@allow4_port"], &ACCEPT);
        self.policy("between", "ip6", ["@allow6", "@allow6_port"], &ACCEPT);
        self.rule("between", [is(pair(), "@trusted"), ACCEPT]);
        self.rule("between", [is(oifname(), "@open"), ACCEPT]);
        self.rule("between", [is(oifname(), "@bridges"), DROP]);
        self.rule("between", [ACCEPT]);
    }

    /// What policies say of a packet of a family; the sets are those of all ports, and of some.
    pub(super) fn policy(
        &mut self,
        chain: &'static str,
        family: &'static str,
        [all, some]: [&'static str; 2],
        verdict: &Said,
    ) {
        let forth = ["saddr", "daddr"];
        self.rule(chain, [is(passage(family, forth, &[]), all), verdict.clone()]);
        self.rule(chain, [is(passage(family, forth, &["dport"]), some), verdict.clone()]);
    }

    /// What was judged before, or cannot be.
    fn known(&mut self, chain: &'static str) {
        self.rule(chain, [ct("state", &["established", "related"]), ACCEPT]);
        self.rule(chain, [ct("state", &["invalid"]), DROP]);
    }

    /// The way out.
    fn leaving(&mut self) {
        // When a bridge is gone, what is meant for its subnet follows the default route, mapped or not.
        self.rule("leave", [is(oifname(), "lo"), RETURN]);
        self.rule("leave", [is(oifname(), "@bridges"), RETURN]);
        self.rule("leave", [is(ip("daddr"), "@subnets4"), DROP]);
        self.rule("leave", [is(ip6("daddr"), "@subnets6"), DROP]);

        self.rule("postrouting", [ct("status", &["dnat"]), is(oifname(), "@bridges"), goto("hairpin")]);
        self.rule("postrouting", [is(oifname(), "@bridges"), RETURN]);
        self.rule("postrouting", [nfproto("ipv4"), is(iifname(), "@masquerade4"), MASQUERADE]);
        self.rule("postrouting", [nfproto("ipv6"), is(iifname(), "@masquerade6"), MASQUERADE]);
        self.rule("postrouting", [snat(NATFamily::IP, "@snat4")]);
        self.rule("postrouting", [snat(NATFamily::IP6, "@snat6")]);
        self.hairpin();
    }

    /// A mapped packet from the target's own network, or from 127/8, must be answered through the host. Of a frame that
    /// `br_netfilter` shows here Linux does not tell where it came in (`br_nf_post_routing`); nor has one of the host's.
    /// No set of bridges with their subnets: a single subnet of IPv6 in it takes 64 KiB to be cleared (`pipapo_resize`).
    fn hairpin(&mut self) {
        for same in ["@icc", "@no_icc"] {
            self.rule("hairpin", [is(concat(vec![iifname(), oifname()]), same), goto("own")]);
        }
        self.rule("hairpin", [is(iifname(), "@bridges"), RETURN]);
        self.rule("hairpin", [is(ip("saddr"), loopback()), MASQUERADE]);
        self.rule("hairpin", [is(local(FibFlag::Saddr), "local"), RETURN]);
        self.rule("hairpin", [goto("own")]);
        self.rule("own", [is(ip("saddr"), "@subnets4"), MASQUERADE]);
        self.rule("own", [is(ip6("saddr"), "@subnets6"), MASQUERADE]);
    }

    pub(super) fn set(&mut self, name: impl Into<Cow<'static, str>>, key: &[SetType], matching: Matching) {
        let mut set = Set { name: name.into(), set_type: types(key), ..Set::default() };
        match matching {
            Matching::Exact => {}
            Matching::Interval => set.flags = Some([SetFlag::Interval].into()),
            Matching::Remembered => {
                set.flags = Some([SetFlag::Dynamic, SetFlag::Timeout].into());
                (set.size, set.timeout) = (Some(FLOWS), Some(FLOW_S));
            }
        }
        self.add(Uses::NONE, NfListObject::Set(Box::new(set)));
    }

    pub(super) fn map(&mut self, name: String, key: &[SetType], data: &[SetType], matching: Matching) {
        let flags = (matching == Matching::Interval).then(|| [SetFlag::Interval].into());
        let map = Map { name: name.into(), set_type: types(key), map: types(data), flags, ..Map::default() };
        self.add(Uses::NONE, NfListObject::Map(Box::new(map)));
    }

    pub(super) fn chain(&mut self, name: &'static str) {
        self.add(Uses::NONE, NfListObject::Chain(Chain { name: name.into(), ..Chain::default() }));
    }

    pub(super) fn base(&mut self, name: &'static str, kind: NfChainType, (hook, priority): (NfHook, i32)) {
        let policy = Some(NfChainPolicy::Accept);
        let (kind, hook, prio) = (Some(kind), Some(hook), Some(priority));
        let chain = Chain { name: name.into(), _type: kind, hook, prio, policy, ..Chain::default() };
        self.add(Uses::NONE, NfListObject::Chain(chain));
    }

    pub(super) fn rule(&mut self, chain: &'static str, expr: impl Into<Vec<Said>>) {
        let expr = expr.into();
        let uses = self.asked(&expr);
        self.add(uses, NfListObject::Rule(Rule { chain: chain.into(), expr: expr.into(), ..Rule::default() }));
    }
}

/// The set or map that a statement asks or fills.
fn names(statement: &Said) -> Option<&str> {
    let name = match statement {
        Statement::Match(Match { right: Expression::String(word), .. }) => word,
        Statement::Set(it) => &it.set,
        Statement::DNAT(Some(nat)) | Statement::SNAT(Some(nat)) => match &nat.addr {
            Some(Expression::Named(NamedExpression::Map(found))) => match &found.data {
                Expression::String(name) => name,
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    };
    name.strip_prefix('@')
}

/// How keys of a set are matched.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Matching {
    Exact,
    Interval,
    /// Filled by the packets themselves, for a while.
    Remembered,
}

/// How many flows within bridges are remembered at most: what the kernel itself takes for sets that packets fill.
pub(super) const FLOWS: u32 = 65_535;

/// For how many seconds, as conntrack remembers UDP streams (`nf_conntrack_udp_timeout_stream`, 120) and a margin.
const FLOW_S: u32 = 180;
