//! The JSON schema (draft 2020-12) of the configuration file, for editors: from the option tables.

use serde_json::{Map, Value as Json, json};

use super::options::{Kind, OPTIONS, Opt, Shape};

/// The schema.
pub fn schema() -> Json {
    let mut schema = table(OPTIONS);
    if let Json::Object(schema) = &mut schema {
        schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        schema.insert("title".into(), "ctsync".into());
        schema.insert("required".into(), json!(["interface", "failover-mechanism"]));
    }
    schema
}

fn table(options: &[Opt]) -> Json {
    let properties: Map<String, Json> =
        options.iter().map(|option| (option.name.to_owned(), property(option))).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn property(option: &Opt) -> Json {
    let mut property = match option.shape {
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Count { from, to, .. } => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Shape::Text(kind) => text(kind),
        Shape::List(kind) => json!({ "type": "array", "items": text(kind) }),
        Shape::Several(kind) => {
            json!({ "oneOf": [text(kind), { "type": "array", "items": text(kind), "minItems": 1 }] })
        }
        Shape::Table(options) => table(options),
        Shape::Tagged(_, options) => {
            json!({ "type": "object", "minProperties": 1, "additionalProperties": table(options) })
        }
    };
    if let Json::Object(property) = &mut property {
        property.insert("description".into(), option.help.into());
        if let Ok(default) = serde_json::from_str::<Json>(option.default) {
            property.insert("default".into(), default);
        }
    }
    property
}

fn text(kind: Kind) -> Json {
    if kind.words().is_empty() {
        json!({ "type": "string", "description": kind.expected() })
    } else {
        json!({ "enum": kind.words() })
    }
}
