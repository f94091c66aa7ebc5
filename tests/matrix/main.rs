//! The reachability matrix: random topologies on the real kernel, every pair of endpoints, host, a LAN neighbour and one
//! that routes to the containers' subnets, in tcp, udp and icmp, IPv4 and IPv6, compared with what the documentation
//! promises ([`promise`], written from the field docs and the design, not from the rules), and with what `netrec trace`
//! says of the same packets before anything is applied ([`traced`]).
//!
//! `NETREC_MATRIX=200` says how many topologies, `NETREC_SEED=7` with which to begin; the one that differs is printed.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may end at once and speak for itself")]

#[path = "../lab/mod.rs"]
mod lab;
mod probe;
mod promise;
mod random;
mod traced;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lab::run;
use random::{Dice, Plan};

/// As many as fit into a minute.
const TOPOLOGIES: u64 = 60;

/// Ports on which every namespace answers, in both protocols.
const PORTS: &[u16] = &[22, 53, 80, 81];

#[test]
fn packets_go_where_the_documentation_says() {
    let number = |key: &str, default: u64| std::env::var(key).ok().map_or(default, |text| text.parse().unwrap());
    let (first, count) = (number("NETREC_SEED", 1), number("NETREC_MATRIX", TOPOLOGIES));
    lab::in_private_namespaces(|| {
        let (asked, differing) = (AtomicUsize::new(0), AtomicUsize::new(0));
        for seed in first..first + count {
            lab::in_private_namespaces(|| {
                let (questions, differences) = look(seed);
                asked.fetch_add(questions, Ordering::Relaxed);
                differing.fetch_add(differences, Ordering::Relaxed);
            });
        }
        let (asked, differing) = (asked.into_inner(), differing.into_inner());
        eprintln!("{count} topologies from seed {first}: {asked} questions, {differing} differences");
        assert_eq!(differing, 0);
    });
}

/// Builds a topology and asks: how many questions, and how many were not answered as promised.
fn look(seed: u64) -> (usize, usize) {
    let plan = Plan::random(&mut Dice(seed));
    build(&plan);
    let toml = plan.toml();
    let probes = promise::questions(&plan);
    let traced = traced::answers(&toml, &probes);
    lab::apply(&toml);
    let stop = Arc::new(AtomicBool::new(false));
    let containers = plan.endpoints.iter().map(|endpoint| endpoint.name.as_str());
    for netns in containers.chain(["", "lan", "router"]) {
        probe::serve(netns, PORTS, &stop);
    }
    let answers = probe::ask(&probes);
    stop.store(true, Ordering::Relaxed);
    let differs = |how: &str, (probe, answer): (&probe::Probe, &Option<String>)| {
        let probe::Probe { from, to, what, wanted } = probe;
        (wanted != answer).then(|| format!("{what:?} from {from} to {to}: promised {wanted:?}, {how} {answer:?}"))
    };
    let asked = probes.iter().zip(&answers).filter_map(|it| differs("got", it));
    let followed = probes.iter().zip(&traced).filter_map(|it| differs("traced", it));
    let wrong: Vec<String> = asked.chain(followed).collect();
    if !wrong.is_empty() {
        let bridged = plan.bridged_frames_too;
        eprintln!("seed {seed} (br_netfilter {bridged})\n{toml}\n{}\n", wrong.join("\n"));
    }
    (probes.len(), wrong.len())
}

/// The host is the test's own namespace, with two uplinks.
fn build(plan: &Plan) {
    let bridged = u8::from(plan.bridged_frames_too);
    run(&format!("for f in /proc/sys/net/bridge/bridge-nf-call-*tables; do test ! -e $f || echo {bridged} > $f; done"));
    for (name, link, net4, net6) in
        [("lan", "up0", "192.0.2", "2001:db8:"), ("router", "up1", "198.51.100", "2001:db8:1:")]
    {
        run(&format!(
            "ip netns add {name}; ip -n {name} link set lo up
             ip link add {link} up type veth peer name eth0 netns {name}; ip -n {name} link set eth0 up
             ip addr add {net4}.1/24 dev {link}; ip -6 addr add {net6}:1/64 dev {link} nodad
             ip -n {name} addr add {net4}.2/24 dev eth0; ip -n {name} -6 addr add {net6}:2/64 dev eth0 nodad"
        ));
    }
    run("ip addr add 192.0.2.7/24 dev up0; ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2
         ip -n router route add default via 198.51.100.1; ip -n router -6 route add default via 2001:db8:1::1");
}
