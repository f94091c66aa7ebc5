//! `driver = "none"`: a sandbox with its loopback and nothing else, which the container itself already is.

use crate::model::lower::{Lowering, NetworkPlan, Port};

/// Wants nothing beyond the container.
pub(super) fn lower<'a>(_: &NetworkPlan<'a>, _: &[&Port<'a>], _: &mut Lowering<'a>) {}
