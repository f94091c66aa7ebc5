//! What is counted, not timed: how much netrec says to the kernel, what of it waits, and how many packets a set-up sets
//! off. All in one process, one after the other, because the counters are the process's.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

#[path = "../benches/workload/mod.rs"]
mod workload;
mod world;

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::time::Duration;

use netrec::apply::rails::Allowance;
use netrec::apply::watch::Content;
use netrec::apply::watch::round::Draft;
use netrec::apply::{Target, execute, prepare_within};
use netrec::diff::render;
use netrec::kernel::Kernel;
use netrec::kernel::linux::Linux;
use netrec::kernel::memory::Disturbed;
use netrec::kernel::netlink::{Counters, counters};
use netrec::model::lower::{self, veth_name};
use netrec::model::parse::{parse, parse_again};
use netrec::model::source::Source;
use netrec::model::wire::{NetnsRef, Scope};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use world::{Process, sh};

/// The counters are one for the process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone(test: impl FnOnce() + Send) {
    let _alone = ALONE.lock();
    world::run(test);
}

/// Applies a topology, which must converge, and tells what was said for it.
fn apply(text: &str) -> Counters {
    let topology = parse(&[Source::new("w.toml", text)]).unwrap();
    run(Target::Topology(&topology))
}

fn run(target: Target) -> Counters {
    let before = counters();
    rounds(target);
    let after = counters();
    Counters {
        sends: after.sends - before.sends,
        messages: after.messages - before.messages,
        objects: after.objects - before.objects,
        rules: after.rules - before.rules,
        writes: after.writes - before.writes,
        waits: after.waits - before.waits,
    }
}

/// Does it, which must converge, and tells how often steps were taken.
fn rounds(target: Target) -> u32 {
    let mut kernel = Linux::for_one_run();
    let prepared = prepare_within(&mut kernel, target, &Allowance::granted()).unwrap();
    let report = execute(&mut kernel, target, prepared, &mut |_, _| {}).unwrap();
    assert!(report.failed.is_empty() && report.is_converged(), "{:?}", report.failed);
    report.rounds
}

fn destroy() -> Counters {
    run(Target::Nothing("w", None))
}

/// All that is done to a workload, by name, and what was said for each.
fn life(endpoints: usize) -> Vec<(&'static str, Counters)> {
    let all = workload::topology(endpoints);
    let more = workload::topology(endpoints + 1);
    let half = format!("allow_deletes = 1000\n{}", workload::topology(endpoints / 2));
    // What is the host's own is set once.
    apply(&half);
    destroy();
    vec![
        ("set up", apply(&all)),
        ("again", apply(&all)),
        ("one endpoint more", apply(&more)),
        ("one endpoint less", apply(&all)),
        ("one port changed", apply(&all.replace("\"20000:80\"", "\"19999:80\""))),
        ("every MTU changed", apply(&all.replace("mtu = 1500", "mtu = 1400"))),
        ("every address changed", apply(&all.replace("addresses = [\"10.0.0.", "addresses = [\"10.0.9."))),
        ("every end renamed", apply(&all.replace("network = \"n0\"", "network = \"n0\"\nifname = \"net0\""))),
        ("nothing published", apply(&without_ports(&all))),
        ("half of it", apply(&half)),
        ("torn down", destroy()),
    ]
}

fn without_ports(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("publish")).fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn what_waits_for_a_grace_period_does_not_grow_with_the_plan() {
    alone(|| {
        for ((what, few), (_, many)) in life(4).into_iter().zip(life(24)) {
            println!("{what}: {few:?}, {many:?}");
            assert_eq!(few.waits, many.waits, "{what}");
            assert!(many.waits <= 4, "{what}: {many:?}");
        }
    });
}

#[test]
fn what_is_said_is_what_changes() {
    alone(|| {
        let (few, many) = (life(4), life(24));
        for ((what, few), (_, many)) in few.iter().zip(&many) {
            match *what {
                "again" => assert_eq!((few.writes, many.writes), (0, 0)),
                "one endpoint more" | "one endpoint less" | "one port changed" => {
                    assert_eq!(few.writes, many.writes, "{what}");
                    // Six of them are the notes of flows, a family each: those of before out, new ones in, and their end.
                    assert!(many.writes <= 22, "{what}: {many:?}");
                }
                _ => {}
            }
        }
        let (set_up, of) = (many[0].1, many[0].1.writes - few[0].1.writes);
        // A namespace, its lo, three for the pair's two ends, no IPv6 on one, the other's going up, two addresses, two routes.
        assert_eq!(of, 20 * 11, "{set_up:?}");
    });
}

