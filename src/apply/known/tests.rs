//! What is known of a host, and what follows from news.

use super::*;
use crate::apply::{Target, decide};
use crate::model::kinds::address::Address;
use crate::model::kinds::firewall::Rules;
use crate::model::observed::{Claim, ForeignLink};
use crate::model::parse::{parse, parse_again};
use crate::model::source::Source;
use crate::model::values::{Ports, Protocol};

const SHOP: &str = r#"
topology = "shop"
[networks.front]
driver = "bridge"
subnets = ["10.10.0.0/24"]
[containers]
api.netns = "api"
db.netns = "db"
[endpoints]
api = { container = "api", network = "front", publish = ["80:80"] }
db = { container = "db", network = "front" }
"#;

/// The same in tables that are read by themselves.
const PLAIN: &str = r#"
topology = "shop"
[networks.front]
driver = "bridge"
subnets = ["10.10.0.0/24"]
[containers.api]
netns = "api"
[containers.db]
netns = "db"
[endpoints.api]
container = "api"
network = "front"
publish = ["80:80"]
[endpoints.db]
container = "db"
network = "front"
"#;

/// A host on which all is as wanted, and then not any more.
struct Host {
    topology: Topology,
    known: Known,
    observed: Observed,
}

fn read(text: &str) -> Topology {
    parse(&[Source::new("shop.toml", text)]).expect("a valid topology")
}

impl Host {
    fn new() -> Self {
        Self::of(SHOP)
    }

    fn of(text: &str) -> Self {
        let topology = read(text);
        let target = Target::Topology(&topology);
        let present = ["api", "db"].map(Text::from).into();
        let Prepared { desired, .. } =
            decide(target, Observed { present, looked: true, ..Observed::default() }).expect("a plan");
        let present = ["api", "db"].map(Text::from).into();
        let observed = Observed { ours: desired.state.clone(), present, ..Observed::default() };
        let known = Known::new(target.scope(), observed.clone(), desired);
        Self { topology, known, observed }
    }

    fn id(&self, netns: &str, kind: KindName) -> ResourceId {
        self.observed.ours.of_kind(netns, kind).next().map(Kind::id).expect("wanted")
    }

    /// How it is where something happened.
    fn news(&self, focus: Focus) -> News {
        let mut observed = self.observed.clone();
        observed.ours = observed.ours.resources().filter(|it| focus.holds(it)).cloned().collect();
        News {
            focus,
            observed,
            #[cfg(debug_assertions)]
            whole: self.observed.clone(),
        }
    }

    fn turn_to(&self, topology: &Topology, focus: Focus) -> Result<Option<Turn>, NoPlan> {
        self.known.turn((&self.topology, topology), lower::scope(topology), self.news(focus))
    }

    /// What is to be done where the file says something else, if that is looked into alone.
    fn turn(&self, from: &str, to: &str) -> Result<Option<Vec<String>>, NoPlan> {
        let topology = read(&SHOP.replace(from, to));
        let Some(turn) = self.turn_to(&topology, Focus::default())? else { return Ok(None) };
        let news = self.news(turn.open().clone());
        let Some(prepared) = turn.follow(news)? else { return Ok(None) };
        let goes = prepared.diff.values().any(Change::removes);
        assert!(!goes || prepared.observed.ours == self.observed.ours, "all is known for the rails");
        Ok(Some(prepared.diff.keys().map(ToString::to_string).collect()))
    }

    /// What is to be done about it, if that is looked into where something happened.
    fn follow(&self, netns: &[&str], netfilter: bool) -> Option<Vec<String>> {
        let namespaces = netns.iter().map(|netns| Text::from(*netns)).collect();
        let prepared =
            self.known.follow(self.news(Focus { namespaces, netfilter, ..Focus::default() })).expect("no flaw")?;
        assert_eq!(prepared.whole, Some(self.known.desired.state.clone()));
        assert!(prepared.diff.keys().all(|id| prepared.desired.origins.get(id).is_some()), "each has its place");
        assert_eq!(prepared.plan.steps.len(), prepared.diff.len());
        Some(prepared.diff.keys().map(ToString::to_string).collect())
    }
}

