//! Whoever locks themselves out with `--confirm` gets back in: bad configurations that take away the address or the route
//! that the host is managed by, or its port, with netrec killed in the middle, or the whole session, or neither.
//!
//! A tenth of them in the suite; all hundred by `NETREC_LOCKOUT=100 cargo test --test lockout -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may end at once and speak for itself")]

mod world;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");

/// How long a confirmation is waited for.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long the way back may take after that.
const GRACE: Duration = Duration::from_secs(5);

/// How long is waited for the way back: far longer than it may take, so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_mins(1);

/// Cases at a time.
const PARALLEL: usize = 8;

/// What happens to netrec while it applies.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It ends by itself.
    Lives,
    /// `kill -9` after so many milliseconds.
    Killed(u64),
    /// `kill -STOP` after so many milliseconds: it neither ends nor goes on.
    Stopped(u64),
    /// Its session is hung up, then killed, after so many milliseconds.
    HungUp(u64),
}

/// The case of a number: what is applied, and what happens meanwhile.
fn fate(case: usize) -> Fate {
    let delay = (case as u64 * 7) % 90;
    match case % 10 {
        0 | 3 | 6 => Fate::Killed(delay),
        8 => Fate::Stopped(delay),
        9 => Fate::HungUp(delay),
        _ => Fate::Lives,
    }
}

/// The good state: the operator comes from afar over `up0`, and from a container of the management network.
const GOOD: &str = r#"topology = "t"

[networks.mgmt]
driver = "bridge"
subnets = ["10.10.0.0/24", "fd10::/64"]
bridge.name = "br-mgmt"
host_access = true

[containers.near]
netns = "near"

[endpoints.near]
container = "near"
network = "mgmt"
"#;

/// From where, to which address.
const FAR: (&str, &str) = ("far", "198.51.100.1:22");
const NEAR: (&str, &str) = ("near", "10.10.0.1:22");
const NEAR6: (&str, &str) = ("near", "[fd10::1]:22");

/// A configuration that cuts an operator off, and which.
fn bad(case: usize) -> (String, (&'static str, &'static str)) {
    let network = |subnet: &str| format!("{GOOD}\n[networks.bad]\ndriver = \"bridge\"\nsubnets = [\"{subnet}\"]\n");
    let changed = |from: &str, to: &str| GOOD.replace(from, to);
    match case % 11 {
        // The route to the operator is taken, by narrow subnets and wide ones. (Their port cannot be: somebody listens there.)
        0 => (network(if case.is_multiple_of(2) { "192.0.2.0/24" } else { "192.0.2.8/29" }), FAR),
        1 => (network("192.0.0.0/16"), FAR),
        2 => (network("192.0.0.0/9"), FAR),
        3 => (network("192.0.2.8/30"), FAR),
        4 => (network("192.0.2.0/26"), FAR),
        5 => (network("192.0.2.0/25"), FAR),
        // The address is taken away.
        6 => (changed("10.10.0.0/24", "10.20.0.0/24"), NEAR),
        7 => (changed("fd10::/64", "fd20::/64"), NEAR6),
        8 => (
            changed("host_access = true", &format!("gateways = [\"10.10.0.{}\"]\nhost_access = true", 100 + case)),
            NEAR,
        ),
        // Everything is dropped.
        9 => (changed("host_access = true", ""), NEAR),
        _ => ("topology = \"t\"\n\n[networks.other]\ndriver = \"bridge\"\nsubnets = [\"10.30.0.0/24\"]\n".into(), NEAR),
    }
}

