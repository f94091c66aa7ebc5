//! What a single run believes of what it saw a moment before, and what it does not.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

#[path = "../benches/workload/mod.rs"]
mod workload;
mod world;

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use netrec::apply::rails::Allowance;
use netrec::apply::{Report, Target, execute, prepare_within};
use netrec::kernel::linux::Linux;
use netrec::kernel::netlink::counters;
use netrec::kernel::{Kernel, netns};
use netrec::model::parse::parse;
use netrec::model::source::Source;
use nix::fcntl::{Flock, FlockArg};
use world::sh;

/// One run, which must end with everything as wanted as far as it looked; between its plan and its steps something happens.
/// How much was said after the plan was made.
fn run(text: &str, between: impl FnOnce()) -> (Report, u64) {
    let topology = parse(&[Source::new("w.toml", text)]).unwrap();
    carry_out(Target::Topology(&topology), between)
}

fn carry_out(target: Target, between: impl FnOnce()) -> (Report, u64) {
    let mut kernel = Linux::for_one_run();
    let prepared = prepare_within(&mut kernel, target, &Allowance::granted()).unwrap();
    between();
    let before = counters().messages;
    let report = execute(&mut kernel, target, prepared, &mut |_, _| {}).unwrap();
    assert!(report.is_converged(), "{:?}", report.failed);
    (report, counters().messages - before)
}

/// What is said is counted for the whole process.
fn alone(test: impl FnOnce() + Send) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    world::run(test);
}

/// Has conntrack remember a flow: where it knows of none, the host's addresses are not asked for, which are two messages.
fn begin_flow() {
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[0], "127.0.0.1:9").unwrap();
}

/// How much is to be done as a look at everything sees it.
fn left(text: &str) -> usize {
    let topology = parse(&[Source::new("w.toml", text)]).unwrap();
    prepare_within(&mut Linux::default(), Target::Topology(&topology), &Allowance::granted()).unwrap().diff.len()
}

#[test]
fn only_where_it_wrote_a_run_looks_again_and_nothing_escapes_it_there() {
    alone(|| {
        let [few, many] = [20, 160].map(|endpoints| {
            let [all, more] = [endpoints, endpoints + 1].map(workload::topology);
            let port = all.replace("\"20000:80\"", "\"19999:80\"");
            run(&all, || ());
            let said = [&more, &all, &port].map(|text| {
                let (report, said) = run(text, begin_flow);
                assert_eq!((report.rounds, left(text)), (1, 0));
                said
            });
            carry_out(Target::Nothing("w", None), || ());
            said
        });
        // Whether a link is gone is asked until it is.
        for ((few, many), asked) in few.into_iter().zip(many).zip([0, 10, 0]) {
            assert!(few.abs_diff(many) <= asked, "{few} and {many} messages");
        }
    });
}

/// More containers than are made at a time. The name of one of the last is taken by others meanwhile: it is furnished as theirs,
/// which takes a plan of its own.
#[test]
fn what_is_made_in_waves_is_all_there_and_a_later_one_stops_where_it_has_to() {
    alone(|| {
        let text = workload::topology(510);
        for (between, rounds, theirs) in [("true", 1, ""), ("ip netns add c99", 2, "c99\n")] {
            let (report, _) = run(&text, || drop(sh(between)));
            assert_eq!((report.rounds, left(&text)), (rounds, 0));
            carry_out(Target::Nothing("w", None), || ());
            assert_eq!(sh("ls /run/netns"), theirs);
        }
    });
}

/// Carries out what a topology asks for, and tells how many namespaces were held when each stage was over.
fn held(text: &str, mut meanwhile: impl FnMut()) -> Vec<usize> {
    let topology = parse(&[Source::new("w.toml", text)]).unwrap();
    let (mut kernel, target) = (Linux::for_one_run(), Target::Topology(&topology));
    let prepared = prepare_within(&mut kernel, target, &Allowance::granted()).unwrap();
    let mut held = Vec::new();
    let mut count = |_| {
        let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let netns =
            |file: &fs::DirEntry| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("net:"));
        let count = files.filter(netns).count();
        held.push(count);
        meanwhile();
    };
    let results = kernel.execute(&prepared.plan.steps, &mut count);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    held
}

