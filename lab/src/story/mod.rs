//! How a story is told, and what became of it.

pub(crate) mod narrator;
pub(crate) mod outcome;
pub(crate) mod retold;
