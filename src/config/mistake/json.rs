//! What can be wrong with a file as JSON.
//!
//! Made by `json`.

use thiserror::Error;

/// What can be wrong with a file as JSON.
#[derive(Debug, Error)]
pub enum JsonMistake {
    /// It does not parse.
    #[error("not JSON: {complaint}")]
    Syntax {
        /// The parser's words.
        complaint: String,
    },
    /// A comment.
    #[error("found a comment, expected none: JSON has no comments")]
    Comment,
    /// A comma before a closing bracket.
    #[error("found a comma with nothing behind it")]
    TrailingComma,
    /// No comma between two options or values.
    #[error("expected a comma here, before what follows")]
    MissingComma,
    /// A string as other languages write it.
    #[error("found a single quotation mark, expected double ones around a string")]
    SingleQuotes,
    /// Something behind the end.
    #[error("found more behind the closing brace, expected the end of the file")]
    BehindTheEnd,
    /// Brackets within brackets without end.
    #[error("found brackets more than 512 deep")]
    TooDeep,
    /// It ends too early.
    #[error("the file ends before the {bracket} that begins here is closed")]
    Unclosed {
        /// What is open.
        bracket: &'static str,
    },
    /// The outermost value is no object.
    #[error("found {found}, expected an object with the options in it")]
    NotAnObject {
        /// What stands there.
        found: String,
    },
    /// A key twice in one object.
    #[error("\"{key}\" stands here for the second time, first at line {first}")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Line of the first one.
        first: usize,
    },
}
