//! `netrec watch` on the real kernel: every drift is healed, nobody is fought, and whoever asks is told.

#![allow(clippy::print_stderr, reason = "what is measured is for people")]

mod watched;
mod world;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use watched::{FILE, Fighter, NETREC, SHOP, Watcher, has_bridge, is_as, picture, settled, wait_for};
use world::{full_size, sh, within};

#[test]
fn every_drift_is_healed() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &["--look-every", "1h"]);
        let before = settled();
        let port = sh("ip -br link show master br-front | head -1 | sed 's/@.*//'").trim().to_owned();
        for drift in [
            "ip link delete br-front",
            &format!("ip link delete {port}"),
            &format!("ip link set {port} nomaster"),
            &format!("ip link set {port} down"),
            "ip -n api link set eth0 down",
            "ip link set br-front mtu 1400",
            "ip link set br-front address 02:00:00:00:00:01",
            "ip address flush dev br-front",
            "ip -n api address delete 10.10.0.10/24 dev eth0",
            "ip -n db -6 address flush dev eth0 scope global",
            "ip -n db route delete default",
            "ip -n db -6 route delete default",
            "echo 0 > /proc/sys/net/ipv4/ip_forward",
            "nft flush ruleset",
            "nft delete table inet netrec-shop",
            "nft delete table inet netrec-user",
            "nft flush chain inet netrec-shop forward 2>/dev/null || nft flush table inet netrec-shop",
            "ip netns delete api",
            "ip -n db link delete eth0",
            "ip netns add another && mount --bind /run/netns/another /run/netns/db",
        ] {
            let corrective = watcher.counter("corrective");
            sh(drift);
            watcher.until(|standing| standing["counters"]["corrective"].as_u64().unwrap() > corrective);
            is_as(&before);
            let contested = watcher.standing().unwrap()["contested"].to_string();
            assert_eq!(contested, "[]", "after `{drift}`");
        }
        watcher.end();
    });
}

/// Seconds of a fight; `NETREC_FIGHT=60 cargo test --test watch a_fighter -- --nocapture` is the full size, in which what
/// the watcher takes of a processor counts, too.
const FIGHT: u64 = 3;

#[test]
fn a_fighter_is_named_and_left_alone() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &[]);
        let before = settled();
        let told = watcher.events().lines().count();
        let fighter = Fighter::start("ip -n api route delete default 2>/dev/null");
        watcher.until(|standing| standing["state"] == "contested");
        sh("ip link delete br-front");
        wait_for(has_bridge).expect("all else is healed");
        let full = full_size("NETREC_FIGHT");
        let seconds = full.unwrap_or(FIGHT);
        let (looks, taken) = (watcher.counter("looks"), watcher.processor());
        std::thread::sleep(Duration::from_secs(seconds));
        let looks = watcher.counter("looks") - looks;
        let taken = watcher.processor().saturating_sub(taken);
        let percent = taken.as_secs_f64() * 100. / Duration::from_secs(seconds).as_secs_f64();
        assert!(looks < 7 * seconds, "{looks} looks in {seconds} seconds");
        let events = watcher.events();
        let lines = events.lines().count() - told;
        eprintln!("a fight of {seconds} s: {looks} looks, {lines} lines, 10 at most");
        assert!(lines <= 10, "{events}");
        within(2., percent, "percent of a processor", full.is_some());
        let contested = events.lines().find(|line| line.contains("contested")).unwrap();
        assert!(contested.contains("api/route/0.0.0.0/0"), "{contested}");
        drop(fighter);
        // A person need not wait for the minute to pass.
        fs::write(FILE, SHOP.to_owned() + "# all quiet\n").unwrap();
        is_as(&before);
        watcher.until(|standing| standing["state"] == "in_sync");
    });
}

