//! Definitions of sets and maps as nfnetlink takes them (`NFTA_SET_*` in `linux/netfilter/nf_tables.h`), with the notes
//! that nft leaves for itself.

use nftables::schema::{Map, Set, SetFlag, SetType, SetTypeValue};

use crate::model::attribute::{LIST_ELEM, Put as _};

/// Attributes of a set's definition.
pub(super) fn set(set: &Set<'_>, out: &mut Vec<u8>) {
    let has = |flag, bit| if set.flags.as_ref().is_some_and(|flags| flags.contains(&flag)) { bit } else { 0 };
    let flags =
        has(SetFlag::Interval, INTERVAL) | has(SetFlag::Timeout, TIMEOUT) | has(SetFlag::Dynamic, FILLED_BY_PACKETS);
    let concatenated = key(&set.name, flags, &set.set_type, out);
    if let Some(seconds) = set.timeout {
        out.put(11, &(u64::from(seconds) * 1000).to_be_bytes()); // NFTA_SET_TIMEOUT
    }
    out.put(13, &byte_orders(&set.set_type, None));
    describe(set.size, concatenated, out);
    out.put_number(ID, 0);
}

/// Attributes of a map's definition.
pub(super) fn map(map: &Map<'_>, out: &mut Vec<u8>) {
    const MAP: u32 = 0x8;
    let flags = MAP | if map.flags.is_some() { INTERVAL } else { 0 };
    let concatenated = key(&map.name, flags, &map.set_type, out);
    out.put_number(6, type_number(&map.map)); // NFTA_SET_DATA_TYPE
    out.put_number(7, width(&map.map)); // NFTA_SET_DATA_LEN
    out.put(13, &byte_orders(&map.set_type, Some(&map.map)));
    describe(None, concatenated, out);
    out.put_number(ID, 0);
}

/// `NFTA_SET_FLAGS`.
pub(super) const FLAGS: u16 = 3;
/// `NFTA_SET_DESC`.
pub(super) const DESCRIPTION: u16 = 9;
/// `NFTA_SET_ID`, by which others refer to it within the transaction: none does, all know it by its name, but Linux insists.
const ID: u16 = 10;

/// `NFT_SET_INTERVAL`.
pub(super) const INTERVAL: u32 = 0x4;
const TIMEOUT: u32 = 0x10;
/// `NFT_SET_EVAL`.
pub(super) const FILLED_BY_PACKETS: u32 = 0x20;
const CONCAT: u32 = 0x80;

/// What names it, its flags and its key; and the fields of the key that have to be [described](describe). All in the
/// order in which the kernel dumps it (`nf_tables_fill_set`).
fn key<'a>(name: &str, flags: u32, key: &'a SetTypeValue<'_>, out: &mut Vec<u8>) -> &'a [SetType] {
    // Only sets of intervals need to know the fields; to others a concatenation is one key.
    let concatenated = if flags & INTERVAL == 0 { &[] } else { fields(key) };
    let (flags, concatenated) = if concatenated.len() > 1 { (flags | CONCAT, concatenated) } else { (flags, &[][..]) };
    out.put_text(2, name).put_number(FLAGS, flags);
    out.put_number(4, type_number(key)).put_number(5, width(key));
    concatenated
}

/// The [description](DESCRIPTION), where there is anything to describe: `NFTA_SET_DESC_SIZE`, and `NFTA_SET_DESC_CONCAT` with
/// `NFTA_SET_FIELD_LEN` of each `NFTA_LIST_ELEM`.
fn describe(size: Option<u32>, fields: &[SetType], out: &mut Vec<u8>) {
    if size.is_none() && fields.is_empty() {
        return;
    }
    let length = |field: &SetType| type_of(*field).1;
    out.put_nest(DESCRIPTION, |out| {
        if let Some(size) = size {
            out.put_number(1, size);
        }
        if fields.is_empty() {
            return out;
        }
        out.put_nest(2, |out| {
            fields.iter().fold(out, |out, it| out.put_nest(LIST_ELEM, |out| out.put_number(1, length(it))))
        })
    });
}

pub(super) fn fields<'a>(types: &'a SetTypeValue<'_>) -> &'a [SetType] {
    match types {
        SetTypeValue::Single(one) => std::slice::from_ref(one),
        SetTypeValue::Concatenated(several) => several,
    }
}

/// nft's number of a type (its `enum datatypes`), and its width in bytes.
fn type_of(field: SetType) -> (u32, u32) {
    match field {
        SetType::Ipv4Addr => (7, 4),
        SetType::Ipv6Addr => (8, 16),
        SetType::EtherAddr => (9, 6),
        SetType::InetProto => (12, 1),
        SetType::InetService => (13, 2),
        SetType::Mark => (19, 4),
        SetType::Ifname => (41, 16),
    }
}

/// Six bits a field.
fn type_number(types: &SetTypeValue<'_>) -> u32 {
    fields(types).iter().fold(0, |number, field| number << 6 | type_of(*field).0)
}

/// In bytes; fields of concatenations fill registers.
fn width(types: &SetTypeValue<'_>) -> u32 {
    match fields(types) {
        [one] => type_of(*one).1,
        several => several.iter().map(|field| type_of(*field).1.next_multiple_of(4)).sum(),
    }
}

/// `NFTA_SET_USERDATA`: what nft wants to know when it lists, the byte order of keys and data (libnftnl's udata.h).
fn byte_orders(key: &SetTypeValue<'_>, data: Option<&SetTypeValue<'_>>) -> Vec<u8> {
    let order = |types: &SetTypeValue<'_>| -> u32 {
        match fields(types) {
            [SetType::Ifname | SetType::Mark] => 1, // of the host
            [_] => 2,                               // of the network
            _ => 0,
        }
    };
    let mut bytes = vec![0, 4];
    bytes.extend(order(key).to_ne_bytes());
    if let Some(data) = data {
        bytes.extend([1, 4]);
        bytes.extend(order(data).to_ne_bytes());
    }
    bytes
}
