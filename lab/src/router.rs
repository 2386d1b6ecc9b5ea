//! A router: a node with the documented addresses, a firewall that makes a missed entry fatal, keepalived and
//! ctsync. All written from its [`Description`].

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ctsync::control::{self, Request};
use serde_json::Value;

use crate::documented::{Description, split_address};
use crate::incumbent;
use crate::net::Links;
use crate::node::Node;

/// What a story changes about its routers.
#[derive(Clone, Debug)]
pub struct Options {
    /// VRRP advertisement interval in seconds.
    pub advert: f64,
    /// Start ctsync at all.
    pub sync: bool,
    /// conntrackd in ctsync's place.
    pub incumbent: bool,
    /// Install entries at once; else only after the VIP has moved.
    pub install: bool,
    /// Let keepalived see readiness.
    pub gate: bool,
    /// Drop invalid packets that are addressed to the router.
    pub invalid_drop_on_input: bool,
    /// Let the daemon serve metrics.
    pub metrics: bool,
    /// Synchronise every protocol, and expectations: the documented file names a few protocols only.
    pub everything: bool,
    /// `window-tracking`.
    pub window_tracking: bool,
    /// Rules beside the documented ones.
    pub rules: &'static str,
    /// What the daemon's key file holds; none: the channel is open.
    pub key: Option<String>,
    /// The daemon's binary.
    pub ctsync: PathBuf,
}

impl Options {
    /// A pair as it should be, with quick elections.
    pub fn usual(ctsync: PathBuf) -> Options {
        Options {
            advert: 0.2,
            sync: true,
            incumbent: false,
            install: true,
            gate: true,
            invalid_drop_on_input: true,
            metrics: false,
            everything: false,
            window_tracking: false,
            rules: "",
            key: None,
            ctsync,
        }
    }
}

/// One of the two routers.
pub struct Router {
    pub node: Node,
    pub told: Description,
    options: Options,
}

impl Router {
    /// Give a node its addresses and switch forwarding on. Cables must be plugged.
    pub async fn configure(node: Node, told: Description, options: &Options) -> Result<Router> {
        let links = Links::open(&node.net)?;
        for (interface, address) in &told.addresses {
            let (address, prefix) = split_address(address)?;
            links.add_address(interface, address, prefix).await?;
        }
        for (name, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // Both interfaces see both networks' ARP otherwise.
            ("net/ipv4/conf/all/arp_ignore", "1"),
            ("net/netfilter/nf_conntrack_tcp_loose", if told.tcp_loose { "1" } else { "0" }),
        ] {
            node.net.sysctl(name, value)?;
        }
        Ok(Router { node, told, options: options.clone() })
    }

    /// The state policy and NAT as nftables rules: from here on connections are tracked.
    pub fn load_firewall(&self) -> Result<()> {
        let rules = format!("{}{}", self.ruleset(), self.options.rules);
        self.node.feed("nft", &["-f", "-"], &rules).map(|_| ())
    }

    /// Ports and ICMP ids are translated at random: a connection whose entry is missed cannot get its old port back
    /// by luck, so that UDP and ping need their entries as much as TCP does.
    fn ruleset(&self) -> String {
        let (outbound, source, translation) = &self.told.source_nat;
        let policy = |chain: &str| -> String {
            let rules = self.told.state_policy.iter().filter(|(state, _)| {
                chain != "input" || state != "invalid" || self.options.invalid_drop_on_input
            });
            rules.map(|(state, action)| format!("    ct state {state} counter {action}\n")).collect()
        };
        format!(
            "table inet vyos {{\n  counter carried {{ }}\n  \
             chain forward {{\n    type filter hook forward priority 0; policy drop;\n    counter name carried\n\
             {forward}    iifname eth1 oifname {outbound} ct state new counter accept\n  }}\n  \
             chain input {{\n    type filter hook input priority 0; policy accept;\n{input}  }}\n  \
             chain output {{\n    type filter hook output priority 0; policy accept;\n{output}  }}\n  \
             chain postrouting {{\n    type nat hook postrouting priority 100;\n    \
             oifname {outbound} ip saddr {source} snat ip to {translation} fully-random\n  }}\n}}\n",
            forward = policy("forward"),
            input = policy("input"),
            output = policy("output").replace("invalid counter drop", "invalid counter accept"),
        )
    }

    /// A hash of the rules as the kernel lists them, counters left out.
    pub fn ruleset_hash(&self) -> Result<String> {
        use std::hash::{Hash, Hasher};
        let listing = self.node.output("nft", &["--stateless", "list", "ruleset"])?;
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        listing.hash(&mut hasher);
        Ok(format!("{:016x}", hasher.finish()))
    }

