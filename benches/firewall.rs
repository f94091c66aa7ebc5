//! What rules cost packets: `cargo bench --bench firewall`, as root, in namespaces of its own.
//!
//! Connections and packets a second through a published port beside none, 99 and 9,999 others, against the layout with a
//! rule a port (as netavark writes them, moby likewise) in the same run; packets between two containers of one network; and
//! one port added to 20,000. Printed, not asserted; each number is the best of some rounds, as the machine does other things
//! as well.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may end at once and speaks for itself")]

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netrec::kernel::nft::Nft;
use netrec::model::kinds::firewall::{Firewall, NetworkRules, Publication};
use netrec::model::resource::{Kind, Op, Wire};
use netrec::model::values::{Ports, Protocol};
use netrec::model::wire::{Body, Facts, NetnsFacts, NftMessage, Owner};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, setsockopt, sockopt};

#[path = "../tests/lab/mod.rs"]
mod lab;

use lab::{inside, run, wire};

const SIZES: [u16; 3] = [1, 100, 10_000];
const FIRST: u16 = 20_000;
const ROUNDS: usize = 3;
const CONNECTIONS: u32 = 2_000;
const SECOND: Duration = Duration::from_secs(1);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 10);

fn main() {
    lab::in_private_namespaces(|| {
        // Frames within a bridge are to be seen by its rules only.
        run("for f in /proc/sys/net/bridge/bridge-nf-call-*; do test ! -e $f || echo 0 > $f; done");
        through();
        within();
        one_more();
    });
}

fn wall(ports: u16) -> Firewall {
    let network = NetworkRules::new("br-front", vec!["10.10.0.0/24".parse().unwrap()]);
    let published = |protocol| {
        move |port| Publication {
            listen: None,
            protocol,
            ports: Ports { first: port, last: port },
            target: CONTAINER.into(),
            first: 80,
            allow_from: None,
        }
    };
    let all = FIRST..FIRST + ports;
    let publications: Vec<Publication> =
        all.clone().map(published(Protocol::Tcp)).chain(all.map(published(Protocol::Udp))).collect();
    Firewall::new("bench", &[network], &publications)
}

/// The same ports with a rule for each.
fn rule_a_port(ports: u16) -> String {
    let mut text = String::from(
        "table ip peer {\n chain prerouting { type nat hook prerouting priority -100; fib daddr type local jump ports\n }
         chain postrouting { type nat hook postrouting priority 100; ip saddr 10.10.0.0/24 masquerade\n }
         chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept
         ip daddr 10.10.0.0/24 ct status dnat accept\n ip saddr 10.10.0.0/24 accept\n }\n chain ports {\n",
    );
    for port in FIRST..FIRST + ports {
        let _ = writeln!(text, "  tcp dport {port} dnat to {CONTAINER}:80\n  udp dport {port} dnat to {CONTAINER}:80");
    }
    text + " }\n}\n"
}

fn commit(batch: &[NftMessage]) {
    Nft::open().unwrap().commit(batch, None).unwrap();
}

/// All that a step says, one transaction after the other.
fn take(op: &Op<&Firewall>) {
    lab::take(op, None).unwrap();
}

/// What it says first: what is wanted, with notes of the flows to forget.
fn batch(op: &Op<&Firewall>) -> Vec<NftMessage> {
    let Body::Nft(batch) = lab::messages(op).remove(0).body else { unreachable!("nftables") };
    batch
}

/// Connections and packets a second through the last of the published ports.
fn through() {
    run("sysctl -qw net.ipv4.ip_forward=1");
    wire("client", "up0", "192.0.2.2/24");
    run("ip addr add 192.0.2.1/24 dev up0; ip link add br-front up type bridge; ip addr add 10.10.0.1/24 dev br-front");
    wire("box", "vbox", "10.10.0.10/24");
    run("ip link set vbox master br-front; ip -n box route add default via 10.10.0.1");
    let received = serve();
    println!("through the last of N published ports          connections/s          packets/s");
    let mut best = [[(0, 0); SIZES.len()]; 2];
    for _ in 0..ROUNDS {
        for (at, size) in SIZES.into_iter().enumerate() {
            take(&Op::Create(&wall(size)));
            measure(&mut best[0][at], FIRST + size - 1, &received);
            take(&Op::Delete(&wall(size)));
            lab::nft(&rule_a_port(size));
            measure(&mut best[1][at], FIRST + size - 1, &received);
            run("nft delete table ip peer");
        }
    }
    for (layout, best) in [("netrec: maps", best[0]), ("a rule a port", best[1])] {
        for (size, (connections, packets)) in SIZES.into_iter().zip(best) {
            let ratio = |now: u32, first: u32| f64::from(now) / f64::from(first);
            let (by_connection, by_packet) = (ratio(connections, best[0].0), ratio(packets, best[0].1));
            println!(
                "{layout:<16} N = {size:>6}  {connections:>21} (×{by_connection:.2})  {packets:>9} (×{by_packet:.2})"
            );
        }
    }
}

/// Accepts and counts in the container.
fn serve() -> Arc<AtomicU64> {
    let received = Arc::new(AtomicU64::new(0));
    let (listener, datagrams) =
        inside("box", || (TcpListener::bind("0.0.0.0:80").unwrap(), UdpSocket::bind("0.0.0.0:80").unwrap()));
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let counter = received.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while datagrams.recv(&mut buffer).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    received
}

