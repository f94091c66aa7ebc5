//! Laws that every kind of resource keeps, and every difference and plan, over whatever random topologies are lowered to.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may end at once and speak for itself")]
#![allow(dead_code, reason = "the random stories are told elsewhere")]

mod random;

use std::collections::{BTreeMap, BTreeSet};

use netrec::diff::render::text;
use netrec::diff::{diff, differing, plan::plan};
use netrec::model::kinds::KindName;
use netrec::model::kinds::route::MAIN;
use netrec::model::kinds::sysctl::Sysctl;
use netrec::model::lower::{lower, turned};
use netrec::model::observed::{ForeignRoute, Observed};
use netrec::model::resource::{HOST, Kind, Need, Resource, ResourceId, Thing};
use netrec::model::state::State;
use netrec::model::topology::Topology;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use random::{Event, Story, read};

/// The files that a story applies.
fn topologies(story: &Story) -> Vec<Topology> {
    let texts = story.events().into_iter().filter_map(|event| match event {
        Event::Apply(text) => Some(text),
        Event::Destroy | Event::Drift(_) => None,
    });
    texts.filter_map(|text| read(&text)).collect()
}

/// A host on which that much is there.
fn holding(ours: &State) -> Observed {
    let present = ours.resources().filter_map(|resource| match resource {
        Resource::Netns(netns) => Some(netns.name.clone()),
        _ => None,
    });
    let mut observed = Observed { present: present.collect(), ours: ours.clone(), ..Observed::default() };
    observed.foreign.docker.extend([(false, None), (true, None)]);
    observed
}

/// What a topology is lowered to where that much is there already.
fn wanted(topology: &Topology, ours: &State) -> Option<State> {
    lower(topology, &holding(ours)).ok().map(|desired| desired.state)
}

/// The topology, and what it is without each of its endpoints, and without each of its containers.
fn variants(topology: &Topology) -> Vec<Topology> {
    let without = |name: &String| {
        let mut less = topology.clone();
        less.endpoints.remove(name);
        less
    };
    let uninhabited = |name: &String| {
        let mut less = topology.clone();
        less.containers.remove(name);
        less.endpoints.retain(|_, endpoint| endpoint.container.get_ref() != name);
        less
    };
    let less = topology.endpoints.keys().map(without).chain(topology.containers.keys().map(uninhabited));
    less.chain([topology.clone()]).collect()
}

/// In how many of all turns from a variant of a topology to another one a part of it told what is wanted; it is what the
/// whole topology is lowered to.
fn told_in_part(story: &Story) -> usize {
    let mut told = 0;
    for topology in topologies(story) {
        let variants = variants(&topology);
        for before in &variants {
            let Some(state) = wanted(before, &State::default()).and_then(|state| wanted(before, &state)) else {
                continue;
            };
            let observed = holding(&state);
            let known = lower(before, &observed).unwrap();
            if known.state != state {
                continue;
            }
            for after in &variants {
                let Some(turned) = turned((before, after), &known, &observed, &State::default()) else { continue };
                let whole = lower(after, &observed).unwrap();
                let (is, whole) = (&turned.desired.state, whole.state);
                assert!(*is == whole, "{}\n{before:?}\n{after:?}", text(&diff(is, &whole)));
                let differing: BTreeSet<ResourceId> = differing(&state, &whole).map(Kind::id).collect();
                assert!(differing.iter().all(|id| turned.open.holds(whole.get(id).or(state.get(id)).unwrap())));
                told += usize::from(!differing.is_empty());
            }
        }
    }
    told
}

/// What the files of a story are lowered to where nothing is held.
fn states(story: &Story) -> Vec<State> {
    topologies(story).iter().filter_map(|topology| wanted(topology, &State::default())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn every_kind_keeps_its_word(story in Story::any(0)) {
        for state in states(&story) {
            let mut provided = BTreeMap::<Thing, &Resource>::new();
            for (id, resource) in state.iter() {
                prop_assert_eq!(&resource.id(), id);
                prop_assert!(resource.changes(resource).is_empty(), "{id} differs from itself");
                prop_assert!(resource.summary().chars().count() <= 60, "{id}: {}", resource.summary());
                prop_assert!(!resource.summary().is_empty() && !resource.summary().contains('\n'));
                for thing in resource.provides().into_iter().filter(Thing::is_exclusive) {
                    let other = provided.insert(thing.clone(), resource);
                    prop_assert!(other.is_none(), "{thing:?} is provided by {other:?} and {id}");
                }
                let own = resource.provides();
                prop_assert!(resource.needs().iter().all(|need| !own.contains(need.thing())), "{id} needs itself");
            }
            // What something lives in is ours, or was there before: the host, a bridge or a namespace of others.
            for (id, resource) in state.iter().filter(|(id, _)| id.kind != KindName::Sysctl) {
                for need in resource.needs() {
                    let Need::Inside(thing) = need else { continue };
                    let provider = state.resources().any(|it| it.provides().contains(&thing));
                    let of_others = matches!(&thing, Thing::Netns(_)) || matches!(&thing, Thing::Link(_, name) if &**name == "br-office");
                    prop_assert!(provider || of_others, "{id} is inside {thing:?}, which nobody provides");
                }
            }
        }
    }

    #[test]
    fn any_state_becomes_any_other(one in Story::any(0), other in Story::any(0)) {
        let topologies = [topologies(&one), topologies(&other)].concat();
        let start = topologies.iter().filter_map(|topology| wanted(topology, &State::default()));
        for from in start.chain([State::default()]) {
            prop_assert!(diff(&from, &from).is_empty());
            let ends = topologies.iter().filter_map(|topology| wanted(topology, &from));
            for to in ends.chain([State::default()]) {
                let (to, from) = (&to, &from);
                let difference = diff(to, from);
                let planned = plan(&difference, to, from);
                prop_assert!(planned.is_ok(), "{planned:?} in\n{}", text(&difference));
                let planned = planned.unwrap();
                prop_assert_eq!(&plan(&diff(to, from), to, from).unwrap(), &planned, "the same twice");
                prop_assert!(text(&difference).lines().all(|line| line.chars().count() <= 100));
                prop_assert_eq!(planned.is_empty(), difference.is_empty());
            }
        }
    }
}

#[test]
fn what_a_part_is_lowered_to_is_what_the_whole_has_otherwise() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let stories = (0..150).map(|_| Story::any(0).new_tree(&mut runner).unwrap().current());
    let told: usize = stories.map(|story| told_in_part(&story)).sum();
    assert!(told > 3_000, "{told}");
}

