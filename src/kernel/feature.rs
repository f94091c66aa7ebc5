//! Whether this kernel has what netrec needs of it. Distributions put most of it into modules, which the kernel loads
//! when asked; a kernel of one's own may have been built without.

use std::path::Path;

use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::netlink::{Protocol, Request, Socket};
use super::nft::NftError;
use super::{KernelError, sysctl};
use crate::model::resource::{HOST, Resource, Step};

const CREATE: u16 = (nix::libc::NLM_F_CREATE | nix::libc::NLM_F_EXCL) as u16;

/// Whether it has what steps need.
///
/// # Errors
///
/// [`KernelError::Unable`] that says what is missing.
pub fn able(steps: &[Step]) -> Result<(), KernelError> {
    let wanted = || steps.iter().filter_map(|step| step.op.to());
    let mut socket = Socket::open(Protocol::Route)?;
    if wanted().any(|it| matches!(it, Resource::Bridge(_))) {
        link_kind(&mut socket, &InfoKind::Bridge)?;
    }
    if wanted().any(|it| matches!(it, Resource::Veth(_))) {
        link_kind(&mut socket, &InfoKind::Veth)?;
    }
    for it in wanted() {
        if let Resource::Sysctl(setting) = it
            && &*setting.netns == HOST
        {
            sysctl::writable(&setting.key)?;
        }
    }
    let is_ipv6 = |it: &Resource| matches!(it, Resource::Address(address) if address.address.addr().is_ipv6());
    if wanted().any(is_ipv6) { ipv6() } else { Ok(()) }
}

/// Whether links of a kind can be made. The question is a request for one without a queue: a kernel that knows the kind
/// refuses that for the queue, one that does not for the kind, and neither makes anything.
///
/// # Errors
///
/// [`KernelError::Unable`] that names the module.
pub fn link_kind(socket: &mut Socket, kind: &InfoKind) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName("netrec-question".into()),
        LinkAttribute::NumTxQueues(0),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind.clone())]),
    ];
    let question = Request::route(&RouteNetlinkMessage::NewLink(message), CREATE);
    match socket.request(&question, |_| Ok(())) {
        Err(KernelError::Refused { errno: Errno::EOPNOTSUPP, .. }) => {
            let hint = format!("load the module: `modprobe {kind}` (CONFIG_{})", kind.to_string().to_uppercase());
            Err(KernelError::unable(format!("this kernel has no links of kind {kind}"), hint))
        }
        // Any other refusal is of what was asked for on purpose, and a real one comes again with the real request.
        _ => Ok(()),
    }
}

/// Whether the kernel speaks a family at all; it may be switched off when booting.
///
/// # Errors
///
/// [`KernelError::Unable`].
pub fn ipv6() -> Result<(), KernelError> {
    if Path::new("/proc/sys/net/ipv6").exists() {
        return Ok(());
    }
    let hint = "boot without `ipv6.disable=1` (CONFIG_IPV6), or give the networks IPv4 subnets only";
    Err(KernelError::unable("this kernel has no IPv6", hint))
}

/// What a failed look at nftables says about the kernel: without nfnetlink there is no such socket, without `nf_tables`
/// nobody behind it.
pub fn nftables(error: NftError) -> KernelError {
    let number = |source: &std::io::Error| source.raw_os_error().map(Errno::from_raw);
    let missing = match &error {
        NftError::Socket { source, .. } => number(source) == Some(Errno::EPROTONOSUPPORT),
        NftError::Refused { source, .. } => matches!(number(source), Some(Errno::EINVAL | Errno::EOPNOTSUPP)),
        _ => false,
    };
    if missing {
        let hint = "load the module: `modprobe nf_tables` (CONFIG_NF_TABLES); the program nft(8) is not needed";
        return KernelError::unable("this kernel has no nftables", hint);
    }
    error.into()
}
