//! Commit-confirm from the outside: the program, its exit codes and what it leaves, on the real kernel.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod watched;
mod world;

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use watched::{FILE, SHOP, Watcher};

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");

/// How long is waited for what must come.
const PATIENCE: Duration = Duration::from_mins(1);

fn topology(subnet: &str, more: &str) -> String {
    format!(
        "topology = \"t\"\n[networks.n]\ndriver = \"bridge\"\nsubnets = [\"{subnet}\"]\nbridge.name = \"br0\"\n\
         [containers.c]\nnetns = \"c\"\n[endpoints.e]\ncontainer = \"c\"\nnetwork = \"n\"\n{more}"
    )
}

/// In a world where one topology is applied and two others are at hand.
fn in_world(test: impl FnOnce() + Send) {
    world::run(|| {
        fs::write("/run/good.toml", topology("10.1.0.0/24", "")).unwrap();
        fs::write("/run/bad.toml", topology("10.2.0.0/24", "")).unwrap();
        fs::write(
            "/run/other.toml",
            topology("10.3.0.0/24", "")
                .replace("\"t\"", "\"u\"")
                .replace("br0", "br1")
                .replace("netns = \"c\"", "netns = \"d\""),
        )
        .unwrap();
        exits(0, &["apply", "/run/good.toml"]);
        test();
    });
}

fn netrec(arguments: &[&str]) -> Output {
    let mut command = Command::new(NETREC);
    command.args(arguments).stdin(Stdio::null()).env_remove("SSH_CONNECTION").output().unwrap()
}

/// Runs it; what it says, if it ends as it must.
fn exits(code: i32, arguments: &[&str]) -> String {
    let output = netrec(arguments);
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

fn waits_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn address() -> String {
    world::sh("ip -n c -br address show dev eth0").split_whitespace().nth(2).unwrap_or_default().to_owned()
}

#[test]
fn what_is_confirmed_stays() {
    in_world(|| {
        let said = exits(0, &["apply", "/run/bad.toml", "--confirm", "1h"]);
        assert!(said.contains("undo: exact") && said.contains("to be confirmed until"), "{said}");
        exits(8, &["apply", "/run/good.toml"]);
        exits(8, &["destroy", "/run/good.toml", "--yes"]);
        exits(0, &["apply", "/run/other.toml"]);
        exits(0, &["confirm"]);
        exits(4, &["confirm"]);
        assert!(address().starts_with("10.2."), "{}", address());
        assert_eq!(exits(0, &["apply", "/run/bad.toml"]), "nothing to do\n");
        exits(0, &["apply", "/run/good.toml"]);
    });
}

#[test]
fn what_is_not_confirmed_goes_back_and_is_not_tried_again_unasked() {
    in_world(|| {
        exits(0, &["apply", "/run/bad.toml", "--confirm", "1s"]);
        assert!(address().starts_with("10.2."), "{}", address());
        waits_for("it goes back", || address().starts_with("10.1.") && netrec(&["confirm"]).status.code() == Some(4));
        let said = exits(4, &["apply", "/run/bad.toml"]);
        assert!(said.contains("--retry"), "{said}");
        exits(0, &["apply", "/run/good.toml"]);
        exits(0, &["apply", "/run/bad.toml", "--retry"]);
        exits(0, &["apply", "/run/good.toml"]);
        exits(0, &["apply", "/run/bad.toml"]);
    });
}

#[test]
fn a_probe_that_held_before_must_hold_after() {
    in_world(|| {
        let probe = ["--confirm", "1h", "--probe", "ping:10.1.0.1"];
        let apply = ["apply", "/run/bad.toml"];
        let said = exits(7, &[apply.as_slice(), &probe].concat());
        assert!(said.contains("probe ping:10.1.0.1 fails now"), "{said}");
        assert!(address().starts_with("10.1."), "{}", address());
        let said = exits(4, &["apply", "/run/bad.toml", "--retry", "--confirm", "1h", "--probe", "tcp:127.0.0.1:9"]);
        assert!(said.contains("fails already before"), "{said}");
        for held in ["ping:127.0.0.1", "ping:::1", "route:10.1.0.77"] {
            let code = if held.starts_with("ping") { 0 } else { 7 };
            exits(code, &["apply", "/run/bad.toml", "--retry", "--confirm", "1h", "--probe", held]);
            if code == 0 {
                exits(0, &["rollback"]);
            }
        }
        exits(64, &["apply", "/run/bad.toml", "--probe", "ping:127.0.0.1"]);
        exits(64, &["apply", "/run/bad.toml", "--confirm", "soon"]);
    });
}

/// However short the time is: who does not answer is not asked until it is over, and who works too slowly ends by itself.
#[test]
fn what_there_is_no_time_for_goes_back_and_says_so() {
    in_world(|| {
        // Nobody answers there any more once the network has gone.
        world::sh(
            "ip link add wire type veth peer end; ip link set end up; ip link set wire up; ip route add 10.1.0.0/16 dev wire",
        );
        let said = exits(7, &["apply", "/run/bad.toml", "--confirm", "2s", "--probe", "ping:10.1.0.1"]);
        assert!(
            said.contains("rolled back, all is as it was: probe ping:10.1.0.1 fails now: no answer came"),
            "{said}"
        );

        world::sh("ip link delete wire");
        fs::write("/run/bad.toml", topology("10.2.0.0/24", "[containers.d]\nnetns = \"d\"\n")).unwrap();
        let slow = "strace -fqqo /dev/null -P /run/netns/d -e inject=mount:delay_enter=2500000";
        let late = format!("{slow} {NETREC} apply /run/bad.toml --confirm 1s --format json");
        let output = world::attempt(&late);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(7), "{said}");
        let json: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(json["confirm"]["state"], "rolled-back");
        assert_eq!(json["confirm"]["reason"], "it was not applied in time");
        exits(0, &["plan", "--exit-code", "/run/good.toml"]);
        assert!(exits(0, &["history"]).contains("  rolled back: it was not applied in time\n"));
    });
}

