//! The Nix files, checked where neither a Nix cache nor nixpkgs can be reached: what evaluates them, what
//! they came to (`tests/nix-offline/golden/`), and the VM tests' own scripts on systemd containers.
//!
//! Called by `cargo lab test`, `soak nix` and the planted faults. Where `CTSYNC_NIXPKGS_LIB` names the `lib`
//! folder of a nixpkgs checkout everything is evaluated afresh; without it the golden files stand in, and the
//! rest is ignored, which is said.
//!
//! - `tools`: Nix, nixfmt and deadnix, side-loaded where the machine has none.
//! - `golden`: the golden files, and how they are run.
//! - `evaluated`: everything that needs nixpkgs' `lib`.

mod evaluated;
mod golden;
mod tools;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::machine::setup;
use crate::machine::wait::now;
use crate::story::outcome::Outcome;
use tools::Tools;

/// Names the folder `lib` of a nixpkgs checkout.
const LIB: &str = "CTSYNC_NIXPKGS_LIB";
/// As for the snapshots of `cargo test`: golden files and the table of options are written instead of
/// compared.
const UPDATE: &str = "INSTA_UPDATE";
/// Lines of a failed program's end that are shown.
const TAIL: usize = 12;

/// One checkout's Nix files.
pub(crate) struct Nix {
    root: PathBuf,
    /// Everything that is made on the way.
    work: tempfile::TempDir,
    tools: OnceCell<Tools>,
    lib: Option<PathBuf>,
    stub: OnceCell<PathBuf>,
}

/// A remark, when all is well.
type Test = Box<dyn Fn(&Nix) -> Result<String>>;

/// One test.
pub(crate) struct Case {
    /// Begins with `nix`.
    pub name: String,
    needs_lib: bool,
    needs_root: bool,
    test: Test,
}

impl Case {
    fn new(name: &str, test: impl Fn(&Nix) -> Result<String> + 'static) -> Case {
        Case { name: format!("nix {name}"), needs_lib: false, needs_root: false, test: Box::new(test) }
    }

    fn with_lib(self) -> Case {
        Case { needs_lib: true, ..self }
    }

    fn by_root(self) -> Case {
        Case { needs_root: true, ..self }
    }

    /// What it came to, or why it was not run.
    pub(crate) fn run(&self, nix: &Nix) -> Result<Outcome> {
        if self.needs_root && !nix::unistd::geteuid().is_root() {
            return Ok(Outcome::Ignored("it needs root".into()));
        }
        if self.needs_lib && nix.lib.is_none() {
            return Ok(Outcome::Ignored(format!("{LIB} names no checkout of nixpkgs' lib")));
        }
        let began = now();
        let remark = (self.test)(nix)?;
        Ok(Outcome::Passed(format!("{remark}, {:.0} s", began.elapsed().as_secs_f64())))
    }
}

/// All of them, in their order.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = vec![
        Case::new("syntax, format and dead code", Nix::read_all).by_root(),
        Case::new("golden files are of these sources", golden::are_current),
        Case::new("golden configuration", golden::check_configuration),
        Case::new("golden unit, statically", golden::analyze_unit),
        Case::new("golden unit under its hardening", golden::run_unit).by_root(),
        Case::new("golden failover", golden::fail_over).by_root(),
        Case::new("flake", evaluated::flake).with_lib().by_root(),
        Case::new("golden files are fresh", evaluated::golden_is_fresh).with_lib().by_root(),
        Case::new("module", evaluated::module).with_lib().by_root(),
        Case::new("example of docs/nixos.md", evaluated::example).with_lib().by_root(),
        Case::new("mistakes", evaluated::mistakes).with_lib().by_root(),
        Case::new("options of docs/nixos.md", evaluated::documentation).with_lib().by_root(),
    ];
    for test in evaluated::VM_TESTS {
        all.push(
            Case::new(&format!("VM test {test}"), move |nix| evaluated::vm_test(nix, test))
                .with_lib()
                .by_root(),
        );
    }
    all
}

