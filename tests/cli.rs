//! The binary as an operator and a packager run it, where no daemon is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::Path;
use std::process::{Command, Output};

fn ctsync(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ctsync")).args(arguments).env("NO_COLOR", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a command that must be done.
fn done(arguments: &[&str]) -> String {
    let output = ctsync(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Sentences on standard error, nothing else, and exit code 1.
fn refused(arguments: &[&str]) -> String {
    let output = ctsync(arguments);
    let told = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{arguments:?}: {told}");
    told
}

/// One sentence on standard error and exit code 1.
fn failed(arguments: &[&str]) -> String {
    let told = refused(arguments);
    assert_eq!(told.lines().count(), 1, "{told}");
    told
}

/// Every verb that can be typed, with the verbs above it.
fn verbs() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, above: &[String], all: &mut Vec<Vec<String>>) {
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
        {
            let mut path = above.to_vec();
            path.push(verb.get_name().to_owned());
            below(verb, &path, all);
            if !verb.has_subcommands() {
                all.push(path);
            }
        }
    }
    let mut all = Vec::new();
    below(&<ctsync::cli::Cli as clap::CommandFactory>::command(), &[], &mut all);
    all
}

#[test]
fn every_verb_explains_itself() {
    let all = verbs();
    assert!(all.len() > 15, "{all:?}");
    for verb in all {
        let words: Vec<&str> = verb.iter().map(String::as_str).chain(["--help"]).collect();
        let help = done(&words);
        assert!(help.contains("Usage: ctsync"), "{help}");
        let first = help.lines().next().unwrap();
        assert!(first.len() > 10 && !first.starts_with("Usage"), "{verb:?} has no description: {help}");
    }
    fn explained(command: &clap::Command) {
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let standard = ["help", "version"].contains(&argument.get_id().as_str());
            assert!(
                standard || argument.get_help().is_some(),
                "{} {}",
                command.get_name(),
                argument.get_id()
            );
        }
        command.get_subcommands().for_each(explained);
    }
    explained(&<ctsync::cli::Cli as clap::CommandFactory>::command());
}

