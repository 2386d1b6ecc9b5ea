//! Configuration files, keys, and what packagers install: manual pages, completions, the schema.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use netlink_packet_netfilter::NetfilterProtoFamily;
use serde_json::json;

use super::kernel::dump;
use super::words::{ConfigVerb, To};
use super::{Cli, pretty, print};
use crate::config::{self, Config, Loaded, Machine, Refused};
use crate::ctnetlink::codec::KernelTable;
use crate::engine::replica::bound_to;

pub(super) fn run(verb: ConfigVerb) -> Result<ExitCode> {
    match verb {
        ConfigVerb::Check { file, system, keepalived, form } => {
            let result = checked(&file, system, keepalived.as_deref());
            return report(&file, &result, form.json);
        }
        ConfigVerb::Convert { file, to } => {
            let loaded = config::read(&file)?;
            tell(&loaded.remarks);
            print(&written(&loaded, to))?;
        }
        ConfigVerb::Example { to } => {
            let loaded = config::parse(Path::new("example"), config::EXAMPLE)?;
            print(&match to {
                To::Json => config::EXAMPLE.to_owned(),
                To::Set => written(&loaded, to),
            })?;
        }
        ConfigVerb::Keepalived { file } => {
            let loaded = config::read(&file)?;
            match config::keepalived_fragments(&loaded.config) {
                Some(fragments) => print(&fragments)?,
                None => anyhow::bail!(
                    "{}: the failover mechanism is {}, which needs nothing of keepalived",
                    file.display(),
                    loaded.config.mechanism.told()
                ),
            }
        }
        ConfigVerb::Schema => print(&pretty(&config::schema())?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The file by itself, and against as much of this machine as is asked for.
fn checked(file: &Path, system: bool, keepalived: Option<&Path>) -> Result<Loaded, Refused> {
    let mut loaded = config::read(file)?;
    let machine = if system {
        let looked = Machine::look_closely(keepalived.unwrap_or(Path::new(config::KEEPALIVED_CONF)));
        Some(looked.map_err(|error| Refused::whole(file, config::FileMistake::Unreadable(error)))?)
    } else {
        keepalived.map(Machine::with_keepalived)
    };
    let mut errors = Vec::new();
    if let Some(machine) = machine {
        if system {
            loaded.remarks.extend(bound(&loaded.config, &machine));
        }
        match config::check_machine(&loaded, &machine) {
            Ok(remarks) => loaded.remarks.extend(remarks),
            Err(refused) => {
                errors.extend(refused.errors);
                loaded.remarks.extend(refused.remarks);
            }
        }
    }
    if system && let Err(refused) = config::read_keys(&loaded) {
        errors.extend(refused.errors);
    }
    if errors.is_empty() { Ok(loaded) } else { Err(Refused { errors, remarks: loaded.remarks }) }
}

/// Connections of this kernel that no failover can carry on: they are translated to an address that stays
/// here.
fn bound(config: &Config, machine: &Machine) -> Option<String> {
    let virtual_addresses = machine.virtual_addresses(config);
    if virtual_addresses.is_empty() {
        return None;
    }
    let filter = crate::daemon::filter(config, machine.addresses().collect());
    let mut found: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        let entries = match dump(KernelTable::Connections, family) {
            Ok(entries) => entries,
            Err(error) => return Some(format!("the kernel's table cannot be looked at: {error:#}")),
        };
        let local = |address: &IpAddr| machine.has(*address);
        let taking_part = entries.iter().filter(|(_, entry)| filter.accepts(entry));
        let bound = taking_part.filter_map(|(_, entry)| bound_to(entry, local, &virtual_addresses));
        bound.for_each(|address| *found.entry(address).or_default() += 1);
    }
    let (address, _) = found.iter().max_by_key(|(_, count)| **count)?;
    Some(format!(
        "{} entries are translated to {address}, an address of this router alone, and end with it: translate to a virtual \
         address (`snat to` it instead of `masquerade`)",
        found.values().sum::<usize>()
    ))
}

fn report(file: &Path, result: &Result<Loaded, Refused>, json: bool) -> Result<ExitCode> {
    let good = result.is_ok();
    if json {
        let value = match result {
            Ok(loaded) => json!({ "good": true, "remarks": loaded.remarks, "errors": [] }),
            Err(refused) => json!({
                "good": false,
                "remarks": refused.remarks,
                "errors": refused.errors.iter().map(|error| json!({
                    "file": error.path,
                    "line": error.place.map(|place| place.line),
                    "column": error.place.map(|place| place.column),
                    "option": error.option,
                    "mistake": error.mistake.word(),
                    "message": error.mistake.to_string(),
                })).collect::<Vec<_>>(),
            }),
        };
        print(&pretty(&value)?)?;
    } else {
        match result {
            Ok(loaded) => {
                tell(&loaded.remarks);
                print(&format!("{}: good\n", file.display()))?;
            }
            Err(refused) => {
                tell(&refused.remarks);
                eprintln!("{refused}");
            }
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(remarks: &[String]) {
    for remark in remarks {
        eprintln!("remark: {remark}");
    }
}

fn written(loaded: &Loaded, to: To) -> String {
    match to {
        To::Json => config::to_json(&loaded.values),
        To::Set => config::to_set_lines(&loaded.values),
    }
}

/// `keygen`.
pub(super) fn keygen(file: Option<&Path>) -> Result<()> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    match file {
        None => print(&key)?,
        Some(file) => {
            let mut made = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(file)
                .with_context(|| format!("cannot make {}", file.display()))?;
            made.write_all(key.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    // The key alone goes to standard output.
    let fingerprint = crate::engine::seal::Key(bytes).fingerprint();
    eprintln!("fingerprint {fingerprint}: `ctsync status` shows the same on both routers");
    Ok(())
}

/// The end of ctsync(1).
const MANUAL: &str = include_str!("ctsync.1.roff");

/// Write manual pages, completions and the schema into a directory.
///
/// # Errors
/// A file cannot be written.
pub fn assets(directory: &Path) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    write("ctsync.1", &[&page(Cli::command())?, MANUAL.as_bytes()].concat())?;
    write("ctsync-config.5", config_page().as_bytes())?;
    write("config.schema.json", pretty(&config::schema())?.as_bytes())?;
    super::completions("ctsync", directory)
}

/// One manual page for a command and all its verbs.
///
/// # Errors
/// Rendering fails.
pub fn page(command: clap::Command) -> Result<Vec<u8>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let man = clap_mangen::Man::new(command.clone());
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    writeln!(out, ".SH VERBS")?;
    verbs(&mut out, &command, "")?;
    man.render_extra_section(&mut out)?;
    man.render_version_section(&mut out)?;
    Ok(out)
}

/// Every verb with its arguments, deepest level spelt out.
fn verbs(out: &mut Vec<u8>, command: &clap::Command, above: &str) -> Result<()> {
    let roff = |text: &str| text.replace('\\', "\\e").replace('-', "\\-").replace('`', "");
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("{above}{}", verb.get_name());
        if verb.has_subcommands() {
            verbs(out, verb, &format!("{name} "))?;
            continue;
        }
        let mut line = format!(".TP\n.B {}", roff(&name));
        let mut told = String::new();
        for argument in verb.get_arguments() {
            let id = argument.get_id().as_str();
            if argument.is_hide_set() || ["help", "version", "control"].contains(&id) {
                continue;
            }
            let value = argument
                .get_value_names()
                .and_then(|names| names.first())
                .map_or(String::new(), ToString::to_string);
            let takes = argument.get_action().takes_values();
            let shown = match argument.get_long() {
                Some(long) if takes => format!("--{long} {value}"),
                Some(long) => format!("--{long}"),
                None => value,
            };
            let shown = if argument.is_required_set() { shown } else { format!("[{shown}]") };
            line += &format!(" \\fI{}\\fR", roff(&shown));
            let help = argument.get_help().map_or(String::new(), ToString::to_string);
            let words: Vec<String> = argument
                .get_possible_values()
                .iter()
                .filter(|word| takes && !word.is_hide_set())
                .map(|word| word.get_name().to_owned())
                .collect();
            let words =
                if words.is_empty() { String::new() } else { format!(". One of {}.", words.join(", ")) };
            told += &format!(".RS\n.TP\n\\fI{}\\fR\n{}{}\n.RE\n", roff(&shown), roff(&help), roff(&words));
        }
        let about = verb.get_long_about().or(verb.get_about()).map_or(String::new(), ToString::to_string);
        writeln!(out, "{line}\n{}\n{told}", roff(&about.replace("\n\n", " ")))?;
    }
    Ok(())
}

fn config_page() -> String {
    let example = config::EXAMPLE.replace('\\', "\\e").replace('-', "\\-");
    let set = config::parse(Path::new("example"), config::EXAMPLE)
        .map(|loaded| config::to_set_lines(&loaded.values))
        .unwrap_or_default()
        .replace('-', "\\-");
    format!(
        ".TH ctsync\\-config 5\n.SH NAME\nctsync\\-config \\- configuration of ctsync\n.SH SYNOPSIS\n\
         .I {}\n.SH DESCRIPTION\n\
         JSON with the option names of VyOS \\fBservice conntrack\\-sync\\fR, or VyOS's own \\fBset\\fR lines; \
         options of ours stand beside them and work in both forms. Unknown names, wrong types and impossible \
         combinations are refused with their place: \\fBctsync config check\\fR shows all of them. \
         \\fBctsync config convert\\fR turns one form into the other. A dot below is a level of braces in JSON and \
         a blank in a \\fBset\\fR line.\n.SH OPTIONS\n{}.SH EXAMPLES\n.nf\n{example}\n{set}.fi\n\
         .SH SEE ALSO\n.BR ctsync (1)\n",
        config::DEFAULT_PATH.replace('-', "\\-"),
        config::reference_roff(),
    )
}
