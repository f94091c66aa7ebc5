//! A watcher under test, and the host it keeps.

#![allow(dead_code, reason = "each test binary uses its part")]
#![expect(clippy::unwrap_used, reason = "a world that cannot be made fails the test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::world::{sh, without_forgotten};

pub(crate) const NETREC: &str = env!("CARGO_BIN_EXE_netrec");
pub(crate) const FILE: &str = "/run/files/shop.toml";

pub(crate) const SHOP: &str = r#"
topology = "shop"
[networks.front]
driver = "bridge"
subnets = ["10.10.0.0/24", "fd10::/64"]
mtu = 1500
[networks.front.bridge]
name = "br-front"
[containers.api]
netns = "api"
[containers.db]
netns = "db"
[endpoints.api-front]
container = "api"
network = "front"
addresses = ["10.10.0.10", "fd10::10"]
publish = ["8080:80"]
[endpoints.db-front]
container = "db"
network = "front"
addresses = ["10.10.0.20", "fd10::20"]
"#;

/// A watcher, killed when dropped.
pub(crate) struct Watcher {
    pub(crate) child: Child,
    topology: &'static str,
}

impl Watcher {
    /// Starts one on some content and waits until it has converged.
    pub(crate) fn of(content: &str, options: &[&str]) -> Self {
        fs::create_dir_all("/run/files").unwrap();
        fs::write(FILE, content).unwrap();
        let watcher = Self::start(FILE, "shop", options);
        watcher.until(|standing| ["in_sync", "pending"].contains(&standing["state"].as_str().unwrap()));
        watcher
    }

    pub(crate) fn start(path: &str, topology: &'static str, options: &[&str]) -> Self {
        Self::start_as(Command::new(NETREC), path, topology, options)
    }

    /// The same by a command of its own.
    pub(crate) fn start_as(command: Command, path: &str, topology: &'static str, options: &[&str]) -> Self {
        let events = fs::File::options().append(true).create(true).open(events_of(topology)).unwrap();
        Self::start_telling(events, command, path, topology, options)
    }

    /// The same with somebody else who is told.
    pub(crate) fn start_telling(
        events: impl Into<Stdio>,
        mut command: Command,
        path: &str,
        topology: &'static str,
        options: &[&str],
    ) -> Self {
        let complaints = fs::File::options().append(true).create(true).open("/run/complaints").unwrap();
        command.args(["watch", "--format", "json"]).args(options).arg(path);
        let child = command.stdin(Stdio::null()).stdout(events).stderr(complaints).spawn().unwrap();
        Self { child, topology }
    }

    /// Waits until somebody answers there and it stands as wanted.
    pub(crate) fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        wait_for(|| {
            last = self.standing();
            last.as_ref().is_some_and(&wanted)
        })
        .unwrap_or_else(|| panic!("{last:#?}\n{}\n{}", self.events(), fs::read_to_string("/run/complaints").unwrap()));
        last.unwrap()
    }

    pub(crate) fn standing(&self) -> Option<Value> {
        let mut answer = self.ask(r#"{"version":1,"do":"status"}"#)?;
        Some(answer["standing"].take())
    }

    pub(crate) fn ask(&self, question: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(format!("/run/netrec/{}.sock", self.topology)).ok()?;
        writeln!(stream, "{question}").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.standing().unwrap()["counters"][name].as_u64().unwrap()
    }

    /// The time that it took of processors so far (proc(5): `utime` and `stime`, in ticks).
    pub(crate) fn processor(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let ticks: u64 =
            stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
        let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
        Duration::from_millis(ticks * 1_000 / second.cast_unsigned())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub(crate) fn events(&self) -> String {
        // Who speaks does not wait for the thread that writes.
        std::thread::sleep(Duration::from_millis(100));
        fs::read_to_string(events_of(self.topology)).unwrap()
    }

    pub(crate) fn count(&self, event: &str) -> usize {
        self.events().lines().filter(|line| line.contains(&format!("\"event\":\"{event}\""))).count()
    }

    pub(crate) fn end(mut self) {
        self.signal(Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success());
        assert!(!fs::exists(format!("/run/netrec/{}.sock", self.topology)).unwrap());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn events_of(topology: &str) -> String {
    format!("/run/events-{topology}")
}

/// Waits for something, generously: what takes longer is broken, not slow.
pub(crate) fn wait_for(mut there: impl FnMut() -> bool) -> Option<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while !there() {
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(())
}

/// What people see of the host, as far as it is ours, whatever is missing of it.
pub(crate) fn picture() -> String {
    without_forgotten(&sh("exec 2>&1; set +e
        ip -br link show type bridge | awk '{print $1}'; ip -br link show type veth | awk '{print $1}' | sed 's/@.*//' | sort
        ip -br address show br-front | tr -s ' '; ip route show proto 78; cat /proc/sys/net/ipv4/ip_forward
        bridge link | sed 's/^[0-9]*: //; s/@[^:]*//' | sort
        for n in api db; do
            ip -n $n -br address show eth0 | sed 's/@if[0-9]*//' | tr -s ' '; ip -n $n route; ip -n $n -6 route
        done
        nft list tables | sort | while read table; do nft list $table; done | sed 's/ counter packets [0-9]* bytes [0-9]*//'; true"))
}

/// The same once all links have carrier, which Linux finds out a little later.
pub(crate) fn settled() -> String {
    let mut last = String::new();
    wait_for(|| {
        last = picture();
        !last.contains("DOWN") && !last.contains("NO-CARRIER")
    })
    .unwrap_or_else(|| panic!("{last}"));
    last
}

pub(crate) fn has_bridge() -> bool {
    sh("ip -br link show type bridge").contains("br-front")
}

pub(crate) fn is_as(before: &str) {
    let mut last = String::new();
    wait_for(|| {
        last = picture();
        last == before
    })
    .unwrap_or_else(|| panic!("{}", similar::TextDiff::from_lines(before, &last).unified_diff()));
}

/// Waits until nothing of what was is looked at any more.
pub(crate) fn is_quiet(watcher: &Watcher) {
    let mut looks = 0;
    let quiet = wait_for(|| {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut looks, watcher.counter("looks")) == looks
    });
    quiet.expect("an end of all echoes");
}

/// Somebody who does the same every 100 ms, until dropped: also when the test fails.
pub(crate) struct Fighter(Child);

impl Fighter {
    pub(crate) fn start(command: &str) -> Self {
        let script = format!("while :; do {command}; sleep 0.1; done");
        Self(Command::new("sh").args(["-c", &script]).spawn().expect("sh is there"))
    }
}

impl Drop for Fighter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