fn measure(best: &mut (u32, u32), port: u16, received: &Arc<AtomicU64>) {
    let connections = inside("client", move || {
        let started = Instant::now();
        for _ in 0..CONNECTIONS {
            let flags = SockFlag::empty();
            let socket = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
            // Closed by a reset: nothing waits in TIME_WAIT.
            setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
            socket::connect(socket.as_raw_fd(), &SockaddrIn::new(192, 0, 2, 1, port)).unwrap();
        }
        (u128::from(CONNECTIONS) * SECOND.as_nanos() / started.elapsed().as_nanos()) as u32
    });
    let before = received.load(Ordering::Relaxed);
    inside("client", move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), port)).unwrap();
        let started = Instant::now();
        while started.elapsed() < SECOND {
            for _ in 0..64 {
                let _ = socket.send(b"netrec");
            }
        }
    });
    let packets = (received.load(Ordering::Relaxed) - before) as u32;
    *best = (best.0.max(connections), best.1.max(packets));
}

/// Packets a second that arrive at one container from another of the same network. Nobody there reads them: what is measured
/// is their way, and that of who sends.
fn within() {
    const TURNS: usize = 20;
    const WAYS: [(&str, &str); 4] = [
        ("no rules", ""),
        ("netrec", ""),
        ("netrec, a policy within another network", "from = { network = \"other\" }\nto = { network = \"other\" }"),
        ("netrec, a policy within the network", "from = { endpoint = \"idle\" }\nto = { endpoint = \"sink\" }"),
    ];
    let topology = |policy: &str| {
        let endpoints = ["sender", "sink", "idle"].into_iter().zip(11..).map(|(name, host)| {
            format!(
                "[containers.{name}]\nnetns = \"{name}\"\n[endpoints.{name}]\ncontainer = \"{name}\"\n\
                 network = \"one\"\naddresses = [\"10.20.0.{host}\"]\n"
            )
        });
        let policy =
            if policy.is_empty() { String::new() } else { format!("[[policies]]\naction = \"deny\"\n{policy}\n") };
        let network =
            |(name, net)| format!("[networks.{name}]\ndriver = \"bridge\"\nsubnets = [\"10.{net}.0.0/24\"]\n");
        let networks = [("one", 20), ("other", 21)].map(network).concat();
        format!("topology = \"within\"\n{networks}{}{policy}", endpoints.collect::<String>())
    };
    let mut best = [0; WAYS.len()];
    for _ in 0..TURNS {
        for (at, (name, policy)) in WAYS.into_iter().enumerate() {
            lab::apply(&topology(policy));
            if name == "no rules" {
                run("nft flush ruleset");
            }
            let _sink = inside("sink", || UdpSocket::bind("0.0.0.0:9").unwrap());
            let arrived = || inside("sink", received_by_eth0);
            let before = arrived();
            inside("sender", || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect("10.20.0.12:9").unwrap();
                let started = Instant::now();
                while started.elapsed() < SECOND / 4 {
                    for _ in 0..64 {
                        let _ = socket.send(b"netrec");
                    }
                }
            });
            best[at] = (4 * (arrived() - before)).max(best[at]);
        }
    }
    println!("\nbetween two containers of one network                packets/s");
    for ((name, _), packets) in WAYS.into_iter().zip(best) {
        println!("{name:<46} {packets:>15} (×{:.2})", f64::from(packets) / f64::from(best[0]));
    }
    run("nft flush ruleset");
}

/// Of the calling thread's namespace (`proc_pid_net(5)`, `dev`): the second number after the colon.
fn received_by_eth0() -> u32 {
    let links = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let (_, numbers) = links.split_once("eth0:").unwrap();
    numbers.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One port more beside 20,000: what is sent, and how long it takes beside a look at all of them.
fn one_more() {
    run("nft flush ruleset");
    let (from, to) = (wall(10_000), wall(10_001));
    let started = Instant::now();
    take(&Op::Create(&from));
    println!("\n20,000 published ports: made in {:?}", started.elapsed());
    let started = Instant::now();
    let mut nft = Nft::open().unwrap();
    let outline = nft.outline().unwrap();
    let tables = nft.tables(&outline, &Owner::new("bench")).unwrap();
    let namespaces = [("host".into(), NetnsFacts::default().into())].into();
    let found =
        Firewall::observe(&Facts { tables: tables.into(), namespaces, ..Facts::default() }, &Owner::new("bench"))
            .remove(0);
    println!("all of them listed and read in {:?}", started.elapsed());
    let started = Instant::now();
    let listed = run("nft list table inet netrec-bench").len();
    println!("nft lists the table in {:?} ({} kB)", started.elapsed(), listed / 1000);
    let started = Instant::now();
    let changes = to.changes(&found).len();
    let update = batch(&Op::Update { from: &found, to: &to });
    let made = started.elapsed();
    let bytes: usize = update.iter().map(|message| message.attributes.len()).sum();
    let messages = update.len();
    let started = Instant::now();
    commit(&update);
    println!(
        "one port more, tcp and udp: {changes} elements in {messages} message of {bytes} bytes, found in {made:?}, sent in {:?}",
        started.elapsed()
    );
}
