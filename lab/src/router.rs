//! A router: a node with the documented addresses, a firewall that makes a missed entry fatal, keepalived and
//! ctsync. All written from its [`Description`].

use std::net::IpAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ctsync::control::{self, Request};
use serde_json::Value;

use crate::documented::{Description, Figure, Instance, split_address};
use crate::frr;
use crate::heartbeat;
use crate::incumbent;
use crate::net::Links;
use crate::node::Node;
use crate::sandbox;

/// What moves the virtual addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mover {
    Keepalived,
    Heartbeat,
    Frr,
    /// Nothing does by itself: the story.
    Story,
}

/// How keepalived does VRRP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Vrrp {
    /// 2 or 3.
    pub version: u8,
    /// To the other router's address instead of the multicast group.
    pub unicast: bool,
    /// A router that returns takes the addresses back.
    pub preempt: bool,
    /// In sync groups; else the first instance moves all addresses.
    pub grouped: bool,
    /// The IPv6 addresses have instances of their own.
    pub native6: bool,
    /// `fifo_write_vrrp_states_on_reload`.
    pub tells_on_reload: bool,
}

impl Default for Vrrp {
    fn default() -> Vrrp {
        Vrrp {
            version: 3,
            unicast: false,
            preempt: true,
            grouped: true,
            native6: false,
            tells_on_reload: true,
        }
    }
}

/// What a story changes about its routers.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// VRRP advertisement interval in seconds.
    pub advert: f64,
    /// Start ctsync at all.
    pub sync: bool,
    /// conntrackd in ctsync's place.
    pub incumbent: bool,
    /// How it is set up.
    pub incumbent_shape: incumbent::Shape,
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
    /// `hold`: packets wait at a takeover until the fence is closed.
    pub hold: bool,
    /// `window-tracking`.
    pub window_tracking: bool,
    /// Which routers.
    pub figure: Figure,
    /// What moves the virtual addresses.
    pub mover: Mover,
    /// How keepalived does VRRP.
    pub vrrp: Vrrp,
    /// `masquerade` in place of source NAT; the routers' own WAN addresses are such that it takes the virtual one.
    pub masquerade: bool,
    /// An interface of its own for the channel, `chan0`.
    pub channel: bool,
    /// `set service conntrack-sync` lines beside the documented ones. A `failover-mechanism` among them is in its place.
    pub lines: &'static [&'static str],
    /// Rules beside the documented ones.
    pub rules: &'static str,
    /// What the daemon's key file holds; none: the channel is open.
    pub key: Option<String>,
    /// The daemon's binary.
    pub ctsync: PathBuf,
    /// The daemon is a user of its own with one capability, as a hardened unit runs it.
    pub unprivileged: bool,
}

/// The user of an unprivileged daemon; its capabilities are those of the NixOS module's unit.
const NOBODY: u32 = 65534;
const UNPRIVILEGED: [&str; 8] = [
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all,+net_admin",
    "--ambient-caps=-all,+net_admin",
    "--bounding-set=-all,+net_admin",
    "--no-new-privs",
    "--",
];

impl Options {
    /// A pair as it should be, with quick elections.
    pub(crate) fn usual(ctsync: PathBuf) -> Options {
        Options {
            advert: 0.2,
            sync: true,
            incumbent: false,
            incumbent_shape: incumbent::Shape::default(),
            install: true,
            gate: true,
            invalid_drop_on_input: true,
            metrics: false,
            everything: false,
            hold: false,
            window_tracking: false,
            figure: Figure::Documented,
            mover: Mover::Keepalived,
            vrrp: Vrrp::default(),
            masquerade: false,
            channel: false,
            lines: &[],
            rules: "",
            key: None,
            unprivileged: false,
            ctsync,
        }
    }
}

/// One of the two routers.
pub(crate) struct Router {
    pub node: Node,
    pub told: Description,
    options: Options,
    /// Where its `/etc/keepalived` is seen from outside.
    keepalived_directory: Option<PathBuf>,
}

