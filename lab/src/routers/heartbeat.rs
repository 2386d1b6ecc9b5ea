//! heartbeat on a router, as VyOS 1.2 has it: its three files from the `set cluster` lines, and our resource
//! script.
//!
//! Called by `topology` when the routers are told of a cluster. The script is the one that is shipped, in
//! `cluster/heartbeat/`. heartbeat's directories are the node's own; its processes become other users, so
//! this needs root.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::machine::wait::until;
use crate::routers::documented::Cluster;
use crate::routers::router::Router;

/// Our resource script.
const SCRIPT: &str = include_str!("../../../cluster/heartbeat/ctsync");
/// Where heartbeat looks for it.
const RESOURCE: &str = "/etc/ha.d/resource.d/ctsync";
/// heartbeat itself: not on the path, systemd's unit starts it here.
const DAEMON: &str = "/usr/libexec/heartbeat/heartbeat";
/// Gives up what this node holds.
const STANDBY: &str = "/usr/share/heartbeat/hb_standby";

/// After a node's return heartbeat takes ten seconds until it serves the next wish.
const SETTLES: Duration = Duration::from_secs(40);

/// Write its files and start it, once ctsync may be elected if that runs.
pub(crate) async fn start(router: &mut Router) -> Result<()> {
    let sync = router.options().sync;
    let cluster = router.told.cluster.clone();
    let log = router.node.log_path("heartbeat");
    let etc = router.node.own("/etc/ha.d")?;
    write(&etc.join("ha.cf"), &ha_cf(&cluster, &log), 0o644)?;
    write(&etc.join("authkeys"), &format!("auth 1\n1 sha1 {}\n", cluster.secret), 0o600)?;
    write(&etc.join("haresources"), &haresources(&cluster, sync), 0o644)?;
    write(&etc.join("resource.d/ctsync"), SCRIPT, 0o755)?;
    let state = router.node.own("/var/lib/heartbeat")?;
    // Should heartbeat run on this machine: two nodes with one identity are none.
    for name in ["hb_uuid", "hb_generation", "hostcache"] {
        let _ = std::fs::remove_file(state.join(name));
    }
    let run = router.node.run_directory();
    for name in ["heartbeat/ccm", "heartbeat/dopd", "resource-agents", "lock/subsys"] {
        std::fs::create_dir_all(run.join(name))?;
    }
    let path = path_with_ctsync(router)?;
    if sync {
        // As the drop-in of docs/operation.md does.
        let mut waiting = tokio::process::Command::from(script(router, "wait")?);
        waiting.status().await.context("cannot wait for ctsync")?;
    }
    router.node.start("heartbeat", "env", &[&path, DAEMON, "-f"])
}

/// `hb_standby`: the other node is to have everything. Refused while a node that has returned is still being
/// served.
pub(crate) async fn stand_by(router: &Router) -> Result<()> {
    // The addresses are the primary node's own, and foreign to the other.
    let settled = if router.told.name == router.told.cluster.primary { "local" } else { "all" };
    until("heartbeat is settled", SETTLES, async || {
        let held = router.node.output("cl_status", &["rscstatus"])?;
        ensure!(held.trim() == settled, "it holds: {}", held.trim());
        Ok(Some(()))
    })
    .await?;
    router.node.output(STANDBY, &["all"]).map(|_| ())
}

/// Our script's verb `tell`: what a unit does after ctsync has started.
pub(crate) fn tell(router: &Router) -> Result<()> {
    let done = script(router, "tell")?.status().context("cannot run the resource script")?;
    ensure!(done.success(), "the resource script failed: {done}");
    Ok(())
}

fn script(router: &Router, verb: &str) -> Result<std::process::Command> {
    router.node.command("env", &[&path_with_ctsync(router)?, RESOURCE, &router.told.cluster.group, verb])
}

/// The scripts find ctsync on their path.
fn path_with_ctsync(router: &Router) -> Result<String> {
    let bin = router.node.directory.join("bin");
    std::fs::create_dir_all(&bin)?;
    let link = bin.join("ctsync");
    let _ = std::fs::remove_file(&link);
    symlink(router.binary()?, &link)?;
    Ok(format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
}

/// VyOS waits 20 s for a silent node; the lab has less patience, but more than a busy machine keeps a daemon
/// waiting. `auto_failback` is off there unless it is asked for.
fn ha_cf(cluster: &Cluster, log: &Path) -> String {
    let media =
        cluster.interfaces.iter().map(|name| format!("mcast {name} {} 694 1 0\n", cluster.mcast_group));
    format!(
        "logfile {log}\ndebugfile {debug}\nlogfacility none\nkeepalive 200ms\nwarntime 1000ms\ndeadtime 2000ms\n\
         initdead 5000ms\nudpport 694\n{media}auto_failback on\nnode {primary}\nnode {secondary}\n",
        log = log.display(),
        debug = log.with_extension("debug.log").display(),
        media = media.collect::<String>(),
        primary = cluster.primary,
        secondary = cluster.secondary,
    )
}

/// Ours before the addresses: they are started from left to right.
fn haresources(cluster: &Cluster, sync: bool) -> String {
    let ours = sync.then(|| format!("ctsync::{}", cluster.group));
    let addresses = cluster.services.iter().map(|service| format!("IPaddr2::{service}"));
    let line: Vec<String> = std::iter::once(cluster.primary.clone()).chain(ours).chain(addresses).collect();
    line.join(" ") + "\n"
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
}
