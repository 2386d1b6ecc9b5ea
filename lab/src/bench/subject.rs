//! Who is measured: ctsync and conntrackd in their shapes, readers that do nothing, and nobody at all.

use std::path::Path;

use clap::ValueEnum;

use crate::routers::incumbent;
use crate::routers::options::{Mover, Options};

/// Who works.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(super) enum Subject {
    /// No daemon: the kernel alone.
    Nobody,
    /// A reader that is woken for each event and throws it away.
    NullWoken,
    /// A reader that takes what has come and naps a millisecond.
    NullNapping,
    /// ctsync: the peer's kernel holds every entry.
    Ctsync,
    /// The peer's table holds them, its kernel does not.
    CtsyncCold,
    /// The channel is sealed.
    CtsyncKey,
    /// conntrackd, reliable mode, external cache.
    Ftfw,
    /// conntrackd without acknowledgements.
    Notrack,
    /// conntrackd without an external cache: into the peer's kernel at once.
    FtfwInject,
}

/// MB for events that wait; the same for all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Buffer {
    /// Nothing is to be lost.
    Large,
    /// What both documentations say.
    Default,
}

impl Buffer {
    fn megabytes(self) -> u32 {
        if self == Buffer::Large { 64 } else { 8 }
    }

    fn lines(self) -> &'static [&'static str] {
        match self {
            Buffer::Large => &["event-listen-queue-size 64", "sync-queue-size 8"],
            Buffer::Default => &["event-listen-queue-size 8", "sync-queue-size 8"],
        }
    }
}

impl Subject {
    /// Its name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Subject::Nobody => "no daemon",
            Subject::NullWoken => "null, woken",
            Subject::NullNapping => "null, napping",
            Subject::Ctsync => "ctsync hot",
            Subject::CtsyncCold => "ctsync cold",
            Subject::CtsyncKey => "ctsync cold, key",
            Subject::Ftfw => "conntrackd FTFW",
            Subject::Notrack => "conntrackd NOTRACK",
            Subject::FtfwInject => "conntrackd, no cache",
        }
    }

    pub(super) fn is_ctsync(self) -> bool {
        matches!(self, Subject::Ctsync | Subject::CtsyncCold | Subject::CtsyncKey)
    }

    pub(super) fn is_incumbent(self) -> bool {
        matches!(self, Subject::Ftfw | Subject::Notrack | Subject::FtfwInject)
    }

    /// It has a peer.
    pub(super) fn is_pair(self) -> bool {
        self.is_ctsync() || self.is_incumbent()
    }

    /// The peer's kernel holds what the owner's holds.
    pub(super) fn is_hot(self) -> bool {
        matches!(self, Subject::Ctsync | Subject::FtfwInject)
    }

    /// What its process is called.
    pub(super) fn program(self) -> &'static str {
        if self.is_ctsync() { "ctsync" } else { "conntrackd" }
    }

    pub(super) fn options(self, ctsync: &Path, buffer: Buffer) -> Options {
        let shape =
            incumbent::Shape { event_buffer: buffer.megabytes() << 20, ..incumbent::Shape::default() };
        Options {
            sync: self.is_ctsync(),
            incumbent: self.is_incumbent(),
            incumbent_shape: match self {
                Subject::Notrack => incumbent::Shape { mode: "NOTRACK", ..shape },
                Subject::FtfwInject => incumbent::Shape { external_cache: false, ..shape },
                _ => shape,
            },
            install: self != Subject::CtsyncCold && self != Subject::CtsyncKey,
            key: (self == Subject::CtsyncKey).then(|| "5a".repeat(32)),
            lines: buffer.lines(),
            // Under full load keepalived gets late, and a takeover is not what is measured. conntrackd needs
            // no role to follow.
            advert: 1.0,
            mover: if self.is_ctsync() { Mover::Keepalived } else { Mover::Story },
            ..Options::usual(ctsync.to_owned())
        }
    }
}
