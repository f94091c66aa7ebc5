//! Rules come and go with what a topology uses, on the real kernel.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod lab;
mod shop;

use netrec::kernel::nft::Nft;
use netrec::model::kinds::firewall::{Firewall, NetworkRules, Publication, Rules, SourceNat, policies};
use netrec::model::resource::{Kind, Op};
use netrec::model::values::Protocol::Tcp;
use netrec::model::wire::Body;
use shop::{dump, network, observe, publication, said, shop};

#[test]
fn the_number_of_rules_never_grows() {
    lab::in_private_namespaces(|| {
        let rules = |firewall: &Firewall| {
            lab::take(&Op::Create(firewall), None).unwrap();
            let count: Vec<usize> = dump().iter().map(|table| table.rules.len()).collect();
            lab::take(&Op::Delete(firewall), None).unwrap();
            count
        };
        let range = |ports: &str, first: u16| {
            let targets = ["10.10.0.10", "fd10::10"];
            let all = targets.map(|target| publication("", Tcp, ports, target, first));
            Firewall::new("shop", &[network("br-front")], &all)
        };
        // As many equal ports as one likes are one element a family; of shifted ones each is its own.
        for (first, published) in [(20_000, 2), (1, 20_000)] {
            let (few, many) = (range("20000-20001", first), range("20000-29999", first));
            assert_eq!(many.elements.published(), published);
            assert_eq!(rules(&many), rules(&few));
        }
    });
}

/// Each part by itself, and all of them.
fn firewalls() -> [Firewall; 19] {
    let plain = network("br-front");
    let with = |change: &dyn Fn(&mut NetworkRules)| {
        let mut network = plain.clone();
        change(&mut network);
        Firewall::new("shop", &[network], &[])
    };
    let publishing = |publication| Firewall::new("shop", std::slice::from_ref(&plain), &[publication]);
    let limited = |listen| Publication {
        allow_from: Some(vec!["192.0.2.0/24".parse().unwrap()]),
        ..publication(listen, Tcp, "80", "10.10.0.10", 80)
    };
    let judged = |which: usize| {
        let nets = ["10.10.0.0/24", "fd10::/64"].map(|net| net.parse().unwrap()).to_vec();
        with(&|_| {}).with(policies(&said()[which..=which], &[nets]).unwrap())
    };
    [
        Firewall::new("shop", &[], &[]),
        with(&|_| {}),
        with(&|it| it.internal = true),
        with(&|it| it.open = true),
        with(&|it| it.host_access = true),
        with(&|it| it.icc = false),
        with(&|it| it.trusted = vec!["wg0".into()]),
        with(&|it| it.ipv4 = SourceNat::Keep),
        with(&|it| it.ipv4 = SourceNat::Fixed([203, 0, 113, 7].into())),
        publishing(publication("", Tcp, "80", "10.10.0.10", 8080)),
        publishing(publication("", Tcp, "80-90", "10.10.0.10", 80)),
        publishing(publication("192.0.2.1", Tcp, "80", "fd10::10", 8080)),
        publishing(publication("192.0.2.1", Tcp, "80-90", "10.10.0.10", 80)),
        publishing(limited("")),
        publishing(limited("192.0.2.1")),
        judged(0),
        judged(1),
        judged(2),
        shop(),
    ]
}

#[test]
fn what_is_shown_is_what_is_made() {
    lab::in_private_namespaces(|| {
        for firewall in firewalls() {
            lab::take(&Op::Create(&firewall), None).unwrap();
            lab::run("nft flush set inet netrec-shop stale4; nft flush set inet netrec-shop stale6");
            let made = lab::run("nft list ruleset");
            lab::take(&Op::Delete(&firewall), None).unwrap();
            lab::nft(&firewall.text());
            assert_eq!(lab::run("nft list ruleset"), made);
            lab::run("nft flush ruleset");
        }
    });
}

/// Whatever a topology begins or ceases to use, its tables become those that it would have been given at first.
#[test]
fn rules_come_and_go_with_what_is_used() {
    let firewalls = firewalls();
    lab::in_private_namespaces(|| {
        let mut nft = Nft::open().unwrap();
        let mut last: Option<Firewall> = None;
        // Each after each other.
        for from in &firewalls {
            for to in &firewalls {
                for next in [from, to] {
                    match &last {
                        None => lab::take(&Op::Create(next), None).unwrap(),
                        Some(last) => lab::take(&Op::Update { from: last, to: next }, None).unwrap(),
                    }
                    assert_eq!(observe(&mut nft).as_ref(), Some(next), "after {last:?}");
                    last = Some(next.clone());
                }
            }
        }
        // What somebody empties is as it was when it is filled again, and goes when it is not wanted.
        let (open, plain) = (&firewalls[3], &firewalls[1]);
        lab::take(&Op::Update { from: last.as_ref().unwrap(), to: open }, None).unwrap();
        lab::run("nft flush set inet netrec-shop open");
        let emptied = observe(&mut nft).unwrap();
        let told = |to: &Firewall| to.changes(&emptied).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(told(open), ["open br-front"]);
        assert_eq!(told(plain), ["rules open, masquerade -> masquerade"]);
        lab::take(&Op::Update { from: &emptied, to: plain }, None).unwrap();
        assert_eq!(observe(&mut nft).as_ref(), Some(plain));
    });
}

/// A kill after the first of two transactions leaves tables of ours, from which the next apply goes on.
#[test]
fn a_kill_between_two_transactions_is_made_good() {
    lab::in_private_namespaces(|| {
        let (mut nft, mut cut) = (Nft::open().unwrap(), 0);
        for (from, to) in firewalls().iter().flat_map(|from| firewalls().map(|to| (from.clone(), to))) {
            lab::take(&Op::Create(&from), None).unwrap();
            let said = lab::messages(&Op::Update { from: &from, to: &to });
            let batches: Vec<_> =
                said.into_iter().filter_map(|it| if let Body::Nft(it) = it.body { Some(it) } else { None }).collect();
            cut += usize::from(batches.len() > 1);
            nft.commit(&batches[0], None).unwrap();
            let left = observe(&mut nft).unwrap();
            assert_eq!(left.rules, Rules::Intact);
            lab::take(&Op::Update { from: &left, to: &to }, None).unwrap();
            assert_eq!(observe(&mut nft), Some(to));
            lab::run("nft flush ruleset");
        }
        assert!(cut > 50, "{cut}");
    });
}
