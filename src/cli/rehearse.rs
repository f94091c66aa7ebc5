//! `netrec rehearse`: apply, verify, apply again and destroy on a host to throw away.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use toml::Spanned;

use super::apply::{exit, run};
use super::failure::{self, Failure};
use super::load::{Loaded, load};
use super::outcome::Outcome;
use super::{Exit, Format, Input, output, plan};
use crate::apply::{Report, Target, able, prepare};
use crate::diff::render::{self, Summary};
use crate::kernel::linux::Linux;
use crate::kernel::{Kernel, KernelError, netlink, netns, throwaway};
use crate::model::resource::{HOST, Kind};
use crate::model::topology::{Container, Item, Topology};
use crate::model::wire::Scope;

/// The link that stands in for what the host reaches the world through.
const UPLINK: &str = "netrec-uplink";

/// Its MTU in bytes, and that of others' bridges: Ethernet's.
const MTU: u32 = 1500;

/// Apply for real in throw-away namespaces: this host is not touched, and no privilege is needed.
///
/// Applies, verifies, applies again, destroys and looks whether anything is left, all in user, mount and network
/// namespaces that end with the command. What the topology expects of a host is stood in for: an uplink, bridges of
/// others, and empty namespaces for containers that netrec does not make itself.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  netrec rehearse shop.toml
  netrec rehearse --format json topologies/      in CI: ends with 0 only if all of it went well")]
pub(super) struct Rehearse {
    #[command(flatten)]
    pub(super) input: Input,
}

impl Rehearse {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut loaded = load(&self.input.paths)?;
        throwaway::enter()?;
        unprotect(&mut loaded.topology);
        let stand_ins = stand_in(&mut loaded.topology)?;
        let (topology, mut kernel) = (&loaded.topology, Linux::default());
        let (wanted, nothing) = (Target::Topology(topology), Target::Nothing(&topology.name, Some(topology)));
        let before = inventory(&mut kernel, &wanted.scope())?;
        let mut stage = Stage { loaded: &loaded, format: self.input.output.format, kernel, errors: Vec::new() };

        for it in &stand_ins {
            stage.tell(&format!("stand-in: {it}\n"));
        }
        let (plan, applied) = stage.act("applied", wanted)?;
        let again = stage.again(wanted)?;
        let (_, destroyed) = stage.act("destroyed", nothing)?;
        let after = inventory(&mut stage.kernel, &wanted.scope())?;
        let left: Vec<String> = before.symmetric_difference(&after).cloned().collect();
        for it in left.iter().map(String::as_str).chain(left.is_empty().then_some("nothing")) {
            stage.tell(&format!("left: {it}\n"));
        }

        let idle = again.changes == Summary::default() && again.writes == 0;
        let unclean = if idle && left.is_empty() { Exit::Done } else { Exit::NotConverged };
        let exits = [exit(&applied), exit(&destroyed), unclean];
        if stage.format == Format::Json {
            output::say_json(&Rehearsed {
                version: 1,
                stand_ins,
                plan,
                applied: Outcome::new(&applied, &loaded),
                again,
                destroyed: Outcome::new(&destroyed, &loaded),
                left,
                errors: stage.errors,
            });
        }
        Ok(exits.into_iter().find(|exit| *exit != Exit::Done).unwrap_or(Exit::Done))
    }
}

#[derive(Serialize)]
struct Rehearsed {
    version: u32,
    stand_ins: Vec<String>,
    plan: serde_json::Value,
    applied: Outcome,
    again: Again,
    destroyed: Outcome,
    left: Vec<String>,
    errors: Vec<failure::Json>,
}

/// The second apply.
#[derive(Serialize)]
struct Again {
    changes: Summary,
    writes: u64,
}

/// Where the acts of a rehearsal are played.
struct Stage<'a> {
    loaded: &'a Loaded,
    format: Format,
    kernel: Linux,
    errors: Vec<failure::Json>,
}

