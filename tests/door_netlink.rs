//! The netlink layer against Linux: batches, and a verdict for every message of them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod world;

use std::sync::Mutex;

use netrec::kernel::KernelError;
use netrec::kernel::netlink::{Protocol, Socket, counters};
use nix::errno::Errno;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use world::{add_address, sh};

#[test]
fn an_error_in_a_batch_is_reported_for_its_message_alone_with_the_kernels_words() {
    alone(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let results = socket.batch(&[
            add_address([10, 0, 0, 1], 24, 1),
            add_address([10, 0, 0, 2], 77, 1),
            add_address([10, 0, 0, 3], 24, 9999),
            add_address([10, 0, 0, 4], 24, 1),
        ]);
        assert_eq!((&results[0], &results[3]), (&Ok(()), &Ok(())));
        let Err(KernelError::Refused { errno: Errno::EINVAL, text, .. }) = &results[1] else { panic!("{results:?}") };
        assert_eq!(text, "ipv4: Invalid prefix length");
        assert_eq!(results[1].as_ref().unwrap_err().to_string(), "ipv4: Invalid prefix length (Invalid argument)");
        assert_eq!(results[2].as_ref().unwrap_err().errno(), Some(Errno::ENODEV));
        let made = sh("ip -o addr show dev lo");
        assert!(made.contains("10.0.0.1/24") && made.contains("10.0.0.4/24") && !made.contains("10.0.0.3"));
    });
}

#[test]
fn long_batches_are_split_and_every_verdict_stays_with_its_message() {
    alone(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let messages: Vec<_> =
            (0..300_u32).map(|n| add_address([10, 0, (n / 3) as u8, (n % 3 / 2) as u8], 32, 1)).collect();
        for (n, result) in socket.batch(&messages).into_iter().enumerate() {
            let expected = if n % 3 == 1 { Some(Errno::EEXIST) } else { None };
            assert_eq!(result.err().and_then(|error| error.errno()), expected, "message {n}");
        }
        assert_eq!(socket.batch(&[]), []);
    });
}

/// What is said is counted for the whole process.
fn alone(test: impl FnOnce() + Send) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    world::run(test);
}

/// Says so many messages, each with so many bytes more, that are all refused; in how many sends.
fn refused(socket: &mut Socket, count: u8, bytes: usize) -> u64 {
    let long = |n| {
        let (mut message, flags) = add_address([10, 0, 0, n], 77, 1);
        let RouteNetlinkMessage::NewAddress(address) = &mut message else { panic!("{message:?}") };
        address.attributes.push(AddressAttribute::Other(DefaultNla::new(200, vec![0; bytes])));
        (message, flags)
    };
    let sends = counters().sends;
    let results = socket.batch(&(0..count).map(long).collect::<Vec<_>>());
    assert!(results.iter().all(|it| matches!(it, Err(KernelError::Refused { .. }))), "{results:?}");
    counters().sends - sends
}

#[test]
fn of_the_longest_batch_every_message_may_be_refused() {
    alone(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        assert_eq!(refused(&mut socket, 64, 476), 1);
        assert_eq!(refused(&mut socket, 65, 4), 2, "more messages are not said in one send");
        assert_eq!(refused(&mut socket, 64, 480), 2, "longer ones neither");
    });
}

/// As where `net.core.wmem_default` was made little.
#[test]
fn a_batch_is_said_that_there_was_no_room_for() {
    alone(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBuf, &1).unwrap();
        assert_eq!(refused(&mut socket, 64, 476), 1);
    });
}

#[test]
fn answers_that_were_dropped_are_never_taken_for_success() {
    alone(|| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &1).unwrap();
        let messages: Vec<_> = (0..60).map(|n| add_address([10, 0, 0, n], 24, 9999)).collect();
        let results = socket.batch(&messages);
        let lost = results.iter().filter(|result| **result == Err(KernelError::Lost(Errno::ENOBUFS))).count();
        let known = results.iter().filter(|result| matches!(result, Err(KernelError::Refused { .. }))).count();
        assert!(lost > 0 && known > 0 && lost + known == 60, "{lost} lost, {known} known");
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &65536).unwrap();
        assert_eq!(socket.batch(&[add_address([10, 0, 1, 1], 24, 1)]), [Ok(())], "the socket goes on");
    });
}
