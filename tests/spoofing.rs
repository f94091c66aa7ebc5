//! Whatever a container forges stays where it was made: frames are put on its wire byte by byte, and the other
//! containers, the bridge and the host listen for them. Each is sent twice: behind the rules, and with
//! `anti_spoofing = false`, where it must arrive, so that a frame that nobody would ever see proves nothing.

#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod lab;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use lab::{inside, run};
use netrec::model::wire::DOOMED;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};

const TOPOLOGY: &str = r#"
topology = "lab"
[networks.lan]
driver = "bridge"
subnets = ["10.10.0.0/24", "fd10::/64"]
bridge = { name = "br-lan" }
[containers.evil]
netns = "evil"
[containers.good]
netns = "good"
[endpoints.evil]
container = "evil"
network = "lan"
addresses = ["10.10.0.66", "fd10::66"]
mac = "02:00:00:00:00:66"
anti_spoofing = true
[endpoints.good]
container = "good"
network = "lan"
addresses = ["10.10.0.10", "fd10::10"]
mac = "02:00:00:00:00:10"
"#;

const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x66];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// Beginning of hardware addresses that nobody has, so that a bridge passes on to every port what is sent there; the rest
/// is the frame's number, by which it is known again.
const NOBODY: [u8; 4] = [2, 0xee, 0, 0];
const OWN4: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 66);
const OTHER4: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 10);
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);

fn six(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// An Ethernet frame (IEEE 802.3) without the address that it goes to.
struct Frame(Vec<u8>);

fn frame(from: [u8; 6], kind: u16, content: &[u8]) -> Frame {
    Frame([&from[..], &kind.to_be_bytes(), content].concat())
}

/// ARP (RFC 826): 1 asks, 2 answers.
fn arp(operation: u8, mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
    [&fixed[..], &mac, &sender.octets(), &[0; 6], &target.octets()].concat()
}

fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, content: &[u8]) -> Vec<u8> {
    let length = (20 + content.len()) as u16;
    let mut header = [&[0x45, 0][..], &length.to_be_bytes(), &[0, 0, 0, 0, 64, protocol, 0, 0]].concat();
    header.extend(from.octets().into_iter().chain(to.octets()));
    let checksum = sum(&[&header]).to_be_bytes();
    header[10..12].copy_from_slice(&checksum);
    [&header, content].concat()
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 255], &from.octets(), &to.octets(), content].concat()
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 16, 0, 0], b"netrec!!"].concat()
}

/// With the checksum that IPv6 demands, which lies at that offset.
fn summed(from: Ipv6Addr, to: Ipv6Addr, (next, offset): (u8, usize), mut message: Vec<u8>) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    let checksum = sum(&[&from.octets(), &to.octets(), &length, &[0, 0, 0, next], &message]).to_be_bytes();
    message[offset..offset + 2].copy_from_slice(&checksum);
    ipv6(from, to, next, &message)
}

fn udp6(from: Ipv6Addr, to: Ipv6Addr, source: u16, destination: u16) -> Vec<u8> {
    summed(from, to, (17, 6), udp(source, destination))
}

fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, content: &[u8]) -> Vec<u8> {
    summed(from, to, (58, 2), [&[kind, 0, 0, 0][..], content].concat())
}

/// Neighbour discovery (RFC 4861): 135 asks, 136 advertises.
fn neighbour(kind: u8, from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let option: &[u8] = if kind == 136 { &[2, 1, 2, 0, 0, 0, 0, 0x66] } else { &[] };
    icmpv6(from, six("ff02::1"), kind, &[&[0x20, 0, 0, 0][..], &target.octets(), option].concat())
}

/// Who joins a group says so (143, RFC 9777; 131, RFC 2710), or leaves it (132).
fn report(kind: u8, mac: [u8; 6], from: Ipv6Addr) -> Frame {
    let (to, group) = (six("ff02::16"), six("ff02::1:ff00:99"));
    let before: &[u8] = if kind == 143 { &[0, 0, 0, 1, 4, 0, 0, 0] } else { &[0; 4] };
    let mut message = icmpv6(from, to, kind, &[before, &group.octets()].concat());
    let inner = message.split_off(40);
    let alert = [58, 0, 5, 2, 0, 0, 1, 0]; // RFC 2711
    frame(mac, 0x86dd, &ipv6(from, to, 0, &[&alert[..], &inner].concat()))
}

