//! The door: the only room that touches Linux.

pub mod nft;
