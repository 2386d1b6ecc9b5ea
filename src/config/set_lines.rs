//! `set service conntrack-sync ...` lines into a tree of values with their places: the forms of VyOS 1.2 and
//! of 1.3 and later, and the short forms of the 1.2 documentation.
//!
//! Walks the option tables to know which words are names and which are values. Lines of other services are
//! counted and left alone.

use std::collections::BTreeMap;

use super::mistake::{LineMistake, Mistake, Place, ValueMistake, nearest};
use super::options::{Kind, OPTIONS, Opt, Shape};
use super::tree::{Field, Node, Value};

/// What a file of `set` lines says.
#[derive(Default)]
pub(super) struct SetLines {
    pub fields: Vec<Field>,
    /// Lines of other services: how many, by their first words.
    pub elsewhere: BTreeMap<String, usize>,
    /// Place, words, mistake.
    pub errors: Vec<(Place, String, Mistake)>,
    /// Old forms that were understood.
    pub remarks: Vec<String>,
}

#[derive(Clone, Debug)]
struct Word {
    text: String,
    place: Place,
}

/// Read all lines.
pub(super) fn read(text: &str) -> SetLines {
    let mut found = SetLines::default();
    for (number, line) in text.lines().enumerate() {
        match split(line, number + 1) {
            Ok(words) if words.is_empty() => {}
            Ok(words) => found.take_line(&words),
            Err((place, mistake)) => found.errors.push((place, String::new(), mistake.into())),
        }
    }
    found
}

/// Words, quotes taken off; a `#` outside of quotes begins a comment.
fn split(line: &str, number: usize) -> Result<Vec<Word>, (Place, LineMistake)> {
    let mut words: Vec<Word> = Vec::new();
    let mut quote: Option<(char, Place)> = None;
    let mut inside = false;
    for (at, letter) in line.chars().enumerate() {
        let place = Place { line: number, column: at + 1 };
        match (quote, letter) {
            (Some((mark, _)), letter) if letter == mark => quote = None,
            (None, '#') if !inside => break,
            (None, letter) if letter.is_whitespace() => {
                inside = false;
                continue;
            }
            (quoted, letter) => {
                if !inside {
                    words.push(Word { text: String::new(), place });
                }
                if quoted.is_none() && matches!(letter, '\'' | '"') {
                    quote = Some((letter, place));
                } else if let Some(word) = words.last_mut() {
                    word.text.push(letter);
                }
                inside = true;
            }
        }
    }
    match quote {
        Some((mark, place)) => Err((place, LineMistake::Quote { mark })),
        None => Ok(words),
    }
}

impl SetLines {
    fn take_line(&mut self, words: &[Word]) {
        let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        let Some(first) = words.first() else { return };
        match texts.as_slice() {
            ["set", "service", "conntrack-sync", ..] => {
                let rest = words.get(3..).unwrap_or_default();
                let end = words.last().map_or(first.place, end_of);
                if let Err((place, option, mistake)) = self.take_option(rest, end) {
                    self.errors.push((place, option, mistake));
                }
            }
            ["set", rest @ ..] if misspelt(rest) => {
                let found = rest.iter().take(2).copied().collect::<Vec<_>>().join(" ");
                let place = words.get(1).map_or(first.place, |word| word.place);
                self.errors.push((place, String::new(), LineMistake::MisspeltService { found }.into()));
            }
            ["set", rest @ ..] => {
                let name = match rest {
                    ["service", name, ..] => format!("service {name}"),
                    [name, ..] => (*name).to_owned(),
                    [] => "set".to_owned(),
                };
                *self.elsewhere.entry(name).or_default() += 1;
            }
            ["delete", ..] => self.errors.push((first.place, String::new(), LineMistake::DeleteLine.into())),
            _ => {
                let found = first.text.clone();
                let mistake = LineMistake::NotASetLine { nearest: nearest(&found, ["set"]), found };
                self.errors.push((first.place, String::new(), mistake.into()));
            }
        }
    }

