//! Ports of the host that somebody else has, or comes to have.

use std::net::{TcpListener, UdpSocket};

use super::*;

#[track_caller]
fn refused(publish: &str, because: &str) {
    let before = run("nft list ruleset; ip -o link | cut -d: -f2; ip netns");
    let (exit, said) = netrec("apply --yes", &topology("shop", 10, publish));
    assert!(exit == 4 && said.contains(because), "{publish}: {exit} {said}");
    assert!(said.contains("/run/t.toml:12:12") && said.contains(publish), "the place is shown: {said}");
    assert_eq!(run("nft list ruleset; ip -o link | cut -d: -f2; ip netns"), before);
}

#[test]
fn a_port_that_something_listens_on_is_refused() {
    in_private_namespaces(|| {
        run("ip link add up0 up type veth peer name far; ip addr add 192.0.2.1/24 dev up0");
        let _every = TcpListener::bind("[::]:8080").unwrap();
        let _four = TcpListener::bind("127.0.0.1:8081").unwrap();
        let _datagrams = UdpSocket::bind("192.0.2.1:5300").unwrap();
        let client = UdpSocket::bind("192.0.2.1:5400").unwrap();
        client.connect("192.0.2.1:9").unwrap();
        refused(r#""8080:80""#, "port 8080/tcp is taken: a process of the host listens there");
        refused(r#""192.0.2.1:8000-8090:8000-8090""#, "port 8080/tcp is taken");
        refused(r#""[::]:8080:80""#, "port 8080/tcp is taken");
        refused(r#""8081:80""#, "port 127.0.0.1:8081/tcp is taken");
        refused(r#""5300:53/udp""#, "port 192.0.2.1:5300/udp is taken");
        // Another address, family or protocol, and a client's own port, are none of it.
        applied(&topology("shop", 10, r#""192.0.2.1:8081:80", "[::]:5300:53/udp", "8080:80/udp", "5400:53/udp""#));
    });
}

#[test]
fn whoever_comes_to_a_port_that_is_published_is_told_of() {
    in_private_namespaces(|| {
        let published = topology("shop", 10, r#""8080:80""#);
        applied(&published);
        let (exit, said) = netrec("plan --exit-code", &published);
        assert!(exit == 0 && said == "nothing to do\n", "{exit} {said}");
        let _late = TcpListener::bind("0.0.0.0:8080").unwrap();
        let (exit, said) = netrec("plan --exit-code", &published);
        assert!(exit == 0 && said.contains("note: port 8080/tcp is taken: a process"), "{exit} {said}");
    });
}

#[test]
fn a_host_port_is_chosen_around_others_and_stays_when_they_go_or_come() {
    in_private_namespaces(|| {
        let chosen = |said: &str| {
            let (_, rest) = said.split_once("publish tcp ").unwrap_or_else(|| panic!("{said}"));
            rest.split_once(' ').unwrap().0.parse::<u16>().unwrap()
        };
        let shop = topology("shop", 10, r#""80""#);
        let first = chosen(&applied(&shop));
        assert_eq!(netrec("destroy --yes", &shop).0, 0);
        let listener = TcpListener::bind(("0.0.0.0", first)).unwrap();
        let second = chosen(&applied(&shop));
        assert_eq!(second, first + 1);
        drop(listener);
        assert_eq!(netrec("plan --exit-code", &shop), (0, "nothing to do\n".to_owned()));
        let _late = TcpListener::bind(("0.0.0.0", second)).unwrap();
        assert_eq!(netrec("plan --exit-code", &shop).0, 0);
    });
}

#[test]
fn a_port_that_another_topology_publishes_is_refused() {
    in_private_namespaces(|| {
        applied(&topology("other", 20, r#""8080:80", "127.0.0.1:9000-9010:9000-9010/udp""#));
        refused(r#""8080:80""#, "port 8080/tcp is taken: topology `other` publishes there");
        refused(r#""9005:80/udp""#, "port 127.0.0.1:9000-9010/udp is taken: topology `other`");
        applied(&topology("shop", 10, r#""8081:80", "8080:80/udp""#));
    });
}

#[test]
fn a_port_that_another_table_maps_is_refused() {
    in_private_namespaces(|| {
        lab::nft(
            "table ip nat { chain DOCKER { iifname != docker0 tcp dport 8080 counter dnat to 172.17.0.2:80
                                           tcp dport 7000-7010 redirect to :22; tcp dport >= 60000 redirect to :22; }
             chain PREROUTING { type nat hook prerouting priority -100; fib daddr type local counter jump DOCKER; }; }",
        );
        run("iptables -t nat -A DOCKER -p udp --dport 5000:5010 -j DNAT --to-destination 172.17.0.3");
        refused(r#""8080:80""#, "port 8080/tcp is taken: table ip nat maps elsewhere what comes there");
        refused(r#""5005:80/udp""#, "port 5000-5010/udp is taken: table ip nat maps");
        refused(r#""7005:80""#, "port 7000-7010/tcp is taken: table ip nat maps");
        refused(r#""60001:80""#, "port 60000-65535/tcp is taken: table ip nat maps");
        applied(&topology("shop", 10, r#""[::]:8080:80", "8080:80/udp", "6999:80", "7011:80""#));
    });
}
