//! netrec is ended, or refused, at each call by which it changes anything: the next run does what is left, nothing stays
//! behind, and others' things are byte for byte what they were.
//!
//! `NETREC_CRASH_EVERY=1 cargo test --test crash` is the full size; by default every ninth call is taken.

#![cfg(target_arch = "x86_64")] // whose registers `crash/interrupt.c` knows
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod lab;
#[path = "../benches/workload/mod.rs"]
mod workload;

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::Duration;

use lab::world::without_forgotten;
use lab::{PATIENCE, SILENCE, attempt, in_private_namespaces, inside, run};
use nix::errno::Errno;
use nix::libc::SIGKILL;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;

/// Two networks, ten containers with an endpoint on each, ports.
fn before() -> String {
    let mut text = String::from("topology = \"crash\"\n");
    for (network, range) in [("front", 1), ("back", 2)] {
        let _ = writeln!(
            text,
            "[networks.{network}]\ndriver = \"bridge\"\nsubnets = [\"10.{range}.0.0/24\", \"fd0{range}::/64\"]"
        );
    }
    for at in 0..10 {
        let _ = writeln!(text, "[containers.c{at}]\nnetns = \"c{at}\"");
        let _ = writeln!(
            text,
            "[endpoints.f{at}]\ncontainer = \"c{at}\"\nnetwork = \"front\"\npublish = [\"80{at}0:80\", \"80{at}0:80/udp\"]"
        );
        let _ = writeln!(text, "[endpoints.b{at}]\ncontainer = \"c{at}\"\nnetwork = \"back\"");
    }
    text
}

/// The same with another MTU and subnet, a container more and one less, a port moved, an endpoint moved.
fn after() -> String {
    let text = before()
        .replace("[networks.back]\n", "[networks.back]\nmtu = 1400\ninternal = true\n")
        .replace("10.1.0.0", "10.3.0.0");
    let text = text.replace("netns = \"c3\"", "netns = \"d3\"").replace("8050:80", "8250:81");
    text.replace("[endpoints.b7]\ncontainer = \"c7\"", "[endpoints.b7]\ncontainer = \"c8\"")
}

/// What runs netrec, and counts and interrupts its calls.
static INTERRUPT: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("interrupt");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crash/interrupt.c");
    let compiler = Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(source).output();
    let compiler = compiler.expect("these tests need cc");
    assert!(compiler.status.success(), "{}", String::from_utf8_lossy(&compiler.stderr));
    program
});

/// What becomes of the call.
#[derive(Clone, Copy)]
enum Fate {
    /// The process is ended right after it.
    Killed,
    /// It fails.
    Fails(Errno),
}

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");

fn netrec(line: &str) -> Command {
    let mut command = Command::new(NETREC);
    command.args(line.split(' ')).stdin(std::process::Stdio::null());
    command
}

/// The same, run by what counts its calls.
fn watched(line: &str) -> Command {
    let mut command = Command::new(&*INTERRUPT);
    command.arg(NETREC).args(line.split(' ')).stdin(std::process::Stdio::null());
    command
}

