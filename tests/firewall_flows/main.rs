//! Flows that live longer than the rules they began under, on the real kernel: clients that keep their socket, and what
//! conntrack does with them when a topology changes, is killed in the middle, or goes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod fails;
#[path = "../lab/mod.rs"]
mod lab;
mod lives;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Output};
use std::time::Duration;

use lab::{PATIENCE, SILENCE, attempt, in_private_namespaces, inside, run, serve};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

/// A host on a LAN, and two containers that answer on port 53 with their names.
fn topology(web: &str, api: &str) -> String {
    let endpoint = |name: &str, at: &str, publish: &str| {
        format!(
            "[containers.{name}]\nnetns = \"{name}\"\n[endpoints.{name}]\ncontainer = \"{name}\"\nnetwork = \"front\"\n\
             addresses = [\"10.10.0.{at}\", \"fd10::{at}\"]\npublish = [{publish}]\n"
        )
    };
    format!(
        "topology = \"shop\"\n[networks.front]\ndriver = \"bridge\"\nsubnets = [\"10.10.0.0/24\", \"fd10::/64\"]\n{}{}",
        endpoint("web", "10", web),
        endpoint("api", "11", api)
    )
}

fn netrec(verb: &str, topology: &str) -> Output {
    fs::write("/run/shop.toml", topology).unwrap();
    attempt(&format!("{} {verb} /run/shop.toml --yes", env!("CARGO_BIN_EXE_netrec")))
}

#[track_caller]
fn apply(topology: &str) {
    let output = netrec("apply", topology);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(notes(), "", "notes are left");
}

/// What stands in the sets of notes without the word that it is forgotten.
fn notes() -> String {
    let noted = |family: &str| {
        run(&format!("nft -nn list set inet netrec-shop stale{family} 2>/dev/null | sed -n '/elements/,/}}/p'"))
    };
    let pending = |noted: &String| !noted.contains("255.255.255.255") && !noted.contains("ffff:ffff:ffff:ffff");
    ["4", "6"].map(noted).into_iter().filter(pending).collect()
}

