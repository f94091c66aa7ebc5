//! The files that `netrec watch` follows, on the real kernel: every saved content is followed once, and nothing bad that
//! happens to the files deletes anything.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod watched;
mod world;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use watched::{FILE, NETREC, SHOP, Watcher, is_as, settled};
use world::{full_size, sh, within};

/// How often each way to save a file is gone, and at how many bytes it is cut off: in the suite, and in full by
/// `NETREC_SAVES=50 cargo test --test saving` (then at each byte).
const SAVES: usize = 2;

fn saves() -> usize {
    full_size("NETREC_SAVES").map_or(SAVES, |saves| saves as usize)
}

/// How long it may take until what was saved is seen and done.
const SEEN: Duration = Duration::from_secs(2);

/// All links with their numbers: one that was removed and made again has another.
fn links() -> String {
    sh("ip -o link show | cut -d: -f1,2")
}

#[test]
fn every_way_to_save_is_followed_once() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--poll-every", "1h"]);
        let (mut mtu, before, mut longest) = (1400, links(), (Duration::ZERO, String::new()));
        let mut saved = |way: &str, save: &dyn Fn(&str)| {
            mtu += 1;
            let (accepted, rejected) = (watcher.counter("accepted"), watcher.counter("rejected"));
            save(&SHOP.replace("mtu = 1500", &format!("mtu = {mtu}")));
            let start = Instant::now();
            watcher.until(|_| mtu_is(mtu));
            longest = longest.clone().max((start.elapsed(), way.to_owned()));
            // Long enough for whatever would follow.
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(watcher.counter("accepted"), accepted + 1, "{way}");
            assert_eq!(watcher.counter("rejected"), rejected, "{way}");
            assert_eq!(links(), before, "{way}");
        };
        for _ in 0..saves() {
            saved("in place", &|text| fs::write(FILE, text).unwrap());
            saved("by rename", &|text| {
                fs::write("/run/files/.new", text).unwrap();
                fs::rename("/run/files/.new", FILE).unwrap();
            });
            saved("deleted and made again", &|text| {
                fs::remove_file(FILE).unwrap();
                std::thread::sleep(Duration::from_millis(50));
                fs::write(FILE, text).unwrap();
            });
            saved("piece by piece", &|text| {
                let mut file = fs::File::create(FILE).unwrap();
                for piece in text.as_bytes().chunks(100) {
                    file.write_all(piece).unwrap();
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            saved("by another link", &|text| {
                let name = format!("/run/files/{}", text.len() + sh("ls /run/files").len());
                fs::write(&name, text).unwrap();
                symlink(&name, "/run/files/.link").unwrap();
                fs::rename("/run/files/.link", FILE).unwrap();
            });
            saved("as Kubernetes does", &|text| {
                let folder = format!("/run/files/..{}", sh("ls -a /run/files | wc -l").trim());
                fs::create_dir(&folder).unwrap();
                fs::write(format!("{folder}/shop.toml"), text).unwrap();
                symlink(&folder, "/run/files/..data_tmp").unwrap();
                fs::rename("/run/files/..data_tmp", "/run/files/..data").unwrap();
                if fs::read_link(FILE).is_ok_and(|target| !target.ends_with("..data/shop.toml")) {
                    symlink("..data/shop.toml", "/run/files/.link").unwrap();
                    fs::rename("/run/files/.link", FILE).unwrap();
                }
            });
            fs::remove_file(FILE).unwrap();
        }
        let (longest, way) = longest;
        let what = format!("six ways to save, each {} times, of which that {way} took longest", saves());
        within(SEEN, longest, &what, full_size("NETREC_SAVES").is_some());
    });
}

/// A script may cut something out of the file in one line and put it back in the next.
#[test]
fn what_is_cut_out_and_put_back_at_once_stays() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--poll-every", "1h", "--debounce", "4s"]);
        let (accepted, before) = (watcher.counter("accepted"), links());
        let start = SHOP.find("[endpoints.api-front]").unwrap();
        let end = SHOP[start + 1..].find("\n[").map_or(SHOP.len(), |at| start + 1 + at + 1);
        fs::write("/run/files/.new", [&SHOP[..start], &SHOP[end..]].concat()).unwrap();
        fs::rename("/run/files/.new", FILE).unwrap();
        // It is read meanwhile, and waited with for an eighth of the time of quiet.
        std::thread::sleep(Duration::from_millis(100));
        fs::OpenOptions::new().append(true).open(FILE).unwrap().write_all(&SHOP.as_bytes()[start..end]).unwrap();
        // More than that eighth, and far less than all of it.
        std::thread::sleep(Duration::from_millis(1_500));
        assert_eq!((watcher.counter("accepted"), links()), (accepted, before.clone()));
        watcher.until(|standing| standing["counters"]["accepted"].as_u64().unwrap() > accepted);
        watcher.until(|standing| standing["state"] == "in_sync");
        assert_eq!((watcher.counter("accepted"), links()), (accepted + 1, before));
    });
}

