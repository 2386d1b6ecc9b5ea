//! Whether this node stands aside for a planned move: a state of the group. Changed by `switch` alone.

use std::time::Instant;

use serde_json::Value;

/// Whether this node stands aside.
pub(super) enum Aside {
    /// It does not.
    No,
    /// It was asked to, and still owns the group.
    Moving {
        /// Since when.
        since: Instant,
    },
    /// Another one owns the group. What it came to.
    Away(Value),
    /// Nobody took over in time.
    GivenUp,
}

impl Aside {
    /// The election is told to prefer others.
    pub(super) fn lowers(&self) -> bool {
        matches!(self, Aside::Moving { .. } | Aside::Away(_))
    }

    /// A word for `status`, while it stands aside.
    pub(super) fn word(&self) -> Option<&'static str> {
        match self {
            Aside::No | Aside::GivenUp => None,
            Aside::Moving { .. } => Some("moving"),
            Aside::Away(_) => Some("away"),
        }
    }
}
