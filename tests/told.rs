//! What people and programs are told where something is in the way: of whom the program is run by, of what was stopped, and
//! of what a terminal would take for an order.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod watched;
mod world;

use std::fs;
use std::process::Output;

use watched::{FILE, NETREC, SHOP, Watcher};
use world::{attempt, sh};

/// How a shell line ended in which `netrec` is the program, and all that it said.
fn ended(line: &str) -> (i32, String) {
    let Output { status, stdout, stderr } = attempt(&format!("netrec() {{ {NETREC} \"$@\"; }}\n{line}"));
    (status.code().unwrap_or(-1), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

#[track_caller]
fn ends(exit: i32, line: &str) -> String {
    let (ended, said) = ended(line);
    assert_eq!(ended, exit, "{line}: {said}");
    said
}

#[test]
fn who_may_not_ask_is_told_to_be_root() {
    world::run(|| {
        let user = "setpriv --reuid=65534 --regid=65534 --clear-groups";
        if !attempt(&format!("{user} true")).status.success() {
            return; // a user namespace of one user
        }
        // Where it was built may be for root alone.
        sh(&format!("cp {NETREC} /run/program"));
        let _watcher = Watcher::of(SHOP, &[]);
        fs::write("/run/other.toml", "topology = \"other\"\n[networks.n]\ndriver = \"bridge\"\n").unwrap();
        ends(0, "netrec apply --confirm 1h /run/other.toml");
        for command in [
            "confirm",
            "confirm other",
            "rollback other",
            "history",
            "suspend --topology shop",
            &format!("resume {FILE}"),
            &format!("wait {FILE}"),
        ] {
            let said = ends(10, &format!("{user} /run/program {command}"));
            assert!(
                said.contains("Permission denied\n") && said.contains("hint: run it as root\n"),
                "{command}: {said}"
            );
        }
        ends(0, "netrec confirm");
    });
}

#[test]
fn what_a_file_says_is_no_order_to_a_terminal() {
    world::run(|| {
        let with = |path: &str| SHOP.replace("netns = \"api\"", &format!("path = \"{path}\""));
        fs::write("/run/shop.toml", with("/run/netns/\\u001b[31m\\nx")).unwrap();
        for (exit, command) in [(0, "plan"), (6, "apply"), (0, "status")] {
            let said = ends(exit, &format!("netrec {command} /run/shop.toml"));
            let line = said.lines().find(|line| line.starts_with("pending: ")).unwrap_or_else(|| panic!("{said}"));
            assert!(line.contains("/run/netns/\\u{1b}[31m\\nx"), "{line}");
            assert!(!said.contains('\u{1b}'), "{said:?}");
        }
    });
}

/// The numbers of the line of a text that begins so.
fn numbers(text: &str, start: &str) -> Vec<u64> {
    let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{text}"));
    line.split(' ').filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn what_was_stopped_says_so_to_people_and_to_programs() {
    world::run(|| {
        fs::write("/run/shop.toml", SHOP).unwrap();
        let stop = format!(
            "strace -fqqo /dev/null -P /run/netns/api -e inject=mount:signal=SIGTERM:when=1 {NETREC} apply /run/shop.toml"
        );
        let said = ends(5, &stop);
        assert!(said.contains("\nerror: stopped as asked"), "{said}");
        let (applied, planned) = (numbers(&said, "applied: "), numbers(&said, "plan: "));
        assert_eq!(applied.iter().sum::<u64>(), planned.iter().sum::<u64>(), "steps are those that were taken: {said}");
        ends(0, "netrec destroy --yes /run/shop.toml");
        let said = ends(5, &format!("{stop} --format json 2>/dev/null"));
        let json: serde_json::Value = serde_json::from_str(&said).unwrap();
        let message = json["errors"][0]["message"].as_str().unwrap();
        assert!(message.starts_with("stopped as asked"), "{message}");
    });
}

#[test]
fn every_example_can_be_rehearsed() {
    world::run(|| {
        for example in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/topologies")).unwrap() {
            let said = ends(0, &format!("netrec rehearse '{}'", example.unwrap().path().display()));
            assert!(said.ends_with("left: nothing\n"), "{said}");
        }
    });
}

#[test]
fn who_is_asked_sees_what_about() {
    world::run(|| {
        fs::write("/run/shop.toml", SHOP).unwrap();
        let asked =
            |line: &str| sh(&format!("printf 'y\\n' | script -qec \"{NETREC} {line}\" /dev/null")).replace('\r', "");
        for command in ["apply", "destroy"] {
            let said = asked(&format!("{command} /run/shop.toml >/run/file"));
            let (plan, _) = said.split_once(&format!("\n{command} this? [y/N] ")).unwrap_or_else(|| panic!("{said}"));
            assert!(plan.contains("host/bridge/br-front") && plan.contains("\nplan: "), "{said}");
            assert!(fs::read_to_string("/run/file").unwrap().contains("\nplan: "));
        }
    });
}

#[test]
fn a_host_does_not_wait_for_an_answer() {
    world::run(|| {
        fs::write("/run/shop.toml", SHOP).unwrap();
        let answered_after = |meanwhile: &str| {
            let answer = format!("until grep -q 'this?' /run/log; do sleep 0.02; done; {meanwhile}; echo y");
            let asked = format!("script -qfec \"{NETREC} apply /run/shop.toml\" /run/log");
            ended(&format!("rm -f /run/log; {{ {answer}; }} | {asked}"))
        };
        let bridge = "ip link add br-front address 02:00:00:00:00:01 type bridge";
        let (exit, said) = answered_after(bridge);
        assert!(exit == 4 && said.contains("a link named `br-front` exists and is not netrec's"), "{exit}: {said}");
        assert!(sh("ip link show br-front").contains("02:00:00:00:00:01"));
        sh("ip link delete br-front");
        let (exit, said) = answered_after("ip netns add api");
        assert!(exit == 4 && said.contains("another one by now: nothing was touched"), "{exit}: {said}");
        sh("ip netns delete api");
        let (exit, said) = answered_after("true");
        assert!(exit == 0 && said.contains("verified: nothing left to do"), "{exit}: {said}");
    });
}

#[test]
fn the_rails_hold_for_what_is_there_when_it_is_answered() {
    world::run(|| {
        fs::write("/run/shop.toml", SHOP).unwrap();
        ends(0, "netrec apply --yes /run/shop.toml");
        let answer =
            "until grep -q 'this?' /run/log; do sleep 0.02; done; ip netns exec api sleep 5 >&- & sleep 0.2; echo y";
        let asked = format!("script -qfec \"{NETREC} destroy /run/shop.toml\" /run/log");
        let (exit, said) = ended(&format!("{{ {answer}; }} | {asked}"));
        assert!(exit == 4 && said.contains("in use by process"), "{exit}: {said}");
    });
}

#[test]
fn a_place_to_listen_at_that_cannot_be_is_named() {
    world::run(|| {
        fs::write("/run/shop.toml", SHOP).unwrap();
        let watch = |exit, at: &str| ends(exit, &format!("timeout 60 {NETREC} watch --listen {at} /run/shop.toml"));
        assert!(watch(64, "unix:").contains("`unix:` without a path"));
        let said = watch(1, "unix:/nowhere/metrics");
        assert!(said.contains("--listen unix:/nowhere/metrics: "), "{said}");
    });
}

/// As `build.rs` says: the C library is a part of the program where it can be.
#[test]
fn a_loader_would_tell_of_nothing_that_the_program_needs() {
    // A loader lists what it would load, and runs nothing (ld.so(8)).
    let (_, said) = ended(&format!("env LD_TRACE_LOADED_OBJECTS=1 {NETREC} --version"));
    assert_eq!(said.starts_with("netrec ").to_string(), env!("NETREC_ALONE"), "{said}");
}

/// What would ask modules of the C library, which cannot be loaded where that is a part of the program.
#[test]
fn users_and_hosts_are_not_asked_of_the_c_library() {
    let has = ends(0, &format!("nm {NETREC}; nm -D {NETREC}"));
    let names: Vec<&str> = has.lines().filter_map(|line| line.rsplit(' ').next()?.split('@').next()).collect();
    assert!(names.contains(&"sendmsg") || has.contains("no symbols"), "{has}");
    for asks in ["getaddrinfo", "gethostbyname_r", "getpwuid_r", "getpwnam_r", "getgrgid_r", "getgrnam_r"] {
        assert!(!names.contains(&asks), "{asks}");
    }
}
