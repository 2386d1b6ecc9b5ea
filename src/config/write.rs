//! A configuration written again, in either form, and the option tables as text for people.

use std::fmt::Write;

use serde_json::{Map, Value as Json};

use super::is_leaf;
use super::options::{OPTIONS, Opt, Shape, walk};

/// The documented example.
pub const EXAMPLE: &str = r#"{
  "interface": { "eth0": {} },
  "failover-mechanism": { "vrrp": { "sync-group": "SYNC" } },
  "mcast-group": "225.0.0.50",
  "event-listen-queue-size": 8,
  "sync-queue-size": 8
}
"#;

/// As JSON.
pub fn to_json(values: &Map<String, Json>) -> String {
    serde_json::to_string_pretty(values).unwrap_or_default() + "\n"
}

/// As `set` lines, in the form of VyOS 1.3 and later.
pub fn to_set_lines(values: &Map<String, Json>) -> String {
    let mut out = String::new();
    table(&mut out, "set service conntrack-sync", values, OPTIONS);
    out
}

fn table(out: &mut String, above: &str, values: &Map<String, Json>, options: &'static [Opt]) {
    for option in options {
        let Some(value) = values.get(option.name) else { continue };
        let line = format!("{above} {}", option.name);
        match (option.shape, value) {
            (Shape::Table(inner), Json::Object(below)) => table(out, &line, below, inner),
            (Shape::Tagged(_, inner), Json::Object(tags)) => {
                for (tag, below) in tags {
                    let line = format!("{line} {}", quoted(tag));
                    let _ = writeln!(out, "{line}");
                    if let Json::Object(below) = below {
                        table(out, &line, below, inner);
                    }
                }
            }
            (_, Json::Array(list)) => {
                for item in list {
                    let _ = writeln!(out, "{line} {}", quoted(item.as_str().unwrap_or_default()));
                }
            }
            (_, Json::Bool(true)) => {
                let _ = writeln!(out, "{line}");
            }
            (_, Json::Bool(false)) => {}
            (_, Json::String(text)) => {
                let _ = writeln!(out, "{line} {}", quoted(text));
            }
            (_, other) => {
                let _ = writeln!(out, "{line} {other}");
            }
        }
    }
}

fn quoted(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:/".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    // A quote in the text stands in quotes of the other kind, as a shell takes them.
    format!("'{}'", text.replace('\'', r#"'"'"'"#))
}

/// What a value looks like, for people.
fn takes(option: &Opt) -> String {
    match option.shape {
        Shape::Flag => "true or false".into(),
        Shape::Count { from, to, unit: "" } => format!("number, {from} to {to}"),
        Shape::Count { from, to, unit } => format!("{unit}, {from} to {to}"),
        Shape::Text(kind) => kind.expected().into(),
        Shape::List(kind) => format!("list: {}", kind.expected()),
        Shape::Several(kind) => format!("{}, or a list of them", kind.expected()),
        Shape::Table(_) | Shape::Tagged(..) => "object".into(),
    }
}

/// The options as a Markdown table, for `docs/operation.md`.
pub fn reference_table() -> String {
    let mut out =
        String::from("| option | of | takes | default | reload | meaning |\n|---|---|---|---|---|---|\n");
    walk(&mut |path, option| {
        let (of, reload) =
            (if option.vyos { "VyOS" } else { "ours" }, if option.reloads { "yes" } else { "" });
        let _ = writeln!(
            out,
            "| `{}` | {of} | {} | {} | {reload} | {} |",
            path.join("."),
            takes(option),
            option.default.trim_matches('"'),
            option.help
        );
    });
    out
}

/// The options as the body of ctsync-config(5), in roff.
pub fn reference_roff() -> String {
    let escape = |text: &str| text.replace('\\', "\\e").replace('-', "\\-").replace('`', "");
    let mut out = String::new();
    walk(&mut |path, option| {
        let of = if option.vyos { "VyOS" } else { "ours" };
        let default = if option.default.is_empty() {
            String::new()
        } else {
            format!(" Default: {}.", option.default.trim_matches('"'))
        };
        let reload = if option.reloads { " Taken over by a reload." } else { "" };
        let takes = if is_leaf(option.shape) {
            format!("Takes {}.{default}{reload}", takes(option))
        } else {
            String::new()
        };
        let name = path.join(".");
        let _ =
            writeln!(out, ".TP\n.B {} \\fR({of})\n{} {}", escape(&name), escape(option.help), escape(&takes));
    });
    out
}