#[test]
fn a_rollback_that_somebody_blocks_is_incomplete_and_says_so() {
    in_world(|| {
        fs::write("/run/bad.toml", topology("10.1.0.0/24", "").replace("br0", "br9")).unwrap();
        exits(0, &["apply", "/run/bad.toml", "--confirm", "1h"]);
        world::sh("ip link add br0 type bridge");
        let said = exits(11, &["rollback", "t"]);
        assert!(said.contains("br0"), "{said}");
        world::sh("ip link delete br0");
        exits(0, &["apply", "/run/good.toml"]);
    });
}

#[test]
fn what_fails_under_confirm_goes_back_at_once() {
    in_world(|| {
        fs::write("/run/bad.toml", topology("10.1.0.0/24\", \"fd01::/64", "[containers.d]\nnetns = \"d\"\n")).unwrap();
        // The new container cannot have the name that it is to have.
        world::sh("mount -o remount,bind,ro /run/netns");
        let said = exits(7, &["apply", "/run/bad.toml", "--confirm", "1h"]);
        assert!(said.contains("rolled back, all is as it was"), "{said}");
        exits(0, &["plan", "--exit-code", "/run/good.toml"]);
    });
}

#[test]
fn the_session_that_netrec_is_run_in_is_not_cut_off() {
    in_world(|| {
        let run = |more: &[&str]| {
            let mut command = Command::new(NETREC);
            command.args(["apply", "/run/bad.toml"]).args(more).stdin(Stdio::null());
            let output = command.env("SSH_CONNECTION", "10.1.0.99 50022 10.1.0.1 22").output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, said) = run(&[]);
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("cut off the session from 10.1.0.99"), "{said}");
        assert!(address().starts_with("10.1."), "{}", address());
        assert_eq!(run(&["--allow-self-cut"]).0, Some(0));
    });
}

#[test]
fn the_session_is_found_without_the_environment() {
    in_world(|| {
        let open = topology("10.1.0.0/24", "").replace("bridge.name", "host_access = true\nbridge.name");
        fs::write("/run/open.toml", open).unwrap();
        exits(0, &["apply", "/run/open.toml"]);
        // As an SSH server and sudo: the connection is held by a process above netrec, which is told nothing of it. What is
        // said goes to a file: socat forgets what it has not passed on when its child ends with an error.
        fs::write("/run/login", format!("{NETREC} apply /run/bad.toml >/run/said 2>&1\n")).unwrap();
        world::sh(
            "timeout 60 socat -t 60 TCP-LISTEN:2222,reuseaddr EXEC:'sh /run/login' >/run/log 2>&1 &
             until ss -Hltn 'sport = :2222' | grep -q .; do sleep 0.05; done
             timeout 60 ip netns exec c socat -u TCP:10.1.0.1:2222 - || true",
        );
        let said = fs::read_to_string("/run/said").unwrap();
        assert!(said.contains("would cut off the session from 10.1.0."), "{said}");
        assert!(address().starts_with("10.1."), "{}", address());
    });
}

