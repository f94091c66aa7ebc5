//! Random stories. Each apply must be done in one round, leave nothing to do and nothing of others touched; with steps
//! that fail, a bounded number of applies must do.
//!
//! | Variable | Meaning |
//! | --- | --- |
//! | `NETREC_STORIES=20000` | how many the simulated kernel tells, with and without faults; default 1,000 |
//! | `NETREC_KERNEL_STORIES=300` | how many Linux tells; default 40 |
//! | `NETREC_SEED=17` | tells only this one |
//!
//! The full size: `NETREC_STORIES=20000 NETREC_KERNEL_STORIES=300 cargo test --release --test sim`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may end at once and speak for itself")]

mod lab;
mod random;
mod story;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;
use netrec::apply::{NoPlan, Target, execute, prepare};
use netrec::diff::render::text;
use netrec::kernel::Kernel;
use netrec::model::kinds::KindName;
use netrec::model::lower::veth_name;
use netrec::model::resource::{HOST, Kind as _, Resource, Text};
use netrec::model::state::State;
use netrec::model::topology::Topology;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use random::{Event, Story, read, table};
use story::linux::{OnLinux, snapshot};
use story::{Before, Simulation, Teller};

/// Applies of a story, and how many of them the host's state spoke against.
#[derive(Default)]
struct Tally {
    applied: AtomicU32,
    refused: AtomicU32,
}

#[test]
fn random_stories_converge_in_one_round() {
    let tally = Tally::default();
    each_seed("NETREC_STORIES", 1_000, 0, |story| {
        let before = before(story);
        let mut simulation = Simulation::new(&before);
        let planted = (simulation.kernel.foreign.clone(), simulation.kernel.namespaces.clone());
        tell(story, &mut simulation, &tally)?;
        let left = (simulation.kernel.foreign.clone(), simulation.kernel.namespaces.clone());
        if format!("{planted:?}") == format!("{left:?}") { Ok(()) } else { Err("others' things changed".into()) }
    });
    tally.is_worth_it();
}

#[test]
fn random_stories_with_faults_converge_in_bounded_rounds() {
    each_seed("NETREC_STORIES", 1_000, 12, |story| {
        let mut simulation = Simulation::new(&before(story));
        simulation.kernel.faults = story.faults.iter().copied().collect();
        let tally = Tally::default();
        tell(story, &mut simulation, &tally)
    });
}

#[test]
fn random_stories_are_told_alike_by_linux() {
    // In one world, so that without root there is one way into it.
    lab::in_private_namespaces(|| {
        let tally = Tally::default();
        each_seed("NETREC_KERNEL_STORIES", 40, 0, |story| {
            let told = Mutex::new(Err("it panicked".into()));
            lab::in_private_namespaces(|| *told.lock().unwrap() = on_linux(story, &tally));
            told.into_inner().unwrap()
        });
        tally.is_worth_it();
    });
}

fn on_linux(story: &Story, tally: &Tally) -> Result<(), String> {
    let mut teller = OnLinux::new(&before(story));
    let planted = snapshot();
    tell(story, &mut teller, tally)?;
    let left = snapshot();
    if !teller.differences.is_empty() {
        return Err(teller.differences);
    }
    if planted == left { Ok(()) } else { Err(format!("others' things were\n{planted}\nand are\n{left}")) }
}

impl Tally {
    /// Stories that the host refuses show nothing: they must be the few.
    fn is_worth_it(&self) {
        let (applied, refused) = (self.applied.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed));
        eprintln!("{applied} applies, {refused} refused");
        assert!(refused * 4 < applied, "{refused} of {applied} applies were refused");
    }
}

/// Tells stories by their seeds, or the one that is asked for. A story that fails is made shorter first.
fn each_seed(variable: &str, default: u64, faults: usize, tell: impl Fn(&Story) -> Result<(), String>) {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let seeds = match number("NETREC_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number(variable).unwrap_or(default),
    };
    for seed in seeds {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config {
            cases: 1,
            failure_persistence: None,
            max_shrink_iters: 2_000,
            max_shrink_time: 30_000,
            ..Config::default()
        };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let told = runner.run(&Story::any(faults), |story| tell(&story).map_err(TestCaseError::fail));
        if let Err(failure) = told {
            panic!("NETREC_SEED={seed}\n{failure}");
        }
    }
}

/// What others have on a busy host: a bridge in use, an uplink, and a namespace with an interface and a way out.
fn before(story: &Story) -> Before {
    let busy = r#"
        namespaces = ["theirs"]
        links = [
            { netns = "host", name = "br-office", kind = "bridge", mtu = 1450, addresses = ["10.16.0.1/24"] },
            { netns = "host", name = "wan", kind = "veth", mtu = 1400, addresses = ["192.0.2.7/24"] },
            { netns = "theirs", name = "eth0", kind = "veth", mtu = 1500, addresses = ["198.18.0.2/24"] },
        ]
        routes = [
            { netns = "host", to = "0.0.0.0/0", link = "wan", via = "192.0.2.254" },
            { netns = "theirs", to = "0.0.0.0/0", link = "eth0", via = "198.18.0.1" },
        ]
        drops = [["inet", "wall", "forward"]]
    "#;
    if story.busy_host { toml::from_str(busy).unwrap() } else { Before::default() }
}

