//! A watcher in whose way something stands: what it says of that meanwhile, and how it goes on.

mod watched;
mod world;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Command;

use serde_json::Value;
use watched::{FILE, NETREC, SHOP, Watcher, events_of, is_as, is_quiet, settled, wait_for};
use world::sh;

/// As a pager that waits for its user, or a log whose reader has stalled: who speaks does not wait for who reads.
#[test]
fn a_reader_who_is_held_up_holds_up_nobody() {
    const EVENTS: usize = 2_000;

    world::run(|| {
        fs::create_dir_all("/run/files").unwrap();
        fs::write(FILE, SHOP).unwrap();
        fs::write(events_of("shop"), "").unwrap();
        for reads in [false, true] {
            let (reader, writer) = std::io::pipe().unwrap();
            let watcher = Watcher::start_telling(writer, Command::new(NETREC), FILE, "shop", &[]);
            watcher.until(|standing| standing["state"] == "in_sync");
            let before = settled();
            for event in 0..EVENTS {
                let verb = ["suspend", "resume"][event % 2];
                watcher.ask(&format!(r#"{{"version":1,"do":"{verb}"}}"#)).unwrap();
            }
            sh("nft flush ruleset");
            is_as(&before);
            if !reads {
                watcher.end();
                continue;
            }
            let mut lines = BufReader::new(reader).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
            let (mut told, mut left_out) = (0, 0);
            while left_out == 0 {
                // Any question wakes it; it is not to be told before there is room.
                watcher.standing();
                let line: Value = lines.next().unwrap();
                told += usize::from(line["event"] != "left_out");
                left_out = line["events"].as_u64().unwrap_or_default() as usize;
            }
            assert!(told + left_out > EVENTS, "{told} events told and {left_out} left out");
            watcher.ask(r#"{"version":1,"do":"suspend"}"#).unwrap();
            watcher.end();
            let last: Vec<Value> = lines.collect();
            assert!(last.iter().any(|line| line["to"] == "suspended"), "what is said at the end arrives: {last:?}");
        }
    });
}

/// As Kubernetes puts a file of a `ConfigMap`: inotify says nothing of it.
#[test]
fn a_file_that_is_mounted_over_is_followed() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--poll-every", "1h"]);
        let follows = |octet: u32| {
            let address = format!("10.10.0.{octet}/24");
            wait_for(|| sh("ip -n api address show").contains(&address)).unwrap_or_else(|| panic!("{address}"));
        };
        let write = |file: &str, octet: u32| fs::write(file, SHOP.replace("10.10.0.10", &format!("10.10.0.{octet}")));
        fs::create_dir("/run/others").unwrap();
        write("/run/other", 30).unwrap();
        write("/run/others/shop.toml", 40).unwrap();
        sh(&format!("mount --bind /run/other {FILE}"));
        follows(30);
        sh("mount --bind /run/others /run/files");
        follows(40);
        write(FILE, 50).unwrap();
        follows(50);
        sh("umount /run/files");
        follows(30);
        sh(&format!("umount {FILE}"));
        follows(10);
        watcher.end();
    });
}

/// That a link has lost its IPv6 is seen at the link, when an address on it is refused; Linux says so only while it has some.
#[test]
fn ipv6_that_is_switched_off_behind_its_back_is_switched_on_again() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--look-every", "1h"]);
        let before = settled();
        watcher.ask(r#"{"version":1,"do":"suspend"}"#);
        sh("ip -6 address flush dev br-front");
        watcher.until(|standing| standing["drifted"].as_u64() > Some(0));
        is_quiet(&watcher);
        sh("echo 1 > /proc/sys/net/ipv6/conf/br-front/disable_ipv6");
        is_quiet(&watcher);
        watcher.ask(r#"{"version":1,"do":"resume"}"#);
        is_as(&before);
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/br-front/disable_ipv6").trim(), "0");
        watcher.end();
    });
}

/// What is refused as a whole heals nothing but the firewall, which keeps closed what is to be.
#[test]
fn what_stands_in_the_way_is_told_and_the_firewall_stands_nevertheless() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--look-every", "1h"]);
        let before = settled();
        let port = sh("ip -br link show master br-front | head -1 | sed 's/@.*//'").trim().to_owned();
        sh(&format!("ip link set {port} group 5"));
        watcher.until(|standing| standing["state"] == "degraded");
        let events = watcher.events();
        let rejected = events.lines().find(|line| line.contains("\"rejected\"")).unwrap();
        assert!(rejected.contains("\"kept\":false"), "{rejected}");
        let rules = || {
            sh("nft list chain inet netrec-shop between; nft list map inet netrec-shop publish4
                nft list chain bridge netrec-shop forward; nft list set bridge netrec-shop sources4")
        };
        let stood = rules();
        for (times, gone) in (1..).zip([
            "nft flush ruleset",
            "nft delete rule bridge netrec-shop forward handle $(
            nft -a list chain bridge netrec-shop forward | sed -n 's/.* # handle //p' | tail -1)",
        ]) {
            sh(gone);
            watcher.until(|standing| standing["unguarded"]["times"] == times);
            assert_eq!(rules(), stood);
            assert_eq!(watcher.standing().unwrap()["state"], "degraded");
        }
        sh("nft flush set bridge netrec-shop sources4");
        wait_for(|| rules() == stood).expect("elements come back as well");
        sh(&format!("ip link delete {port}"));
        watcher.until(|standing| standing["state"] == "in_sync");
        is_as(&before);
        watcher.end();
    });
}
