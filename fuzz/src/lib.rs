//! What the fuzz targets share: replicas on a stage, and the oracles of codec and configuration.
//!
//! Called by `fuzz_targets/` and by `tests/corpus.rs`, which makes the inputs that fuzzing begins with. No
//! socket and no clock: an input always does the same.

pub mod configuration;
pub mod kernel;
pub mod stage;
pub mod wire;
