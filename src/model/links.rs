//! Pieces of link messages that all kinds of link share: birth with our mark, the alias afterwards, up and down.

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, LinkAttribute, LinkFlags, LinkMessage,
};

use super::resource::{FieldChange, HOST, Text};
use super::wire::{Body, Label, LinkFacts, Lookup, Message, Missing, Place};

/// Flags of a request that makes something new and fails if it is there.
pub const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// An rtnetlink message for a namespace.
pub fn route_message(netns: &Text, message: RouteNetlinkMessage, flags: u16) -> Message {
    Message { place: Place::Netns(netns.clone()), body: Body::Route(message, flags) }
}

/// A request that creates a link.
pub fn create(netns: &Text, message: LinkMessage) -> Message {
    route_message(netns, RouteNetlinkMessage::NewLink(message), NEW)
}

/// A request that changes a link, found by its name. `RTM_NEWLINK`, because `RTM_SETLINK` answers "done" to bridge and
/// port options and does nothing.
pub fn change(netns: &Text, name: &Text, attributes: Vec<LinkAttribute>) -> Message {
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    route_message(netns, RouteNetlinkMessage::NewLink(message), 0)
}

/// A request that sets a link up or down.
pub fn set_up(netns: &Text, name: &Text, up: bool) -> Message {
    let mut message = LinkMessage::default();
    header_up(&mut message, up);
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    route_message(netns, RouteNetlinkMessage::NewLink(message), 0)
}

/// The same message when all else of the plan has been said.
pub fn last(mut message: Message) -> Message {
    if let Body::Route(route, flags) = message.body {
        message.body = Body::RouteLast(route, flags);
    }
    message
}

/// Says in a message's header that the link is to be up or down.
pub fn header_up(message: &mut LinkMessage, up: bool) {
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Up;
}

/// No automatic link-local address: without it there is no duplicate address detection, no router solicitation and no
/// listener report, which for 1,000 endpoints on a bridge are four million packets.
///
/// It must be said before the link has carrier, in a message before the one that sets it up: within one message the
/// kernel sets the flags first (`do_setlink` in net/core/rtnetlink.c).
pub fn no_link_local() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![no_link_local_mode()])
}

/// The same, to be said together with other families' settings.
pub fn no_link_local_mode() -> AfSpecUnspec {
    AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])
}

/// IPv4 packets that come in by the link are forwarded (`IPV4_DEVCONF_FORWARDING`, `linux/ip.h`).
pub fn forwarding() -> AfSpecUnspec {
    let mut on = InetDevConf::default();
    on.forwarding = 1;
    AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(on)])
}

/// Settings of families, all that a message says of them: of two such attributes Linux takes the last.
pub fn families(settings: impl IntoIterator<Item = AfSpecUnspec>) -> Option<LinkAttribute> {
    let settings: Vec<_> = settings.into_iter().collect();
    (!settings.is_empty()).then_some(LinkAttribute::AfSpecUnspec(settings))
}

/// Whether a link makes a link-local address by itself: its `IFLA_INET6_ADDR_GEN_MODE` is another one than
/// [`no_link_local`] sets (`IN6_ADDR_GEN_MODE_NONE`, `linux/if_link.h`). Without IPv6 it has none.
pub fn makes_link_local(link: &LinkFacts) -> bool {
    link.addr_gen_mode.is_some_and(|mode| mode != 1)
}

/// Whether Linux gives a link IPv6: a kernel without, and links of less than 1,280 bytes, say nothing of it.
pub fn has_ipv6(link: &LinkFacts) -> bool {
    link.addr_gen_mode.is_some() && !link.ipv6_off
}

/// Whether a link of ours may be one that is to have IPv6: none of the host's ends of pairs is.
pub fn may_need_ipv6(netns: &Text, link: &LinkFacts) -> bool {
    &**netns != HOST || &*link.kind != "veth"
}

/// How a mark that is not as it should be is told; nothing where it is.
pub fn mark_change(field: &'static str, observed: &str, wanted: &str) -> Option<FieldChange> {
    match observed {
        _ if observed == wanted => None,
        "" => Some(FieldChange::in_place(field, "missing", "set")),
        _ => Some(FieldChange::in_place(field, "outdated", "set")),
    }
}

/// How a label that is not as it should be is told; nothing where it is, or where there is none.
pub fn label_change(observed: &Label, wanted: &Label) -> Option<FieldChange> {
    let on = |protected| if protected { "on" } else { "off" };
    match observed {
        _ if observed.name.is_empty() => None,
        _ if observed.name != wanted.name => Some(FieldChange::in_place("name", &observed.name, &wanted.name)),
        _ if observed.protected != wanted.protected => {
            Some(FieldChange::in_place("protect", on(observed.protected), on(wanted.protected)))
        }
        _ => None,
    }
}

/// `up` or `down`.
pub fn state_word(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

/// Removal of a link, by the index that its name has at this moment.
pub fn delete(netns: &Text, name: &Text, lookup: &mut dyn Lookup) -> Result<Message, Missing> {
    let index = lookup.index(netns, name).ok_or_else(|| Missing(format!("link {name} in {netns}")))?;
    Ok(Message { place: Place::Netns(netns.clone()), body: Body::DeleteLink { index, name: name.clone() } })
}
