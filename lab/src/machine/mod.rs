//! Namespaces, nodes and their processes, and waiting for them. Knows nothing of routers.

pub(crate) mod net;
pub(crate) mod node;
pub(crate) mod sandbox;
pub(crate) mod setup;
pub(crate) mod wait;
