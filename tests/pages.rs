//! `docs/conntrackd.md` names a test for nearly every row: each of them is there, under the name that the
//! page says.
//!
//! What a test shows is for readers to judge; that it exists is judged here.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::{Path, PathBuf};

/// Rows of the page.
const ITEMS: u32 = 41;
/// Letters that a sentence with placeholders needs at least, or it would match anything.
const LETTERS: usize = 4;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(root().join(path)).map_err(|_| format!("there is no {path}"))
}

/// All Rust files of a directory, one after the other.
fn sources(directory: &Path) -> String {
    let Ok(files) = std::fs::read_dir(directory) else { return String::new() };
    let paths = files.map(|file| file.unwrap().path());
    let rust = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether what the page names is there.
fn check(name: &str) -> Result<(), String> {
    if let Some(scenario) = name.strip_prefix("run ") {
        let (scenario, line) = scenario.split_once(": ").ok_or("names no check of the scenario")?;
        return check_scenario(scenario, line);
    }
    if let Some(fault) = name.strip_prefix("demo --fault ") {
        let known = read("lab/src/scenario/demo/mod.rs")?.contains(&format!("=> \"{fault}\","));
        return known.then_some(()).ok_or_else(|| "the demo knows no such fault".into());
    }
    if let Some(invariant) = name.strip_prefix("simulation: ") {
        let all = sources(&root().join("tests/simulation"));
        let known = all.contains(&format!("\"{invariant}: "));
        return known.then_some(()).ok_or_else(|| "the simulation checks nothing of this name".into());
    }
    if name.starts_with("tests/faults/") && name.ends_with(".patch") {
        let good = read(name)?.starts_with("test: ");
        return good.then_some(()).ok_or_else(|| "the patch names no test".into());
    }
    match name.split_once(": ") {
        Some((file, function)) if file.ends_with(".rs") => check_function(file, function),
        _ => Err("is nothing that can be looked for".into()),
    }
}

/// A test function of this name, `#[test]` close above it.
fn check_function(file: &str, function: &str) -> Result<(), String> {
    let text = read(file)?;
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let named = format!("fn {function}(");
    let at = lines.iter().position(|line| line.strip_prefix("async ").unwrap_or(line).starts_with(&named));
    let at = at.ok_or_else(|| format!("{file} has no such function"))?;
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
    let is_test = above.into_iter().any(|line| line.ends_with("test]"));
    is_test.then_some(()).ok_or_else(|| "the function is no test".into())
}

/// A string of the scenario's source, placeholders filled in or not.
fn check_scenario(scenario: &str, line: &str) -> Result<(), String> {
    let path = root().join("lab/src/scenario");
    let text = match std::fs::read_to_string(path.join(format!("{scenario}.rs"))) {
        Ok(text) => text,
        Err(_) => sources(&path.join(scenario)),
    };
    if text.is_empty() {
        return Err("there is no such scenario".into());
    }
    let listed = read("lab/src/scenario/mod.rs")?.contains(&format!("{scenario}::run(stage, narrator)"));
    let found = literals(&text).iter().any(|literal| matches(literal, line));
    (listed && found).then_some(()).ok_or_else(|| "the scenario has no such check".into())
}

/// The string literals of a source, comments left out.
fn literals(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n").replace("'\"'", "");
    let (mut all, mut open) = (Vec::new(), None);
    let mut letters = code.chars();
    while let Some(letter) = letters.next() {
        match (letter, open.take()) {
            ('"', None) => open = Some(String::new()),
            ('"', Some(literal)) => all.push(literal),
            ('\\', Some(literal)) => {
                letters.next();
                open = Some(literal);
            }
            (letter, Some(literal)) => open = Some(literal + &letter.to_string()),
            (_, None) => {}
        }
    }
    all
}

/// Whether a literal is this line, with anything in the place of `{...}`.
fn matches(literal: &str, line: &str) -> bool {
    let parts: Vec<&str> = literal
        .split('{')
        .flat_map(|part| part.split_once('}').map_or(vec![part], |(_, rest)| vec![rest]))
        .collect();
    let letters = parts.iter().flat_map(|part| part.chars()).filter(|letter| letter.is_alphabetic()).count();
    if parts.len() == 1 || letters < LETTERS {
        return literal == line;
    }
    let Some(mut rest) = line.strip_prefix(parts[0]) else { return false };
    for part in &parts[1..parts.len() - 1] {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(parts[parts.len() - 1])
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let page = read("docs/conntrackd.md").unwrap();
    let (mut numbers, mut wrong, mut named) = (Vec::new(), Vec::new(), 0);
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "a row has four cells: {line}");
        let Ok(number) = cells[0].parse::<u32>() else { continue };
        numbers.push(number);
        let tests = quoted(cells[3]);
        let excused =
            ["No test", "no test", "does not apply: "].iter().any(|word| cells[3].starts_with(word));
        if cells[1].len() < 10 || cells[2].len() < 10 || tests.is_empty() && !excused {
            wrong.push(format!("{number}: a cell says nothing"));
        }
        named += tests.len();
        for name in tests {
            if let Err(why) = check(name) {
                wrong.push(format!("{number}: `{name}`: {why}"));
            }
        }
    }
    println!("{} rows, {named} names", numbers.len());
    assert!(wrong.is_empty(), "{} wrong names:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(numbers, (1..=ITEMS).collect::<Vec<_>>(), "each number once, in order");
}

/// What is not there is noticed: each way to name a test, and a name that is nearly right.
#[test]
fn a_wrong_name_is_noticed() {
    for (right, wrong) in [
        ("tests/door.rs: with_a_key_nothing_enters", "tests/door.rs: with_a_key_nothing_leaves"),
        ("tests/door.rs: with_a_key_nothing_enters", "tests/doors.rs: with_a_key_nothing_enters"),
        ("src/engine/stream.rs: order_is_restored", "src/engine/stream.rs: place"),
        ("simulation: I1a", "simulation: I99"),
        ("demo --fault power", "demo --fault flood"),
        ("tests/faults/no-be-liberal.patch", "tests/faults/no-be-strict.patch"),
        ("run repair: cut", "run repair: uncut"),
        ("run repair: 30 % loss", "run repair: 30 % gain"),
        ("run repair: kill -9 on router1", "run repair: kill -9 on switch1"),
        ("run programs: UDP-Lite", "run programs: UDP-Heavy"),
        ("run attack: nothing enters", "run attacks: nothing enters"),
        ("run attack: nothing enters", "run attack"),
        ("run attack: nothing enters", "nothing enters"),
    ] {
        assert_eq!(check(right), Ok(()), "{right}");
        assert!(check(wrong).is_err(), "{wrong}");
    }
}