#[test]
fn namespaces_are_held_until_the_look_after_their_removal_and_no_longer() {
    alone(|| {
        let nsfs = fs::metadata("/proc/thread-self/ns/net").unwrap().dev();
        let held = || {
            let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
            files.filter(|file| fs::metadata(file.path()).is_ok_and(|file| file.dev() == nsfs)).count()
        };
        apply(&workload::topology(5));
        let (mut kernel, target) = (Linux::default(), Target::Nothing("w", None));
        let prepared = prepare_within(&mut kernel, target, &Allowance::granted()).unwrap();
        let before = held();
        assert!(kernel.execute(&prepared.plan.steps, &mut |_| {}).into_iter().all(|result| result.is_ok()));
        assert_eq!(held(), before + 5);
        kernel.observe(&target.scope()).unwrap();
        assert_eq!(held(), before);
    });
}

#[test]
fn a_bridge_that_has_gone_up_snoops() {
    alone(|| {
        apply(&workload::topology(2));
        let bridges = sh("ip -d -o link show type bridge");
        assert!(bridges.contains(",UP") && bridges.contains("mcast_snooping 1"), "{bridges}");
        destroy();
    });
}

/// Else each has a multicast route in the host's namespace, which others wait for, and reports its groups.
#[test]
fn the_hosts_ends_of_pairs_have_no_ipv6() {
    alone(|| {
        let (text, port) = (workload::topology(2), veth_name("w", "e0"));
        let topology = parse(&[Source::new("w.toml", text.as_str())]).unwrap();
        assert_eq!(rounds(Target::Topology(&topology)), 1, "from birth on");
        assert_eq!(ipv6_is_off(), "1\n1\n");
        assert!(!sh("ip -6 route show table all type multicast").contains(&*port));
        let setting = "/proc/sys/net/ipv6/conf/default/disable_ipv6 /proc/sys/net/ipv6/conf/eth0/disable_ipv6";
        assert_eq!(sh(&format!("ip netns exec c0 cat {setting}")), "0\n0\n");
        // Somebody switches it on again, or it stands as a version before this one has left it.
        sh(&format!("echo 0 > /proc/sys/net/ipv6/conf/{port}/disable_ipv6"));
        let prepared = prepare_within(&mut Linux::default(), Target::Topology(&topology), &Allowance::granted());
        assert_eq!(render::text(&prepared.unwrap().diff), format!("~ host/veth/{port}  disable_ipv6 0 -> 1\n"));
        assert_eq!(apply(&text).writes, 3);
        assert_eq!(ipv6_is_off(), "1\n1\n");
        // Linux takes IPv6 from a link that is smaller than its smallest packets, and gives it again.
        destroy();
        let four = |mtu| {
            format!(
                "topology = \"w\"\n[networks.n]\ndriver = \"bridge\"\nsubnets = [\"10.0.0.0/16\"]\nmtu = {mtu}\n\
                 [containers.c0]\nnetns = \"c0\"\n[endpoints.e0]\ncontainer = \"c0\"\nnetwork = \"n\"\n"
            )
        };
        apply(&four(1000));
        assert!(!sh("ls /proc/sys/net/ipv6/conf").contains(&*port));
        apply(&four(1500));
        assert_eq!(ipv6_is_off(), "1\n");
        destroy();
    });
}

/// As in a container of an engine.
#[test]
fn where_no_setting_can_be_written_the_hosts_ends_keep_ipv6() {
    alone(|| {
        let text = without_ports(&workload::topology(2));
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys");
        apply(&text);
        assert_eq!(ipv6_is_off(), "0\n0\n");
        assert_eq!(apply(&text).writes, 0);
        // Where they can be again, it is made good.
        sh("umount /proc/sys");
        assert_eq!(apply(&text).writes, 6);
        assert_eq!(ipv6_is_off(), "1\n1\n");
        destroy();
    });
}