impl Router {
    /// Give a node its addresses and switch forwarding on. Cables must be plugged.
    pub(crate) async fn configure(node: Node, told: Description, options: &Options) -> Result<Router> {
        let links = Links::open(&node.net)?;
        for (interface, address) in &told.addresses {
            let (address, prefix) = split_address(address)?;
            // The kernel masquerades to an address of the next hop's network (`inet_select_addr`).
            let narrow = options.masquerade && interface == "eth0" && address.is_ipv4();
            links.add_address(interface, address, if narrow { 32 } else { prefix }).await?;
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
        let keepalived = options.mover == Mover::Keepalived;
        let keepalived_directory = keepalived.then(|| node.own("/etc/keepalived")).transpose()?;
        let router = Router { node, told, options: options.clone(), keepalived_directory };
        if options.channel {
            router.make_channel()?;
        }
        Ok(router)
    }

    /// What it is to be from now on; takes effect where something is started again.
    pub(crate) fn set_options(&mut self, options: &Options) {
        self.options = options.clone();
    }

    /// The channel's own interface, made anew.
    pub(crate) fn make_channel(&self) -> Result<()> {
        self.node
            .output("ip", &["link", "add", "chan0", "link", "eth0", "type", "macvlan", "mode", "bridge"])?;
        self.raise_channel()
    }

    /// ... up, with its address.
    pub(crate) fn raise_channel(&self) -> Result<()> {
        let address = if self.told.name == "router1" { "192.168.7.1/24" } else { "192.168.7.2/24" };
        self.node.output("ip", &["link", "set", "chan0", "up"])?;
        self.node.output("ip", &["address", "replace", address, "dev", "chan0"]).map(|_| ())
    }

    /// The state policy and NAT as nftables rules: from here on connections are tracked.
    pub(crate) fn load_firewall(&self) -> Result<()> {
        let rules = format!("{}{}", self.ruleset(), self.options.rules);
        self.node.feed("nft", &["-f", "-"], &rules).map(|_| ())
    }

    /// Ports and ICMP ids are translated at random: a connection whose entry is missed cannot get its old port back
    /// by luck, so that UDP and ping need their entries as much as TCP does.
    fn ruleset(&self) -> String {
        let translations: String = self
            .told
            .source_nat
            .values()
            .map(|rule| {
                let to = if self.options.masquerade {
                    "masquerade".to_owned()
                } else {
                    format!("snat ip to {}", rule.translation)
                };
                format!("    oifname {} ip saddr {} {to} fully-random\n", rule.outbound, rule.source)
            })
            .collect();
        let outbound = self.told.source_nat.values().next().map_or("eth0", |rule| rule.outbound.as_str());
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
             chain postrouting {{\n    type nat hook postrouting priority 100;\n{translations}  }}\n}}\n",
            forward = policy("forward"),
            input = policy("input"),
            output = policy("output").replace("invalid counter drop", "invalid counter accept"),
        )
    }

    /// A hash of the rules as the kernel lists them, counters left out.
    pub(crate) fn ruleset_hash(&self) -> Result<String> {
        use std::hash::{Hash, Hasher};
        let listing = self.node.output("nft", &["--stateless", "list", "ruleset"])?;
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        listing.hash(&mut hasher);
        Ok(format!("{:016x}", hasher.finish()))
    }

    /// Packets that went through the forward chain.
    pub(crate) fn carried(&self) -> Result<u64> {
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
        lines.extend(self.options.lines.iter().map(|line| (*line).to_owned()));
        let mut text = self.told.text.clone();
        for line in self.options.lines {
            text = without(&text, line.split(' ').next().unwrap_or(line));
        }
        if self.options.window_tracking {
            lines.push("window-tracking".into());
        }
        if self.options.hold {
            lines.push("hold".into());
            for address in self.vips().unwrap_or_default() {
                lines.push(format!("failover-mechanism vrrp virtual-address {address}"));
            }
        }
        if self.options.everything {
            lines.push("expect-sync all".into());
            text = without(&text, "accept-protocol");
        }
        let ours: String = lines.iter().map(|line| format!("set service conntrack-sync {line}\n")).collect();
        format!("{}\n# The lab's.\n{ours}", text.trim_end())
    }

    /// Where the daemon's metrics are scraped, when [`Options::metrics`] is set.
    pub(crate) fn metrics_address(&self) -> String {
        let own = self.told.addresses.first().and_then(|(_, address)| address.split('/').next());
        format!("{}:9338", own.unwrap_or("127.0.0.1"))
    }

    /// Start the daemon.
    pub(crate) fn start_ctsync(&mut self) -> Result<()> {
        if !self.options.sync {
            return Ok(());
        }
        let config = self.config_path();
        std::fs::write(&config, self.config())?;
        // It is there before either runs, as on a real router.
        self.write_keepalived()?;
        if let Some(key) = &self.options.key {
            self.write_key(key)?;
        }
        let binary = self.binary()?;
        let run = [binary.as_str(), "run", "--config", &config];
        if self.options.unprivileged {
            self.give_away()?;
            return self.node.start("ctsync", "setpriv", &[&UNPRIVILEGED[..], &run].concat());
        }
        let [program, arguments @ ..] = run;
        self.node.start("ctsync", program, &arguments)
    }

    /// What systemd and a boot do for an unprivileged daemon: a directory in `/run`, its key, the setting that it may not write.
    fn give_away(&self) -> Result<()> {
        ensure!(!sandbox::is_rootless(), "a daemon without privileges is another user, which needs root");
        let own = |path: &Path| {
            chown(path, Some(NOBODY), Some(NOBODY)).with_context(|| format!("chown {}", path.display()))
        };
        let run = self.node.run_directory().join("ctsync");
        std::fs::create_dir_all(&run)?;
        own(&run)?;
        if self.options.key.is_some() {
            own(&self.key_path())?;
        }
        self.node.net.sysctl("net/netfilter/nf_conntrack_events", "1")
    }

    /// Start conntrackd in its place.
    pub(crate) async fn start_incumbent(&mut self) -> Result<()> {
        // Its own addresses, not the virtual ones: what is translated to those would be left out too.
        let own = self.told.addresses.iter().map(|(_, address)| Ok(split_address(address)?.0.to_string()));
        let own: Vec<String> = own.collect::<Result<_>>()?;
        let address = own.first().cloned().context("no address")?;
        incumbent::start(&mut self.node, &address, &own, self.options.incumbent_shape).await
    }

    /// Start conntrackd again after it was killed.
    pub(crate) async fn restart_incumbent(&mut self) -> Result<()> {
        incumbent::restart(&mut self.node).await
    }

    fn key_path(&self) -> PathBuf {
        self.node.directory.join("key")
    }

    /// What the daemon's key file holds from now on; a reload reads it.
    pub(crate) fn write_key(&self, text: &str) -> Result<()> {
        let path = self.key_path();
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(())
    }

    /// The daemon's configuration file.
    pub(crate) fn config_path(&self) -> String {
        self.node.directory.join("router.set").to_string_lossy().into_owned()
    }

    /// The daemon's program.
    pub(crate) fn binary(&self) -> Result<String> {
        Ok(self.options.ctsync.to_str().context("the path of ctsync is not UTF-8")?.to_owned())
    }

    /// keepalived's configuration, as `docs/operation.md` describes it.
    pub(crate) fn keepalived(&self) -> String {
        let vrrp = self.options.vrrp;
        let instances = self.instances();
        let mut text = format!("global_defs {{\n  vrrp_version {}\n", vrrp.version);
        if self.tells_role() {
            text += "  vrrp_notify_fifo /run/ctsync/vrrp.fifo\n";
            if vrrp.tells_on_reload {
                text += "  fifo_write_vrrp_states_on_reload\n";
            }
        }
        text += "}\n";
        let trackers = if vrrp.grouped { self.told.sync_groups.len().max(1) } else { 1 };
        let tracker = |number: usize| match self.told.sync_groups.get(number) {
            Some(group) if number > 0 => format!("ctsync_{}", group.name),
            _ => "ctsync".to_owned(),
        };
        for number in 0..if self.gated() { trackers } else { 0 } {
            let file = tracker(number).replace("ctsync", "vrrp").replace('_', "-");
            text += &format!(
                "track_file {} {{\n  file /run/ctsync/{file}.track\n  weight 1\n}}\n",
                tracker(number)
            );
        }
        let notify = if self.options.incumbent {
            let script = incumbent::script(&self.node);
            [("master", "primary"), ("backup", "backup"), ("fault", "fault")]
                .map(|(event, role)| format!("  notify_{event} \"{script} {role}\"\n"))
                .concat()
        } else {
            String::new()
        };
        for (number, group) in self.told.sync_groups.iter().enumerate().filter(|_| vrrp.grouped) {
            let mut members = group.members.clone();
            if vrrp.native6 {
                members.extend(group.members.iter().map(|member| format!("{member}6")));
            }
            text += &format!("vrrp_sync_group {} {{\n  group {{ {} }}\n", group.name, members.join(" "));
            if self.gated() {
                // Without this keepalived ignores the weight and goes to FAULT when the value drops.
                text += &format!(
                    "  sync_group_tracking_weight\n  track_file {{ {} weight 1 }}\n",
                    tracker(number)
                );
            }
            text += &format!("{notify}}}\n");
        }
        let alone = match (vrrp.grouped, self.gated()) {
            (true, _) => String::new(),
            (false, true) => format!("  track_file {{ ctsync weight 1 }}\n{notify}"),
            (false, false) => notify,
        };
        for instance in &instances {
            text += &self.instance(instance, &alone);
        }
        text
    }

    /// As the documented file has them, or rearranged.
    fn instances(&self) -> Vec<Instance> {
        let vrrp = self.options.vrrp;
        let mut all = self.told.instances.clone();
        if vrrp.native6 {
            let six: Vec<Instance> = all
                .iter_mut()
                .map(|instance| Instance {
                    name: format!("{}6", instance.name),
                    // RFC 9568, 5.2.9: the first address is link-local.
                    addresses: std::iter::once(format!("fe80::{}/64", instance.vrid))
                        .chain(std::mem::take(&mut instance.excluded))
                        .collect(),
                    vrid: instance.vrid + 100,
                    ..instance.clone()
                })
                .collect();
            all.extend(six);
        }
        if !vrrp.grouped {
            let mut rest = all.split_off(1);
            if let Some(first) = all.first_mut() {
                for instance in &mut rest {
                    let addresses = instance.addresses.drain(..).chain(instance.excluded.drain(..));
                    first
                        .excluded
                        .extend(addresses.map(|address| format!("{address} dev {}", instance.interface)));
                }
            }
        }
        all
    }

    fn instance(&self, instance: &Instance, alone: &str) -> String {
        let vrrp = self.options.vrrp;
        let list = |addresses: &[String]| -> String {
            addresses
                .iter()
                .map(|address| {
                    let at = if address.contains(" dev ") {
                        String::new()
                    } else {
                        format!(" dev {}", instance.interface)
                    };
                    format!("    {address}{at}\n")
                })
                .collect()
        };
        let mut text = format!(
            "vrrp_instance {} {{\n  state BACKUP\n  interface {}\n  virtual_router_id {}\n  priority {}\n  \
             advert_int {}\n",
            instance.name, instance.interface, instance.vrid, instance.priority, self.options.advert,
        );
        if !vrrp.preempt {
            text += "  nopreempt\n";
        }
        if vrrp.unicast {
            let v6 = instance.addresses.iter().any(|address| address.contains(':'));
            let own =
                self.told.addresses.iter().find(|(interface, address)| {
                    *interface == instance.interface && address.contains(':') == v6
                });
            let own = own.and_then(|(_, address)| address.split('/').next()).unwrap_or_default();
            // The routers are .10 and .11 of every network.
            let peer = match own.strip_suffix('0') {
                Some(start) => format!("{start}1"),
                None => own.strip_suffix('1').map(|start| format!("{start}0")).unwrap_or_default(),
            };
            text += &format!("  unicast_src_ip {own}\n  unicast_peer {{\n    {peer}\n  }}\n");
        }
        text += alone;
        text += &format!("  virtual_ipaddress {{\n{}  }}\n", list(&instance.addresses));
        if !instance.excluded.is_empty() {
            text += &format!("  virtual_ipaddress_excluded {{\n{}  }}\n", list(&instance.excluded));
        }
        text + "}\n"
    }

    /// keepalived tells the daemon; else the daemon looks at the addresses, or is told by hand.
    fn tells_role(&self) -> bool {
        let mut lines = self.options.lines.iter().filter(|line| line.starts_with("failover-mechanism"));
        self.options.sync && lines.all(|line| line.starts_with("failover-mechanism vrrp"))
    }

    fn gated(&self) -> bool {
        self.tells_role() && self.options.gate
    }

    /// Start what moves the virtual addresses; ctsync must run.
    pub(crate) async fn start_mover(&mut self) -> Result<()> {
        match self.options.mover {
            Mover::Keepalived => self.start_keepalived(),
            Mover::Heartbeat => heartbeat::start(self, self.options.sync).await,
            Mover::Frr => frr::start(self).await,
            Mover::Story => Ok(()),
        }
    }

    /// Start keepalived; ctsync must have made its files.
    pub(crate) fn start_keepalived(&mut self) -> Result<()> {
        self.write_keepalived()?;
        let arguments = [
            "--dont-fork",
            "--log-console",
            "--log-detail",
            "--pid",
            "/run/keepalived.pid",
            "--vrrp_pid",
            "/run/keepalived_vrrp.pid",
        ];
        self.node.start("keepalived", "keepalived", &arguments)
    }

    /// keepalived's configuration file, where it looks by itself.
    pub(crate) fn write_keepalived(&self) -> Result<()> {
        let Some(own) = &self.keepalived_directory else { return Ok(()) };
        Ok(std::fs::write(own.join("keepalived.conf"), self.keepalived())?)
    }

    /// Where the daemon's control socket is seen from outside.
    pub(crate) fn control(&self) -> PathBuf {
        self.node.run_directory().join("ctsync/control.sock")
    }

    /// `ctsync status --json`, without a process.
    pub(crate) async fn status(&self) -> Result<Value> {
        Ok(control::ask(&self.control(), &Request::Status, Duration::from_secs(5)).await?)
    }

    /// `ctsync show conntrack-sync statistics --json`, without a process.
    pub(crate) async fn statistics(&self) -> Result<Value> {
        Ok(control::ask(&self.control(), &Request::Statistics, Duration::from_secs(5)).await?)
    }

    /// One of its counters.
    pub(crate) async fn counter(&self, name: &str) -> Result<u64> {
        let statistics = self.statistics().await?;
        let counters = statistics["counters"].as_array().map_or(&[][..], Vec::as_slice);
        let found = counters.iter().find(|pair| pair[0] == name).and_then(|pair| pair[1].as_u64());
        found.with_context(|| format!("{} has no counter {name}", self.told.name))
    }

    /// Type a command on the router: what was printed, good or bad.
    pub(crate) fn type_command(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let (code, out, err) = self.node.try_run(&self.binary()?, arguments, "")?;
        Ok((code, out + &err))
    }

    /// The story moves the virtual addresses: here, or away.
    pub(crate) fn move_addresses(&self, here: bool) -> Result<()> {
        let verb = if here { "replace" } else { "del" };
        let mut commands = String::new();
        for instance in &self.told.instances {
            for address in instance.addresses.iter().chain(&instance.excluded) {
                let nodad = if here && address.contains(':') { " nodad" } else { "" };
                commands += &format!("address {verb} {address} dev {}{nodad}\n", instance.interface);
            }
        }
        self.node.feed("ip", &["-batch", "-"], &commands).map(|_| ())
    }

    /// Whether the first virtual address is here.
    pub(crate) async fn has_vip(&self) -> Result<bool> {
        let vip = self.vips()?.into_iter().next().context("no virtual address")?;
        Links::open(&self.node.net)?.has_address(vip).await
    }

    /// The virtual addresses.
    pub(crate) fn vips(&self) -> Result<Vec<IpAddr>> {
        let instances = self.told.instances.iter();
        let all = instances.flat_map(|instance| instance.addresses.iter().chain(&instance.excluded));
        let all = all.chain(&self.told.cluster.services);
        // A service of a cluster has its interface behind the prefix length.
        all.map(|address| Ok(address.split('/').next().unwrap_or_default().parse()?)).collect()
    }

    /// Every address that is a router's own.
    pub(crate) fn own_addresses(&self) -> Result<Vec<String>> {
        let mut own = Vec::new();
        for (_, address) in &self.told.addresses {
            own.push(split_address(address)?.0.to_string());
        }
        own.extend(self.vips()?.iter().map(IpAddr::to_string));
        Ok(own)
    }

    /// A word for the log when something must be running and is not.
    pub(crate) fn must_run(&self, program: &str) -> Result<()> {
        if !self.node.runs(program) {
            let log = std::fs::read_to_string(self.node.log_path(program)).unwrap_or_default();
            bail!("{program} ended on {}: {}", self.node.name, log.lines().last().unwrap_or("no output"));
        }
        Ok(())
    }

    /// Everything about this router, for a failure's report.
    pub(crate) fn diagnosis(&self) -> String {
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
        for program in ["keepalived", "heartbeat"] {
            if self.node.log_path(program).exists() {
                show(&format!("{program}.log"), self.node.log_tail(program));
            }
        }
        text
    }
}

/// The file without lines of this option.
fn without(text: &str, option: &str) -> String {
    text.lines().filter(|line| !line.contains(option)).fold(String::new(), |all, line| all + line + "\n")
}
