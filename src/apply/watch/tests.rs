//! The watcher on the simulated kernel, with a clock that is a number.

mod refused;

use std::collections::BTreeSet;
use std::time::Duration;

use super::event::Event;
use super::reading::{Finding, Patience, Reading, is_cut_off};
use super::round::{Draft, Round, guard};
use super::standing::State;
use super::tally::Tally;
use super::{Clock, Content, Limits, Next, Order, Sight, Watcher};
use crate::apply::{NoPlan, Target};
use crate::kernel::events::{Author, Heard};
use crate::kernel::simulated::Simulated;
use crate::model::parse::parse;
use crate::model::resource::{KindName, Op, ResourceId};
use crate::model::source::Source;
use crate::model::state::State as Resources;

const SHOP: &str = r#"
topology = "shop"
[networks.front]
driver = "bridge"
subnets = ["10.10.0.0/24"]
[containers.api]
netns = "api"
[containers.db]
netns = "db"
create = false
[endpoints.api-front]
container = "api"
network = "front"
[endpoints.db-front]
container = "db"
network = "front"
"#;

const LIMITS: Limits = Limits { slow: Duration::from_mins(1), seed: 7 };
/// What a round costs on this host.
const ROUND: Duration = Duration::from_millis(10);

fn content(text: &str) -> Content {
    let sources = vec![Source::new("shop.toml", text)];
    Content::new(parse(&sources).expect("a valid topology"), sources)
}

/// A host with its watcher and its time.
struct Host {
    kernel: Simulated,
    watcher: Watcher,
    now: Clock,
    before: Option<Resources>,
    events: Vec<Event>,
    writes: usize,
}

impl Host {
    fn new(text: &str) -> Self {
        let mut watcher = Watcher::new(LIMITS);
        watcher.accept(content(text), Clock::ZERO);
        let kernel = Simulated::default();
        Self { kernel, watcher, now: Clock::ZERO, before: None, events: Vec::new(), writes: 0 }
    }

    /// Lets time go by.
    fn run(&mut self, until: Clock) {
        while self.now < until {
            match self.watcher.next(self.now) {
                Next::Look(order) => self.look(&order),
                Next::Wait(at) => self.now = at.map_or(until, |at| at.min(until)),
            }
        }
        self.events.extend(self.watcher.events());
    }

    fn look(&mut self, order: &Order) {
        let began = self.now;
        let drawn = Draft::new(
            &mut self.kernel,
            &order.content.topology,
            &order.held,
            Target::Topology(&order.content.topology),
        );
        let result = drawn.and_then(|draft| {
            if draft.is_idle() || !order.write {
                return Ok(draft.rest());
            }
            draft.carry_out(&mut self.kernel, self.before.as_ref())
        });
        if let Ok(Round { fixes, wanted, .. }) = &result {
            self.writes += fixes.len();
            self.before = Some(wanted.clone());
        }
        self.now += ROUND;
        let last = self.before.as_ref();
        let guard = result.as_ref().err().and_then(|_| guard(&mut self.kernel, &order.content.scope, last));
        let result = result.map_err(|why| {
            let text = format!("{why:?}");
            (why, text)
        });
        self.watcher.looked(Sight { began, guard, ..seen(order, result) }, self.now);
    }

    fn passes(&mut self, time: Duration) {
        self.run(self.now + time);
    }

    /// Somebody removes an object, and the kernel says so.
    fn remove(&mut self, id: &str) {
        let found = self.kernel.ours.iter().find(|(it, _)| it.to_string() == id);
        if let Some((_, resource)) = found.map(|(id, resource)| (id.clone(), resource.clone())) {
            self.kernel.drift(&Op::Delete(resource)).expect("a drift that Linux allows");
        }
        let authors = vec![Author { kind: KindName::Route, pid: 42, name: "fighter".into() }];
        self.watcher.heard(&Heard { changed: true, messages: 1, authors, ..Heard::default() }, self.now);
    }

