//! `netrec apply` on Linux, then packets: pings, TCP and UDP in both families, between containers, to and from a
//! neighbour on the LAN who knows routes to every container, and what must not pass.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod lab;

use lab::{PATIENCE, SILENCE, ask_tcp, ask_udp, attempt, run, serve, wire};

const TOPOLOGY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traffic/topology.toml");
const NETREC: &str = env!("CARGO_BIN_EXE_netrec");

/// The host is the test's own namespace, `lan` its neighbour and default gateway, `br-yard` somebody else's bridge.
fn applied(test: fn()) {
    lab::in_private_namespaces(move || {
        wire("lan", "up0", "192.0.2.2/24 2001:db8::2/64");
        run("for a in 192.0.2.1/24 192.0.2.7/24 2001:db8::1/64; do ip addr add $a dev up0 nodad; done
            ip addr add 2001:db8::7/64 dev up0 nodad preferred_lft 0
            ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2
            ip -n lan route add 10.0.0.0/8 via 192.0.2.1; ip -n lan route add fd00::/8 via 2001:db8::1
            ip link add br-yard up type bridge; for a in 10.40.0.1/24 fd40::1/64; do ip addr add $a dev br-yard nodad; done");
        let told = run(&format!("{NETREC} apply {TOPOLOGY}"));
        assert!(told.ends_with("verified: nothing left to do\n"), "{told}");
        for netns in ["a", "b", "c", "both", "i", "j", "y", "z", "lan"] {
            serve(netns, 80);
        }
        serve("", 22);
        serve("a", 9001);
        test();
        let told = run(&format!("{NETREC} apply {TOPOLOGY}"));
        assert!(told.starts_with("nothing to do\n"), "{told}");
    });
}

fn pings(from: &str, to: &str, patience: u32) -> bool {
    let inside = if from.is_empty() { String::new() } else { format!("ip netns exec {from}") };
    attempt(&format!("{inside} ping -n -c1 -W{patience} {to}")).status.success()
}

/// Everything that is asked at an address is answered, to the asker as `seen` there.
#[track_caller]
fn reaches(from: &str, to: &str, port: u16, who: &str, seen: &str) {
    let (socket, answer) = (socket(to, port), Some(format!("{who} {seen}")));
    assert_eq!(ask_tcp(from, &socket, PATIENCE), answer, "tcp from {from} to {socket}");
    assert_eq!(ask_udp(from, &socket, PATIENCE), answer, "udp from {from} to {socket}");
}

#[track_caller]
fn tcp(from: &str, to: &str, port: u16, who: &str, seen: &str) {
    let (socket, answer) = (socket(to, port), Some(format!("{who} {seen}")));
    assert_eq!(ask_tcp(from, &socket, PATIENCE), answer, "tcp from {from} to {socket}");
}

/// Nothing that is asked at these addresses is answered.
#[track_caller]
fn closed(from: &str, to: &[(&str, u16)]) {
    for (to, port) in to {
        let socket = socket(to, *port);
        assert_eq!(ask_tcp(from, &socket, SILENCE), None, "tcp from {from} to {socket}");
        assert_eq!(ask_udp(from, &socket, SILENCE), None, "udp from {from} to {socket}");
    }
}

fn socket(to: &str, port: u16) -> String {
    if to.contains(':') { format!("[{to}]:{port}") } else { format!("{to}:{port}") }
}

#[test]
fn endpoints_of_a_network_reach_each_other() {
    applied(|| {
        for (from, to, who, seen) in [
            ("a", "10.10.0.11", "b", "10.10.0.10"),
            ("a", "fd10::11", "b", "fd10::10"),
            ("i", "10.30.0.11", "j", "10.30.0.10"),
            ("i", "fd30::11", "j", "fd30::10"),
            ("y", "10.40.0.11", "z", "10.40.0.10"),
            ("y", "fd40::11", "z", "fd40::10"),
            // A container on two networks reaches those of both, by the nearer of its interfaces.
            ("both", "10.10.0.11", "b", "10.10.0.20"),
            ("both", "fd10::11", "b", "fd10::20"),
            ("both", "10.20.0.10", "c", "10.20.0.20"),
            ("both", "fd20::10", "c", "fd20::20"),
        ] {
            assert!(pings(from, to, 3), "{from} to {to}");
            reaches(from, to, 80, who, seen);
        }
        // The host reaches every port of its containers.
        for (to, seen) in [("10.10.0.10", "10.10.0.1"), ("fd10::10", "fd10::1")] {
            assert!(pings("", to, 3), "the host to {to}");
            reaches("", to, 80, "a", seen);
        }
    });
}

#[test]
fn several_endpoints_of_a_container_answer_through_the_one_that_was_asked() {
    applied(|| {
        for (from, to, seen) in [
            ("b", "10.10.0.20", "10.10.0.11"),
            ("b", "10.10.0.21", "10.10.0.11"),
            ("b", "fd10::20", "fd10::11"),
            ("b", "fd10::21", "fd10::11"),
            ("c", "10.20.0.20", "10.20.0.10"),
            ("c", "fd20::20", "fd20::10"),
        ] {
            assert!(pings(from, to, 3), "{from} to {to}");
            tcp(from, to, 80, "both", seen);
        }
        // From outside through each of its ports: one has the default route, the others have only their own tables.
        for port in [8083, 8084, 8085] {
            tcp("lan", "192.0.2.1", port, "both", "192.0.2.2");
            tcp("lan", "2001:db8::1", port, "both", "2001:db8::2");
        }
        for (address, far) in [
            ("10.10.0.20", "192.0.2.2"),
            ("10.10.0.21", "192.0.2.2"),
            ("10.20.0.20", "192.0.2.2"),
            ("fd10::20", "2001:db8::2"),
            ("fd10::21", "2001:db8::2"),
            ("fd20::20", "2001:db8::2"),
        ] {
            let link = run(&format!("ip -n both -o addr show to {address} | awk '{{print $2}}'"));
            let route = run(&format!("ip -n both route get {far} from {address}"));
            assert!(route.contains(&format!(" dev {} ", link.trim())), "from {address} by {route}");
        }
    });
}

#[test]
fn containers_reach_the_outside() {
    applied(|| {
        for from in ["a", "c"] {
            assert!(pings(from, "192.0.2.2", 3) && pings(from, "2001:db8::2", 3), "{from}");
            reaches(from, "192.0.2.2", 80, "lan", "192.0.2.1");
            reaches(from, "2001:db8::2", 80, "lan", "2001:db8::1");
        }
        // Nobody masks what comes by somebody else's bridge.
        reaches("y", "192.0.2.2", 80, "lan", "10.40.0.10");
        reaches("y", "2001:db8::2", 80, "lan", "fd40::10");
    });
}

#[test]
fn published_ports_answer_from_everywhere() {
    applied(|| {
        // A neighbour, the host itself, another network, the same network (hairpin), the container itself.
        for (from, seen4, seen6) in [
            ("lan", "192.0.2.2", "2001:db8::2"),
            ("", "192.0.2.1", "2001:db8::1"),
            ("c", "10.20.0.10", "fd20::10"),
            ("b", "10.10.0.1", "fd10::1"),
            ("a", "10.10.0.1", "fd10::1"),
        ] {
            for port in [8080, 9001] {
                reaches(from, "192.0.2.1", port, "a", seen4);
                reaches(from, "2001:db8::1", port, "a", seen6);
            }
        }
        // At the one address that was named, at the host's loopback, and nowhere else.
        tcp("lan", "192.0.2.7", 8081, "a", "192.0.2.2");
        tcp("lan", "2001:db8::7", 8081, "a", "2001:db8::2");
        closed("lan", &[("192.0.2.1", 8081), ("2001:db8::1", 8081), ("192.0.2.1", 9090), ("192.0.2.1", 9003)]);
        reaches("", "127.0.0.1", 8080, "a", "10.10.0.1");
        tcp("", "127.0.0.1", 9090, "a", "10.10.0.1");
    });
}

/// Only a source that would be answered around the host is hidden behind its address.
#[test]
fn who_is_behind_a_router_on_the_bridge_keeps_the_own_address_at_a_published_port() {
    applied(|| {
        // Of frames that `br_netfilter` shows Linux does not tell where they came in.
        let bridged = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        let before = run(&format!("cat {bridged} 2>/dev/null || true"));
        run(&format!("test ! -e {bridged} || echo 0 > {bridged}"));
        // Container b routes for somebody, as one with a VPN does, and may: its port is not guarded.
        run("ip -n b addr add 203.0.113.9/32 dev lo; ip route add 203.0.113.9 via 10.10.0.11
            peer=$(ip -n b -o link show eth0 | sed 's/.*@if\\([0-9]*\\):.*/\\1/')
            port=$(ip -o link show | sed -n \"s/^$peer: \\([^@]*\\)@.*/\\1/p\")
            table=$(nft list tables bridge | awk '{print $3; exit}')
            nft add element bridge $table loose { $port }
            echo 0 | tee /proc/sys/net/ipv4/conf/*/rp_filter > /dev/null");
        let asked = |netns: &str, from: &str| {
            run(&format!("{netns} sh -c 'socat -t2 - TCP4:192.0.2.1:8080,bind={from},connect-timeout=3 </dev/null'"))
        };
        assert_eq!(asked("ip netns exec b", "203.0.113.9"), "a 203.0.113.9");
        assert_eq!(asked("ip netns exec b", "10.10.0.11"), "a 10.10.0.1");
        assert_eq!(asked("", "10.20.0.1"), "a 10.20.0.1");
        run("ip route del 203.0.113.9; nft flush set bridge $(nft list tables bridge | awk '{print $3; exit}') loose");
        run(&format!("test ! -e {bridged} || echo {before} > {bridged}", before = before.trim()));
    });
}

#[test]
fn what_nobody_opened_is_closed() {
    applied(|| {
        // One network from another, in both families, containers and gateways alike.
        for (from, to) in [
            ("a", ["10.20.0.10", "fd20::10"]),
            ("c", ["10.10.0.10", "fd10::10"]),
            ("i", ["10.10.0.10", "fd10::10"]),
            ("a", ["10.30.0.10", "fd30::10"]),
            // The LAN has routes to the containers.
            ("lan", ["10.10.0.10", "fd10::10"]),
            ("lan", ["10.30.0.10", "fd30::10"]),
            // An internal network has no way out, and does not reach what is published either.
            ("i", ["192.0.2.2", "2001:db8::2"]),
        ] {
            for to in to {
                assert!(!pings(from, to, 1), "{from} to {to}");
                closed(from, &[(to, 80)]);
            }
        }
        closed("i", &[("192.0.2.1", 8080), ("2001:db8::1", 8080)]);
        closed("lan", &[("10.10.0.10", 8080), ("192.0.2.1", 80), ("2001:db8::1", 80)]);
        // Services of the host: for internal networks, which have nothing else, and not for the others.
        closed("a", &[("10.10.0.1", 22), ("fd10::1", 22), ("192.0.2.1", 22)]);
        reaches("i", "10.30.0.1", 22, "", "10.30.0.10");
        reaches("i", "fd30::1", 22, "", "fd30::10");
    });
}

/// Linux here has no SCTP sockets: a whole INIT chunk (RFC 9260 section 3.3.2) is sent over raw IP, and looked for behind
/// the mapping, where it must be complete but for the port, with the checksum made right again.
#[test]
fn an_sctp_association_may_begin_at_a_published_port() {
    applied(|| {
        for (family, host) in [(4, "192.0.2.1"), (6, "2001:db8::1")] {
            let got = format!("/run/got{family}");
            let listen = format!("socat -u IP{family}-RECVFROM:132 CREATE:{got}");
            run(&format!("ip netns exec a timeout 10 {listen} >/dev/null 2>&1 & sleep 0.2"));
            std::fs::write("/run/init", init(7000)).unwrap();
            let host = if family == 6 { format!("[{host}]") } else { host.into() };
            run(&format!("ip netns exec lan socat -u OPEN:/run/init IP{family}-SENDTO:{host}:132"));
            run(&format!("for n in $(seq 50); do test -s {got} && exit; sleep 0.1; done; exit 1"));
            assert_eq!(std::fs::read(&got).unwrap(), init(70), "IPv{family}");
        }
    });
}

/// An SCTP packet with one INIT chunk from port 5000.
fn init(port: u16) -> Vec<u8> {
    let mut packet = vec![0x13, 0x88];
    packet.extend(port.to_be_bytes());
    packet.extend([0; 8]); // verification tag of an INIT, and room for the checksum
    packet.extend([1, 0, 0, 20]); // INIT, no flags, 20 bytes
    packet.extend([0xca, 0xfe, 0xba, 0xbe, 0, 0, 0xff, 0xff, 0, 10, 0, 10, 0, 0, 0, 1]);
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// The checksum of RFC 9260 appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 })
    })
}

/// Linux makes the route to a subnet when the address comes, and not again.
#[test]
fn routes_that_came_with_addresses_are_put_back() {
    applied(|| {
        for (broken, from, to) in [
            ("ip route delete 10.10.0.0/24", "", "10.10.0.10"),
            (
                "ip -6 route delete fd10::/64 dev $(ip -6 route show fd10::/64 | sed 's/.* dev \\([^ ]*\\).*/\\1/')",
                "",
                "fd10::10",
            ),
            ("ip -n i route delete 10.30.0.0/24", "i", "10.30.0.11"),
            ("ip -n a route flush table main", "a", "192.0.2.2"),
            ("ip -n a -6 route flush table main", "a", "2001:db8::2"),
        ] {
            assert!(pings(from, to, 3), "{from} to {to}");
            run(broken);
            assert!(!pings(from, to, 1), "{broken}");
            let told = run(&format!("{NETREC} apply {TOPOLOGY}"));
            assert!(told.ends_with("verified: nothing left to do\n"), "{told}");
            assert!(pings(from, to, 3), "{broken}, and put right");
        }
    });
}

/// As of a VPN: to let go of what is there would help nobody.
#[test]
fn a_wide_route_that_comes_later_is_no_reason_to_mend_nothing() {
    applied(|| {
        run("ip route add 10.0.0.0/8 via 192.0.2.2; ip -n a route delete default");
        let told = run(&format!("{NETREC} apply {TOPOLOGY}"));
        assert!(told.ends_with("verified: nothing left to do\n"), "{told}");
        assert!(pings("a", "192.0.2.2", 3));

        let new = "topology = \"new\"\n[networks.n]\ndriver = \"bridge\"\nsubnets = [\"10.99.0.0/24\"]\n";
        std::fs::write("/run/new.toml", new).unwrap();
        let refused = attempt(&format!("{NETREC} plan /run/new.toml"));
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("overlaps the live route to 10.0.0.0/8"), "{said}");
        run("ip route delete 10.0.0.0/8; for half in 0.0.0.0/1 128.0.0.0/1; do ip route add $half via 192.0.2.2; done");
        assert!(attempt(&format!("{NETREC} plan /run/new.toml")).status.success());
    });
}