#[test]
fn stories_have_every_kind_and_every_change() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut kinds, mut symbols) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..200 {
        let story = Story::any(0).new_tree(&mut runner).unwrap().current();
        let states = states(&story);
        kinds.extend(states.iter().flat_map(State::iter).map(|(id, _)| id.kind));
        for pair in states.windows(2) {
            symbols.extend(text(&diff(&pair[1], &pair[0])).lines().filter_map(|line| line.chars().next()));
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), KindName::ALL);
    assert_eq!(symbols.into_iter().collect::<String>(), "+-~±");
}

#[test]
fn forwarding_begins_after_the_drops_stand_and_learnt_routes_are_safe() {
    let topology = read("topology = \"t\"\n[networks.n]\ndriver = \"bridge\"\n").unwrap();
    let mut observed = Observed { looked: true, ..Observed::default() };
    let learnt = ForeignRoute {
        destination: "::/0".parse().unwrap(),
        link: Some("up0".into()),
        table: MAIN,
        metric: 1024,
        learnt: true,
    };
    observed.foreign.routes.push((HOST.into(), learnt));
    for (key, value) in
        [("net.ipv4.ip_forward", "0"), ("net.ipv6.conf.all.forwarding", "0"), ("net.ipv6.conf.up0.accept_ra", "1")]
    {
        observed.ours.insert(Sysctl { netns: HOST.into(), key: key.into(), value: value.into() }.into());
    }
    let desired = lower(&topology, &observed).unwrap();
    let steps = plan(&diff(&desired.state, &observed.ours), &desired.state, &observed.ours).unwrap().steps;
    let at = |word: &str| steps.iter().position(|step| step.id.to_string().contains(word)).unwrap();
    let (drops, learnt) = (at("/firewall/"), at("accept_ra"));
    assert!(drops < at("ip_forward") && drops.max(learnt) < at("all.forwarding"), "{steps:#?}");
}

#[test]
fn a_rule_is_there_for_as_long_as_the_routes_that_it_leads_to() {
    let several = read(include_str!("../examples/topologies/multi-homed.toml")).unwrap();
    let wanted = wanted(&several, &State::default()).unwrap();
    let ends = |from: &State, to: &State| {
        let steps = plan(&diff(to, from), to, from).unwrap().steps;
        let led = |kind| move |id: &ResourceId| id.kind == kind && (kind == KindName::Rule || id.name.contains('@'));
        let places = |kind| {
            let of = led(kind);
            let mut places = (0..steps.len()).filter(|at| of(&steps[*at].id));
            let first = places.next().unwrap();
            (first, places.next_back().unwrap_or(first))
        };
        (places(KindName::Rule), places(KindName::Route))
    };
    let (rules, routes) = ends(&State::default(), &wanted);
    assert!(rules.0 < routes.0);
    let mut less = wanted.clone();
    for (id, _) in wanted.iter().filter(|(id, _)| matches!(id.kind, KindName::Rule | KindName::Route)) {
        less.remove(id);
    }
    let (rules, routes) = ends(&wanted, &less);
    assert!(routes.1 < rules.1);
}

#[test]
fn an_address_moves_to_another_link_together_with_the_route_by_it() {
    let networks = "topology = \"t\"\n[networks.a]\ndriver = \"bridge\"\nsubnets = [\"fd15::/125\"]\n[networks.b]\n\
                    driver = \"bridge\"\nsubnets = [\"fd20::/64\"]\n[containers.job]\nnetns = \"job\"\n";
    let endpoint = |ifname: &str, network: &str, address: &str, priority: u32| {
        format!(
            "[endpoints.{ifname}]\ncontainer = \"job\"\nnetwork = \"{network}\"\nifname = \"{ifname}\"\n\
             addresses = [\"{address}\"]\ngateway_priority = {priority}\n"
        )
    };
    let before = read(&format!("{networks}{}", endpoint("eth0", "a", "fd15::5", 1))).unwrap();
    let after = format!("{networks}{}{}", endpoint("eth0", "b", "fd20::5", 1), endpoint("eth1", "a", "fd15::5", 5));
    let before = wanted(&before, &State::default()).unwrap();
    let after = wanted(&read(&after).unwrap(), &before).unwrap();
    assert!(plan(&diff(&after, &before), &after, &before).is_ok());
}
