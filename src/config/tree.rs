//! What a file says before anything is judged: values with their places. Both readers make it, `shape` checks
//! it.

use super::mistake::Place;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// What stands there.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// As written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Field>),
}

/// A name in a table and what it stands for.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    /// Of the name.
    pub place: Place,
    pub node: Node,
}

impl Value {
    /// For an error's "found ...".
    pub(super) fn describe(&self) -> String {
        match self {
            Value::Null => "null".into(),
            Value::Bool(value) => value.to_string(),
            Value::Number(text) => text.clone(),
            Value::Text(text) => format!("the string \"{text}\""),
            Value::List(_) => "a list".into(),
            Value::Table(_) => "an object".into(),
        }
    }
}

/// Finds line and column of byte offsets in a text.
pub(super) struct Places<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    ascii: bool,
}

impl<'a> Places<'a> {
    pub(super) fn of(text: &'a str) -> Places<'a> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Places { text, lines, ascii: text.is_ascii() }
    }

    pub(super) fn at(&self, offset: usize) -> Place {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let letters = match self.text.get(start..offset) {
            Some(before) if !self.ascii => before.chars().count(),
            _ => offset - start,
        };
        Place { line, column: letters + 1 }
    }
}
