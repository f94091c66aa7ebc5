//! A watcher in whose way something stands: what it says of that meanwhile, and how it goes on.

#![expect(clippy::unwrap_used, reason = "a test may end at once")]

mod watched;
mod world;

use watched::{SHOP, Watcher, is_as, settled};
use world::sh;

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