#[test]
fn deletions_are_let_through_by_number() {
    in_world(|| {
        let many = |count: usize| {
            let more = |n| {
                format!(
                    "[containers.c{n}]\nnetns = \"c{n}\"\n[endpoints.e{n}]\ncontainer = \"c{n}\"\nnetwork = \"n\"\n"
                )
            };
            topology("10.1.0.0/24", "") + &(0..count).map(more).collect::<String>()
        };
        fs::write("/run/many.toml", many(4)).unwrap();
        exits(0, &["apply", "/run/many.toml"]);
        exits(4, &["apply", "/run/good.toml"]);
        exits(4, &["plan", "/run/good.toml"]);
        exits(4, &["apply", "/run/good.toml", "--allow-deletes", "7"]);
        exits(64, &["apply", "/run/good.toml", "--allow-deletes", "few"]);
        exits(0, &["apply", "/run/good.toml", "--allow-deletes", "8"]);
        exits(0, &["apply", "/run/many.toml"]);
        exits(0, &["apply", "/run/good.toml", "--allow-deletes", "all"]);
        exits(0, &["apply", "/run/many.toml"]);
        exits(0, &["destroy", "/run/many.toml"]);
    });
}

#[test]
fn the_history_tells_what_was_done_and_nothing_of_what_was_not() {
    in_world(|| {
        exits(0, &["apply", "/run/good.toml"]);
        fs::write("/run/empty.toml", "topology = \"t\"\n[pools]\n").unwrap();
        exits(4, &["apply", "/run/empty.toml"]);
        exits(0, &["apply", "/run/bad.toml", "--confirm", "1h"]);
        exits(0, &["rollback"]);
        let told = exits(0, &["history", "t"]);
        let results: Vec<&str> = told.lines().filter_map(|line| line.rsplit("  ").next()).collect();
        assert_eq!(results, ["done", "to be confirmed", "rolled back: `netrec rollback` was run"], "{told}");
        let file = "/var/lib/netrec/history";
        fs::write(file, fs::read_to_string(file).unwrap().replacen("apply", "apple", 1)).unwrap();
        let told = exits(0, &["history", "--format", "json"]);
        assert!(told.contains("\"corrupt\": 1") && told.contains("1 lines of the history are corrupt"), "{told}");
        fs::remove_dir_all("/var/lib/netrec").unwrap();
        assert_eq!(exits(0, &["history"]), "");
        exits(0, &["plan", "--exit-code", "/run/good.toml"]);
    });
}

#[test]
fn a_watcher_leaves_alone_what_waits_and_does_not_retry_what_went_back() {
    world::run(|| {
        // It hears of the decision: by itself it would look in an hour.
        let watcher = Watcher::of(SHOP, &["--look-every", "1h"]);
        let mtu = || world::sh("ip -o link show br-front");
        let is = |wanted: u32| mtu().contains(&format!("mtu {wanted} "));
        let applied_meanwhile = |mtu: u32| {
            exits(0, &["suspend", FILE]);
            fs::write(FILE, SHOP.replace("mtu = 1500", &format!("mtu = {mtu}"))).unwrap();
            exits(0, &["apply", FILE, "--confirm", "1h"]);
            assert!(is(mtu));
            world::sh("ip link set br-front mtu 1300");
        };
        let degraded = |why: &str| {
            watcher.until(|standing| standing["reason"].as_str().is_some_and(|reason| reason.contains(why)));
        };
        applied_meanwhile(1400);
        exits(0, &["resume", FILE]);
        degraded("waits to be confirmed");
        let said = exits(0, &["status", FILE]);
        assert!(said.contains("\nto be confirmed until ") && said.contains("applied by "), "{said}");
        assert!(is(1300), "it is not the watcher's to change: {}", mtu());
        exits(0, &["confirm"]);
        waits_for("what was confirmed is kept up", || is(1400));

        applied_meanwhile(1450);
        exits(0, &["resume", FILE]);
        degraded("waits to be confirmed");
        exits(0, &["rollback"]);
        degraded("never confirmed");
        world::sh("ip link set br-front mtu 1300");
        waits_for("what was good is kept up", || is(1400));
        let said = exits(0, &["status", FILE]);
        assert!(said.contains(" was rolled back: `netrec rollback` was run\n"), "{said}");
        exits(4, &["apply", FILE]);
        exits(0, &["apply", FILE, "--retry"]);
        assert!(is(1450));
        watcher.until(|standing| standing["state"] == "in_sync");
    });
}
