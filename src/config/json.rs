//! JSON text into a tree of values with their places; as far as possible also of a text with mistakes in it,
//! so that these do not hide the next ones.

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::ParseErrorKind;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::mistake::{FileMistake, JsonMistake, Mistake, Place};
use super::tree::{Field, Node, Places, Value};

/// JSON as RFC 8259 has it, nothing looser.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// Mistakes in the syntax of one file that are told, and that are read over.
const TOLD: usize = 50;
const MENDED: usize = 1000;

/// What a file says, as far as it can be understood, and what is wrong with its syntax.
#[derive(Default)]
pub(super) struct Read {
    /// The outermost object's fields; `None` when the file has no such thing, or brackets or words that leave
    /// open what belongs where.
    pub fields: Option<Vec<Field>>,
    pub errors: Vec<(Option<Place>, Mistake)>,
}

/// Read a text, over every mistake that leaves no doubt about what was meant.
pub(super) fn read(text: &str) -> Read {
    let places = Places::of(text);
    let mut found = Read::default();
    let mut mended = text.to_owned();
    let mut count = 0;
    let outermost = loop {
        let error = match parse_to_ast(&mended, &CollectOptions::default(), &STRICT) {
            Ok(parsed) => break parsed.value.map(|value| node(&places, &value)),
            Err(error) => error,
        };
        let (at, kind) = (error.range().start, error.kind());
        let over = mend(&mended, kind, at).filter(|_| count < MENDED);
        let comment = over.is_some() && starts_comment(&mended, at);
        count += 1;
        // The last one that is told may be the one that nothing was read behind.
        if count <= TOLD || over.is_none() {
            let mistake = if comment { JsonMistake::Comment } else { mistake(kind) };
            found.errors.push((Some(places.at(at)), mistake.into()));
        }
        match over {
            Some(text) => mended = text,
            None => return found,
        }
    };
    match outermost {
        Some(Node { value: Value::Table(fields), .. }) => found.fields = Some(fields),
        Some(Node { place, value }) => {
            found.errors.push((Some(place), JsonMistake::NotAnObject { found: value.describe() }.into()));
        }
        None => found.errors.push((None, FileMistake::Empty.into())),
    }
    found
}

fn mistake(kind: &ParseErrorKind) -> JsonMistake {
    match kind {
        ParseErrorKind::CommentsNotAllowed | ParseErrorKind::UnterminatedCommentBlock => JsonMistake::Comment,
        ParseErrorKind::TrailingCommasNotAllowed => JsonMistake::TrailingComma,
        ParseErrorKind::ExpectedComma => JsonMistake::MissingComma,
        ParseErrorKind::SingleQuotedStringsNotAllowed => JsonMistake::SingleQuotes,
        ParseErrorKind::MultipleRootJsonValues => JsonMistake::BehindTheEnd,
        ParseErrorKind::NestingDepthExceeded => JsonMistake::TooDeep,
        ParseErrorKind::UnterminatedObject => JsonMistake::Unclosed { bracket: "{" },
        ParseErrorKind::UnterminatedArray => JsonMistake::Unclosed { bracket: "[" },
        other => JsonMistake::Syntax { complaint: other.to_string() },
    }
}

/// The text without a mistake at an offset, every other byte where it was; `None` when it is not clear what
/// was meant.
fn mend(text: &str, kind: &ParseErrorKind, at: usize) -> Option<String> {
    let rest = text.get(at..)?;
    let blank = |part: &str| " ".repeat(part.len());
    let (length, instead) = match kind {
        ParseErrorKind::TrailingCommasNotAllowed => (1, " ".to_owned()),
        ParseErrorKind::ExpectedComma if rest.starts_with([' ', '\n', '\t', '\r']) => (1, ",".to_owned()),
        ParseErrorKind::SingleQuotedStringsNotAllowed => {
            let inside = rest.get(1..)?.split(['\'', '\n']).next()?;
            let closed = rest.get(1 + inside.len()..)?.starts_with('\'');
            if !closed || inside.contains(['"', '\\']) {
                return None;
            }
            (inside.len() + 2, format!("\"{inside}\""))
        }
        _ if starts_comment(text, at) => {
            let end = if rest.starts_with("/*") {
                rest.find("*/")? + 2
            } else {
                rest.find('\n').unwrap_or(rest.len())
            };
            (end, blank(rest.get(..end)?))
        }
        _ => return None,
    };
    Some([text.get(..at)?, &instead, text.get(at + length..)?].concat())
}

/// As in other languages, and as in `set` lines.
fn starts_comment(text: &str, at: usize) -> bool {
    text.get(at..)
        .is_some_and(|rest| rest.starts_with("//") || rest.starts_with("/*") || rest.starts_with('#'))
}

fn node(places: &Places<'_>, value: &ast::Value<'_>) -> Node {
    let place = places.at(value.range().start);
    let value = match value {
        ast::Value::StringLit(string) => Value::Text(string.value.clone().into_owned()),
        ast::Value::NumberLit(number) => Value::Number(number.value.to_owned()),
        ast::Value::BooleanLit(boolean) => Value::Bool(boolean.value),
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::Array(array) => {
            Value::List(array.elements.iter().map(|element| node(places, element)).collect())
        }
        ast::Value::Object(object) => Value::Table(
            object
                .properties
                .iter()
                .map(|property| Field {
                    name: property.name.as_str().to_owned(),
                    place: places.at(property.range.start),
                    node: node(places, &property.value),
                })
                .collect(),
        ),
    };
    Node { place, value }
}
