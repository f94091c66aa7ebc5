//! The kernel's dumps as facts. Only the attributes we need are read and unknown ones are passed over, so that a newer
//! kernel is no error; what is malformed is one, because half an object would be acted upon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::libc;

use super::Malformed;
use super::netlink::{attributes, i32_at, string, u16_at, u32_at};
use crate::model::values::Mac;
use crate::model::wire::{AddressFacts, LinkFacts, PROTOCOL, RouteFacts, RuleFacts};

// Numbers of uapi/linux/if_addr.h, fib_rules.h and if_link.h that libc does not have on every target.
const IFA_PROTO: u16 = 11;
/// `NETNSA_NSID` of `linux/net_namespace.h`.
const NETNSA_NSID: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
const RTA_VIA: u16 = 18;
/// Offset of `rtnh_ifindex` in `struct rtnexthop` (`linux/rtnetlink.h`).
const NEXT_HOP_LINK: usize = 4;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INET_CONF: u16 = 1;
/// Offset of `IPV4_DEVCONF_FORWARDING` (`linux/ip.h`) among the numbers of `IFLA_INET_CONF`.
const FORWARDING: usize = 0;
const IFLA_INET6_CONF: u16 = 2;
/// Hairpin.
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// Offset of `DEVCONF_DISABLE_IPV6` (`linux/ipv6.h`) among the numbers of `IFLA_INET6_CONF`.
const DISABLE_IPV6: usize = 26 * 4;

const SHORT: Malformed = Malformed("an object shorter than its header");
const NO_NUMBER: Malformed = Malformed("a number of a strange size");
const NO_ADDRESS: Malformed = Malformed("an address of a strange size");

/// The number of a namespace (`RTM_NEWNSID`); none if it has none.
pub fn nsid(payload: &[u8]) -> Result<Option<i32>, Malformed> {
    // `struct rtgenmsg` is one byte, padded.
    let (_, rest) = payload.split_first_chunk::<4>().ok_or(SHORT)?;
    for attribute in attributes(rest) {
        if let (NETNSA_NSID, value) = attribute? {
            return Ok(Some(i32_at(value, 0).ok_or(NO_NUMBER)?).filter(|id| *id >= 0));
        }
    }
    Ok(None)
}

/// A link (`RTM_NEWLINK`).
pub fn link(payload: &[u8]) -> Result<LinkFacts, Malformed> {
    let (header, rest) = payload.split_first_chunk::<16>().ok_or(SHORT)?;
    let flags = u32_at(header, 8).ok_or(SHORT)?;
    let mut link = LinkFacts {
        index: u32_at(header, 4).ok_or(SHORT)?,
        up: flags & libc::IFF_UP as u32 != 0,
        ..LinkFacts::default()
    };
    for attribute in attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            libc::IFLA_IFNAME => link.name = string(value).into(),
            libc::IFLA_ADDRESS => link.mac = value.try_into().map_or_else(|_| Mac::default(), Mac),
            libc::IFLA_MTU => link.mtu = number(value)?,
            libc::IFLA_GROUP => link.group = number(value)?,
            libc::IFLA_IFALIAS => link.alias = string(value).into(),
            libc::IFLA_MASTER => link.master = Some(number(value)?),
            libc::IFLA_LINK => link.link = Some(number(value)?),
            libc::IFLA_LINK_NETNSID => link.link_netnsid = Some(i32_at(value, 0).ok_or(NO_NUMBER)?),
            libc::IFLA_LINKINFO => link_info(&mut link, value)?,
            libc::IFLA_AF_SPEC => families(&mut link, value)?,
            IFLA_PROP_LIST => {
                for property in attributes(value) {
                    if let (IFLA_ALT_IFNAME, name) = property? {
                        link.altnames.push(string(name).into());
                    }
                }
            }
            _ => {}
        }
    }
    Ok(link)
}

fn link_info(link: &mut LinkFacts, value: &[u8]) -> Result<(), Malformed> {
    let mut of_bridge = false;
    for attribute in attributes(value) {
        let (kind, value) = attribute?;
        match kind {
            libc::IFLA_INFO_KIND => link.kind = string(value).into(),
            // It comes after the kind.
            libc::IFLA_INFO_SLAVE_KIND => of_bridge = string(value) == "bridge",
            libc::IFLA_INFO_SLAVE_DATA if of_bridge => bridge_port(link, value)?,
            _ => {}
        }
    }
    Ok(())
}

