//! What can be wrong with a configuration: one variant a mistake, each with what was found and what was
//! expected; an enum for each who makes them.
//!
//! Made by the readers and the checks of this room, printed by the command line.

mod combination;
mod file;
mod json;
mod line;
mod machine;
mod value;

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::text::below;

pub use combination::CombinationMistake;
pub use file::FileMistake;
pub use json::JsonMistake;
pub use line::LineMistake;
pub use machine::MachineMistake;
pub use value::ValueMistake;

/// A configuration is refused.
#[derive(Debug)]
pub struct Refused {
    /// Everything that is wrong with it, in the order of the file; never empty.
    pub errors: Vec<ConfigError>,
    /// What the operator should know beside that.
    pub remarks: Vec<String>,
}

impl Refused {
    /// One mistake of the file as a whole.
    pub fn whole(path: &Path, mistake: impl Into<Mistake>) -> Refused {
        Refused { errors: vec![ConfigError::whole(path, mistake)], remarks: Vec::new() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// One mistake and where it is.
#[derive(Debug)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Line and column, from 1; absent when the mistake is in no one place.
    pub place: Option<Place>,
    /// The option: a JSON pointer (RFC 6901), or the words of a `set` line. Empty for the file as a whole.
    pub option: String,
    /// What is wrong.
    pub mistake: Mistake,
}

/// Line and column in characters, both from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl ConfigError {
    /// A mistake that is in no one place.
    pub(super) fn whole(path: &Path, mistake: impl Into<Mistake>) -> ConfigError {
        ConfigError { path: path.to_owned(), place: None, option: String::new(), mistake: mistake.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.option.is_empty() {
            write!(f, ": {}", self.option)?;
        }
        write!(f, ": {}", self.mistake)?;
        let mut cause = std::error::Error::source(&self.mistake);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Mistake {
    /// The variant's name, for `--json`.
    pub fn word(&self) -> String {
        let text = format!("{self:?}");
        let inner = text.split_once('(').map_or(text.as_str(), |(_, inner)| inner);
        inner.split([' ', '(', '{', ')']).next().unwrap_or_default().to_owned()
    }

    /// The option about which nothing is known any more after a mistake at a JSON pointer; an empty one, when
    /// it may be any.
    pub(super) fn leaves_in_doubt(&self, pointer: &str) -> Option<String> {
        match self {
            Mistake::Value(ValueMistake::UnknownOption { nearest, .. }) => {
                nearest.0.as_ref().map(|name| below(pointer, name))
            }
            Mistake::Line(LineMistake::DeleteLine) => None,
            _ => Some(pointer.to_owned()),
        }
    }
}

/// The name that was probably meant, as the end of a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nearest(pub Option<String>);

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(f, "; did you mean \"{name}\"?"),
            None => Ok(()),
        }
    }
}

/// What is wrong.
#[derive(Debug, Error)]
#[error(transparent)]
pub enum Mistake {
    /// With the file as a whole.
    File(#[from] FileMistake),
    /// With it as JSON.
    Json(#[from] JsonMistake),
    /// With one option.
    Value(#[from] ValueMistake),
    /// With several together.
    Combination(#[from] CombinationMistake),
    /// With a `set` line.
    Line(#[from] LineMistake),
    /// On this machine.
    Machine(#[from] MachineMistake),
}

/// The candidate that was probably meant.
pub(super) fn nearest<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> Nearest {
    let found = found.to_lowercase();
    let best = candidates
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&found, &name.to_lowercase()), name))
        .min_by_key(|(distance, _)| *distance);
    Nearest(best.filter(|(distance, name)| *distance <= name.len() / 3 + 1).map(|(_, name)| name.to_owned()))
}
