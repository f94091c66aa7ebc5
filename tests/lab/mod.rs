//! Throw-away namespaces in which tests meet the real kernel: nothing of the machine is in reach.

#![allow(dead_code, reason = "every test binary uses its part")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// How long is waited for an answer that is to come: more than the second after which a lost packet is sent again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);

/// How long is waited for an answer that is not to come.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// Runs a test in network and mount namespaces of its own, on a thread of its own.
///
/// Says so and passes only if `NETREC_SKIP_KERNEL=1`; without privilege it fails.
pub(crate) fn in_private_namespaces(test: impl FnOnce() + Send) {
    if skipped() {
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("kernel tests need root or a user namespace");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts become private");
        mount(Some("t"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("an empty /run");
        // The view of /proc/sys/net follows the thread that opens it.
        run("ip link set lo up");
        test();
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
}

/// Whether the kernel is to be left out, which is said.
pub(crate) fn skipped() -> bool {
    let skipped = std::env::var_os("NETREC_SKIP_KERNEL").is_some_and(|value| value == "1");
    if skipped {
        let _ =
            writeln!(std::io::stderr(), "SKIPPED on request: NETREC_SKIP_KERNEL=1, nothing was shown about the kernel");
    }
    skipped
}

/// Runs a shell line; panics with its output if it fails.
pub(crate) fn run(line: &str) -> String {
    let output = attempt(line);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Runs a shell line, whatever comes of it.
pub(crate) fn attempt(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().expect("sh starts")
}

/// Feeds nft.
pub(crate) fn nft(text: &str) {
    fs::write("/run/rules.nft", text).expect("/run is ours");
    run("nft -f /run/rules.nft");
}

/// Runs something in a named namespace; the empty name is the private namespace of the test itself.
pub(crate) fn inside<T: Send + 'static>(netns: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.to_owned();
    let enter = move || {
        if !netns.is_empty() {
            let file = fs::File::open(format!("/run/netns/{netns}")).expect("the namespace is there");
            setns(file, CloneFlags::CLONE_NEWNET).expect("it can be entered");
        }
        act()
    };
    std::thread::spawn(enter).join().expect("what runs inside does not panic")
}

/// Answers on a TCP and UDP port of a namespace, in both families, with its name and the address of whoever asks.
pub(crate) fn serve(netns: &'static str, port: u16) {
    let (listener, datagrams) = inside(netns, move || {
        let any = (Ipv6Addr::UNSPECIFIED, port);
        (TcpListener::bind(any).expect("the port is free"), UdpSocket::bind(any).expect("the port is free"))
    });
    let answer = move |peer: SocketAddr| format!("{netns} {}", peer.ip().to_canonical());
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(answer(peer).as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(answer(peer).as_bytes(), peer);
        }
    });
}

/// Connects from a namespace: what the server says, or nothing.
pub(crate) fn ask_tcp(netns: &str, to: &str, patience: Duration) -> Option<String> {
    let to: SocketAddr = to.parse().expect("an address and a port");
    inside(netns, move || {
        let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        (!said.is_empty()).then_some(said)
    })
}

/// Sends a datagram from a namespace: what the server says, or nothing.
pub(crate) fn ask_udp(netns: &str, to: &str, patience: Duration) -> Option<String> {
    let to: SocketAddr = to.parse().expect("an address and a port");
    inside(netns, move || {
        let from: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.set_read_timeout(Some(patience)).ok()?;
        socket.connect(to).ok()?;
        socket.send(b"?").ok()?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).ok()?;
        String::from_utf8(buffer[..length].to_vec()).ok()
    })
}
