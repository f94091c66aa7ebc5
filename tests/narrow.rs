//! What is forbidden before and after a change is so meanwhile: Linux puts rules and keys in force before intervals, so where
//! one thing that limits takes the place of another both stand for a moment.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod lab;

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::{fs, thread};

use lab::{in_private_namespaces, inside, run};

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");

/// A container whose port 9000 the sender, 192.0.2.2, may never reach.
fn topology(network: &str, endpoint: &str) -> String {
    format!(
        r#"
topology = "t"
[networks.front]
driver = "bridge"
subnets = ["10.1.0.0/24"]
{network}
[endpoints.a]
container = "a"
network = "front"
addresses = ["10.1.0.10"]
{endpoint}
[containers.a]
netns = "a"
"#
    )
}

fn limited(port: &str) -> String {
    format!("[[endpoints.a.published]]\npublish = \"{port}\"\nallow_from = [\"192.0.2.3/32\"]\n")
}

#[test]
fn whatever_takes_the_place_of_a_limit_nothing_passes() {
    const DENIED: &str =
        "[[policies]]\naction = \"deny\"\nfrom = { cidr = \"192.0.2.2/32\" }\nto = { endpoint = \"a\" }\n";
    let published = "publish = [\"9000:9000/udp\"]\n";
    let (port, at) = (limited("9000:9000/udp"), limited("192.0.2.1:9000:9000/udp"));
    let changes = [
        ("one limit for another", topology("", &port), topology("", &at)),
        ("a limit for a policy", topology("", &port), topology("", &format!("{published}{DENIED}"))),
        ("a port for a policy", topology("", &port), topology("", DENIED)),
        ("a port", topology("", ""), topology("", &port)),
        ("a network that is open", topology("", ""), topology("open = true", DENIED)),
    ];
    in_private_namespaces(move || {
        run("ip netns add out; ip link add up0 type veth peer name eth0 netns out; ip addr add 192.0.2.1/24 dev up0");
        run("ip link set up0 up; ip -n out addr add 192.0.2.2/24 dev eth0; ip -n out link set eth0 up");
        run("ip -n out route add 10.1.0.0/24 via 192.0.2.1");
        let apply = |text: &str| {
            fs::write("/run/t.toml", text).unwrap();
            run(&format!("{NETREC} apply --yes /run/t.toml"));
        };
        apply(&changes[0].1);
        let (ended, heard, sent) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (until, count) = (Arc::clone(&ended), Arc::clone(&heard));
        let listener = inside("a", move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9000)).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
            thread::spawn(move || {
                while !until.load(Relaxed) {
                    count.fetch_add(usize::from(socket.recv(&mut [0; 8]).is_ok()), Relaxed);
                }
            })
        });
        let (until, count) = (Arc::clone(&ended), Arc::clone(&sent));
        let sender = inside("out", move || {
            thread::spawn(move || {
                while !until.load(Relaxed) {
                    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                    for to in [[192, 0, 2, 1], [10, 1, 0, 10]] {
                        // Refused is what the host says of the one before.
                        let _ = socket.send_to(b"x", (Ipv4Addr::from(to), 9000));
                    }
                    count.fetch_add(1, Relaxed);
                }
            })
        });
        for (what, one, other) in &changes {
            for _ in 0..5 {
                apply(other);
                apply(one);
            }
            assert_eq!(heard.load(Relaxed), 0, "{what}");
        }
        ended.store(true, Relaxed);
        for thread in [listener, sender] {
            thread.join().unwrap();
        }
        assert!(sent.load(Relaxed) > 1000);
    });
}
