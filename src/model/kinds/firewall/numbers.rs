//! The numbers that words of the language of rules stand for (`linux/netfilter/nf_tables.h`, `linux/if_ether.h`), and where
//! the fields of headers lie.

use nftables::expr::{Expression, MetaKey, NamedExpression, Payload, PayloadBase};

/// The link group that links are put into right before they are deleted in one request.
pub const DOOMED: u32 = 0x6e72_646d;

pub(in crate::model::kinds) const IPV4: u8 = 2;
pub(in crate::model::kinds) const IPV6: u8 = 10;

/// Ether types (`linux/if_ether.h`).
pub(super) const ETH_ARP: [u8; 2] = [0x08, 0x06];
pub(super) const ETH_IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const ETH_IPV6: [u8; 2] = [0x86, 0xdd];

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// How many registers of four bytes a value fills.
pub(super) fn words(of: &Expression<'_>) -> u32 {
    match of {
        Expression::Named(NamedExpression::Meta(meta)) if meta.key == MetaKey::L4proto => 1,
        Expression::Named(NamedExpression::Meta(_)) => 4,
        payload => place(payload).2.div_ceil(4),
    }
}

pub(super) fn meta_number(key: MetaKey) -> u32 {
    match key {
        MetaKey::Protocol => 1,
        MetaKey::Iifname => 6,
        MetaKey::Oifname => 7,
        MetaKey::Nftrace => 12,
        MetaKey::Nfproto => 15,
        MetaKey::L4proto => 16,
        MetaKey::Iifgroup => 21,
        MetaKey::Oifgroup => 22,
        other => unreachable!("the skeleton asks for no {other:?}"),
    }
}

/// Base, offset and length of the ether type.
pub(super) const ETHER_TYPE: (u32, u32, u32) = (0, 12, 2);

/// Header (0 link, 1 network, 2 transport), offset and length of a field in bytes.
pub(super) fn place(of: &Expression<'_>) -> (u32, u32, u32) {
    let field = match of {
        Expression::Named(NamedExpression::Payload(Payload::PayloadField(field))) => field,
        Expression::Named(NamedExpression::Payload(Payload::PayloadRaw(raw))) => {
            return (if raw.base == PayloadBase::TH { 2 } else { 1 }, raw.offset / 8, raw.len / 8);
        }
        _ => unreachable!("no field of a header: {of:?}"),
    };
    match (&*field.protocol, &*field.field) {
        ("ether", "saddr") => (0, 6, 6),
        ("ether", "type") => ETHER_TYPE,
        ("arp", "operation") | ("ip", "frag-off") => (1, 6, 2),
        ("arp", "saddr ether") => (1, 8, 6),
        ("arp", "saddr ip") => (1, 14, 4),
        ("ip", "saddr") => (1, 12, 4),
        ("ip", "daddr") => (1, 16, 4),
        ("ip6", "nexthdr") => (1, 6, 1),
        ("ip6", "saddr") => (1, 8, 16),
        ("ip6", "daddr") => (1, 24, 16),
        ("th", "sport") => (2, 0, 2),
        ("th" | "tcp" | "udp", "dport") => (2, 2, 2),
        ("tcp", "flags") => (2, 13, 1),
        ("icmp" | "icmpv6", "type") => (2, 0, 1),
        other => unreachable!("the skeleton looks at no {other:?}"),
    }
}

/// A word as the bytes that the left side has in its register.
pub(super) fn value(of: &Expression<'_>, word: &str) -> Vec<u8> {
    if let Ok(address) = word.parse::<std::net::Ipv4Addr>() {
        return address.octets().to_vec();
    }
    if let Ok(address) = word.parse::<std::net::Ipv6Addr>() {
        return address.octets().to_vec();
    }
    let icmp = matches!(of, Expression::Named(NamedExpression::Payload(Payload::PayloadField(field))) if field.protocol == "icmp");
    match (of, word) {
        (Expression::Named(NamedExpression::Meta(meta)), group)
            if matches!(meta.key, MetaKey::Iifgroup | MetaKey::Oifgroup) =>
        {
            group.parse::<u32>().unwrap_or_default().to_ne_bytes().to_vec()
        }
        (_, "ipv4") => vec![IPV4],
        (_, "ipv6") => vec![IPV6],
        (_, "local") => 2u32.to_ne_bytes().to_vec(), // RTN_LOCAL
        (_, "sctp") => vec![132],
        (_, "arp") => ETH_ARP.to_vec(),
        (_, "ip") => ETH_IPV4.to_vec(),
        (_, "ip6") => ETH_IPV6.to_vec(),
        (_, "request") => vec![0, 1], // ARPOP_REQUEST
        (_, "echo-reply") if icmp => vec![0],
        (_, "destination-unreachable") if icmp => vec![3],
        (_, "redirect") if icmp => vec![5],
        (_, "echo-request") if icmp => vec![8],
        (_, "time-exceeded") if icmp => vec![11],
        (_, "parameter-problem") if icmp => vec![12],
        (_, "destination-unreachable") => vec![1],
        (_, "packet-too-big") => vec![2],
        (_, "time-exceeded") => vec![3],
        (_, "parameter-problem") => vec![4],
        (_, "echo-request") => vec![128],
        (_, "echo-reply") => vec![129],
        (_, "nd-router-advert") => vec![134],
        (_, "nd-neighbor-advert") => vec![136],
        (_, "nd-redirect") => vec![137],
        (_, "mld2-listener-report") => vec![143],
        (Expression::Named(NamedExpression::Payload(_)), number) if number.parse::<u16>().is_ok() => {
            let number = number.parse::<u16>().unwrap_or_default().to_be_bytes();
            number[number.len() - place(of).2 as usize..].to_vec()
        }
        (Expression::Named(NamedExpression::Meta(_)), name) => interface(name).to_vec(),
        other => unreachable!("the skeleton compares with no {other:?}"),
    }
}

/// An interface name as it stands in a register: filled up with NUL.
pub(in crate::model::kinds) fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// Bits of conntrack's state (`NF_CT_STATE_BIT`) and status (`enum ip_conntrack_status`), and TCP's flags (RFC 9293).
pub(super) fn bit(of: &Expression<'_>, word: &str) -> u32 {
    match word {
        "invalid" => 1,
        "established" | "syn" => 1 << 1,
        "related" | "rst" => 1 << 2,
        "new" => 1 << 3,
        "dnat" => 1 << 5,
        "ack" => 1 << 4,
        other => unreachable!("the skeleton asks {of:?} for no {other}"),
    }
}
