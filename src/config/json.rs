//! JSON text into a tree of values with their places.

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::mistake::{Mistake, Place};
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

/// The outermost object's fields.
pub(super) fn read(text: &str) -> Result<Vec<Field>, (Option<Place>, Mistake)> {
    let places = Places::of(text);
    let parsed = parse_to_ast(text, &CollectOptions::default(), &STRICT)
        .map_err(|error| (Some(places.at(error.range().start)), mistake(&error)))?;
    let Some(value) = parsed.value else { return Err((None, Mistake::Empty)) };
    let node = node(&places, &value);
    match node.value {
        Value::Table(fields) => Ok(fields),
        other => Err((Some(node.place), Mistake::NotAnObject { found: other.describe() })),
    }
}

fn mistake(error: &ParseError) -> Mistake {
    match error.kind() {
        ParseErrorKind::CommentsNotAllowed | ParseErrorKind::UnterminatedCommentBlock => Mistake::Comment,
        ParseErrorKind::TrailingCommasNotAllowed => Mistake::TrailingComma,
        ParseErrorKind::MultipleRootJsonValues => Mistake::BehindTheEnd,
        ParseErrorKind::NestingDepthExceeded => Mistake::TooDeep,
        ParseErrorKind::UnterminatedObject => Mistake::Unclosed { bracket: "{" },
        ParseErrorKind::UnterminatedArray => Mistake::Unclosed { bracket: "[" },
        other => Mistake::Syntax { complaint: other.to_string() },
    }
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
