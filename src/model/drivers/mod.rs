//! One file a driver: what it lowers a network and its endpoints to. A driver names kinds and knows no other driver; a
//! new one is a file here and a line in [`DRIVERS`].

mod bridge;
mod host;
mod none;

use super::lower::{Lowering, NetworkPlan, Port};

/// What a driver does with a network and its endpoints.
type Lower = for<'a> fn(&NetworkPlan<'a>, &[&Port<'a>], &mut Lowering<'a>);

/// Drivers by the word in `driver`.
pub const DRIVERS: &[(&str, Lower)] = &[("bridge", bridge::lower), ("host", host::lower), ("none", none::lower)];

/// Lowers a network by its driver.
pub fn lower<'a>(network: &NetworkPlan<'a>, ports: &[Port<'a>], lowering: &mut Lowering<'a>) {
    let driver = network.item.driver.get_ref();
    let Some((_, lower)) = DRIVERS.iter().find(|(word, _)| word == driver) else { return };
    let ports: Vec<&Port> = ports.iter().filter(|port| port.network == network.name).collect();
    lower(network, &ports, lowering);
}
