//! `netrec trace`: what it says, word by word, and what the kernel's own trace says of the same packets.

mod lab;

use std::fs;
use std::process::Command;

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
                "  bridge prerouting  port_ip  iifname . ip saddr @sources4 accept  { \"nr-*\" . 10.32.0.10 }  [endpoints.web]",
                "  inet forward       between  ip saddr . ip daddr . meta l4proto . th dport @allow4_port accept  \
             { 10.32.0.0/24 . 10.33.0.10 . tcp . 8000 }  [policies[0]]",
                "reached: api",
            ],
        );
        says(
            "-6 --from web --to api/icmp",
            &[
                "icmp echo from web (fd32::10) to fd33::10",
                "  bridge prerouting  port_ip6  iifname . ip6 saddr @sources6 accept  { \"nr-*\" . fd32::10 }  [endpoints.web]",
                "  inet forward       between   oifname @bridges drop  { \"nr-*\" }  [networks.back]",
                "dropped by inet forward, chain between: oifname @bridges drop",
            ],
        );
        says(
            "--from 192.0.2.2 --to host:8080",
            &[
                "tcp port 8080 from 192.0.2.2 to 192.0.2.1",
                "  inet prerouting  publish  meta nfproto ipv4 dnat ip to meta l4proto . th dport map @publish4  \
             => dnat to 10.32.0.10:80  { tcp . 8080 : 10.32.0.10 . 80 }  [endpoints.web.publish[0]]",
                "  inet forward     between  oifname @bridges ct status dnat accept  { \"nr-*\" }  [networks.front]",
                "reached: web",
            ],
        );
        says(
            "--from web --to 198.51.100.7:443",
            &[
                "tcp port 443 from web (10.32.0.10) to 198.51.100.7",
                "  bridge prerouting  port_ip      iifname . ip saddr @sources4 accept  { \"nr-*\" . 10.32.0.10 }  [endpoints.web]",
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
        ] {
            let (exit, said) = trace(arguments);
            assert!(exit == 64 && said.contains(told), "{arguments}: {exit} {said}");
        }
    });
}