/// Tells a story to its end; what went wrong, if anything did.
fn tell<T: Teller>(story: &Story, teller: &mut T, tally: &Tally) -> Result<(), String> {
    let mut last: Option<Applied> = None;
    for (at, event) in story.events().into_iter().enumerate() {
        let failed = |why: String| format!("event {at}: {why}");
        match event {
            Event::Apply(text) => {
                let topology = read(&text).expect("only valid files are applied");
                let target = Target::Topology(&topology);
                if !carry_out(teller, target, story.faults.len()).map_err(failed)? {
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                tally.applied.fetch_add(1, Ordering::Relaxed);
                let held = addresses(&topology, &look(teller, target).map_err(failed)?);
                let now = Applied { text, topology, held };
                let failing = !story.faults.is_empty();
                last.iter().try_for_each(|before| stays(before, &now, failing)).map_err(failed)?;
                last = Some(now);
            }
            Event::Destroy => {
                let Some(Applied { topology, .. }) = last.take() else { continue };
                let target = Target::Nothing(&topology.name, Some(&topology));
                carry_out(teller, target, story.faults.len()).map_err(failed)?;
                let left: State = look(teller, target).map_err(failed)?;
                if let Some((id, _)) = left.iter().find(|(_, resource)| !resource.stays()) {
                    return Err(failed(format!("{id} is left")));
                }
            }
            Event::Drift(which) => {
                let Some(applied) = &mut last else { continue };
                let target = Target::Topology(&applied.topology);
                let there = look(teller, target).map_err(failed)?;
                // netrec does not know how to take away what stays.
                let there: Vec<String> =
                    there.iter().filter(|(_, it)| !it.stays()).map(|(id, _)| id.to_string()).collect();
                if !there.is_empty() {
                    teller.drift(which.get::<String>(&there), &target.scope());
                    // What lost its addresses holds none.
                    applied.held.clear();
                }
            }
        }
    }
    Ok(())
}

fn look<T: Teller>(teller: &mut T, target: Target) -> Result<State, String> {
    Ok(teller.kernel().observe(&target.scope()).map_err(|error| error.to_string())?.ours)
}

/// Applies until nothing differs, once or as often as there are steps to fail; one more finds nothing to do. False if the
/// state of the host speaks against it.
fn carry_out<T: Teller>(teller: &mut T, target: Target, faults: usize) -> Result<bool, String> {
    for tries in 0..=faults {
        teller.writes();
        let prepared = match prepare(teller.kernel(), target) {
            Ok(prepared) => prepared,
            Err(NoPlan::Invalid(_) | NoPlan::Refused(_)) if teller.writes() == 0 => return Ok(false),
            Err(no_plan) => return Err(format!("{no_plan:?}")),
        };
        let plan = text(&prepared.diff);
        let shown = |what: String| format!("{what}\n{plan}");
        let reported = execute(teller.kernel(), target, prepared.clone(), &mut |_, _| {});
        let report = reported.map_err(|no_plan| shown(format!("{no_plan:?}")))?;
        if let (0, Some((id, error))) = (faults, report.failed.first()) {
            return Err(shown(format!("{id}: {error}")));
        }
        let done = report.is_converged() && (faults > 0 || report.rounds == 1);
        if !done && tries == faults {
            return Err(shown(format!("after {} rounds\n{}of\n", report.rounds, text(&report.residual))));
        }
        if done {
            teller.reached(target, &prepared);
            break;
        }
    }
    teller.writes();
    let again = prepare(teller.kernel(), target).map_err(|no_plan| format!("again: {no_plan:?}"))?;
    if again.plan.is_empty() && teller.writes() == 0 { Ok(true) } else { Err(format!("again:\n{}", text(&again.diff))) }
}

/// What was applied last, and the addresses that endpoints have since.
struct Applied {
    text: String,
    topology: Topology,
    held: Addresses,
}

/// The addresses of endpoints, by their names.
type Addresses = BTreeMap<String, Vec<IpNet>>;

fn addresses(topology: &Topology, state: &State) -> Addresses {
    let of = |endpoint: &String| {
        let link = veth_name(&topology.name, endpoint);
        let id = netrec::model::resource::ResourceId::new(&Text::from(HOST), KindName::Veth, link);
        let Some(Resource::Veth(veth)) = state.get(&id) else { return Vec::new() };
        let held = state.of_kind(&veth.netns, KindName::Address).filter_map(|resource| match resource {
            Resource::Address(it) if Some(&it.link) == veth.ifname.as_ref() => Some(it.address),
            _ => None,
        });
        held.collect()
    };
    topology.endpoints.keys().map(|name| (name.clone(), of(name))).collect()
}

/// An endpoint that is not edited keeps its addresses, unless another asks for them by name, or its container moved and
/// steps failed between its end there and its end here: then nothing held them.
fn stays(before: &Applied, after: &Applied, failing: bool) -> Result<(), String> {
    for (name, item) in &after.topology.endpoints {
        let network = item.network.get_ref();
        let same = |section, name| table(&before.text, section, name) == table(&after.text, section, name);
        let unchanged =
            same("endpoints", name) && same("networks", network) && after.topology.networks[network].subnets.is_some();
        let held = !failing || same("containers", item.container.get_ref());
        let claimed = |net: &IpNet| after.text.contains(&format!("\"{}\"", net.addr()));
        let (had, has) = (before.held.get(name).into_iter().flatten(), &after.held[name]);
        let mut lost = had.filter(|net| !has.contains(net) && !claimed(net));
        if let (true, false, Some(lost)) = (unchanged && held, has.is_empty(), lost.next()) {
            return Err(format!("endpoint {name} lost {lost} and has {has:?}"));
        }
    }
    Ok(())
}
