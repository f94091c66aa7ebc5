//! Alone in its process, because it counts what the process says: dumps while links come and go.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod world;

use std::sync::atomic::{AtomicBool, Ordering};

use netrec::kernel::netlink::{Protocol, Socket, counters};
use netrec::kernel::{KernelError, ask};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use world::sh;

fn group(link: u32, group: u32) -> (RouteNetlinkMessage, u16) {
    let mut message = LinkMessage::default();
    message.header.index = link;
    message.attributes.push(LinkAttribute::Group(group));
    (RouteNetlinkMessage::SetLink(message), 0)
}

#[test]
fn what_is_said_is_counted_and_interrupted_dumps_are_never_handed_over() {
    world::run(|| {
        let before = counters();
        let mut socket = Socket::open(Protocol::Route).unwrap();
        assert!(socket.batch(&vec![group(1, 0); 130]).iter().all(Result::is_ok));
        let after = counters();
        assert_eq!((after.sends - before.sends, after.messages - before.messages), (3, 130));
        assert_eq!(after.writes - before.writes, 130);
        ask::links(&mut socket).unwrap();
        assert_eq!(counters().writes, after.writes, "a look writes nothing");

        sh("for n in $(seq 300); do echo link add stay$n type bridge; done | ip -batch -");
        let (stop, before) = (AtomicBool::new(false), counters().sends);
        let (mut whole, mut interrupted) = (0_u64, 0_u64);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    sh("ip link add churn type bridge; ip link delete churn");
                }
            });
            for _ in 0..400 {
                match ask::links(&mut socket) {
                    Ok(links) => {
                        whole += 1;
                        assert_eq!(links.iter().filter(|link| link.name.starts_with("stay")).count(), 300);
                        assert!(links.windows(2).all(|pair| pair[0].index < pair[1].index), "each once");
                    }
                    Err(KernelError::Interrupted(_)) => interrupted += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let retries = counters().sends - before - whole - interrupted;
        assert!(whole > 0 && retries > 0, "{whole} whole, {interrupted} given up, {retries} asked again");
    });
}