#[test]
fn what_is_gone_or_altered_there_is_put_right_and_nothing_else_is_looked_at() {
    let mut host = Host::new();
    assert_eq!(host.follow(&[], false), Some(vec![]));
    assert_eq!(host.follow(&["api", "db"], true), Some(vec![]));
    let route = host.id("api", KindName::Route);
    host.observed.ours.remove(&route);
    assert_eq!(host.follow(&["api"], false), Some(vec![route.to_string()]));
    let id = host.id(HOST, KindName::Firewall);
    let Some(Resource::Firewall(firewall)) = host.observed.ours.remove(&id) else { panic!("{id}") };
    let mut firewall = (*firewall).clone();
    firewall.rules = Rules::Altered("a rule".into());
    host.observed.ours.insert(firewall.into());
    assert_eq!(host.follow(&["api"], true), Some(vec![route.to_string(), id.to_string()]));
}

#[test]
fn a_pair_is_made_again_with_what_is_in_it() {
    let mut host = Host::new();
    let here = |(id, it): (&ResourceId, &Resource)| {
        let inside = [KindName::Address, KindName::Route].contains(&id.kind) && &*id.netns == "api";
        let pair = matches!(it, Resource::Veth(veth) if &*veth.netns == "api");
        (inside || pair).then(|| id.clone())
    };
    let gone: Vec<ResourceId> = host.observed.ours.iter().filter_map(here).collect();
    assert!(gone.iter().any(|id| id.kind == KindName::Veth) && gone.len() > 2, "{gone:?}");
    for id in &gone {
        host.observed.ours.remove(id);
    }
    let mut again = host.follow(&["api"], false).expect("news");
    again.sort_unstable();
    let mut gone: Vec<String> = gone.iter().map(ToString::to_string).collect();
    gone.sort_unstable();
    assert_eq!(again, gone);
}

#[test]
fn what_goes_is_for_a_whole_look() {
    let mut host = Host::new();
    let id = host.id("api", KindName::Address);
    let Some(Resource::Address(address)) = host.observed.ours.get(&id).cloned() else { panic!("{id}") };
    let stray = Address { address: "10.10.0.99/24".parse().expect("a net"), ..(*address).clone() };
    host.observed.ours.insert(stray.into());
    assert_eq!(host.follow(&["api"], false), None);
}

#[test]
fn who_comes_or_goes_by_itself_is_for_a_whole_look() {
    let mut host = Host::new();
    host.observed.absent.insert("web".into(), Absent::Host);
    assert_eq!(host.follow(&["api"], false), None);
    let mut host = Host::new();
    host.observed.present.remove("db");
    assert_eq!(host.follow(&["db"], false), None);
}

#[test]
fn what_others_do_there_is_for_a_whole_look() {
    let link = ForeignLink { kind: "dummy".into(), mtu: 1500, ports: 0, topology: None };
    let mut host = Host::new();
    host.observed.foreign.links.insert(("db".into(), "d0".into()), link);
    assert_eq!(host.follow(&["api"], false), Some(vec![]), "not there");
    assert_eq!(host.follow(&["db"], false), None);
    let turns = |netns: &str| {
        let there = Focus { namespaces: [netns.into()].into(), ..Focus::default() };
        host.turn_to(&host.topology, there).expect("it may be").is_some()
    };
    assert_eq!((turns("api"), turns("db")), (true, false), "also for another topology");

    let mut host = Host::new();
    host.observed.foreign.docker.insert(false, Some(7));
    assert_eq!(host.follow(&["api"], false), Some(vec![]));
    assert_eq!(host.follow(&[], true), None, "accepts are put before another rule");
}

