//! Tells a story as it happens: text for people, one JSON object at the end for machines.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

/// Lines of a command's output that are shown before it is cut.
const SHOWN: usize = 14;

/// A line to standard output; a reader that went away (`| head`) is no error.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// The voice of a story.
pub(crate) struct Narrator {
    json: bool,
    quiet: bool,
    color: bool,
    facts: Map<String, Value>,
}

impl Narrator {
    /// Text, or only JSON; `quiet` says nothing but keeps the facts.
    pub(crate) fn new(json: bool, quiet: bool) -> Narrator {
        Narrator { json, quiet, color: std::io::stdout().is_terminal(), facts: Map::new() }
    }

    /// Nothing is told but the facts.
    fn silent(&self) -> bool {
        self.json || self.quiet
    }

    fn line(&self, code: &str, text: &str) {
        if self.silent() {
            return;
        }
        let mut out = std::io::stdout().lock();
        // A reader that went away (`| head`) is no error.
        let _ = if self.color { writeln!(out, "\x1b[{code}m{text}\x1b[0m") } else { writeln!(out, "{text}") };
    }

    /// A new part of the story.
    pub(crate) fn chapter(&self, text: &str) {
        self.line("1;36", &format!("\n== {text}"));
    }

    /// A sentence.
    pub(crate) fn say(&self, text: &str) {
        self.line("0", &format!("   {text}"));
    }

    /// How far a long run is, on a terminal.
    pub(crate) fn progress(&self, done: u64, of: u64, remark: &str) {
        if self.silent() || !self.color {
            return;
        }
        let width = 30 * done.min(of) / of.max(1);
        let bar: String = (0..30).map(|at| if at < width { '#' } else { '.' }).collect();
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "\r   [{bar}] {done} of {of}, {remark}\x1b[K");
        let _ = if done < of { out.flush() } else { writeln!(out) };
    }

    /// A good or bad result.
    pub(crate) fn verdict(&self, good: bool, text: &str) {
        let (code, word) = if good { ("1;32", "ok") } else { ("1;31", "FAILED") };
        self.line(code, &format!("   {word}: {text}"));
    }

    /// A command that was typed somewhere, and what it printed: all of it, or its beginning.
    pub(crate) fn printed(&self, at: &str, command: &str, out: &str) {
        self.typed(at, command);
        let lines: Vec<&str> = out.lines().collect();
        for line in lines.iter().take(SHOWN.max(if lines.len() <= 2 * SHOWN { lines.len() } else { 0 })) {
            self.line("0", line);
        }
        if lines.len() > 2 * SHOWN {
            self.line("2", &format!("... {} more lines", lines.len() - SHOWN));
        }
    }

    /// A command whose output is nobody's business.
    pub(crate) fn typed(&self, at: &str, text: &str) {
        self.line("1", &format!("{at}$ {text}"));
    }

    /// Keep a fact for the JSON form.
    pub(crate) fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// A fact that was kept.
    pub(crate) fn told(&self, name: &str) -> Option<&Value> {
        self.facts.get(name)
    }

    /// The end: JSON, if that is what was asked for.
    pub(crate) fn end(&self) -> Result<()> {
        if self.json {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{}", serde_json::to_string_pretty(&self.facts)?);
        }
        Ok(())
    }
}

/// How far a long measurement is.
pub(crate) fn progress(jobs: usize) -> Result<ProgressBar> {
    let bar = ProgressBar::new(jobs as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}, {eta} left")?);
    Ok(bar)
}
