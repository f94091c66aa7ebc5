//! The laws that every kind keeps, run over the samples of each.
