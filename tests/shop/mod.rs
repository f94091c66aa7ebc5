//! The firewall of a shop that uses all there is, and what others are put together from.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test may end at once, and uses what it needs")]

use std::net::IpAddr;

use netrec::kernel::nft::Nft;
use netrec::model::kinds::firewall::{Firewall, Guard, NetworkRules, Policy, Publication, SourceNat, policies};
use netrec::model::resource::Wire;
use netrec::model::values::Ports;
use netrec::model::values::Protocol::{self, Sctp, Tcp, Udp};
use netrec::model::wire::{Facts, NetnsFacts, Owner, TableFacts};

pub fn observe(nft: &mut Nft) -> Option<Firewall> {
    let owner = Owner::new("shop");
    let outline = nft.outline().unwrap();
    let tables = nft.tables(&outline, &owner).unwrap();
    let facts = Facts {
        tables: tables.into(),
        namespaces: [("host".into(), NetnsFacts::default().into())].into(),
        ..Facts::default()
    };
    let mut found = Firewall::observe(&facts, &owner);
    assert!(found.len() <= 1);
    found.pop()
}

pub fn ports(text: &str) -> Ports {
    text.parse().unwrap()
}

pub fn publication(listen: &str, protocol: Protocol, range: &str, target: &str, first: u16) -> Publication {
    let target: IpAddr = target.parse().unwrap();
    Publication { listen: listen.parse().ok(), protocol, ports: ports(range), target, first, allow_from: None }
}

pub fn guards() -> Vec<Guard> {
    let guard = |link: &str, addresses: &[&str]| Guard {
        link: link.into(),
        mac: "02:42:0a:0a:00:0a".parse().unwrap(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    vec![guard("nr-one", &["10.10.0.10", "fd10::10"]), guard("nr-two", &["10.20.0.10"])]
}

pub fn said() -> Vec<Policy> {
    let policy = |allow, from: &str, to: &str, ports: &[(Protocol, &str)]| Policy {
        allow,
        from: vec![from.parse().unwrap()],
        to: vec![to.parse().unwrap()],
        ports: ports.iter().map(|(protocol, range)| (*protocol, self::ports(range))).collect(),
    };
    vec![
        policy(true, "10.20.0.0/16", "10.10.0.10/32", &[(Tcp, "5432"), (Udp, "53-60")]),
        policy(false, "10.10.0.0/24", "10.10.0.0/24", &[(Tcp, "25")]),
        policy(false, "10.0.0.0/8", "10.10.0.10/32", &[]),
        policy(false, "::/0", "fd10::10/128", &[(Sctp, "1")]),
        policy(true, "fd20::/64", "fd10::/64", &[]),
    ]
}

pub fn shop() -> Firewall {
    let front = NetworkRules::new(
        "br-front",
        ["10.10.0.0/24", "10.10.1.0/24", "fd10::/64"].map(|net| net.parse().unwrap()).to_vec(),
    );
    let back = NetworkRules {
        bridge: "br-back".into(),
        subnets: ["10.20.0.0/16", "fd20::/64", "255.255.255.0/24"].map(|net| net.parse().unwrap()).to_vec(),
        ipv4: SourceNat::Fixed([203, 0, 113, 7].into()),
        ipv6: SourceNat::Fixed("2001:db8::7".parse().unwrap()),
        icc: false,
        open: true,
        host_access: true,
        trusted: vec!["wg0".into()],
        ..front.clone()
    };
    let inner = NetworkRules {
        bridge: "br-in".into(),
        subnets: vec!["10.30.0.0/24".parse().unwrap()],
        internal: true,
        ..front.clone()
    };
    let some = |publication: Publication, nets: &[&str]| Publication {
        allow_from: Some(nets.iter().map(|net| net.parse().unwrap()).collect()),
        ..publication
    };
    let front_nets = front.subnets.clone();
    Firewall::new(
        "shop",
        &[front, back, inner],
        &[
            some(publication("", Tcp, "8443", "10.10.0.10", 443), &["192.0.2.0/24", "198.51.100.7/32"]),
            some(publication("192.0.2.1", Udp, "100-109", "10.10.0.10", 100), &["192.0.2.0/24"]),
            some(publication("", Tcp, "8443", "fd10::10", 443), &["2001:db8::/32"]),
            some(publication("2001:db8::1", Tcp, "8444-8445", "fd10::10", 443), &["2001:db8::/32"]),
            publication("", Tcp, "8080", "10.10.0.10", 80),
            publication("", Tcp, "8080", "fd10::10", 80),
            publication("127.0.0.1", Udp, "53", "10.10.0.10", 5353),
            publication("", Sctp, "9000-9999", "10.10.0.10", 9000),
            publication("", Sctp, "9000-9999", "fd10::10", 9000),
            publication("192.0.2.1", Tcp, "7000-7003", "10.20.0.10", 80),
            publication("192.0.2.1", Tcp, "443-444", "10.20.0.10", 443),
            publication("2001:db8::1", Tcp, "443", "fd20::10", 443),
            publication("2001:db8::1", Udp, "500-600", "fd20::10", 500),
        ],
    )
    .with(Guard::elements(guards()))
    .with(policies(&said(), &[front_nets]).unwrap())
}

pub fn network(bridge: &str) -> NetworkRules {
    let subnets = vec!["10.10.0.0/24".parse().unwrap()];
    NetworkRules { ipv6: SourceNat::Keep, ..NetworkRules::new(bridge, subnets) }
}

pub fn dump() -> Vec<TableFacts> {
    let mut nft = Nft::open().unwrap();
    let outline = nft.outline().unwrap();
    nft.tables(&outline, &Owner::new("shop")).unwrap()
}
