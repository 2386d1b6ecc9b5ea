//! What the lab needs of the machine: programs of the distribution, the daemon's binary, the checkout.
//!
//! Called before a story, outside of the sandbox. Installs what is missing when it may, else prints the one
//! command that would.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::machine::sandbox;

/// Program, Debian package: what every lab needs.
const NEEDED: [(&str, &str); 8] = [
    ("keepalived", "keepalived"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ping", "iputils-ping"),
    ("ss", "iproute2"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
];
/// What scenarios need beside it, and libFuzzer.
const BESIDE: [(&str, &str); 15] = [
    ("c++", "g++"),
    ("patchelf", "patchelf"),
    ("python3", "python3-minimal"),
    ("conntrackd", "conntrackd"),
    ("prometheus", "prometheus"),
    ("man", "man-db"),
    ("vsftpd", "vsftpd"),
    ("iperf3", "iperf3"),
    ("sipp", "sip-tester"),
    ("cl_status", "heartbeat"),
    ("vtysh", "frr"),
    ("corosync", "corosync"),
    ("pacemakerd", "pacemaker"),
    ("crm_resource", "pacemaker-cli-utils"),
    ("ocf-tester", "resource-agents"),
];

/// Install what is missing for the demo, build the daemon.
pub(crate) fn ensure() -> Result<()> {
    ensure_packages(&NEEDED)?;
    build_ctsync()
}

/// The same for everything that the lab can do.
pub(crate) fn ensure_all() -> Result<()> {
    ensure_packages(&[&NEEDED[..], &BESIDE].concat())?;
    build_ctsync()
}

/// What counts instructions, where it can be had.
pub(crate) fn ensure_counter() -> Result<()> {
    ensure_packages(&[("valgrind", "valgrind")])
}

fn ensure_packages(needed: &[(&'static str, &'static str)]) -> Result<()> {
    let mut missing: Vec<&str> =
        needed.iter().filter(|(program, _)| !found(program)).map(|(_, p)| *p).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let command = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if !nix::unistd::geteuid().is_root() || !found("apt-get") {
        bail!("the lab needs programs that are not here; this installs them:\n  sudo {command}");
    }
    eprintln!("installing: {}", missing.join(" "));
    let quiet = |arguments: &[&str]| -> Result<bool> {
        // Services of these packages must not start on this machine: a policy for this call alone.
        let output = Command::new("apt-get")
            .args(["-qq", "-o", "Dpkg::Use-Pty=0"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1")
            .output()
            .context("cannot run apt-get")?;
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output.status.success())
    };
    quiet(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&missing);
    if !quiet(&arguments)? {
        bail!("could not install what is missing; try: {command}");
    }
    Ok(())
}

fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.into_iter().any(|place| place.join(program).is_file())
}

/// Under `cargo lab` the daemon is built here; an installed lab brings it along.
fn build_ctsync() -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", "ctsync"])
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("ctsync does not build");
    }
    Ok(())
}

/// The checkout this lab was built from.
pub(crate) fn checkout() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.parent().context("no checkout")?.to_owned();
    if !root.join("Cargo.toml").exists() {
        bail!("this needs the checkout that the lab was built from: {}", root.display());
    }
    Ok(root)
}

/// The daemon that was asked for, else the one beside this program, else the one on PATH.
pub(crate) fn ctsync_binary(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(asked) = asked {
        return asked.canonicalize().with_context(|| format!("no ctsync at {}", asked.display()));
    }
    let beside = std::env::current_exe()?.with_file_name("ctsync");
    if beside.is_file() {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|place| place.join("ctsync")).find(|path| path.is_file());
    found.context("no ctsync beside ctsync-lab and none on PATH")
}

const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";

/// So many buckets in the kernel's hash, which all namespaces share: with fewer than entries it refuses what
/// would make a long chain (`nf_conntrack_hash_check_insert`), and every walk through the table reads all of
/// them.
pub(crate) fn set_buckets(buckets: u32) -> Result<()> {
    let written = std::fs::write(BUCKETS, buckets.to_string());
    let there = std::fs::read_to_string(BUCKETS)?.trim().parse::<u32>()?;
    if there >= buckets {
        // Without privileges what somebody has set counts.
        return Ok(());
    }
    written.with_context(|| {
        format!("this machine needs {buckets} buckets: `sysctl net.netfilter.nf_conntrack_buckets={buckets}` as root")
    })
}

/// The kernel's table must hold so many entries. Its limit is the machine's, not a namespace's.
pub(crate) fn ensure_table(entries: u32) -> Result<()> {
    const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
    if sandbox::is_inside() {
        return Ok(());
    }
    // A quarter of it stays free: nearly full is another story.
    let needed = u64::from(entries) * 4 / 3;
    let limit = std::fs::read_to_string(LIMIT).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if limit.is_some_and(|limit| limit >= needed) {
        return Ok(());
    }
    std::fs::write(LIMIT, needed.to_string()).with_context(|| {
        format!("{entries} entries need a larger table on this machine: `sysctl net.netfilter.nf_conntrack_max={needed}` as root")
    })
}
