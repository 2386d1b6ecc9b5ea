//! Real programs and protocols across one takeover: each speaks before, and must speak on afterwards; and the
//! same without ctsync, where each must fail. Where after a takeover the far end speaks first, it is because
//! a packet from the LAN would be tracked and translated anew, and prove nothing.
//!
//! - `ftp`: vsftpd, passive, active, and a data connection foreseen before the takeover.
//! - `sip`: a call of sipp, its media and its end.
//! - `plain`: TCP and UDP with what rules give them: NAT66, destination NAT, zone, mark, fragments, TFTP.
//! - `raw`: ESP, UDP-Lite, SCTP and PPTP's GRE, packet by packet.

mod ftp;
mod plain;
mod raw;
mod sip;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::machine::net::Links;
use crate::machine::node::Node;
use crate::machine::wait::until;
use crate::routers::incumbent;
use crate::routers::options::Options;
use crate::routers::topology::Topology;
use crate::story::narrator::Narrator;

/// How long something may take to speak again; TCP's back-off included.
const SPEAKS: Duration = Duration::from_secs(15);

/// How long expectations and late extensions may take to be in step.
const IN_STEP: Duration = Duration::from_secs(5);

/// One program or protocol.
trait Flow: Send {
    /// What it is, for the report.
    fn name(&self) -> &'static str;
    /// After the takeover: it goes on as if nothing had been. What was seen.
    fn after(&mut self) -> Result<String>;
}

/// The nodes at the two ends.
struct Ends<'a> {
    client: &'a Node,
    server: &'a Node,
}

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Programs and protocols across a takeover");
    let options = Options { everything: true, rules: include_str!("rules.nft"), ..stage.usual() };
    let mut pair = Pair::start_with(stage, options, 0).await?;
    let mut checks = Checks::new(narrator);
    start_servers(&mut pair.topology).await?;
    let seen = across(&mut pair, &mut checks).await?;
    for (name, result) in seen {
        checks.note(name, result);
    }
    checks.narrator.chapter("The same without ctsync");
    pair.start_control().await?;
    let seen = across(&mut pair, &mut checks).await?;
    for (name, result) in seen {
        let dead = match result {
            Ok(seen) => Err(anyhow::anyhow!("it speaks all the same: {seen}")),
            Err(error) => Ok(format!("{error:#}")),
        };
        checks.note(&format!("{name} is dead"), dead);
    }
    checks.narrator.chapter("The same with conntrackd, for comparison");
    pair.start_incumbent().await?;
    let seen = across(&mut pair, &mut checks).await?;
    let mut lives = Vec::new();
    for (name, result) in seen {
        match result {
            Ok(seen) => {
                lives.push(name);
                checks.narrator.say(&format!("lives: {name}: {seen}"));
            }
            Err(error) => checks.narrator.say(&format!("dead:  {name}: {error:#}")),
        }
    }
    checks.narrator.fact("conntrackd-keeps", lives);
    Ok(checks.end())
}

/// Addresses and programs of the far end that need no router.
async fn start_servers(topology: &mut Topology) -> Result<()> {
    let links = Links::open(&topology.server.net)?;
    links.add_address("eth0", plain::MARKED.parse()?, 32).await?;
    ftp::start_server(&mut topology.server)?;
    sip::start_server(&mut topology.server)?;
    until("vsftpd and sipp listen", PATIENCE, async || {
        let listening = topology.server.output("ss", &["-lntu"])?;
        Ok((listening.contains(":21 ") && listening.contains(":5060 ")).then_some(()))
    })
    .await
}

type Seen = Vec<(&'static str, Result<String>)>;

/// Everything speaks, router1 loses its power, everything should speak on.
async fn across(pair: &mut Pair, checks: &mut Checks<'_>) -> Result<Seen> {
    for number in [1, 2] {
        let net = &pair.topology.router(number)?.node.net;
        // The kernel sums UDP-Lite up as UDP and finds it wrong (`udplite_error`); nobody else is checked
        // then either.
        net.sysctl("net/netfilter/nf_conntrack_checksum", "0")?;
        // A marked connection goes to an address that is routed for marked packets only.
        let links = Links::open(net)?;
        links
            .route_marked(plain::MARK, plain::MARKED.parse()?, crate::routers::topology::SERVER.parse()?)
            .await?;
    }
    let topology = &pair.topology;
    let ends = Ends { client: &topology.client, server: &topology.server };
    let mut flows: Vec<Box<dyn Flow>> = Vec::new();
    flows.extend(ftp::begin(&ends).context("FTP before the takeover")?);
    flows.push(sip::begin(&ends, topology).await.context("SIP before the takeover")?);
    flows.extend(plain::begin(&ends).context("TCP and UDP before the takeover")?);
    flows.extend(raw::begin(&ends).context("raw protocols before the takeover")?);
    if topology.options.sync {
        settle(pair, checks).await?;
    } else if topology.options.incumbent {
        settle_incumbent(topology).await?;
    }
    pair.lose_router1(checks.narrator).await?;
    if pair.topology.options.sync {
        let second = pair.topology.router(2)?;
        until("router2's fence is closed", PATIENCE, async || {
            Ok((!second.status().await?["last-fence"].is_null()).then_some(()))
        })
        .await?;
    }
    // All at once: each waits for itself.
    let seen = std::thread::scope(|scope| {
        let running: Vec<_> =
            flows.iter_mut().map(|flow| (flow.name(), scope.spawn(|| flow.after()))).collect();
        running
            .into_iter()
            .map(|(name, thread)| {
                let result = thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
                (name, result)
            })
            .collect()
    });
    Ok(seen)
}

/// conntrackd's caches are alike, as far as it says.
async fn settle_incumbent(topology: &Topology) -> Result<()> {
    let (one, two) = (&topology.router(1)?.node, &topology.router(2)?.node);
    until("conntrackd's caches are alike", PATIENCE, async || {
        let ([internal, _], [_, external]) = (incumbent::numbers(one)?, incumbent::numbers(two)?);
        ensure!(internal > 10 && internal == external, "internal {internal}, external {external}");
        Ok(Some(()))
    })
    .await
}

/// Everything that router1's kernel knows is in router2's: entries, expectations, sequence numbers.
async fn settle(pair: &Pair, checks: &Checks<'_>) -> Result<()> {
    pair.wait_equal().await?;
    pair.wait_ready(2).await?;
    let (one, two) = (pair.topology.router(1)?, pair.topology.router(2)?);
    // If they never are, it is the programs that will say so.
    let waited = until("expectations and adjusted sequence numbers are in step", IN_STEP, async || {
        let (ours, theirs) = (one.statistics().await?, two.statistics().await?);
        let equal = ours["internal-expected"]["active"] == theirs["external-expected"]["active"];
        let adjusted = |rows: &serde_json::Value| {
            let rows = rows["entries"].as_array().cloned().unwrap_or_default();
            rows.iter().filter(|row| row["seqadj"].is_array()).count()
        };
        let ours = adjusted(&pair.json(1, &["show", "conntrack-sync", "cache", "internal"])?);
        let theirs = adjusted(&pair.json(2, &["show", "conntrack-sync", "cache", "external"])?);
        ensure!(equal && ours == theirs && ours > 0, "equal {equal}, adjusted {ours} and {theirs}");
        Ok(Some(()))
    })
    .await;
    if let Err(error) = waited {
        checks.narrator.say(&format!("{error:#}"));
    }
    Ok(())
}
