//! `driver = "host"`: the container shares the host's namespace. Nothing is made; that it does is checked where the
//! containers are looked up.

use crate::model::lower::{Lowering, NetworkPlan, Port};

/// Wants nothing.
pub(super) fn lower(_: &NetworkPlan, _: &[&Port], _: &mut Lowering) {}