    /// Packets that went through the forward chain.
    pub fn carried(&self) -> Result<u64> {
        let listing = self.node.output("nft", &["--json", "list", "counters"])?;
        let value: Value = serde_json::from_str(&listing)?;
        let counters = value["nftables"].as_array().into_iter().flatten();
        let packets = counters.filter_map(|item| item["counter"]["packets"].as_u64()).sum();
        Ok(packets)
    }

    /// The daemon's configuration: the documented file, and where the lab wants things otherwise.
    fn config(&self) -> String {
        let mut lines = vec![format!("node {}", self.told.name)];
        if !self.options.install {
            lines.push("standby cold".into());
        }
        if self.options.metrics {
            lines.push(format!("metrics-listen {}", self.metrics_address()));
        }
        if self.options.key.is_some() {
            lines.push(format!("key-file {}", self.key_path().display()));
        }
        let mut text = self.told.text.clone();
        if self.options.window_tracking {
            lines.push("window-tracking".into());
        }
        if self.options.everything {
            lines.push("expect-sync all".into());
            text = text
                .lines()
                .filter(|line| !line.contains("accept-protocol"))
                .fold(String::new(), |all, line| all + line + "\n");
        }
        let ours: String = lines.iter().map(|line| format!("set service conntrack-sync {line}\n")).collect();
        format!("{}\n# The lab's.\n{ours}", text.trim_end())
    }

    /// Where the daemon's metrics are scraped, when [`Options::metrics`] is set.
    pub fn metrics_address(&self) -> String {
        let own = self.told.addresses.first().and_then(|(_, address)| address.split('/').next());
        format!("{}:9338", own.unwrap_or("127.0.0.1"))
    }

    /// Start the daemon.
    pub fn start_ctsync(&mut self) -> Result<()> {
        if !self.options.sync {
            return Ok(());
        }
        let config = self.config_path();
        std::fs::write(&config, self.config())?;
        if let Some(key) = &self.options.key {
            self.write_key(key)?;
        }
        let binary = self.binary()?;
        self.node.start("ctsync", &binary, &["run", "--config", &config])
    }

    /// Start conntrackd in its place.
    pub async fn start_incumbent(&mut self) -> Result<()> {
        // Its own addresses, not the virtual ones: what is translated to those would be left out too.
        let own = self.told.addresses.iter().map(|(_, address)| Ok(split_address(address)?.0.to_string()));
        let own: Vec<String> = own.collect::<Result<_>>()?;
        let address = own.first().cloned().context("no address")?;
        incumbent::start(&mut self.node, &address, &own).await
    }

    /// Start conntrackd again after it was killed.
    pub async fn restart_incumbent(&mut self) -> Result<()> {
        incumbent::restart(&mut self.node).await
    }

    fn key_path(&self) -> PathBuf {
        self.node.directory.join("key")
    }

    /// What the daemon's key file holds from now on; a reload reads it.
    pub fn write_key(&self, text: &str) -> Result<()> {
        let path = self.key_path();
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(())
    }

    /// The daemon's configuration file.
    pub fn config_path(&self) -> String {
        self.node.directory.join("router.set").to_string_lossy().into_owned()
    }

    /// The daemon's program.
    pub fn binary(&self) -> Result<String> {
        Ok(self.options.ctsync.to_str().context("the path of ctsync is not UTF-8")?.to_owned())
    }

    /// keepalived's configuration, as `docs/operation.md` describes it.
    fn keepalived(&self) -> String {
        let Description { instances, sync_group, .. } = &self.told;
        let mut text = String::from("global_defs {\n  vrrp_version 3\n");
        if self.options.sync {
            text += "  vrrp_notify_fifo /run/ctsync/vrrp.fifo\n";
        }
        text += "}\n";
        if self.gated() {
            text += "vrrp_track_file ctsync {\n  file /run/ctsync/vrrp.track\n  weight 1\n}\n";
        }
        let members: Vec<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
        text += &format!("vrrp_sync_group {sync_group} {{\n  group {{ {} }}\n", members.join(" "));
        if self.gated() {
            // Without this keepalived ignores the weight and goes to FAULT when the value drops.
            text += "  sync_group_tracking_weight\n  track_file { ctsync weight 1 }\n";
        }
        if self.options.incumbent {
            let script = incumbent::script(&self.node);
            for (event, role) in [("master", "primary"), ("backup", "backup"), ("fault", "fault")] {
                text += &format!("  notify_{event} \"{script} {role}\"\n");
            }
        }
        text += "}\n";
        for instance in instances {
            let list = |addresses: &[String]| -> String {
                addresses
                    .iter()
                    .map(|address| format!("    {address} dev {}\n", instance.interface))
                    .collect()
            };
            text += &format!(
                "vrrp_instance {} {{\n  state BACKUP\n  interface {}\n  virtual_router_id {}\n  priority {}\n  \
                 advert_int {}\n  virtual_ipaddress {{\n{}  }}\n  virtual_ipaddress_excluded {{\n{}  }}\n}}\n",
                instance.name,
                instance.interface,
                instance.vrid,
                instance.priority,
                self.options.advert,
                list(&instance.addresses),
                list(&instance.excluded),
            );
        }
        text
    }

