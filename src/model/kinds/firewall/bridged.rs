//! The rules of the bridge table: what endpoints may send, and what policies say of frames within one bridge. The inet
//! family sees neither hardware addresses nor ARP, nor, without `br_netfilter`, anything that stays within a bridge.
//!
//! There is no connection tracking for bridges in every kernel (`nf_conntrack_bridge`), so policies judge what opens
//! something: of TCP what has neither ACK nor RST, of ICMP no replies and errors, and of the rest what does not answer
//! a flow that was let through.

use nftables::expr::{Expression, MetaKey, NamedExpression, Payload, PayloadBase, PayloadRaw};
use nftables::schema::SetType::{EtherAddr, Ifname, InetProto, InetService, Ipv4Addr, Ipv6Addr};
use nftables::types::{NfChainType, NfFamily, NfHook};

use super::language::{
    ACCEPT, DROP, Expr, Said, any, assign, concat, goto, iifname, ip, ip6, is, is_not, jump, meta, neighbour_discovery,
    passage, payload, range, update,
};
use super::numbers::DOOMED;
use super::rules::{Matching, SHUT, Skeleton};
use super::uses::Uses;

/// Before all that others do, as nft names the priorities of bridge chains (nft(8)).
const DSTNAT: i32 = -300;
const FILTER: i32 = -200;

/// What listeners say without an address yet: in version 2 of their protocol (RFC 9777), and where it is asked for in
/// version 1, reports and leaving (RFC 2710).
fn reports() -> [[Said; 2]; 2] {
    let said = |kind| [kind, is(ip6("saddr"), "::")];
    let kind = || payload("icmpv6", "type");
    [said(is(kind(), "mld2-listener-report")), said(is(kind(), range("131", "132")))]
}

impl Skeleton {
    /// What the inet family never sees.
    pub(super) fn bridge(group: u32) -> Self {
        let mut it = Self::new(NfFamily::Bridge);
        it.set("loose", &[Ifname], Matching::Exact);
        it.set("macs", &[Ifname, EtherAddr], Matching::Exact);
        it.set("sources4", &[Ifname, EtherAddr, Ipv4Addr], Matching::Exact);
        it.set("sources6", &[Ifname, EtherAddr, Ipv6Addr], Matching::Exact);
        for (family, address) in [("4", Ipv4Addr), ("6", Ipv6Addr)] {
            it.only(Uses::WITHIN, |it| {
                it.set(format!("judged{family}"), &[address], Matching::Interval);
                it.policies(&format!("within{family}"), address);
                let flow = [address, address, InetProto, InetService, InetService];
                it.set(format!("flows{family}"), &flow, Matching::Remembered);
            });
        }
        it.base("prerouting", NfChainType::Filter, (NfHook::Prerouting, DSTNAT));
        it.base("forward", NfChainType::Filter, (NfHook::Forward, FILTER));
        for chain in ["port", "port_ip", "port_ip6", "port_arp", "forward_ip", "forward_ip6", "joining"] {
            it.chain(chain);
        }
        it.honesty(group);
        it.within();
        it.joining(group);
        it
    }

