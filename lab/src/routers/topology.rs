//! The documented figure: two routers, or three, WAN and LAN between them, a client on the LAN, a server on
//! the WAN.
//!
//! A switch node holds both bridges; cutting a cable is taking its port down there. Called by the stories.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::machine::net::{Links, Namespace};
use crate::machine::node::Node;
use crate::machine::wait::until;
use crate::routers::options::{Mover, Options};
use crate::routers::router::Router;
use crate::routers::{documented, frr, heartbeat};

/// Longest wait for a pair to come up, or for a router to take over.
const START: std::time::Duration = std::time::Duration::from_secs(60);

/// LAN client.
pub(crate) const CLIENT: &str = "10.0.1.100";
/// LAN client, IPv6.
pub(crate) const CLIENT6: &str = "fd00:0:0:b::100";
/// The WAN side's virtual address: how the WAN sees the LAN.
pub(crate) const VIP: &str = "10.0.0.1";
/// WAN server.
pub(crate) const SERVER: &str = "10.0.0.100";
/// WAN server, IPv6.
pub(crate) const SERVER6: &str = "fd00:0:0:a::100";

/// All of it.
pub(crate) struct Topology {
    /// router1 first; none where one is powered off.
    routers: Vec<Option<Router>>,
    pub client: Node,
    pub server: Node,
    switch: Node,
    pub directory: PathBuf,
    pub options: Options,
}

impl Topology {
    /// Build it: routers configured, nothing running on them, no firewall loaded.
    pub(crate) async fn build(directory: &Path, options: &Options) -> Result<Topology> {
        let switch = Node::boot("switch", directory).await?;
        let links = Links::open(&switch.net)?;
        for bridge in ["wan", "lan"] {
            links.add_bridge(bridge).await?;
        }
        let client =
            end_host("client", directory, &links, "lan", [CLIENT, CLIENT6], ["10.0.1.1", "fd00:0:0:b::1"]);
        let client = client.await?;
        let server =
            end_host("server", directory, &links, "wan", [SERVER, SERVER6], ["10.0.0.1", "fd00:0:0:a::1"]);
        let server = server.await?;
        let mut topology = Topology {
            routers: (0..options.routers).map(|_| None).collect(),
            client,
            server,
            switch,
            directory: directory.to_owned(),
            options: options.clone(),
        };
        for number in topology.numbers() {
            topology.boot_router(number).await?;
        }
        Ok(topology)
    }