    fn take_option(&mut self, words: &[Word], end: Place) -> Result<(), (Place, String, Mistake)> {
        let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        match texts.as_slice() {
            // The short forms of the 1.2 documentation.
            ["cluster", "group", ..] | ["vrrp", "sync-group", ..] => {
                let mechanism =
                    Word { text: "failover-mechanism".into(), ..words.first().cloned().unwrap_or(nowhere()) };
                let all: Vec<Word> = std::iter::once(mechanism).chain(words.iter().cloned()).collect();
                self.remark("the mechanism is written `failover-mechanism vrrp|cluster ...` in full; the short form is taken");
                return insert(&mut self.fields, OPTIONS, &all, end, "");
            }
            ["ignore-address", "ipv4", ..] => {
                let all: Vec<Word> = words.iter().take(1).chain(words.iter().skip(2)).cloned().collect();
                self.remark(
                    "`ignore-address ipv4` is the form of VyOS 1.2; 1.3 and later write `ignore-address`",
                );
                return insert(&mut self.fields, OPTIONS, &all, end, "");
            }
            ["accept-protocol", list, ..] if list.contains(',') => {
                self.remark("a comma list in `accept-protocol` is the form of VyOS 1.2; 1.3 and later write a line each");
            }
            _ => {}
        }
        insert(&mut self.fields, OPTIONS, words, end, "")
    }

    fn remark(&mut self, text: &str) {
        if !self.remarks.iter().any(|known| known == text) {
            self.remarks.push(text.to_owned());
        }
    }
}

/// Words after `set` that mean us and do not say so: one letter or two are wrong, or `service` is left out.
fn misspelt(words: &[&str]) -> bool {
    let near = |word: &str, right: &str| strsim::damerau_levenshtein(&word.to_lowercase(), right) <= 2;
    match words {
        [service, name, ..] if near(service, "service") => near(name, "conntrack-sync"),
        [name, ..] => near(name, "conntrack-sync"),
        [] => false,
    }
}

fn nowhere() -> Word {
    Word { text: String::new(), place: Place { line: 1, column: 1 } }
}

fn end_of(word: &Word) -> Place {
    Place { column: word.place.column + word.text.chars().count(), ..word.place }
}

/// One line's words below the options of a table.
fn insert(
    fields: &mut Vec<Field>,
    options: &'static [Opt],
    words: &[Word],
    end: Place,
    above: &str,
) -> Result<(), (Place, String, Mistake)> {
    let Some((name, rest)) = words.split_first() else {
        let expected = options.iter().map(|option| option.name).collect::<Vec<_>>().join(", ");
        return Err((
            end,
            above.to_owned(),
            LineMistake::MissingValue { expected: format!("one of {expected}") }.into(),
        ));
    };
    let Some(option) = options.iter().find(|option| option.name == name.text) else {
        let nearest = nearest(&name.text, options.iter().map(|option| option.name));
        let mistake = ValueMistake::UnknownOption { found: name.text.clone(), nearest };
        return Err((name.place, above.to_owned(), mistake.into()));
    };
    let path = if above.is_empty() { option.name.to_owned() } else { format!("{above} {}", option.name) };
    let missing = |expected: &str| {
        (end, path.clone(), LineMistake::MissingValue { expected: expected.to_owned() }.into())
    };
    match option.shape {
        Shape::Flag => {
            if let Some(word) = rest.first() {
                let found = word.text.clone();
                return Err((word.place, path, LineMistake::FlagWithValue { found }.into()));
            }
            field(fields, option.name, name.place, || Value::Bool(true));
        }
        Shape::Table(inner) => {
            let Some(below) = table(fields, option.name, name.place) else { return Ok(()) };
            return insert(below, inner, rest, end, &path);
        }
        Shape::Tagged(kind, inner) => {
            let Some((tag, rest)) = rest.split_first() else { return Err(missing(kind.expected())) };
            let tags = table(fields, option.name, name.place);
            let below = tags.and_then(|tags| table(tags, &tag.text, tag.place));
            let Some(below) = below.filter(|_| !rest.is_empty()) else { return Ok(()) };
            return insert(below, inner, rest, end, &format!("{path} {}", tag.text));
        }
        Shape::List(kind) | Shape::Several(kind) => {
            let Some((word, rest)) = rest.split_first() else { return Err(missing(kind.expected())) };
            nothing_more(rest, &path)?;
            let node = field(fields, option.name, name.place, || Value::List(Vec::new()));
            let Some(Node { value: Value::List(list), .. }) = node else { return Ok(()) };
            let nodes = parts(kind, &word.text);
            list.extend(nodes.into_iter().map(|part| Node { place: word.place, value: Value::Text(part) }));
        }
        Shape::Count { from, to, .. } => {
            let expected = format!("a number from {from} to {to}");
            let Some((word, rest)) = rest.split_first() else { return Err(missing(&expected)) };
            nothing_more(rest, &path)?;
            set_once(fields, option.name, name.place, word, Value::Number(word.text.clone()), path)?;
        }
        Shape::Text(kind) => {
            let Some((word, rest)) = rest.split_first() else { return Err(missing(kind.expected())) };
            nothing_more(rest, &path)?;
            set_once(fields, option.name, name.place, word, Value::Text(word.text.clone()), path)?;
        }
    }
    Ok(())
}