#[test]
fn whoever_flushes_the_rules_is_named() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &[]);
        let fighter = Fighter::start("nft flush ruleset");
        // The table for rules of users is flushed, too, and may be given up first.
        watcher.until(|standing| standing["contested"].to_string().contains("host/firewall/netrec-shop"));
        drop(fighter);
        let events = watcher.events();
        let of_firewall = |line: &&str| line.contains("\"contested\",\"id\":\"host/firewall/netrec-shop");
        let contested = events.lines().find(of_firewall).unwrap();
        assert!(contested.contains("(nft)"), "{contested}");
        let said = sh(&format!("{NETREC} status {FILE}"));
        assert!(said.contains("\ncontested: host/firewall/netrec-shop: process "), "{said}");
    });
}

#[test]
fn time_without_the_firewall_is_counted() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &[]);
        let unguarded = |name: &str| watcher.standing().unwrap()["unguarded"][name].as_u64();
        assert_eq!((unguarded("times"), unguarded("last_ms")), (Some(0), None), "the first apply opens nothing");
        sh("nft flush ruleset");
        watcher.until(|standing| standing["unguarded"]["times"] == 1);
        assert_eq!(watcher.count("unguarded"), 1);
        // What nobody puts right counts from the announcement on until somebody does.
        assert!(watcher.ask(r#"{"version":1,"do":"suspend"}"#).is_some());
        sh("nft delete table inet netrec-shop");
        let gone = watcher.until(|standing| standing["unguarded"]["now_ms"].as_u64() > Some(50));
        assert_eq!(gone["unguarded"]["times"], 1);
        assert!(watcher.ask(r#"{"version":1,"do":"resume"}"#).is_some());
        watcher.until(|standing| standing["unguarded"]["times"] == 2 && standing["unguarded"]["now_ms"].is_null());
        assert!(unguarded("last_ms") > Some(50) && unguarded("total_ms") >= unguarded("last_ms"));
        let said = Command::new(NETREC).args(["status", FILE]).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("\nwithout the firewall: 2 times, "), "{said}");
    });
}

/// `NETREC_OVERFLOW=20 cargo test --test watch lost -- --nocapture` does it so often, and then the time counts, too.
#[test]
fn lost_announcements_mean_a_full_look() {
    world::run(|| {
        let (full, mut longest) = (full_size("NETREC_OVERFLOW"), Duration::ZERO);
        let watcher = Watcher::of(SHOP, &["--look-every", "1h", "--event-buffer", "2048"]);
        let before = settled();
        let batch = "address add 192.0.2.1/32 dev lo\naddress delete 192.0.2.1/32 dev lo\n".repeat(5_000);
        fs::write("/run/batch", batch).unwrap();
        for number in 0..full.unwrap_or(1) {
            // Whoever loses a bridge too often is fought with; whoever changes the file is not.
            fs::write(FILE, format!("{SHOP}# {number}\n")).unwrap();
            watcher.until(|standing| standing["counters"]["accepted"].as_u64() == Some(number + 2));
            let overflows = watcher.counter("overflows");
            // Stopped, it cannot read.
            watcher.signal(Signal::SIGSTOP);
            sh("ip -batch /run/batch; ip link delete br-front");
            watcher.signal(Signal::SIGCONT);
            let start = Instant::now();
            is_as(&before);
            longest = longest.max(start.elapsed());
            watcher.until(|standing| standing["counters"]["overflows"].as_u64() > Some(overflows));
        }
        assert!(watcher.count("overflow") > 0);
        within(Duration::from_secs(2), longest, "10,000 announcements that are lost", full.is_some());
    });
}

#[test]
fn one_watcher_a_topology() {
    world::run(|| {
        let first = Watcher::of(SHOP, &[]);
        let second = Command::new(NETREC).args(["watch", FILE]).output().unwrap();
        assert_eq!(second.status.code(), Some(8), "{second:?}");
        let other = SHOP.replace("\"shop\"", "\"other\"").replace("10.10.", "10.11.").replace("fd10:", "fd11:");
        let other = other.replace("br-front", "br-other").replace("\"api\"", "\"api2\"").replace("\"db\"", "\"db2\"");
        let other = other.replace("containers.api", "containers.api2").replace("containers.db", "containers.db2");
        fs::write("/run/files/other", other.replace("8080", "8081")).unwrap();
        let other = Watcher::start("/run/files/other", "other", &[]);
        other.until(|standing| standing["state"] == "in_sync");
        sh("ip link delete br-other; ip link delete br-front");
        for watcher in [&first, &other] {
            watcher.until(|standing| standing["counters"]["corrective"].as_u64().unwrap() > 0);
            watcher.until(|standing| standing["state"] == "in_sync");
        }
        first.end();
        other.end();
    });
}

