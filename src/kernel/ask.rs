//! Questions to the rtnetlink of one namespace.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::libc;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage as Ask;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;

use super::netlink::{Protocol, Reply, Request, Socket};
use super::{KernelError, Malformed, decode};
use crate::model::resource::Text;
use crate::model::wire::{AddressFacts, LinkFacts, NetnsFacts, RouteFacts};

/// `RT_TABLE_MAIN` (linux/rtnetlink.h).
pub(super) const MAIN: u32 = libc::RT_TABLE_MAIN as u32;

/// The index of each namespace's loopback (`net/core/dev.c`).
pub(super) const LOOPBACK: u32 = 1;

/// The loopback of the socket's namespace: its alias is the namespace's mark.
pub fn loopback(socket: &mut Socket) -> Result<LinkFacts, KernelError> {
    Ok(one_link(socket, &QUESTIONS.loopback)?.ok_or(Malformed("a namespace without lo"))?)
}

/// The link of an index, if it is there.
pub fn link(socket: &mut Socket, index: u32) -> Result<Option<LinkFacts>, KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    one_link(socket, &link_question(message))
}

/// The link of a name, if it is there.
pub fn link_named(socket: &mut Socket, name: &str) -> Result<Option<LinkFacts>, KernelError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    one_link(socket, &link_question(message))
}

/// Has the carriers of links settled: of one that is asked for by itself Linux does it at once (`linkwatch_sync_dev` in
/// `rtnl_getlink`, 6.7). Otherwise it does so within a second, or later where many links change, and until then IPv6 on a
/// bridge has no route for the multicast by which neighbours ask for its address. Nothing more is lost if it fails.
pub fn settle_carriers(links: &BTreeSet<Text>) {
    let _ = Socket::open(Protocol::Route)
        .and_then(|mut socket| links.iter().try_for_each(|link| link_named(&mut socket, link).map(drop)));
}

/// All of a namespace's links, ascending by index.
pub fn links(socket: &mut Socket) -> Result<Vec<LinkFacts>, KernelError> {
    let mut links = all(socket, &QUESTIONS.links, |payload| decode::link(payload).map(Some))?;
    links.sort_unstable_by_key(|link| link.index);
    Ok(links)
}

/// All of a namespace's addresses.
pub fn addresses(socket: &mut Socket) -> Result<Vec<AddressFacts>, KernelError> {
    of_both(socket, &QUESTIONS.addresses, decode::address, Err)
}

/// All of a namespace's routes, of all tables.
pub(super) fn routes(socket: &mut Socket) -> Result<Vec<RouteFacts>, KernelError> {
    of_both(socket, &QUESTIONS.routes, decode::route, Err)
}

/// Those of the main table; of all tables where the kernel does not choose (before 4.20).
pub(super) fn main_routes(socket: &mut Socket) -> Result<Vec<RouteFacts>, KernelError> {
    let empty = |error| match error {
        // A table that nothing was ever put into.
        KernelError::Refused { errno: Errno::ENOENT, .. } => Ok(Vec::new()),
        error => Err(error),
    };
    of_both(socket, &QUESTIONS.main_routes, decode::route, empty)
}

/// What is asked in every namespace, encoded once.
pub(super) struct Questions {
    pub(super) loopback: Request,
    pub(super) links: Request,
    addresses: [Request; 2],
    routes: [Request; 2],
    main_routes: [Request; 2],
    pub(super) rules: Request,
}

pub(super) static QUESTIONS: LazyLock<Questions> = LazyLock::new(|| {
    let mut loopback = LinkMessage::default();
    loopback.header.index = LOOPBACK;
    let ask = |message| Request::route(&message, 0);
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    let addresses = families.map(|family| {
        let mut message = AddressMessage::default();
        message.header.family = family;
        ask(Ask::GetAddress(message))
    });
    let routes = |table| {
        families.map(|family| {
            let mut message = RouteMessage::default();
            (message.header.address_family, message.header.table) = (family, table);
            ask(Ask::GetRoute(message))
        })
    };
    Questions {
        loopback: link_question(loopback),
        links: link_question(LinkMessage::default()),
        addresses,
        routes: routes(libc::RT_TABLE_UNSPEC),
        main_routes: routes(libc::RT_TABLE_MAIN),
        // The unspecified family is IPv4 and IPv6 in one dump.
        rules: ask(Ask::GetRule(RuleMessage::default())),
    }
});

/// Asks for links, and for those that they are or were ports of: a bridge that goes says so after its ports did, and one
/// without the other is what never was. What is asked for and not there any more is none.
pub fn with_masters(
    socket: &mut Socket,
    mut wanted: Vec<u32>,
    before: &NetnsFacts,
    asked: &mut BTreeMap<u32, Option<LinkFacts>>,
) -> Result<(), KernelError> {
    while let Some(index) = wanted.pop() {
        if let Entry::Vacant(entry) = asked.entry(index) {
            let (was, is) = (before.link(index), link(socket, index)?);
            wanted.extend([was, is.as_ref()].into_iter().flatten().filter_map(|link| link.master));
            entry.insert(is);
        }
    }
    Ok(())
}

/// Statistics are most of a link's answer and of its time.
fn link_question(mut message: LinkMessage) -> Request {
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    Request::route(&Ask::GetLink(message), 0)
}

fn one_link(socket: &mut Socket, question: &Request) -> Result<Option<LinkFacts>, KernelError> {
    let mut link = None;
    let asked = socket.request(question, |reply| {
        link = Some(decode::link(reply.payload)?);
        Ok(())
    });
    match asked {
        Ok(()) => Ok(link),
        Err(KernelError::Refused { errno: Errno::ENODEV, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The number that the socket's namespace knows that of a process or descriptor by, if it has one: `IFLA_LINK_NETNSID` of
/// links whose other end is there. None for a process that is gone.
pub(super) fn nsid(socket: &mut Socket, whose: NsidAttribute) -> Result<Option<i32>, KernelError> {
    let mut message = NsidMessage::default();
    message.attributes.push(whose);
    let mut id = None;
    let asked = socket.request(&Request::route(&Ask::GetNsId(message), 0), |reply| {
        id = decode::nsid(reply.payload)?;
        Ok(())
    });
    match asked {
        Ok(()) => Ok(id),
        Err(KernelError::Refused { errno: Errno::ESRCH | Errno::EINVAL, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn all<T>(
    socket: &mut Socket,
    question: &Request,
    decode: impl Fn(&[u8]) -> Result<Option<T>, Malformed>,
) -> Result<Vec<T>, KernelError> {
    socket.dump(question, |reply: Reply<'_>| decode(reply.payload))
}

/// Asks for IPv4 and for IPv6: for both at once Linux takes the lock of rtnetlink, for which whoever looks into other
/// namespaces would wait.
fn of_both<T>(
    socket: &mut Socket,
    questions: &[Request; 2],
    decode: impl Fn(&[u8]) -> Result<Option<T>, Malformed>,
    refused: impl Fn(KernelError) -> Result<Vec<T>, KernelError>,
) -> Result<Vec<T>, KernelError> {
    let mut both = Vec::new();
    for question in questions {
        // A kernel without IPv6 answers for all that it has.
        let asked = |payload: &[u8]| payload.first() == question.payload.first();
        let of_one = all(socket, question, |it| if asked(it) { decode(it) } else { Ok(None) });
        both.append(&mut of_one.or_else(&refused)?);
    }
    Ok(both)
}
