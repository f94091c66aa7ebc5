//! Laws that every kind of resource keeps, and every difference and plan, over whatever random topologies are lowered to.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may end at once and speak for itself")]
#![allow(dead_code, reason = "the random stories are told elsewhere")]

mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netrec::diff::render::text;
use netrec::diff::{diff, differing, plan::plan};
use netrec::model::kinds::KindName;
use netrec::model::kinds::firewall::{Element, Mapping};
use netrec::model::kinds::route::MAIN;
use netrec::model::kinds::sysctl::Sysctl;
use netrec::model::lower::{lower, turned};
use netrec::model::observed::{Claim, ForeignLink, ForeignRoute, Observed};
use netrec::model::parse::parse_again;
use netrec::model::resource::{HOST, Kind, Need, Resource, ResourceId, Thing};
use netrec::model::source::Source;
use netrec::model::state::State;
use netrec::model::topology::Topology;
use netrec::model::values::{Ports, Protocol};
use netrec::model::wire::Absent;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use random::{Edit, Event, Story, read};

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

/// The files of a story of which each edit is applied, each read with what the one before it said still.
fn edited(story: &Story) -> Vec<Topology> {
    let edits = story.edits.iter().flat_map(|edit| [*edit, Edit::Apply]).collect();
    let mut all: Vec<(Vec<Source>, Topology)> = Vec::new();
    for event in (Story { edits, ..story.clone() }).events() {
        let Event::Apply(text) = event else { continue };
        let sources = vec![Source::new("random.toml", text)];
        let before = all.last().map(|(sources, topology)| (topology, sources.as_slice()));
        let Ok(topology) = parse_again(&sources, before) else { continue };
        all.push((sources, topology));
    }
    all.into_iter().map(|(_, topology)| topology).collect()
}

/// A host on which others are, too, and settings that nobody asks for.
fn busy(observed: Observed) -> (Observed, State) {
    let Observed { mut foreign, .. } = observed;
    let theirs = |mtu| ForeignLink { kind: "bridge".into(), mtu, ports: 1, topology: None };
    foreign.links.insert((HOST.into(), "br-office".into()), theirs(1400));
    foreign.links.insert(("db".into(), "eth0".into()), theirs(1500));
    let route = |to: &str| ForeignRoute {
        destination: to.parse().unwrap(),
        link: Some("up0".into()),
        table: MAIN,
        metric: 0,
        learnt: false,
    };
    foreign.routes.extend(
        [("db", "0.0.0.0/0"), ("api", "198.51.100.0/24"), (HOST, "10.16.0.0/24")]
            .map(|(netns, to)| (netns.into(), route(to))),
    );
    let ports = |first, last| Ports { first, last };
    let claim = |protocol, ports| Claim { protocol, ipv6: None, address: None, ports, holder: "a process".into() };
    foreign.claims.extend([claim(Protocol::Tcp, ports(8443, 8443)), claim(Protocol::Udp, ports(61_003, 61_003))]);
    let absent = [("n1".into(), Absent::Missing("it is not there".into()))].into();
    let setting =
        |netns: &str, key: &str| Resource::from(Sysctl { netns: netns.into(), key: key.into(), value: "1".into() });
    let settings = [
        setting(HOST, "net.bridge.bridge-nf-call-iptables"),
        setting(HOST, "net.ipv6.conf.default.disable_ipv6"),
        setting("web", "net.ipv6.conf.default.disable_ipv6"),
    ];
    (Observed { foreign, absent, looked: true, ..observed }, settings.into_iter().collect())
}