#[test]
fn killed_and_started_again_it_goes_on() {
    world::run(|| {
        let mut watcher = Watcher::of(SHOP, &[]);
        let before = settled();
        for _ in 0..5 {
            watcher.signal(Signal::SIGKILL);
            watcher.child.wait().unwrap();
            assert_eq!(picture(), before, "what was made stays");
            sh("ip link delete br-front; ip netns delete api");
            watcher = Watcher::start(FILE, "shop", &[]);
            is_as(&before);
            // In the middle of its work.
            sh("ip link delete br-front");
            watcher.signal(Signal::SIGKILL);
            watcher.child.wait().unwrap();
            watcher = Watcher::start(FILE, "shop", &[]);
            is_as(&before);
        }
        is_as(&before);
        for _ in 0..3 {
            let corrective = watcher.counter("corrective");
            sh("ip link set br-front mtu 1400");
            watcher.until(|standing| standing["counters"]["corrective"].as_u64().unwrap() > corrective);
        }
        watcher.until(|standing| standing["state"] == "in_sync");
        watcher.end();
        assert_eq!(sh("ls /run/netrec").trim(), "shop.lock");
        let history = sh(&format!("{NETREC} history shop --format json"));
        let history: serde_json::Value = serde_json::from_str(&history).unwrap();
        let [entry] = history["records"].as_array().unwrap().as_slice() else { panic!("{history:#}") };
        assert_eq!((&entry["command"], &entry["result"]), (&"watch".into(), &"in sync".into()), "{entry:#}");
        // Once more if the one before was killed before it had healed.
        let plan = entry["plan"].to_string();
        assert!(plan.contains("br-front (3 times)") || plan.contains("br-front (4 times)"), "{entry:#}");
    });
}

/// A service manager would wait for it in vain, and end it: there is nothing that time alone will better.
#[test]
fn one_that_is_refused_at_its_start_is_ready_and_says_why() {
    world::run(|| {
        let manager = UnixDatagram::bind("/run/notify").unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut said = String::new();
        let mut says = |words: &[&str]| {
            while !words.iter().all(|word| said.contains(word)) {
                let mut bytes = [0; 4096];
                let length = manager.recv(&mut bytes).unwrap_or_else(|error| panic!("{words:?} in {said}: {error}"));
                said += &format!("{}\n", std::str::from_utf8(&bytes[..length]).unwrap());
            }
        };
        sh("ip link add br-front type bridge; mkdir /run/files");
        fs::write(FILE, SHOP).unwrap();
        let mut command = Command::new(NETREC);
        command.env("NOTIFY_SOCKET", "/run/notify");
        let watcher = Watcher::start_as(command, FILE, "shop", &[]);
        says(&["READY=1", "STATUS=degraded: ", "br-front"]);
        sh("ip link delete br-front");
        watcher.signal(Signal::SIGHUP);
        says(&["STATUS=in sync"]);
        settled();
    });
}

#[test]
fn suspended_it_writes_nothing() {
    world::run(|| {
        let watcher = Watcher::of(SHOP, &[]);
        let netrec = |arguments: &[&str]| Command::new(NETREC).args(arguments).output().unwrap();
        assert!(netrec(&["suspend", "--topology", "shop"]).status.success());
        let before = settled();
        sh("ip link delete br-front");
        watcher.until(|standing| standing["drifted"].as_u64().unwrap() > 0);
        assert_eq!(netrec(&["wait", FILE, "--timeout", "200ms"]).status.code(), Some(6));
        assert!(!has_bridge());
        assert!(netrec(&["resume", FILE]).status.success());
        assert_eq!(netrec(&["wait", FILE, "--timeout", "20s"]).status.code(), Some(0));
        is_as(&before);
        assert!(netrec(&["suspend", FILE, "--for", "300ms"]).status.success());
        sh("ip link delete br-front");
        is_as(&before);
        watcher.end();
        assert_eq!(netrec(&["suspend", FILE]).status.code(), Some(1), "nobody is there");
    });
}

