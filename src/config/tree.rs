//! What a file says before anything is judged: values with their places. Both readers make it, `shape` checks it.

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
    pub fn describe(&self) -> String {
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

/// Line and column of a byte offset.
pub(super) fn place_at(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Place {
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
    }
}
