//! Flows that live longer than the mappings they were made under, on the real kernel: clients that keep their socket, and
//! what conntrack does with them when a topology changes, is killed in the middle, or goes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod lab;

use std::fs;
use std::net::UdpSocket;
use std::process::Output;

use lab::{SILENCE, attempt, in_private_namespaces, inside, run, serve};

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

/// What stands in the sets of notes.
fn notes() -> String {
    run("for f in 4 6; do nft list set inet netrec-shop stale$f 2>/dev/null | grep elements || true; done")
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

/// Kills an apply at its nth send, for every n there is; of its threads the one that speaks with netfilter.
fn killed_at_every(call: &str) {
    with_containers();
    let (from, to) = (topology(r#""5300:53/udp""#, ""), topology("", r#""5300:53/udp""#));
    let client = Client::new("lan", "192.0.2.1:5300");
    let (mut left_notes, mut count) = (false, 0);
    for n in 1..200 {
        apply(&from);
        client.is_answered_by("web");
        fs::write("/run/shop.toml", &to).unwrap();
        let killed = attempt(&format!(
            "strace -o /dev/null -e inject={call}:signal=KILL:when={n} {} apply /run/shop.toml --yes",
            env!("CARGO_BIN_EXE_netrec")
        ));
        left_notes |= !notes().is_empty();
        apply(&to);
        client.is_answered_by("api");
        count = n;
        if killed.status.success() {
            break;
        }
    }
    println!("{call}: killed {} times", count - 1);
    assert!((4..199).contains(&count), "{count}");
    assert!(left_notes, "none of the kills came between the rules and the flows");
}

#[test]
fn a_kill_at_any_message_to_nftables_loses_no_flow() {
    in_private_namespaces(|| killed_at_every("sendto"));
}

#[test]
fn a_kill_at_any_message_to_conntrack_loses_no_flow() {
    in_private_namespaces(|| killed_at_every("sendmsg"));
}