/// Not all of it: timers among it are otherwise each time.
fn bridge_port(link: &mut LinkFacts, value: &[u8]) -> Result<(), Malformed> {
    for attribute in attributes(value) {
        match attribute? {
            (IFLA_BRPORT_MODE, [on]) => link.hairpin = *on != 0,
            (IFLA_BRPORT_ISOLATED, [on]) => link.isolated = *on != 0,
            _ => {}
        }
    }
    Ok(())
}

fn families(link: &mut LinkFacts, value: &[u8]) -> Result<(), Malformed> {
    for family in attributes(value) {
        let (family, value) = family?;
        for attribute in attributes(value) {
            match (i32::from(family), attribute?) {
                (libc::AF_INET, (IFLA_INET_CONF, value)) => link.forwards = i32_at(value, FORWARDING) == Some(1),
                (libc::AF_INET6, (IFLA_INET6_ADDR_GEN_MODE, value)) => link.addr_gen_mode = value.first().copied(),
                (libc::AF_INET6, (IFLA_INET6_CONF, value)) => {
                    link.ipv6_off = i32_at(value, DISABLE_IPV6).is_some_and(|off| off != 0);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// An address (`RTM_NEWADDR`); none for families other than IPv4 and IPv6.
pub fn address(payload: &[u8]) -> Result<Option<AddressFacts>, Malformed> {
    let (header, rest) = payload.split_first_chunk::<8>().ok_or(SHORT)?;
    let [family, prefix, flags, ..] = *header;
    if !is_ip(family) {
        return Ok(None);
    }
    let (mut local, mut address, mut protocol, mut flags) = (None, None, 0, u32::from(flags));
    for attribute in attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            libc::IFA_LOCAL => local = Some(ip(value)?),
            // The other end of a point-to-point link, else the same as the local one.
            libc::IFA_ADDRESS => address = Some(ip(value)?),
            // The header has room for the first eight only.
            libc::IFA_FLAGS => flags = number(value)?,
            IFA_PROTO => protocol = *value.first().ok_or(NO_NUMBER)?,
            _ => {}
        }
    }
    let address = net(local.or(address).ok_or(Malformed("an address without its address"))?, prefix)?;
    Ok(Some(AddressFacts { link: u32_at(header, 4).ok_or(SHORT)?, address, protocol, flags }))
}

/// A route (`RTM_NEWROUTE`); none for other families, cached routes, and the kernel's own entries for broadcast, anycast
/// and multicast destinations.
pub fn route(payload: &[u8]) -> Result<Option<RouteFacts>, Malformed> {
    let (header, rest) = payload.split_first_chunk::<12>().ok_or(SHORT)?;
    let [family, prefix, _, _, table, protocol, scope, route_type, ..] = *header;
    let cached = u32_at(header, 8).ok_or(SHORT)? & libc::RTM_F_CLONED != 0;
    let automatic = matches!(route_type, libc::RTN_BROADCAST | libc::RTN_ANYCAST | libc::RTN_MULTICAST);
    if !is_ip(family) || cached || automatic {
        return Ok(None);
    }
    let anywhere = if i32::from(family) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let mut route = RouteFacts {
        table: u32::from(table),
        destination: net(anywhere, 0)?,
        gateway: None,
        link: None,
        metric: 0,
        protocol,
        route_type,
        scope,
        source: None,
    };
    for attribute in attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            // The header has room for 255 tables only.
            libc::RTA_TABLE => route.table = number(value)?,
            libc::RTA_DST => route.destination = net(ip(value)?, prefix)?,
            libc::RTA_GATEWAY => route.gateway = Some(ip(value)?),
            RTA_VIA => route.gateway = via(value)?,
            libc::RTA_OIF => route.link = Some(number(value)?),
            libc::RTA_MULTIPATH => route.link = route.link.or(u32_at(value, NEXT_HOP_LINK)),
            libc::RTA_PRIORITY => route.metric = number(value)?,
            libc::RTA_PREFSRC => route.source = Some(ip(value)?),
            _ => {}
        }
    }
    Ok(Some(route))
}

/// A gateway of another family than the route's (`struct rtvia`).
fn via(value: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    let family = i32::from(u16_at(value, 0).ok_or(NO_ADDRESS)?);
    if family == libc::AF_INET || family == libc::AF_INET6 { ip(&value[2..]).map(Some) } else { Ok(None) }
}

/// A rule (`RTM_NEWRULE`) for a source; none for other families and protocol numbers than ours.
pub fn rule(payload: &[u8]) -> Result<Option<RuleFacts>, Malformed> {
    let (header, rest) = payload.split_first_chunk::<12>().ok_or(SHORT)?;
    let [family, _, source_length, _, table, ..] = *header;
    if !is_ip(family) {
        return Ok(None);
    }
    let (mut priority, mut table, mut protocol, mut source) = (0, u32::from(table), 0, None);
    for attribute in attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            FRA_PRIORITY => priority = number(value)?,
            FRA_TABLE => table = number(value)?,
            FRA_PROTOCOL => protocol = *value.first().ok_or(NO_NUMBER)?,
            FRA_SRC => source = Some(net(ip(value)?, source_length)?),
            _ => {}
        }
    }
    Ok(source.filter(|_| protocol == PROTOCOL).map(|source| RuleFacts { priority, table, source }))
}

