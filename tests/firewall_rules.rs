//! The firewall's rules on the real kernel: what netrec sends is what nft would have sent, reads back as intact, and
//! any change by others is seen.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod lab;
mod shop;

use std::collections::BTreeMap;

use netrec::kernel::nft::{Nft, NftError};
use netrec::model::kinds::firewall::{Asked, Firewall, Guard, NetworkRules, Rules};
use netrec::model::resource::{Kind, Op};
use netrec::model::values::Protocol;
use netrec::model::wire::{Body, Owner, TableFacts};
use shop::{dump, guards, network, observe, publication, shop};

/// The attributes without those of the given kinds.
fn without(bytes: &[u8], kinds: &[u16]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]])).next_multiple_of(4).min(rest.len());
        if !kinds.contains(&(u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff)) {
            out.extend(&rest[..length]);
        }
        rest = &rest[length..];
    }
    out
}

/// nft 1.0.6 turns the protocol number of an interval key around by a conversion over two bytes of a value of one,
/// which does nothing; netrec leaves it out.
fn without_byteorder(rule: &[u8]) -> Vec<u8> {
    let mut out = rule.to_vec();
    let needle = b"byteorder\0";
    while let Some(at) = out.windows(needle.len()).position(|window| window == needle) {
        let start = at - 8; // headers of the list element and of its name
        let length = usize::from(u16::from_ne_bytes([out[start], out[start + 1]]));
        out.drain(start..start + length);
        let list =
            (0..start).find(|at| out[*at..].starts_with(&[out[*at], out[*at + 1], 4, 0]) && at % 4 == 0 && *at > 16);
        let list = list.expect("the list of expressions");
        let shorter = u16::from_ne_bytes([out[list], out[list + 1]]) - length as u16;
        out[list..list + 2].copy_from_slice(&shorter.to_ne_bytes());
    }
    out
}

fn canonical(table: &TableFacts) -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let strip = |list: &[Vec<u8>], kinds: &[u16]| list.iter().map(|it| without(it, kinds)).collect::<Vec<_>>();
    let mut elements: Vec<Vec<u8>> = table.elements.clone();
    elements.sort();
    BTreeMap::from([
        ("chains", strip(&table.chains, &[2])),
        ("rules", table.rules.iter().map(|it| without_byteorder(&without(it, &[3, 6]))).collect()),
        // nft notes in the user data of a concatenation that it is one; it lists it the same without.
        ("sets", strip(&table.sets, &[13, 16, 20])),
        ("elements", elements),
    ])
}

fn compare(ours: &[TableFacts], theirs: &[TableFacts]) {
    assert_eq!(ours.len(), 2);
    assert_eq!(theirs.len(), 2);
    for (our, their) in ours.iter().zip(theirs) {
        let (our, their) = (canonical(our), canonical(their));
        for part in ["sets", "chains", "rules"] {
            assert_eq!(our[part].len(), their[part].len(), "{part}");
            for (our, their) in our[part].iter().zip(&their[part]) {
                assert!(our == their, "{part}\nours   {}\ntheirs {}", readable(our), readable(their));
            }
        }
    }
}