fn forged() -> Vec<(&'static str, Frame)> {
    let (own6, other6, own_link) = (six("fd10::66"), six("fd10::10"), six("fe80::ff:fe00:66"));
    let everybody4 = Ipv4Addr::BROADCAST;
    let advert = |from| icmpv6(from, six("ff02::1"), 134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    // What goes before the ICMPv6 header does not hide it (RFC 7113).
    let mut hidden = advert(own6);
    let inner = hidden.split_off(40);
    let hidden = ipv6(own6, six("ff02::1"), 60, &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &inner].concat());
    let (arp_type, ip, ip6) = (0x0806, 0x0800, 0x86dd);
    let plain = ipv4(OWN4, everybody4, 17, &udp(7, 7));
    let asks = ipv4(Ipv4Addr::UNSPECIFIED, everybody4, 17, &udp(68, 67));
    vec![
        ("another's hardware address", frame(OTHER_MAC, ip, &plain)),
        ("a DHCP question with another's hardware address", frame(OTHER_MAC, ip, &asks)),
        ("a hardware address that nobody has", frame([2, 9, 9, 9, 9, 9], ip, &plain)),
        ("an ARP answer for another", frame(OWN_MAC, arp_type, &arp(2, OWN_MAC, OTHER4, GATEWAY4))),
        ("an ARP answer for the gateway", frame(OWN_MAC, arp_type, &arp(2, OWN_MAC, GATEWAY4, OTHER4))),
        ("an ARP question as another", frame(OWN_MAC, arp_type, &arp(1, OWN_MAC, OTHER4, GATEWAY4))),
        ("an ARP answer with another's hardware", frame(OWN_MAC, arp_type, &arp(2, OTHER_MAC, OWN4, GATEWAY4))),
        ("an ARP answer in another's frame", frame(OTHER_MAC, arp_type, &arp(2, OWN_MAC, OWN4, GATEWAY4))),
        (
            "an ARP probe with another's hardware",
            frame(OWN_MAC, arp_type, &arp(1, OTHER_MAC, Ipv4Addr::UNSPECIFIED, OWN4)),
        ),
        ("an ARP announcement for nobody", frame(OWN_MAC, arp_type, &arp(2, OWN_MAC, Ipv4Addr::UNSPECIFIED, OTHER4))),
        ("another's IPv4 address", frame(OWN_MAC, ip, &ipv4(OTHER4, everybody4, 17, &udp(7, 7)))),
        ("an IPv4 address from afar", frame(OWN_MAC, ip, &ipv4([192, 0, 2, 9].into(), everybody4, 17, &udp(7, 7)))),
        ("no IPv4 address", frame(OWN_MAC, ip, &ipv4(Ipv4Addr::UNSPECIFIED, everybody4, 17, &udp(68, 7)))),
        ("a DHCP answer", frame(OWN_MAC, ip, &ipv4(OWN4, everybody4, 17, &udp(67, 68)))),
        ("an ICMP redirect", frame(OWN_MAC, ip, &ipv4(OWN4, everybody4, 1, &[5, 1, 0, 0, 10, 10, 0, 66, 1, 2, 3, 4]))),
        ("IPv6 with another's hardware address", frame(OTHER_MAC, ip6, &udp6(own6, six("ff02::1"), 7, 7))),
        ("another's IPv6 address", frame(OWN_MAC, ip6, &udp6(other6, six("ff02::1"), 7, 7))),
        ("an IPv6 address from afar", frame(OWN_MAC, ip6, &udp6(six("2001:db8::9"), six("ff02::1"), 7, 7))),
        ("another's link-local address", frame(OWN_MAC, ip6, &neighbour(135, six("fe80::ff:fe00:10"), other6))),
        ("a router advertisement", frame(OWN_MAC, ip6, &advert(own6))),
        ("a router advertisement from the link", frame(OWN_MAC, ip6, &advert(own_link))),
        ("a router advertisement behind options", frame(OWN_MAC, ip6, &hidden)),
        ("an IPv6 redirect", frame(OWN_MAC, ip6, &icmpv6(own6, six("ff02::1"), 137, &[0; 36]))),
        ("a neighbour advertisement for another", frame(OWN_MAC, ip6, &neighbour(136, own6, other6))),
        ("a neighbour advertisement for the gateway", frame(OWN_MAC, ip6, &neighbour(136, own_link, six("fd10::1")))),
        ("a neighbour advertisement as another", frame(OWN_MAC, ip6, &neighbour(136, other6, other6))),
        ("a question whether another's address is free", frame(OWN_MAC, ip6, &neighbour(135, six("::"), other6))),
        ("a DHCPv6 answer", frame(OWN_MAC, ip6, &udp6(own6, six("ff02::1"), 547, 546))),
        ("a VLAN tag", frame(OWN_MAC, 0x8100, &[&[0, 5, 8, 0][..], &plain].concat())),
        ("two VLAN tags", frame(OWN_MAC, 0x88a8, &[&[0, 5, 0x81, 0, 0, 6, 8, 0][..], &plain].concat())),
        ("a PPPoE offer", frame(OWN_MAC, 0x8863, &[0x11, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
    ]
}

fn honest() -> Vec<(&'static str, Frame)> {
    let (own6, own_link) = (six("fd10::66"), six("fe80::ff:fe00:66"));
    let everybody4 = Ipv4Addr::BROADCAST;
    vec![
        ("an ARP question", frame(OWN_MAC, 0x0806, &arp(1, OWN_MAC, OWN4, OTHER4))),
        ("an ARP announcement", frame(OWN_MAC, 0x0806, &arp(2, OWN_MAC, OWN4, OWN4))),
        ("an ARP probe", frame(OWN_MAC, 0x0806, &arp(1, OWN_MAC, Ipv4Addr::UNSPECIFIED, OWN4))),
        ("IPv4", frame(OWN_MAC, 0x0800, &ipv4(OWN4, everybody4, 17, &udp(7, 7)))),
        ("a DHCP question", frame(OWN_MAC, 0x0800, &ipv4(Ipv4Addr::UNSPECIFIED, everybody4, 17, &udp(68, 67)))),
        ("IPv6", frame(OWN_MAC, 0x86dd, &udp6(own6, six("ff02::1"), 7, 7))),
        ("IPv6 from the link", frame(OWN_MAC, 0x86dd, &neighbour(135, own_link, six("fd10::10")))),
        ("a neighbour advertisement", frame(OWN_MAC, 0x86dd, &neighbour(136, own6, own6))),
        ("a neighbour advertisement of two addresses", frame(OWN_MAC, 0x86dd, &neighbour(136, own6, own_link))),
        ("a DHCPv6 question", frame(OWN_MAC, 0x86dd, &udp6(own_link, six("ff02::1:2"), 546, 547))),
    ]
}

/// A socket that sees every frame of a namespace (packet(7)).
fn tap(netns: &str) -> OwnedFd {
    inside(netns, || {
        let kind = (AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK);
        socket::socket(kind.0, kind.1, kind.2, SockProtocol::EthAll).unwrap()
    })
}

/// The frames that a tap has seen since it was opened, by their numbers. Those that a namespace
/// itself sent or forwarded are seen as well, so taps are where nothing is sent.
fn seen(taps: &[OwnedFd], wanted: usize) -> BTreeMap<u16, Vec<u8>> {
    let (mut found, mut buffer) = (BTreeMap::new(), [0; 2048]);
    let end = Instant::now() + Duration::from_secs(3);
    let mut quiet = Instant::now() + Duration::from_millis(400);
    while Instant::now() < quiet.min(end) && found.len() < wanted {
        for tap in taps {
            while let Ok(length) = socket::recv(tap.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                if let Some((number, frame)) =
                    buffer[..length].strip_prefix(&NOBODY).and_then(|it| it.split_first_chunk())
                {
                    found.insert(u16::from_be_bytes(*number), frame.to_vec());
                    quiet = Instant::now() + Duration::from_millis(400);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    found
}

/// The names of the frames that came out of the container, to the neighbour or to the host's stack.
fn arrive(frames: Vec<(&'static str, Frame)>) -> Vec<&'static str> {
    pass(frames).into_iter().map(|(name, _)| name).collect()
}

/// The same, with what has become of them.
fn pass(frames: Vec<(&'static str, Frame)>) -> Vec<(&'static str, Vec<u8>)> {
    let names: Vec<&str> = frames.iter().map(|(name, _)| *name).collect();
    let taps = [tap("good")];
    inside("evil", move || {
        let kind = (AddressFamily::Packet, SockType::Raw, SockFlag::empty());
        let socket = socket::socket(kind.0, kind.1, kind.2, SockProtocol::EthAll).unwrap();
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        for (number, (_, Frame(bytes))) in frames.into_iter().enumerate() {
            let marked = [&NOBODY[..], &(number as u16).to_be_bytes(), &bytes].concat();
            send(&socket, index, &marked);
        }
    });
    let found = seen(&taps, names.len());
    found.into_iter().map(|(number, frame)| (names[usize::from(number)], frame)).collect()
}

#[allow(unsafe_code, reason = "nix cannot address a frame")]
fn send(socket: &OwnedFd, index: u32, frame: &[u8]) {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel reads the frame and the address, which outlive the call.
    let sent = unsafe {
        let address = (&raw const address).cast();
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, address, length)
    };
    assert_eq!(sent, frame.len().cast_signed());
}

/// Applies, and waits until the bridge passes on what is right: its ports begin to when Linux has looked after their
/// carriers, up to a second later, and before that nothing forged would arrive either.
fn apply(toml: &str) {
    lab::apply(toml);
    let end = Instant::now() + lab::PATIENCE;
    while arrive(honest()).len() < honest().len() {
        assert!(Instant::now() < end, "the bridge passes nothing on");
    }
}

fn bridged_frames_pass_ip_hooks(value: u8) {
    run(&format!("for f in /proc/sys/net/bridge/bridge-nf-call-*tables; do test ! -e $f || echo {value} > $f; done"));
}

#[test]
fn nothing_forged_leaves_a_container() {
    lab::in_private_namespaces(|| {
        for filtered in [0, 1] {
            bridged_frames_pass_ip_hooks(filtered);
            apply(TOPOLOGY);
            assert_eq!(arrive(forged()), Vec::<&str>::new());
            let names: Vec<&str> = honest().iter().map(|(name, _)| *name).collect();
            assert_eq!(arrive(honest()), names);
        }
    });
}

#[test]
fn an_endpoint_may_be_let_loose() {
    lab::in_private_namespaces(|| {
        bridged_frames_pass_ip_hooks(0);
        apply(&TOPOLOGY.replace("anti_spoofing = true", "anti_spoofing = false"));
        let (sent, passed) = (forged(), pass(forged()));
        assert!(passed.iter().map(|(name, _)| name).eq(sent.iter().map(|(name, _)| name)), "{passed:?}");
        let altered = sent.iter().zip(&passed).filter(|((_, Frame(sent)), (_, passed))| sent != passed);
        let altered: Vec<&str> = altered.map(|((name, _), _)| *name).collect();
        assert_eq!(altered, ["a VLAN tag", "two VLAN tags"], "which a tap is shown beside the frame");
        // And back again, on a port that is there.
        apply(TOPOLOGY);
        assert_eq!(arrive(forged()), Vec::<&str>::new());
    });
}

#[test]
fn a_report_without_an_address_is_for_bridges_only() {
    let of = |mac, from| [143, 131, 132].map(|kind| report(kind, mac, six(from)));
    let named = |name, frames: [Frame; 3]| frames.map(|frame| (name, frame));
    let kinds = [("of nobody", OWN_MAC, "::"), ("of one", OWN_MAC, "fe80::ff:fe00:66"), ("forged", OTHER_MAC, "::")];
    let reports = || kinds.into_iter().flat_map(|(name, mac, from)| named(name, of(mac, from))).collect();
    lab::in_private_namespaces(|| {
        apply(TOPOLOGY);
        assert_eq!(arrive(reports()), ["of one"; 3]);
        // Ours has heard what the container itself has said so.
        let heard = run("bridge mdb show dev br-lan");
        assert!(heard.contains("grp ff02::1:ff00:66"), "{heard}");
        // Who may send as anybody may be a bridge.
        apply(&TOPOLOGY.replace("::10\"]\n", "::10\"]\nanti_spoofing = false\n"));
        assert_eq!(arrive(reports()), [["of nobody"; 3], ["of one"; 3]].concat());
    });
}

#[test]
fn a_port_without_a_guard_passes_nothing() {
    lab::in_private_namespaces(|| {
        apply(TOPOLOGY);
        // As between the change of the rules and the removal of the link, where an endpoint goes.
        run("for set in macs sources4 sources6; do nft flush set bridge netrec-lab $set; done");
        assert_eq!(arrive(honest()), Vec::<&str>::new());
        run(&format!(
            "for port in $(ip -o link show master br-lan | cut -d: -f2 | cut -d@ -f1); do ip link set $port group {DOOMED}; done"
        ));
        assert_eq!(arrive(honest()), Vec::<&str>::new());
    });
}

#[test]
fn an_advertisement_for_another_changes_nobodys_mind() {
    lab::in_private_namespaces(|| {
        apply(TOPOLOGY);
        run("ip netns exec good ping -c1 -W2 fd10::1; ip netns exec good ping -c1 -W2 10.10.0.1");
        let before = run("ip neigh show dev br-lan | cut -d' ' -f1-3");
        assert!(before.contains("fd10::10 lladdr 02:00:00:00:00:10"), "{before}");
        arrive(vec![
            ("advertisement", frame(OWN_MAC, 0x86dd, &neighbour(136, six("fd10::66"), six("fd10::10")))),
            ("answer", frame(OWN_MAC, 0x0806, &arp(2, OWN_MAC, OTHER4, GATEWAY4))),
        ]);
        assert_eq!(run("ip neigh show dev br-lan | cut -d' ' -f1-3"), before);
    });
}
