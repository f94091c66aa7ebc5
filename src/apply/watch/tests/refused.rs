//! Files and hosts that do not let the watcher go on.

use super::*;

#[test]
fn bad_files_and_refusals_keep_the_last_good_topology() {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    host.watcher.reject("shop.toml is not there".into());
    assert_eq!(host.state(), State::Degraded);
    let bridge = host.of_kind(KindName::Bridge)[0].clone();
    host.remove(&bridge);
    host.passes(second(1));
    assert!(host.has(&bridge), "the last good topology is kept up meanwhile");
    host.somebody_makes("eth0");
    host.watcher.accept(taken(), host.now);
    host.passes(second(1));
    assert_eq!(host.state(), State::Degraded);
    host.remove(&bridge);
    host.passes(second(1));
    assert!(host.has(&bridge));
    // Whoever wants it tried again has it tried, and not for ever.
    let looks = host.watcher.standing(host.now).counters.looks;
    host.watcher.urge(host.now);
    host.remove(&bridge);
    host.passes(second(1));
    assert!(host.has(&bridge));
    let looks = host.watcher.standing(host.now).counters.looks - looks;
    assert!(looks < 10, "{looks} looks in a second");
    assert_eq!(host.told(|event| matches!(event, Event::Rejected { .. })), 2);
}

#[test]
fn what_is_refused_is_followed_soon_after_nothing_is_in_its_way() {
    for good in [Some(SHOP), None] {
        let mut host = Host::new(good.unwrap_or(SHOP));
        if good.is_some() {
            host.passes(second(1));
        }
        host.somebody_makes("eth0");
        host.watcher.accept(taken(), host.now);
        // Announcements of others, that have nothing to do with it.
        for _ in 0..30 {
            host.watcher.disturbed(host.now);
            host.passes(Duration::from_millis(100));
        }
        assert_eq!(host.state(), State::Degraded);
        // Nobody says so.
        host.kernel.foreign.links.clear();
        host.passes(second(4));
        assert!(host.has("host/bridge/eth0"), "{:#?}", host.events);
        assert_eq!(host.state(), State::Pending);
        assert_eq!(host.told(|event| matches!(event, Event::Rejected { .. })), 1, "{:#?}", host.events);
        assert_eq!(host.told(|event| *event == Event::Recovered), 1, "{:#?}", host.events);
    }
}

#[test]
fn what_is_refused_for_good_costs_next_to_nothing() {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    let looks = |host: &Host| host.watcher.standing(host.now).counters.looks;
    let bridge = host.of_kind(KindName::Bridge)[0].clone();
    host.somebody_makes("eth0");
    host.watcher.accept(taken(), host.now);
    let first = looks(&host);
    // All that goes wrong meanwhile is healed at once.
    for _ in 0..10 {
        host.passes(Duration::from_millis(11_300));
        host.remove(&bridge);
        host.passes(ROUND * 5);
        assert!(host.has(&bridge));
    }
    let minutes = looks(&host) - first;
    assert!(minutes < 50, "{minutes} looks in two minutes, 20 of them to heal");
    host.events.clear();
    let before = looks(&host);
    host.passes(second(3600));
    let hour = looks(&host) - before;
    assert!(hour < 2 * 80, "{hour} looks in an hour, a pair at each slow one");
    assert!(host.events.is_empty(), "{:#?}", host.events);
    assert_eq!(host.state(), State::Degraded);
}

#[test]
fn what_time_does_not_better_is_not_tried_again_before_the_slow_look() {
    for why in [NoPlan::Invalid(Vec::new().into()), NoPlan::Undecided(Vec::new().into())] {
        let (mut watcher, mut now, mut tried) = (Watcher::new(LIMITS), Clock::ZERO, 0);
        watcher.accept(content(SHOP), now);
        while now < second(100) {
            match watcher.next(now) {
                Next::Look(order) => {
                    tried += 1;
                    watcher.looked(seen(&order, Err((why.clone(), "wrong".into()))), now + ROUND);
                }
                Next::Wait(at) => now = at.expect("it tries again"),
            }
            watcher.disturbed(now);
        }
        assert!((2..=5).contains(&tried), "{tried}");
        watcher.urge(now);
        let Next::Look(order) = watcher.next(now) else { panic!("somebody wants it") };
        // And once more while that is under way.
        watcher.urge(now);
        watcher.looked(seen(&order, Err((why, "wrong".into()))), now);
        assert!(matches!(watcher.next(now), Next::Look(_)), "it is not for the look before");
    }
}