impl Stage<'_> {
    fn tell(&self, text: &str) {
        if self.format == Format::Text {
            output::say(text);
        }
    }

    /// Plans, shows and does. The plan of a removal is what was seen already, backwards: only its outcome is told.
    fn act(&mut self, verb: &str, target: Target) -> Result<(serde_json::Value, Report), Failure> {
        let sources = &self.loaded.sources;
        let unplanned = |no_plan| Failure::unplanned(no_plan, sources);
        let prepared = prepare(&mut self.kernel, target).map_err(unplanned)?;
        able(&mut self.kernel, &prepared).map_err(unplanned)?;
        if matches!(target, Target::Topology(_)) {
            self.tell(&plan::text(&prepared));
        }
        let plan = serde_json::to_value(plan::json(&prepared, self.loaded)).expect("our own types have string keys");
        let report = run(&mut self.kernel, target, prepared).map_err(unplanned)?;
        self.tell(&Outcome::new(&report, self.loaded).text(verb, &report));
        if let Some(failed) = Failure::of_steps(&report, sources) {
            failed.complain();
            self.errors.extend(failed.json());
        }
        Ok((plan, report))
    }

    /// Applies a second time: there must be nothing to do, and nothing may be written.
    fn again(&mut self, target: Target) -> Result<Again, Failure> {
        let unplanned = |no_plan| Failure::unplanned(no_plan, &self.loaded.sources);
        let writes = netlink::counters().writes;
        let prepared = prepare(&mut self.kernel, target).map_err(unplanned)?;
        let changes = Summary::of(&prepared.diff, 0);
        if prepared.diff.is_empty() {
            self.tell("again: nothing to do\n");
            run(&mut self.kernel, target, prepared).map_err(unplanned)?;
        } else {
            self.tell(&format!("{}again: {changes}\n", render::text(&prepared.diff)));
        }
        Ok(Again { changes, writes: netlink::counters().writes - writes })
    }
}

/// What is made here is destroyed here, on purpose.
fn unprotect(topology: &mut Topology) {
    topology.networks.values_mut().for_each(|item| Arc::make_mut(&mut item.value).protect = None);
    topology.containers.values_mut().for_each(|item| Arc::make_mut(&mut item.value).protect = None);
    topology.endpoints.values_mut().for_each(|item| Arc::make_mut(&mut item.value).protect = None);
}

/// Makes what the topology expects of a host, and says what was made.
fn stand_in(topology: &mut Topology) -> Result<Vec<String>, KernelError> {
    throwaway::uplink(UPLINK, MTU)?;
    let mut made = vec![format!("uplink {UPLINK} with default routes, mtu {MTU}")];
    let mut bridges = BTreeSet::new();
    for network in topology.networks.values() {
        let Some(options) = network.bridge.as_ref().map(Spanned::get_ref) else { continue };
        let external = options.external.as_ref().is_some_and(|external| *external.get_ref());
        if let (true, Some(name)) = (external, options.name.as_ref().map(Spanned::get_ref))
            && bridges.insert(name)
        {
            throwaway::bridge(name, MTU)?;
            made.push(format!("bridge {name}, mtu {MTU}"));
        }
    }
    let on_host: BTreeSet<String> = topology.on_host().into_iter().map(str::to_owned).collect();
    for (name, container) in &mut topology.containers {
        if on_host.contains(name) {
            let own = "/proc/self/ns/net".to_owned();
            put(container, |place| Container { path: Some(Spanned::new(place, own)), ..Container::default() });
            made.push(format!("the throw-away host for container {name}"));
        } else if let Some(netns) = awaited(name, container) {
            throwaway::namespace(&netns)?;
            made.push(format!("empty namespace {netns} for container {name}"));
        }
    }
    Ok(made)
}

/// The namespace of a container that netrec does not make itself: from now on a named one, under the name by which ids
/// call it anyway.
fn awaited(name: &str, container: &mut Item<Container>) -> Option<String> {
    if let Some(netns) = &container.netns {
        let waited_for = container.create.as_ref().is_some_and(|create| !*create.get_ref());
        return waited_for.then(|| netns.get_ref().clone());
    }
    put(container, |place| Container { netns: Some(Spanned::new(place, name.to_owned())), ..Container::default() });
    Some(name.to_owned())
}

/// Has a container stand for what is in the file, at the place of its name.
fn put(container: &mut Item<Container>, of: impl FnOnce(Range<usize>) -> Container) {
    container.part = container.name;
    container.value = Arc::new(of(0..(container.name.end - container.name.start) as usize));
}

/// Everything on the host that could be left over or lost, whosever it is.
fn inventory(kernel: &mut Linux, scope: &Scope) -> Result<BTreeSet<String>, KernelError> {
    let seen = kernel.observe(scope)?;
    let ours = seen.ours.iter().filter(|(_, resource)| !resource.stays()).map(|(id, _)| id.to_string());
    let links = seen.foreign.links.keys().map(|(netns, link)| format!("{netns}/link/{link}"));
    let routes = seen.foreign.routes.iter().map(|(netns, route)| format!("{netns}/route/{}", route.destination));
    let chains = seen.foreign.chains.iter().map(|it| format!("{HOST}/chain/{} {} {}", it.family, it.table, it.chain));
    let namespaces = netns::names()?.into_iter().map(|name| format!("{HOST}/netns/{name}"));
    Ok(ours.chain(links).chain(routes).chain(chains).chain(namespaces).collect())
}