/// `disable_ipv6` of each port of a bridge.
fn ipv6_is_off() -> String {
    sh("for port in $(ip -br link show type bridge_slave | sed 's/@.*//')
        do cat /proc/sys/net/ipv6/conf/$port/disable_ipv6; done")
}

/// What a watcher says to see that something has gone, and to put it back: where nothing was announced nothing is asked.
#[test]
fn what_is_healed_is_asked_for_where_it_was_announced() {
    alone(|| {
        let heal = |endpoints: usize, drift: &str, of_the_host: bool| {
            let topology = parse(&[Source::new("w.toml", workload::topology(endpoints))]).unwrap();
            let target = Target::Topology(&topology);
            let mut kernel = Linux::remembering();
            kernel.disturb(&Disturbed::anywhere());
            let prepared = prepare_within(&mut kernel, target, &Allowance::granted()).unwrap();
            assert!(execute(&mut kernel, target, prepared, &mut |_, _| {}).unwrap().is_converged());
            let before = counters().messages;
            assert!(prepare_within(&mut kernel, target, &Allowance::granted()).unwrap().diff.is_empty());
            let idle = counters().messages - before;
            let index = sh(&format!("ip -o link show {} | cut -d: -f1", veth_name("w", "e0"))).trim().parse().unwrap();
            sh(drift);
            let before = counters();
            let namespaces = [NetnsRef::Named("c0".into())].into();
            let links = of_the_host.then_some(index).into_iter().collect();
            kernel.disturb(&Disturbed { namespaces, links, ..Disturbed::default() });
            let prepared = prepare_within(&mut kernel, target, &Allowance::granted()).unwrap();
            assert!(!prepared.diff.is_empty());
            assert!(execute(&mut kernel, target, prepared, &mut |_, _| {}).unwrap().is_converged());
            let after = counters();
            let said = (after.messages - before.messages, after.objects - before.objects);
            let whole = prepare_within(&mut Linux::default(), target, &Allowance::granted()).unwrap();
            assert!(whole.diff.is_empty(), "a whole look agrees: {:?}", whole.diff);
            destroy();
            (idle, said)
        };
        // The kernel makes routes of its own for what was only just made, in its own time: two looks may see one less each.
        let like = |seen: u64, expected: u64| seen.abs_diff(expected) <= 2;
        for drift in ["ip -n c0 route delete default", "ip -n c0 address delete fd00::2/64 dev eth0"] {
            let ((idle, (said, seen)), (still, (too, more))) = (heal(10, drift, false), heal(60, drift, false));
            assert_eq!((idle, said), (still, too), "{drift}");
            assert!(like(more, seen), "{drift}: {seen} and {more} objects");
        }
        let port = veth_name("w", "e0");
        for drift in ["ip -n c0 link delete eth0".to_owned(), format!("ip link set {port} nomaster")] {
            let ((idle, (said, seen)), (still, (too, more))) = (heal(10, &drift, true), heal(60, &drift, true));
            println!("{drift}: {seen} and {more} objects");
            assert_eq!((idle, said), (still, too), "{drift}");
            assert!(like(more, seen), "{drift}: {seen} and {more} objects");
        }
    });
}

/// What a watcher says to follow a file that has a container more, or one less, or another port.
#[test]
fn what_is_wanted_otherwise_is_asked_for_where_it_is() {
    alone(|| {
        let follow = |endpoints: usize| {
            let [few, more] = [endpoints, endpoints + 1].map(workload::topology);
            let port = few.replace("\"20000:80\"", "\"19999:80\"");
            let first = vec![Source::new("w.toml", few.clone())];
            let topology = parse(&first).unwrap();
            let contents = [few, more, port].map(|text| {
                let text = vec![Source::new("w.toml", text)];
                // What is written as before is shared, as by a watcher.
                Content::new(parse_again(&text, Some((&topology, &first))).unwrap(), text)
            });
            let [few, more, port] = &contents;
            let mut last = &few.topology;
            let (mut kernel, held) = (Linux::remembering(), BTreeSet::new());
            kernel.disturb(&Disturbed::anywhere());
            let set_up = Draft::new(&mut kernel, last, &held, Target::Topology(last)).unwrap();
            assert!(set_up.carry_out(&mut kernel, None).unwrap().converged);
            // There is something to look for, now that the rules have flows remembered.
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"", "127.0.0.1:9").unwrap();
            let seen = Draft::new(&mut kernel, last, &held, Target::Topology(last)).unwrap();
            let mut known = seen.rest().known.expect("all is as wanted");
            kernel.settle();
            let said = [(more, 6), (few, 6), (port, 1), (few, 1)].map(|(content, fixes)| {
                let topology = &content.topology;
                let (before, open) = (counters(), netfilter_sockets());
                let draft = Draft::new(&mut kernel, topology, &held, Target::Turned(content, &known, last)).unwrap();
                last = topology;
                let round = draft.carry_out(&mut kernel, None).unwrap();
                assert!(round.converged && round.fixes.len() >= fixes, "{:?}", round.fixes);
                known = round.known.expect("only that was looked into");
                kernel.settle();
                // Closed now, one would wait for a grace period, as elements were deleted.
                assert!(netfilter_sockets().is_superset(&open) && netfilter_sockets().len() == 2, "{open:?}");
                let after = counters();
                let rules = after.rules - before.rules;
                let said = (after.messages - before.messages, rules, after.objects - before.objects);
                let whole = prepare_within(&mut Linux::default(), Target::Topology(topology), &Allowance::granted());
                assert!(whole.unwrap().diff.is_empty(), "a whole look agrees");
                said
            });
            destroy();
            said
        };
        sh("ip link set lo up");
        let (few, many) = (follow(20), follow(160));
        println!("{few:?}, {many:?}");
        // Whether a link is gone is asked until it is, ever more seldom.
        for (((said, rules, seen), (too, same, more)), asked) in few.into_iter().zip(many).zip([0, 10, 0, 0]) {
            assert!(said.abs_diff(too) <= asked, "{said} and {too} messages");
            assert_eq!(rules, same, "elements are asked for by their keys");
            assert!(more.abs_diff(seen) <= 4, "{seen} and {more} objects");
        }
    });
}

