//! What the firewall lets through and what it stops, shown with packets: a host with bridges and containers, a LAN
//! neighbour that knows routes to the containers' subnets, and a neighbour who asks for 127.0.0.1.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod lab;

use lab::{PATIENCE, SILENCE, ask_tcp, ask_udp, attempt, run, serve, wire};
use netrec::model::kinds::firewall::{Firewall, NetworkRules, Publication, SourceNat};
use netrec::model::resource::Op;
use netrec::model::values::Protocol::{Tcp, Udp};

/// The host is the test's own namespace; `lan` and `evil` are on its uplinks, the others on bridges.
fn build() {
    run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    wire("lan", "up0", "192.0.2.2/24 2001:db8::2/64");
    run(
        "ip addr add 192.0.2.1/24 dev up0; ip addr add 192.0.2.7/24 dev up0; ip -6 addr add 2001:db8::1/64 dev up0 nodad",
    );
    run("ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2");
    run("ip -n lan route add 10.0.0.0/8 via 192.0.2.1; ip -n lan -6 route add fd00::/8 via 2001:db8::1");
    wire("evil", "up1", "198.51.100.2/24");
    run("ip addr add 198.51.100.1/24 dev up1");
    for (bridge, addresses) in [
        ("br-front", "10.10.0.1/24 10.11.0.1/24 fd10::1/64"),
        ("br-back", "10.20.0.1/24 fd20::1/64"),
        ("br-in", "10.30.0.1/24 fd30::1/64"),
        ("br-lone", "10.40.0.1/24 10.41.0.1/24"),
        ("br-open", "10.50.0.1/24 fd50::1/64"),
    ] {
        run(&format!("ip link add {bridge} up type bridge; sysctl -qw net.ipv4.conf.{bridge}.route_localnet=1"));
        run(&format!("for a in {addresses}; do ip addr add $a dev {bridge} nodad; done"));
    }
    for (name, bridge, addresses, gateways) in [
        ("c1", "br-front", "10.10.0.10/24 fd10::10/64", "10.10.0.1 fd10::1"),
        ("c2", "br-front", "10.10.0.11/24 fd10::11/64", "10.10.0.1 fd10::1"),
        ("c4", "br-front", "10.11.0.10/24", "10.11.0.1"),
        ("c9", "br-front", "10.10.0.19/24", "10.10.0.1"),
        ("c3", "br-back", "10.20.0.10/24 fd20::10/64", "10.20.0.1 fd20::1"),
        ("ci", "br-in", "10.30.0.10/24 fd30::10/64", "10.30.0.1 fd30::1"),
        ("c5", "br-lone", "10.40.0.10/24", "10.40.0.1"),
        ("c6", "br-lone", "10.41.0.10/24", "10.41.0.1"),
        ("co", "br-open", "10.50.0.10/24 fd50::10/64", "10.50.0.1 fd50::1"),
    ] {
        wire(name, &format!("v{name}"), addresses);
        run(&format!(
            "ip link set v{name} master {bridge}; for g in {gateways}; do ip -n {name} route add default via $g; done"
        ));
        serve(name, 80);
    }
    // These ask for 127.0.0.1 on the wire.
    for (name, gateway) in [("evil", "198.51.100.1"), ("c9", "10.10.0.1")] {
        run(&format!(
            "ip -n {name} address flush dev lo; ip netns exec {name} sysctl -qw net.ipv4.conf.all.route_localnet=1"
        ));
        run(&format!("ip -n {name} route add 127.0.0.0/8 via {gateway}"));
    }
    serve("lan", 80);
    serve("", 22);
    serve("c1", 9003);
    serve("c2", 81);
}

