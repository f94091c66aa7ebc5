//! `netrec wait`: what it waits for, and what it says when that was in vain.

mod watched;
mod world;

use std::fs;
use std::process::Command;

use watched::{FILE, NETREC, SHOP, Watcher};
use world::sh;

/// Whatever the watcher has heard of it by then.
#[test]
fn what_was_just_written_is_waited_for() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &[]);
        for (octet, which) in [(30, FILE), (40, "--topology=shop")] {
            fs::write(FILE, SHOP.replace("10.10.0.10", &format!("10.10.0.{octet}"))).unwrap();
            assert!(Command::new(NETREC).args(["wait", which]).status().unwrap().success());
            assert!(sh("ip -n api address show").contains(&format!("10.10.0.{octet}/24")));
        }
        watcher.end();
    });
}

#[test]
fn what_is_not_followed_is_waited_for_in_vain_and_it_is_said_why() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &[]);
        let other = "/run/other.toml";
        fs::write(other, SHOP).unwrap();
        sh(&format!("{NETREC} wait {other}"));
        fs::write(other, SHOP.replace("10.10.0.10", "10.10.0.30")).unwrap();
        let wait = |which: &str| format!("{NETREC} wait {which} --timeout 200ms 2>&1 || echo ended with $?");
        let said = sh(&wait(other));
        assert_eq!(said, format!("topology shop: in sync with what other files say: {FILE}\nended with 6\n"));
        let said = sh(&format!("unshare -m sh -c 'mount -t tmpfs none /run/files; {}'", wait("--topology shop")));
        assert!(said.contains(&format!("cannot read `{FILE}`")) && said.ends_with("ended with 3\n"), "{said}");
        watcher.end();
    });
}
