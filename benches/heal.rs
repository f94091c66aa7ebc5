//! How soon `netrec watch` heals and follows, and what it costs when nothing happens:
//! `cargo bench --bench heal [-- [contents] [drifts] [idle] [TIMES]]`, as root.
//!
//! Contents of the file, put in the place of the one before: a container added, a port changed, a container removed,
//! each timed from the rename to the watcher's word that it was done, among 100 and 1,000 endpoints, a tenth as often as
//! drifts; and what of that time went where, by the watcher's log.
//!
//! Random drifts on 100 endpoints, one after the other, each timed from before the command that makes it to the
//! watcher's word that all is well, which it says after another look; `after it` is from the end of the command. The same
//! with fewer kinds on 1,000. Then the time and memory of a watcher of 1,000
//! endpoints in which nothing drifts. Runs in network and mount namespaces of its own.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netrec::model::hash;
use netrec::model::lower::veth_name;

#[path = "heal/contents.rs"]
mod contents;
#[path = "watched/mod.rs"]
mod watched;
#[path = "workload/mod.rs"]
mod workload;

use watched::Watched;

const DRIFTS: usize = 1_000;
const ENDPOINTS: usize = 100;
/// As many as make it plain that what one drift costs does not depend on the rest.
const MANY: usize = 1_000;
/// Of them, those of containers with two.
const TWOFOLD: usize = 20;
/// Who undoes one object more often than that is fought with, which is another matter.
const SPACING: Duration = Duration::from_secs(11);

fn main() {
    if std::env::var_os("NETREC_BENCH_INSIDE").is_none() {
        let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
        let mut inside = Command::new("unshare");
        inside.arg("-nm").arg(std::env::current_exe().expect("a program")).args(arguments);
        let status = inside.env("NETREC_BENCH_INSIDE", "1").status().expect("unshare starts");
        std::process::exit(status.code().unwrap_or(1));
    }
    sh("mount --make-rprivate / && mount -t tmpfs tmpfs /run && ip link set lo up");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let drifts = words.iter().find_map(|word| word.parse().ok()).unwrap_or(DRIFTS);
    let wanted = |part: &str| {
        let mut parts = words.iter().filter(|word| word.parse::<usize>().is_err()).peekable();
        parts.peek().is_none() || parts.any(|word| word == part)
    };
    if wanted("contents") {
        for endpoints in [ENDPOINTS, MANY] {
            contents::follow(endpoints, drifts / 10);
            clear();
        }
    }
    if wanted("drifts") {
        heal(ENDPOINTS, drifts, &[]);
        clear();
        heal(MANY, drifts.min(1_000) / 5, &["address", "route", "link", "element"]);
        clear();
    }
    if wanted("idle") {
        idle();
    }
}

/// Containers with one endpoint each, and some with two, which have rules.
fn topology(endpoints: usize) -> String {
    let mut text = workload::topology(endpoints - TWOFOLD);
    text += "[networks.second]\ndriver = \"bridge\"\nsubnets = [\"10.200.0.0/24\"]\nmtu = 1500\n";
    for n in 0..TWOFOLD / 2 {
        text += &format!("[containers.m{n}]\nnetns = \"m{n}\"\n");
        for network in ["n0", "second"] {
            text += &format!("[endpoints.m{n}-{network}]\ncontainer = \"m{n}\"\nnetwork = \"{network}\"\n");
        }
    }
    text
}

