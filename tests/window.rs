//! There is no window: probes on forbidden ways, a thousand a second on each, while all that netrec does happens around
//! them. None arrives while our table stands, and what arrives while it does not is within the time that it was gone.
//!
//! `NETREC_WINDOW=600 cargo test --test window -- --nocapture` probes for that many seconds a test; by default each kind of
//! event happens once or twice.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may end at once, and what is counted is for people"
)]

mod lab;
mod watched;

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::{in_private_namespaces, inside, run, world};
use watched::{NETREC, Watcher, wait_for};

const FILE: &str = "/run/w.toml";

/// Two networks, `lone` whose endpoints must not meet, and a guest who must not write to its neighbour. The containers are
/// there before and after, so that probes are sent without a break.
const PLAIN: &str = r#"
topology = "w"
allow_deletes = 1000
[networks.left]
driver = "bridge"
subnets = ["10.1.0.0/24", "fd01::/64"]
bridge.name = "br-left"
[networks.right]
driver = "bridge"
subnets = ["10.2.0.0/24", "fd02::/64"]
bridge.name = "br-right"
[networks.lone]
driver = "bridge"
subnets = ["10.3.0.0/24", "fd03::/64"]
bridge.name = "br-lone"
icc = false
[endpoints.left]
container = "left"
network = "left"
addresses = ["10.1.0.10", "fd01::10"]
publish = ["8080:80"]
[endpoints.guest]
container = "guest"
network = "left"
[endpoints.right]
container = "right"
network = "right"
addresses = ["10.2.0.10", "fd02::10"]
[endpoints.lone]
container = "lone"
network = "lone"
[endpoints.other]
container = "other"
network = "lone"
[[policies]]
action = "deny"
from = { endpoint = "guest" }
to = { endpoint = "left" }
"#;

const CONTAINERS: [&str; 5] = ["left", "guest", "right", "lone", "other"];

/// Who sends to whom: what is isolated by routing, by a policy within a bridge, and by the bridge itself. There it is sent
/// to all, so that nobody has to be asked for a hardware address first, which is forbidden, too.
const WAYS: [(&str, &str, &str); 8] = [
    ("left", "right", "10.2.0.10"),
    ("left", "right", "fd02::10"),
    ("right", "left", "10.1.0.10"),
    ("right", "left", "fd01::10"),
    ("guest", "left", "10.1.0.10"),
    ("guest", "left", "fd01::10"),
    ("lone", "other", "10.3.0.255"),
    ("lone", "other", "ff02::1"),
];

/// The same at both ends: to conntrack what is sent back is an answer.
const PORT: u16 = 4242;

const EVERY: Duration = Duration::from_millis(1);

/// A probe that arrived.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    way: usize,
    number: u32,
    sent: Duration,
    heard: Duration,
}

