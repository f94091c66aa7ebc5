//! A host to throw away: user, mount and network namespaces in which everything is allowed and from which nothing gets
//! out. The kernel itself keeps what is done there from the real host: this process has no capability over it any more.

use std::fs;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};

use super::KernelError;
use super::netlink::{Protocol, Socket};
use super::netns::{self, Creation};

/// Settings that forbid user namespaces to some or all, and the value that does.
const FORBIDDING: [(&str, &str); 3] = [
    ("user.max_user_namespaces", "0"),
    ("kernel.unprivileged_userns_clone", "0"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
];

/// Moves this process, which must have one thread only, to a host of its own with an empty `/run`. There is no way back:
/// the host ends with the process.
///
/// # Errors
///
/// [`KernelError::Unable`] where user namespaces are forbidden.
pub fn enter() -> Result<(), KernelError> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).map_err(forbidden)?;
    // user_namespaces(7): without privilege over the group outside, setgroups(2) must be given up first.
    for (file, map) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {user} 1")), ("gid_map", format!("0 {group} 1"))]
    {
        fs::write(format!("/proc/self/{file}"), map)
            .map_err(|error| forbidden(Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))))?;
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(forbidden)?;
    mount(Some("netrec"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .map_err(forbidden)?;
    let mut lo = LinkMessage::default();
    lo.header.index = 1;
    lo.header.flags = LinkFlags::Up;
    lo.header.change_mask = LinkFlags::Up;
    say(&[(RouteNetlinkMessage::SetLink(lo), 0)])
}

fn forbidden(errno: Errno) -> KernelError {
    let is = |key: &str, value: &str| {
        let file = format!("/proc/sys/{}", key.replace('.', "/"));
        fs::read_to_string(file).is_ok_and(|read| read.trim() == value)
    };
    let culprit = FORBIDDING.iter().find(|(key, value)| is(key, value));
    let hint = match culprit {
        Some((key, value)) => format!("`{key} = {value}` forbids them: see sysctl(8)"),
        None => "a container engine, seccomp or a security module forbids them: allow unshare(2) of user, mount and \
                 network namespaces"
            .into(),
    };
    KernelError::unable(format!("user namespaces are forbidden here: {}", errno.desc()), hint)
}

/// Makes a bridge, up.
pub fn bridge(name: &str, mtu: u32) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    say(&[(RouteNetlinkMessage::NewLink(message), CREATE)])
}

/// Makes a link that default routes of both families lead through. They have no next hop, so that no address and no
/// subnet is taken from what a topology may want.
pub fn uplink(name: &str, mtu: u32) -> Result<(), KernelError> {
    bridge(name, mtu)?;
    let index = nix::net::if_::if_nametoindex(name).map_err(|errno| KernelError::system(name, errno))?;
    let route = |family| {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = nix::libc::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Link;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Oif(index));
        (RouteNetlinkMessage::NewRoute(message), CREATE)
    };
    let mut families = vec![route(AddressFamily::Inet)];
    if super::feature::ipv6().is_ok() {
        families.push(route(AddressFamily::Inet6));
    }
    say(&families)
}

/// Makes an empty namespace of that name, as somebody else would.
pub fn namespace(name: &str) -> Result<(), KernelError> {
    netns::create(&[Creation { name, mark: "", setup: &[] }]).into_iter().collect()
}

const CREATE: u16 = (nix::libc::NLM_F_CREATE | nix::libc::NLM_F_EXCL) as u16;

fn say(messages: &[(RouteNetlinkMessage, u16)]) -> Result<(), KernelError> {
    Socket::open(Protocol::Route)?.batch(messages).into_iter().collect()
}
