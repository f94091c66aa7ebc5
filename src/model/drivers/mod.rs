//! One file a driver: what it lowers a network and its endpoints to. A driver names kinds and knows no other driver; a
//! new one is a file here and a line in [`DRIVERS`].

mod bridge;
mod host;
mod none;

use super::lower::{Lowering, NetworkPlan, Port};

/// What a driver does with a network and its endpoints.
type Lower = fn(&NetworkPlan, &[&Port], &mut Lowering);

/// Drivers by the word in `driver`.
pub const DRIVERS: &[(&str, Lower)] = &[("bridge", bridge::lower), ("host", host::lower), ("none", none::lower)];

/// Lowers a network by its driver.
pub fn lower(network: &NetworkPlan, ports: &[Port], lowering: &mut Lowering) {
    let driver = network.item.driver.get_ref();
    let Some((_, lower)) = DRIVERS.iter().find(|(word, _)| word == driver) else { return };
    let mut ports: Vec<&Port> = ports.iter().filter(|port| std::ptr::eq(port.network, network)).collect();
    // In the order of the ids that come of them, so that they are hardly sorted any more, and lie in memory as they will be
    // walked over.
    ports.sort_by(|one, other| one.link.cmp(&other.link));
    lower(network, &ports, lowering);
}
