//! `driver = "none"`: a sandbox with its loopback and nothing else, which the container itself already is.

use crate::model::lower::{Lowering, NetworkPlan, Port};

/// Wants nothing beyond the container.
pub(super) fn lower(_: &NetworkPlan, _: &[&Port], _: &mut Lowering) {}
