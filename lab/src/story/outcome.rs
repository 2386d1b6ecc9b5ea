//! What became of a test, for whoever counts: `test`, and planted faults.

/// What became of a test.
pub(crate) enum Outcome {
    /// It is good; a remark.
    Passed(String),
    /// It was not run, and why.
    Ignored(String),
}
