//! conntrackd in ctsync's place, as its manual sets it up: FTFW over the same channel, expectations on, and
//! the script that keepalived calls. Called by scenarios that put its result beside ours.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::machine::node::Node;
use crate::machine::wait::until;

/// Its own requests, as its `primary-backup.sh` makes them.
const SCRIPT: &str = "#!/bin/sh
ask() { conntrackd -C CONFIG \"$@\"; }
case \"$1\" in
primary) ask -c; ask -f; ask -R; ask -B ;;
backup) ask -t; ask -n ;;
fault) ask -t ;;
esac
";

/// How it is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// `FTFW` or `NOTRACK`.
    pub mode: &'static str,
    /// Off: what the peer says goes into the kernel at once.
    pub external_cache: bool,
    /// Bytes to which the socket buffer for events may grow.
    pub event_buffer: u32,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { mode: "FTFW", external_cache: true, event_buffer: 8 << 20 }
    }
}

/// Write its files into the node's directory and start it.
pub(crate) async fn start(node: &mut Node, address: &str, own: &[String], shape: Shape) -> Result<()> {
    let family = |text: &str| if text.contains(':') { "IPv6_address" } else { "IPv4_address" };
    let ignored: String = own
        .iter()
        .map(|address| format!("            {} {address}\n", family(address)))
        .chain(["            IPv4_address 127.0.0.1\n".to_owned()])
        .collect();
    let Shape { mode, external_cache, event_buffer } = shape;
    // It knows the option under two names.
    let without = if mode == "FTFW" {
        "DisableExternalCache On"
    } else {
        "DisableExternalCache On\n        DisableInternalCache On"
    };
    let without = if external_cache { "" } else { without };
    let config = format!(
        "Sync {{
    Mode {mode} {{
        StartupResync {}
        {without}
    }}
    Multicast {{
        IPv4_address 225.0.0.50
        Group 3780
        IPv4_interface {address}
        Interface eth0
        SndSocketBuffer 1249280
        RcvSocketBuffer 1249280
        Checksum on
    }}
    Options {{
        ExpectationSync On
    }}
}}
General {{
    HashSize 524288
    HashLimit 4194304
    Syslog off
    LockFile /run/conntrackd.lock
    UNIX {{
        Path /run/conntrackd.ctl
    }}
    NetlinkBufferSize 2097152
    NetlinkBufferSizeMaxGrowth {event_buffer}
    Filter From Kernelspace {{
        Address Ignore {{
{ignored}        }}
    }}
}}
",
        if external_cache { "yes" } else { "no" },
    );
    let path = config_path(node);
    std::fs::write(&path, config)?;
    let script = script(node);
    std::fs::write(&script, SCRIPT.replace("CONFIG", &path))?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    launch(node).await
}

/// Start it once more after it was killed: it leaves its lock and its socket behind, and refuses to start
/// beside them.
pub(crate) async fn restart(node: &mut Node) -> Result<()> {
    for name in ["conntrackd.lock", "conntrackd.ctl"] {
        let _ = std::fs::remove_file(node.run_directory().join(name));
    }
    launch(node).await
}

async fn launch(node: &mut Node) -> Result<()> {
    let path = config_path(node);
    node.start("conntrackd", "conntrackd", &["-C", &path])?;
    until("conntrackd answers", Duration::from_secs(20), async || Ok(statistics(node).ok().map(|_| ()))).await
}

fn config_path(node: &Node) -> String {
    node.directory.join("conntrackd.conf").to_string_lossy().into_owned()
}

/// Its external cache, as it lists it.
pub(crate) fn external(node: &Node) -> Result<String> {
    node.output("conntrackd", &["-C", &config_path(node), "-e"])
}

/// Its external cache into the kernel: what its script asks for first. Answered when it is done.
pub(crate) fn commit(node: &Node) -> Result<()> {
    node.output("conntrackd", &["-C", &config_path(node), "-c"]).map(|_| ())
}

/// What keepalived calls with `primary`, `backup` or `fault`.
pub(crate) fn script(node: &Node) -> String {
    node.directory.join("primary-backup.sh").to_string_lossy().into_owned()
}

fn statistics(node: &Node) -> Result<String> {
    node.output("conntrackd", &["-C", &config_path(node), "-s"])
}

/// Entries in its internal and in its external cache.
pub(crate) fn numbers(node: &Node) -> Result<[u64; 2]> {
    let shown = statistics(node)?;
    let mut active = shown.lines().filter_map(|line| line.strip_prefix("current active connections:"));
    let mut next = || active.next().and_then(|number| number.trim().parse().ok()).context("its statistics");
    Ok([next()?, next()?])
}