fn wall() -> Firewall {
    let network = |bridge: &str, subnets: &[&str]| {
        NetworkRules::new(bridge, subnets.iter().map(|net| net.parse().unwrap()).collect())
    };
    let networks = [
        network("br-front", &["10.10.0.0/24", "10.11.0.0/24", "fd10::/64"]),
        NetworkRules {
            host_access: true,
            ipv4: SourceNat::Fixed([192, 0, 2, 7].into()),
            ipv6: SourceNat::Keep,
            ..network("br-back", &["10.20.0.0/24", "fd20::/64"])
        },
        NetworkRules { internal: true, ..network("br-in", &["10.30.0.0/24", "fd30::/64"]) },
        NetworkRules { icc: false, ..network("br-lone", &["10.40.0.0/24", "10.41.0.0/24"]) },
        NetworkRules { open: true, ipv4: SourceNat::Keep, ..network("br-open", &["10.50.0.0/24", "fd50::/64"]) },
    ];
    let publish = |listen: &str, protocol, ports: &str, target: &str, first| Publication {
        listen: listen.parse().ok(),
        protocol,
        ports: ports.parse().unwrap(),
        target: target.parse().unwrap(),
        first,
        allow_from: None,
    };
    Firewall::new(
        "shop",
        &networks,
        &[
            publish("", Tcp, "8080", "10.10.0.10", 80),
            publish("", Tcp, "8080", "fd10::10", 80),
            publish("", Udp, "8080", "10.10.0.10", 80),
            publish("", Udp, "8080", "fd10::10", 80),
            publish("192.0.2.7", Tcp, "8080", "10.10.0.11", 80),
            publish("127.0.0.1", Tcp, "9090", "10.10.0.10", 80),
            publish("", Tcp, "9000-9010", "10.10.0.10", 9000),
            publish("", Tcp, "7000-7001", "10.10.0.11", 80),
            publish("", Tcp, "8081", "10.40.0.10", 80),
        ],
    )
}

/// Builds the host and its wall, with or without bridged frames passing through the inet hooks too.
fn behind_the_wall(bridged_frames_too: bool, test: fn()) {
    lab::in_private_namespaces(move || {
        let file = "/proc/sys/net/bridge/bridge-nf-call-ip";
        let value = u8::from(bridged_frames_too);
        let set = format!("for f in {file}tables {file}6tables; do test ! -e $f || echo {value} > $f; done");
        run(&set);
        build();
        lab::take(&Op::Create(&wall()), None).unwrap();
        if bridged_frames_too {
            // netrec sets it then: a container's own published port comes back through its own port.
            run("for p in vc1 vc2 vc5; do bridge link set dev $p hairpin on; done");
        }
        test();
    });
}

#[track_caller]
fn answers(from: &str, to: &str, with: &str) {
    assert_eq!(ask_tcp(from, to, PATIENCE).as_deref(), Some(with), "tcp from {from} to {to}");
}

#[track_caller]
fn silent(from: &str, to: &[&str]) {
    for to in to {
        assert_eq!(ask_tcp(from, to, SILENCE), None, "tcp from {from} to {to}");
    }
}

fn ways() {
    // Out, with another source or the own one.
    answers("c1", "192.0.2.2:80", "lan 192.0.2.1");
    answers("c1", "[2001:db8::2]:80", "lan 2001:db8::1");
    answers("c3", "192.0.2.2:80", "lan 192.0.2.7");
    answers("c3", "[2001:db8::2]:80", "lan fd20::10");
    answers("co", "192.0.2.2:80", "lan 10.50.0.10");

    // In by a published port: from outside, the host, another network, the same one, itself.
    for (from, seen4, seen6) in [
        ("lan", "192.0.2.2", "2001:db8::2"),
        ("", "192.0.2.1", "2001:db8::1"),
        ("c3", "10.20.0.10", "fd20::10"),
        ("c2", "10.10.0.1", "fd10::1"),
        ("c1", "10.10.0.1", "fd10::1"),
    ] {
        answers(from, "192.0.2.1:8080", &format!("c1 {seen4}"));
        answers(from, "[2001:db8::1]:8080", &format!("c1 {seen6}"));
        assert_eq!(ask_udp(from, "192.0.2.1:8080", PATIENCE), Some(format!("c1 {seen4}")), "udp from {from}");
        assert_eq!(ask_udp(from, "[2001:db8::1]:8080", PATIENCE), Some(format!("c1 {seen6}")), "udp from {from}");
    }
    answers("", "127.0.0.1:8080", "c1 10.10.0.1");
    answers("", "127.0.0.1:9090", "c1 10.10.0.1");
    answers("lan", "192.0.2.7:8080", "c2 192.0.2.2");
    answers("lan", "192.0.2.1:9003", "c1 192.0.2.2");
    answers("lan", "192.0.2.1:7001", "c2 192.0.2.2");
    answers("c6", "192.0.2.1:8081", "c5 10.40.0.1");
    answers("c5", "192.0.2.1:8081", "c5 10.40.0.1");

    // Within a network, from and to the host.
    answers("c2", "10.10.0.10:80", "c1 10.10.0.11");
    answers("c4", "10.10.0.10:80", "c1 10.11.0.10");
    answers("", "10.10.0.10:80", "c1 10.10.0.1");
    answers("", "[fd10::10]:80", "c1 fd10::1");
    answers("", "10.30.0.10:80", "ci 10.30.0.1");
    answers("c3", "10.20.0.1:22", " 10.20.0.10");
    answers("lan", "192.0.2.1:22", " 192.0.2.2");
    answers("lan", "10.50.0.10:80", "co 192.0.2.2");
    answers("lan", "[fd50::10]:80", "co 2001:db8::2");
    for ping in ["c1 ping -c1 -W1 10.10.0.1", "c1 ping -c1 -W1 fd10::1", "ci ping -c1 -W1 fd30::1"] {
        run(&format!("ip netns exec {ping}"));
    }
}