fn readable(bytes: &[u8]) -> String {
    bytes
        .chunks(4)
        .map(|word| {
            word.iter()
                .map(
                    |byte| {
                        if byte.is_ascii_lowercase() { char::from(*byte).to_string() } else { format!("{byte:02x}") }
                    },
                )
                .collect::<String>()
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn netrec_sends_what_nft_compiles() {
    lab::in_private_namespaces(|| {
        let wanted = shop();
        let mut nft = Nft::open().unwrap();
        lab::take(&Op::Create(&wanted), None).unwrap();
        assert_eq!(observe(&mut nft).as_ref(), Some(&wanted));
        lab::run("nft flush set inet netrec-shop stale4; nft flush set inet netrec-shop stale6");
        let ours = dump();
        assert_eq!(observe(&mut nft).as_ref(), Some(&wanted));
        let listed = lab::run("nft list ruleset");
        assert!(listed.contains("192.0.2.1 . tcp . 443-444 : 10.20.0.10"), "{listed}");
        assert!(listed.contains("tcp . 8080 : fd10::10 . 80"), "{listed}");

        lab::run("nft delete table inet netrec-shop; nft delete table bridge netrec-shop");
        assert_eq!(observe(&mut nft), None);
        lab::nft(&wanted.text());
        compare(&ours, &dump());
        // nft's way to write elements is read as well.
        assert_eq!(observe(&mut nft).map(|it| it.elements), Some(wanted.elements.clone()));
        assert_eq!(lab::run("nft list ruleset"), listed);

        lab::run("nft flush ruleset");
        lab::nft(&listed);
        compare(&ours, &dump());
    });
}

/// Makes the wall, lets somebody at it, and says what netrec finds.
fn after(vandalism: &str) -> Option<Rules> {
    let mut nft = Nft::open().unwrap();
    lab::attempt("nft delete table inet netrec-shop; nft delete table bridge netrec-shop");
    lab::take(&Op::Create(&shop()), None).unwrap();
    lab::run(vandalism);
    let found = observe(&mut nft)?;
    if found != shop() {
        // Whatever was done, one update undoes it.
        lab::take(&Op::Update { from: &found, to: &shop() }, None).unwrap();
        assert_eq!(observe(&mut nft), Some(shop()), "{vandalism}");
    }
    Some(found.rules)
}

#[test]
fn whatever_others_do_to_the_rules_is_seen_and_undone() {
    lab::in_private_namespaces(|| {
        let altered = |what: &str| Some(Rules::Altered(what.to_owned()));
        let handle = r"$(nft -a list chain inet netrec-shop between | sed -n 's/.*no_icc drop # handle //p')";
        for (vandalism, what) in [
            (
                format!("nft replace rule inet netrec-shop between handle {handle} iifname . oifname @icc drop"),
                "rules of between",
            ),
            (format!("nft delete rule inet netrec-shop between handle {handle}"), "rules of between"),
            ("nft add rule inet netrec-shop between accept".into(), "rules of between"),
            ("nft insert rule inet netrec-shop input accept".into(), "rules of input"),
            ("nft flush chain inet netrec-shop leave".into(), "rules of leave"),
            ("nft 'chain inet netrec-shop forward { policy drop; }'".into(), "chain forward"),
            ("nft add chain inet netrec-shop more".into(), "chain more"),
            ("nft add chain bridge netrec-shop more '{ type filter hook forward priority 0; }'".into(), "chain more"),
            ("nft add set inet netrec-shop more '{ type ifname; }'".into(), "set more"),
            ("nft delete table bridge netrec-shop".into(), "table bridge is gone"),
            ("nft delete table inet netrec-shop".into(), "table inet is gone"),
            ("nft add table inet netrec-shop '{ flags dormant; }'".into(), "flags 0x1 of the table"),
            ("nft replace rule bridge netrec-shop port handle $(nft -a list chain bridge netrec-shop port | sed -n 's/.*goto port_arp # handle //p') accept".into(), "rules of port"),
            ("nft flush chain bridge netrec-shop prerouting".into(), "rules of prerouting"),
            ("nft add element inet netrec-shop icc '{ br-front . br-back }'".into(), "elements of icc"),
            ("nft add element inet netrec-shop subnets4 '{ 1.2.3.4-1.2.3.6 }'".into(), "elements of subnets4"),
            ("nft add element bridge netrec-shop judged4 '{ 1.2.3.4-1.2.3.6 }'".into(), "elements of judged4"),
        ] {
            assert_eq!(after(&vandalism), altered(what), "{vandalism}");
        }
        for elements in [
            "nft add element inet netrec-shop open '{ br-x }'",
            "nft flush set bridge netrec-shop macs",
            "nft add element bridge netrec-shop sources4 '{ nr-one . 02:00:00:00:00:01 . 10.10.0.1 }'",
            "nft flush set inet netrec-shop deny4",
            "nft flush set bridge netrec-shop judged4",
            "nft add element inet netrec-shop allow_from4 '{ 0.0.0.0/1 . tcp . 8443 }' || :",
        ] {
            assert_eq!(after(elements), Some(Rules::Intact), "{elements}");
        }
        assert_eq!(after("nft flush ruleset"), None);
    });
}

/// Linux counts no such element, and it lets through whatever is looked up.
#[test]
fn an_element_that_stands_for_all_others_is_seen_in_every_set() {
    lab::in_private_namespaces(|| {
        lab::take(&Op::Create(&shop()), None).unwrap();
        let mut seen = 0;
        for family in ["inet", "bridge"] {
            let listed = lab::run(&format!("nft list table {family} netrec-shop"));
            for line in listed.lines().filter(|line| line.ends_with('{')) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let all = match words[..] {
                    // nft 1.0.6 crashes on it for intervals of one field; all elements of those are read anyway.
                    ["set", name, _] if name.starts_with("subnets") || name.starts_with("judged") => continue,
                    ["set", _, _] => "*",
                    ["map", name, _] if name.starts_with("publish4") => "* : 10.10.0.9 . 80",
                    ["map", name, _] if name.starts_with("publish6") => "* : fd10::9 . 80",
                    ["map", name, _] if name.contains('4') => "* : 10.10.0.9",
                    ["map", ..] => "* : fd10::9",
                    _ => continue,
                };
                let vandalism = format!("nft add element {family} netrec-shop {} '{{ {all} }}'", words[1]);
                assert_eq!(after(&vandalism), Some(Rules::Altered(format!("elements of {}", words[1]))), "{vandalism}");
                seen += 1;
            }
        }
        assert!(seen > 40, "{seen} sets and maps");
    });
}

/// More than there is room for answers at once.
#[test]
fn sets_of_others_in_our_table_do_not_keep_it_from_being_read() {
    lab::in_private_namespaces(|| {
        let many = "seq 20000 | sed 's/.*/add set inet netrec-shop more& { type ifname; }/' | nft -f -";
        assert_eq!(after(many), Some(Rules::Altered("set more1".into())));
    });
}

#[test]
fn elements_change_in_place_and_the_rest_stays() {
    lab::in_private_namespaces(|| {
        // The second bears the name of ours, but is of another family.
        lab::nft("table inet other { chain forward { type filter hook forward priority 5; policy drop; }\n}");
        lab::nft("table ip netrec-shop { chain input { type filter hook input priority 6; policy drop; }\n}");
        let (mut nft, from) = (Nft::open().unwrap(), shop());
        lab::take(&Op::Create(&from), None).unwrap();
        let rules = |chain: &str| lab::run(&format!("nft -a list chain inet netrec-shop {chain}"));
        // Which part of a topology has a say in it, and which not.
        let (host, between) = (rules("leave"), rules("between"));

        let back = NetworkRules { subnets: vec!["10.20.0.0/16".parse().unwrap()], ..network("br-back") };
        let to = Firewall::new(
            "shop",
            &[network("br-front"), back],
            &[
                publication("", Protocol::Tcp, "8080", "10.10.0.11", 8080),
                publication("", Protocol::Sctp, "9000-9999", "10.10.0.11", 9000),
                publication("192.0.2.1", Protocol::Tcp, "7000-7003", "10.20.0.10", 7000),
            ],
        );
        let changes = to.changes(&from);
        let text = |wanted: &str| changes.iter().any(|change| change.to_string() == wanted);
        assert!(text("publish tcp 8080 -> 10.10.0.10:80 -> tcp 8080 -> 10.10.0.11:8080"), "{changes:#?}");
        assert!(text("publish tcp [2001:db8::1]:443 -> [fd20::10]:443 removed"));
        assert!(text("publish tcp 192.0.2.1:7000-7003 -> 10.20.0.10:7000-7003"));
        assert!(text("snat br-back -> 203.0.113.7 removed") && text("icc br-back"));
        assert!(changes.iter().all(|change| change.in_place));

        let generation = nft.generation().unwrap();
        let update = Op::Update { from: &from, to: &to };
        assert!(matches!(lab::take(&update, Some(generation - 1)), Err(NftError::Stale)));
        assert_eq!(observe(&mut nft).as_ref(), Some(&from));
        lab::take(&update, Some(generation)).unwrap();
        assert_eq!(observe(&mut nft).as_ref(), Some(&to));
        assert_eq!(rules("leave"), host);
        assert_ne!(rules("between"), between);
        assert!(!lab::run("nft list table inet netrec-shop").contains("deny4"), "what is not used is gone");

        // Said twice, it deletes what is not there: the message is named and nothing happens.
        assert!(matches!(lab::take(&update, None), Err(NftError::Refused { message: Some(_), .. })));
        assert!(matches!(lab::take(&Op::Create(&to), None), Err(NftError::Refused { message: Some(0), .. })));
        assert_eq!(observe(&mut nft).as_ref(), Some(&to));
        let outline = nft.outline().unwrap();
        let chains = outline.chains(&Owner::new("shop"));
        assert_eq!(chains.len(), 2);
        assert!(chains[1].family == "ip" && chains[1].table == "netrec-shop" && chains[1].drops);
        assert!(
            chains[0].table == "other" && chains[0].priority == 5 && chains[0].drops && chains[0].hook == "forward"
        );
        assert_eq!(outline.chains(&Owner::new("none")).len(), 12);

        lab::take(&Op::Delete(&to), None).unwrap();
        assert_eq!(lab::run("nft list tables"), "table inet other\ntable ip netrec-shop\n");
        assert_eq!(observe(&mut nft), None);
    });
}

/// What is asked after an update tells it from the rules before, and from what somebody else has done since.
#[test]
fn what_was_written_is_asked_for_by_its_key() {
    lab::in_private_namespaces(|| {
        let mut nft = Nft::open().unwrap();
        let stays = publication("192.0.2.2", Protocol::Udp, "53", "10.10.0.10", 53);
        let publications = [
            publication("", Protocol::Tcp, "8080", "10.10.0.10", 80),
            publication("192.0.2.1", Protocol::Udp, "53", "10.10.0.10", 53),
            stays.clone(),
        ];
        let from = Firewall::new("shop", &[network("br-front")], &publications);
        let publications = [
            publication("", Protocol::Tcp, "8080", "10.10.0.11", 80),
            publication("", Protocol::Tcp, "8081", "10.10.0.10", 80),
            stays,
        ];
        let to = Firewall::new("shop", &[network("br-front")], &publications).with(Guard::elements(guards()));
        let asked = Asked::after(&from, &to).unwrap();
        let mut agree = || {
            let answers = asked.iter().map(|it| it.agrees(nft.element(&it.question).unwrap().as_deref()));
            answers.filter(|agrees| *agrees).count()
        };
        lab::take(&Op::Create(&from), None).unwrap();
        assert_eq!(agree(), 1, "nothing but that flows are forgotten, which is noted already");
        lab::take(&Op::Update { from: &from, to: &to }, None).unwrap();
        assert_eq!(agree(), asked.len());
        lab::run("nft delete element inet netrec-shop publish4 '{ tcp . 8081 }'");
        assert_eq!(agree(), asked.len() - 1);
        lab::run("nft add element inet netrec-shop publish4_at '{ 192.0.2.1 . udp . 53 : 10.10.0.10 . 53 }'");
        assert_eq!(agree(), asked.len() - 2);

        let range = publication("", Protocol::Tcp, "7000-7003", "10.10.0.10", 7000);
        let more = Firewall::new("shop", &[network("br-front")], &[range]);
        assert!(Asked::after(&to, &more).is_none(), "intervals are read with all else");
        let altered = Firewall { rules: Rules::Altered("a rule".into()), ..from };
        assert!(Asked::after(&altered, &to).is_none());
    });
}

#[test]
fn ten_thousand_ports_are_elements() {
    lab::in_private_namespaces(|| {
        let wanted = |first: u16| {
            let all =
                (0..10_000).map(|n| publication("", Protocol::Tcp, &(20_000 + n).to_string(), "10.10.0.10", first + n));
            Firewall::new("shop", &[network("br-front")], &all.collect::<Vec<_>>())
        };
        let mut nft = Nft::open().unwrap();
        let started = std::time::Instant::now();
        lab::take(&Op::Create(&wanted(1)), None).unwrap();
        let made = started.elapsed();
        let found = observe(&mut nft).unwrap();
        let read = started.elapsed().checked_sub(made).unwrap();
        assert_eq!(found, wanted(1));
        let to = wanted(2);
        let started = std::time::Instant::now();
        assert_eq!(to.changes(&found).len(), 10_000);
        lab::take(&Op::Update { from: &found, to: &to }, None).unwrap();
        assert_eq!(observe(&mut nft), Some(to));
        eprintln!("made in {made:?}, read in {read:?}, all changed in {:?}", started.elapsed());
    });
}

#[test]
fn one_port_more_is_one_element_more() {
    let wanted = |count: u16| {
        let all = (0..count).map(|n| publication("", Protocol::Tcp, &(20_000 + n).to_string(), "10.10.0.10", 80));
        Firewall::new("shop", &[network("br-front")], &all.collect::<Vec<_>>())
    };
    let (from, to) = (wanted(20_000), wanted(20_001));
    let Body::Nft(update) = lab::messages(&Op::Update { from: &from, to: &to }).remove(0).body else { panic!("rules") };
    // The element, and a note of the flows that were there before it in place of older ones.
    assert_eq!((update.len(), to.changes(&from).len()), (3, 1));
    let bytes: usize = update.iter().map(|message| message.attributes.len()).sum();
    assert!(bytes < 240, "{bytes} bytes");
}
