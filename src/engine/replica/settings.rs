//! What a replica is told when it starts: how to behave, and what the last run left behind.
//!
//! Filled by the daemon from its configuration and from /run. Plain data.

use std::time::Duration;

use super::Kept;
use crate::facts::KernelSettings;
use crate::seal::Key as SealKey;
use crate::wire::{Incarnation, NodeId};

/// How a replica behaves; fixed for a run, but for what a reload may change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's configured name.
    pub name: String,
    /// Its number on the wire.
    pub node: NodeId,
    /// Nodes that belong together, and the failover group among theirs.
    pub node_group: u32,
    /// The failover group by mechanism and name, as peers are told it: `vrrp SYNC`. Nodes of another one are
    /// refused.
    pub mechanism_group: String,
    /// Peers that are known to exist; 0: whoever is heard.
    pub peers: usize,
    /// Keys of the channel; the first one seals. None: anyone can write to both tables.
    pub keys: Vec<SealKey>,
    /// This run: 128 random bits.
    pub incarnation: Incarnation,
    /// 128 more, which nobody is ever told.
    pub secret: u128,
    /// Payload bytes of the largest datagram.
    pub datagram: usize,
    /// Bytes kept for resending.
    pub ring: usize,
    /// Destroys that may wait for the channel; past it they are dropped and the digest repairs (1).
    pub pending_destroys: usize,
    /// Seconds: the shortest timeout under which a backup installs.
    pub lease: u32,
    /// Time in which a sweep visits every entry once.
    pub sweep: Duration,
    /// How long a takeover waits for a peer that still talks.
    pub flush_wait: Duration,
    /// What a reload may change.
    pub tunables: Tunables,
    /// What this node's kernel is set to, for the peer.
    pub kernel: KernelSettings,
    /// What the last run on this node left behind.
    pub kept: Kept,
}

/// Settings that a reload may change.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tunables {
    /// Time between two alives.
    pub alive: Duration,
    /// Silence after which a peer counts as lost.
    pub lost_after: Duration,
    /// After this long without progress towards readiness the gate opens.
    pub gate_limit: Duration,
    /// After this long without an owner entries end by their protocols' timeouts.
    pub owner_lost: Duration,
    /// Install at once, not only at a takeover.
    pub hot: bool,
    /// Give TCP entries their window tracking back after a takeover.
    pub track_windows: bool,
}
