//! `netrec trace`: which rule lets a packet through, or stops it.

mod live;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::load::{Loaded, load};
use super::{Exit, Format, Output, output};
use crate::apply::{Target, look};
use crate::kernel::linux::Linux;
use crate::kernel::privilege;
use crate::model::kinds::firewall::Service;
use crate::model::source::Origin;
use crate::model::trace::{self, Question, Sender, World};

/// Say which rule or element lets a packet through, or stops it, on the host as the plan leads to.
///
/// The rules, sets and maps that an apply would send are done for the first packet of a flow as the kernel does them, one
/// line a decision: hook, chain, rule, verdict, the elements that it found, and the keys of the topology they come from.
/// Nothing is sent and nothing is written, but with `--live`: then a table of its own marks the packet, which the kernel
/// removes with the command.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  netrec trace --from web --to db:5432 shop.toml
  netrec trace --from 192.0.2.7 --to host:8080 shop.toml       a published port, from outside
  netrec trace --from web --to '[2001:db8::1]:53/udp' shop.toml
  netrec trace -6 --from web --to db/icmp shop.toml
  netrec trace --live --from web --to db:5432 shop.toml        send one, and ask the kernel
  netrec trace --exit-code --from web --to host:22 shop.toml   2 if it does not get there")]
pub(super) struct Trace {
    /// Files, or directories of `*.toml`, that make one topology.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Who sends: an endpoint, a container, `host`, or an address outside (of a net its first).
    #[arg(long, value_name = "NAME")]
    from: String,
    /// Who is asked, and for what: `NAME:PORT[/tcp|udp|sctp]` or `NAME/icmp`; NAME as in `--from`.
    #[arg(long, value_name = "NAME:PORT")]
    to: String,
    #[command(flatten)]
    family: Family,
    /// Send such a packet from there, too, and say what the kernel's own trace tells of it. A port that is open is
    /// connected to and closed again. Not from outside.
    #[arg(long)]
    live: bool,
    /// End with 2 if the packet does not get there.
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

/// The family to ask in.
#[derive(Args, Clone, Copy, Debug)]
struct Family {
    /// Ask in IPv4. Default: IPv4, or IPv6 where that is all that both have.
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Ask in IPv6.
    #[arg(short = '6', long)]
    ipv6: bool,
}

impl Trace {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let loaded = load(&self.paths)?;
        privilege::check()?;
        let prepared = look(&mut Linux::default(), Target::Topology(&loaded.topology))
            .map_err(|no_plan| Failure::unplanned(no_plan, &loaded.sources))?;
        let world = World::new(&loaded.topology, &prepared.desired.state, &prepared.observed);
        let family = (self.family.ipv4 || self.family.ipv6).then_some(self.family.ipv6);
        let question =
            world.question(&self.from, &self.to, family).map_err(|finding| Failure::new(Exit::Usage, finding))?;
        let traced = world.trace(&question);
        let live = if self.live { Some(live::Live::of((&world, &loaded.topology), &question, &traced)?) } else { None };
        match self.output.format {
            Format::Json => output::say_json(&json(&question, &traced, live.as_ref(), &loaded)),
            Format::Text => {
                output::say(&text(&question, &traced));
                output::say(&live.as_ref().map(live::Live::text).unwrap_or_default());
            }
        }
        let stopped = traced.outcome.is_err() || live.is_some_and(|live| live.dropped);
        Ok(if self.exit_code && stopped { Exit::Differs } else { Exit::Done })
    }
}

/// Who sends, for a person.
fn sender(question: &Question) -> String {
    match &question.from {
        Sender::Host => "host".into(),
        Sender::Container(netns, None) => netns.to_string(),
        Sender::Container(netns, Some(address)) => format!("{netns} ({address})"),
        Sender::Outside(address) => address.to_string(),
    }
}

/// One line a decision.
fn text(question: &Question, traced: &trace::Trace) -> String {
    let mut text = format!("{} from {} to {}\n", question.service, sender(question), question.to);
    let width = |of: fn(&trace::Step) -> &str| traced.steps.iter().map(|step| of(step).len()).max().unwrap_or(0);
    let (hooks, chains) = (width(|step| &step.at), width(|step| &step.chain));
    for step in &traced.steps {
        let mut line = format!("  {:<hooks$}  {:<chains$}  {}", step.at, step.chain, step.rule);
        if step.verdict.contains(' ') {
            line += &format!("  => {}", step.verdict);
        }
        if !step.elements.is_empty() {
            line += &format!("  {{ {} }}", step.elements.join(", "));
        }
        let keys: Vec<&str> = step.keys.iter().map(|key| key.path.as_str()).collect();
        if !keys.is_empty() {
            line += &format!("  [{}]", keys.join(", "));
        }
        text += line.trim_end();
        text.push('\n');
    }
    if traced.steps.is_empty() {
        text += "  nothing judges it\n";
    }
    text += &match &traced.outcome {
        Ok(who) => format!("reached: {who}\n"),
        Err(by) => format!("dropped by {by}\n"),
    };
    text
}

/// A trace for programs.
#[derive(Serialize)]
struct Traced<'a> {
    version: u32,
    topology: &'a str,
    from: String,
    to: String,
    /// `tcp`, `udp`, `sctp` or `icmp`.
    protocol: String,
    port: Option<u16>,
    steps: Vec<Step<'a>>,
    reached: bool,
    /// Whom it reached, or what ended it.
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<&'a live::Live>,
}

#[derive(Serialize)]
struct Step<'a> {
    at: &'a str,
    chain: &'a str,
    rule: &'a str,
    verdict: &'a str,
    elements: &'a [String],
    keys: Vec<Key<'a>>,
}

#[derive(Serialize)]
struct Key<'a> {
    path: &'a str,
    origin: Origin,
}

fn json<'a>(
    question: &Question,
    traced: &'a trace::Trace,
    live: Option<&'a live::Live>,
    loaded: &'a Loaded,
) -> Traced<'a> {
    let step = |step: &'a trace::Step| {
        let keys = step.keys.iter().map(|key| Key { path: &key.path, origin: key.span.origin(&loaded.sources) });
        let trace::Step { at, chain, rule, verdict, elements, .. } = step;
        Step { at, chain, rule, verdict, elements, keys: keys.collect() }
    };
    let (Ok(outcome) | Err(outcome)) = &traced.outcome;
    let (protocol, port) = match question.service {
        Service::Port(protocol, port) => (protocol.to_string(), Some(port)),
        Service::Echo => ("icmp".to_owned(), None),
    };
    Traced {
        version: 1,
        topology: &loaded.topology.name,
        from: sender(question),
        to: question.to.to_string(),
        protocol,
        port,
        steps: traced.steps.iter().map(step).collect(),
        reached: traced.outcome.is_ok(),
        outcome,
        live,
    }
}