#[test]
fn containers_come_and_go() {
    world::run(|| {
        let waiting = SHOP.replace("netns = \"db\"", "path = \"/run/sandboxes/deep/db\"");
        let waiting = waiting.replace("netns = \"api\"", "netns = \"api\"\ncreate = false");
        let watcher = Watcher::of(&waiting, &["--look-every", "1h"]);
        assert_eq!(watcher.standing().unwrap()["pending"].as_object().unwrap().len(), 2);
        for _ in 0..3 {
            sh("ip netns add api");
            watcher.until(|standing| standing["pending"]["api"].is_null());
            assert!(sh("ip -n api address show eth0").contains("10.10.0.10/24"));
            // Its directory appears after the watcher looked for it.
            sh("mkdir -p /run/sandboxes/deep; touch /run/sandboxes/deep/db; unshare --net=/run/sandboxes/deep/db true");
            watcher.until(|standing| standing["state"] == "in_sync");
            assert!(sh("nsenter --net=/run/sandboxes/deep/db ip address show eth0").contains("10.10.0.20/24"));
            sh("ip netns delete api; umount -l /run/sandboxes/deep/db; rm -r /run/sandboxes");
            watcher.until(|standing| standing["pending"].as_object().unwrap().len() == 2);
            wait_for(|| sh("ip -br link show type veth").is_empty()).expect("nothing is left of them");
        }
        // Another namespace under the same name, in one go.
        sh("ip netns add api");
        watcher.until(|standing| standing["pending"]["api"].is_null());
        sh("ip netns delete api; ip netns add api");
        wait_for(|| sh("ip -n api address show").contains("10.10.0.10/24")).expect("the new one is attached");
    });
}

/// Linux gives the number and the inode of a namespace that is gone to the next one, be it one of ours or not.
#[test]
fn numbers_of_namespaces_are_used_again() {
    world::run(|| {
        let waiting = SHOP.replace("netns = \"db\"", "netns = \"db\"\ncreate = false");
        let waiting = waiting.replace("netns = \"api\"", "netns = \"api\"\ncreate = false");
        let watcher = Watcher::of(&waiting, &["--look-every", "1h"]);
        let has = |netns: &str, address: &str| sh(&format!("ip -n {netns} -br address show")).contains(address);
        let healed = |what: &str| {
            for (netns, address) in [("api", "10.10.0.10/24"), ("db", "10.10.0.20/24")] {
                wait_for(|| has(netns, address)).unwrap_or_else(|| {
                    let complaints = fs::read_to_string("/run/complaints").unwrap();
                    panic!("{netns} {what}\n{}\n{complaints}\n{:?}", watcher.events(), watcher.standing())
                });
            }
        };
        let stranger = "ip netns add stranger; ip netns set stranger auto; ip -n stranger link set lo up";
        sh("ip netns add api; ip netns add db");
        healed("is attached");
        let turns = [
            format!("ip netns delete api; {stranger}; ip netns add api"),
            "ip netns delete db; ip netns add db; ip netns delete stranger".into(),
            format!("ip netns delete api; ip netns delete db; {stranger}; ip netns add db; ip netns add api"),
            "ip netns delete stranger; ip netns delete api; ip netns add api".into(),
        ];
        for (number, turn) in turns.iter().cycle().take(4 * turns.len()).enumerate() {
            // What is undone too often would be left alone, but for somebody who changes the file.
            let accepted = watcher.counter("accepted");
            fs::write(FILE, format!("{waiting}# {number}\n")).unwrap();
            watcher.until(|standing| standing["counters"]["accepted"].as_u64() > Some(accepted));
            // It may hear of all that as it happens, or at once.
            let held_up = number % 2 == 1;
            if held_up {
                watcher.signal(Signal::SIGSTOP);
            }
            sh(turn);
            if held_up {
                watcher.signal(Signal::SIGCONT);
            }
            healed(&format!("is attached anew after `{turn}`"));
            for (netns, address) in [("db", "10.10.0.20/24"), ("api", "10.10.0.10/24")] {
                sh(&format!("ip -n {netns} address delete {address} dev eth0"));
                healed(&format!("is heard after `{turn}`"));
            }
        }
    });
}

