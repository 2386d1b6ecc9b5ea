//! What can be wrong with `set` lines.
//!
//! Made by `set_lines`.

use thiserror::Error;

use super::Nearest;

/// What can be wrong with `set` lines.
#[derive(Debug, Error)]
pub enum LineMistake {
    /// Not a `set` line.
    #[error("found \"{found}\", expected lines that begin with `set`{nearest}")]
    NotASetLine {
        /// The first word.
        found: String,
        /// What was probably meant.
        nearest: Nearest,
    },
    /// Almost `service conntrack-sync`.
    #[error("found \"{found}\"; did you mean \"service conntrack-sync\"?")]
    MisspeltService {
        /// The words after `set`.
        found: String,
    },
    /// A `delete` line.
    #[error(
        "`delete` lines change a configuration that is there; this file is the whole of it: leave out what is not wanted"
    )]
    DeleteLine,
    /// A quotation mark without a second one.
    #[error("the quotation mark {mark} is not closed on this line")]
    Quote {
        /// Which.
        mark: char,
    },
    /// An option without its value.
    #[error("ends before its value, expected {expected}")]
    MissingValue {
        /// What should follow.
        expected: String,
    },
    /// A value after an option that takes none.
    #[error("takes no value, found \"{found}\"")]
    FlagWithValue {
        /// What follows.
        found: String,
    },
    /// Words after the value.
    #[error("found \"{found}\" after the value, expected the end of the line")]
    ExtraWords {
        /// What follows.
        found: String,
    },
    /// Two values for an option that takes one.
    #[error("set to \"{found}\" here and to \"{first}\" in line {line}; it takes one value")]
    SetTwice {
        /// Here.
        found: String,
        /// There.
        first: String,
        /// Line of the first one.
        line: usize,
    },
    /// A file of `set` lines with none for us.
    #[error("no line of the file sets anything of `service conntrack-sync`{elsewhere}")]
    NothingOfOurs {
        /// What there was.
        elsewhere: String,
    },
}