#[test]
fn misuse_is_exit_code_2() {
    for arguments in
        [&["shw"][..], &["show", "conntrack", "table", "ipv5"], &["notify", "primary"], &["status", "--jsn"]]
    {
        let output = ctsync(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
}

#[test]
fn a_daemon_that_is_not_there_is_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let socket = socket.to_str().unwrap();
    for verb in [
        &["status"][..],
        &["show", "conntrack-sync", "statistics"],
        &["show", "conntrack-sync", "status"],
        &["show", "conntrack-sync", "cache", "internal"],
        &["show", "conntrack-sync", "cache", "external", "--wide"],
        &["reset", "conntrack-sync", "internal-cache"],
        &["reset", "conntrack-sync", "external-cache"],
        &["resync"],
        &["reload"],
        &["diff"],
        &["events"],
        &["wait-ready", "--timeout", "1"],
        &["notify", "backup", "SYNC"],
    ] {
        let all: Vec<&str> = verb.iter().copied().chain(["--control", socket]).collect();
        let told = failed(&all);
        assert!(told.contains("can't connect: is ctsync running? appropriate permissions?"), "{told}");
    }
}

#[test]
fn configurations_are_checked_converted_and_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let example = file("example.json", &done(&["config", "example"]));
    assert!(done(&["config", "check", &example]).ends_with(": good\n"));
    let lines = done(&["config", "convert", &example, "--to", "set"]);
    assert_eq!(lines, done(&["config", "example", "--to", "set"]));
    let set = file("example.set", &lines);
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(&done(&["config", "convert", &set])), value(&done(&["config", "convert", &example])));
    assert!(done(&["config", "keepalived", &set]).contains("sync_group_tracking_weight"));
    assert_eq!(value(&done(&["config", "schema"]))["required"][0], "interface");
    let broken = file(
        "broken.set",
        "set service conntrack-sync sync-queue-sise 8\nset service conntrack-sync startup-resync\n",
    );
    let lines = refused(&["config", "check", &broken]);
    for told in [
        "remark: startup-resync is always on\n",
        "broken.set:1:28: no option is called",
        "broken.set: interface: interface not defined",
        "broken.set: failover-mechanism: failover mechanism not defined",
    ] {
        assert!(lines.contains(told), "{lines}");
    }
    assert_eq!(lines.lines().count(), 4, "{lines}");
    let output = ctsync(&["config", "check", &broken, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told = value(&text(&output.stdout));
    assert_eq!((&told["good"], &told["errors"][0]["mistake"]), (&false.into(), &"UnknownOption".into()));
    assert_eq!((&told["errors"][0]["line"], &told["errors"][0]["column"]), (&1.into(), &28.into()));
    assert_eq!(told["remarks"][0], "startup-resync is always on");
    assert!(refused(&["run", "--config", &broken]).contains("did you mean \"sync-queue-size\""));
    assert!(failed(&["run", "--config", "/nonexistent/config.json"]).contains("cannot be read"));
}

#[test]
fn keys_are_new_and_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (one, two) = (done(&["keygen"]), done(&["keygen"]));
    assert_ne!(one, two);
    assert!(one.len() == 65 && one.trim().bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let name = path.to_str().unwrap();
    assert_eq!(done(&["keygen", name]), "");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(failed(&["keygen", name]).contains("cannot make"), "a key is never overwritten");
}

/// Manual pages and completions, rendered by the programs that users have.
#[test]
fn manual_pages_and_completions_are_rendered() {
    let directory = tempfile::tempdir().unwrap();
    done(&["assets", directory.path().to_str().unwrap()]);
    let page = manual(&directory.path().join("ctsync.1"));
    for verb in verbs() {
        let words = verb.join(" ");
        assert!(page.contains(&words), "ctsync(1) lacks {words}");
    }
    assert!(page.contains("3 when a failover now would lose something"));
    let page = manual(&directory.path().join("ctsync-config.5"));
    ctsync::config::options::walk(&mut |path, _| {
        let name = path.join(".");
        assert!(page.contains(&name), "ctsync-config(5) lacks {name}");
    });
    for section in ["FILES", "ENVIRONMENT", "EXAMPLES", "SEE ALSO"] {
        assert!(manual(&directory.path().join("ctsync.1")).contains(&format!("\n{section}\n")), "{section}");
    }
    for name in ["ctsync.bash", "_ctsync", "ctsync.fish"] {
        assert!(std::fs::read_to_string(directory.path().join(name)).unwrap().contains("COMPLETE"), "{name}");
    }
    assert!(directory.path().join("config.schema.json").metadata().unwrap().len() > 1000);
    let caches = offered(directory.path(), &["show", "conntrack-sync", "cache", ""]);
    assert!(caches.contains(&"internal".to_owned()) && caches.contains(&"external".to_owned()), "{caches:?}");
    let roles = offered(directory.path(), &["notify", ""]);
    assert!(roles.contains(&"primary".to_owned()), "{roles:?}");
    // A role is offered once; without a daemon no group is known.
    let groups = offered(directory.path(), &["notify", "primary", "--control", "/nonexistent", ""]);
    assert!(!groups.contains(&"primary".to_owned()), "{groups:?}");
}

/// The names of groups come from the daemon that the line asks for.
#[test]
fn groups_are_offered() {
    use std::io::{BufRead, BufReader, Write};
    let directory = tempfile::tempdir().unwrap();
    done(&["assets", directory.path().to_str().unwrap()]);
    let socket = directory.path().join("control.sock");
    let daemon = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let answer = std::thread::spawn(move || {
        let (client, _) = daemon.accept().unwrap();
        let mut asked = String::new();
        BufReader::new(&client).read_line(&mut asked).unwrap();
        let reply =
            serde_json::json!({ "ok": { "mechanism-group": "SYNC", "groups": [{ "group": "guests" }] } });
        writeln!(&client, "{reply}").unwrap();
        asked
    });
    let words = ["notify", "primary", "--control", socket.to_str().unwrap(), ""];
    let found = offered(directory.path(), &words);
    assert!(found.contains(&"SYNC".to_owned()) && found.contains(&"guests".to_owned()), "{found:?}");
    assert!(answer.join().unwrap().contains("status"));
}

/// What bash offers for the last of these words.
fn offered(assets: &Path, words: &[&str]) -> Vec<String> {
    let script = "source \"$1\"; shift; COMP_WORDS=(ctsync \"$@\"); COMP_CWORD=$#; COMP_TYPE=9; \
                  _clap_complete_ctsync ctsync \"${COMP_WORDS[$COMP_CWORD]}\" \"${COMP_WORDS[$COMP_CWORD-1]}\"; \
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    let program = Path::new(env!("CARGO_BIN_EXE_ctsync")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-c", script, "bash"])
        .arg(assets.join("ctsync.bash"))
        .args(words)
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
}

/// What `man -l` shows; anything groff warns of is an error.
fn manual(path: &Path) -> String {
    let output = Command::new("man")
        .args(["--warnings=all", "-E", "ascii", "-l"])
        .arg(path)
        .env("MANWIDTH", "200")
        .env("LC_ALL", "C")
        .output()
        .expect("man (Debian's man-db) is needed");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{err}");
    // Backspaces make bold and underlined letters.
    let mut plain = String::new();
    let mut letters = out.chars().peekable();
    while let Some(letter) = letters.next() {
        if letters.peek() == Some(&'\u{8}') {
            letters.next();
        } else {
            plain.push(letter);
        }
    }
    plain
}