/// Who forwards is a setting of each link, which is born as `default` says.
#[test]
fn bridges_forward_also_where_links_are_born_without() {
    applied(|| {
        let bridge = run("ip route show 10.10.0.0/24 | sed 's/.* dev \\([^ ]*\\).*/\\1/'");
        let setting = format!("/proc/sys/net/ipv4/conf/{}/forwarding", bridge.trim());
        run(&format!("echo 0 >{setting}"));
        assert!(!pings("a", "192.0.2.2", 1));
        run(&format!("{NETREC} apply {TOPOLOGY}"));
        assert!(pings("a", "192.0.2.2", 3));

        run(&format!("echo 0 >/proc/sys/net/ipv4/conf/default/forwarding; ip link delete {bridge}"));
        run(&format!("{NETREC} apply {TOPOLOGY}"));
        assert!(pings("a", "192.0.2.2", 3));
    });
}

/// Linux takes what is meant for a link to be made for the one that has that name as another one.
#[test]
fn links_of_others_under_another_name_are_left_alone() {
    lab::in_private_namespaces(|| {
        wire("lan", "up0", "192.0.2.2/24");
        run("ip link property add dev up0 altname br-front; ip -n lan link property add dev eth0 altname eth7");
        let links = || run("ip -d link show up0; ip address show up0; ip -n lan address show eth0");
        let before = links();
        let topology = |bridge: &str, ifname: &str| {
            format!(
                "topology = \"t\"\n[networks.n]\ndriver = \"bridge\"\nbridge.name = \"{bridge}\"\n[containers.lan]\n\
                 netns = \"lan\"\n[endpoints.e]\ncontainer = \"lan\"\nnetwork = \"n\"\nifname = \"{ifname}\"\n"
            )
        };
        for (topology, said) in [
            (topology("br-front", "eth1"), "a link named `br-front` exists and is not netrec's"),
            (topology("br0", "eth7"), "a link named `eth7` exists in `lan` and is not netrec's"),
        ] {
            std::fs::write("/run/t.toml", topology).unwrap();
            let output = attempt(&format!("{NETREC} apply /run/t.toml --yes"));
            let refused = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(4) && refused.contains(said), "{refused}");
        }
        assert_eq!(links(), before);
    });
}