#[test]
fn a_host_that_cannot_be_looked_at_is_asked_again() {
    let mut watcher = Watcher::new(LIMITS);
    watcher.accept(content(SHOP), Clock::ZERO);
    let mut now = Clock::ZERO;
    let mut looks = 0;
    while now < second(60) {
        match watcher.next(now) {
            Next::Look(order) => {
                looks += 1;
                let error = crate::kernel::KernelError::Interrupted(10);
                watcher.looked(seen(&order, Err((NoPlan::Unseen(error), "busy".into()))), now + ROUND);
            }
            Next::Wait(at) => now = at.expect("it tries again"),
        }
    }
    assert!((6..=14).contains(&looks), "{looks}");
    assert_eq!(watcher.standing(now).state, State::Degraded);
    assert_eq!(watcher.events().count(), 2, "said once");
}

/// A host with a link of somebody else's in the place of the bridge, which cannot be healed so.
fn in_the_way() -> Host {
    let mut host = Host::new(SHOP);
    host.passes(second(1));
    let bridge = host.kernel.ours.iter().find(|(id, _)| id.kind == KindName::Bridge).expect("a bridge").0.clone();
    host.remove(&bridge.to_string());
    host.somebody_makes(&bridge.name);
    host
}

/// The same where nothing was ever followed.
fn in_the_way_from_the_start() -> Host {
    let mut host = in_the_way();
    host.watcher = Host::new(SHOP).watcher;
    host.events.clear();
    host
}

#[test]
fn what_is_refused_with_nothing_else_to_keep_up_is_looked_at_soon_after_something_was_announced() {
    for mut host in [in_the_way(), in_the_way_from_the_start()] {
        host.passes(second(100));
        assert_eq!(host.told(|event| matches!(event, Event::Rejected { kept: false, .. })), 1, "{:#?}", host.events);
        assert_eq!(host.told(|event| matches!(event, Event::Rejected { kept: true, .. })), 0, "{:#?}", host.events);
        // Announcements of others all the time.
        let looks = |host: &Host| host.watcher.standing(host.now).counters.looks;
        let before = looks(&host);
        for _ in 0..6_000 {
            host.watcher.heard(&Heard { changed: true, messages: 1, ..Heard::default() }, host.now);
            host.passes(Duration::from_millis(10));
        }
        let storm = looks(&host) - before;
        assert!((50..=61).contains(&storm), "{storm} looks in a minute");
        let before = looks(&host);
        host.passes(second(120));
        let quiet = looks(&host) - before;
        assert!(quiet <= 5, "{quiet} looks in two minutes");
        host.kernel.foreign.links.clear();
        host.watcher.heard(&Heard { changed: true, messages: 1, ..Heard::default() }, host.now);
        host.passes(second(2));
        assert_eq!(host.state(), State::Pending, "{:#?}", host.events);
        assert_eq!(host.told(|event| *event == Event::Recovered), 1);
    }
}

#[test]
fn what_cannot_be_healed_counts_from_when_it_was_announced() {
    let mut host = in_the_way();
    host.passes(second(20));
    assert_eq!(host.watcher.standing(host.now).unguarded.now_ms, None, "the firewall stands");
    let firewall = host.of_kind(KindName::Firewall)[0].clone();
    host.before = None; // as where it was refused from the start
    host.remove(&firewall);
    host.passes(second(15));
    assert!(!host.has(&firewall));
    assert_eq!(host.watcher.standing(host.now).unguarded.now_ms, Some(15_000));
    host.kernel.foreign.links.clear();
    host.watcher.heard(&Heard { changed: true, messages: 1, ..Heard::default() }, host.now);
    host.passes(second(2));
    let unguarded = host.watcher.standing(host.now).unguarded;
    assert_eq!((unguarded.times, unguarded.now_ms), (1, None));
    assert!((15_000..17_000).contains(&unguarded.total_ms), "{unguarded:?}");
    let healed = |event: &Event| matches!(event, Event::Changed { took_ms, .. } if *took_ms >= 35_000);
    assert_eq!(host.told(healed), 1, "{:#?}", host.events);
}

#[test]
fn the_firewall_is_put_back_where_all_else_is_refused() {
    let mut host = in_the_way();
    host.passes(second(20));
    let [firewall, address] = [KindName::Firewall, KindName::Address].map(|kind| host.of_kind(kind)[0].clone());
    host.remove(&address);
    host.remove(&firewall);
    host.passes(second(2));
    assert!(host.has(&firewall) && !host.has(&address));
    let unguarded = host.watcher.standing(host.now).unguarded;
    assert!((unguarded.times, unguarded.now_ms) == (1, None) && unguarded.total_ms < 2_000, "{unguarded:?}");
    assert_eq!(host.state(), State::Degraded);
}
