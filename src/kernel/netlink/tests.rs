//! What Linux cannot be made to say on demand comes from the other end of a socket pair.

use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{NetlinkAddr, bind, getsockname, sendto};

use super::*;
use crate::kernel::ask;

/// A socket whose kernel is the test.
fn pair() -> (Socket, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let limit = Duration::from_millis(50);
    (Socket { fd: ours.into(), sequence: u32::MAX - 1, limit, strict: true, roomy: true }, theirs)
}

fn message(kind: i32, flags: i32, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (kind, flags) = (u16::try_from(kind).unwrap(), u16::try_from(flags).unwrap());
    begin(&mut bytes, kind, flags, sequence, payload.len()).copy_from_slice(payload);
    bytes
}

/// An `NLMSG_ERROR` whose copy of the request is cut to its header.
fn error(sequence: u32, code: i32) -> Vec<u8> {
    let mut payload = code.to_ne_bytes().to_vec();
    payload.extend_from_slice(&[0; HEADER]);
    message(libc::NLMSG_ERROR, libc::NLM_F_CAPPED, sequence, &payload)
}

/// The sequence number of the first request of a fresh pair, and of the second: the count goes round.
const FIRST: u32 = u32::MAX;
const SECOND: u32 = 0;
const THING: i32 = 16;

fn requests(count: usize) -> Vec<Request> {
    vec![Request { kind: 18, flags: 0, payload: vec![0; 4] }; count]
}

fn dumped(socket: &mut Socket) -> Result<Vec<Vec<u8>>, KernelError> {
    socket.dump(&requests(1)[0], |reply| Ok([reply.payload.to_vec()]))
}

#[test]
fn silence_is_never_success() {
    let (mut socket, _kernel) = pair();
    let lost = Err(KernelError::Lost(Errno::EAGAIN));
    assert_eq!(socket.transact(&requests(2), 1), [lost.clone(), lost.clone()]);
    assert_eq!(dumped(&mut socket), Err(KernelError::Lost(Errno::EAGAIN)));
    assert_eq!(socket.request(&requests(1)[0], |_| Ok(())), lost);
}

#[test]
fn a_known_refusal_stays_known_when_the_acknowledgement_is_lost() {
    let (mut socket, kernel) = pair();
    kernel.send(&error(FIRST, -17)).unwrap();
    let results = socket.transact(&requests(3), 2);
    assert_eq!(results[0].as_ref().unwrap_err().errno(), Some(Errno::EEXIST));
    assert_eq!(results[1..], [Err(KernelError::Lost(Errno::EAGAIN)), Err(KernelError::Lost(Errno::EAGAIN))]);
}

#[test]
fn answers_to_older_requests_are_passed_over() {
    let (mut socket, kernel) = pair();
    kernel.send(&error(FIRST - 1, -1)).unwrap();
    kernel.send(&error(FIRST - 1000, 0)).unwrap();
    kernel.send(&error(SECOND, 0)).unwrap();
    assert_eq!(socket.transact(&requests(2), 1), [Ok(()), Ok(())], "the numbers go round");

    let (mut socket, kernel) = pair();
    kernel.send(&message(THING, libc::NLM_F_MULTI, FIRST - 1, b"old!")).unwrap();
    kernel.send(&message(libc::NLMSG_DONE, 0, FIRST - 1, &[0; 4])).unwrap();
    kernel.send(&message(THING, libc::NLM_F_MULTI, FIRST, b"new!")).unwrap();
    kernel.send(&message(libc::NLMSG_DONE, 0, FIRST, &[0; 4])).unwrap();
    assert_eq!(dumped(&mut socket), Ok(vec![b"new!".to_vec()]));
}

#[test]
fn an_interrupted_dump_is_thrown_away_and_asked_again() {
    let (mut socket, kernel) = pair();
    for (sequence, flag, text) in [(FIRST, libc::NLM_F_DUMP_INTR, b"bad!"), (SECOND, 0, b"good")] {
        kernel.send(&message(THING, libc::NLM_F_MULTI, sequence, text)).unwrap();
        kernel.send(&message(libc::NLMSG_DONE, flag, sequence, &[0; 4])).unwrap();
    }
    assert_eq!(dumped(&mut socket), Ok(vec![b"good".to_vec()]));
}