/// As of hosts that speak BGP.
#[test]
fn a_default_route_with_several_next_hops_is_an_uplink_as_any_other() {
    lab::in_private_namespaces(|| {
        wire("lan", "up0", "192.0.2.2/24 192.0.2.3/24");
        run("ip address add 192.0.2.1/24 dev up0; ip link set up0 mtu 1400
            ip route add default nexthop via 192.0.2.2 nexthop via 192.0.2.3");
        std::fs::write("/run/t.toml", "[networks.n]\ndriver = \"bridge\"\n").unwrap();
        let plan = run(&format!("{NETREC} plan /run/t.toml"));
        assert!(plan.contains("mtu 1400,"), "{plan}");
    });
}

#[test]
fn of_several_addresses_in_a_subnet_one_sees_to_its_route() {
    lab::in_private_namespaces(|| {
        let topology = "[networks.n]\ndriver = \"bridge\"\nsubnets = [\"10.10.0.0/24\", \"fd10::/64\"]\n[containers.c]\n\
                        netns = \"c\"\n[endpoints.e]\ncontainer = \"c\"\nnetwork = \"n\"\n\
                        addresses = [\"10.10.0.5\", \"10.10.0.6\", \"fd10::5\", \"fd10::6\"]\n";
        std::fs::write("/run/t.toml", topology).unwrap();
        run(&format!("{NETREC} apply /run/t.toml"));
        let routes = || run("ip -n c route show 10.10.0.0/24; ip -n c -6 route show fd10::/64");
        let before = routes();
        run("ip -n c route delete 10.10.0.0/24; ip -n c -6 route delete fd10::/64");
        let told = run(&format!("{NETREC} apply /run/t.toml"));
        assert!(told.contains("applied: 2 steps, 0 failed"), "{told}");
        assert_eq!(routes(), before);
    });
}