/// Whoever sends and listens, until dropped.
struct Probes {
    start: Instant,
    ended: Arc<AtomicBool>,
    sent: Arc<[AtomicU64; WAYS.len()]>,
    heard: Arc<Mutex<Vec<Arrival>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Probes {
    /// Makes the containers and begins.
    fn start() -> Self {
        let mut probes = Self {
            start: Instant::now(),
            ended: Arc::default(),
            sent: Arc::default(),
            heard: Arc::default(),
            threads: Vec::new(),
        };
        for netns in CONTAINERS {
            run(&format!("ip netns add {netns}; ip -n {netns} link set lo up"));
            let (start, ended) = (probes.start, probes.ended.clone());
            let (sent, heard) = (probes.sent.clone(), probes.heard.clone());
            // Threads that are begun inside are inside.
            let threads = inside(netns, move || {
                let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap();
                socket.set_broadcast(true).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                let (listening, ears_ended) = (socket.try_clone().unwrap(), ended.clone());
                [
                    std::thread::spawn(move || listen(netns, &listening, start, &ears_ended, &heard)),
                    std::thread::spawn(move || send(netns, &socket, start, &ended, &*sent)),
                ]
            });
            probes.threads.extend(threads);
        }
        probes
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn heard(&self) -> Vec<Arrival> {
        self.heard.lock().unwrap().clone()
    }

    /// Says what arrived of how many, and fails if that is something at another time than these.
    #[track_caller]
    fn only_within(&self, times: &[(Duration, Duration)], around: &str) {
        let outside = |it: &Arrival| !times.iter().any(|(from, to)| it.sent <= *to && it.heard >= *from);
        let wrong: Vec<Arrival> = self.heard().into_iter().filter(outside).collect();
        if let Some(first) = wrong.first() {
            let (from, to, at) = WAYS[first.way];
            let Arrival { number, sent, heard, .. } = first;
            let first = format!("number {number} from {from} to {to} ({at}), sent at {sent:?} and heard at {heard:?}");
            panic!("{around}: {} probes passed, at first {first}", wrong.len());
        }
    }

    fn told(&self) -> String {
        let heard = self.heard();
        WAYS.iter().enumerate().fold(String::new(), |mut text, (way, (from, to, at))| {
            let arrived = heard.iter().filter(|it| it.way == way).count();
            let sent = self.sent[way].load(Relaxed);
            let _ = writeln!(text, "{from} to {to} ({at}): {sent} sent in {:?}, {arrived} arrived", self.now());
            text
        })
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send(netns: &str, socket: &UdpSocket, start: Instant, ended: &AtomicBool, sent: &[AtomicU64]) {
    let ways = WAYS.iter().enumerate().filter(|(_, (from, ..))| *from == netns);
    let ways: Vec<(usize, Ipv6Addr)> = ways
        .map(|(way, (.., at))| match at.parse().unwrap() {
            IpAddr::V4(at) => (way, at.to_ipv6_mapped()),
            IpAddr::V6(at) => (way, at),
        })
        .collect();
    let begin = Instant::now();
    for number in 0_u32.. {
        if ended.load(Relaxed) || ways.is_empty() {
            return;
        }
        for (way, at) in &ways {
            // Another one whenever the endpoint was made anew.
            let scope = if at.is_multicast() { nix::net::if_::if_nametoindex("eth0").unwrap_or_default() } else { 0 };
            let mut probe = vec![*way as u8];
            probe.extend(number.to_ne_bytes());
            probe.extend((start.elapsed().as_nanos() as u64).to_ne_bytes());
            // There is no interface and no route for some time.
            if socket.send_to(&probe, SocketAddrV6::new(*at, PORT, 0, scope)).is_ok() {
                sent[*way].fetch_add(1, Relaxed);
            }
        }
        std::thread::sleep((EVERY * (number + 1)).saturating_sub(begin.elapsed()));
    }
}

fn listen(netns: &str, socket: &UdpSocket, start: Instant, ended: &AtomicBool, heard: &Mutex<Vec<Arrival>>) {
    let mut probe = [0; 13];
    while !ended.load(Relaxed) {
        let Ok(13) = socket.recv(&mut probe) else { continue };
        let (way, number) = (usize::from(probe[0]), u32::from_ne_bytes(*probe[1..].first_chunk().unwrap()));
        let sent = Duration::from_nanos(u64::from_ne_bytes(*probe[5..].first_chunk().unwrap()));
        // What is sent to all comes back to who sent it.
        if WAYS[way].1 == netns {
            heard.lock().unwrap().push(Arrival { way, number, sent, heard: start.elapsed() });
        }
    }
}

/// Whether the time of the full size is not up yet.
fn goes_on(probes: &Probes) -> bool {
    let seconds = std::env::var("NETREC_WINDOW").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    probes.now() < Duration::from_secs(seconds)
}

fn write(text: &str) {
    let mut text = text.to_owned();
    for name in CONTAINERS {
        let _ = write!(text, "[containers.{name}]\nnetns = \"{name}\"\ncreate = false\n");
    }
    fs::write(FILE, text).unwrap();
}

fn netrec(command: &str) -> Command {
    let mut netrec = Command::new(NETREC);
    netrec.args([command, "--yes", FILE]).stdin(Stdio::null());
    netrec
}

#[track_caller]
fn must(command: &str) {
    let output = netrec(command).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
}

/// Topologies that are applied one after the other.
fn edited() -> [(&'static str, String); 7] {
    let of = |table: &str, more: &str| PLAIN.replace(&format!("[{table}]\n"), &format!("[{table}]\n{more}\n"));
    let more = PLAIN.to_owned();
    [
        ("nothing more", PLAIN.to_owned()),
        ("ports", PLAIN.replace("\"8080:80\"", "\"8081:80\", \"8082:80/udp\", \"9000-9010:9000-9010/udp\"")),
        (
            "policies",
            more.clone()
                + "[[policies]]\naction = \"allow\"\nfrom = { network = \"right\" }\nto = { endpoint = \"lone\" }\nports = [\"80\"]\n\
                   [[policies]]\naction = \"deny\"\nfrom = { endpoint = \"left\" }\nto = { endpoint = \"guest\" }\nports = [\"80\"]\n",
        ),
        (
            "a network and its endpoints",
            more + "[networks.more]\ndriver = \"bridge\"\nsubnets = [\"10.4.0.0/24\", \"fd04::/64\"]\n[containers.more]\nnetns = \"more\"\n\
                    [endpoints.more]\ncontainer = \"more\"\nnetwork = \"more\"\n[endpoints.besides]\ncontainer = \"more\"\nnetwork = \"left\"\n",
        ),
        ("internal", of("networks.right", "internal = true")),
        ("routed", of("networks.left", "masquerade = false")),
        ("the host's services", of("networks.lone", "host_access = true")),
    ]
}

/// What others do, and netrec puts right. None of it opens a way by itself.
const BROKEN: [&str; 6] = [
    "nft delete element inet netrec-w publish4 '{ tcp . 8080 }'",
    "nft insert rule inet netrec-w between counter; nft insert rule bridge netrec-w forward counter",
    "last=$(nft -a list chain inet netrec-w leave | grep -o 'handle [0-9]*' | tail -1)
     nft replace rule inet netrec-w leave $last counter",
    "ip -n other link delete eth0; ip -n right link delete eth0",
    "ip link delete br-lone; ip link delete br-left",
    "ip link set br-right down; ip -n guest link set eth0 down",
];

#[test]
fn nothing_passes_while_the_table_stands() {
    in_private_namespaces(|| {
        let (probes, edited) = (Probes::start(), edited());
        let (mut applies, mut kills) = (0, 0);
        while applies == 0 || goes_on(&probes) {
            for (what, text) in &edited {
                write(text);
                // A little later in each.
                let mut killed = netrec("apply").stdout(Stdio::null()).spawn().unwrap();
                std::thread::sleep(EVERY * (kills * 3 % 50));
                killed.kill().unwrap();
                killed.wait().unwrap();
                kills += 1;
                must("apply");
                applies += 1;
                probes.only_within(&[], what);
            }
            write(PLAIN);
            must("apply");
            for script in BROKEN {
                run(script);
                must("apply");
                applies += 1;
                probes.only_within(&[], script);
            }
            must("destroy");
            must("apply");
            probes.only_within(&[], "all of it removed, and made again");
        }
        eprintln!("{applies} applies, {kills} of which were killed at first:\n{}", probes.told());
        // They would arrive.
        run("nft delete table inet netrec-w; nft delete table bridge netrec-w
            ip -br link show master br-lone | sed 's/[@ ].*//' | while read port; do bridge link set dev $port isolated off; done");
        let all = || (0..WAYS.len()).all(|way| probes.heard().iter().any(|it| it.way == way));
        wait_for(all).unwrap_or_else(|| panic!("{}", probes.told()));
    });
}

#[test]
fn what_passes_without_the_table_does_so_only_then() {
    in_private_namespaces(|| {
        let probes = Probes::start();
        write(PLAIN);
        let watcher = Watcher::start(FILE, "w", &["--look-every", "1h"]);
        watcher.until(|standing| standing["state"] == "in_sync");
        let mut gone = Vec::new();
        while gone.len() < 6 || goes_on(&probes) {
            // A quarrel is over when somebody changes the file.
            let accepted = watcher.counter("accepted");
            write(&format!("{PLAIN}# {}\n", gone.len()));
            watcher.until(|standing| standing["counters"]["accepted"].as_u64() > Some(accepted));
            let ways = ["nft flush ruleset", "nft 'delete table inet netrec-w; delete table bridge netrec-w'"];
            let since = probes.now();
            run(ways[gone.len() % 2]);
            watcher.until(|standing| standing["unguarded"]["times"].as_u64() > Some(gone.len() as u64));
            gone.push((since, probes.now()));
            // As long as it takes to see a flow that goes on.
            std::thread::sleep(EVERY * 100);
            probes.only_within(&gone, "the firewall was gone");
        }
        let told = run(&format!("{NETREC} status {FILE}"));
        eprintln!("{}{told}", probes.told());
        let line = told.lines().find(|line| line.starts_with("without the firewall: ")).unwrap();
        assert!(line.starts_with(&format!("without the firewall: {} times, ", gone.len())), "{told}");
        watcher.end();
    });
}