#[test]
fn a_dump_that_is_always_interrupted_is_an_error() {
    let (mut socket, kernel) = pair();
    for attempt in 0..DUMP_TRIES {
        let sequence = FIRST.wrapping_add(attempt);
        kernel.send(&message(THING, libc::NLM_F_DUMP_INTR, sequence, b"bad!")).unwrap();
        kernel.send(&message(libc::NLMSG_DONE, 0, sequence, &[0; 4])).unwrap();
    }
    assert_eq!(dumped(&mut socket), Err(KernelError::Interrupted(DUMP_TRIES)));
}

#[test]
fn a_dump_that_ends_with_an_error_hands_nothing_over() {
    for end in [message(libc::NLMSG_DONE, 0, FIRST, &(-5_i32).to_ne_bytes()), error(FIRST, -5)] {
        let (mut socket, kernel) = pair();
        kernel.send(&message(THING, libc::NLM_F_MULTI, FIRST, b"half")).unwrap();
        kernel.send(&end).unwrap();
        assert_eq!(dumped(&mut socket).unwrap_err().errno(), Some(Errno::EIO));
    }
}

#[test]
fn malformed_and_overlong_answers_are_errors() {
    let mut long = message(THING, 0, FIRST, b"text");
    long[0] = 200;
    let mut short = message(THING, 0, FIRST, b"text");
    short[0] = 3;
    let cut = message(THING, 0, FIRST, b"text")[..9].to_vec();
    for wrong in [long, short, cut, vec![1]] {
        let (mut socket, kernel) = pair();
        kernel.send(&wrong).unwrap();
        assert!(matches!(dumped(&mut socket), Err(KernelError::Malformed(_))));
        kernel.send(&wrong).unwrap();
        let results = socket.transact(&requests(2), 1);
        assert!(results.iter().all(|result| matches!(result, Err(KernelError::Malformed(_)))));
    }
}

#[test]
fn extended_acknowledgements_are_read_capped_or_not() {
    for capped in [true, false] {
        let mut payload = (-22_i32).to_ne_bytes().to_vec();
        let request = message(THING, 0, FIRST, b"the request's own payload");
        payload.extend_from_slice(&request[..if capped { HEADER } else { request.len() }]);
        payload.extend_from_slice(&[11, 0, 1, 0]);
        payload.extend_from_slice(b"no way\0\0");
        payload.extend_from_slice(&[8, 0, 2, 0, 20, 0, 0, 0]);
        let flags = libc::NLM_F_ACK_TLVS | if capped { libc::NLM_F_CAPPED } else { 0 };
        let bytes = message(libc::NLMSG_ERROR, flags, FIRST, &payload);
        let (mut socket, kernel) = pair();
        kernel.send(&bytes).unwrap();
        let refused = KernelError::Refused { errno: Errno::EINVAL, text: "no way".into(), offset: Some(20) };
        assert_eq!(refused.to_string(), "no way (Invalid argument)");
        assert_eq!(socket.transact(&requests(1), 0), [Err(refused)], "capped: {capped}");
    }
}

#[test]
fn what_a_process_sends_is_no_answer() {
    let (mut socket, other) = (Socket::open(Protocol::Route).unwrap(), Socket::open(Protocol::Route).unwrap());
    bind(socket.fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).unwrap();
    let port = getsockname::<NetlinkAddr>(socket.fd.as_raw_fd()).unwrap().pid();
    // The end of the dump that is about to be asked for.
    let end = message(libc::NLMSG_DONE, 0, 1, &[0; 4]);
    match sendto(other.fd.as_raw_fd(), &end, &NetlinkAddr::new(port, 0), MsgFlags::empty()) {
        Ok(_) => {}
        // Without privilege nobody can.
        Err(Errno::EPERM) => return,
        Err(errno) => panic!("{errno}"),
    }
    assert!(!ask::links(&mut socket).unwrap().is_empty(), "every namespace has its loopback");
}