    fn somebody_makes(&mut self, link: &str) {
        let its = crate::model::observed::ForeignLink { kind: "".into(), mtu: 1500, ports: 0, topology: None };
        self.kernel.foreign.links.insert(("host".into(), link.into()), its);
    }

    fn has(&self, id: &str) -> bool {
        self.kernel.ours.iter().any(|(it, _)| it.to_string() == id)
    }

    fn of_kind(&self, kind: KindName) -> Vec<String> {
        self.kernel.ours.iter().filter(|(id, _)| id.kind == kind).map(|(id, _)| id.to_string()).collect()
    }

    fn state(&self) -> State {
        self.watcher.standing(self.now).state
    }

    fn told(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| wanted(event)).count()
    }
}

/// How a look ended that was over at once.
fn seen(order: &Order, result: Result<Round, (NoPlan, String)>) -> Sight {
    Sight { ordered: order.at, began: order.at, whole: order.whole, took: ROUND, deaf: false, guard: None, result }
}

/// Well-formed, but it contradicts a host on which a link of somebody else's has the name.
fn taken() -> Content {
    content(&SHOP.replace("[containers.api]", "[networks.front.bridge]\nname = \"eth0\"\n[containers.api]"))
}

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn it_converges_heals_and_tells_drift_from_intent() {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    assert_eq!(host.state(), State::Pending, "db is not there yet");
    let intentional = host.watcher.standing(host.now).counters.intentional;
    assert!(intentional > 5, "all that was made was asked for: {intentional}");
    let bridge = host.of_kind(KindName::Bridge)[0].clone();
    let all = host.kernel.ours.len();
    host.remove(&bridge);
    host.passes(Duration::from_millis(50));
    assert_eq!(host.kernel.ours.len(), all, "the bridge is there again with all that went with it");
    let counters = host.watcher.standing(host.now).counters;
    assert_eq!(counters.intentional, intentional);
    assert!(counters.corrective >= 2, "the bridge and what was on it: {counters:?}");
    host.kernel.namespaces.insert("db".into());
    host.watcher.disturbed(host.now);
    host.passes(Duration::from_millis(50));
    assert_eq!(host.state(), State::InSync);
    assert_eq!(host.told(|event| matches!(event, Event::Attached { container } if container == "db")), 1);
}

#[test]
fn an_idle_watcher_looks_seldom_and_writes_nothing() {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    let (looks, writes) = (host.watcher.standing(host.now).counters.looks, host.writes);
    host.passes(second(600));
    let more = host.watcher.standing(host.now).counters.looks - looks;
    assert!((8..=14).contains(&more), "about one look a minute: {more}");
    assert_eq!(host.writes, writes);
}

#[test]
fn what_is_undone_again_and_again_is_contested_and_all_else_is_healed() {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    let (route, writes) = (host.of_kind(KindName::Route)[0].clone(), host.writes);
    let bridge = host.of_kind(KindName::Bridge)[0].clone();
    for tenth in 0..600 {
        host.remove(&route);
        if tenth == 300 {
            host.remove(&bridge);
        }
        host.passes(Duration::from_millis(100));
        if tenth == 320 {
            assert!(host.has(&bridge), "an object nobody fights about is healed within 2 s");
        }
    }
    assert_eq!(host.state(), State::Contested);
    assert_eq!(host.told(|event| matches!(event, Event::Contested { id, .. } if *id == route)), 1);
    let by = Some("process 42 (fighter)".to_owned());
    assert_eq!(host.told(|event| *event == Event::Contested { id: route.clone(), by: by.clone() }), 1);
    assert_eq!(host.watcher.standing(host.now).undone_by.get(&route), by.as_ref());
    assert!(host.writes - writes < 20, "{} writes", host.writes - writes);
    let looks = host.watcher.standing(host.now).counters.looks;
    assert!(ROUND * (looks as u32) < second(2), "{looks} looks in a minute");
    assert!(host.events.len() <= 16, "{:#?}", host.events);
    host.events.clear();
    host.passes(second(200));
    assert_eq!(host.state(), State::Pending, "the fighter has gone: tried after a minute, right for another");
    assert!(host.has(&route));
    assert_eq!(host.told(|event| matches!(event, Event::Settled { .. })), 1);
    assert!(host.watcher.standing(host.now).undone_by.is_empty());
}