    /// Endpoints send as themselves, and play neither router nor DHCP server. Their ports are known by the group that they
    /// have from birth, or right before they die, so that none is ever without its guard. Nearly every frame is of IP, and
    /// honest: it is looked up once. Whether a port is loose is asked where that finds nothing, or a frame is of what only routers
    /// and DHCP servers send.
    fn honesty(&mut self, group: u32) {
        let sender = || payload("ether", "saddr");
        let by_mac = |mac| concat(vec![iifname(), mac]);
        let from = |mac, address| concat(vec![iifname(), mac, address]);
        let guarded = || is_not(iifname(), "@loose");
        for ours in from_ports(group) {
            self.rule("prerouting", [ours, goto("port")]);
        }
        for (kind, chain) in [("ip", "port_ip"), ("ip6", "port_ip6")] {
            self.rule("port", [is(payload("ether", "type"), kind), goto(chain)]);
        }
        self.rule("port", [is(iifname(), "@loose"), ACCEPT]);
        self.rule("port", [is_not(by_mac(sender()), "@macs"), DROP]);
        self.rule("port", [is(payload("ether", "type"), "arp"), goto("port_arp")]);
        // Nothing else: no VLAN tag, behind which the rest would hide, no spanning tree, no PPPoE.
        self.rule("port", [DROP]);

        self.rule("port_ip", [is(payload("udp", "dport"), "68"), guarded(), DROP]); // bootpc: only servers write to it
        self.rule("port_ip", [is(payload("icmp", "type"), "redirect"), guarded(), DROP]);
        self.rule("port_ip", [is(from(sender(), ip("saddr")), "@sources4"), ACCEPT]);
        self.rule("port_ip", [is(iifname(), "@loose"), ACCEPT]);
        let asks = [is(ip("saddr"), "0.0.0.0"), is(payload("udp", "dport"), "67"), is(by_mac(sender()), "@macs")];
        self.rule("port_ip", asks.into_iter().chain([ACCEPT]).collect::<Vec<_>>());
        self.rule("port_ip", [DROP]);

        self.rule("port_ip6", [is(payload("udp", "dport"), "546"), guarded(), DROP]); // dhcpv6-client
        for router in ["nd-router-advert", "nd-redirect"] {
            self.rule("port_ip6", [is(payload("icmpv6", "type"), router), guarded(), DROP]);
        }
        // An advertisement is sent from the address that it advertises, if Linux sends it; so sent, it is judged by it.
        let from_target = assign(ip6("saddr"), target());
        self.rule("port_ip6", [is(payload("icmpv6", "type"), "nd-neighbor-advert"), guarded(), from_target]);
        self.rule("port_ip6", [is(from(sender(), ip6("saddr")), "@sources6"), ACCEPT]);
        self.rule("port_ip6", [is(iifname(), "@loose"), ACCEPT]);
        self.rule("port_ip6", [is_not(by_mac(sender()), "@macs"), DROP]);
        // Without an address yet: joining groups (RFC 3590). Not looking whether an address is free: nobody would answer.
        for report in reports() {
            self.rule("port_ip6", report.into_iter().chain([ACCEPT]).collect::<Vec<_>>());
        }
        self.rule("port_ip6", [DROP]);

        let speaker = || payload("arp", "saddr ether");
        self.rule("port_arp", [is(from(speaker(), payload("arp", "saddr ip")), "@sources4"), ACCEPT]);
        // Whoever looks whether an address is free has none yet (RFC 5227).
        let probe = [is(payload("arp", "operation"), "request"), is(payload("arp", "saddr ip"), "0.0.0.0")];
        let probe = probe.into_iter().chain([is(by_mac(speaker()), "@macs"), ACCEPT]);
        self.rule("port_arp", probe.collect::<Vec<_>>());
        self.rule("port_arp", [DROP]);
    }

    /// A listener report without a source address is for bridges only: routers must discard it (RFC 3590, 4). Ours has heard it
    /// when it comes here, and behind a guarded port there is no other. Without a querier it would go to every port: among
    /// a thousand containers a million packets, each through all rules below and through the receiver's own stack.
    fn joining(&mut self, group: u32) {
        let guarded = [in_group(MetaKey::Oifgroup, group), is_not(meta(MetaKey::Oifname), "@loose")];
        self.rule("joining", guarded.into_iter().chain([DROP]).collect::<Vec<_>>());
    }

    /// Nothing goes from a port of ours to another one.
    pub(super) fn shut_ports(&mut self, group: u32) {
        self.base(SHUT, NfChainType::Filter, (NfHook::Forward, FILTER));
        for ours in from_ports(group) {
            self.rule(SHUT, [ours, DROP]);
        }
    }

