//! A watcher in whose way something stands: what it says of that meanwhile, and how it goes on.

#![expect(clippy::unwrap_used, reason = "a test may end at once")]

mod watched;
mod world;

use watched::{SHOP, Watcher, is_as, is_quiet, settled};
use world::sh;

/// That a link has lost its IPv6 is seen at the link, when an address on it is refused; Linux says so only while it has some.
#[test]
fn ipv6_that_is_switched_off_behind_its_back_is_switched_on_again() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--look-every", "1h"]);
        let before = settled();
        watcher.ask(r#"{"version":1,"do":"suspend"}"#);
        sh("ip -6 address flush dev br-front");
        watcher.until(|standing| standing["drifted"].as_u64() > Some(0));
        is_quiet(&watcher);
        sh("echo 1 > /proc/sys/net/ipv6/conf/br-front/disable_ipv6");
        is_quiet(&watcher);
        watcher.ask(r#"{"version":1,"do":"resume"}"#);
        is_as(&before);
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/br-front/disable_ipv6").trim(), "0");
        watcher.end();
    });
}

/// What is refused as a whole heals nothing, and the time without the firewall counts as long as that lasts.
#[test]
fn what_stands_in_the_way_is_told_and_the_time_without_the_firewall_counts() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--look-every", "1h"]);
        let before = settled();
        let port = sh("ip -br link show master br-front | head -1 | sed 's/@.*//'").trim().to_owned();
        sh(&format!("ip link set {port} group 5"));
        watcher.until(|standing| standing["state"] == "degraded");
        let events = watcher.events();
        let rejected = events.lines().find(|line| line.contains("\"rejected\"")).unwrap();
        assert!(rejected.contains("\"kept\":false"), "{rejected}");
        sh("nft flush ruleset");
        watcher.until(|standing| standing["unguarded"]["now_ms"].as_u64() > Some(1_000));
        assert_eq!(watcher.standing().unwrap()["state"], "degraded");
        sh(&format!("ip link delete {port}"));
        watcher.until(|standing| standing["state"] == "in_sync" && standing["unguarded"]["times"] == 1);
        assert!(watcher.standing().unwrap()["unguarded"]["total_ms"].as_u64() > Some(1_000));
        is_as(&before);
        watcher.end();
    });
}
