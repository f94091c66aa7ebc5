//! What Linux announces: changes of links, addresses, routes, rules and settings in every namespace of ours, and of our
//! nftables tables. Announcements only wake whoever watches; what is to be done comes from a complete look.
//!
//! They also say who made a change, as far as Linux knows: nftables names the process, rtnetlink the port of the socket,
//! which for the first socket of a program is its process id. Changes of links and what follows from others bear 0.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};

use super::memory::Disturbed;
use super::netlink::{Protocol, Reply, Socket, attributes, string, u32_at};
use super::netns::{self, Found, Identity};
use super::read::sees_host;
use super::{KernelError, ask, decode};
use crate::model::kinds::firewall::Firewall;
use crate::model::kinds::user_rules::UserRules;
use crate::model::resource::KindName;
use crate::model::wire::{NetnsRef, Owner};

/// Datagrams read in one go: the rest is read after whoever listens had a turn.
const DATAGRAMS: usize = 1_000;
/// Authors remembered of one go.
const AUTHORS: usize = 16;
/// `PID_MAX_LIMIT` (linux/threads.h): ports above it are no process ids.
const PID_MAX: u32 = 4 << 20;

/// What is heard of rtnetlink. Sysctls are announced only as far as they are in `netconf`: forwarding, `rp_filter`.
const ROUTE_GROUPS: [u32; 9] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_NSID,
    IPV4_NETCONF,
];
/// `RTNLGRP_IPV4_NETCONF` (linux/rtnetlink.h); libc has none.
const IPV4_NETCONF: u32 = 24;
/// `RTNLGRP_IPV6_NETCONF` (linux/rtnetlink.h).
const IPV6_NETCONF: u32 = 25;
/// `RTM_NEWNETCONF` and `RTM_DELNETCONF` (linux/rtnetlink.h); libc has none.
const NEW_NETCONF: u16 = 80;
const DELETE_NETCONF: u16 = 81;
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFTABLES_GROUP: u32 = 7;