#[test]
fn what_is_made_is_furnished_without_its_name_and_not_held_any_longer() {
    alone(|| {
        let remove = || netns::names().unwrap().iter().for_each(|name| netns::delete(name).unwrap());
        let all = held(&workload::topology(5), remove);
        assert!(all.contains(&5) && all.last() == Some(&0), "{all:?}");
        // Nothing is said in these, and they are made in two waves.
        let container = |text: String, at| text + &format!("[containers.c{at}]\nnetns = \"c{at}\"\n");
        let containers = (0..501).fold(String::new(), container);
        let all = held(&format!("topology = \"w\"\n{containers}"), || ());
        assert!(all.contains(&500) && all.last() == Some(&1), "{all:?}");
    });
}

#[test]
fn where_few_files_may_be_open_namespaces_are_found_by_name() {
    alone(|| {
        let text = workload::topology(60);
        fs::write("/run/w.toml", &text).unwrap();
        let netrec = |command| sh(&format!("ulimit -n 48; {} {command}", env!("CARGO_BIN_EXE_netrec")));
        netrec("apply --yes /run/w.toml");
        assert_eq!(left(&text), 0);
        netrec("destroy --yes --topology w");
        assert_eq!(sh("ls /run/netns"), "");
    });
}

#[test]
fn what_hindered_a_step_has_a_run_look_everywhere() {
    alone(|| {
        let [less, all] = [3, 4].map(workload::topology);
        run(&all, || ());
        // Without our mark that namespace is somebody else's.
        let taken = "ip -n c0 address delete 10.0.0.2/16 dev eth0; ip -n c3 link set lo alias theirs";
        let (report, _) = run(&less, || drop(sh(taken)));
        assert_eq!((report.rounds, left(&less)), (2, 0));
    });
}

/// Such as while somebody is asked.
#[test]
fn what_was_seen_longer_ago_is_not_believed() {
    alone(|| {
        let [all, more] = [3, 4].map(workload::topology);
        run(&all, || ());
        let (report, _) = run(&more, || {
            sh("ip -n c0 address delete 10.0.0.2/16 dev eth0");
            std::thread::sleep(Duration::from_millis(1_100));
        });
        assert_eq!((report.rounds, left(&more)), (2, 0));
    });
}

/// A network `lan`, and the given container of each name with an endpoint in it.
fn on_lan(network: &str, containers: &[(&str, &str)]) -> String {
    let endpoint = |(name, netns): &(&str, &str)| {
        format!("[containers.{name}]\n{netns}\n[endpoints.{name}]\ncontainer = \"{name}\"\nnetwork = \"lan\"\n")
    };
    let lan =
        format!("topology = \"w\"\n[networks.lan]\ndriver = \"bridge\"\nsubnets = [\"10.0.0.0/24\"]\n{network}\n");
    lan + &containers.iter().map(endpoint).collect::<String>()
}

#[test]
fn a_namespace_is_otherwise_by_all_of_its_names() {
    alone(|| {
        sh("ip netns add db; touch /run/netns/second; mount --bind /run/netns/db /run/netns/second");
        let [api, db] = ["api", "db"].map(|name| (name, format!("netns = \"{name}\"")));
        let (api, db) = ((api.0, &*api.1), (db.0, &*db.1));
        run(&on_lan("", &[api, db]), || ());
        let less = on_lan("", &[api]);
        let (report, _) = run(&less, || ());
        assert_eq!((report.rounds, left(&less)), (1, 0));
    });
}

#[test]
fn a_path_may_lead_to_what_a_run_makes() {
    alone(|| {
        let before = [("a", "netns = \"a\""), ("b", "netns = \"b\"")];
        run(&on_lan("", &before), || ());
        let twice = on_lan("", &[before[0], before[1], ("c", "netns = \"c\""), ("d", "path = \"/run/netns/./c\"")]);
        let topology = parse(&[Source::new("w.toml", twice)]).unwrap();
        let (target, mut kernel) = (Target::Topology(&topology), Linux::for_one_run());
        let prepared = prepare_within(&mut kernel, target, &Allowance::granted()).unwrap();
        let refused = execute(&mut kernel, target, prepared, &mut |_, _| {}).unwrap_err();
        assert!(refused.to_string().contains("container `d` is in the same namespace as `c`"), "{refused}");
    });
}

