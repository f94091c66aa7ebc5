//! The price of a look at what stands under `/run/netns` of the caller, to be compared with a hand-written reader in the
//! same state of the machine: `unshare -nm`, a world of 1,000 namespaces, then this with `--ignored --nocapture`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]
#![expect(clippy::print_stderr, reason = "a measurement is to be seen")]

use std::time::Instant;

use netrec::kernel::{netns, read};
use netrec::model::wire::{NetnsRef, Owner, Scope};

#[test]
#[ignore = "a measurement, of the world its caller built"]
fn a_look_at_every_name() {
    let names = netns::names().unwrap();
    let containers = names.iter().map(|name| (name.as_str().into(), NetnsRef::Named(name.as_str().into()))).collect();
    let all = Scope {
        owner: Owner::new("shop"),
        containers,
        several: std::collections::BTreeSet::new(),
        sysctls: Vec::new(),
    };
    let none = Scope { containers: netrec::model::shared::Shared::default(), ..all.clone() };
    for (what, scope) in [("all in the scope", all), ("none in the scope", none)] {
        let mut times: Vec<_> = (0..15)
            .map(|_| {
                let start = Instant::now();
                let facts = read::facts(&scope).unwrap();
                assert_eq!(facts.namespaces.len(), scope.containers.len() + 1);
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        eprintln!("{} names, {what}: median {:?}, least {:?}", names.len(), times[7], times[0]);
    }
}
