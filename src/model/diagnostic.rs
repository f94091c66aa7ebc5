//! Placeholder until the front room is furnished.