fn build() {
    run("ip netns add lan; ip -n lan link set lo up; ip link add up0 up type veth peer name eth0 netns lan
         ip -n lan link set eth0 up; ip addr add 192.0.2.1/24 dev up0; ip -6 addr add 2001:db8::1/64 dev up0 nodad
         ip -n lan addr add 192.0.2.2/24 dev eth0; ip -n lan -6 addr add 2001:db8::2/64 dev eth0 nodad");
}

fn with_containers() {
    build();
    apply(&topology("", ""));
    serve("web", 53);
    serve("api", 53);
}

/// A client that keeps its socket, and with it its source port.
struct Client(UdpSocket);

impl Client {
    fn new(netns: &str, to: &str) -> Self {
        let to: std::net::SocketAddr = to.parse().unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = inside(netns, move || {
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(to).unwrap();
            socket
        });
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        Self(socket)
    }

    /// Who answers one of the next packets. An error that an earlier one brought home is none of theirs.
    fn ask(&self, packets: usize) -> Option<String> {
        let mut buffer = [0; 64];
        self.0.set_nonblocking(true).unwrap();
        while self.0.recv(&mut buffer).is_ok() {} // late answers to what was asked before
        self.0.set_nonblocking(false).unwrap();
        let length = (0..packets).find_map(|_| {
            self.0.send(b"?").ok()?;
            self.0.recv(&mut buffer).ok()
        })?;
        let said = String::from_utf8(buffer[..length].to_vec()).ok()?;
        said.split(' ').next().map(ToOwned::to_owned)
    }

    #[track_caller]
    fn is_answered_by(&self, who: &str) {
        let to = self.0.peer_addr().unwrap();
        assert_eq!(self.ask(12).as_deref(), Some(who), "who answers at {to}");
    }
}

/// Numbers of the flows to a port.
fn flows(port: u16) -> String {
    run(&format!("conntrack -L -p udp --orig-port-dst {port} -o id 2>/dev/null | grep -o 'id=[0-9]*' | sort || true"))
}

#[test]
fn flows_follow_their_mapping_and_others_live_on() {
    in_private_namespaces(|| {
        with_containers();
        apply(&topology(r#""5300:53/udp", "5301:53/udp""#, ""));
        let (four, six) = (Client::new("lan", "192.0.2.1:5300"), Client::new("lan", "[2001:db8::1]:5300"));
        let (own, other) = (Client::new("", "127.0.0.1:5300"), Client::new("lan", "192.0.2.1:5301"));
        let beyond = Client::new("web", "192.0.2.2:5300");
        for client in [&four, &six, &own, &other] {
            client.is_answered_by("web");
        }
        assert_eq!(beyond.ask(3), None);
        let (lives, passes) =
            (flows(5301), run("conntrack -L -p udp --orig-dst 192.0.2.2 -o id 2>/dev/null | grep -o 'id=.*'"));
        assert!(lives.starts_with("id="), "{lives}");

        apply(&topology(r#""5301:53/udp""#, r#""5300:53/udp""#));
        assert_eq!(flows(5300), passes.replace(' ', ""), "what passes through to others is none of ours");
        for client in [&four, &six, &own] {
            client.is_answered_by("api");
        }
        apply(&topology(r#""5301:53/udp""#, ""));
        for client in [&four, &six, &own] {
            assert_eq!(client.ask(3), None);
        }
        apply(&topology(r#""5301:53/udp""#, r#""192.0.2.1:5300:53/udp""#));
        four.is_answered_by("api");
        other.is_answered_by("web");
        assert_eq!(flows(5301), lives);
    });
}

#[test]
fn a_flow_that_was_refused_takes_the_mapping_that_comes() {
    in_private_namespaces(|| {
        with_containers();
        let client = Client::new("lan", "192.0.2.1:5300");
        assert_eq!(client.ask(3), None);
        assert_ne!(flows(5300), "");
        apply(&topology(r#""5300:53/udp""#, ""));
        client.is_answered_by("web");

        // And one that was mapped and then refused, while somebody had flushed the rules.
        run("nft flush ruleset; conntrack -D -p udp --orig-port-dst 5300 2>/dev/null");
        assert_eq!(client.ask(3), None);
        apply(&topology("", r#""5300:53/udp""#));
        client.is_answered_by("api");
        run("nft flush ruleset");
        apply(&topology(r#""5300:53/udp""#, ""));
        client.is_answered_by("web");
    });
}

#[test]
fn nothing_is_left_of_flows_when_the_topology_goes() {
    in_private_namespaces(|| {
        with_containers();
        let published = topology(r#""5300:53/udp""#, "");
        apply(&published);
        let client = Client::new("lan", "192.0.2.1:5300");
        client.is_answered_by("web");
        assert!(netrec("destroy", &published).status.success());
        assert_eq!(flows(5300), "");
        assert_eq!(client.ask(3), None);
    });
}

/// Kills an apply that moves a mapping and takes a policy away at its nth send, for every n there is.
fn killed_at_every(call: &str) {
    with_containers();
    run("ip -n lan route add 10.10.0.0/24 via 192.0.2.1");
    let from = topology(r#""5300:53/udp""#, "") + &policy("cidr = \"192.0.2.0/24\"", WEB, "53/udp");
    let to = topology("", r#""5300:53/udp""#);
    let (mapped, straight) = (Client::new("lan", "192.0.2.1:5300"), Client::new("lan", "10.10.0.10:53"));
    let (mut left_notes, mut count) = ([false; 2], 0);
    for n in 1..200 {
        apply(&from);
        mapped.is_answered_by("web");
        straight.is_answered_by("web");
        fs::write("/run/shop.toml", &to).unwrap();
        let killed = attempt(&format!(
            "strace -o /dev/null -e inject={call}:signal=KILL:when={n} {} apply /run/shop.toml --yes",
            env!("CARGO_BIN_EXE_netrec")
        ));
        let left = notes();
        left_notes[0] |= left.contains("5300");
        left_notes[1] |= left.contains("0.0.0.0 . 0 . 0 . 0 . 0.0.0.0");
        apply(&to);
        mapped.is_answered_by("api");
        assert_eq!(straight.ask(3), None, "killed at {n}");
        count = n;
        if killed.status.success() {
            break;
        }
    }
    println!("{call}: killed {} times", count - 1);
    assert!((4..199).contains(&count), "{count}");
    assert_eq!(left_notes, [true; 2], "none of the kills came between the rules and the flows");
}

#[test]
fn a_kill_at_any_message_to_nftables_loses_no_flow() {
    in_private_namespaces(|| killed_at_every("sendto"));
}

#[test]
fn a_kill_at_any_message_to_conntrack_loses_no_flow() {
    in_private_namespaces(|| killed_at_every("sendmsg"));
}

/// A policy that allows something; no ports are all.
fn policy(from: &str, to: &str, ports: &str) -> String {
    let ports = if ports.is_empty() { String::new() } else { format!("ports = [\"{ports}\"]\n") };
    format!("[[policies]]\naction = \"allow\"\nfrom = {{ {from} }}\nto = {{ {to} }}\n{ports}")
}

/// A connection that stands, and both its ends: whoever is forbidden to speak, the other one speaks, too.
struct Talk {
    netns: [&'static str; 2],
    ends: [TcpStream; 2],
}

impl Talk {
    /// From an address of a namespace to a port of another, asked for at some address.
    fn new(from: (&'static str, &str), at: &str, server: (&'static str, u16)) -> Self {
        Self::with(&Self::listen(server), from, at, server.0)
    }

    /// One who listened there before may be held for a moment still, by what another test forks.
    fn listen((server, port): (&'static str, u16)) -> TcpListener {
        let listen = move || {
            (0..200).find_map(|_| {
                let listener = TcpListener::bind(("::", port)).ok();
                if listener.is_none() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                listener
            })
        };
        inside(server, listen).expect("nobody else listens there")
    }

    fn with(listener: &TcpListener, (netns, from): (&'static str, &str), at: &str, server: &'static str) -> Self {
        let [from, at] = [&format!("{from}:0"), at].map(|address| address.parse::<SocketAddr>().unwrap());
        let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let client = inside(netns, move || {
            let client = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            bind(std::os::fd::AsRawFd::as_raw_fd(&client), &SockaddrStorage::from(from)).unwrap();
            connect(std::os::fd::AsRawFd::as_raw_fd(&client), &SockaddrStorage::from(at)).unwrap();
            TcpStream::from(client)
        });
        let ends = [client, listener.accept().unwrap().0];
        let mut talk = Self { netns: [netns, server], ends };
        assert!(talk.goes_on());
        talk
    }

    /// Whether what each end says now is heard by the other one.
    fn goes_on(&mut self) -> bool {
        let [client, server] = &mut self.ends;
        let mut says = |from: usize| {
            let (from, to) = if from == 0 { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
            to.set_read_timeout(Some(PATIENCE)).unwrap();
            from.write_all(b"?").is_ok() && to.read(&mut [0]).is_ok_and(|length| length == 1)
        };
        says(1) && says(0)
    }

    /// Both ends say something again and again, and nobody hears it.
    #[track_caller]
    fn is_over(&mut self) {
        for end in &mut self.ends {
            end.write_all(b"?").unwrap();
        }
        let again = |at: usize| {
            let (from, to) = (self.ends[at].local_addr().unwrap(), self.ends[at].peer_addr().unwrap());
            let enters = if self.netns[at].is_empty() { "" } else { "ip netns exec " };
            // Not those that were sent again: what the host itself may not send is not counted as sent.
            let waits = run(&format!(
                "{enters}{} ss -Htino sport = {} and dport = {} | grep -o 'backoff:[0-9]*' || true",
                self.netns[at],
                from.port(),
                to.port()
            ));
            waits.trim().rsplit(':').next().and_then(|count| count.parse().ok()).unwrap_or(0_u32)
        };
        let both = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            again(0) >= 2 && again(1) >= 2
        });
        assert!(both, "both ends send again: {} {}", again(0), again(1));
        for end in &mut self.ends {
            end.set_nonblocking(true).unwrap();
            assert!(end.read(&mut [0]).is_err(), "something was heard");
            end.set_nonblocking(false).unwrap();
        }
    }
}

/// A ping that runs until it is dropped.
struct Ping(Child);

impl Ping {
    fn start(netns: &str, to: &str) -> Self {
        let log = fs::File::create("/run/ping").unwrap();
        let command = ["netns", "exec", netns, "ping", "-n", "-O", "-i", "0.1", to];
        let ping = Self(Command::new("ip").args(command).stdout(log).spawn().unwrap());
        ping.says("bytes from", 3);
        ping
    }

    /// Waits until it has said something that often; gives all that it said.
    #[track_caller]
    fn says(&self, what: &str, times: usize) -> String {
        for _ in 0..200 {
            let said = fs::read_to_string("/run/ping").unwrap();
            if said.matches(what).count() >= times {
                return said;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("ping {} never said {what:?} {times} times", self.0.id());
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lab's topology with a second network.
fn two_networks(front: &str, more: &str) -> String {
    let front = format!("[networks.front]\n{front}\n");
    topology("", "").replace("[networks.front]\n", &front)
        + "[networks.back]\ndriver = \"bridge\"\nsubnets = [\"10.20.0.0/24\"]\n[containers.db]\nnetns = \"db\"\n\
           [endpoints.db]\ncontainer = \"db\"\nnetwork = \"back\"\naddresses = [\"10.20.0.10\"]\n"
        + more
}

/// Numbers of the flows between two containers.
fn between(from: &str, to: &str) -> String {
    run(&format!("conntrack -L -s {from} -d {to} -o id 2>/dev/null | grep -o 'id=[0-9]*$' | sort || true"))
}

const WEB: &str = "endpoint = \"web\"";
const DB: &str = "endpoint = \"db\"";

#[test]
fn what_a_policy_let_begin_ends_with_it_and_nothing_else_does() {
    in_private_namespaces(|| {
        build();
        // The way back may be taken, and yet no answer on it brings the connection back.
        let kept = policy(WEB, DB, "6000") + &policy(DB, WEB, "");
        let (all, less) = (two_networks("", &(policy(WEB, DB, "") + &kept)), two_networks("", &kept));
        apply(&all);
        let mut goes = Talk::new(("web", "10.10.0.10"), "10.20.0.10:5432", ("db", 5432));
        let mut stays = Talk::new(("web", "10.10.0.10"), "10.20.0.10:6000", ("db", 6000));
        let mut back = Talk::new(("db", "10.20.0.10"), "10.10.0.10:6000", ("web", 6000));
        let ping = Ping::start("web", "10.20.0.10");
        let flows = [between("10.10.0.10", "10.20.0.10"), between("10.20.0.10", "10.10.0.10")];
        assert_eq!(flows[0].lines().count(), 3, "two connections and a ping");

        // Looser rules forget nothing.
        let looser = two_networks("open = true\nhost_access = true", &(policy(WEB, DB, "") + &kept));
        apply(&looser);
        assert_eq!(flows, [between("10.10.0.10", "10.20.0.10"), between("10.20.0.10", "10.10.0.10")]);
        // Nor do tighter ones what they let begin.
        apply(&all);
        assert_eq!(flows, [between("10.10.0.10", "10.20.0.10"), between("10.20.0.10", "10.10.0.10")]);

        apply(&less);
        let said = ping.says("no answer yet", 5);
        let unanswered = said.find("no answer yet").unwrap();
        assert!(!said[unanswered..].contains("bytes from"), "{said}");
        goes.is_over();
        assert!(stays.goes_on() && back.goes_on());
        assert_eq!(between("10.10.0.10", "10.20.0.10").lines().count(), 1);
        assert_eq!(between("10.20.0.10", "10.10.0.10"), flows[1]);
    });
}

#[test]
fn a_client_that_may_ask_no_more_is_cut_off_and_one_that_may_is_not() {
    in_private_namespaces(|| {
        build();
        run("ip -n lan addr add 192.0.2.66/24 dev eth0");
        // The same port on both sides: an answer that is masqueraded looks just as it did.
        let published = |nets: &str| {
            topology(r#""8080:8080""#, "").replace("[networks.front]\n", &format!("[networks.front]\n{nets}\n"))
        };
        apply(&published(""));
        let talk = |from| Talk::new(("lan", from), "192.0.2.1:8080", ("web", 8080));
        let [mut near, mut far] = ["192.0.2.2", "192.0.2.66"].map(talk);
        apply(&published("allow_from = [\"192.0.2.0/24\"]"));
        assert!(near.goes_on() && far.goes_on());
        apply(&published("allow_from = [\"192.0.2.0/26\"]"));
        far.is_over();
        assert!(near.goes_on());
    });
}

#[test]
fn whatever_closes_ends_what_came_in_by_it() {
    in_private_namespaces(|| {
        build();
        run("ip -n lan route add 10.10.0.0/24 via 192.0.2.1");
        let closed = two_networks("", "");
        let lan = || Talk::new(("lan", "192.0.2.2"), "10.10.0.10:22", ("web", 22));
        let to_host = || Talk::new(("web", "10.10.0.10"), "10.10.0.1:22", ("", 22));
        let ways: [(&str, &dyn Fn() -> Talk); 3] =
            [("open = true", &lan), ("trusted_interfaces = [\"up0\"]", &lan), ("host_access = true", &to_host)];
        for (open, talk) in ways {
            println!("{open}");
            apply(&two_networks(open, ""));
            let mut talk = talk();
            apply(&closed);
            talk.is_over();
        }
        // Nothing is filtered while the rules are gone, if somebody else has conntrack look on.
        run(
            "nft flush ruleset; nft 'table inet watching { chain c { type filter hook forward priority 0; ct state new; }; }'",
        );
        let (mut begun, mut out) = (lan(), Talk::new(("web", "10.10.0.10"), "192.0.2.2:80", ("lan", 80)));
        apply(&closed);
        begun.is_over();
        assert!(out.goes_on());
    });
}