#[test]
fn every_truncation_deletes_nothing() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--debounce", "10ms", "--poll-every", "1h"]);
        let (before, cuts) = (links(), saves() * 11);
        let mut followed = SHOP.to_owned();
        for cut in 0..cuts {
            // What is left is seen, and stays for as long as it takes to be sure of that.
            let end = cut * SHOP.trim_end().len() / cuts;
            fs::write(FILE, &followed[..end]).unwrap();
            watcher.until(|standing| standing["state"] == "degraded");
            let accepted = watcher.counter("accepted");
            let mtu = 1300 + cut;
            followed = SHOP.replace("mtu = 1500", &format!("mtu = {mtu}"));
            fs::write(FILE, &followed).unwrap();
            watcher.until(|standing| {
                standing["state"] == "in_sync" && standing["counters"]["accepted"].as_u64().unwrap() > accepted
            });
            assert!(sh("ip link show br-front").contains(&format!(" mtu {mtu} ")), "after {end} bytes");
            assert_eq!(watcher.counter("accepted"), accepted + 1, "after {end} bytes");
            assert_eq!(links(), before, "after {end} bytes");
        }
        // Meant so, it is said so.
        fs::write(FILE, &followed[..followed.find("[endpoints.db-front]").unwrap()]).unwrap();
        watcher.until(|standing| standing["state"] == "degraded");
        assert_eq!(links(), before);
        sh(&format!("{NETREC} apply {FILE}"));
        assert_ne!(links(), before);
    });
}

/// Runs a test while somebody writes without a pause.
fn in_a_storm(file: &str, text: &str, scene: impl FnOnce()) {
    let mut writer = Command::new("sh")
        .args(["-c", "while :; do printf %s \"$2\" >\"$1\"; sleep 0.002; done", "sh", file, text])
        .spawn()
        .unwrap();
    let result = catch_unwind(AssertUnwindSafe(scene));
    writer.kill().unwrap();
    writer.wait().unwrap();
    result.unwrap_or_else(|panic| resume_unwind(panic));
}

fn mtu_is(mtu: u32) -> bool {
    sh("ip link show br-front").contains(&format!(" mtu {mtu} "))
}

#[test]
fn what_is_none_of_its_files_is_not_waited_for() {
    world::run(|| {
        // Ten times as long is more than is waited for below.
        let watcher = Watcher::of(SHOP, &["--poll-every", "1h", "--debounce", "2500ms"]);
        in_a_storm("/run/files/other.toml", "nonsense", || {
            fs::write(FILE, SHOP.replace("mtu = 1500", "mtu = 1400")).unwrap();
            watcher.until(|_| mtu_is(1400));
        });
    });
    world::run(|| {
        fs::create_dir("/run/files").unwrap();
        fs::write(FILE, SHOP).unwrap();
        let watcher = Watcher::start("/run/files", "shop", &["--poll-every", "1h", "--debounce", "2500ms"]);
        watcher.until(|standing| standing["state"] == "in_sync");
        in_a_storm("/run/files/.shop.toml.swp", "nonsense", || {
            let more = "[networks.more]\ndriver = \"bridge\"\nbridge.name = \"br-more\"\n";
            fs::write("/run/files/more.toml", more).unwrap();
            watcher.until(|_| sh("ip -br link show type bridge").contains("br-more"));
        });
    });
}

#[test]
fn a_file_that_is_written_all_the_time_is_read_nevertheless() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--poll-every", "1h"]);
        in_a_storm(FILE, &SHOP.replace("mtu = 1500", "mtu = 1400"), || drop(watcher.until(|_| mtu_is(1400))));
    });
}

#[test]
fn whatever_becomes_of_the_file_nothing_is_deleted() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &[]);
        let before = settled();
        let spoil: [(&str, &dyn Fn()); 8] = [
            ("empty", &|| fs::write(FILE, "").unwrap()),
            ("half", &|| fs::write(FILE, &SHOP[..SHOP.len() / 2]).unwrap()),
            ("nonsense", &|| fs::write(FILE, [0xff; 100]).unwrap()),
            ("gone", &|| ()),
            ("a directory", &|| fs::create_dir(FILE).unwrap()),
            ("a pipe", &|| drop(sh(&format!("mkfifo {FILE}")))),
            ("a link to itself", &|| symlink("shop.toml", FILE).unwrap()),
            ("too long", &|| drop(sh(&format!("truncate -s 10G {FILE}")))),
        ];
        for (what, spoil) in spoil {
            sh(&format!("rm -rf {FILE}"));
            spoil();
            let standing = watcher.until(|standing| standing["state"] == "degraded");
            assert!(standing["reason"].as_str().unwrap().contains("shop"), "{what}: {standing}");
            let status = Command::new(NETREC).args(["status", FILE]).output().unwrap();
            let said = String::from_utf8(status.stdout).unwrap();
            assert!(said.starts_with("topology shop: degraded\nwatched: ") && said.contains("\ndegraded: "), "{said}");
            assert_ne!(status.status.code(), Some(0), "{what}");
            sh(&format!("rm -rf {FILE}"));
            fs::write(FILE, SHOP).unwrap();
            watcher.until(|standing| standing["state"] == "in_sync");
            is_as(&before);
        }
        // Of another topology: what is watched would be left to nobody.
        fs::write(FILE, SHOP.replace("\"shop\"", "\"other\"")).unwrap();
        let standing = watcher.until(|standing| standing["state"] == "degraded");
        assert!(standing["reason"].as_str().unwrap().contains("topology other"), "{standing}");
        sh("ip link delete br-front");
        is_as(&before);
        assert_eq!(watcher.counter("intentional"), watcher.standing().unwrap()["resources"].as_u64().unwrap());
    });
}
