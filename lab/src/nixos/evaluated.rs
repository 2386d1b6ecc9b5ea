//! What needs nixpkgs' `lib`: the flake, the module and its mistakes, the table of options, the VM tests'
//! scripts.
//!
//! nixpkgs itself is stood in for by `tests/nix-offline/stub-nixpkgs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Nix, golden, lives, said, tail};
use crate::machine::setup;

/// The attributes of `tests/nixos/default.nix`.
pub(super) const VM_TESTS: [&str; 4] = ["failover", "vrrp-preempt", "restart", "key"];
const EVALUATE: [&str; 2] = ["eval", "--json"];
/// Between these the table of options stands.
const MARKS: [&str; 2] = ["<!-- options -->\n", "<!-- end of options -->\n"];

impl Nix {
    /// The stub with nixpkgs' own `lib` in it.
    fn nixpkgs(&self) -> Result<&Path> {
        if let Some(made) = self.stub.get() {
            return Ok(made);
        }
        let lib = self.lib.as_ref().context("no lib")?;
        let stub = self.work.path().join("nixpkgs");
        said(Command::new("cp").arg("-r").arg(self.offline().join("stub-nixpkgs")).arg(&stub))?;
        said(Command::new("cp").arg("-r").arg(lib).arg(stub.join("lib")))?;
        Ok(self.stub.get_or_init(|| stub))
    }

    /// Tracked files alone, as a flake in git sees them.
    fn source(&self) -> Result<PathBuf> {
        let copy = self.work.path().join("source");
        if !copy.exists() {
            std::fs::create_dir_all(&copy)?;
            let files =
                if self.root.join(".git").exists() { "git ls-files -z" } else { "find . -type f -print0" };
            let shell = format!("{files} | xargs -0 cp --parents -t {}", copy.display());
            said(Command::new("sh").args(["-c", &shell]).current_dir(&self.root))?;
        }
        Ok(copy)
    }

    /// `nix`, which finds the programs that cargo built.
    fn nix(&self) -> Result<Command> {
        let mut command = self.tools()?.command("nix");
        let ctsync = setup::ctsync_binary(None)?;
        command.env("HOST_BIN_DIR", ctsync.parent().context("a program without a directory")?);
        Ok(command)
    }

    fn flake(&self, verb: &[&str], attribute: &str) -> Result<Command> {
        let mut command = self.nix()?;
        let flake = format!("path:{}{attribute}", self.source()?.display());
        let nixpkgs = format!("path:{}", self.nixpkgs()?.display());
        command.args(verb).arg(flake).args(["--override-input", "nixpkgs", &nixpkgs, "--no-write-lock-file"]);
        Ok(command)
    }

    /// `nix eval` or `nix build` of an expression in which `on MACHINE` is the module on a machine,
    /// `machines` those of `machines.nix`, and `golden` what `golden.nix` makes.
    fn expression(&self, verb: &[&str], expression: &str) -> Result<Command> {
        let (nixpkgs, offline) = (self.nixpkgs()?.display(), self.offline());
        let offline = offline.display();
        let mut command = self.nix()?;
        command.args(verb).args(["--impure", "--expr"]).arg(format!(
            "let nixpkgs = {nixpkgs}; machines = import {offline}/machines.nix; golden = import {offline}/golden.nix; \
             on = machine: import {offline}/evaluate.nix {{ inherit nixpkgs machine; }}; in {expression}"
        ));
        Ok(command)
    }

    fn evaluate(&self, expression: &str) -> Result<Value> {
        Ok(serde_json::from_str(&said(&mut self.expression(&EVALUATE, expression)?)?)?)
    }

    /// A machine's file for the daemon, which checks it.
    fn build_file(&self, machine: &str) -> Result<Command> {
        self.expression(&["build", "--no-link", "--print-build-logs"], &format!("(on {machine}).file"))
    }
}

/// Every output evaluates, for both architectures; nothing is built.
pub(super) fn flake(nix: &Nix) -> Result<String> {
    let output = nix.flake(&["flake", "check", "--no-build", "--all-systems"], "")?.output()?;
    ensure!(output.status.success(), "nix flake check: {}", tail(&output.stderr));
    let evaluated = String::from_utf8_lossy(&output.stderr).matches("derivation evaluated").count();
    ensure!(evaluated > 10, "only {evaluated} derivations were evaluated");
    said(&mut nix.flake(&["flake", "show", "--all-systems"], "")?)?;
    Ok(format!("{evaluated} derivations evaluated"))
}

/// What is committed is what the module makes.
pub(super) fn golden_is_fresh(nix: &Nix) -> Result<String> {
    let evaluated = nix.evaluate("golden { inherit nixpkgs; }")?;
    let files = golden::files(&evaluated)?;
    golden::compare(nix, &files, Nix::updates())?;
    Ok(format!("{} files", files.len()))
}

/// Statements about machines that are as they should be, each true.
pub(super) fn module(nix: &Nix) -> Result<String> {
    let names = nix.evaluate("builtins.attrNames machines.good")?;
    let mut shown = 0;
    for name in names.as_array().context("no machines")?.iter().filter_map(Value::as_str) {
        let judged = nix.evaluate(&format!(
            "let it = machines.good.{name}; e = on it.machine; in {{ inherit (e) failed; shows = it.shows e; }}"
        ))?;
        ensure!(judged["failed"] == Value::Array(vec![]), "{name}: {}", judged["failed"]);
        for (statement, value) in judged["shows"].as_object().context("no statements")? {
            ensure!(value == true, "{name}: {statement} is not so: {value}");
            shown += 1;
        }
        said(&mut nix.build_file(&format!("machines.good.{name}.machine"))?)
            .with_context(|| format!("{name}: the daemon refuses its file"))?;
    }
    Ok(format!("{shown} statements"))
}

