//! Corosync and Pacemaker on two routers, in keepalived's place.
//!
//! Called by the story `pacemaker`. Both programs have their paths compiled in and want root, so each router
//! gets its own copies of these places in its mounts; nothing is installed on this machine and none of its
//! services is used. The cluster talks over the WAN link, where the channel is.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{Gid, Group, Uid, User};

use crate::machine::node::Node;
use crate::machine::sandbox;
use crate::machine::wait::until;
use crate::routers::router::Router;
use crate::routers::topology::Topology;

/// The name in `failover-mechanism cluster group`.
pub(crate) const GROUP: &str = "GROUP";
/// The resources by name: the promotable clone, what it is a clone of, the group of addresses.
pub(crate) const CLONE: &str = "ctsync-clone";
const RESOURCE: &str = "ctsync";
const ADDRESSES: &str = "addresses";
/// Nothing here could cut a node's power for good, and of two nodes none is a majority. The addresses stay
/// where they are when the other router returns.
const OPTIONS: [(&str, &str, &str); 3] = [
    ("crm_config", "stonith-enabled", "false"),
    ("crm_config", "no-quorum-policy", "ignore"),
    ("rsc_defaults", "resource-stickiness", "100"),
];
/// Longest wait for the cluster to do something.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where Pacemaker looks for agents.
const AGENTS: &str = "/usr/lib/ocf/resource.d";
/// What each router has of its own.
const PLACES: [&str; 5] =
    ["/dev/shm", "/etc/corosync", "/var/lib/corosync", "/var/lib/pacemaker", "/var/log"];

/// Start both programs on both routers; once they have found each other, tell the cluster its resources.
pub(crate) async fn form(topology: &mut Topology) -> Result<()> {
    for number in [1, 2] {
        join(topology.router_mut(number)?)?;
    }
    let router = topology.router(1)?;
    until("the cluster has two nodes", PATIENCE, async || {
        let monitor = run(router, "crm_mon", &["--one-shot", "--output-as=xml"])?;
        Ok((monitor.matches(" online=\"true\"").count() == 2).then_some(()))
    })
    .await?;
    for (kind, name, value) in OPTIONS {
        run(router, "crm_attribute", &["--type", kind, "--name", name, "--update", value])?;
    }
    for (section, xml) in [("resources", resources(router)?), ("constraints", constraints())] {
        let load = ["--replace", "--scope", section, "--xml-pipe"];
        router.node.feed("cibadmin", &load, &xml)?;
    }
    Ok(())
}

/// Start both programs on a router: it joins the cluster, or waits for it.
pub(crate) fn join(router: &mut Router) -> Result<()> {
    furnish(router)?;
    router.node.start("corosync", "corosync", &["-f"])?;
    // It waits for Corosync by itself. Its log is in the node's /var/log; the machine's syslog hears nothing.
    let settings = ["PCMK_logfacility=none", "PCMK_logfile=/var/log/pacemaker.log", "pacemakerd"];
    router.node.start("pacemakerd", "env", &settings)
}

/// Make and mount the places, write Corosync's configuration.
fn furnish(router: &Router) -> Result<()> {
    let directory = router.node.directory.join("cluster");
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    let own = |place: &str| directory.join(place.trim_start_matches('/').replace('/', "-"));
    for place in PLACES {
        std::fs::create_dir_all(own(place))?;
    }
    std::fs::set_permissions(own("/dev/shm"), Permissions::from_mode(0o1777))?;
    let (user, group) = pacemaker_ids()?;
    for place in [own("/var/lib/pacemaker"), own("/var/log")] {
        chown(&place, Some(user.as_raw()), Some(group.as_raw()))?;
    }
    std::fs::create_dir_all(router.node.run_directory().join("resource-agents"))?;
    std::fs::write(own("/etc/corosync").join("corosync.conf"), corosync())?;
    let agents = own(AGENTS);
    for provider in ["ctsync", "heartbeat"] {
        std::fs::create_dir_all(agents.join(provider))?;
    }
    let ours = agents.join("ctsync/ctsync");
    std::fs::write(&ours, include_str!("../../../cluster/ocf/ctsync"))?;
    std::fs::set_permissions(&ours, Permissions::from_mode(0o755))?;
    let theirs = Path::new(AGENTS).join("heartbeat/IPaddr2");
    std::fs::copy(&theirs, agents.join("heartbeat/IPaddr2"))
        .with_context(|| format!("no {}: package resource-agents", theirs.display()))?;
    router.node.in_mounts(|| {
        for place in PLACES.into_iter().chain([AGENTS]) {
            sandbox::bind(&own(place), Path::new(place))?;
        }
        Ok(())
    })
}

