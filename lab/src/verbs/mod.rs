//! What is typed, where it is more than one story: `test`, `soak`, `up` and `down`.

pub(crate) mod fuzz;
pub(crate) mod gap;
pub(crate) mod planted;
pub(crate) mod soak;
pub(crate) mod standing;
pub(crate) mod suite;
