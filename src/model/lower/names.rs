//! Names and hardware addresses that netrec makes up: a prefix and 50 bits of hash, the same on every host.

use crate::model::hash::{short_name, words};
use crate::model::resource::Text;
use crate::model::values::Mac;

/// Prefix of every interface name that netrec makes up; no user may begin one with it.
pub(super) const PREFIX: &str = "nr-";

fn made_up(hash: u64) -> Text {
    [PREFIX, std::str::from_utf8(&short_name(hash)).expect("it is ASCII")].concat().into()
}

/// The bridge of a network that names none.
pub fn bridge_name(topology: &str, network: &str) -> Text {
    made_up(words(&[topology, "network", network]))
}

/// The host's end of an endpoint.
pub fn veth_name(topology: &str, endpoint: &str) -> Text {
    made_up(words(&[topology, "endpoint", endpoint]))
}

/// The MAC of a network's bridge.
pub fn bridge_mac(topology: &str, network: &str) -> Mac {
    Mac::derived(words(&[topology, "network-mac", network]))
}

/// The MAC of an endpoint in its container.
pub(super) fn endpoint_mac(topology: &str, endpoint: &str) -> Mac {
    Mac::derived(words(&[topology, "endpoint-mac", endpoint]))
}

/// The MAC of an endpoint's link on the host's side.
pub fn host_mac(topology: &str, endpoint: &str) -> Mac {
    Mac::derived(words(&[topology, "host-mac", endpoint]))
}
