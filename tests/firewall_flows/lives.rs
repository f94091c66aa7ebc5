//! What lives on through all that netrec does, and what ends when a network forbids it: exactly that.

use std::collections::BTreeMap;

use super::*;

/// Two containers on a network, of which one publishes ports; with a deny, so that tables are replaced behind a shut door.
fn shop(front: &str, more: &str) -> String {
    let published = topology(r#""8080:80", "127.0.0.1:9090:90", "5300:53/udp""#, "");
    published.replace("[networks.front]\n", &format!("[networks.front]\n{front}\n")) + more
}

const DENY: &str =
    "[[policies]]\naction = \"deny\"\nfrom = { cidr = \"198.51.100.0/24\" }\nto = { endpoint = \"web\" }\n";

const BACK: &str = "[networks.back]\ndriver = \"bridge\"\nsubnets = [\"10.20.0.0/24\"]\n[containers.db]\nnetns = \"db\"\n\
                    [endpoints.db]\ncontainer = \"db\"\nnetwork = \"back\"\naddresses = [\"10.20.0.10\"]\n";

fn filter_bridged(value: u8) {
    run(&format!("for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do test ! -e $f || echo {value} > $f; done"));
}

type Way = (&'static str, (&'static str, &'static str), &'static str, (&'static str, u16));

const PUBLISHED: Way = ("a published port", ("lan", "192.0.2.2"), "192.0.2.1:8080", ("web", 80));
const HAIRPIN: Way = ("a neighbour's published port", ("api", "10.10.0.11"), "192.0.2.1:8080", ("web", 80));
const OUT: Way = ("the way out", ("web", "10.10.0.10"), "192.0.2.2:80", ("lan", 80));
const WITHIN: Way = ("within the network", ("api", "10.10.0.11"), "10.10.0.10:81", ("web", 81));
const HOST: Way = ("from the host", ("", "10.10.0.1"), "10.10.0.10:82", ("web", 82));
const ACROSS: Way = ("to another network", ("web", "10.10.0.10"), "10.20.0.10:5432", ("db", 5432));
const OTHERS: Way = ("another network's way out", ("db", "10.20.0.10"), "192.0.2.2:80", ("lan", 80));
const MORE: [Way; 5] = [
    ("a published port, IPv6", ("lan", "[2001:db8::2]"), "[2001:db8::1]:8080", ("web", 80)),
    ("its own published port", ("web", "10.10.0.10"), "192.0.2.1:8080", ("web", 80)),
    ("a neighbour's published port, IPv6", ("api", "[fd10::11]"), "[2001:db8::1]:8080", ("web", 80)),
    ("the host's own published port", ("", "192.0.2.1"), "192.0.2.1:8080", ("web", 80)),
    ("a port of the loopback", ("", "127.0.0.1"), "127.0.0.1:9090", ("web", 90)),
];

/// Several to one port share who listens there.
fn talks(ways: &[Way]) -> Vec<(&'static str, Talk)> {
    let mut listeners = BTreeMap::new();
    let mut begin = |(name, from, at, server): &Way| {
        let listener = listeners.entry(*server).or_insert_with(|| Talk::listen(*server));
        (*name, Talk::with(listener, *from, at, server.0))
    };
    ways.iter().map(&mut begin).collect()
}

#[track_caller]
fn go_on(talks: &mut [(&'static str, Talk)], after: &str) {
    for (name, talk) in talks {
        assert!(talk.goes_on(), "{name} after {after}");
    }
}

/// What is said of an apply.
fn applied(topology: &str) -> String {
    let output = netrec("apply", topology);
    assert!(output.status.success() && notes().is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn all_live_on() {
    build();
    apply(&shop("", DENY));
    serve("web", 53);
    let udp = ["192.0.2.1:5300", "[2001:db8::1]:5300"].map(|to| Client::new("lan", to));
    let mut talks = talks(&[&[PUBLISHED, HAIRPIN, OUT, WITHIN, HOST], &MORE[..]].concat());
    for client in &udp {
        client.is_answered_by("web");
    }
    let begun = flows(5300);
    let mut live_on = |after: &str| {
        go_on(&mut talks, after);
        for client in &udp {
            client.is_answered_by("web");
        }
        assert_eq!(flows(5300), begun, "{after}");
    };

    apply(&shop("", &format!("{DENY}{BACK}publish = [\"8081:80\"]\n{}", policy(WEB, DB, "5432"))));
    live_on("a network, a port and a policy came");
    apply(&shop("", DENY));
    live_on("they went");

    run("nft add rule inet netrec-shop forward counter");
    let said = applied(&shop("", DENY));
    assert!(said.contains("altered"), "{said}");
    live_on("altered tables were replaced");

    run("nft delete table inet netrec-shop; nft delete table bridge netrec-shop");
    apply(&shop("", DENY));
    live_on("tables that were gone came back");
    run("nft flush ruleset");
    apply(&shop("", DENY));
    live_on("a flush of all");
}

#[test]
fn what_may_go_on_lives_through_applies_replacements_and_flushes() {
    in_private_namespaces(|| {
        filter_bridged(0);
        all_live_on();
    });
}

#[test]
fn what_may_go_on_lives_through_them_with_br_netfilter() {
    in_private_namespaces(|| {
        filter_bridged(1);
        all_live_on();
    });
}

/// One that conntrack does not know has to begin anew, also the host's own to a port that it publishes.
#[test]
fn what_the_host_said_to_its_published_ports_is_not_taken_up_in_the_middle() {
    in_private_namespaces(|| {
        build();
        apply(&shop("", ""));
        let six = ("its own published port, IPv6", ("", "[2001:db8::1]"), "[2001:db8::1]:8080", ("web", 80));
        let ways = [MORE[3], MORE[4], six];
        let mut before = talks(&ways);
        run("nft delete table inet netrec-shop; nft delete table bridge netrec-shop");
        apply(&shop("", ""));
        go_on(&mut before, "tables that were gone came back");
        run("conntrack -F 2>/dev/null");
        for (_, talk) in &mut before {
            talk.is_over();
        }
        drop(before);
        go_on(&mut talks(&ways), "it began anew");
    });
}

#[test]
fn what_goes_on_within_a_network_goes_on_when_br_netfilter_begins_to_show_it() {
    in_private_namespaces(|| {
        build();
        filter_bridged(0);
        apply(&shop("", ""));
        let mut within = talks(&[WITHIN]);
        filter_bridged(1);
        go_on(&mut within, "br_netfilter began");
    });
}

#[test]
fn what_is_denied_within_a_network_ends_with_br_netfilter_in_either_direction() {
    in_private_namespaces(|| {
        build();
        filter_bridged(1);
        apply(&shop("", ""));
        let mut within = talks(&[WITHIN]);
        let deny = "[[policies]]\naction = \"deny\"\nfrom = { endpoint = \"api\" }\nto = { endpoint = \"web\" }\n";
        apply(&shop("", &format!("{deny}ports = [\"81/tcp\"]\n")));
        within[0].1.is_over();
    });
}

#[test]
fn endpoints_that_may_not_talk_any_more_are_cut_off_from_each_other_and_from_nobody_else() {
    in_private_namespaces(|| {
        build();
        filter_bridged(0);
        let more = format!("{BACK}{}", policy(WEB, DB, ""));
        apply(&shop("", &more));
        let mut within = talks(&[&[WITHIN, PUBLISHED, HAIRPIN, OUT, HOST, ACROSS, OTHERS], &MORE[..]].concat());
        let mut others = within.split_off(1);
        apply(&shop("icc = false", &more));
        within[0].1.is_over();
        go_on(&mut others, "icc = false");
    });
}

#[test]
fn a_network_that_becomes_internal_keeps_what_stays_in_it_and_nothing_else() {
    in_private_namespaces(|| {
        build();
        filter_bridged(0);
        // Routed, for who is answered at an address of the host's is told by the host that there is nobody.
        run("ip -n lan route add 10.10.0.0/24 via 192.0.2.1");
        apply(&shop("masquerade = false", &format!("{BACK}{}", policy(WEB, DB, ""))));
        let mut stays = talks(&[WITHIN, HOST, OTHERS, OUT, ACROSS]);
        let mut goes = stays.split_off(3);
        apply(&(topology("", "").replace("[networks.front]\n", "[networks.front]\ninternal = true\n") + BACK));
        for (_, talk) in &mut goes {
            talk.is_over();
        }
        go_on(&mut stays, "internal = true");
    });
}

/// Linux redirects whom it forwards back to the link of origin. What follows that meets the rules within the bridge, to
/// which the flow is new, and an answer to it a packet that begins.
#[test]
fn flows_between_subnets_of_one_bridge_stay_with_the_host() {
    in_private_namespaces(|| {
        build();
        filter_bridged(0);
        let far = "[containers.far]\nnetns = \"far\"\n[endpoints.far]\ncontainer = \"far\"\nnetwork = \"front\"\n\
                   addresses = [\"10.30.0.10\"]\n";
        let wide = shop("", far).replace("\"10.10.0.0/24\"", "\"10.10.0.0/24\", \"10.30.0.0/24\"");
        apply(&wide);
        serve("far", 53);
        let client = Client::new("web", "10.30.0.10:53");
        let ways = || run("ip -n web route get 10.30.0.10; ip -n far route get 10.10.0.10");
        let before = ways();
        client.is_answered_by("far");
        // None for the first packet, and one in 20 ms at most (`ip_rt_send_redirect`).
        for (from, to) in [("web", "10.30.0.10"), ("far", "10.10.0.10")] {
            run(&format!("ip netns exec {from} ping -q -c 6 -i 0.1 {to}"));
        }
        assert_eq!(ways(), before);
        let deny = "[[policies]]\naction = \"deny\"\nfrom = { endpoint = \"far\" }\nto = { endpoint = \"web\" }\n";
        apply(&(wide + deny));
        client.is_answered_by("far");
    });
}

/// Only the first fragment of a packet has ports.
#[test]
fn fragments_of_what_is_permitted_pass_within_a_network() {
    for br_netfilter in [0, 1] {
        in_private_namespaces(move || {
            build();
            filter_bridged(br_netfilter);
            let deny = |from: &str, to: &str, ports: &str| {
                format!(
                    "[[policies]]\naction = \"deny\"\nfrom = {{ endpoint = \"{from}\" }}\nto = {{ endpoint = \"{to}\" }}\n{ports}\n"
                )
            };
            apply(&shop("", &(deny("web", "api", "") + &deny("api", "web", "ports = [\"53/udp\"]"))));
            let ping = |from: &str, to: &str| {
                attempt(&format!("ip netns exec {from} ping -n -q -c 1 -W 1 -s 3000 {to}")).status.success()
            };
            for [web, api] in [["10.10.0.10", "10.10.0.11"], ["fd10::10", "fd10::11"]] {
                assert!(ping("api", web), "{web}");
                assert!(!ping("web", api), "{api}");
            }
        });
    }
}
