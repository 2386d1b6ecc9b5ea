//! A tree of values against the option tables: names, types, ranges, and what a single value can be. What is
//! good comes out as plain JSON with the place of each value; what is not, as mistakes, all of them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::{Map, Value as Json};

use super::mistake::{JsonMistake, Mistake, Nearest, Place, ValueMistake, nearest};
use super::options::{Kind, OPTIONS, Opt, Shape};
use super::text::{below, parse_mark};
use super::tree::{Field, Node, Value};

/// Values in their canonical form, and where each came from.
#[derive(Default)]
pub(super) struct Checked {
    pub values: Map<String, Json>,
    /// By JSON pointer.
    pub places: HashMap<String, Place>,
    /// Place, JSON pointer, mistake.
    pub errors: Vec<(Place, String, Mistake)>,
}

/// Check everything that can be seen of one value alone.
pub(super) fn check(fields: &[Field]) -> Checked {
    let mut checked = Checked::default();
    checked.values = checked.table(fields, OPTIONS, "");
    checked
}

impl Checked {
    fn wrong(&mut self, place: Place, pointer: &str, mistake: impl Into<Mistake>) {
        self.errors.push((place, pointer.to_owned(), mistake.into()));
    }

    fn unique<'a>(&mut self, fields: &'a [Field], above: &str) -> Vec<&'a Field> {
        let mut first: HashMap<&str, &Field> = HashMap::new();
        for field in fields {
            if let Some(known) = first.get(field.name.as_str()) {
                let mistake = JsonMistake::DuplicateKey { key: field.name.clone(), first: known.place.line };
                self.wrong(field.place, &below(above, &field.name), mistake);
            } else {
                first.insert(&field.name, field);
            }
        }
        fields
            .iter()
            .filter(|field| first.get(field.name.as_str()).is_some_and(|at| std::ptr::eq(*at, *field)))
            .collect()
    }

    fn table(&mut self, fields: &[Field], options: &'static [Opt], above: &str) -> Map<String, Json> {
        let mut values = Map::new();
        for field in self.unique(fields, above) {
            let pointer = below(above, &field.name);
            let Some(option) = options.iter().find(|option| option.name == field.name) else {
                let found = field.name.clone();
                let nearest = nearest(&found, options.iter().map(|option| option.name));
                self.wrong(field.place, above, ValueMistake::UnknownOption { found, nearest });
                continue;
            };
            self.places.insert(pointer.clone(), field.node.place);
            if let Some(value) = self.value(&field.node, option.shape, &pointer) {
                values.insert(option.name.to_owned(), value);
            }
        }
        values
    }

    fn value(&mut self, node: &Node, shape: Shape, pointer: &str) -> Option<Json> {
        if let Value::Null = node.value {
            self.wrong(node.place, pointer, ValueMistake::Null { expected: expected(shape) });
            return None;
        }
        let found = || node.value.describe();
        match (shape, &node.value) {
            (Shape::Flag, Value::Bool(value)) => Some(Json::Bool(*value)),
            (Shape::Flag, _) => {
                self.wrong(node.place, pointer, ValueMistake::NotABoolean { found: found() });
                None
            }
            (Shape::Count { from, to, unit }, Value::Number(text)) => match count(text, from, to, unit) {
                Ok(number) => Some(number.into()),
                Err(mistake) => {
                    self.wrong(node.place, pointer, mistake);
                    None
                }
            },
            (Shape::Count { .. }, _) => {
                let quoted = matches!(&node.value, Value::Text(text) if text.parse::<u64>().is_ok());
                let hint = if quoted { ", without quotation marks" } else { "" };
                self.wrong(node.place, pointer, ValueMistake::NotANumber { found: found(), hint });
                None
            }
            (Shape::List(kind) | Shape::Several(kind), Value::List(nodes)) => {
                let mut list: Vec<Json> = Vec::new();
                let mut seen: HashSet<String> = HashSet::new();
                for (at, node) in nodes.iter().enumerate() {
                    let pointer = below(pointer, &at.to_string());
                    self.places.insert(pointer.clone(), node.place);
                    if let Some(value) = self.text(node, kind, &pointer)
                        && seen.insert(value.as_str().unwrap_or_default().to_owned())
                    {
                        list.push(value);
                    }
                }
                // One alone is as good without the list.
                if let (Shape::Several(_), [only]) = (shape, list.as_slice()) {
                    return Some(only.clone());
                }
                Some(Json::Array(list))
            }
            (Shape::Text(kind) | Shape::Several(kind), _) => self.text(node, kind, pointer),
            (Shape::List(_), _) => {
                self.wrong(node.place, pointer, ValueMistake::NotAList { found: found() });
                None
            }
            (Shape::Table(options), Value::Table(fields)) => {
                Some(Json::Object(self.table(fields, options, pointer)))
            }
            (Shape::Tagged(kind, options), Value::Table(fields)) => {
                let mut tags = Map::new();
                for field in self.unique(fields, pointer) {
                    let pointer = below(pointer, &field.name);
                    self.places.insert(pointer.clone(), field.place);
                    if let Err(mistake) = one_text(kind, &field.name) {
                        self.wrong(field.place, &pointer, mistake);
                    }
                    let inner = self.value(&field.node, Shape::Table(options), &pointer);
                    tags.insert(field.name.clone(), inner.unwrap_or_else(|| Json::Object(Map::new())));
                }
                Some(Json::Object(tags))
            }
            (Shape::Table(_) | Shape::Tagged(..), _) => {
                self.wrong(node.place, pointer, ValueMistake::NotATable { found: found() });
                None
            }
        }
    }

    fn text(&mut self, node: &Node, kind: Kind, pointer: &str) -> Option<Json> {
        let Value::Text(text) = &node.value else {
            let mistake = match node.value {
                Value::Null => ValueMistake::Null { expected: kind.expected().to_owned() },
                _ => ValueMistake::NotAString { found: node.value.describe(), expected: kind.expected() },
            };
            self.wrong(node.place, pointer, mistake);
            return None;
        };
        match one_text(kind, text) {
            Ok(canonical) => Some(Json::String(canonical)),
            Err(mistake) => {
                self.wrong(node.place, pointer, mistake);
                None
            }
        }
    }
}