/// Whether a part of it told what is wanted otherwise after a turn from what is there; it is what all is lowered to.
fn told(before: &Topology, after: &Topology, is_busy: bool) -> bool {
    let host = |ours: &State| {
        let there = holding(ours);
        if is_busy { busy(there) } else { (there, State::default()) }
    };
    let all = |topology: &Topology, ours: &State| {
        let (mut observed, unasked) = host(ours);
        unasked.resources().for_each(|it| observed.ours.insert(it.clone()));
        lower(topology, &observed)
    };
    let first = all(before, &State::default());
    let Ok(known) = first.and_then(|first| all(before, &first.state)) else { return false };
    let state = &known.state;
    if !all(before, state).is_ok_and(|again| again.state == *state) {
        return false;
    }
    let (observed, unasked) = host(state);
    let Some(turned) = turned((before, after), &known, &observed, &unasked) else { return false };
    let is = &turned.desired.state;
    let whole = all(after, state);
    assert!(whole.is_ok(), "{whole:?}\n{before:#?}\n{after:#?}");
    let whole = whole.unwrap();
    assert!(*is == whole.state, "{}\n{before:?}\n{after:?}", text(&diff(is, &whole.state)));
    assert_eq!(turned.desired.pending, whole.pending);
    let differing: BTreeSet<ResourceId> = differing(state, is).map(Kind::id).collect();
    assert!(differing.iter().all(|id| turned.open.holds(is.get(id).or(state.get(id)).unwrap())));
    !differing.is_empty()
}

/// The topology, each endpoint of which names an address that another one of its network holds without naming it.
fn seizures(topology: &Topology) -> Vec<Topology> {
    let Some(state) = wanted(topology, &State::default()) else { return Vec::new() };
    let held = |name: &str| {
        let pair = state.of_kind(HOST, KindName::Veth).find_map(|it| match it {
            Resource::Veth(veth) if &*veth.label.name == name => Some(veth),
            _ => None,
        });
        let inside =
            pair.into_iter().flat_map(|veth| state.of_kind(&veth.netns, KindName::Address).map(move |it| (veth, it)));
        inside.filter_map(|(veth, it)| match it {
            Resource::Address(it) if Some(&it.link) == veth.ifname.as_ref() => Some(it.address.addr()),
            _ => None,
        })
    };
    let mut all = Vec::new();
    for name in topology.endpoints.keys() {
        let others = topology.endpoints.iter().filter(|(other, item)| {
            *other != name
                && item.addresses.is_empty()
                && item.network.get_ref() == topology.endpoints[name].network.get_ref()
        });
        for address in others.flat_map(|(other, _)| held(other)) {
            let mut seized = topology.clone();
            let item = seized.endpoints.get_mut(name).unwrap();
            Arc::make_mut(&mut item.value).addresses = vec![toml::Spanned::new(0..0, address)];
            all.push(seized);
        }
    }
    all
}