#[test]
fn whoever_locks_themselves_out_gets_back_in() {
    let full = world::full_size("NETREC_LOCKOUT");
    let cases: Vec<usize> = (0..full.map_or(11, |count| count as usize)).collect();
    let mut longest = Duration::ZERO;
    for chunk in cases.chunks(PARALLEL) {
        let taken = std::thread::scope(|scope| {
            let running: Vec<_> = chunk.iter().map(|case| scope.spawn(|| locked_out(*case))).collect();
            running
                .into_iter()
                .map(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .max()
                .unwrap_or_default()
        });
        longest = longest.max(taken);
    }
    let what = format!("{} lock-outs, all back, with {} s to confirm", cases.len(), TIMEOUT.as_secs());
    world::within(TIMEOUT + GRACE, longest, &what, full.is_some());
}

/// How long an operator was cut off, if they were.
fn locked_out(case: usize) -> Duration {
    let mut taken = Duration::ZERO;
    world::run(|| taken = in_world(case));
    taken
}

fn in_world(case: usize) -> Duration {
    world::sh(
        "ip netns add far; ip -n far link set lo up
         ip link add up0 type veth peer name up0 netns far
         ip address add 198.51.100.1/24 dev up0; ip link set up0 up
         ip -n far address add 198.51.100.254/24 dev up0; ip -n far link set up0 up
         ip -n far address add 192.0.2.9/32 dev lo
         ip route add default via 198.51.100.254
         ip -n far route add 198.51.100.1/32 dev up0 src 192.0.2.9",
    );
    let listener = TcpListener::bind("[::]:22").unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(|mut it| drop(it.write_all(b"here"))));
    fs::write("/run/good.toml", GOOD).unwrap();
    let (content, operator) = bad(case);
    fs::write("/run/bad.toml", &content).unwrap();
    ended(&netrec(&["apply", "/run/good.toml"]).output().unwrap(), 0);
    let before = shown();
    for (netns, to) in [FAR, NEAR, NEAR6] {
        assert!(within(PATIENCE, || reaches(netns, to)), "{to} is not reached from {netns} to begin with");
    }

    let start = Instant::now();
    apply_badly(case, operator);
    let what = || format!("case {case}, {:?}\n{content}", fate(case));
    assert!(within(PATIENCE, || reaches(operator.0, operator.1)), "locked out for ever: {}", what());
    let taken = start.elapsed();
    // Reached does not mean that all is done.
    assert!(within(PATIENCE, || guards() == 0), "a guard is left: {}", what());
    assert_eq!(before, shown(), "not as it was: {}", what());
    for (netns, to) in [FAR, NEAR, NEAR6] {
        assert!(within(PATIENCE, || reaches(netns, to)), "{to} is not reached from {netns}: {}", what());
    }
    ended(&netrec(&["plan", "--exit-code", "/run/good.toml"]).output().unwrap(), 0);
    taken
}

/// Applies, and does to netrec what its fate is. One that lives must have cut the operator off, or nothing was shown.
fn apply_badly(case: usize, (netns, to): (&'static str, &'static str)) {
    let confirm = format!("{}s", TIMEOUT.as_secs());
    let arguments = ["apply", "/run/bad.toml", "--yes", "--allow-deletes", "all", "--confirm", &confirm];
    match fate(case) {
        Fate::Lives => {
            ended(&netrec(&arguments).output().unwrap(), 0);
            assert!(!reaches(netns, to), "case {case} is not bad: {to} is reached from {netns}");
        }
        Fate::Killed(delay) => {
            let mut child = netrec(&arguments).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(delay));
            // It may have ended by itself.
            let _ = kill(pid(&child), Signal::SIGKILL);
            child.wait().unwrap();
        }
        Fate::Stopped(delay) => {
            let mut child = netrec(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(delay));
            let _ = kill(pid(&child), Signal::SIGSTOP);
            // Its guard ends it, if it came that far.
            within(PATIENCE, || guards() == 0);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        Fate::HungUp(delay) => {
            let line = format!("{NETREC} {} & wait; sleep 1000", arguments.join(" "));
            let mut command = Command::new("setsid");
            command.args(["--wait", "sh", "-c", &line]).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
            let mut session = command.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(delay + 5));
            // setsid(1) waits: the leader of the session, and of its only group, is its child.
            let leaders = children(&session);
            assert_eq!(leaders.len(), 1, "no session was made");
            for leader in leaders {
                let _ = killpg(leader, Signal::SIGHUP);
                let _ = killpg(leader, Signal::SIGKILL);
            }
            session.wait().unwrap();
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn children(of: &Child) -> Vec<Pid> {
    let id = of.id();
    let list = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

fn netrec(arguments: &[&str]) -> Command {
    let mut command = Command::new(NETREC);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The session that this test is run in is not of this world.
    command.env_remove("SSH_CONNECTION");
    command
}

fn ended(output: &Output, code: i32) {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(code), "{}{}", said(&output.stdout), said(&output.stderr));
}

fn shown() -> String {
    let output = netrec(&["show", "/run/good.toml"]).output().unwrap();
    ended(&output, 0);
    String::from_utf8(output.stdout).unwrap() + &world::sh("cat /proc/sys/net/ipv4/ip_forward")
}

/// Guards of this world: they are found by their sockets.
fn guards() -> usize {
    fs::read_dir("/run/netrec").into_iter().flatten().count()
}

fn within(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// Whether the host answers from a namespace. Where that is gone, or has no way, it does not.
fn reaches(netns: &str, to: &str) -> bool {
    let (path, to) = (format!("/run/netns/{netns}"), to.parse::<SocketAddr>().unwrap());
    let ask = move || {
        let mut said = [0; 4];
        let entered = fs::File::open(path).is_ok_and(|file| setns(file, CloneFlags::CLONE_NEWNET).is_ok());
        let mut stream =
            if entered { TcpStream::connect_timeout(&to, Duration::from_millis(400)).ok()? } else { None? };
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.read_exact(&mut said).ok()?;
        (&said == b"here").then_some(())
    };
    std::thread::spawn(ask).join().unwrap().is_some()
}