/// Pacemaker's daemons give up root for this user.
fn pacemaker_ids() -> Result<(Uid, Gid)> {
    let user = User::from_name("hacluster")?.context("no user hacluster: package pacemaker")?;
    let group = Group::from_name("haclient")?.context("no group haclient: package pacemaker")?;
    Ok((user.uid, group.gid))
}

/// Two nodes: one of them alone has quorum, since nobody can say which of them is.
fn corosync() -> String {
    let node = |number: u8| {
        format!(
            "  node {{\n    name: router{number}\n    nodeid: {number}\n    ring0_addr: 10.0.0.{}\n  }}\n",
            9 + number
        )
    };
    format!(
        "totem {{\n  version: 2\n  cluster_name: ctsync\n  transport: knet\n  crypto_cipher: none\n  \
         crypto_hash: none\n  token: 1000\n}}\nnodelist {{\n{}{}}}\nquorum {{\n  provider: corosync_votequorum\n  \
         two_node: 1\n}}\nlogging {{\n  to_stderr: yes\n  to_syslog: no\n  timestamp: on\n}}\n",
        node(1),
        node(2)
    )
}

/// A name and a value as the cluster's XML has them.
fn pair(owner: &str, name: &str, value: &str) -> String {
    format!("<nvpair id=\"{owner}-{name}\" name=\"{name}\" value=\"{value}\"/>")
}

fn resources(router: &Router) -> Result<String> {
    let operation = |owner: &str, name: &str, role: &str, interval: &str, timeout: &str| {
        let told = if role.is_empty() { String::new() } else { format!(" role=\"{role}\"") };
        format!(
            "<op id=\"{owner}-{name}{role}\" name=\"{name}\" interval=\"{interval}\" timeout=\"{timeout}\"{told}/>"
        )
    };
    let mut text = format!("<resources><clone id=\"{CLONE}\"><meta_attributes id=\"{CLONE}-meta\">");
    for (name, value) in [("promotable", "true"), ("notify", "true"), ("interleave", "true")] {
        text += &pair(CLONE, name, value);
    }
    text += &format!(
        "</meta_attributes><primitive id=\"{RESOURCE}\" class=\"ocf\" provider=\"ctsync\" type=\"ctsync\">\
         <instance_attributes id=\"{RESOURCE}-told\">{}{}</instance_attributes><operations>",
        pair(RESOURCE, "group", GROUP),
        pair(RESOURCE, "binary", &router.binary()?),
    );
    for (name, role, interval, timeout) in [
        ("monitor", "Promoted", "1s", "10s"),
        ("monitor", "Unpromoted", "2s", "10s"),
        ("start", "", "0", "10s"),
        ("stop", "", "0", "20s"),
        ("promote", "", "0", "60s"),
        ("demote", "", "0", "20s"),
    ] {
        text += &operation(RESOURCE, name, role, interval, timeout);
    }
    text += &format!("</operations></primitive></clone><group id=\"{ADDRESSES}\">");
    for instance in &router.told.instances {
        for address in &instance.addresses {
            let (address, prefix) = crate::routers::documented::split_address(address)?;
            let name = format!("address-{}", instance.name);
            text += &format!(
                "<primitive id=\"{name}\" class=\"ocf\" provider=\"heartbeat\" type=\"IPaddr2\">\
                 <instance_attributes id=\"{name}-told\">{}{}{}</instance_attributes><operations>{}</operations></primitive>",
                pair(&name, "ip", &address.to_string()),
                pair(&name, "cidr_netmask", &prefix.to_string()),
                pair(&name, "nic", &instance.interface),
                operation(&name, "monitor", "", "2s", "10s"),
            );
        }
    }
    Ok(text + "</group></resources>")
}