fn walls() {
    // Between networks, past the mapping, to the host, out of the internal one, within the isolated one.
    silent("c1", &["10.20.0.10:80", "[fd20::10]:80", "10.30.0.10:80", "10.10.0.1:22", "192.0.2.1:22", "[fd10::1]:22"]);
    silent("c3", &["10.10.0.10:80", "[fd10::10]:80", "10.40.0.10:80"]);
    silent(
        "lan",
        &["10.10.0.10:80", "[fd10::10]:80", "10.20.0.10:80", "10.30.0.10:80", "192.0.2.1:9090", "10.10.0.10:8080"],
    );
    silent("ci", &["192.0.2.2:80", "[2001:db8::2]:80", "10.10.0.10:80", "192.0.2.1:8080", "10.30.0.1:22"]);
    silent("c6", &["10.40.0.10:80"]);
    assert!(!attempt("ip netns exec ci ping -c1 -W1 192.0.2.2").status.success());
    assert_eq!(ask_udp("lan", "10.10.0.10:80", SILENCE), None);
    // ::1 cannot be mapped: refused at once, so that clients turn to 127.0.0.1.
    let started = std::time::Instant::now();
    silent("", &["[::1]:8080"]);
    assert!(started.elapsed().as_millis() < 200);
}

#[test]
fn what_is_published_or_permitted_is_reached() {
    behind_the_wall(false, ways);
}

#[test]
fn what_is_published_or_permitted_is_reached_with_br_netfilter() {
    behind_the_wall(true, ways);
}

#[test]
fn all_else_is_closed() {
    behind_the_wall(false, walls);
}

#[test]
fn all_else_is_closed_with_br_netfilter() {
    behind_the_wall(true, walls);
}

#[test]
fn nobody_on_the_wire_reaches_loopback() {
    behind_the_wall(false, || {
        silent("evil", &["127.0.0.1:9090", "127.0.0.1:8080"]);
        silent("c9", &["127.0.0.1:22", "127.0.0.1:9090"]);
        // Without the rules they would.
        run("nft flush chain inet netrec-shop raw");
        run("nft flush chain inet netrec-shop prerouting; nft add rule inet netrec-shop prerouting goto publish");
        answers("evil", "127.0.0.1:9090", "c1 198.51.100.2");
        answers("evil", "127.0.0.1:8080", "c1 198.51.100.2");
    });
}

#[test]
fn nothing_leaks_when_a_bridge_is_gone() {
    behind_the_wall(false, || {
        let count = "ip netns exec lan nft list table inet t | grep -o 'packets [0-9]*'";
        run(
            "ip netns exec lan nft 'table inet t { chain c { type filter hook prerouting priority -400; ip daddr 10.10.0.0/24 counter; }; }'",
        );
        run("ip link del br-front");
        silent("", &["127.0.0.1:8080", "192.0.2.1:8080", "10.10.0.10:80"]);
        silent("evil", &["198.51.100.1:8080"]);
        assert_eq!(run(count), "packets 0\n");
        // Without the rules it would.
        run("nft flush chain inet netrec-shop leave");
        silent("", &["192.0.2.1:8080"]);
        silent("evil", &["198.51.100.1:8080"]);
        assert_ne!(run(count), "packets 0\n");
    });
}
