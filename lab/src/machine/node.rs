//! A node: a network namespace with a host name and a `/run` of its own, and the processes inside. Router or
//! client alike.
//!
//! Called by `topology` and the stories. A node dies as a machine does: with everything in it.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, sethostname};

use crate::machine::net::Namespace;
use crate::machine::sandbox;

/// A machine of the lab.
pub(crate) struct Node {
    pub name: String,
    pub net: Namespace,
    mounts: Arc<File>,
    /// Host name and System V IPC: Corosync and Pacemaker want both to be their machine's.
    host: [Arc<File>; 2],
    /// Files of this node, seen by all: logs, configuration, its `/run`.
    pub directory: PathBuf,
    processes: Vec<(String, duct::Handle)>,
}

impl Node {
    /// A machine that has just booted.
    pub(crate) async fn boot(name: &str, directory: &Path) -> Result<Node> {
        let directory = directory.join(name);
        let run = directory.join("run");
        sandbox::in_memory(&run)?;
        for part in ["ctsync", "sshd"] {
            std::fs::create_dir_all(run.join(part))?;
        }
        let net = Namespace::create().await?;
        let passwd = directory.join("passwd");
        std::fs::write(&passwd, plain_shells(&std::fs::read_to_string("/etc/passwd")?))?;
        let (mounts, host) = private_places(name, &run, &passwd)?;
        let (mounts, host) = (Arc::new(mounts), host.map(Arc::new));
        Ok(Node { name: name.to_owned(), net, mounts, host, directory, processes: Vec::new() })
    }

    /// Where the node's `/run` is seen from outside.
    pub(crate) fn run_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// From now on a directory is the node's own: a copy of this machine's. Where it is seen from outside.
    pub(crate) fn own(&self, path: &str) -> Result<PathBuf> {
        let copy = self.directory.join("own").join(path.trim_start_matches('/'));
        if copy.exists() {
            std::fs::remove_dir_all(&copy)?;
        }
        std::fs::create_dir_all(copy.parent().context("a directory below the root")?)?;
        let copied = std::process::Command::new("cp").args(["-a", "--", path]).arg(&copy).status()?;
        if !copied.success() {
            bail!("cannot copy {path}");
        }
        self.in_mounts(|| sandbox::bind(&copy, Path::new(path)))?;
        Ok(copy)
    }

    fn inside(&self, program: &str, arguments: &[&str]) -> Result<duct::Expression> {
        let mut all: Vec<OsString> = vec!["inside".into()];
        all.extend(self.namespaces().map(OsString::from));
        all.extend(["--".into(), program.into()]);
        all.extend(arguments.iter().map(OsString::from));
        Ok(duct::cmd(std::env::current_exe()?, all))
    }