/// The addresses are where the promoted one is, and come after the promotion: when they are there, the fence
/// is closed.
fn constraints() -> String {
    format!(
        "<constraints><rsc_colocation id=\"together\" score=\"INFINITY\" rsc=\"{ADDRESSES}\" with-rsc=\"{CLONE}\" \
         with-rsc-role=\"Promoted\"/><rsc_order id=\"fence-first\" kind=\"Mandatory\" first=\"{CLONE}\" \
         first-action=\"promote\" then=\"{ADDRESSES}\" then-action=\"start\"/></constraints>"
    )
}

/// A command of the cluster on a router: what it printed.
pub(crate) fn run(router: &Router, program: &str, arguments: &[&str]) -> Result<String> {
    router.node.output(program, arguments)
}

/// Until the cluster has nothing more to do.
pub(crate) fn settle(router: &Router) -> Result<()> {
    run(router, "crm_resource", &["--wait", "--timeout=60s"]).map(|_| ())
}

/// The name of the router whose daemon's instance is promoted, as the cluster sees it.
pub(crate) fn promoted(router: &Router) -> Result<Option<String>> {
    let found = run(router, "crm_resource", &["--resource", CLONE, "--locate"])?;
    let line = found.lines().find(|line| line.trim_end().ends_with("Promoted"));
    // "resource ctsync-clone is running on: router1 Promoted"
    Ok(line.and_then(|line| line.split_whitespace().rev().nth(1)).map(str::to_owned))
}

/// Call the agent by hand, as an instance of its own, so that the cluster's own is left alone: its exit code.
pub(crate) fn call_agent(
    router: &Router,
    instance: &str,
    action: &str,
    parameters: &[(&str, &str)],
) -> Result<i32> {
    let mut arguments = vec![
        "OCF_ROOT=/usr/lib/ocf".to_owned(),
        format!("OCF_RESOURCE_INSTANCE={instance}"),
        "OCF_RESKEY_CRM_meta_timeout=4000".to_owned(),
        format!("OCF_RESKEY_binary={}", router.binary()?),
    ];
    arguments.extend(parameters.iter().map(|(name, value)| format!("OCF_RESKEY_{name}={value}")));
    arguments.extend([format!("{AGENTS}/ctsync/ctsync"), action.to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Ok(router.node.try_run("env", &arguments, "")?.0)
}

/// What the cluster's programs said, for a failure's report.
pub(crate) fn diagnosis(node: &Node) -> String {
    let mut text = format!("=== {} cluster\n", node.name);
    for (program, arguments) in [
        ("crm_mon", &["--one-shot", "--show-node-attributes", "--failcounts"][..]),
        ("crm_resource", &["--constraints", "--resource", CLONE]),
    ] {
        let told = node.try_run(program, arguments, "").map(|(_, out, err)| out + &err);
        text += &format!("--- {program}\n{}\n", told.unwrap_or_else(|error| format!("{error:#}")).trim_end());
    }
    for program in ["corosync", "pacemakerd"] {
        text += &format!("--- {program}.log\n{}\n", node.log_tail(program).unwrap_or_default());
    }
    let log = std::fs::read_to_string(node.directory.join("cluster/var-log/pacemaker.log"));
    let lines: Vec<String> = log.unwrap_or_default().lines().map(str::to_owned).collect();
    let last = lines.get(lines.len().saturating_sub(120)..).unwrap_or_default().join("\n");
    text + &format!("--- pacemaker.log\n{last}\n")
}
