//! Many questions at once: each namespace asks all of its own, and waits until what should be answered is, and a little
//! longer for what should not.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, SockaddrStorage};

use crate::lab::inside;

/// How long is waited for answers that are to come; asked again meanwhile.
const PATIENCE: Duration = Duration::from_secs(6);
const AGAIN: Duration = Duration::from_millis(700);
/// How long is waited, when those are in, for answers that are not to come.
const SILENCE: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(4);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Tcp(u16),
    Udp(u16),
    Echo,
}

/// A question, and who should answer it.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub from: String,
    pub to: IpAddr,
    pub what: What,
    pub wanted: Option<String>,
}

/// Answers with its name on ports of both protocols in a namespace until told to stop.
pub(crate) fn serve(netns: &str, ports: &'static [u16], stop: &Arc<AtomicBool>) {
    let (name, stop) = (netns.to_owned(), stop.clone());
    let sockets = inside(netns, move || {
        // Datagrams are answered from the address that was asked only by a socket of that address.
        let addresses: BTreeSet<IpAddr> = getifaddrs().unwrap().filter_map(|it| address(it.address?)).collect();
        let open = |port: &u16| {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            let datagrams = addresses.iter().map(|address| UdpSocket::bind((*address, *port)).unwrap());
            let datagrams: Vec<UdpSocket> = datagrams.collect();
            for socket in &datagrams {
                socket.set_nonblocking(true).unwrap();
            }
            (listener, datagrams)
        };
        ports.iter().map(open).collect::<Vec<_>>()
    });
    let name = if name.is_empty() { "host".to_owned() } else { name };
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for (listener, datagrams) in &sockets {
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(name.as_bytes());
                }
                let mut buffer = [0; 16];
                for socket in datagrams {
                    while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(name.as_bytes(), peer);
                    }
                }
            }
            std::thread::sleep(PAUSE);
        }
    });
}

fn address(it: SockaddrStorage) -> Option<IpAddr> {
    let ipv4 = it.as_sockaddr_in().map(|it| it.ip().into());
    ipv4.or_else(|| it.as_sockaddr_in6().map(SockaddrIn6::ip).filter(|it| !it.is_unicast_link_local()).map(IpAddr::V6))
}

/// Asks; the answers in the order of the questions.
pub(crate) fn ask(probes: &[Probe]) -> Vec<Option<String>> {
    // A socket a question, and one an answer: more than a process has by default.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let mut answers = vec![None; probes.len()];
    let mut asking = Vec::new();
    let mut sources: Vec<&str> = probes.iter().map(|probe| probe.from.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    for source in sources {
        let own = probes.iter().cloned().enumerate().filter(|(_, probe)| probe.from == source);
        let own: Vec<(usize, Probe)> = own.collect();
        let source = if source == "host" { "" } else { source }.to_owned();
        asking.push(std::thread::spawn(move || inside(&source, move || ask_all(&own))));
    }
    for thread in asking {
        for (at, answer) in thread.join().unwrap() {
            answers[at] = Some(answer);
        }
    }
    answers
}

fn ask_all(probes: &[(usize, Probe)]) -> Vec<(usize, String)> {
    let echoes = [echo_socket(false), echo_socket(true)];
    let mut sockets: Vec<Option<OwnedFd>> = probes.iter().map(|(_, probe)| connect(probe)).collect();
    let mut answers: Vec<Option<String>> = vec![None; probes.len()];
    let started = Instant::now();
    let (mut next, mut silent_until) = (started, None);
    loop {
        if Instant::now() >= next {
            next = Instant::now() + AGAIN;
            for (at, (_, probe)) in probes.iter().enumerate().filter(|(at, _)| answers[*at].is_none()) {
                match probe.what {
                    What::Tcp(_) if sockets[at].is_none() => sockets[at] = connect(probe),
                    What::Tcp(_) => {}
                    What::Udp(_) => {
                        if let Some(socket) = &sockets[at] {
                            let _ = socket::send(socket.as_raw_fd(), b"?", MsgFlags::empty());
                        }
                    }
                    What::Echo => echo(&echoes[usize::from(probe.to.is_ipv6())], probe.to, at as u16),
                }
            }
        }
        let mut buffer = [0; 128];
        for (at, answer) in answers.iter_mut().enumerate().filter(|(_, answer)| answer.is_none()) {
            let Some(socket) = &sockets[at] else { continue };
            match socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length @ 1..) => *answer = Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                Ok(0) | Err(nix::Error::EAGAIN | nix::Error::ENOTCONN) => {}
                // Refused: of a connection a new attempt will tell whether that was all.
                Err(_) if matches!(probes[at].1.what, What::Tcp(_)) => sockets[at] = None,
                Err(_) => {}
            }
        }
        for at in echoes.iter().enumerate().flat_map(|(ipv6, socket)| echoed(socket, ipv6 == 1)) {
            if let Some(answer) = answers.get_mut(usize::from(at)) {
                *answer = Some("echo".into());
            }
        }
        let waiting =
            probes.iter().zip(&answers).any(|((_, probe), answer)| probe.wanted.is_some() && answer.is_none());
        if !waiting && silent_until.is_none() {
            silent_until = Some(Instant::now() + SILENCE);
        }
        if silent_until.is_some_and(|end| Instant::now() > end) || started.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    probes.iter().zip(answers).filter_map(|((at, _), answer)| Some((*at, answer?))).collect()
}

/// A socket on its way; none where it is known at once that there is no way.
fn connect(probe: &Probe) -> Option<OwnedFd> {
    let (kind, port) = match probe.what {
        What::Tcp(port) => (SockType::Stream, port),
        What::Udp(port) => (SockType::Datagram, port),
        What::Echo => return None,
    };
    let family = if probe.to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket::socket(family, kind, SockFlag::SOCK_NONBLOCK, None).unwrap();
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(probe.to, port))) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Some(socket),
        Err(_) => None,
    }
}

fn echo_socket(ipv6: bool) -> OwnedFd {
    let (family, protocol) =
        if ipv6 { (AddressFamily::Inet6, SockProtocol::IcmpV6) } else { (AddressFamily::Inet, SockProtocol::Icmp) };
    socket::socket(family, SockType::Raw, SockFlag::SOCK_NONBLOCK, protocol).unwrap()
}

/// "netrec" in the identifier tells ours from others'.
const IDENTIFIER: [u8; 2] = [0x6e, 0x72];

fn echo(socket: &OwnedFd, to: IpAddr, number: u16) {
    let kind = if to.is_ipv6() { 128 } else { 8 };
    let mut message = [&[kind, 0, 0, 0][..], &IDENTIFIER, &number.to_be_bytes()].concat();
    let words = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16; // for IPv6 the kernel puts its own
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let _ =
        socket::sendto(socket.as_raw_fd(), &message, &SockaddrStorage::from(SocketAddr::new(to, 0)), MsgFlags::empty());
}

/// Numbers of the questions that were answered.
fn echoed(socket: &OwnedFd, ipv6: bool) -> Vec<u16> {
    let (mut found, mut buffer) = (Vec::new(), [0; 256]);
    while let Ok(length) = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        let message = &buffer[..length];
        let message = if ipv6 { message } else { message.get(usize::from(message[0] & 15) * 4..).unwrap_or_default() };
        if let [kind, _, _, _, first, second, high, low, ..] = *message
            && kind == if ipv6 { 129 } else { 0 }
            && [first, second] == IDENTIFIER
        {
            found.push(u16::from_be_bytes([high, low]));
        }
    }
    found
}