#[test]
fn a_process_is_attached_when_it_is_there() {
    world::run(|| {
        sh("ip netns add sandbox");
        let process = world::Process::start("sandbox");
        let path = format!("path = \"/proc/{}/ns/net\"", process.id());
        let watcher = Watcher::of(&SHOP.replace("netns = \"db\"", &path), &["--look-every", "1h"]);
        watcher.until(|standing| standing["state"] == "in_sync");
        assert!(sh("ip -n sandbox address show eth0").contains("10.10.0.20/24"));
        drop(process);
        sh("ip netns delete sandbox");
        watcher.until(|standing| standing["state"] == "pending");
    });
}

#[test]
fn whoever_may_ask_is_told() {
    world::run(|| {
        fs::create_dir_all("/run/files").unwrap();
        fs::write("/run/hook", "#!/bin/sh\necho \"$NETREC_TOPOLOGY $NETREC_FROM $NETREC_STATE\" >> /run/hooked\n")
            .unwrap();
        fs::set_permissions("/run/hook", fs::Permissions::from_mode(0o755)).unwrap();
        let watcher = Watcher::of(SHOP, &["--listen", "127.0.0.1:9100", "--hook", "/run/hook"]);
        let socket = fs::metadata("/run/netrec/shop.sock").unwrap().permissions().mode();
        assert_eq!(socket & 0o777, 0o600);
        let get = |path: &str| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:9100").unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        assert!(get("/healthz").starts_with("HTTP/1.0 200 OK"));
        assert!(get("/metrics").contains("netrec_state{topology=\"shop\",state=\"in sync\"} 1\n"));
        assert!(get("/else").starts_with("HTTP/1.0 404"));
        assert!(watcher.ask("nonsense").unwrap()["error"].as_str().unwrap().contains("not understood"));
        assert!(watcher.ask(r#"{"version":2,"do":"status"}"#).unwrap()["error"].is_string());
        // Somebody who says nothing keeps nobody else from asking.
        let silent: Vec<UnixStream> = (0..10).map(|_| UnixStream::connect("/run/netrec/shop.sock").unwrap()).collect();
        fs::remove_file(FILE).unwrap();
        watcher.until(|standing| standing["state"] == "degraded");
        assert!(get("/healthz").starts_with("HTTP/1.0 503"));
        drop(silent);
        wait_for(|| fs::read_to_string("/run/hooked").is_ok_and(|it| it.ends_with("shop in sync degraded\n"))).unwrap();
        assert_eq!(fs::read_to_string("/run/hooked").unwrap(), "shop starting in sync\nshop in sync degraded\n");
        let far = Command::new(NETREC).args(["watch", "--listen", "0.0.0.0:9100", FILE]).output().unwrap();
        assert_eq!(far.status.code(), Some(64));
    });
}

#[test]
fn what_is_watched_is_applied_by_its_watcher() {
    world::run(|| {
        let netrec = |arguments: &[&str]| {
            let output = Command::new(NETREC).args(arguments).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            (output.status.code(), text)
        };
        // So patient that only `apply` can be what makes it read its files.
        let watcher = Watcher::of(SHOP, &["--debounce", "1h", "--poll-every", "1h"]);
        // So long that its reader takes the lock before it knows whose it is.
        fs::write(FILE, SHOP.replace("mtu = 1500", "mtu = 1400") + &"# long\n".repeat(8_000)).unwrap();
        let (code, text) = netrec(&["apply", FILE]);
        assert!(code == Some(0) && text.contains("verified"), "{text}\n{}", watcher.events());
        assert!(sh("ip link show br-front").contains(" mtu 1400 "));
        assert_eq!(watcher.counter("accepted"), 2);
        let (code, text) = netrec(&["status", FILE]);
        assert!(code == Some(0) && text.contains("topology shop: in sync\nwatched: "), "{text}");
        // What would be undone is not done.
        fs::write("/run/files/other", SHOP.replace("mtu = 1500", "mtu = 1450")).unwrap();
        let (code, text) = netrec(&["apply", "/run/files/other"]);
        assert!(code == Some(8) && text.contains("the watcher's files say something else"), "{text}");
        let (code, text) = netrec(&["destroy", FILE]);
        assert!(code == Some(8) && text.contains("is watched"), "{text}");
        assert!(has_bridge());
        netrec(&["suspend", FILE]);
        let (code, text) = netrec(&["status", "--exit-code", FILE]);
        assert!(code == Some(2) && text.contains("topology shop: suspended"), "{text}");
        assert_eq!(netrec(&["destroy", FILE]).0, Some(0));
        assert!(!has_bridge());
        assert_eq!(netrec(&["resume", FILE]).0, Some(0));
        wait_for(has_bridge).unwrap_or_else(|| {
            panic!(
                "{:#?}\n{}\n{}",
                watcher.standing(),
                watcher.events(),
                fs::read_to_string("/run/complaints").unwrap()
            )
        });
        watcher.signal(Signal::SIGHUP);
        watcher.until(|standing| standing["state"] == "in_sync");
    });
}

/// How many looks a long life has, amid twenty announcements for each that is asked for. The full size is ten times as many:
/// `NETREC_SOAK=100000 cargo test --release --test watch a_long_life -- --nocapture`, which takes some minutes.
const LOOKS: u64 = 10_000;

#[test]
fn a_long_life_in_short() {
    world::run(|| {
        let looks = full_size("NETREC_SOAK").unwrap_or(LOOKS);
        let watcher = Watcher::of(SHOP, &[]);
        let batch = "address add 192.0.2.1/32 dev lo\naddress delete 192.0.2.1/32 dev lo\n".repeat(5);
        let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut batches = 0;
        let mut live = |looks: u64| {
            let enough = watcher.counter("looks") + looks;
            while watcher.counter("looks") < enough {
                ip.stdin.as_mut().unwrap().write_all(batch.as_bytes()).unwrap();
                batches += 1;
                watcher.ask(r#"{"version":1,"do":"apply"}"#).unwrap();
            }
            let process = format!("/proc/{}", watcher.child.id());
            let entries = |of: &str| fs::read_dir(format!("{process}/{of}")).unwrap().count();
            // Whoever asked last, and the threads of the last look, may not be gone for good yet: the least of some looks.
            let counted: Vec<[usize; 2]> = (0..20)
                .map(|_| {
                    std::thread::sleep(Duration::from_millis(10));
                    ["task", "fd"].map(entries)
                })
                .collect();
            let least = [0, 1].map(|n| counted.iter().map(|counts| counts[n]).min().unwrap());
            let status = fs::read_to_string(format!("{process}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
            (line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap(), least)
        };
        let (warm, [threads, fds]) = live(looks / 10);
        let (later, least) = live(looks);
        eprintln!("{} looks: {warm} kB, later {later} kB; {fds} descriptors", watcher.counter("looks"));
        assert!(later <= warm + warm / 20, "{warm} kB grew to {later} kB");
        assert_eq!(least, [threads, fds], "threads and descriptors");
        drop(ip.stdin.take());
        assert!(ip.wait().unwrap().success());
        // How many looks one question leads to depends on what is announced meanwhile; each address is, and its route.
        wait_for(|| watcher.counter("announcements") >= batches * 20).expect("each change was heard");
    });
}