fn must(line: &str) {
    let output = netrec(line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", said(&output));
}

/// Of how many calls one is taken.
fn every() -> u64 {
    std::env::var("NETREC_CRASH_EVERY").map_or(9, |value| value.parse().expect("a number"))
}

/// The calls of a run that goes on to its end.
fn counted(line: &str) -> u64 {
    let output = watched(line).env("NETREC_COUNT", "/run/count").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    fs::read_to_string("/run/count").unwrap().trim().parse().unwrap()
}

/// A run that is interrupted at a call.
fn interrupted(line: &str, call: u64, fate: Fate) -> Output {
    let mut command = watched(line);
    command.env("NETREC_CALL", call.to_string()).env("NETREC_COUNT", "/run/count");
    if let Fate::Fails(errno) = fate {
        command.env("NETREC_ERRNO", (errno as i32).to_string());
    }
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    let (told, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{} {told}{complaints}", output.status)
}

/// A run that is interrupted.
#[derive(Clone, Copy)]
struct Interrupted {
    /// Applied before it.
    start: Option<&'static str>,
    /// The run itself, and what is to hold after it was taken up again.
    line: &'static str,
}

const BUILD: Interrupted = Interrupted { start: None, line: "apply --yes /run/a.toml" };
const EDIT: Interrupted = Interrupted { start: Some("apply --yes /run/a.toml"), line: "apply --yes /run/b.toml" };
const DESTROY: Interrupted = Interrupted { start: Some("apply --yes /run/a.toml"), line: "destroy --yes /run/a.toml" };

impl Interrupted {
    /// At every nth call, as the environment says.
    fn at_each_call(self, fate: Fate) {
        // In one world, so that without root there is one way into it.
        in_private_namespaces(move || self.at_each_call_inside(fate));
    }

    fn at_each_call_inside(self, fate: Fate) {
        let calls = self.calls();
        assert!(calls > 40, "only {calls} calls were seen");
        for call in (1..=calls).step_by(every() as usize) {
            in_private_namespaces(move || self.at(call, fate));
        }
    }

    fn calls(self) -> u64 {
        let calls = std::sync::Mutex::new(0);
        in_private_namespaces(|| {
            self.prepare();
            *calls.lock().unwrap() = counted(self.line);
        });
        calls.into_inner().unwrap()
    }

    fn prepare(self) {
        plant();
        fs::write("/run/a.toml", before()).unwrap();
        fs::write("/run/b.toml", after()).unwrap();
        self.start.into_iter().for_each(must);
    }

    fn at(self, call: u64, fate: Fate) {
        self.prepare();
        let planted = foreign();
        let output = interrupted(self.line, call, fate);
        let shown = || format!("call {call} of {}: {}", self.line, said(&output));
        match fate {
            // How often it is asked whether links are gone differs from run to run: one may end with fewer calls.
            Fate::Killed if fs::exists("/run/count").unwrap() => {
                let calls: u64 = fs::read_to_string("/run/count").unwrap().trim().parse().unwrap();
                assert!(output.status.success() && calls < call, "{calls} calls, {}", shown());
            }
            Fate::Killed => assert_eq!(output.status.signal(), Some(SIGKILL), "{}", shown()),
            Fate::Fails(_) => {
                let code = output.status.code();
                assert!(code.is_some_and(|code| code <= 11) && !shown().contains("panicked"), "{}", shown());
                // Success is said only of what is so.
                if code == Some(0) {
                    assert!(self.is_done(), "{}", shown());
                }
            }
        }
        assert_eq!(foreign(), planted, "{}", shown());
        let next = netrec(self.line).output().unwrap();
        assert!(next.status.success() && self.is_done(), "{}\nthen {}", shown(), said(&next));
        let bare = run("find /run/netns -type f -size +0");
        assert_eq!(bare, "", "{}", shown());
        must("destroy --yes /run/b.toml");
        assert_eq!(foreign(), planted, "{}", shown());
        // The table for rules of users is theirs from its making on, and so the only thing that stays: whole.
        assert_eq!(run("nft list table inet netrec-user").matches("policy accept").count(), 4, "{}", shown());
        run("nft delete table inet netrec-user");
        assert_eq!(everything(), fs::read_to_string("/run/nothing").unwrap(), "{}", shown());
    }

    /// Whether there is nothing left to do; nor is a bridge left that does not snoop, which no plan would mend.
    fn is_done(self) -> bool {
        let file = if self.line.contains("/run/b") { "/run/b.toml" } else { "/run/a.toml" };
        let destroys = if self.line.starts_with("destroy") { "--destroy " } else { "" };
        let planned = netrec(&format!("plan --exit-code {destroys}{file}")).output().unwrap().status.success();
        planned && !run("ip -d link show type bridge").contains("mcast_snooping 0")
    }
}

/// Others' things that look much like ours.
fn plant() {
    run("ip netns add netrec-foreign
        ip link add nr-foreign00 type bridge
        ip link add nr-foreign01 group 1845493760 type bridge
        ip link set nr-foreign01 alias netrec:somebody:host/bridge/nr-foreign01:00000000
        ip address add 192.0.2.1/32 dev lo
        ip address add 198.51.100.1/24 dev nr-foreign00
        ip rule add from 192.0.2.1 lookup 100 priority 30078 protocol 78
        nft add table inet netrec2
        nft 'add chain inet netrec2 forward { type filter hook forward priority 0; policy accept; }'
        nft add rule inet netrec2 forward counter accept");
    fs::write("/run/nothing", everything()).unwrap();
}

fn foreign() -> String {
    run("ip -d link show dev nr-foreign00; ip -d link show dev nr-foreign01; ip address show dev nr-foreign00
        ip address show dev lo; ip rule show from 192.0.2.1; ls /run/netns/netrec-foreign
        ip -n netrec-foreign -d link; nft -s list table inet netrec2")
}

/// All there is on the host, and the names of namespaces.
fn everything() -> String {
    run("ip -d link; ip address; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule
        nft -s list ruleset; ls -l /run/netns | sed 's/.* //'; ls /run | grep -v '[.]toml$\\|nothing\\|count\\|^netrec$'")
}

#[test]
fn killed_while_building() {
    BUILD.at_each_call(Fate::Killed);
}

/// More containers than are made at a time: those of the first wave are whole, and the rest is yet to come.
#[test]
fn killed_between_waves() {
    in_private_namespaces(|| {
        fs::write("/run/many.toml", workload::topology(510)).unwrap();
        let mut command = watched("apply --yes /run/many.toml");
        let interrupted = [("NETREC_ONLY", "unshare"), ("NETREC_CALL", "505")];
        let output = command.envs(interrupted).output().unwrap();
        assert_eq!(output.status.signal(), Some(SIGKILL), "{}", said(&output));
        assert_eq!(run("ip -o link show type veth | wc -l").trim(), "500");
        must("apply --yes /run/many.toml");
        must("plan --exit-code /run/many.toml");
        must("destroy --yes /run/many.toml");
        assert_eq!(run("ls /run/netns; ip -o link show type veth; ip -o link show type bridge"), "");
    });
}

#[test]
fn killed_while_editing() {
    EDIT.at_each_call(Fate::Killed);
}

#[test]
fn killed_while_destroying() {
    DESTROY.at_each_call(Fate::Killed);
}

#[test]
fn calls_fail_while_building() {
    for errno in [Errno::ENOBUFS, Errno::EINTR, Errno::EPERM] {
        BUILD.at_each_call(Fate::Fails(errno));
    }
}

#[test]
fn calls_fail_while_editing_and_destroying() {
    EDIT.at_each_call(Fate::Fails(Errno::ENOBUFS));
    DESTROY.at_each_call(Fate::Fails(Errno::EPERM));
}

/// A published port for few, and policies that forbid on the way out and within a bridge: what elements of intervals close,
/// which Linux fills in when the rules are already in force.
const CLOSED: &str = r#"
topology = "crash"
[networks.front]
driver = "bridge"
subnets = ["10.1.0.0/24"]
[containers]
web.netns = "web"
api.netns = "api"
db.netns = "db"
[endpoints.web]
container = "web"
network = "front"
addresses = ["10.1.0.10"]
publish = ["8000:80"]
[[endpoints.web.published]]
publish = "8888:80"
allow_from = ["203.0.113.128/25"]
[endpoints.api]
container = "api"
network = "front"
addresses = ["10.1.0.11"]
[endpoints.db]
container = "db"
network = "front"
addresses = ["10.1.0.12"]
[[policies]]
action = "deny"
from = { endpoint = "web" }
to = { endpoint = "db" }
[[policies]]
action = "deny"
from = { network = "front" }
to = { cidr = "203.0.113.0/25" }
"#;

/// Whether a packet gets from a namespace to a port, where nobody listens and so it is refused.
fn gets(netns: &str, from: &str, to: &str, patience: Duration) -> bool {
    let [from, to] = [&format!("{from}:0"), to].map(|address| address.parse::<SocketAddr>().unwrap());
    inside(netns, move || {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
        setsockopt(&socket, SendTimeout, &TimeVal::milliseconds(patience.as_millis() as i64)).unwrap();
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) == Err(Errno::ECONNREFUSED)
    })
}

/// Nobody gets where it is forbidden; and if all is well, everybody where it is not.
fn judged(well: bool, shown: &str) {
    let ways = [
        ("web", "0.0.0.0", "203.0.113.2:80", "203.0.113.130:80"),
        ("web", "0.0.0.0", "10.1.0.12:80", "10.1.0.11:80"),
        ("lan", "203.0.113.2", "203.0.113.1:8888", "203.0.113.1:8000"),
        ("lan", "203.0.113.130", "10.1.0.10:80", "203.0.113.1:8888"),
    ];
    std::thread::scope(|scope| {
        for (netns, from, forbidden, permitted) in ways {
            scope.spawn(move || {
                assert!(!gets(netns, from, forbidden, SILENCE), "{forbidden} is open to {netns} {from}: {shown}");
                assert!(
                    !well || gets(netns, from, permitted, PATIENCE),
                    "{permitted} is closed to {netns} {from}: {shown}"
                );
            });
        }
    });
}

/// Tables that somebody altered are mended again and again, in a run that is interrupted one call later each time. Between
/// its transactions a chain stands that lets nothing through, so that what is forbidden never passes; the next run opens it.
fn mended(fate: Fate) {
    in_private_namespaces(|| {
        run("ip netns add lan; ip link add up0 type veth peer name eth0 netns lan; ip link set up0 up
             ip -n lan link set eth0 up; ip address add 203.0.113.1/24 dev up0
             ip -n lan address add 203.0.113.2/24 dev eth0; ip -n lan address add 203.0.113.130/24 dev eth0
             ip -n lan route add 10.1.0.0/24 via 203.0.113.1");
        fs::write("/run/a.toml", CLOSED).unwrap();
        let line = "apply --yes /run/a.toml";
        must(line);
        let tables =
            || without_forgotten(&run("for f in inet bridge; do nft -s list table $f netrec-crash || true; done"));
        let intact = tables();
        let alter = || {
            run(
                "rule=$(nft -a list chain inet netrec-crash to_host | sed -n 's/.*icmp type echo-request accept # handle //p')
                 nft replace rule inet netrec-crash to_host handle $rule icmp type echo-request counter drop",
            )
        };
        alter();
        let calls = counted(line);
        // Up to which call nothing is written, and every call around that one.
        let numbers: Vec<u64> = (1..=calls).collect();
        let writes = numbers.partition_point(|call| {
            alter();
            let altered = tables();
            interrupted(line, *call, Fate::Killed);
            let same = tables() == altered;
            must(line);
            same
        }) as u64;
        let mut shut = 0;
        for call in (1..=calls).filter(|call| call.abs_diff(writes) < 6 || call % every() == 0) {
            alter();
            let output = interrupted(line, call, fate);
            let shown = format!("call {call} of {calls}: {}", said(&output));
            let stands = |family| attempt(&format!("nft list chain {family} netrec-crash shut")).status.success();
            shut += usize::from(stands("inet") && stands("bridge"));
            judged(false, &shown);
            must(line);
            assert_eq!(tables(), intact, "{shown}");
            judged(true, &shown);
        }
        // What is refused is tried again in the same run.
        assert!(shut > 0 || matches!(fate, Fate::Fails(_)), "none of {calls} calls was behind a shut door");
    });
}

#[test]
fn killed_while_altered_tables_are_mended() {
    mended(Fate::Killed);
}

#[test]
fn calls_fail_while_altered_tables_are_mended() {
    mended(Fate::Fails(Errno::ENOBUFS));
}
