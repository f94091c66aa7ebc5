//! The pure parts of the loop at growing sizes: `cargo bench --bench pure`. Near-linear is the goal, and 150 ms of user
//! time for everything at 10,000 endpoints, which `cargo bench --bench pure -- stages 10000` tells; nothing here asks the
//! kernel.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::net::{IpAddr, Ipv4Addr};

use divan::Bencher;
use divan::counter::ItemsCount;
use netrec::diff::diff;
use netrec::diff::plan::plan;
use netrec::model::kinds::firewall::{Firewall, NetworkRules, Policy, Publication, policies};
use netrec::model::lower::lower;
use netrec::model::observed::Observed;
use netrec::model::parse::parse;
use netrec::model::resource::{Op, Text, Wire};
use netrec::model::source::{Source, Sources};
use netrec::model::state::{Desired, State};
use netrec::model::topology::Topology;
use netrec::model::values::{Ports, Protocol};
use netrec::model::wire::{Body, FlowFacts, NoLookup};

#[path = "workload/callgrind.rs"]
mod callgrind;
#[path = "pure/stages.rs"]
mod stages;
#[path = "workload/mod.rs"]
mod workload;

const SIZES: [usize; 3] = [100, 1_000, 10_000];

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    match words.next().as_deref() {
        Some("stages") => stages::print(words.next().and_then(|word| word.parse().ok()).unwrap_or(SIZES[2])),
        _ => divan::main(),
    }
}

fn sources(endpoints: usize) -> Sources {
    vec![Source::new("w.toml", workload::topology(endpoints))]
}

fn topology(endpoints: usize) -> Topology {
    parse(&sources(endpoints)).expect("the workload is valid")
}

fn desired(endpoints: usize) -> Desired {
    lower(&topology(endpoints), &Observed::default()).expect("the workload can be lowered")
}

#[divan::bench(args = SIZES)]
fn parsing(bencher: Bencher, endpoints: usize) {
    let sources = sources(endpoints);
    bencher.counter(ItemsCount::new(endpoints)).bench(|| parse(&sources));
}

#[divan::bench(args = SIZES)]
fn lowering(bencher: Bencher, endpoints: usize) {
    let topology = topology(endpoints);
    bencher.counter(ItemsCount::new(endpoints)).bench(|| lower(&topology, &Observed::default()));
}

#[divan::bench(args = SIZES)]
fn comparing(bencher: Bencher, endpoints: usize) {
    let (desired, nothing) = (desired(endpoints).state, State::default());
    bencher.counter(ItemsCount::new(endpoints)).bench(|| diff(&desired, &nothing));
}

#[divan::bench(args = SIZES)]
fn comparing_equals(bencher: Bencher, endpoints: usize) {
    let desired = desired(endpoints).state;
    bencher.counter(ItemsCount::new(endpoints)).bench(|| diff(&desired, &desired));
}

#[divan::bench(args = SIZES)]
fn ordering_and_proving(bencher: Bencher, endpoints: usize) {
    let (desired, nothing) = (desired(endpoints).state, State::default());
    let diff = diff(&desired, &nothing);
    bencher.counter(ItemsCount::new(endpoints)).bench(|| plan(&diff, &desired, &nothing));
}

/// Flows of 100 networks, a third of them to other networks, a third to published ports, a third to the outside, after
/// the rules became tighter: which are to be forgotten? At a number of published ports that only some may reach, and a
/// tenth as many policies.
#[divan::bench(args = [100, 10_000], sample_count = 5)]
fn judging_100_000_flows(bencher: Bencher, published: u32) {
    let inside =
        |network: u32, at: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + ((network % 100) << 8) + at % 250 + 2));
    let (bridge, subnet) =
        (|at: u32| Text::from(format!("br{at}")), |at: u32| format!("10.0.{at}.0/24").parse().expect("a net"));
    let network = |at| NetworkRules::new(bridge(at), vec![subnet(at)]);
    let publication = |at| Publication {
        listen: None,
        protocol: Protocol::Tcp,
        ports: Ports { first: 10_000 + at as u16, last: 10_000 + at as u16 },
        target: inside(at, at / 100),
        first: 80,
        allow_from: Some(vec!["192.0.2.0/24".parse().expect("a net")]),
    };
    let policy = |at: u32| Policy {
        allow: !at.is_multiple_of(3),
        from: vec![subnet(at % 100)],
        to: vec![inside(at + 1, at / 100).into()],
        ports: vec![(Protocol::Tcp, Ports { first: 5432, last: 5432 })],
    };
    let networks: Vec<NetworkRules> = (0..100).map(network).collect();
    let publications: Vec<Publication> = (0..published).map(publication).collect();
    let said = policies(&(0..published / 10).map(policy).collect::<Vec<_>>(), &[]).expect("few enough");
    let firewall = Firewall::new("w", &networks, &publications).with(said);
    let messages = Firewall::encode(&Op::Create(&firewall), &mut NoLookup).expect("it looks nothing up");
    let flows =
        messages.into_iter().find_map(|it| if let Body::Forget(flows, _) = it.body { Some(flows) } else { None });
    let flows = flows.expect("a note");
    let host: Vec<_> =
        (0..100).map(|at| (bridge(at), format!("10.0.{at}.1/24").parse().expect("an address"))).collect();
    let outside = |at: u32| IpAddr::from(Ipv4Addr::from(0xc633_6400 + at % 256));
    let flow = |at: u32| {
        let (source, destination, answers) = match at % 3 {
            0 => (inside(at, at / 100), (inside(at + 1, at / 100), 5432), (inside(at + 1, at / 100), 5432)),
            1 => (outside(at), ([192, 0, 2, 1].into(), 10_000 + (at % published) as u16), (inside(at, at / 100), 80)),
            _ => (inside(at, at / 100), (outside(at), 443), (outside(at), 443)),
        };
        let (protocol, mapped) = (Some(Protocol::Tcp), destination != answers);
        FlowFacts { protocol, source, destination, answers, mapped, assured: true, related: false }
    };
    let all: Vec<FlowFacts> = (0..100_000).map(flow).collect();
    bencher.counter(ItemsCount::new(all.len())).bench(|| {
        let flows = flows.on(&host);
        all.iter().filter(|flow| flows.is_stale(flow)).count()
    });
}