#[test]
fn what_stands_on_a_bridge_of_others_takes_a_smaller_mtu_with_it() {
    alone(|| {
        sh("ip link add br-office up type bridge; ip link add far type veth peer name near
            ip link set near master br-office up; ip link set far up
            ip link add up0 up link br-office type macvlan; ip address add 192.0.2.1/24 dev up0
            ip route add default via 192.0.2.254
            for other in 1 2 3 4 5 6; do ip link add other$other type bridge; done");
        let office = "mtu = 1300\nbridge = { name = \"br-office\", external = true }\ngateways = [\"10.0.0.1\"]\n\
                      [networks.own]\ndriver = \"bridge\"\nsubnets = [\"10.1.0.0/24\"]";
        run(&on_lan(office, &[]), || ());
        let joined = on_lan(office, &[("db", "netns = \"db\"")]);
        let (report, _) = run(&joined, || ());
        assert_eq!((report.rounds, left(&joined)), (2, 0));
    });
}

#[test]
fn who_waited_for_others_asks_again_who_listens() {
    alone(|| {
        fs::create_dir_all("/run/netrec").unwrap();
        fs::write("/run/w.toml", on_lan("", &[("db", "netns = \"db\"")]) + "publish = [\"9001:80\"]\n").unwrap();
        let lock = Flock::lock(File::open("/run/netrec").unwrap(), FlockArg::LockExclusive).unwrap();
        let mut apply = Command::new(env!("CARGO_BIN_EXE_netrec"));
        let apply = apply.args(["apply", "--yes", "/run/w.toml"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let apply = apply.spawn().unwrap();
        // Less than it believes anything for.
        std::thread::sleep(Duration::from_millis(300));
        let _listener = TcpListener::bind("0.0.0.0:9001").unwrap();
        drop(lock);
        let apply = apply.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&apply.stderr);
        assert!(apply.status.code() == Some(4) && said.contains("port 9001/tcp is taken"), "{said}");
    });
}

#[test]
fn rules_that_others_change_while_links_are_made_are_seen() {
    alone(|| {
        let text = on_lan("", &[("db", "netns = \"db\"")]);
        let topology = parse(&[Source::new("w.toml", text.as_str())]).unwrap();
        let (mut kernel, target) = (Linux::for_one_run(), Target::Topology(&topology));
        let prepared = prepare_within(&mut kernel, target, &Allowance::granted()).unwrap();
        let mut stages = 0;
        let mut spoil = |_, _| {
            stages += 1;
            if stages == 1 {
                // Long enough for them to be looked at.
                std::thread::sleep(Duration::from_millis(100));
                sh("nft flush chain inet netrec-w to_host");
            }
        };
        let report = execute(&mut kernel, target, prepared, &mut spoil).unwrap();
        assert!(stages > 1, "links are made");
        assert_eq!((report.rounds, left(&text)), (2, 0));
    });
}

#[test]
fn rules_are_looked_at_while_links_are_made() {
    alone(|| {
        let text = on_lan("", &[("db", "netns = \"db\"")]) + "publish = [\"9001:80\"]\n";
        let topology = parse(&[Source::new("w.toml", text.as_str())]).unwrap();
        let heard_afterwards = || {
            let (mut kernel, target) = (Linux::for_one_run(), Target::Topology(&topology));
            let prepared = prepare_within(&mut kernel, target, &Allowance::granted()).unwrap();
            let mut heard = 0;
            let mut look = |_, _| {
                std::thread::sleep(Duration::from_millis(100));
                heard = counters().rules;
            };
            let report = execute(&mut kernel, target, prepared, &mut look).unwrap();
            assert_eq!((report.is_converged(), report.rounds), (true, 1));
            counters().rules - heard
        };
        let alone = std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
        // All rules are some ten thousand bytes. The second time, the table for rules of users is there.
        for time in ["first", "second"] {
            let heard = heard_afterwards();
            assert!(heard < 1_000 || alone, "{time}: {heard}");
            carry_out(Target::Nothing("w", None), || ());
        }
    });
}