    /// The routers' numbers, from 1.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.options.routers
    }

    /// All routers lose their power and come back: empty kernels, as `options` are now.
    pub(crate) async fn reboot(&mut self) -> Result<()> {
        self.power_on_all().await?;
        self.start().await
    }

    /// The same, and nothing runs on them yet.
    pub(crate) async fn power_on_all(&mut self) -> Result<()> {
        for number in self.numbers() {
            if self.router(number).is_ok() {
                self.power_off(number).await?;
            }
        }
        for number in self.numbers() {
            self.boot_router(number).await?;
        }
        Ok(())
    }

    /// A router, new as after power on.
    pub(crate) async fn boot_router(&mut self, number: u8) -> Result<()> {
        let told = documented::router(self.options.figure, number)?;
        let node = Node::boot(&told.name, &self.directory).await?;
        quiet_ipv6(&node.net)?;
        let links = Links::open(&self.switch.net)?;
        links.plug(&port(number, "wan"), "wan", &node.net, "eth0").await?;
        links.plug(&port(number, "lan"), "lan", &node.net, "eth1").await?;
        let router = Router::configure(node, told, &self.options).await?;
        *self.place(number)? = Some(router);
        Ok(())
    }

    /// A router that has just booted joins the pair.
    pub(crate) async fn rejoin(&mut self, number: u8) -> Result<()> {
        self.wake(number).await?;
        if self.options.mover == Mover::Frr {
            // vrrpd looks at no file that could lower it: it is started when the router is ready.
            self.router(number)?.node.output(&self.router(number)?.binary()?, &["wait-ready"])?;
        }
        start_mover(self.router_mut(number)?).await
    }

    /// Firewall and ctsync on a router, until the daemon answers.
    pub(crate) async fn wake(&mut self, number: u8) -> Result<()> {
        self.router(number)?.load_firewall()?;
        self.router_mut(number)?.start_ctsync()?;
        let router = self.router(number)?;
        until("ctsync answers", START, async || Ok(Some(router.status().await?))).await.map(|_| ())
    }

    /// One more machine: on the WAN side, where the channel is, or on the LAN side.
    pub(crate) async fn plug_in(&self, name: &str, bridge: &str, address: Ipv4Addr) -> Result<Node> {
        let node = Node::boot(name, &self.directory).await?;
        let links = Links::open(&self.switch.net)?;
        links.plug(name, bridge, &node.net, "eth0").await?;
        Links::open(&node.net)?.add_address("eth0", address.into(), 24).await?;
        Ok(node)
    }

    /// The end hosts forget where the virtual addresses were: the story has moved them, and no VRRP daemon
    /// tells.
    pub(crate) fn forget_neighbours(&self) -> Result<()> {
        for node in [&self.client, &self.server] {
            node.output("ip", &["neighbour", "flush", "dev", "eth0"])?;
        }
        Ok(())
    }

    /// Firewall, ctsync and what moves the addresses on all routers, until router1 is elected.
    pub(crate) async fn start(&mut self) -> Result<()> {
        for number in self.numbers() {
            self.router(number)?.load_firewall()?;
            self.router_mut(number)?.start_ctsync()?;
            if self.options.incumbent {
                self.router_mut(number)?.start_incumbent().await?;
            }
        }
        for number in self.numbers() {
            if self.options.sync {
                let router = self.router(number)?;
                until("ctsync answers", START, async || Ok(Some(router.status().await?))).await?;
            }
            start_mover(self.router_mut(number)?).await?;
        }
        if self.options.mover == Mover::Story {
            return self.router(1)?.move_addresses(true);
        }
        self.wait_elected(1).await
    }

    fn place(&mut self, number: u8) -> Result<&mut Option<Router>> {
        let place = self.routers.get_mut(usize::from(number).wrapping_sub(1));
        place.with_context(|| format!("there is no router{number}"))
    }

    /// A router that is there.
    pub(crate) fn router(&self, number: u8) -> Result<&Router> {
        let place = self.routers.get(usize::from(number).wrapping_sub(1));
        let router = place.and_then(Option::as_ref);
        router.with_context(|| format!("router{number} is powered off"))
    }

    /// A router that is there.
    pub(crate) fn router_mut(&mut self, number: u8) -> Result<&mut Router> {
        self.place(number)?.as_mut().with_context(|| format!("router{number} is powered off"))
    }

    /// The routers that hold the virtual addresses now.
    pub(crate) async fn holders(&self) -> Result<Vec<u8>> {
        let mut holders = Vec::new();
        for number in self.numbers() {
            if let Ok(router) = self.router(number)
                && router.has_vip().await?
            {
                holders.push(number);
            }
        }
        Ok(holders)
    }

    /// Until a router holds the virtual addresses.
    pub(crate) async fn wait_elected(&self, number: u8) -> Result<()> {
        let router = self.router(number)?;
        until(&format!("router{number} holds the virtual addresses"), START, async || {
            if router.options().mover == Mover::Keepalived {
                router.must_run("keepalived")?;
            }
            Ok(self.holders().await?.contains(&number).then_some(()))
        })
        .await
    }

    /// Until a router's daemon owns the group.
    pub(crate) async fn wait_owner(&self, number: u8) -> Result<()> {
        let router = self.router(number)?;
        until(&format!("router{number} owns the group"), START, async || {
            let status = router.status().await?;
            if status["state"]["owner"] == true {
                return Ok(Some(()));
            }
            bail!("{}", status["verdict"])
        })
        .await
    }

    /// Cut both cables of a router at the switch, or plug them in again.
    pub(crate) async fn cables(&self, number: u8, connected: bool) -> Result<()> {
        for side in ["wan", "lan"] {
            self.cable(number, side, connected).await?;
        }
        Ok(())
    }

    /// One of them: `wan` or `lan`.
    pub(crate) async fn cable(&self, number: u8, side: &str, connected: bool) -> Result<()> {
        let links = Links::open(&self.switch.net)?;
        let port = port(number, side);
        if connected { links.up(&port).await } else { links.down(&port).await }
    }

    /// Destroy a router's namespace at once.
    ///
    /// The cables go first: a namespace is taken down in steps, and between two of them it would answer
    /// packets without its rules and its entries, with a RST for instance, which no machine without power
    /// does.
    pub(crate) async fn power_off(&mut self, number: u8) -> Result<()> {
        self.cables(number, false).await?;
        let links = Links::open(&self.switch.net)?;
        for side in ["wan", "lan"] {
            links.delete(&port(number, side)).await?;
        }
        let router = self.place(number)?.take().with_context(|| format!("router{number} is powered off"))?;
        router.node.power_off()
    }

    /// Drop the channel's datagrams between the routers at the switch, or let them pass again.
    pub(crate) fn channel_passes(&self, passes: bool) -> Result<()> {
        let rules = if passes {
            "table bridge cut\ndelete table bridge cut\n"
        } else {
            "table bridge cut { chain forward { type filter hook forward priority 0; \
             udp dport 3780 counter drop; }; }\n"
        };
        self.switch.feed("nft", &["-f", "-"], rules).map(|_| ())
    }

    /// Drop what one router says to another on the channel, at the switch; all others hear it.
    pub(crate) fn channel_is_deaf(&self, from: u8, to: u8) -> Result<()> {
        let rules = format!(
            "table bridge cut {{ chain forward {{ type filter hook forward priority 0; \
             iifname {} oifname {} udp dport 3780 counter drop; }}; }}\n",
            port(from, "wan"),
            port(to, "wan")
        );
        self.switch.feed("nft", &["-f", "-"], &rules).map(|_| ())
    }

    /// Drop the channel's datagrams that are longer than so many bytes, IP header included, at the switch,
    /// which tells nobody.
    pub(crate) fn channel_carries(&self, bytes: u32) -> Result<()> {
        let rules = format!(
            "table bridge cut {{ chain forward {{ type filter hook forward priority 0; \
             udp dport 3780 meta length > {bytes} counter drop; }}; }}\n"
        );
        self.switch.feed("nft", &["-f", "-"], &rules).map(|_| ())
    }

    /// Lose so many of a hundred of the channel's datagrams at the switch, in both directions.
    pub(crate) fn channel_loses(&self, percent: u32) -> Result<()> {
        let rules = format!(
            "table bridge cut {{ chain forward {{ type filter hook forward priority 0; \
             udp dport 3780 numgen random mod 100 < {percent} counter drop; }}; }}\n"
        );
        self.switch.feed("nft", &["-f", "-"], &rules).map(|_| ())
    }

    /// Bytes that all routers have sent towards the WAN side, where the channel is: nearly nothing else is
    /// there in a quiet lab.
    pub(crate) fn channel_bytes(&self) -> Result<u64> {
        let counters = self.switch.net.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let mut all = 0;
        for number in self.numbers() {
            let name = format!("{}:", port(number, "wan"));
            let line = counters.lines().find_map(|line| line.trim_start().strip_prefix(&name));
            let received = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            all += received.context("the switch's counters")?;
        }
        Ok(all)
    }

    /// Every address that is a router's own.
    pub(crate) fn own_addresses(&self) -> Result<Vec<String>> {
        let mut own = Vec::new();
        for router in self.routers.iter().flatten() {
            own.extend(router.own_addresses()?);
        }
        Ok(own)
    }

    /// Everything about all routers, for a failure's report.
    pub(crate) fn diagnosis(&self) -> String {
        let mut all: String = self.routers.iter().flatten().map(Router::diagnosis).collect();
        for (node, program) in [(&self.server, "sshd"), (&self.client, "ssh"), (&self.client, "ping")] {
            let log = node.log_tail(program).unwrap_or_else(|error| format!("{error:#}"));
            all += &format!("=== {} {program}.log\n{log}\n", node.name);
        }
        all
    }

    /// All nodes that can be entered.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        let routers = self.routers.iter().flatten().map(|router| &router.node);
        routers.chain([&self.client, &self.server, &self.switch])
    }
}

