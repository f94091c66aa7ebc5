//! Addresses and subnets that the user left to netrec: the first free one upwards from a hash of the name, so that an
//! answer depends on as little as possible and survives a reboot as well as an edit of others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Addresses that are looked at in one subnet at most: no bridge has more ports, and short IPv6 addresses read better.
const SPAN_MAX: u128 = 1 << 16;

/// Blocks of a pool that are tried at most.
const TRIES_MAX: u128 = 1 << 16;

/// The offsets within a subnet that an interface can have: in IPv4 neither the network's nor the broadcast address but
/// for a /31 (RFC 3021), in IPv6 not the subnet-router anycast address (RFC 4291, 2.6.1) but for a /127 (RFC 6164).
fn usable(subnet: &IpNet) -> (u128, u128) {
    let bits = u32::from(subnet.max_prefix_len() - subnet.prefix_len());
    let last = 1_u128.checked_shl(bits).map_or(u128::MAX, |size| size - 1);
    match (bits, subnet) {
        (0 | 1, _) => (0, last),
        (_, IpNet::V4(_)) => (1, last - 1),
        (_, IpNet::V6(_)) => (1, last),
    }
}

/// The address at an offset in a subnet.
fn nth(subnet: &IpNet, offset: u128) -> IpAddr {
    match subnet {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) | offset as u32).into(),
        IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) | offset).into(),
    }
}

/// Whether an interface can have the address in the subnet: inside, and not reserved by the protocol.
pub fn is_usable(subnet: &IpNet, address: IpAddr) -> bool {
    let (first, last) = usable(subnet);
    subnet.contains(&address) && address >= nth(subnet, first) && address <= nth(subnet, last)
}

/// The first and the last address that an interface can have in the subnet.
pub fn usable_addresses(subnet: &IpNet) -> (IpAddr, IpAddr) {
    let (first, last) = usable(subnet);
    (nth(subnet, first), nth(subnet, last))
}

/// The first address that an interface can have in the subnet: the default gateway.
pub fn first(subnet: &IpNet) -> IpAddr {
    nth(subnet, usable(subnet).0)
}

/// The first address of the subnet that is not taken, upwards from `hash` and around; none if it is full.
pub fn free_address(subnet: &IpNet, hash: u64, is_taken: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let (first, last) = usable(subnet);
    let count = (last - first).saturating_add(1).min(SPAN_MAX);
    let start = u128::from(hash) % count;
    (0..count).map(|step| nth(subnet, first + (start + step) % count)).find(|address| !is_taken(address))
}

/// The first block of `prefix` bits in the pools that overlaps nothing taken, upwards from `hash` and around; none if
/// there is none within bounds.
pub fn free_subnet(pools: &[IpNet], prefix: u8, hash: u64, taken: &[IpNet]) -> Option<IpNet> {
    let blocks = |pool: &IpNet| {
        let bits = u32::from(prefix.saturating_sub(pool.prefix_len()));
        if prefix < pool.prefix_len() { 0 } else { 1_u128.checked_shl(bits).unwrap_or(u128::MAX) }
    };
    let total = pools.iter().map(blocks).fold(0_u128, u128::saturating_add);
    if total == 0 {
        return None;
    }
    let start = u128::from(hash) % total;
    (0..total.min(TRIES_MAX)).find_map(|step| {
        let mut at = (start + step) % total;
        let pool = pools.iter().find(|pool| {
            let here = at < blocks(pool);
            at -= if here { 0 } else { blocks(pool) };
            here
        })?;
        let block = block(pool, prefix, at)?;
        (!taken.iter().any(|other| overlap(&block, other))).then_some(block)
    })
}

fn block(pool: &IpNet, prefix: u8, at: u128) -> Option<IpNet> {
    let host_bits = u32::from(pool.max_prefix_len().checked_sub(prefix)?);
    let offset = at.checked_shl(host_bits).unwrap_or(0);
    match pool {
        IpNet::V4(pool) => {
            let network = u32::from(pool.network()) | offset as u32;
            Ipv4Net::new(network.into(), prefix).ok().map(IpNet::V4)
        }
        IpNet::V6(pool) => {
            let network = u128::from(pool.network()) | offset;
            Ipv6Net::new(network.into(), prefix).ok().map(IpNet::V6)
        }
    }
}

/// Whether two nets have an address in common.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect(text)
    }

    #[test]
    fn every_usable_address_is_given_once_and_no_other() {
        for (subnet, count) in
            [("10.0.0.0/29", 6), ("10.0.0.0/30", 2), ("10.0.0.0/31", 2), ("fd::/126", 3), ("fd::/127", 2)]
        {
            let (subnet, mut taken) = (net(subnet), BTreeSet::new());
            while let Some(address) = free_address(&subnet, 0xdead_beef, |it| taken.contains(it)) {
                assert!(is_usable(&subnet, address), "{address} in {subnet}");
                assert!(taken.insert(address));
            }
            assert_eq!(taken.len(), count, "{subnet}");
        }
        assert!(!is_usable(&net("10.0.0.0/24"), "10.0.0.255".parse().expect("address")));
        assert!(!is_usable(&net("fd::/64"), "fd::".parse().expect("address")));
        assert_eq!(first(&net("10.0.0.0/24")), "10.0.0.1".parse::<IpAddr>().expect("address"));
    }

    #[test]
    fn blocks_do_not_overlap_and_end() {
        let pools = [net("10.0.0.0/29"), net("10.9.0.0/30"), net("10.8.0.0/32")];
        let mut taken = vec![net("10.0.0.4/32")];
        while let Some(block) = free_subnet(&pools, 31, 7, &taken) {
            assert!(pools.iter().any(|pool| pool.contains(&block)), "{block}");
            taken.push(block);
        }
        assert_eq!(taken.len() - 1, 5, "four blocks less one in the first pool, two in the second, none in the third");
        assert_eq!(free_subnet(&[net("::/0")], 128, 3, &[]).map(|block| block.prefix_len()), Some(128));
    }
}
