//! What can be wrong with a file as a whole.
//!
//! Made by the reader of the file.

use thiserror::Error;

/// What can be wrong with a file as a whole.
#[derive(Debug, Error)]
pub enum FileMistake {
    /// It cannot be read.
    #[error("cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// It is larger than any configuration.
    #[error("found {found} bytes, expected at most {most}")]
    TooLarge {
        /// Bytes.
        found: u64,
        /// Bytes.
        most: u64,
    },
    /// It is not text.
    #[error("byte {at} is not UTF-8, expected JSON or `set` lines")]
    NotText {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// There is nothing in it.
    #[error("found nothing, expected JSON or `set service conntrack-sync ...` lines")]
    Empty,
    /// An editor's mark before the first character (RFC 8259, 8.1 forbids it).
    #[error("begins with a byte-order mark, expected none: save the file as UTF-8 without BOM")]
    ByteOrderMark,
    /// VyOS' own form, as `show configuration` and config.boot have it.
    #[error(
        "found \"{found}\", VyOS' configuration in braces; expected JSON or `set` lines: on VyOS \
         `show configuration commands | match conntrack-sync` prints them"
    )]
    Braces {
        /// Its first line.
        found: String,
    },
    /// Neither JSON nor `set` lines.
    #[error("found \"{found}\", expected JSON (which begins with `{{`) or `set` lines")]
    NeitherForm {
        /// Its first line.
        found: String,
    },
}