/// `NFNL_SUBSYS_NFTABLES << 8`.
const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_NEWGEN`: ends the announcements of a transaction.
const NEW_GENERATION: u16 = NFTABLES | 15;

/// `NFT_MSG_NEWTABLE` and `NFT_MSG_DELTABLE`.
const OF_TABLES: [u16; 2] = [NFTABLES, NFTABLES | 2];

/// What was announced since the last time.
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that was heard or not, in any combination")]
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Heard {
    /// Something changed that can concern a topology.
    pub changed: bool,
    /// In which namespaces rtnetlink announced it, by nsid; none: in the host's. Of nftables its generation tells.
    pub places: BTreeSet<Option<i32>>,
    /// The host's links that it was about, by index.
    pub links: BTreeSet<u32>,
    /// Names, paths and process ids may stand for other namespaces than before.
    pub names: bool,
    /// Announcements were lost, for want of room or because they could not be read: anything may have changed.
    pub overflow: bool,
    /// Namespaces that have gone, by the nsids that went with them.
    pub gone: BTreeSet<i32>,
    /// There is more to be heard at once.
    pub more: bool,
    /// Messages read.
    pub messages: u64,
    /// Who made changes, where Linux says so; at most 16.
    pub authors: Vec<Author>,
}

/// A process that changed something.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Author {
    /// Of what kind.
    pub kind: KindName,
    /// Its number.
    pub pid: u32,
    /// Its name; empty if it has ended.
    pub name: String,
}

impl Author {
    /// Whether it is of those who change things of that kind.
    pub fn could_change(&self, kind: KindName) -> bool {
        let of_nftables = |kind| matches!(kind, KindName::Firewall | KindName::UserRules | KindName::DockerUser);
        self.kind == kind || of_nftables(self.kind) && of_nftables(kind)
    }
}

/// A socket that hears.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// The name of the tables whose changes count; none: rtnetlink is heard.
    table: Option<String>,
    /// Whether the transaction being announced is about one of them.
    touched: bool,
}

impl Listener {
    /// Hears rtnetlink, of this namespace and of all that have an nsid here ([`Nsids`]).
    pub fn route() -> Result<Self, KernelError> {
        let mut socket = Socket::open(Protocol::Route)?;
        socket.hear_all_namespaces()?;
        for group in ROUTE_GROUPS.into_iter().chain([IPV6_NETCONF]) {
            socket.join(group)?;
        }
        Ok(Self { socket, table: None, touched: false })
    }

    /// Hears what happens to the nftables tables of a topology in this namespace, and whether the one for rules of users
    /// comes or goes.
    pub fn netfilter(owner: &Owner) -> Result<Self, KernelError> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        socket.join(NFTABLES_GROUP)?;
        Ok(Self { socket, table: Some(Firewall::table_name(&owner.topology)), touched: false })
    }

    /// Sets the room for what was announced and not heard yet, in bytes.
    pub fn set_buffer(&mut self, bytes: i32) -> Result<(), KernelError> {
        self.socket.set_receive_buffer(bytes)
    }

    /// Reads what waits, and never waits itself.
    ///
    /// # Errors
    ///
    /// When the socket cannot be read at all. What was lost or is unreadable is no error but [`Heard::overflow`].
    pub fn hear(&mut self) -> Result<Heard, KernelError> {
        let mut heard = Heard { more: true, ..Heard::default() };
        for _ in 0..DATAGRAMS {
            let Self { socket, table, touched } = self;
            let more = socket.overhear(|message, nsid| {
                heard.messages += 1;
                match table {
                    Some(table) => heard.changed |= hear_netfilter(&mut heard, &message, table, touched),
                    None => hear_route(&mut heard, &message, nsid),
                }
            });
            match more {
                Ok(true) => {}
                Ok(false) => {
                    heard.more = false;
                    break;
                }
                Err(KernelError::Lost(Errno::ENOBUFS) | KernelError::Malformed(_)) => heard.overflow = true,
                Err(error) => return Err(error),
            }
        }
        Ok(heard)
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Heard {
    /// Adds what was heard later, as far as it says where to look.
    pub fn extend(&mut self, later: &Self) {
        self.changed |= later.changed;
        self.names |= later.names;
        self.overflow |= later.overflow;
        self.gone.extend(&later.gone);
        self.messages += later.messages;
        self.places.extend(&later.places);
        self.links.extend(&later.links);
    }

    fn note(&mut self, author: Author) {
        if self.authors.len() < AUTHORS && !self.authors.contains(&author) {
            self.authors.push(author);
        }
    }
}

/// Notes an announcement of the namespace with that nsid, if it is about something that a look sees.
fn hear_route(heard: &mut Heard, message: &Reply<'_>, nsid: Option<i32>) {
    /// Offset of `ifi_index` in `struct ifinfomsg`, and of `ifa_index` in `struct ifaddrmsg`.
    const INDEX: usize = 4;

    let kind = match message.kind {
        // Given by ourselves, or by a look at a veth.
        libc::RTM_NEWNSID => return,
        libc::RTM_DELNSID => {
            heard.gone.extend(decode::nsid(message.payload).ok().flatten());
            None
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(KindName::Address),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            if !concerns_routes(message.payload, nsid.is_none()) {
                return;
            }
            Some(KindName::Route)
        }
        libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(KindName::Rule),
        libc::RTM_NEWLINK | libc::RTM_DELLINK | NEW_NETCONF | DELETE_NETCONF => None,
        // Nobody knows what it is about.
        _ => {
            heard.overflow = true;
            return;
        }
    };
    heard.changed = true;
    heard.places.insert(nsid);
    // An address says of its link whether that has IPv6.
    let of_link = [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWADDR, libc::RTM_DELADDR].contains(&message.kind);
    if nsid.is_none() {
        let of_setting = kind.is_none().then(|| netconf_link(message)).flatten();
        heard.links.extend(if of_link { u32_at(message.payload, INDEX) } else { of_setting });
    }
    let known = |port: u32| port != 0 && port < PID_MAX && port != std::process::id();
    if let Some(kind) = kind.filter(|_| known(message.port)) {
        let name = fs::read_to_string(format!("/proc/{}/comm", message.port)).unwrap_or_default();
        heard.note(Author { kind, pid: message.port, name: name.trim_end().to_owned() });
    }
}

/// The link whose setting it is about (`NETCONFA_IFINDEX`); none for those of all links and of links to come.
fn netconf_link(message: &Reply<'_>) -> Option<u32> {
    /// `struct netconfmsg`, padded.
    const HEADER: usize = 4;
    if ![NEW_NETCONF, DELETE_NETCONF].contains(&message.kind) {
        return None;
    }
    let mut all = attributes(message.payload.get(HEADER..)?).map_while(Result::ok);
    let index = all.find(|(kind, _)| *kind == 1).and_then(|(_, value)| u32_at(value, 0))?;
    (index.cast_signed() > 0).then_some(index)
}

/// Whether an announcement can be about a route that a look sees, or about one that took its place: what goes for another
/// is not announced.
fn concerns_routes(payload: &[u8], of_host: bool) -> bool {
    let Some([_, _, _, _, table, _, _, kind, ..]) = payload.first_chunk::<12>() else { return true };
    let local = *table == libc::RT_TABLE_LOCAL;
    if !of_host {
        return !local;
    }
    let automatic = matches!(*kind, libc::RTN_BROADCAST | libc::RTN_ANYCAST | libc::RTN_MULTICAST);
    let link_local = || matches!(decode::route(payload), Ok(Some(route)) if !sees_host(&route));
    !(local && automatic || link_local())
}

/// Counts a transaction when it ends, if it is about our tables and not our own.
fn hear_netfilter(heard: &mut Heard, message: &Reply<'_>, table: &str, touched: &mut bool) -> bool {
    /// `NFTA_GEN_PROC_PID`, `NFTA_GEN_PROC_NAME` (`linux/netfilter/nf_tables.h`).
    const PID: u16 = 2;
    const NAME: u16 = 3;
    /// Every message about something in a table has the table's name in its first attribute.
    const TABLE: u16 = 1;
    /// `struct nfgenmsg`.
    const GENERIC: usize = 4;

    let all = || attributes(message.payload.get(GENERIC..).unwrap_or_default()).map_while(Result::ok);
    if message.kind != NEW_GENERATION {
        // The table for rules of users is theirs; that it is there is ours to see to.
        let counts = |name: &str| name == table || name == UserRules::TABLE && OF_TABLES.contains(&message.kind);
        *touched |= all().any(|(kind, value)| kind == TABLE && counts(&string(value)));
        return false;
    }
    if !std::mem::take(touched) {
        return false;
    }
    let pid = all().find(|(kind, _)| *kind == PID).and_then(|(_, value)| value.try_into().ok());
    let pid = pid.map_or(0, u32::from_be_bytes);
    // The number is that of the thread.
    if Path::new(&format!("/proc/self/task/{pid}")).exists() {
        return false;
    }
    let name = all().find(|(kind, _)| *kind == NAME).map(|(_, value)| string(value).into_owned());
    heard.note(Author { kind: KindName::Firewall, pid, name: name.unwrap_or_default() });
    true
}

/// The namespaces that were given an nsid here: of all others a [`Listener`] hears nothing.
#[derive(Default, Debug)]
pub struct Nsids {
    numbers: BTreeMap<Identity, i32>,
    /// All that stood for each at the last glance.
    names: BTreeMap<i32, (Identity, BTreeSet<NetnsRef>)>,
    /// The number of what each stood for.
    stands: BTreeMap<NetnsRef, i32>,
}

impl Nsids {
    /// Gives one to each of these that is there and has none. The new ones are to be looked at, as nothing was heard of
    /// them before.
    ///
    /// # Errors
    ///
    /// When the kernel does not let us; namespaces that vanish meanwhile are no error.
    pub fn assign<'a>(&mut self, containers: impl Iterator<Item = &'a NetnsRef>) -> Result<Disturbed, KernelError> {
        let mut new = Disturbed::default();
        for netns in containers {
            let Some(identity) = netns::glance(netns) else { continue };
            if let Some(number) = self.numbers.get(&identity) {
                self.name(netns, *number);
                continue;
            }
            let Ok(Found::Bound(fd, identity)) = netns::find(netns) else { continue };
            let Some(number) = assign(&fd)? else { continue };
            // The number may be one of a namespace whose end has not been heard of yet.
            if let Some((before, _)) = self.names.insert(number, (identity, BTreeSet::new())) {
                self.numbers.remove(&before);
            }
            if let Some(before) = self.numbers.insert(identity, number).filter(|before| *before != number) {
                self.names.remove(&before);
            }
            self.name(netns, number);
            new.namespaces.insert(netns.clone());
        }
        Ok(new)
    }

    /// Notes what stands for the namespace of a number: a name may stand for one that went by another, too.
    fn name(&mut self, netns: &NetnsRef, number: i32) {
        if let Some(before) = self.stands.insert(netns.clone(), number)
            && let Some((_, all)) = self.names.get_mut(&before)
        {
            all.remove(netns);
        }
        if let Some((_, all)) = self.names.get_mut(&number) {
            all.insert(netns.clone());
        }
    }

    /// Where to look for what was announced. Forgets what has gone: its identity may be that of another one next.
    pub fn disturbed(&mut self, heard: &Heard) -> Disturbed {
        let names = heard.names || !heard.gone.is_empty();
        let links = heard.links.clone();
        let mut disturbed = Disturbed { anywhere: heard.overflow, names, links, ..Disturbed::default() };
        for place in &heard.places {
            match place.map(|number| self.names.get(&number)) {
                None => disturbed.host = true,
                Some(Some((_, all))) => disturbed.namespaces.extend(all.iter().cloned()),
                // Somebody else's, or one of ours under a new number.
                Some(None) => disturbed.names = true,
            }
        }
        for number in &heard.gone {
            if let Some((identity, all)) = self.names.remove(number) {
                self.numbers.remove(&identity);
                self.stands.retain(|_, of| of != number);
                disturbed.namespaces.extend(all);
            }
        }
        if heard.overflow {
            *self = Self::default();
        }
        disturbed
    }
}

/// Lets the kernel choose a number, unless there is one; which it is.
fn assign(netns: &OwnedFd) -> Result<Option<i32>, KernelError> {
    let fd = NsidAttribute::Fd(netns.as_raw_fd().cast_unsigned());
    let mut message = NsidMessage::default();
    message.attributes = vec![fd.clone(), NsidAttribute::Id(-1)];
    let request = (RouteNetlinkMessage::NewNsId(message), NLM_F_CREATE | NLM_F_EXCL);
    let mut socket = Socket::open(Protocol::Route)?;
    if let Some(Err(error)) = socket.batch(&[request]).into_iter().next()
        && error.errno() != Some(Errno::EEXIST)
    {
        return Err(error);
    }
    ask::nsid(&mut socket, fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attribute::Put as _;

    /// What is heard of a message with that beginning, from a namespace.
    fn heard(kind: u16, beginning: &[u8], nsid: Option<i32>) -> Heard {
        let mut payload = [0; 16];
        payload[..beginning.len()].copy_from_slice(beginning);
        let mut heard = Heard::default();
        hear_route(&mut heard, &Reply { kind, flags: 0, sequence: 0, port: 0, payload: &payload }, nsid);
        heard
    }

    #[test]
    fn a_route_is_news_unless_neither_it_nor_what_it_replaced_is_looked_at() {
        // `struct rtmsg`: the table is the fifth byte, the type the eighth.
        let route = |table, kind, nsid| {
            let header = [libc::AF_INET as u8, 0, 0, 0, table, 4, 0, kind, 0, 0, 0, 0];
            [libc::RTM_NEWROUTE, libc::RTM_DELROUTE].map(|message| heard(message, &header, nsid).changed)
        };
        for nsid in [None, Some(7)] {
            for kind in [libc::RTN_UNICAST, libc::RTN_BROADCAST, libc::RTN_MULTICAST] {
                assert_eq!(route(libc::RT_TABLE_MAIN, kind, nsid), [true; 2], "{kind} in {nsid:?}");
                assert_eq!(route(100, kind, nsid), [true; 2], "{kind} in {nsid:?}");
            }
            assert_eq!(route(libc::RT_TABLE_LOCAL, libc::RTN_BROADCAST, nsid), [false; 2], "{nsid:?}");
        }
        assert_eq!(route(libc::RT_TABLE_LOCAL, libc::RTN_LOCAL, None), [true; 2]);
        assert_eq!(route(libc::RT_TABLE_LOCAL, libc::RTN_LOCAL, Some(7)), [false; 2]);
    }

    #[test]
    fn of_the_table_for_rules_of_users_it_is_heard_whether_it_comes_or_goes() {
        const NEW_RULE: u16 = NFTABLES | 6;
        let heard = |kind, table: &str| {
            let (mut heard, mut touched, mut payload) = (Heard::default(), false, vec![0; 4]);
            payload.put_text(1, table);
            let mut hear = |kind, payload: &[u8]| {
                let message = Reply { kind, flags: 0, sequence: 0, port: 0, payload };
                hear_netfilter(&mut heard, &message, "netrec-t", &mut touched)
            };
            assert!(!hear(kind, &payload), "the transaction goes on");
            hear(NEW_GENERATION, &[0; 4])
        };
        let [new, delete] = OF_TABLES;
        assert_eq!([new, delete, NEW_RULE].map(|kind| heard(kind, "netrec-t")), [true; 3]);
        assert_eq!([new, delete, NEW_RULE].map(|kind| heard(kind, UserRules::TABLE)), [true, true, false]);
        assert_eq!([new, delete, NEW_RULE].map(|kind| heard(kind, "netrec-other")), [false; 3]);
    }

    #[test]
    fn links_of_the_host_are_told_apart_and_what_is_unknown_is_for_a_look_at_everything() {
        let of_nine = [0, 0, 0, 0, 9_u32.to_ne_bytes()[0], 0, 0, 0];
        for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWADDR, libc::RTM_DELADDR] {
            assert_eq!(heard(kind, &of_nine, None).links, [9].into());
            let inside = heard(kind, &of_nine, Some(7));
            assert_eq!((inside.links, inside.places), ([].into(), [Some(7)].into()));
        }
        assert_eq!(heard(NEW_NETCONF, &[], None).places, [None].into());
        let of_link = |index: i32| [[2, 0, 0, 0], [8, 0, 1, 0], index.to_ne_bytes()].concat();
        assert_eq!(heard(NEW_NETCONF, &of_link(9), None).links, [9].into());
        assert_eq!(heard(NEW_NETCONF, &of_link(-1), None).links, [].into(), "all links");
        assert!(heard(999, &[], None).overflow);
        assert_eq!(heard(libc::RTM_NEWNSID, &[], None), Heard::default());
    }
}