/// The example of docs/nixos.md, as it is printed there, is a router that lacks nothing.
pub(super) fn example(nix: &Nix) -> Result<String> {
    let page = std::fs::read_to_string(nix.root.join("docs/nixos.md")).context("docs/nixos.md")?;
    let begin = page.find("{\n  name,\n  own,").context("docs/nixos.md has no router.nix")?;
    let text = page.get(begin..).unwrap_or_default().split("```").next().unwrap_or_default();
    let file = nix.work.path().join("router.nix");
    std::fs::write(&file, text)?;
    said(nix.tools()?.command("nixfmt").arg("--check").arg(&file))?;
    for (name, own, priority) in [("router1", 2, 150), ("router2", 3, 100)] {
        let machine = format!(
            "(import {} {{ name = \"{name}\"; own = {own}; priority = {priority}; }})",
            file.display()
        );
        let judged = nix.evaluate(&format!(
            "let e = on {machine}; in {{ inherit (e) failed warnings; open = e.firewall.eth2.allowedUDPPorts; }}"
        ))?;
        let good = serde_json::json!({ "failed": [], "warnings": [], "open": [3780] });
        ensure!(judged == good, "{name}: {judged}");
        said(&mut nix.build_file(&machine)?)?;
    }
    Ok("2 routers".into())
}

/// Each mistake of `machines.nix` is refused, or warned of, in words that help.
pub(super) fn mistakes(nix: &Nix) -> Result<String> {
    let expected = nix.evaluate("builtins.mapAttrs (_: it: it.told) machines.mistakes")?;
    let expected = expected.as_object().context("no mistakes")?;
    for (name, words) in expected {
        let words = words.as_str().context("no words")?;
        let machine = format!("machines.mistakes.{name}.machine");
        // In the order in which NixOS comes across them.
        let look = |attributes: &str| {
            nix.expression(&EVALUATE, &format!("let e = on {machine}; in {{ inherit (e) {attributes}; }}"))
        };
        let mut told = String::new();
        let judged = look("failed warnings")?.output()?;
        told += &String::from_utf8_lossy(&[judged.stdout, judged.stderr].concat());
        for mut command in [look("unit etc kernelModules")?, nix.build_file(&machine)?] {
            if !told.contains(words) {
                // What it prints of a machine that evaluates has the mistake itself in it.
                told += &String::from_utf8_lossy(&command.output()?.stderr);
            }
        }
        ensure!(told.contains(words), "{name}: `{words}` was not said, but: {told}");
    }
    Ok(format!("{} mistakes, each told", expected.len()))
}

/// The table in docs/nixos.md is the module's, and says something of every option.
pub(super) fn documentation(nix: &Nix) -> Result<String> {
    let options = nix.evaluate("(on { }).options")?;
    let options = options.as_array().context("no options")?;
    let mut table = String::from("| option | type | default | meaning |\n|---|---|---|---|\n");
    for option in options {
        let name = option["name"].as_str().unwrap_or_default();
        let Some(description) = option["description"].as_str() else { bail!("{name} has no description") };
        let cell = |text: &str| text.trim().replace('\n', " ").replace('|', "\\|");
        let default = option["default"].as_str().map_or(String::new(), |text| {
            let text = cell(text);
            // Markdown of its own, not an expression.
            if text.contains('{') && text.contains('`') { plain(&text) } else { format!("`{text}`") }
        });
        let kind = cell(option["type"].as_str().unwrap_or_default());
        table += &format!(
            "| `{}` | {kind} | {default} | {} |\n",
            name.strip_prefix("services.ctsync.").unwrap_or(name),
            plain(&cell(description)),
        );
    }
    let path = nix.root.join("docs/nixos.md");
    let page = std::fs::read_to_string(&path).context("docs/nixos.md")?;
    let [begin, end] = MARKS.map(|mark| page.find(mark));
    let (begin, end) = (begin.context("no mark")? + MARKS[0].len(), end.context("no end mark")?);
    let fresh =
        format!("{}{table}{}", page.get(..begin).unwrap_or_default(), page.get(end..).unwrap_or_default());
    if Nix::updates() {
        std::fs::write(&path, &fresh)?;
    } else {
        ensure!(page == fresh, "docs/nixos.md: the table of options is not the module's");
    }
    Ok(format!("{} options", options.len()))
}

/// Nixpkgs' roles (`{option}`, `{file}` ...) mean nothing to other readers of Markdown.
fn plain(text: &str) -> String {
    ["option", "file", "command", "manpage", "env", "var"]
        .iter()
        .fold(text.to_owned(), |text, role| text.replace(&format!("{{{role}}}`"), "`"))
}

/// A VM test's own script, on systemd containers and with the programs that cargo built.
pub(super) fn vm_test(nix: &Nix, test: &str) -> Result<String> {
    let link = nix.work.path().join(format!("test-{test}"));
    let mut build = nix.flake(&["build", "--impure"], &format!("#checks.{}.{test}", system()))?;
    said(build.arg("--out-link").arg(&link))?;
    let told = nix.drive(&link, None, test)?;
    Ok(lives(&told).to_owned())
}

/// This machine, as Nix names it.
fn system() -> String {
    format!("{}-linux", std::env::consts::ARCH)
}
