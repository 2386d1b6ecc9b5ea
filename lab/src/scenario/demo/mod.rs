//! The demo's story: the documented figure, connections of every kind, router1 dies, router2 carries on,
//! router1 returns and is elected again when it is ready.
//!
//! Called by `demo`, `soak` and `test`. A connection is alive when at least [`ALIVE`] right echoes came after
//! the takeover on the same socket, with the same source port at the server. Idle sockets do not count.

mod comeback;
mod death;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::load::traffic::{ALIVE, Clients, Kind, Life, Server, serve};
use crate::load::{entries, ssh};
use crate::machine::sandbox::Sandbox;
use crate::machine::wait::until;
use crate::routers::options::Options;
use crate::routers::topology::{SERVER, SERVER6, Topology};
use crate::story::narrator::Narrator;

/// How router1 dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Fault {
    /// Both cables are cut.
    Links,
    /// Its namespace is destroyed at once; it returns as a new one with an empty kernel.
    Power,
    /// keepalived and its child are killed; the virtual addresses stay where they are.
    Keepalived,
    /// ctsync is killed on router1, then power at once.
    Daemon,
    /// ctsync is killed and restarted on router2, killed on router1, then power at once.
    Daemons,
    /// The channel is cut for ten seconds under new connections, then power.
    Channel,
}

impl Fault {
    /// The word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Fault::Links => "links",
            Fault::Power => "power",
            Fault::Keepalived => "keepalived",
            Fault::Daemon => "daemon",
            Fault::Daemons => "daemons",
            Fault::Channel => "channel",
        }
    }
}

/// The parts of a gap: the name of the fact, how it is shown, how many of the fact are a second.
pub(crate) const PARTS: [(&str, &str, f64); 4] = [
    ("gap-seconds", "gap", 1.0),
    ("detection-seconds", "detection", 1.0),
    ("fence-milliseconds", "fence", 1e3),
    ("backoff-seconds", "back-off", 1.0),
];

/// What one telling of the story is about.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub fault: Fault,
    pub options: Options,
    /// TCP connections through source NAT.
    pub connections: usize,
    /// Entries beside them.
    pub entries: u32,
    /// Entries created just before the cut.
    pub changes: u32,
    /// Bulk transfers beside them.
    pub bulk: usize,
    /// Leave out the return of router1.
    pub no_return: bool,
}

/// UDP exchanges beside the TCP connections.
const EXCHANGES: usize = 20;
/// Entries made while the channel is cut, in the fault `channel`.
const UNHEARD: u32 = 5_000;
/// Longest wait for an election, a takeover, a repair.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for connections to speak again: TCP's back-off doubles from 0.2 s.
const BACKOFF: Duration = Duration::from_secs(40);

/// Tell it. True: every connection lived.
pub(crate) async fn tell(plot: &Plot, sandbox: &Sandbox, narrator: &mut Narrator) -> Result<bool> {
    let mut story = Story::begin(plot, sandbox, narrator).await?;
    let result = story.run().await;
    match result {
        Ok(good) => Ok(good),
        Err(error) => {
            eprintln!("{}", story.topology.diagnosis());
            Err(error)
        }
    }
}

struct Story<'a> {
    plot: &'a Plot,
    sandbox: &'a Sandbox,
    narrator: &'a mut Narrator,
    topology: Topology,
    clients: Vec<Clients>,
    _server: Option<Server>,
}