#[test]
fn what_drifted_while_another_topology_came_is_looked_at_until_it_is_seen_to_be_right() {
    let mut host = Host::new();
    let route = host.id("api", KindName::Route);
    host.observed.ours.remove(&route);
    let published = SHOP.replace("network = \"front\" }\n", "network = \"front\", publish = [\"8080:80\"] }\n");
    let topology = read(&published);
    let api = Focus { namespaces: ["api".into()].into(), ..Focus::default() };
    let turn = host.turn_to(&topology, api.clone()).expect("it may be").expect("it is looked into alone");
    let mut both = turn.open().clone();
    both.extend(&api);
    let prepared = turn.follow(host.news(both.clone())).expect("no flaw").expect("it is looked into alone");
    assert_eq!(
        prepared.diff.keys().map(ToString::to_string).collect::<Vec<_>>(),
        [route.to_string(), "host/firewall/netrec-shop".into()]
    );
    let next = prepared.next.expect("what is known when that is done");
    assert_eq!(next.uncertain(), both);
    assert_eq!(next.settled().uncertain(), Focus::default());
}

#[test]
fn what_another_topology_wants_otherwise_is_looked_into_alone() {
    let host = Host::new();
    let turn = |from: &str, to: &str| host.turn(from, to).expect("it may be");
    assert_eq!(turn("", ""), Some(vec![]));
    let db = "db = { container = \"db\", network = \"front\"";
    let published = format!("{db}, publish = [\"8080:80\"]");
    assert_eq!(turn(db, &published), Some(vec!["host/firewall/netrec-shop".into()]));
    let gone = turn(&format!("{db} }}"), "").expect("it goes with what stands on it");
    assert!(gone.len() > 3 && gone.iter().all(|id| id.starts_with("db/") || id.starts_with("host/")), "{gone:?}");
    let front = "driver = \"bridge\"";
    assert_eq!(turn(front, "driver = \"bridge\"\nmtu = 1400"), None, "everything hangs on a bridge");
}

#[test]
fn what_others_have_by_now_counts_for_another_topology() {
    let mut host = Host::new();
    let db = "db = { container = \"db\", network = \"front\"";
    let published = format!("{db}, publish = [\"8080:80\"]");
    let ports = Ports { first: 8080, last: 8080 };
    let holder = "a process".to_owned();
    let claim = Claim { protocol: Protocol::Tcp, ipv6: None, address: None, ports, holder };
    host.observed.foreign.claims.push(claim);
    assert!(matches!(host.turn(db, &published), Err(NoPlan::Refused(_))), "the port is taken");
}

#[test]
fn what_few_containers_have_otherwise_is_lowered_by_itself_where_nobody_gives_way() {
    let host = Host::of(PLAIN);
    let turn = |from: &str, to: &str| {
        let text = [Source::new("shop.toml", PLAIN.replace(from, to))];
        let before = [Source::new("shop.toml", PLAIN)];
        let after = parse_again(&text, Some((&host.topology, &before))).expect("a valid topology");
        host.turn_to(&after, Focus::default()).expect("it may be").expect("it is looked into alone").next
    };
    let addresses = |known: &Known| -> BTreeSet<String> {
        let all =
            ["api", "db", "web"].into_iter().flat_map(|netns| known.desired.state.of_kind(netns, KindName::Address));
        all.filter_map(|it| if let Resource::Address(it) = it { Some(it.address.to_string()) } else { None }).collect()
    };
    assert!(turn("80:80", "81:80").in_part);
    let web =
        "[containers.web]\nnetns = \"web\"\n[endpoints.web]\ncontainer = \"web\"\nnetwork = \"front\"\n[endpoints.db]";
    let more = turn("[endpoints.db]", web);
    assert!(more.in_part && addresses(&more).len() == 3, "{:?}", addresses(&more));
    let Some(Resource::Address(held)) = host.observed.ours.of_kind("db", KindName::Address).next() else {
        panic!("it has an address");
    };
    let named = format!("[endpoints.api]\naddresses = [\"{}\"]\n", held.address.addr());
    let seized = turn("[endpoints.api]\n", &named);
    assert!(!seized.in_part && addresses(&seized).len() == 2, "{:?}", addresses(&seized));
}