/// Lets things drift, of these kinds or of all.
fn heal(endpoints: usize, drifts: usize, kinds: &[&str]) {
    let mut watched = Watched::start(&topology(endpoints));
    let mut commands = commands(endpoints);
    commands.retain(|(kind, ..)| kinds.is_empty() || kinds.contains(kind));
    // The watcher has heard all of its own echoes.
    std::thread::sleep(Duration::from_secs(3));
    let mut last: BTreeMap<String, Instant> = BTreeMap::new();
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let (mut seed, mut missed, mut after) = (1_u64, 0, Vec::new());
    for _ in 0..drifts {
        let (kind, object, command) = loop {
            seed = hash::of(&seed);
            let pick = &commands[seed as usize % commands.len()];
            if last.get(&pick.1).is_none_or(|at| at.elapsed() > SPACING) {
                break pick;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        last.insert(object.clone(), Instant::now());
        let began = Instant::now();
        sh(command);
        let done = Instant::now();
        if let Some(at) = watched.healed() {
            times.entry(kind).or_default().push(at - began);
            after.push(at.saturating_duration_since(done));
        } else {
            println!("not healed: {command}");
            missed += 1;
        }
    }
    println!("{endpoints} endpoints");
    println!("{:<12} {:>6} {:>9} {:>9} {:>9}", "drift", "times", "p50 ms", "p99 ms", "max ms");
    let mut all: Vec<Duration> = Vec::new();
    for (kind, mut of_kind) in times {
        all.extend(&of_kind);
        report(kind, &mut of_kind);
    }
    report("all", &mut all);
    report("after it", &mut after);
    println!("not healed: {missed}");
    assert_eq!(missed, 0, "every drift is healed");
}

fn report(kind: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).or(times.last()).map_or(0.0, ms);
    println!("{kind:<12} {:>6} {:>9.1} {:>9.1} {:>9.1}", times.len(), at(50), at(99), at(100));
}

fn ms(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What can drift: the kind, the object, and how.
fn commands(endpoints: usize) -> Vec<(&'static str, String, String)> {
    let mut all = Vec::new();
    let mut add = |kind, object: &str, command: String| all.push((kind, object.to_owned(), command));
    for n in 0..endpoints - TWOFOLD {
        let (c, host) = (format!("c{n}"), n + 2);
        add("link", &c, format!("ip -n {c} link delete eth0"));
        add("link", &c, format!("ip -n {c} link set eth0 down"));
        add("link", &c, format!("ip -n {c} link set eth0 address 02:00:00:00:00:01"));
        add("address", &c, format!("ip -n {c} address delete 10.0.{}.{}/16 dev eth0", host / 256, host % 256));
        add("address", &c, format!("ip -n {c} address delete fd00::{host:x}/64 dev eth0"));
        add("route", &c, format!("ip -n {c} route delete default"));
        add("route", &c, format!("ip -n {c} -6 route delete default"));
        // Its file is busy, or gone, where it is healed between the two calls that this takes.
        let healed = format!("timeout 5 sh -c 'until mountpoint -q /run/netns/{c}; do sleep 0.01; done'");
        add("namespace", &c, format!("ip netns delete {c} || {healed}"));
    }
    for n in 0..TWOFOLD / 2 {
        let rules = sh(&format!("ip -n m{n} rule | grep 'proto 78'"));
        for rule in rules.lines() {
            let words: Vec<&str> = rule.split_whitespace().collect();
            let priority = words[0].trim_end_matches(':');
            add("rule", &format!("m{n}"), format!("ip -n m{n} rule delete priority {priority} from {}", words[2]));
        }
    }
    // The same object as the container's own: two drifts of one pair are two of one object for the watcher.
    let single = (0..endpoints - TWOFOLD).map(|n| (format!("c{n}"), format!("e{n}")));
    let twofold = (0..TWOFOLD / 2).flat_map(|n| ["n0", "second"].map(|net| (format!("m{n}"), format!("m{n}-{net}"))));
    for (container, endpoint) in single.chain(twofold) {
        add("port", &container, format!("ip link set {} nomaster", veth_name("w", &endpoint)));
    }
    let bridge = sh("ip -br link show type bridge | head -1 | cut -d' ' -f1");
    add("bridge", "bridge", format!("ip link set {} address 02:00:00:00:00:02", bridge.trim()));
    add("element", "firewall", "nft flush map inet netrec-w publish4".into());
    add("table", "firewall", "nft delete table inet netrec-w".into());
    add("table", "firewall", "nft flush ruleset".into());
    add("sysctl", "ip_forward", "echo 0 > /proc/sys/net/ipv4/ip_forward".into());
    all
}

fn clear() {
    sh("ip netns | cut -d' ' -f1 | xargs -n1 ip netns delete; for b in $(ip -br link show type bridge | cut -d' ' -f1); do
        ip link delete $b; done; nft flush ruleset");
}

fn idle() {
    const TIME: Duration = Duration::from_secs(30);
    let watched = Watched::start(&workload::topology(MANY));
    std::thread::sleep(Duration::from_secs(5));
    let before = watched.cpu();
    std::thread::sleep(TIME);
    let used = watched.cpu() - before;
    println!("idle at {MANY} endpoints: {:.3} % of a CPU, {}", used / TIME.as_secs_f64() * 100.0, watched.memory());
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().expect("sh starts");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