fn is_ip(family: u8) -> bool {
    matches!(i32::from(family), libc::AF_INET | libc::AF_INET6)
}

fn number(value: &[u8]) -> Result<u32, Malformed> {
    u32_at(value, 0).ok_or(NO_NUMBER)
}

fn ip(value: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(four) = <[u8; 4]>::try_from(value) {
        Ok(four.into())
    } else {
        <[u8; 16]>::try_from(value).map(IpAddr::from).map_err(|_| NO_ADDRESS)
    }
}

fn net(address: IpAddr, prefix: u8) -> Result<IpNet, Malformed> {
    IpNet::new(address, prefix).map_err(|_| Malformed("a prefix longer than its address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header and attributes as the kernel lays them out.
    fn object(header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        for (kind, value) in attributes {
            bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn unknown_attributes_are_passed_over_and_malformed_ones_are_errors() {
        let header = [0; 16];
        let known = (libc::IFLA_IFNAME, b"eth0\0".as_slice());
        let read = link(&object(&header, &[(9999, b"?"), known])).unwrap();
        assert_eq!(&*read.name, "eth0");
        assert!(link(&object(&header, &[(libc::IFLA_MTU, b"12")])).is_err(), "half a number");
        let mut cut = object(&header, &[known]);
        cut.truncate(cut.len() - 5);
        assert!(link(&cut).is_err(), "an attribute that is cut off");
        assert_eq!(link(&[0; 15]).unwrap_err(), SHORT);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for length in 0..64 {
            for byte in [0, 1, 2, 4, 10, 255] {
                let bytes = vec![byte; length];
                let _ = (link(&bytes), address(&bytes), route(&bytes), rule(&bytes));
            }
        }
    }

    #[test]
    fn wide_attributes_win_over_narrow_header_fields() {
        let header = [libc::AF_INET as u8, 24, 0, 0, 254, 78, 0, 1, 0, 0, 0, 0];
        let table = 0x6e00_0100_u32.to_ne_bytes();
        let read = route(&object(&header, &[(libc::RTA_TABLE, &table), (libc::RTA_DST, &[10, 1, 2, 0])])).unwrap();
        let read = read.expect("a unicast route is read");
        assert_eq!((read.table, read.destination.to_string().as_str()), (0x6e00_0100, "10.1.2.0/24"));

        let header = [libc::AF_INET as u8, 24, 0x80, 0, 7, 0, 0, 0];
        let flags = 0x200_u32.to_ne_bytes();
        let read = address(&object(&header, &[(libc::IFA_LOCAL, &[10, 1, 2, 3]), (libc::IFA_FLAGS, &flags)])).unwrap();
        assert_eq!(read.expect("an IPv4 address is read").flags, 0x200);
    }

    #[test]
    fn of_rules_those_of_ours_that_have_a_source_are_read() {
        let header = [libc::AF_INET as u8, 0, 32, 0, 254, 0, 0, 1, 0, 0, 0, 0];
        let table = 0x6e00_0100_u32.to_ne_bytes();
        let all = |attributes: &[(u16, &[u8])]| {
            rule(&object(&header, &[&[(FRA_TABLE, table.as_slice())], attributes].concat())).unwrap()
        };
        let (source, ours) = ((FRA_SRC, [10, 1, 2, 3].as_slice()), (FRA_PROTOCOL, [PROTOCOL].as_slice()));
        let read = RuleFacts { priority: 0, table: 0x6e00_0100, source: "10.1.2.3/32".parse().unwrap() };
        assert_eq!(all(&[source, ours]), Some(read));
        assert_eq!([all(&[source]), all(&[ours]), all(&[source, (FRA_PROTOCOL, &[2])])], [None, None, None]);
    }

    #[test]
    fn a_prefix_longer_than_its_address_is_an_error() {
        let header = [libc::AF_INET as u8, 33, 0, 0, 254, 78, 0, 1, 0, 0, 0, 0];
        assert!(route(&object(&header, &[(libc::RTA_DST, &[10, 1, 2, 0])])).is_err());
    }
}
