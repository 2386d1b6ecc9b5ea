//! The lab's own process tree: a PID and mount namespace (and, without root, a user namespace) around
//! everything, so that Ctrl-C, a crash or SIGKILL leave nothing behind.
//!
//! Three processes, one program: the outer one holds the working directory and waits; the first of the PID
//! namespace reaps orphans, and when it ends the kernel ends all others; the third is the lab. Called by
//! `main` before anything else runs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

const DIRECTORY: &str = "CTSYNC_LAB_DIRECTORY";
const CALLER: &str = "CTSYNC_LAB_CALLER";

/// What the inner process was given.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    /// Everything the lab writes goes here.
    pub directory: PathBuf,
    /// The user outside, when the lab is rootless: no SO_RCVBUFFORCE, no machine-wide sysctls.
    pub caller: Option<u32>,
}

/// Where a standing lab is: written by its outer process.
#[derive(Serialize, Deserialize)]
pub(crate) struct Pointer {
    /// That process.
    pub outer: u32,
    pub directory: PathBuf,
}

/// Whether this process is the inner one.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(DIRECTORY).is_some()
}

/// Whether root in here is an ordinary user outside.
pub(crate) fn is_rootless() -> bool {
    std::env::var_os(CALLER).is_some()
}

/// Run a story in a sandbox; `pointer` is where a standing lab tells where it is.
pub(crate) fn inside(
    pointer: Option<&Path>,
    story: impl AsyncFnOnce(&Sandbox) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let sandbox = match enter(pointer)? {
        Ok(sandbox) => sandbox,
        Err(code) => return Ok(code),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(story(&sandbox))
}

/// Inside already: set it up. Outside: make it, run this program again inside, and hand back its exit code.
///
/// A standing lab's outer process leaves word at `pointer`.
fn enter(pointer: Option<&Path>) -> Result<std::result::Result<Sandbox, ExitCode>> {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        if std::process::id() == 1 {
            settle().context("cannot set the lab's namespaces up")?;
            return reap_around_lab().map(Err);
        }
        let directory = PathBuf::from(directory);
        let caller = std::env::var(CALLER).ok().and_then(|user| user.parse().ok());
        return Ok(Ok(Sandbox { directory, caller }));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run_inside(pointer)).map(Err)
}

/// Where this sandbox is, for `Pointer`'s readers.
fn leave_word(at: &Path, directory: &Path) -> Result<()> {
    let pointer = Pointer { outer: std::process::id(), directory: directory.to_owned() };
    std::fs::write(at, serde_json::to_vec(&pointer)?)
        .with_context(|| format!("cannot write {}", at.display()))
}

async fn run_inside(pointer: Option<&Path>) -> Result<ExitCode> {
    let directory = tempfile::Builder::new().prefix("ctsync-lab-").tempdir()?;
    // Daemons that are other users pass through it to their configuration; what is secret in it has a mode of
    // its own.
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o711))?;
    if let Some(pointer) = pointer {
        leave_word(pointer, directory.path())?;
    }
    // Before the mounts change: afterwards this program's path may lead nowhere.
    let program = std::env::current_exe()?;
    let (user, group) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    if !user.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).context(
        "cannot make namespaces; without root the system must allow unprivileged user namespaces \
         (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)",
    )?;
    if !user.is_root() {
        map_to_root(user.as_raw(), group.as_raw())?;
    }
    let mut command = tokio::process::Command::new(program);
    command.args(std::env::args_os().skip(1)).env(DIRECTORY, directory.path());
    if !user.is_root() {
        command.env(CALLER, user.to_string());
    }
    let mut child = command.spawn().context("cannot start the lab inside its namespaces")?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let status = tokio::select! {
        status = child.wait() => Some(status?),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        _ = hangup.recv() => None,
    };
    let code = match status {
        Some(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        None => {
            // The first process of the namespace: all others go with it.
            child.kill().await?;
            ExitCode::from(130)
        }
    };
    // A benchmark has a lab in its lab. The list of mounts is the inner one's: /proc is no longer ours.
    for node in std::fs::read_dir(directory.path())?.flatten() {
        let inner = std::fs::read_dir(node.path()).into_iter().flatten().flatten().map(|node| node.path());
        for node in inner.chain([node.path()]) {
            let _ = umount2(&node.join("run"), MntFlags::MNT_DETACH);
        }
    }
    directory.close().context("cannot remove the lab's directory")?;
    Ok(code)
}

/// The first process of a PID namespace inherits every orphan: an unreaped one looks alive to its pid file.
fn reap_around_lab() -> Result<ExitCode> {
    use nix::sys::wait::{WaitStatus, wait};
    let lab = std::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .spawn()
        .context("cannot start the lab")?;
    loop {
        match wait()? {
            WaitStatus::Exited(pid, code) if pid.as_raw().unsigned_abs() == lab.id() => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            WaitStatus::Signaled(pid, signal, _) if pid.as_raw().unsigned_abs() == lab.id() => {
                anyhow::bail!("the lab was ended by {signal}");
            }
            _ => {}
        }
    }
}

/// Root inside is the caller outside.
fn map_to_root(user: u32, group: u32) -> Result<()> {
    std::fs::write("/proc/self/setgroups", "deny").context("cannot give up supplementary groups")?;
    std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("cannot map the user")?;
    std::fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("cannot map the group")
}

fn settle() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    make_private()?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)
        .context("cannot mount /proc")?;
    silence_console()
}

/// Who finds no syslog (`LOG_CONS`) writes to the console. Where that is a serial line the kernel writes it
/// out byte by byte inside an interrupt: a line of keepalived's takes a processor away for 20 ms.
fn silence_console() -> Result<()> {
    let console = Path::new("/dev/console");
    if console.exists() { bind(Path::new("/dev/null"), console) } else { Ok(()) }
}

/// Mounts made from here on are seen by nobody else.
pub(crate) fn make_private() -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make mounts private")
}

/// A directory that is new, empty and in memory, as `/run` is: who writes to it does not wait for a disk.
pub(crate) fn in_memory(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    // That of the machine's last boot, if there was one.
    let _ = umount2(directory, MntFlags::MNT_DETACH);
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .with_context(|| format!("cannot put {} into memory", directory.display()))
}

/// Put a file or a directory over another.
pub(crate) fn bind(from: &Path, over: &Path) -> Result<()> {
    mount(Some(from), over, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} over {}", from.display(), over.display()))
}

/// The hidden verb `as-user`: become a program as user `user` of a nested user namespace, who is root out
/// here.
pub(crate) fn become_user(user: u32, program: &str, arguments: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    unshare(CloneFlags::CLONE_NEWUSER).context("cannot make a nested user namespace")?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{user} 0 1")),
        ("gid_map", format!("{user} 0 1")),
    ] {
        std::fs::write(format!("/proc/self/{file}"), text).with_context(|| format!("cannot write {file}"))?;
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {program}"))
}
