//! A lab that stays: `up`, `enter`, `status`, `down`.
//!
//! `up` leaves a lab running in the background and a small file that tells where it is; the other verbs find
//! it by that file. Several labs with different names do not meet.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};

use crate::load::traffic::serve;
use crate::machine::sandbox::{Pointer, Sandbox};
use crate::machine::wait::until;
use crate::routers::options::Options;
use crate::routers::topology::Topology;
use crate::story::narrator::{Narrator, tell};

/// Longest wait for a lab to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the lab writes into its directory when it is up.
const NODES: &str = "nodes.json";

/// Descriptor numbers of a node in the lab's process.
#[derive(Serialize, Deserialize)]
struct Place {
    net: u32,
    mounts: u32,
}

/// The file that tells where the lab of this name is.
pub(crate) fn pointer_path(name: &str) -> Result<PathBuf> {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let directory = base.map_or_else(
        || std::env::temp_dir().join(format!("ctsync-lab-{}", geteuid())),
        |base| base.join("ctsync-lab"),
    );
    std::fs::create_dir_all(&directory)?;
    Ok(directory.join(format!("{name}.json")))
}

/// Start a lab in the background and wait until it is up.
pub(crate) fn up(name: &str, advert: f64) -> Result<ExitCode> {
    if find(name).is_ok() {
        bail!("a lab named {name} is up already; `ctsync-lab down --name {name}` ends it");
    }
    let path = pointer_path(name)?;
    let _ = std::fs::remove_file(&path);
    let log_path = path.with_extension("log");
    let log = File::create(&log_path)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["up", "--foreground", "--name", name, "--advert", &advert.to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Its own group: Ctrl-C here is not for the lab.
        .process_group(0)
        .spawn()
        .context("cannot start the lab")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let waited = runtime.block_on(until("the lab is up", PATIENCE, async || {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(Err(status)));
        }
        Ok(find(name).ok().filter(|(pointer, _)| pointer.directory.join(NODES).exists()).map(Ok))
    }));
    match waited {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => bail!("the lab ended ({status}); see {}", log_path.display()),
        Err(error) => {
            let _ = child.kill();
            return Err(error);
        }
    }
    tell("the lab is up: router1, router2, client, server, switch");
    tell("  ctsync-lab enter router1      a shell on router1; try: ctsync status");
    tell("  ctsync-lab status             both routers at a glance");
    tell("  ctsync-lab down               end it");
    Ok(ExitCode::SUCCESS)
}

/// The lab itself: build everything, tell where the nodes are, stay.
pub(crate) async fn stay(sandbox: &Sandbox, options: &Options) -> Result<ExitCode> {
    let narrator = Narrator::new(false, true);
    let mut topology = Topology::build(&sandbox.directory, options).await?;
    topology.start().await?;
    let _server = serve(&topology.server.net)?;
    let nodes: BTreeMap<String, Place> = topology
        .nodes()
        .map(|node| {
            let (net, mounts) = node.descriptor_numbers();
            (node.name.clone(), Place { net, mounts })
        })
        .collect();
    std::fs::write(sandbox.directory.join(NODES), serde_json::to_vec(&nodes)?)?;
    narrator.end()?;
    std::future::pending().await
}

fn find(name: &str) -> Result<(Pointer, u32)> {
    let path = pointer_path(name)?;
    let bytes =
        std::fs::read(&path).with_context(|| format!("no lab named {name} is up; `ctsync-lab up`"))?;
    let pointer: Pointer = serde_json::from_slice(&bytes)?;
    // Outer, first process of the namespace, lab.
    let lab = only_child(pointer.outer).and_then(only_child);
    let lab = lab.with_context(|| format!("the lab named {name} is gone; `ctsync-lab up`"))?;
    Ok((pointer, lab))
}

fn only_child(parent: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    text.split_whitespace().find_map(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        if name.trim() == "ctsync-lab" { pid.parse().ok() } else { None }
    })
}

/// Run a shell, or a command, on a node.
pub(crate) fn enter(name: &str, node: &str, command: &[String]) -> Result<ExitCode> {
    let (pointer, lab) = find(name)?;
    let bytes = std::fs::read(pointer.directory.join(NODES)).context("the lab is not up yet")?;
    let nodes: BTreeMap<String, Place> = serde_json::from_slice(&bytes)?;
    let known = || nodes.keys().cloned().collect::<Vec<_>>().join(", ");
    let place = nodes.get(node).with_context(|| format!("no node {node}; there are {}", known()))?;
    let open = |path: String| File::open(&path).with_context(|| format!("cannot enter {node}: {path}"));
    let net = open(format!("/proc/{lab}/fd/{}", place.net))?;
    let mounts = open(format!("/proc/{lab}/fd/{}", place.mounts))?;
    let pids = open(format!("/proc/{lab}/ns/pid"))?;
    let beside = std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
    if !geteuid().is_root() {
        setns(open(format!("/proc/{lab}/ns/user"))?, CloneFlags::CLONE_NEWUSER)
            .context("cannot enter the lab's user namespace")?;
    }
    setns(pids, CloneFlags::CLONE_NEWPID).context("cannot enter the lab's processes")?;
    setns(net, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {node}'s network"))?;
    setns(mounts, CloneFlags::CLONE_NEWNS).with_context(|| format!("cannot enter {node}'s mounts"))?;
    let shell = [std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into())];
    let command = if command.is_empty() { &shell } else { command };
    let path = std::env::var("PATH").unwrap_or_default();
    let [program, arguments @ ..] = command else { bail!("no command") };
    let status = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", beside.display()))
        .env("PS1", format!("{node}# "))
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

/// Both routers at a glance.
pub(crate) fn status(name: &str, json: bool) -> Result<ExitCode> {
    find(name)?;
    let mut good = true;
    for router in ["router1", "router2"] {
        if !json {
            tell(&format!("== {router}"));
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["enter", "--name", name, router, "--", "ctsync", "status"]);
        if json {
            command.arg("--json");
        }
        good &= command.status()?.success();
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// End it; nothing stays.
pub(crate) fn down(name: &str) -> Result<ExitCode> {
    let (pointer, _) = find(name)?;
    kill(Pid::from_raw(i32::try_from(pointer.outer)?), Signal::SIGTERM).context("cannot end the lab")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(until("the lab is gone", PATIENCE, async || {
        Ok((!pointer.directory.exists()).then_some(()))
    }))?;
    std::fs::remove_file(pointer_path(name)?)?;
    tell("the lab is gone");
    Ok(ExitCode::SUCCESS)
}
