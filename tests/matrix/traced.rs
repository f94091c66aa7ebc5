//! What `netrec trace` says to the same questions, from the plan alone: nothing is applied yet.

use netrec::apply::{Target, prepare};
use netrec::kernel::linux::Linux;
use netrec::model::parse::parse;
use netrec::model::source::Source;
use netrec::model::trace::World;

use crate::PORTS;
use crate::probe::{Probe, What};
use crate::promise::{LAN, ROUTER};

/// Who answers as far as the first packet tells, in the order of the questions.
pub(crate) fn answers(toml: &str, probes: &[Probe]) -> Vec<Option<String>> {
    let topology = parse(&[Source::new("matrix.toml", toml)]).unwrap();
    let prepared = prepare(&mut Linux::default(), Target::Topology(&topology)).unwrap();
    let world = World::new(&topology, &prepared.desired.state, &prepared.observed);
    probes.iter().map(|probe| answer(&world, probe)).collect()
}

fn answer(world: &World, probe: &Probe) -> Option<String> {
    let family = usize::from(probe.to.is_ipv6());
    let from = match probe.from.as_str() {
        "lan" => LAN[family],
        "router" => ROUTER[family],
        name => name,
    };
    let to = match probe.what {
        What::Tcp(port) => format!("[{}]:{port}", probe.to),
        What::Udp(port) => format!("[{}]:{port}/udp", probe.to),
        What::Echo => format!("{}/icmp", probe.to),
    };
    let question = world.question(from, &to, None).unwrap_or_else(|finding| panic!("{finding:?}"));
    let trace = world.trace(&question);
    let who = trace.outcome.ok()?;
    let does = |what: &str| trace.steps.iter().any(|step| step.verdict.starts_with(what));
    // The LAN knows addresses of the host only: it neither sends to others nor answers them.
    let unknown = match (probe.from.as_str(), who.as_str()) {
        ("lan", who) => who.starts_with('e') && !does("dnat"),
        (_, "what is behind up0") => !does("snat") && !does("masquerade"),
        _ => false,
    };
    let who = match who.as_str() {
        _ if unknown => return None,
        _ if probe.what == What::Echo => "echo",
        "the host" => "host",
        "what is behind up0" => "lan",
        "what is behind up1" => "router",
        name => name,
    };
    // What is not mapped comes to a port of the host's own on which nobody listens.
    let deaf = matches!(probe.what, What::Tcp(port) | What::Udp(port) if who == "host" && !PORTS.contains(&port));
    (!deaf).then(|| who.to_owned())
}