/// The sockets of nfnetlink that this process has open, by inode; one that was closed and opened again is another one.
fn netfilter_sockets() -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let words = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| words[1] == "12" && words[2] != "0").map(|words| words[9].to_owned()).collect()
}

/// What is asked again alone is what a look at everything sees, also where a namespace is not the one that it was.
#[test]
fn what_is_asked_again_fits_into_what_was_seen() {
    alone(|| {
        let text = workload::topology(3);
        apply(&text);
        let scope = scope(&text);
        let mut kernel = Linux::remembering();
        kernel.disturb(&Disturbed::anywhere());
        kernel.observe(&scope).unwrap();
        // Where the other end of a pair is, when its namespace has no name any more.
        let _within = Process::start("c1");
        for (what, announced) in [
            ("ip -n c0 route delete default", ["c0"].as_slice()),
            ("ip -n c0 address add 192.0.2.1/24 dev eth0; ip -n c2 link set eth0 mtu 1400", &["c0", "c2"]),
            ("ip -n c1 link add d0 type bridge", &["c1"]),
            ("ip -n c0 link add v0 type veth peer name v1 netns c1", &["c0", "c1"]),
            ("ip netns add other; mount --bind /run/netns/other /run/netns/c1", &["c1"]),
            ("ip -n c1 link add d0 type bridge", &["c1"]),
        ] {
            fits(&mut kernel, &scope, what, announced);
        }
    });
}

/// The same where containers come along, in the topology or on the host.
#[test]
fn what_is_asked_for_the_first_time_fits_into_what_was_seen() {
    alone(|| {
        let text = workload::topology(3);
        apply(&text);
        let mut kernel = Linux::remembering();
        kernel.disturb(&Disturbed::anywhere());
        kernel.observe(&scope(&text)).unwrap();
        for (containers, what, announced) in [
            (&["gone"] as &[_], "true", &[] as &[_]),
            (&[], "true", &[]),
            (&["none"], "true", &[]),
            (&["none", "fresh"], "ip netns add fresh; ip -n fresh link add d0 type bridge", &[]),
            (&["none", "fresh"], "ip netns add none", &["none"]),
            (&["none", "fresh", "late"], "ip netns add late; ip -n c0 route delete default", &["late", "c0"]),
            (
                &["none", "fresh", "late", "twice"],
                "touch /run/netns/twice; mount --bind /run/netns/fresh /run/netns/twice",
                &[],
            ),
            (&["none", "fresh", "late", "twice"], "true", &["twice"]),
            (&["none", "fresh", "late", "twice"], "ip -n fresh link set d0 mtu 1300", &["fresh", "twice"]),
            (
                &["none", "fresh", "late", "early"],
                "touch /run/netns/early; mount --bind /run/netns/fresh /run/netns/early",
                &["fresh"],
            ),
        ] {
            let more = containers.iter().map(|name| format!("[containers.{name}]\nnetns = \"{name}\"\n"));
            fits(&mut kernel, &scope(&(text.clone() + &more.collect::<String>())), what, announced);
        }
    });
}