    /// What policies forbid between ports of one bridge. Most frames are of a connection that stands, so they come first, and
    /// no frame is asked what only one of the other family can be, nor what is asked within other networks only. A fragment
    /// that is not the first has no ports and no type: it is of use only to who gets the first, which is judged.
    fn within(&mut self) {
        self.only(Uses::WITHIN, |it| {
            it.rule("forward", [any(payload("tcp", "flags"), &["ack", "rst"]), ACCEPT]);
            it.rule("forward", [is(meta(MetaKey::Protocol), "ip"), goto("forward_ip")]);
        });
        self.rule("forward", [is(meta(MetaKey::Protocol), "ip6"), goto("forward_ip6")]);
        // `::` is in no subnet that is judged, so they come before that is asked.
        for report in reports() {
            self.rule("forward_ip6", report.into_iter().chain([jump("joining")]).collect::<Vec<_>>());
        }
        self.only(Uses::WITHIN, |it| {
            it.judged_of_ipv4();
            it.judged_of_ipv6();
        });
    }

    fn judged_of_ipv4(&mut self) {
        self.rule("forward_ip", [is_not(ip("saddr"), "@judged4"), ACCEPT]);
        for later in [range("1", "8191"), range("8193", "16383")] {
            self.rule("forward_ip", [is(payload("ip", "frag-off"), later), ACCEPT]);
        }
        for answer in ["echo-reply", "destination-unreachable"] {
            self.rule("forward_ip", [is(payload("icmp", "type"), answer), ACCEPT]);
        }
        // Time exceeded, parameter problem (RFC 792).
        self.rule("forward_ip", [is(payload("icmp", "type"), range("11", "12")), ACCEPT]);
        self.judged_within("forward_ip", "ip", "@flows4", ["@within4", "@within4_port"]);
    }

    fn judged_of_ipv6(&mut self) {
        self.rule("forward_ip6", [is_not(ip6("saddr"), "@judged6"), ACCEPT]);
        self.rule("forward_ip6", [is(payload("ip6", "nexthdr"), "44"), is(fragment(), range("8", "65535")), ACCEPT]);
        self.rule("forward_ip6", [is(payload("icmpv6", "type"), "echo-reply"), ACCEPT]);
        // All errors (RFC 4443), and neighbour discovery.
        for answers in [range("1", "4"), neighbour_discovery()] {
            self.rule("forward_ip6", [is(payload("icmpv6", "type"), answers), ACCEPT]);
        }
        self.judged_within("forward_ip6", "ip6", "@flows6", ["@within6", "@within6_port"]);
    }

    fn judged_within(
        &mut self,
        chain: &'static str,
        family: &'static str,
        flows: &'static str,
        [all, some]: [&'static str; 2],
    ) {
        let known = passage(family, ["saddr", "daddr"], &["sport", "dport"]);
        self.rule(chain, [is(known, flows), ACCEPT]);
        self.policy(chain, family, [all, some], &DROP);
        // Only where the answer would be forbidden is there anything to be remembered.
        let back = ["daddr", "saddr"];
        let answer = || update(flows, passage(family, back, &["dport", "sport"]));
        self.rule(chain, [is(passage(family, back, &[]), all), answer()]);
        self.rule(chain, [is(passage(family, back, &["sport"]), some), answer()]);
    }
}

/// What comes from a port of ours, one of them that is about to die included.
fn from_ports(own: u32) -> [Said; 2] {
    [own, DOOMED].map(|group| in_group(MetaKey::Iifgroup, group))
}

fn in_group(key: MetaKey, group: u32) -> Said {
    is(meta(key), Expression::String(group.to_string().into()))
}

/// Offset and flags of the fragment header (RFC 8200, 4.5), where it comes first, as Linux puts it.
fn fragment() -> Expr {
    let raw = PayloadRaw { base: PayloadBase::NH, offset: 42 * 8, len: 16 };
    Expression::Named(NamedExpression::Payload(Payload::PayloadRaw(raw)))
}

/// The target address of neighbour discovery (RFC 4861, 4.4), for which nft 1.0.6 has no name, nor room in a
/// concatenation: it crashes on listing two elements.
fn target() -> Expr {
    let raw = PayloadRaw { base: PayloadBase::TH, offset: 64, len: 128 };
    Expression::Named(NamedExpression::Payload(Payload::PayloadRaw(raw)))
}