fn expected(shape: Shape) -> String {
    match shape {
        Shape::Flag => "true or false".into(),
        Shape::Count { from, to, .. } => format!("a number from {from} to {to}"),
        Shape::Text(kind) => kind.expected().into(),
        Shape::List(_) => "a list".into(),
        Shape::Several(kind) => format!("{}, or a list of them", kind.expected()),
        Shape::Table(_) | Shape::Tagged(..) => "an object".into(),
    }
}

fn count(text: &str, from: u64, to: u64, unit: &str) -> Result<u64, ValueMistake> {
    let found = text.to_owned();
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.starts_with(|letter: char| letter.is_ascii_digit()) {
        return Err(ValueMistake::NotANumber { found: format!("\"{found}\""), hint: "" });
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let exponent = digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
        return Err(if exponent {
            ValueMistake::NotWhole { found }
        } else {
            ValueMistake::NotANumber { found: format!("\"{found}\""), hint: "" }
        });
    }
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    match text.parse::<u64>() {
        Ok(number) if (from..=to).contains(&number) => Ok(number),
        _ => Err(ValueMistake::OutOfRange { found, from, to, unit }),
    }
}

/// One text in its canonical form.
fn one_text(kind: Kind, text: &str) -> Result<String, ValueMistake> {
    let found = text.to_owned();
    match kind {
        Kind::Name => {
            let good = !text.is_empty() && text.len() <= 64 && !text.contains(char::is_whitespace);
            if good { Ok(found) } else { Err(ValueMistake::Name { found }) }
        }
        // dev_valid_name() in net/core/dev.c.
        Kind::Interface => {
            let odd = |letter: char| letter.is_whitespace() || matches!(letter, '/' | ':');
            let good =
                !text.is_empty() && text.len() <= 15 && text != "." && text != ".." && !text.contains(odd);
            if good { Ok(found) } else { Err(ValueMistake::InterfaceName { found }) }
        }
        Kind::Path => {
            if is_path(text) {
                Ok(found)
            } else {
                Err(ValueMistake::RelativePath { found })
            }
        }
        Kind::Host => {
            let Ok(address) = text.parse::<IpAddr>() else {
                return Err(ValueMistake::NotAnAddress { found });
            };
            let broadcast = address == IpAddr::from([255, 255, 255, 255]);
            if address.is_multicast() || address.is_unspecified() || broadcast {
                return Err(ValueMistake::NotAHost { found });
            }
            Ok(address.to_string())
        }
        Kind::Multicast => match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(group)) if group.is_multicast() => Ok(group.to_string()),
            Ok(IpAddr::V4(_)) => Err(ValueMistake::NotMulticast { found }),
            Ok(IpAddr::V6(_)) => Err(ValueMistake::Ipv6Group { found }),
            Err(_) => Err(ValueMistake::NotMulticast { found: format!("\"{found}\"") }),
        },
        Kind::Prefix => prefix(text),
        Kind::Protocol => word(kind, text, |found, nearest| ValueMistake::Protocol { found, nearest }),
        Kind::Helper => word(kind, text, |found, nearest| ValueMistake::Helper { found, nearest }),
        Kind::Standby => word(kind, text, |found, nearest| ValueMistake::Standby { found, nearest }),
        Kind::Require => word(kind, text, |found, nearest| ValueMistake::Require { found, nearest }),
        Kind::Zone => match text.parse::<u16>() {
            Ok(zone) if zone > 0 => Ok(zone.to_string()),
            _ => Err(ValueMistake::Zone { found }),
        },
        Kind::Mark => match parse_mark(text) {
            Some(_) => Ok(found),
            None => Err(ValueMistake::Mark { found }),
        },
        Kind::Listen => {
            let good = is_path(text) || text.parse::<SocketAddr>().is_ok_and(|at| at.port() > 0);
            if good { Ok(found) } else { Err(ValueMistake::Listen { found }) }
        }
    }
}

/// Absolute; a line break would end a `set` line, and a 0 the kernel's path.
fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.contains(char::is_control)
}

fn word(
    kind: Kind,
    text: &str,
    wrong: impl FnOnce(String, Nearest) -> ValueMistake,
) -> Result<String, ValueMistake> {
    let lower = text.to_lowercase();
    if kind.words().contains(&lower.as_str()) {
        return Ok(lower);
    }
    Err(wrong(text.to_owned(), nearest(text, kind.words().iter().copied())))
}

fn prefix(text: &str) -> Result<String, ValueMistake> {
    let found = text.to_owned();
    let Some((address, length)) = text.split_once('/') else {
        return match text.parse::<IpAddr>() {
            Ok(address) => Ok(address.to_string()),
            Err(_) => Err(ValueMistake::NotAPrefix { found }),
        };
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(ValueMistake::NotAPrefix { found });
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.parse::<u8>().ok().filter(|length| *length <= most);
    let Some(net) = length.and_then(|length| IpNet::new(address, length).ok()) else {
        let found = text.split_once('/').map_or(found.clone(), |(_, length)| length.to_owned());
        return Err(ValueMistake::PrefixLength { found, most });
    };
    if net.trunc() != net {
        return Err(ValueMistake::HostBits { found, expected: net.trunc().to_string() });
    }
    Ok(net.to_string())
}
