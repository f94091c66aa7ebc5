//! Nouns: what the user wrote ([`topology`]), what Linux holds ([`kinds`], [`state`]), and the way from one to the
//! other ([`lower`](mod@lower)).
//!
//! Nothing here opens a file or a socket, reads a clock or waits: every function is a value of its arguments, so
//! everything is tested without privilege. Sockets are in `kernel`, order is in `diff`.

pub mod attribute;
pub mod both;
mod check;
pub mod diagnostic;
pub mod drivers;
pub mod facts;
pub mod focus;
pub mod hash;
pub mod ipam;
pub mod kinds;
pub mod links;
pub mod lower;
pub mod neighbours;
pub mod numbers;
pub mod observed;
pub mod parse;
pub mod resource;
pub mod schema;
pub mod shared;
pub mod simulate;
pub mod source;
pub mod state;
mod table;
pub mod ties;
pub mod topology;
pub mod trace;
pub mod values;
pub mod wire;