/// A comma list where VyOS 1.2 wrote one.
fn parts(kind: Kind, text: &str) -> Vec<String> {
    if kind == Kind::Protocol {
        text.split(',').map(|part| part.trim().to_owned()).collect()
    } else {
        vec![text.to_owned()]
    }
}

fn nothing_more(rest: &[Word], path: &str) -> Result<(), (Place, String, Mistake)> {
    match rest.first() {
        Some(word) => {
            Err((word.place, path.to_owned(), LineMistake::ExtraWords { found: word.text.clone() }.into()))
        }
        None => Ok(()),
    }
}

/// The field of this name, made if it is new.
fn field<'a>(
    fields: &'a mut Vec<Field>,
    name: &str,
    place: Place,
    new: impl FnOnce() -> Value,
) -> Option<&'a mut Node> {
    let at = fields.iter().position(|field| field.name == name).unwrap_or_else(|| {
        fields.push(Field { name: name.to_owned(), place, node: Node { place, value: new() } });
        fields.len() - 1
    });
    fields.get_mut(at).map(|field| &mut field.node)
}

/// The options below a name, made if they are new.
fn table<'a>(fields: &'a mut Vec<Field>, name: &str, place: Place) -> Option<&'a mut Vec<Field>> {
    match &mut field(fields, name, place, || Value::Table(Vec::new()))?.value {
        Value::Table(below) => Some(below),
        _ => None,
    }
}

fn set_once(
    fields: &mut Vec<Field>,
    name: &str,
    place: Place,
    word: &Word,
    value: Value,
    path: String,
) -> Result<(), (Place, String, Mistake)> {
    let known = fields.iter().find(|field| field.name == name);
    match known.map(|field| &field.node) {
        None => {
            let node = Node { place: word.place, value };
            fields.push(Field { name: name.to_owned(), place, node });
            Ok(())
        }
        Some(Node { value: Value::Text(first) | Value::Number(first), .. }) if *first == word.text => Ok(()),
        Some(Node { value: Value::Text(first) | Value::Number(first), place: before }) => {
            let mistake =
                LineMistake::SetTwice { found: word.text.clone(), first: first.clone(), line: before.line };
            Err((word.place, path, mistake.into()))
        }
        Some(_) => Ok(()),
    }
}

/// "12 lines of other services: interfaces, nat", or nothing.
pub(super) fn tell_elsewhere(elsewhere: &BTreeMap<String, usize>) -> Option<String> {
    let lines: usize = elsewhere.values().sum();
    let names = elsewhere.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    match lines {
        0 => None,
        1 => Some(format!("1 line of another service is not ours and skipped: {names}")),
        lines => Some(format!("{lines} lines of other services are not ours and skipped: {names}")),
    }
}