    /// A program inside, for callers that want its pipes.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Result<std::process::Command> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.arg("inside").args(self.namespaces()).args(["--", program]).args(arguments);
        Ok(command)
    }

    /// Run a program inside to its end; its standard output, or its complaint.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.feed(program, arguments, "")
    }

    /// The same with something on standard input.
    pub(crate) fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let (code, out, err) = self.try_run(program, arguments, input)?;
        if code != 0 {
            bail!("{}: {program} {} failed ({code}): {}", self.name, arguments.join(" "), err.trim());
        }
        Ok(out)
    }

    /// Exit code, standard output and standard error.
    pub(crate) fn try_run(
        &self,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<(i32, String, String)> {
        let output = self
            .inside(program, arguments)?
            .stdin_bytes(input.as_bytes().to_vec())
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .run()
            .with_context(|| format!("cannot run {program} on {}", self.name))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
    }

    /// Start a program that stays; what it says goes to `NAME.log` in the node's directory.
    pub(crate) fn start(&mut self, name: &str, program: &str, arguments: &[&str]) -> Result<()> {
        let log = self.log_file(name)?;
        let handle = self
            .inside(program, arguments)?
            .stdin_null()
            .stderr_to_stdout()
            .stdout_file(log)
            .unchecked()
            .start()
            .with_context(|| format!("cannot start {program} on {}", self.name))?;
        self.processes.push((name.to_owned(), handle));
        Ok(())
    }

    /// A log to write to.
    pub(crate) fn log_file(&self, name: &str) -> Result<File> {
        Ok(std::fs::OpenOptions::new().create(true).append(true).open(self.log_path(name))?)
    }

    /// The last lines of a program's log.
    pub(crate) fn log_tail(&self, name: &str) -> Result<String> {
        let log = std::fs::read_to_string(self.log_path(name))?;
        let lines: Vec<&str> = log.lines().collect();
        Ok(lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n"))
    }

    /// The log of a started program.
    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// Whether a started program still runs.
    pub(crate) fn runs(&self, name: &str) -> bool {
        self.processes.iter().any(|(known, handle)| known == name && matches!(handle.try_wait(), Ok(None)))
    }

    /// The process of a started program.
    pub(crate) fn pid(&self, name: &str) -> Result<u32> {
        let started = self.processes.iter().find(|(known, _)| known == name);
        let pids = started.map(|(_, handle)| handle.pids()).unwrap_or_default();
        pids.first().copied().with_context(|| format!("{name} was never started on {}", self.name))
    }

    /// A signal to a started program itself.
    pub(crate) fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let started = self.processes.iter().find(|(known, _)| known == name);
        let (_, handle) = started.with_context(|| format!("{name} was never started on {}", self.name))?;
        for pid in handle.pids() {
            kill(Pid::from_raw(pid as i32), signal).with_context(|| format!("cannot signal {name}"))?;
        }
        Ok(())
    }

    /// SIGKILL to a started program and all its children at once.
    pub(crate) fn kill(&mut self, name: &str) -> Result<()> {
        let (gone, kept) =
            std::mem::take(&mut self.processes).into_iter().partition(|(known, _)| known == name);
        self.processes = kept;
        let gone: Vec<(String, duct::Handle)> = gone;
        for (_, handle) in &gone {
            for pid in handle.pids() {
                let children = children_of(pid);
                for pid in std::iter::once(pid).chain(children) {
                    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
                }
            }
            handle.wait()?;
        }
        if gone.is_empty() {
            bail!("{name} was never started on {}", self.name);
        }
        Ok(())
    }

    /// Power off: every process inside dies at once, the kernel's tables go with the last descriptor.
    pub(crate) fn power_off(mut self) -> Result<()> {
        let inode = self.net.inode()?;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let inside = std::fs::metadata(entry.path().join("ns/net"))
                .is_ok_and(|meta| std::os::unix::fs::MetadataExt::ino(&meta) == inode);
            if inside && pid != 1 {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        for (_, handle) in self.processes.drain(..) {
            handle.wait()?;
        }
        Ok(())
    }

    /// Paths by which the lab's processes enter the node.
    fn namespaces(&self) -> [PathBuf; 4] {
        let path =
            |file: &File| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        let [name, ipc] = &self.host;
        [self.net.path(), path(&self.mounts), path(name), path(ipc)]
    }

    /// Run a closure on a thread that sees the node's files, to mount more.
    pub(crate) fn in_mounts(&self, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
        let made = std::thread::scope(|scope| {
            let inside = || -> Result<()> {
                // A thread that shares its working directory with others may not change its mounts.
                unshare(CloneFlags::CLONE_FS).context("cannot leave the shared working directory")?;
                setns(&*self.mounts, CloneFlags::CLONE_NEWNS).context("cannot enter the node's mounts")?;
                work()
            };
            scope.spawn(inside).join()
        });
        made.map_err(|_| anyhow::anyhow!("a namespace thread panicked"))?
    }

    /// Descriptor numbers of network and mounts in this process, for `ctsync-lab enter`.
    pub(crate) fn descriptor_numbers(&self) -> (u32, u32) {
        (self.net.descriptor(), self.mounts.as_raw_fd().unsigned_abs())
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Every user with a plain shell and no home: what a login on a node does is not this machine's affair.
fn plain_shells(passwd: &str) -> String {
    let plain = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [user, password, uid, gid, gecos, _, _] => {
                format!("{user}:{password}:{uid}:{gid}:{gecos}:/:/bin/sh\n")
            }
            _ => format!("{line}\n"),
        }
    };
    passwd.lines().map(plain).collect()
}

/// A mount namespace in which `/run` is this directory and `/etc/passwd` this file; a host name, and System V
/// IPC.
fn private_places(name: &str, run: &Path, passwd: &Path) -> Result<(File, [File; 2])> {
    let made = std::thread::scope(|scope| {
        scope
            .spawn(|| -> Result<(File, [File; 2])> {
                unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
                    .context("cannot make a mount namespace")?;
                sethostname(name).context("cannot set a node's host name")?;
                sandbox::make_private()?;
                sandbox::bind(run, Path::new("/run"))?;
                sandbox::bind(passwd, Path::new("/etc/passwd"))?;
                let open = |kind: &str| File::open(format!("/proc/thread-self/ns/{kind}"));
                Ok((open("mnt")?, [open("uts")?, open("ipc")?]))
            })
            .join()
    });
    made.map_err(|_| anyhow::anyhow!("a namespace thread panicked"))?
}

/// The hidden verb `inside`: enter a node and become the program. Never returns when it works.
pub(crate) fn become_inside(namespaces: &[PathBuf], program: &str, arguments: &[String]) -> Result<()> {
    // All of them first: their paths lead nowhere among the node's mounts.
    let opened: std::io::Result<Vec<File>> = namespaces.iter().map(File::open).collect();
    for namespace in opened.context("the node is gone")? {
        setns(namespace, CloneFlags::empty()).context("cannot enter the node")?;
    }
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {program}"))
}
