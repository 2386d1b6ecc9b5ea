//! A router: a node with the documented addresses, a firewall that makes a missed entry fatal, keepalived and
//! ctsync. All written from its [`Description`].
//!
//! Here: its addresses, and what can be seen of it. What runs on it has a file each, and conntrackd, which
//! may stand in ctsync's place, is in `incumbent`.

mod daemon;
mod firewall;
mod keepalived;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::machine::net::Links;
use crate::machine::node::Node;
use crate::routers::documented::{Description, split_address};
use crate::routers::incumbent;
use crate::routers::options::{Mover, Options};
use crate::story::narrator::Narrator;

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

    /// What it is to be.
    pub(crate) fn options(&self) -> &Options {
        &self.options
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

    /// Type a command on it and show what it prints.
    pub(crate) fn tell(&self, narrator: &Narrator, arguments: &[&str]) -> Result<(i32, String)> {
        let (code, out) = self.type_command(arguments)?;
        narrator.printed(&self.told.name, &format!("ctsync {}", arguments.join(" ")), &out);
        Ok((code, out))
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