impl<'a> Story<'a> {
    async fn begin(plot: &'a Plot, sandbox: &'a Sandbox, narrator: &'a mut Narrator) -> Result<Story<'a>> {
        narrator.chapter("The documented figure: router1 and router2, WAN 10.0.0.0/24, LAN 10.0.1.0/24");
        let topology = Topology::build(&sandbox.directory, &plot.options).await?;
        Ok(Story { plot, sandbox, narrator, topology, clients: Vec::new(), _server: None })
    }

    async fn run(&mut self) -> Result<bool> {
        self.enable_tracking()?;
        self.elect().await?;
        self.connect().await?;
        let before = self.count_before().await?;
        self.compare_numbers(before).await?;
        let survived = self.die(before).await?;
        let good = if self.plot.no_return { survived } else { survived & self.come_back(before).await? };
        self.narrator.chapter("Verdict");
        self.tell_conditions()?;
        self.narrator.verdict(good, if good { "every connection lives" } else { "connections died" });
        self.narrator.fact("fault", self.plot.fault.word());
        self.narrator.fact("good", good);
        Ok(good)
    }

    /// The seed's warning, then the state policy that switches tracking on.
    fn enable_tracking(&mut self) -> Result<()> {
        self.narrator.chapter("Tracking is off until a rule asks for it");
        let router = self.topology.router(1)?;
        let table = ["show", "conntrack", "table", "ipv4"];
        let (code, out) = router.tell(self.narrator, &table)?;
        if code != 1 || !out.contains("Warning: Connection tracking is not enabled") {
            bail!("the warning was expected, exit code {code}: {out}");
        }
        for number in [1, 2] {
            self.topology.router(number)?.load_firewall()?;
        }
        let typed = "set firewall state-policy established action accept";
        self.narrator.typed("router1, router2", typed);
        let (code, out) = self.topology.router(1)?.tell(self.narrator, &table)?;
        if code != 0 || !out.contains("CONN ID") {
            bail!("an empty table was expected, exit code {code}: {out}");
        }
        Ok(())
    }

    async fn elect(&mut self) -> Result<()> {
        self.narrator.chapter("ctsync and keepalived start; keepalived elects router1");
        for number in [1, 2] {
            self.topology.router_mut(number)?.start_ctsync()?;
        }
        if self.plot.options.sync {
            for number in [1, 2] {
                self.wait_for_control(number).await?;
            }
        }
        for number in [1, 2] {
            self.topology.router_mut(number)?.start_keepalived()?;
        }
        self.topology.wait_elected(1).await?;
        if self.plot.options.sync {
            self.wait_for_owner(1).await?;
            self.wait_for_ready(2).await?;
            self.topology.router(1)?.tell(self.narrator, &["show", "conntrack-sync", "status"])?;
        }
        self.narrator.say("router1 is MASTER and holds 10.0.0.1 and 10.0.1.1");
        Ok(())
    }

    async fn wait_for_control(&self, number: u8) -> Result<()> {
        let router = self.topology.router(number)?;
        until(&format!("ctsync answers on router{number}"), PATIENCE, async || {
            router.must_run("ctsync")?;
            Ok(Some(router.status().await?))
        })
        .await
        .map(|_| ())
    }

    async fn wait_for_owner(&self, number: u8) -> Result<Value> {
        let router = self.topology.router(number)?;
        until(&format!("router{number} owns the group and its fence is closed"), PATIENCE, async || {
            let status = router.status().await?;
            let done = status["state"]["owner"] == true && !status["last-fence"].is_null();
            Ok(done.then_some(status))
        })
        .await
    }

    async fn wait_for_ready(&self, number: u8) -> Result<()> {
        let router = self.topology.router(number)?;
        until(&format!("router{number} is ready to take over"), PATIENCE, async || {
            let status = router.status().await?;
            Ok((status["state"]["readiness"] == "ready").then_some(()))
        })
        .await
    }

    async fn connect(&mut self) -> Result<()> {
        let (tcp, udp) = (self.plot.connections, EXCHANGES);
        self.narrator.chapter(&format!(
            "Clients: {tcp} TCP connections through source NAT, {udp} UDP exchanges, ssh, ping, TCP over IPv6"
        ));
        let caller = self.caller();
        ssh::start_server(&mut self.topology.server, &self.sandbox.directory, caller)?;
        let server = serve(&self.topology.server.net)?;
        let ping_id = server.ping_id();
        self._server = Some(server);
        let client = &self.topology.client;
        self.clients.push(Clients::open(&client.net, Kind::Tcp, SERVER.parse()?, tcp)?);
        self.clients.push(Clients::open(&client.net, Kind::Udp, SERVER.parse()?, udp)?);
        self.clients.push(Clients::open(&client.net, Kind::Tcp, SERVER6.parse()?, 1)?);
        let ping = client.command("ping", &["-n", "-O", "-i", "0.2", SERVER])?;
        let complaints = client.log_file("ping")?;
        self.clients.push(Clients::program(Kind::Ping, ping, false, complaints, move |line| {
            let id = ping_id.load(std::sync::atomic::Ordering::Relaxed);
            Ok((id != 0 && line.contains("bytes from")).then(|| format!("id {id}")))
        })?);
        if self.plot.bulk > 0 {
            self.clients.push(Clients::open(&client.net, Kind::Bulk, SERVER.parse()?, self.plot.bulk)?);
        }
        until("sshd listens", PATIENCE, async || {
            let listening = self.topology.server.output("ss", &["-ltn"])?;
            Ok(listening.contains(":2222").then_some(()))
        })
        .await?;
        self.clients.push(ssh::open_session(client, &self.sandbox.directory, caller)?);
        if self.plot.entries > 0 {
            let made = entries::create(&self.topology.router(1)?.node.net, 0, self.plot.entries)?;
            self.narrator.say(&format!("{made} entries beside them"));
        }
        Ok(())
    }

    fn caller(&self) -> Option<u32> {
        self.sandbox.caller
    }

    fn lives(&self) -> Vec<Life> {
        self.clients.iter().flat_map(Clients::lives).collect()
    }

    fn alive(&self) -> usize {
        self.lives().iter().filter(|life| life.alive()).count()
    }

    fn all(&self) -> usize {
        self.plot.connections + EXCHANGES + 3 + self.plot.bulk
    }

    fn some_dead(&self) -> String {
        let dead = self.lives().into_iter().filter(|life| !life.alive()).take(3);
        dead.map(|life| life.describe()).collect::<Vec<_>>().join("; ")
    }

    fn mark(&self) {
        self.clients.iter().for_each(Clients::mark);
    }

    fn mark_echoes(&self) {
        self.clients.iter().for_each(Clients::mark_echoes);
    }

    async fn wait_for_life(&self, limit: Duration) -> Result<usize> {
        let all = self.all();
        let waited = until("every connection has spoken", limit, async || {
            let alive = self.alive();
            Ok((alive == all).then_some(alive))
        })
        .await;
        Ok(waited.unwrap_or_else(|_| self.alive()))
    }

    async fn count_before(&mut self) -> Result<usize> {
        self.mark();
        let before = self.wait_for_life(PATIENCE).await?;
        self.narrator.fact("before", before);
        if before != self.all() {
            bail!("only {before} of {} connections speak before the fault: {}", self.all(), self.some_dead());
        }
        self.narrator.verdict(true, &format!("{before} connections speak, every byte checked"));
        self.topology.router(1)?.tell(self.narrator, &["show", "conntrack", "table", "ipv4"])?;
        Ok(before)
    }

    /// The documented invariant: internal of the active router = external of the standby = what the lab
    /// opened.
    async fn compare_numbers(&mut self, before: usize) -> Result<()> {
        if !self.plot.options.sync {
            return Ok(());
        }
        let opened = before as u64 + u64::from(self.plot.entries);
        let (one, two) = (self.topology.router(1)?, self.topology.router(2)?);
        until("router1's internal = router2's external = what was opened", PATIENCE, async || {
            let internal = one.statistics().await?["internal"]["active"].clone();
            let external = two.statistics().await?["external"]["active"].clone();
            if internal == json!(opened) && external == json!(opened) {
                return Ok(Some(()));
            }
            bail!("internal {internal}, external {external}, opened {opened}")
        })
        .await?;
        for router in [one, two] {
            router.tell(self.narrator, &["show", "conntrack-sync", "statistics"])?;
        }
        let text = format!("internal on router1 = external on router2 = {opened}, as many as the lab opened");
        self.narrator.verdict(true, &text);
        one.tell(self.narrator, &["status"])?;
        self.narrator.fact("opened", opened);
        // The standby's kernel is full when nothing waits any more.
        if self.plot.options.install {
            self.wait_for_ready(2).await?;
        }
        Ok(())
    }

    /// Under which conditions this was true.
    fn tell_conditions(&mut self) -> Result<()> {
        let router = self.topology.router(2)?;
        let loose = router.node.net.read_sysctl("net/netfilter/nf_conntrack_tcp_loose")?;
        let hash = router.ruleset_hash()?;
        self.narrator.say(&format!("tcp_loose {loose}, ruleset {hash}"));
        self.narrator.fact("tcp-loose", loose);
        self.narrator.fact("ruleset", hash);
        Ok(())
    }
}