#[test]
fn what_fails_is_tried_ever_more_seldom_and_told_once() {
    let mut host = Host::new(SHOP);
    host.kernel.faults = (0..100_000).collect();
    host.passes(second(600));
    assert_eq!(host.state(), State::Failed);
    assert!(host.events.len() < 12, "{:#?}", host.events);
    host.kernel.faults = BTreeSet::new();
    host.passes(second(130));
    assert_eq!(host.state(), State::Pending);
}

#[test]
fn own_echoes_end() {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    let looks = host.watcher.standing(host.now).counters.looks;
    // Announced while the look was going on, heard after it.
    host.watcher.heard(&Heard { changed: true, messages: 100, ..Heard::default() }, host.now);
    host.passes(second(2));
    assert_eq!(host.watcher.standing(host.now).counters.looks - looks, 1);
}

/// The round under way knows nothing of it, so whatever comes of that says nothing of it.
#[test]
fn what_is_accepted_while_another_is_tried_is_tried_itself() {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    let other = SHOP.replace("10.10.", "10.11.");
    host.watcher.accept(content(&other), host.now);
    let Next::Look(order) = host.watcher.next(host.now) else { panic!("it is tried") };
    host.somebody_makes("eth0");
    host.watcher.accept(taken(), host.now);
    host.look(&order);
    host.passes(second(1));
    let standing = host.watcher.standing(host.now);
    assert_eq!((standing.state, standing.digest), (State::Degraded, Some(content(&other).digest)));
    let bridge = host.of_kind(KindName::Bridge)[0].clone();
    host.remove(&bridge);
    host.passes(second(1));
    assert!(host.has(&bridge), "what was followed is kept up");
}

#[test]
fn suspended_nothing_is_written_until_time_is_up() {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    host.watcher.suspend(true, Some(second(100)), host.now);
    let bridge = host.of_kind(KindName::Bridge)[0].clone();
    host.remove(&bridge);
    host.passes(second(90));
    assert!(!host.has(&bridge));
    let standing = host.watcher.standing(host.now);
    assert_eq!((standing.state, standing.until_s), (State::Suspended, Some(10)));
    assert!(standing.drifted > 0);
    host.passes(second(11));
    assert!(host.has(&bridge));
}

#[test]
fn what_is_asked_for_while_a_round_is_under_way_gets_one_of_its_own() {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    let bridge = host.of_kind(KindName::Bridge)[0].clone();
    host.watcher.suspend(true, None, host.now);
    host.remove(&bridge);
    let Next::Look(order) = host.watcher.next(host.now) else { panic!("a look at what happened") };
    // The round has been ordered, and goes on to look later than this.
    host.watcher.suspend(false, None, host.now);
    host.now += second(1);
    host.look(&order);
    assert!(!host.has(&bridge), "it was ordered not to write");
    host.passes(second(1));
    assert!(host.has(&bridge));
}

#[test]
fn contents_count_once_they_stay() {
    let patience = Patience { quiet: second(2), settle: second(1), poll: second(30), doubt: second(60) };
    let mut reading = Reading::new(patience, 1, second(0));
    assert_eq!(reading.next(), second(30));
    // A slow writer: an event each second, and a different content whenever somebody would look.
    for at in 10..20 {
        reading.disturbed(second(at));
        assert!(reading.next() > second(at + 1), "not read while it is written");
    }
    assert_eq!(reading.read((2, true), second(21)), Finding::Unsettled);
    assert_eq!(reading.read((3, true), second(22)), Finding::Unsettled, "it grew meanwhile");
    assert_eq!(reading.next(), second(23));
    assert_eq!(reading.read((3, true), second(23)), Finding::New);
    assert_eq!(reading.read((3, true), second(53)), Finding::Known);
    // Gone for a moment between delete and create.
    reading.disturbed(second(60));
    assert_eq!(reading.read((0, true), second(62)), Finding::Unsettled);
    assert_eq!(reading.read((3, true), second(63)), Finding::Known);
}

