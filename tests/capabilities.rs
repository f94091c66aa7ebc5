//! The capabilities that the unit in `dist/` leaves the service: all that it needs, and none that it does not.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod watched;
mod world;

use std::fs;
use std::process::{Command, Output, Stdio};

use watched::{FILE, NETREC, SHOP, Watcher, wait_for};
use world::{Process, sh};

/// What the unit leaves, as setpriv(1) spells it.
fn of_unit() -> Vec<String> {
    let unit = include_str!("../dist/netrec@.service");
    let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("the unit has a set");
    let name = |name: &str| name.strip_prefix("CAP_").expect("capabilities by name").to_lowercase();
    set.split_whitespace().map(name).collect()
}

/// netrec, as the service manager would start it with these.
fn netrec_with(capabilities: &[String]) -> Command {
    let set = [vec!["-all".into()], capabilities.to_vec()].concat().join(",+");
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", &format!("--bounding-set={set}"), "--no-new-privs", NETREC]);
    command
}

fn run(mut command: Command, arguments: &[&str]) -> Output {
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// A topology with a container that is a process, which may do more than the service.
fn with_process(process: &Process) {
    fs::create_dir_all("/run/files").unwrap();
    fs::write(FILE, SHOP.replace("netns = \"db\"", &format!("pid = {}", process.id()))).unwrap();
}

#[test]
fn what_the_unit_leaves_is_enough() {
    world::run(|| {
        sh("ip netns add sandbox");
        let process = Process::start("sandbox");
        with_process(&process);
        let set = of_unit();
        let does = |arguments: &[&str]| {
            let output = run(netrec_with(&set), arguments);
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        does(&["apply", "--yes", FILE]);
        does(&["destroy", "--yes", FILE]);
        let watcher = Watcher::start_as(netrec_with(&set), FILE, "shop", &["--look-every", "1h"]);
        watcher.until(|standing| standing["state"] == "in_sync");
        let here = |command: &str| world::attempt(command).status.success();
        for (drift, healed) in [
            ("ip -n api address delete 10.10.0.10/24 dev eth0", "ip -n api address show | grep -q 10.10.0.10/24"),
            ("ip -n sandbox link delete eth0", "ip -n sandbox address show | grep -q 10.10.0.20/24"),
            ("ip link delete br-front", "ip link show br-front"),
            ("nft flush ruleset", "nft list table inet netrec-shop"),
            ("echo 0 >/proc/sys/net/ipv4/ip_forward", "grep -q 1 /proc/sys/net/ipv4/ip_forward"),
            ("ip netns delete api", "ip -n api address show | grep -q 10.10.0.10/24"),
        ] {
            sh(drift);
            wait_for(|| here(healed)).unwrap_or_else(|| panic!("`{drift}`: {}", watcher.events()));
        }
        // A container's namespace goes with its last process. Of a process that leaves one which stays Linux tells nobody.
        sh("ip netns delete sandbox");
        drop(process);
        watcher.until(|standing| standing["state"] == "pending");
        watcher.end();
        does(&["destroy", "--yes", FILE]);
    });
}

#[test]
fn without_any_of_it_something_fails_and_names_it() {
    world::run(|| {
        sh("ip netns add sandbox");
        let process = Process::start("sandbox");
        with_process(&process);
        let set = of_unit();
        for missing in &set {
            let rest: Vec<String> = set.iter().filter(|it| *it != missing).cloned().collect();
            // It is needed to listen only.
            let arguments = if missing == "net_broadcast" { &["watch", FILE][..] } else { &["apply", "--yes", FILE] };
            let mut command = Command::new("timeout");
            let with = netrec_with(&rest);
            command.arg("60").arg(with.get_program()).args(with.get_args());
            let output = run(command, arguments);
            let said = String::from_utf8_lossy(&output.stderr).to_uppercase();
            assert_eq!(output.status.code(), Some(10), "without {missing}: {said}");
            assert!(said.contains(&format!("CAP_{}", missing.to_uppercase())), "without {missing}: {said}");
        }
    });
}
