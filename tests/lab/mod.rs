//! Who asks and who answers in a test's own world: packets between its namespaces.

#![allow(dead_code, reason = "every test binary uses its part")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use netrec::apply::{Target, execute, prepare};
use netrec::kernel::conntrack;
use netrec::kernel::linux::Linux;
use netrec::kernel::nft::{self, Nft, NftError};
use netrec::model::diagnostic::render;
use netrec::model::kinds::firewall::Firewall;
use netrec::model::parse::parse;
use netrec::model::resource::{Op, Wire};
use netrec::model::source::Source;
use netrec::model::wire::{Body, Message, NoLookup};
use nix::sched::{CloneFlags, setns};

#[path = "../world/mod.rs"]
pub(crate) mod world;

#[allow(unused_imports, reason = "every test binary uses its part")]
pub(crate) use world::{attempt, run as in_private_namespaces, sh as run};

/// How long is waited for an answer that is to come: more than the second after which a lost packet is sent again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);

/// How long is waited for an answer that is not to come.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// A namespace on a wire: its `eth0` with these addresses, and the other end outside.
pub(crate) fn wire(name: &str, outside: &str, addresses: &str) {
    run(&format!("ip netns add {name}; ip -n {name} link set lo up"));
    run(&format!("ip link add {outside} up type veth peer name eth0 netns {name}; ip -n {name} link set eth0 up"));
    run(&format!("for a in {addresses}; do ip -n {name} addr add $a dev eth0 nodad; done"));
}

/// What is said for a step of a firewall.
pub(crate) fn messages(op: &Op<&Firewall>) -> Vec<Message> {
    Firewall::encode(op, &mut NoLookup).expect("a firewall looks nothing up")
}

/// Takes a step of a firewall, as of a generation.
pub(crate) fn take(op: &Op<&Firewall>, mut generation: Option<u32>) -> Result<(), NftError> {
    for message in messages(op) {
        match message.body {
            Body::Nft(batch) => {
                Nft::open()?.commit(&batch, generation)?;
                generation = generation.map(nft::next);
            }
            Body::Forget(flows, note) => {
                conntrack::forget(&mut None, &flows).expect("flows can be forgotten");
                Nft::open()?.commit(&note, generation)?;
                generation = generation.map(nft::next);
            }
            other => panic!("not for netfilter: {other:?}"),
        }
    }
    Ok(())
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

/// Applies a topology to the host of the test, as `netrec apply` does; what it reached is verified.
pub(crate) fn apply(toml: &str) {
    let sources = [Source::new("lab.toml", toml)];
    let topology = parse(&sources).unwrap_or_else(|findings| panic!("{}", render(&findings, &sources)));
    let (mut kernel, target) = (Linux::for_one_run(), Target::Topology(&topology));
    let prepared = prepare(&mut kernel, target).unwrap_or_else(|no_plan| panic!("{no_plan:?}\n{toml}"));
    let report = execute(&mut kernel, target, prepared, &mut |_, _| {}).expect("a plan");
    assert!(report.is_converged() && report.failed.is_empty(), "{:?} {:?}\n{toml}", report.failed, report.residual);
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
