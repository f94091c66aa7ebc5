//! netrec: a declarative reconciler for container networks on Linux.
//!
//! desired − observed = diff; diff in order = plan; do the plan; look again.
//!
//! The rooms, in reading order:
//!
//! - [`model`]: nouns. What the user wrote, what the kernel holds, how one is lowered to the other. Pure.
//! - [`diff`]: comparison and order. Pure.
//! - [`kernel`]: the door. The only room that looks at Linux and changes it.
//! - [`apply`]: the loop. Knows the [`kernel::Kernel`] trait only.
//! - [`cli`]: words to people. The only room that prints.
//!
//! `beside` starts threads, for whoever has two things to do; what is pure is told how ([`model::both`]).

pub mod apply;
mod beside;
pub mod cli;
pub mod diff;
pub mod kernel;
pub mod model;