    fn gated(&self) -> bool {
        self.options.sync && self.options.gate
    }

    /// Start keepalived; ctsync must have made its files.
    pub fn start_keepalived(&mut self) -> Result<()> {
        let path = self.keepalived_path();
        std::fs::write(&path, self.keepalived())?;
        let arguments = [
            "--dont-fork",
            "--log-console",
            "--log-detail",
            "--use-file",
            &path,
            "--pid",
            "/run/keepalived.pid",
            "--vrrp_pid",
            "/run/keepalived_vrrp.pid",
        ];
        self.node.start("keepalived", "keepalived", &arguments)
    }

    /// keepalived's configuration file.
    pub fn keepalived_path(&self) -> String {
        self.node.directory.join("keepalived.conf").to_string_lossy().into_owned()
    }

    /// Where the daemon's control socket is seen from outside.
    pub fn control(&self) -> PathBuf {
        self.node.run_directory().join("ctsync/control.sock")
    }

    /// `ctsync status --json`, without a process.
    pub async fn status(&self) -> Result<Value> {
        Ok(control::ask(&self.control(), &Request::Status, Duration::from_secs(5)).await?)
    }

    /// `ctsync show conntrack-sync statistics --json`, without a process.
    pub async fn statistics(&self) -> Result<Value> {
        Ok(control::ask(&self.control(), &Request::Statistics, Duration::from_secs(5)).await?)
    }

    /// Type a command on the router: what was printed, good or bad.
    pub fn type_command(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let (code, out, err) = self.node.try_run(&self.binary()?, arguments, "")?;
        Ok((code, out + &err))
    }

    /// Whether the first virtual address is here.
    pub async fn has_vip(&self) -> Result<bool> {
        let vip = self.vips()?.into_iter().next().context("no virtual address")?;
        Links::open(&self.node.net)?.has_address(vip).await
    }

    /// The virtual addresses.
    pub fn vips(&self) -> Result<Vec<IpAddr>> {
        let instances = self.told.instances.iter();
        let all = instances.flat_map(|instance| instance.addresses.iter().chain(&instance.excluded));
        all.map(|address| split_address(address).map(|(address, _)| address)).collect()
    }

    /// Every address that is a router's own.
    pub fn own_addresses(&self) -> Result<Vec<String>> {
        let mut own = Vec::new();
        for (_, address) in &self.told.addresses {
            own.push(split_address(address)?.0.to_string());
        }
        own.extend(self.vips()?.iter().map(IpAddr::to_string));
        Ok(own)
    }

    /// A word for the log when something must be running and is not.
    pub fn must_run(&self, program: &str) -> Result<()> {
        if !self.node.runs(program) {
            let log = std::fs::read_to_string(self.node.log_path(program)).unwrap_or_default();
            bail!("{program} ended on {}: {}", self.node.name, log.lines().last().unwrap_or("no output"));
        }
        Ok(())
    }

    /// Everything about this router, for a failure's report.
    pub fn diagnosis(&self) -> String {
        let mut text = format!("=== {}\n", self.node.name);
        let mut show = |title: &str, result: Result<String>| {
            let body = result.unwrap_or_else(|error| format!("{error:#}"));
            text += &format!("--- {title}\n{}\n", body.trim_end());
        };
        show("ctsync status", self.type_command(&["status"]).map(|(_, out)| out));
        show(
            "ctsync statistics",
            self.type_command(&["show", "conntrack-sync", "statistics"]).map(|(_, out)| out),
        );
        show(
            "kernel table, first lines",
            self.node
                .output("conntrack", &["-L"])
                .map(|all| all.lines().take(20).collect::<Vec<_>>().join("\n")),
        );
        show("rules", self.node.output("nft", &["list", "ruleset"]));
        show("tcp_loose", self.node.net.read_sysctl("net/netfilter/nf_conntrack_tcp_loose"));
        show("ctsync.log", self.node.log_tail("ctsync"));
        show("keepalived.log", self.node.log_tail("keepalived"));
        text
    }
}
