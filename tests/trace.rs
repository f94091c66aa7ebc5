//! `netrec trace`: what it says, word by word, and what the kernel's own trace says of the same packets.

mod lab;

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const EXAMPLE: &str = include_str!("../examples/topologies/policies.toml");

/// Runs the program on the example: its exit code and what it said.
fn trace(arguments: &str) -> (i32, String) {
    let line = format!("{} trace {arguments} /run/policies.toml 2>&1", env!("CARGO_BIN_EXE_netrec"));
    let output = Command::new("sh").args(["-c", &line]).output().expect("sh");
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).expect("UTF-8"))
}

/// A host with a neighbour, and the example beside it, which nobody has applied.
fn with_example(test: impl FnOnce() + Send) {
    lab::in_private_namespaces(|| {
        lab::wire("lan", "up0", "192.0.2.2/24 2001:db8::2/64");
        lab::run(
            "ip addr add 192.0.2.1/24 dev up0; ip -6 addr add 2001:db8::1/64 dev up0 nodad
                  ip route add default via 192.0.2.2",
        );
        fs::write("/run/policies.toml", EXAMPLE).expect("/run is ours");
        test();
    });
}

#[track_caller]
fn says(arguments: &str, lines: &[&str]) {
    let (exit, said) = trace(arguments);
    let names = |line: &str| {
        line.split("nr-")
            .enumerate()
            .map(|(at, part)| {
                if at == 0 {
                    part.to_owned()
                } else {
                    format!("nr-*{}", part.trim_start_matches(|it: char| it.is_ascii_alphanumeric()))
                }
            })
            .collect::<String>()
    };
    let said: Vec<String> = said.lines().map(names).collect();
    assert_eq!(said.iter().map(String::as_str).collect::<Vec<_>>(), lines, "trace {arguments}");
    assert_eq!(exit, 0);
}

#[test]
fn every_decision_is_a_line_with_the_key_it_comes_from() {
    with_example(|| {
        says(
            "--from web --to api:8000",
            &[
                "tcp port 8000 from web (10.32.0.10) to 10.33.0.10",
                "  bridge prerouting  port_ip  iifname . ether saddr . ip saddr @sources4 accept  { \"nr-*\" . ea:53:8e:5c:b4:30 . 10.32.0.10 }  [endpoints.web]",
                "  inet forward       between  ip saddr . ip daddr . meta l4proto . th dport @allow4_port accept  \
             { 10.32.0.0/24 . 10.33.0.10 . tcp . 8000 }  [policies[0]]",
                "reached: api",
            ],
        );
        says(
            "-6 --from web --to api/icmp",
            &[
                "icmp echo from web (fd32::10) to fd33::10",
                "  bridge prerouting  port_ip6  iifname . ether saddr . ip6 saddr @sources6 accept  { \"nr-*\" . ea:53:8e:5c:b4:30 . fd32::10 }  [endpoints.web]",
                "  inet forward       between   oifname @bridges drop  { \"nr-*\" }  [networks.back]",
                "dropped by inet forward, chain between: oifname @bridges drop",
            ],
        );
        says(
            "--from 192.0.2.2 --to host:8080",
            &[
                "tcp port 8080 from 192.0.2.2 to 192.0.2.1",
                "  inet prerouting  publish  dnat ip to meta l4proto . th dport map @publish4  \
             => dnat to 10.32.0.10:80  { tcp . 8080 : 10.32.0.10 . 80 }  [endpoints.web.publish[0]]",
                "  inet forward     between  oifname @bridges ct status dnat accept  { \"nr-*\" }  [networks.front]",
                "reached: web",
            ],
        );
        says(
            "--from web --to 198.51.100.7:443",
            &[
                "tcp port 443 from web (10.32.0.10) to 198.51.100.7",
                "  bridge prerouting  port_ip      iifname . ether saddr . ip saddr @sources4 accept  { \"nr-*\" . ea:53:8e:5c:b4:30 . 10.32.0.10 }  [endpoints.web]",
                "  inet forward       between      accept",
                "  inet postrouting   postrouting  meta nfproto ipv4 iifname @masquerade4 masquerade  { \"nr-*\" }  \
             [networks.front.masquerade]",
                "reached: what is behind up0",
            ],
        );
        says(
            "--from host --to web:81",
            &["tcp port 81 from host to 10.32.0.10", "  nothing judges it", "reached: web"],
        );
    });
}