/// Start what moves the virtual addresses; ctsync must run.
async fn start_mover(router: &mut Router) -> Result<()> {
    match router.options().mover {
        Mover::Keepalived => router.start_keepalived(),
        Mover::Heartbeat => heartbeat::start(router).await,
        Mover::Frr => frr::start(router).await,
        Mover::Story => Ok(()),
    }
}

fn port(number: u8, side: &str) -> String {
    format!("r{number}-{side}")
}

/// No duplicate address detection, no router advertisements: addresses are usable at once.
fn quiet_ipv6(net: &Namespace) -> Result<()> {
    for place in ["all", "default"] {
        for (name, value) in [("accept_dad", "0"), ("dad_transmits", "0"), ("accept_ra", "0")] {
            net.sysctl(&format!("net/ipv6/conf/{place}/{name}"), value)?;
        }
    }
    Ok(())
}

async fn end_host(
    name: &str,
    directory: &Path,
    switch: &Links,
    bridge: &str,
    addresses: [&str; 2],
    gateways: [&str; 2],
) -> Result<Node> {
    let node = Node::boot(name, directory).await?;
    quiet_ipv6(&node.net)?;
    switch.plug(name, bridge, &node.net, "eth0").await?;
    let links = Links::open(&node.net)?;
    for (address, prefix) in addresses.iter().zip([24, 64]) {
        links.add_address("eth0", address.parse::<IpAddr>()?, prefix).await?;
    }
    for gateway in gateways {
        links.add_default_route(gateway.parse()?).await?;
    }
    Ok(node)
}