fn scope(text: &str) -> Scope {
    lower::scope(&parse(&[Source::new("w.toml", text)]).unwrap())
}

/// After that, which was announced of namespaces of these names, what is asked again and what was seen are all there is.
fn fits(kernel: &mut Linux, scope: &Scope, what: &str, announced: &[&str]) {
    sh(what);
    let namespaces = announced.iter().map(|name| NetnsRef::Named((*name).into())).collect();
    kernel.disturb(&Disturbed { namespaces, ..Disturbed::default() });
    let (again, whole) = (kernel.observe(scope).unwrap(), Linux::default().observe(scope).unwrap());
    assert!(again.ours == whole.ours, "{what}: {:?}, {:?}", again.ours, whole.ours);
    assert_eq!(again.foreign, whole.foreign, "{what}");
    assert_eq!((again.absent, again.present), (whole.absent, whole.present), "{what}");
}

#[test]
fn a_hundred_endpoints_are_said_in_few_sends() {
    alone(|| {
        let set_up = apply(&workload::topology(100));
        // Of each namespace: lo at birth, all of its own in one, and the five questions of the look that verifies.
        let beside = set_up.sends - 7 * 100;
        assert!(beside <= 40, "{set_up:?}");
    });
}

/// Packets that the bridges' ports have delivered.
fn delivered() -> u64 {
    let table = sh("cat /proc/thread-self/net/dev");
    let ports = table.lines().filter(|line| line.trim_start().starts_with("nr-"));
    ports.map(|line| line.split_once(':').unwrap().1.split_whitespace().nth(9).unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn the_storm_after_a_set_up_stays_small() {
    // Everybody's multicast goes to everybody: five and more times with the kernel's defaults, and once if only listener
    // reports are left. What is left beside them is said at each end of each pair.
    const ENDPOINTS: usize = 150;
    const EACH: usize = 12;
    const PAUSE: Duration = Duration::from_secs(2);

    alone(|| {
        apply(&workload::topology(ENDPOINTS));
        let mut packets = delivered();
        loop {
            std::thread::sleep(PAUSE);
            let now = delivered();
            if now - packets < 10 {
                break;
            }
            packets = now;
        }
        println!("{packets} packets among {ENDPOINTS}");
        assert!(packets > 0, "the statistics are read");
        assert!(packets <= (ENDPOINTS * EACH) as u64, "{packets} packets among {ENDPOINTS}");
    });
}

/// Until Linux has settled it, up to a second later by itself, IPv6 on the bridge does not hear who asks for its address.
#[test]
fn a_bridge_has_its_carrier_when_all_is_done() {
    alone(|| {
        apply(&workload::topology(3));
        let bridge = sh("ip -br link show type bridge");
        assert!(bridge.contains(" UP ") && !bridge.contains("NO-CARRIER"), "{bridge}");
    });
}

/// With ports that forward, a bridge that is up arms its timers for all of them whenever one goes.
#[test]
fn a_bridge_goes_down_before_its_ports_do() {
    alone(|| {
        apply(&workload::topology(3));
        let bridge: u32 = sh("ip -o link show type bridge | cut -d: -f1").trim().parse().unwrap();
        let announced = announcements_of_links();
        destroy();
        let said = heard(&announced);
        let down = said.iter().position(|(index, up)| *index == bridge && !up).expect("it goes down");
        assert!(said[down..].iter().any(|(index, up)| *index != bridge && *up), "its ports are up still: {said:?}");
    });
}

/// A socket that hears what the kernel says of links from now on (rtnetlink(7), `RTMGRP_LINK`).
fn announcements_of_links() -> OwnedFd {
    let (family, kind, link) = (AddressFamily::Netlink, SockType::Raw, 1);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute).unwrap();
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, link)).unwrap();
    socket
}

/// The links that it told of, in order, by index, and whether each was up (`struct ifinfomsg`).
fn heard(announced: &OwnedFd) -> Vec<(u32, bool)> {
    const IFINFOMSG: usize = 16;
    let (mut said, mut bytes) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(length) = recv(announced.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
        let mut rest = &bytes[..length];
        while let Some(size) = rest.first_chunk().map(|size| u32::from_ne_bytes(*size) as usize) {
            let word = |at: usize| u32::from_ne_bytes(rest[IFINFOMSG + at..][..4].try_into().unwrap());
            said.push((word(4), word(8) & 1 == 1));
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    said
}