#[test]
fn what_looks_cut_off_has_to_stay_so() {
    let file = |text: &str| [Source::new("shop.toml", text)];
    let whole = file(SHOP);
    let cut: Vec<_> = (0..SHOP.trim_end().len()).map(|end| file(&SHOP[..end])).collect();
    assert!(cut.iter().filter(|it| parse(*it).is_ok()).count() > 5);
    for cut in cut {
        assert!(is_cut_off(&cut, &whole) && !is_cut_off(&whole, &cut), "{cut:?}");
    }
    assert!(!is_cut_off(&file(SHOP.trim_end()), &whole), "nothing is missing but a line's end");
    assert!(!is_cut_off(&file(&SHOP.replace("10.10.0.0/24", "10.11.0.0/24")), &whole));
    let patience = Patience { quiet: second(2), settle: second(1), poll: second(30), doubt: second(60) };
    let mut reading = Reading::new(patience, 1, second(0));
    let settled = |reading: &mut Reading, at| {
        reading.read((2, true), second(at));
        assert_eq!(reading.read((2, true), second(at + 1)), Finding::New);
        reading.believes(second(at + 1))
    };
    assert!(!settled(&mut reading, 10));
    reading.disturbed(second(50));
    assert!(!settled(&mut reading, 52), "touched, and no longer than before");
    assert_eq!(reading.next(), second(71));
    assert!(settled(&mut reading, 71));
    assert_eq!(reading.read((2, true), second(110)), Finding::Known);
}

#[test]
fn a_thousand_changes_of_one_object_are_one_line() {
    let mut tally = Tally::default();
    assert_eq!(tally.due(), None);
    let mut entries = Vec::new();
    for at in 0..100_000 {
        let objects = vec!["host/bridge/br0".to_owned()];
        tally.note(&Event::Changed { corrective: 1, intentional: 0, objects, took_ms: 1 }, second(at));
        if tally.due().is_some_and(|due| due <= second(at)) {
            entries.extend(tally.take(second(at)));
        }
    }
    assert!(entries.len() < 40, "a day has {} entries", entries.len());
    assert_eq!(entries[0], ("61 healed, 0 asked for".into(), "~ host/bridge/br0 (61 times)\n".into()));
    assert!(tally.take(second(100_000)).is_some() && tally.take(second(100_000)).is_none());
}

#[test]
fn what_is_held_takes_along_what_cannot_be_without_it() {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    let bridge = host.kernel.ours.iter().find(|(id, _)| id.kind == KindName::Bridge).expect("a bridge").0.clone();
    let (mut wanted, mut nothing) = (host.kernel.ours.clone(), Resources::default());
    super::hold::leave(&mut wanted, &mut nothing, &BTreeSet::from([bridge.clone()]));
    let left: Vec<&ResourceId> = wanted.iter().map(|(id, _)| id).collect();
    assert!(!left.contains(&&bridge));
    assert!(left.iter().all(|id| id.kind != KindName::Address || &*id.netns != "host"), "{left:?}");
    assert!(left.iter().any(|id| id.kind == KindName::Netns), "all else stays: {left:?}");
    // One that is there is nobody's, and what is in it stays.
    let (mut wanted, mut observed) = (host.kernel.ours.clone(), host.kernel.ours.clone());
    super::hold::leave(&mut wanted, &mut observed, &BTreeSet::from([bridge.clone()]));
    assert_eq!(wanted, observed);
    assert_eq!(wanted.len(), host.kernel.ours.len() - 1);
}