/// In how many turns from one variant of a topology to another one, and over one to three edits, a part told it.
fn told_in_part(story: &Story) -> [usize; 2] {
    let mut count = 0;
    for topology in topologies(story) {
        let (variants, seizures) = (variants(&topology), seizures(&topology));
        count += seizures.iter().filter(|after| told(&topology, after, false)).count();
        let turns = variants.iter().flat_map(|one| variants.iter().map(move |other| (one, other)));
        count += turns.filter(|(before, after)| told(before, after, story.busy_host)).count();
    }
    let edited = edited(story);
    let turns = (1..=3).flat_map(|step| edited.iter().zip(edited.iter().skip(step)));
    let turns = turns.flat_map(|(one, other)| [(one, other), (other, one)]);
    [count, turns.filter(|(before, after)| told(before, after, story.busy_host)).count()]
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
    let told: [usize; 2] = stories.map(|story| told_in_part(&story)).fold([0; 2], |[a, b], [c, d]| [a + c, b + d]);
    assert!(told[0] > 3_000 && told[1] > 500, "{told:?}");
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

/// What a part tells of an edit is what all is lowered to.
fn edit_of(before: &str, after: &str) -> bool {
    let sources = |text: &str| vec![Source::new("random.toml", text)];
    let was = parse_again(&sources(before), None).unwrap();
    let is = parse_again(&sources(after), Some((&was, &sources(before)))).unwrap();
    told(&was, &is, false)
}

const SHARING: &str = "topology = \"t\"\n[networks.n]\ndriver = \"bridge\"\nsubnets = [\"10.10.0.0/24\"]\n\
    [containers.a]\nnetns = \"a\"\n[containers.b]\nnetns = \"b\"\n[endpoints.a]\ncontainer = \"a\"\nnetwork = \"n\"\n[endpoints.b]\n\
    container = \"b\"\nnetwork = \"n\"\n";

#[test]
fn an_address_that_another_endpoint_was_given_is_named() {
    let state = wanted(&read(SHARING).unwrap(), &State::default()).unwrap();
    let Some(Resource::Address(given)) = state.of_kind("b", KindName::Address).next() else { panic!("an address") };
    let named = format!("[endpoints.a]\naddresses = [\"{}\"]\n", given.address.addr());
    edit_of(SHARING, &SHARING.replace("[endpoints.a]\n", &named));
}

/// Three that publish on one network: of the last one the host's port is chosen.
fn publishing() -> String {
    let more = "[containers.c]\nnetns = \"c\"\n[endpoints.c]\ncontainer = \"c\"\nnetwork = \"n\"\npublish = [\"80\"]\n";
    SHARING.replace("[endpoints.b]\n", "[endpoints.b]\npublish = [\"8080:80\"]\n") + more
}

fn mappings(state: &State) -> BTreeSet<Mapping> {
    let Some(Resource::Firewall(firewall)) = state.of_kind(HOST, KindName::Firewall).next() else {
        panic!("a firewall")
    };
    let mappings = firewall.elements.iter().filter_map(|it| match it {
        Element::Publish(mapping) => Some(*mapping),
        _ => None,
    });
    mappings.collect()
}

fn chosen(text: &str) -> Vec<u16> {
    let state = wanted(&read(text).unwrap(), &State::default()).unwrap();
    mappings(&state).iter().map(|mapping| mapping.ports.first).filter(|port| *port >= 61_000).collect()
}

#[test]
fn a_port_that_was_chosen_for_another_endpoint_is_named() {
    let before = publishing();
    for at in ["", "127.0.0.1:"] {
        let named = format!("[endpoints.a]\npublish = [\"{at}{}:81\"]\n", chosen(&before)[0]);
        edit_of(&before, &before.replace("[endpoints.a]\n", &named));
    }
}

#[test]
fn a_port_is_chosen_that_was_chosen_for_another_endpoint() {
    let before = publishing();
    let held = chosen(&before)[0];
    for first in ["a", "e"] {
        let more = |name: &str| {
            format!(
                "[containers.d]\nnetns = \"d\"\n[endpoints.{name}]\ncontainer = \"d\"\nnetwork = \"n\"\npublish = [\"80\"]\n"
            )
        };
        let alone = |name: &String| chosen(&format!("{}{}", SHARING, more(name))) == [held];
        let name = (0..10_000).map(|at| format!("{first}{at}")).find(alone).unwrap();
        edit_of(&before, &format!("{before}{}", more(&name)));
    }
}

#[test]
fn host_ports_once_chosen_stay_whoever_comes() {
    for publish in ["80", "127.0.0.1::80", "80-81"] {
        let endpoint = |name: &str, publish: &str| publisher(name, &format!("[\"{publish}\"]"));
        let before = format!("{SHARING}{}", endpoint("m", publish));
        let live = wanted(&read(&before).unwrap(), &State::default()).unwrap();
        let held = chosen(&before)[0];
        for first in ["c", "x"] {
            let newcomer = |at: &u32| endpoint(&format!("{first}{at}"), "80");
            let at = (0..10_000).find(|at| chosen(&format!("{SHARING}{}", newcomer(at)))[0] == held).unwrap();
            let after = wanted(&read(&format!("{before}{}", newcomer(&at))).unwrap(), &live).unwrap();
            assert!(mappings(&live).is_subset(&mappings(&after)), "{publish}");
            assert!(mappings(&after).len() > mappings(&live).len());
        }
    }
}

/// A container that publishes on the shared network.
fn publisher(name: &str, publish: &str) -> String {
    let container = format!("[containers.{name}]\nnetns = \"{name}\"\n[endpoints.{name}]\ncontainer = \"{name}\"\n");
    format!("{container}network = \"n\"\npublish = {publish}\n")
}

#[test]
fn host_ports_of_publishes_that_lead_to_the_same_stay_apart() {
    for publish in [
        r#"["80", "80-82"]"#,
        r#"["80", "0.0.0.0::80"]"#,
        r#"["80/udp", "80-90/udp"]"#,
        r#"["80-82", "81-83", "80-83"]"#,
    ] {
        let topology = read(&format!("{SHARING}{}", publisher("m", publish))).unwrap();
        let state = wanted(&topology, &State::default()).unwrap();
        assert!(wanted(&topology, &state).unwrap() == state, "{publish}");
    }
}

#[test]
fn a_publish_that_grows_takes_no_port_of_anybody() {
    let text = |grows: &str, neighbour: &str| {
        read(&format!("{SHARING}{}{}", publisher("m", grows), publisher(neighbour, r#"["80"]"#))).unwrap()
    };
    let ports = |neighbour: &str| {
        let state = wanted(&text(r#"["80"]"#, neighbour), &State::default()).unwrap();
        let ports: Vec<u16> = mappings(&state).iter().map(|mapping| mapping.ports.first).collect();
        (state, ports[0].abs_diff(ports[1]) == 1 && ports[0] != ports[1], ports)
    };
    let neighbour = (0..20_000).map(|at| format!("z{at}")).find(|name| ports(name).1).expect("one next to it");
    let (live, ..) = ports(&neighbour);
    let grown = wanted(&text(r#"["80-85"]"#, &neighbour), &live).unwrap();
    let stays = mappings(&live).intersection(&mappings(&grown)).count();
    assert_eq!(stays, 1, "the neighbour's");
    let observed = |state: &State| {
        let port = mappings(state).first().expect("one").ports.first + 1;
        let mut observed = holding(state);
        let ports = Ports { first: port, last: port };
        let holder = "a process".into();
        observed.foreign.claims = vec![Claim { protocol: Protocol::Tcp, ipv6: None, address: None, ports, holder }];
        (port, observed)
    };
    let alone = |publish: &str| read(&format!("{SHARING}{}", publisher("m", publish))).unwrap();
    let (port, observed) = observed(&wanted(&alone(r#"["80"]"#), &State::default()).unwrap());
    let grown = lower(&alone(r#"["80-82"]"#), &observed).unwrap().state;
    assert!(mappings(&grown).iter().all(|mapping| !(mapping.ports.first..=mapping.ports.last).contains(&port)));
}

#[test]
fn a_name_is_given_that_a_renamed_endpoint_was_born_with() {
    let before = read(SHARING).unwrap();
    let state = wanted(&before, &State::default()).unwrap();
    let renamed = SHARING.replace("[endpoints.a]", "[endpoints.z]");
    let moved = format!("{renamed}[[moved]]\nfrom = \"endpoints.a\"\nto = \"endpoints.z\"\n");
    let state = wanted(&read(&moved).unwrap(), &state).unwrap();
    let sources = |text: &str| vec![Source::new("random.toml", text)];
    let was = parse_again(&sources(&renamed), None).unwrap();
    let more = format!("{renamed}[containers.d]\nnetns = \"d\"\n[endpoints.a]\ncontainer = \"d\"\nnetwork = \"n\"\n");
    let is = parse_again(&sources(&more), Some((&was, &sources(&renamed)))).unwrap();
    let known = lower(&was, &holding(&state)).unwrap();
    assert!(known.state == state);
    let part = turned((&was, &is), &known, &holding(&state), &State::default()).expect("told in part");
    let whole = lower(&is, &holding(&state)).unwrap();
    assert!(part.desired.state == whole.state);
    let back = turned((&is, &was), &whole, &holding(&whole.state), &State::default()).expect("told in part");
    assert!(back.desired.state == lower(&was, &holding(&whole.state)).unwrap().state);
}
