//! What can be wrong with options that are right by themselves.
//!
//! Made by `combine`.

use std::path::PathBuf;

use thiserror::Error;

/// What can be wrong with options that are right by themselves.
#[derive(Debug, Error)]
pub enum CombinationMistake {
    /// No interface.
    #[error("interface not defined; say which one the routers share: \"interface\": {{ \"eth0\": {{}} }}")]
    NoInterface,
    /// Some interfaces have a peer, some have none.
    #[error("cannot mix unicast and multicast mode: {with} has a peer, {without} has none")]
    MixedModes {
        /// An interface with a peer.
        with: String,
        /// One without.
        without: String,
    },
    /// No mechanism.
    #[error("failover mechanism not defined; expected vrrp, cluster, vip or manual")]
    NoMechanism,
    /// Several mechanisms.
    #[error("can't set {found} as failover mechanism; expected one")]
    SeveralMechanisms {
        /// Those set.
        found: String,
    },
    /// `vrrp` without its group.
    #[error("VRRP sync-group must be defined")]
    NoSyncGroup,
    /// keepalived tells the state of an instance in a sync group by the group.
    #[error(
        "found both sync-group and instance, expected one: an instance in a sync group has the group's state"
    )]
    GroupAndInstance,
    /// `vip` without addresses.
    #[error("a virtual address must be defined: the role is where it is")]
    NoVirtualAddress,
    /// Two groups of one name.
    #[error("another failover group is named \"{found}\" too; expected names that differ")]
    GroupTwice {
        /// The name.
        found: String,
    },
    /// State and track files of two groups are the same.
    #[error(
        "the files of this group are those of {found}, too; expected another name, or another track-file"
    )]
    GroupFiles {
        /// The other group.
        found: String,
    },
    /// keepalived has one for all its groups.
    #[error("found notify-fifo {found}, expected {expected}: keepalived has one for all its groups")]
    AnotherFifo {
        /// This group's.
        found: PathBuf,
        /// Another group's.
        expected: PathBuf,
    },
    /// No entry could ever belong to it.
    #[error("no entry belongs to group {found}; expected a prefix, zone, mark or virtual-address of it")]
    GroupWithoutEntries {
        /// Its name.
        found: String,
    },
    /// What is to be forwarded cannot be told apart by group.
    #[error("hold is for one failover group: it would drop what another group forwards here")]
    HoldWithGroups,
    /// What is addressed to them is held, and they are not the router's own.
    #[error(
        "hold needs the group's virtual addresses; expected `virtual-address` below the failover mechanism"
    )]
    HoldWithoutAddress,
    /// `cluster` without its group.
    #[error("cluster group must be defined")]
    NoClusterGroup,
    /// `manual` without its group.
    #[error("a group must be defined: the name by which `ctsync notify` names it")]
    NoManualGroup,
    /// The peer would be lost between two signs of life.
    #[error("found {found}, expected at least twice the alive-interval, {least}")]
    PeerTimeout {
        /// Milliseconds.
        found: u64,
        /// Milliseconds.
        least: u64,
    },
    /// A datagram leaves by one socket.
    #[error("peers {first} and {other} are of different families")]
    PeersOfTwoFamilies {
        /// One.
        first: String,
        /// Another.
        other: String,
    },
    /// More than a group has nodes.
    #[error("found {found} peers, expected at most {most}")]
    TooManyPeers {
        /// So many.
        found: usize,
        /// At most.
        most: usize,
    },
    /// IPv4 here, IPv6 there.
    #[error("listen-address {listen} and peer {peer} are of different families")]
    FamiliesDiffer {
        /// Here.
        listen: String,
        /// There.
        peer: String,
    },
    /// Nothing to receive on: without a peer the channel is multicast.
    #[error("listen-address is for unicast; expected a `peer` on interface {interface} beside it")]
    ListenWithoutPeer {
        /// The channel's interface.
        interface: String,
    },
    /// No name, and the host has none either.
    #[error("this host has no name; set `node`")]
    NoNodeName,
}
