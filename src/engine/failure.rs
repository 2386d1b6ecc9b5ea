//! Why the kernel will not hold an entry. Known by the table, which keeps it, and by reconcile, which reads
//! the answers.

/// Why the kernel will not hold an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Failure {
    /// ENOMEM, ENFILE, EMFILE: `nf_conntrack_max` is reached, or a limit of expectations.
    TableFull,
    /// ENOSPC: the hash chain is too long.
    ChainTooLong,
    /// Another connection holds the reply tuple: two primaries chose one port.
    NatClash,
    /// ENOENT on a create: the entry that this one is related to is missing.
    NoMaster,
    /// EOPNOTSUPP: this kernel does not know the helper. An entry is installed without it then.
    HelperUnknown,
    /// ENOSPC on an update: no rule of this kernel uses labels. The entry is installed without them.
    LabelsUnused,
    /// EPERM, EACCES: the daemon lacks CAP_NET_ADMIN.
    NotPermitted,
    /// Anything else.
    Refused,
}

impl Failure {
    /// All reasons, in the order they are shown.
    pub const ALL: [Failure; 8] = [
        Failure::TableFull,
        Failure::ChainTooLong,
        Failure::NatClash,
        Failure::NoMaster,
        Failure::HelperUnknown,
        Failure::LabelsUnused,
        Failure::NotPermitted,
        Failure::Refused,
    ];

    /// The word in statistics.
    pub fn word(self) -> &'static str {
        match self {
            Failure::TableFull => "table-full",
            Failure::ChainTooLong => "chain-too-long",
            Failure::NatClash => "nat-clash",
            Failure::NoMaster => "no-master",
            Failure::HelperUnknown => "helper-unknown",
            Failure::LabelsUnused => "labels-unused",
            Failure::NotPermitted => "not-permitted",
            Failure::Refused => "refused",
        }
    }
}