/// `soak nix`: scripts of VM tests, many times; without nixpkgs' lib the golden one.
pub(crate) fn soak(root: &Path, runs: u32, names: &[String]) -> Result<ExitCode> {
    let nix = Nix::open(root)?;
    let scripts: Vec<Case> = cases()
        .into_iter()
        .filter(|case| case.name.starts_with("nix VM test") || case.name == "nix golden failover")
        .filter(|case| names.is_empty() || names.iter().any(|part| case.name.contains(part.as_str())))
        .collect();
    ensure!(!scripts.is_empty(), "no VM test has a name with {}", names.join(" or "));
    let mut bad = 0;
    for case in &scripts {
        for number in 1..=runs {
            let told = match case.run(&nix) {
                Ok(Outcome::Passed(remark)) => remark,
                Ok(Outcome::Ignored(reason)) => bail!("{}: {reason}", case.name),
                Err(error) => {
                    bad += 1;
                    format!("FAILED: {error:#}")
                }
            };
            println!("{} {number:>2} of {runs}: {told}", case.name);
        }
    }
    println!("{} runs, {bad} failed", runs as usize * scripts.len());
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a test of this name says of another checkout: for planted faults.
pub(crate) fn judge(root: &Path, name: &str) -> Result<Outcome> {
    let nix = Nix::open(root)?;
    let case = cases().into_iter().find(|case| case.name == format!("nix {name}"));
    case.with_context(|| format!("there is no test called nix {name}"))?.run(&nix)
}

impl Nix {
    /// Nothing is made or installed yet.
    pub(crate) fn open(root: &Path) -> Result<Nix> {
        let lib = std::env::var_os(LIB).map(PathBuf::from);
        if let Some(lib) = &lib {
            ensure!(
                lib.join("default.nix").is_file() && lib.join("modules.nix").is_file(),
                "{LIB} is {}, which is not the folder lib of a nixpkgs checkout",
                lib.display()
            );
        }
        let work = tempfile::Builder::new().prefix("ctsync-nix-").tempdir()?;
        Ok(Nix { root: root.to_owned(), work, tools: OnceCell::new(), lib, stub: OnceCell::new() })
    }

    fn tools(&self) -> Result<&Tools> {
        if let Some(tools) = self.tools.get() {
            return Ok(tools);
        }
        let tools = Tools::get(&self.root)?;
        Ok(self.tools.get_or_init(|| tools))
    }

    fn offline(&self) -> PathBuf {
        self.root.join("tests/nix-offline")
    }

    fn updates() -> bool {
        std::env::var_os(UPDATE).is_some_and(|word| word == "always")
    }

    /// Syntax, format, and names that nothing uses, of every file.
    fn read_all(&self) -> Result<String> {
        let files = said(Command::new("git").args(["ls-files", "*.nix"]).current_dir(&self.root))?;
        let files: Vec<&str> = files.lines().collect();
        ensure!(files.len() > 10, "git lists {} Nix files", files.len());
        let tools = self.tools()?;
        for (program, arguments) in [
            ("nix-instantiate", &["--parse"][..]),
            ("nixfmt", &["--check"]),
            ("deadnix", &["--fail", "--no-lambda-pattern-names"]),
        ] {
            said(tools.command(program).args(arguments).args(&files).current_dir(&self.root))?;
        }
        Ok(format!("{} files", files.len()))
    }

    /// A test directory on systemd containers; its script, or another one. What it printed.
    fn drive(&self, test: &Path, script: Option<&Path>, work: &str) -> Result<String> {
        let programs = setup::ctsync_binary(None)?;
        let programs = programs.parent().context("a program without a directory")?;
        let kept = self.work.path().join(work);
        let mut driver = Command::new(self.offline().join("test-driver.py"));
        driver.arg(test).arg(&kept).arg(programs).args(script);
        let output = driver.output().context("cannot start tests/nix-offline/test-driver.py")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            // The journals must outlive this process.
            let saved = std::env::temp_dir().join(format!("ctsync-nix-failed-{}-{work}", std::process::id()));
            let _ = said(Command::new("cp").arg("-a").arg(&kept).arg(&saved));
            let _ = std::fs::write(saved.join("log"), &output.stdout);
            let failure =
                text.lines().find(|line| line.contains("FAILED:")).unwrap_or("it ended early").trim();
            bail!("{failure}; {} what the machines say: {}", tail(&output.stderr), saved.display());
        }
        Ok(text)
    }
}

/// The last line in which a script said how many connections live.
fn lives(told: &str) -> &str {
    told.lines().rfind(|line| line.contains("connections alive")).unwrap_or("no connection was watched")
}

/// Standard output of a program that must end well.
fn said(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    ensure!(output.status.success(), "{name}: {}{}", tail(&output.stdout), tail(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(TAIL)).map(|line| format!("{line}\n")).collect()
}
