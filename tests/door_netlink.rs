//! The netlink layer against Linux: batches, and a verdict for every message of them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may end at once and speak for itself"
)]

mod world;

use netrec::kernel::KernelError;
use netrec::kernel::netlink::{Protocol, Socket, counters};
use nix::errno::Errno;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use world::{add_address, sh};

#[test]
fn an_error_in_a_batch_is_reported_for_its_message_alone_with_the_kernels_words() {
    world::run(|| {
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
    world::run(|| {
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

#[test]
fn of_the_longest_batch_every_message_may_be_refused() {
    world::run(|| {
        let long = |n| {
            let (mut message, flags) = add_address([10, 0, 0, n], 77, 1);
            let RouteNetlinkMessage::NewAddress(address) = &mut message else { panic!("{message:?}") };
            // Longer than that, and it is not said in one send any more.
            address.attributes.push(AddressAttribute::Other(DefaultNla::new(200, vec![0; 468])));
            (message, flags)
        };
        let batch: Vec<_> = (0..64).map(long).collect();
        let sends = counters().sends;
        let results = Socket::open(Protocol::Route).unwrap().batch(&batch);
        assert!(results.iter().all(|it| matches!(it, Err(KernelError::Refused { .. }))), "{results:?}");
        assert_eq!(counters().sends, sends + 1);
    });
}

#[test]
fn answers_that_were_dropped_are_never_taken_for_success() {
    world::run(|| {
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
