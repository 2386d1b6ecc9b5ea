//! What a node knows of itself, beside its table, that decides over a takeover: its role and how that is
//! known, its virtual addresses, what its kernel is set to and what its rules ask for. Each node tells its
//! peers in its alives, so that every node can judge all of them ([`the verdict`]).
//!
//! Filled by the daemon, carried by `wire`, kept by the replica. Plain data: decides nothing, asks nobody.

use bitflags::bitflags;

/// A node's role in its failover group, as VRRP (or another mechanism) tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// keepalived MASTER, RFC 9568 Active.
    Primary,
    /// keepalived BACKUP, RFC 9568 Backup.
    Backup,
    /// keepalived FAULT.
    Fault,
    /// Nobody has told, or the one who tells is gone.
    #[default]
    Unknown,
}

impl Role {
    /// All of them, in their own order, which is that of the wire.
    pub const ALL: [Role; 4] = [Role::Primary, Role::Backup, Role::Fault, Role::Unknown];

    /// keepalived's word, as VyOS users know it.
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "MASTER",
            Role::Backup => "BACKUP",
            Role::Fault => "FAULT",
            Role::Unknown => "UNKNOWN",
        }
    }
}

/// How a role is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// The mechanism told it, to this run or to the one before it.
    Told,
    /// It was never told, or is contradicted: the virtual addresses were asked.
    Addresses,
    /// Nobody knows.
    #[default]
    Nobody,
}

impl Evidence {
    /// All of them, in the order of the wire.
    pub const ALL: [Evidence; 3] = [Evidence::Told, Evidence::Addresses, Evidence::Nobody];
}

/// Whether the program that moves the virtual addresses is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mover {
    /// keepalived holds our notify FIFO open.
    Present,
    /// Nobody holds it.
    Absent,
    /// The mechanism shows nobody: a cluster, addresses alone, `ctsync notify`.
    #[default]
    Unseen,
}

impl Mover {
    /// All of them, in the order of the wire.
    pub const ALL: [Mover; 3] = [Mover::Present, Mover::Absent, Mover::Unseen];
}

/// Where a node stands in the election, beside its role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Seat {
    /// How its role is known.
    pub evidence: Evidence,
    /// Who moves the addresses.
    pub mover: Mover,
    /// The group's virtual addresses that the node knows of; 0: none are known.
    pub addresses: u8,
    /// How many of them are on an interface of its own.
    pub here: u8,
}

bitflags! {
    /// What a node's rules ask of the kernel.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Asked: u8 {
        /// They could be read: without it the others say nothing.
        const KNOWN = 1 << 0;
        /// Connection tracking of IPv4.
        const TRACKS4 = 1 << 1;
        /// Connection tracking of IPv6.
        const TRACKS6 = 1 << 2;
        /// Translation of IPv4.
        const NAT4 = 1 << 3;
        /// Translation of IPv6.
        const NAT6 = 1 << 4;
    }
}

impl serde::Serialize for Asked {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter_names().map(|(name, _)| name.to_lowercase()))
    }
}

/// Helpers that rules give to connections, by the kernel's names; a bit each.
pub const HELPERS: [&str; 14] = [
    "ftp",
    "sip",
    "RAS",
    "Q.931",
    "tftp",
    "pptp",
    "irc",
    "amanda",
    "snmp",
    "netbios-ns",
    "sane",
    "rpc",
    "tns",
    "snmp_trap",
];

/// What a node's rules ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rules {
    /// Tracking and translation.
    pub asked: Asked,
    /// Helpers, bits as in [`HELPERS`].
    pub helpers: u16,
    /// Objects with `ct timeout` policies; what they set is not carried.
    pub timeout_policies: u8,
}

/// How long connections live by their protocols, in seconds: the names below `net.netfilter.nf_conntrack_`.
pub const TIMEOUTS: [&str; 8] = [
    "tcp_timeout_established",
    "udp_timeout",
    "udp_timeout_stream",
    "icmp_timeout",
    "icmpv6_timeout",
    "generic_timeout",
    "gre_timeout_stream",
    "sctp_timeout_established",
];

/// What a node's kernel is set to, as far as it decides over a takeover.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KernelSettings {
    /// `nf_conntrack_max`; 0: no limit.
    pub max: u32,
    /// `nf_conntrack_tcp_loose`.
    pub loose: bool,
    /// `nf_conntrack_events` is 1.
    pub events: bool,
    /// `nf_conntrack_timestamp`.
    pub timestamps: bool,
    /// What its rules ask for.
    pub rules: Rules,
    /// Seconds, as in [`TIMEOUTS`]; 0: this kernel has none.
    pub timeouts: [u32; TIMEOUTS.len()],
}

/// A build's version, as a node tells it to its peers: major, minor, patch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Build(pub [u8; 3]);

impl Build {
    /// This one.
    pub fn this() -> Build {
        let number = |text: &str| text.parse().unwrap_or(u8::MAX);
        Build([
            number(env!("CARGO_PKG_VERSION_MAJOR")),
            number(env!("CARGO_PKG_VERSION_MINOR")),
            number(env!("CARGO_PKG_VERSION_PATCH")),
        ])
    }
}

impl std::fmt::Display for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl serde::Serialize for Build {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