#[test]
fn a_program_is_told_the_same_and_an_exit_code() {
    with_example(|| {
        let (exit, said) = trace("--exit-code --format json --from 203.0.113.9 --to host:8080");
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!((exit, &said["version"], &said["reached"]), (2, &1.into(), &false.into()));
        let last = said["steps"].as_array().and_then(|steps| steps.last()).expect("a step");
        assert_eq!(
            (&last["at"], &last["chain"], &last["verdict"]),
            (&"inet forward".into(), &"between".into(), &"drop".into())
        );
        assert_eq!(last["keys"][0]["path"], "policies[4]");
        assert_eq!(last["keys"][0]["origin"]["file"], "/run/policies.toml");
        assert_eq!(trace("--exit-code --from web --to api:8000").0, 0);
    });
}

#[test]
fn words_that_mean_nobody_are_told() {
    with_example(|| {
        for (arguments, told) in [
            ("--from wep --to api:80", "did you mean `web`?"),
            ("--from web --to api", "`api` names no port"),
            ("--from web --to api:99999", "does not end with a port"),
            ("--from web --to api:80/gre", "`gre` is no protocol"),
            ("--from 192.0.2.2 --to fd32::10/icmp", "knows no address"),
            ("--from web --to 255.255.255.255:67/udp", "nobody's own address"),
            ("--from '' --to '[]:80'", "is no endpoint, container or address"),
        ] {
            let (exit, said) = trace(arguments);
            assert!(exit == 64 && said.contains(told), "{arguments}: {exit} {said}");
        }
    });
}

/// The same packets, as planned and as the kernel tells: the same chains, rules and verdicts.
#[test]
fn the_kernel_says_the_same_of_what_is_sent() {
    with_example(|| {
        lab::apply(EXAMPLE);
        lab::serve("api", 8000);
        lab::serve("web", 80);
        let before = lab::run("nft list tables");
        for (arguments, dropped) in [
            ("--from web --to api:8000", false),
            ("--from web --to api:80", true),
            ("--from web --to db/icmp", true),
            ("-6 --from web --to db/icmp", true),
            ("--from api --to db:5432", false),
            ("--from db --to api:53/udp", true),
            ("-6 --from api --to db:5432/tcp", false),
            ("--from web --to 192.0.2.2:443", false),
            ("--from web --to host:22", true),
            ("--from web --to host/icmp", false),
            ("--from web --to 192.0.2.1:8080", false),
            ("--from host --to 127.0.0.1:8080", false),
            ("--from host --to 192.0.2.1:8080", false),
            ("--from host --to host:22", false),
            ("--from host --to web:81", false),
        ] {
            let (exit, said) = trace(&format!("--live --format json {arguments}"));
            let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{arguments}: {said}"));
            let told = format!("{arguments}: {said:#}");
            assert_eq!(exit, 0, "{told}");
            assert_eq!(said["live"]["as_planned"], true, "{told}");
            assert_eq!((&said["live"]["dropped"], &said["reached"]), (&dropped.into(), &(!dropped).into()), "{told}");
            let of = |steps: &serde_json::Value| {
                let steps = steps.as_array().expect("steps").iter();
                steps.map(|it| (it["chain"].clone(), it["rule"].clone())).collect::<Vec<_>>()
            };
            assert_eq!(of(&said["live"]["steps"]), of(&said["steps"]), "{told}");
        }
        assert_eq!(before, lab::run("nft list tables"), "no table is left");
        // Where somebody put a rule before it, its place is another one's in the plan.
        lab::run("nft insert rule inet netrec-policies between counter");
        let (_, said) = trace("--live --format json --from web --to db/icmp");
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(said["live"]["steps"][1]["rule"], "rule 6", "{said:#}");
        assert_eq!((&said["live"]["as_planned"], &said["live"]["dropped"]), (&false.into(), &true.into()), "{said:#}");
        let (exit, said) = trace("--live --from 192.0.2.2 --to web:80");
        assert!(exit == 64 && said.contains("nothing can be sent from 192.0.2.2"), "{said}");
    });
}

/// Whoever ends the command takes its table away: the kernel does it.
#[test]
fn a_kill_leaves_no_table() {
    with_example(|| {
        lab::apply(EXAMPLE);
        let tables = || lab::run("nft list tables");
        let before = tables();
        let arguments = ["trace", "--live", "--from", "web", "--to", "api:80", "/run/policies.toml"];
        for signal in [Signal::SIGKILL, Signal::SIGINT] {
            let (mut child, mut seen) = (None, false);
            // One may have ended by itself before it was seen.
            for _ in 0..20 {
                let mut own = Command::new(env!("CARGO_BIN_EXE_netrec"))
                    .args(arguments)
                    .stdout(Stdio::null())
                    .spawn()
                    .expect("netrec");
                while !seen && own.try_wait().expect("a child").is_none() {
                    seen = tables().contains("trace-netrec-");
                }
                child = Some(own);
                if seen {
                    break;
                }
            }
            let mut child = child.expect("a child");
            assert!(seen, "the table was there");
            kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it runs");
            child.wait().expect("it ends");
            assert_eq!(tables(), before);
        }
    });
}
