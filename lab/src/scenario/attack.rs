//! Somebody on the channel's link sends replayed, forged, cut, changed datagrams, and those of an ended run,
//! as fast as he can, while router1 dies. And what a key is for: without one his entry lands; and conntrackd
//! falls silent after one datagram of eight bytes.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ctsync::ctnetlink::entry::Entry;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::attacker::{self, Flood, Heard, Lie};
use crate::load::entries;
use crate::machine::node::Node;
use crate::machine::wait::{now, until};
use crate::routers::incumbent;
use crate::routers::options::Options;
use crate::story::narrator::Narrator;

/// The third one on the link.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 66);
const ROUTER2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
/// Who would be let in.
const FORGED: &str = "203.0.113.66";
/// How long he listens, at least.
const LISTENS: Duration = Duration::from_secs(2);
/// How long the flood lasts before router1 dies.
const BEFORE: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 30;
/// A lie is gone after the peer timeout, a challenge, and what an all-clear waits for; it shows at the latest
/// within a peer timeout.
const HEALS: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_millis(1500);
/// What he sends is refused for each of these, by the names of the counters.
const REASONS: [&str; 8] =
    ["malformed", "other_version", "foreign", "unsealed", "forged", "replayed", "unproved", "far"];

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Somebody on the channel's link");
    let options = Options { key: Some("5a".repeat(32)), ..stage.usual() };
    let mut pair = Pair::start_with(stage, options, CONNECTIONS).await?;
    let stranger = pair.topology.plug_in("attacker", "wan", ATTACKER).await?;
    let mut checks = Checks::new(narrator);
    with_a_key(&mut pair, &stranger, &mut checks).await?;
    checks.narrator.chapter("Without a key");
    pair.reboot(None).await?;
    checks.note("the forged entry lands", lands(&pair, &stranger).await);
    for (at, (what, lie)) in (0..).zip(attacker::LIES) {
        let healed = heals(&pair, &stranger, lie, 3000 + at * 1000).await;
        checks.note(&format!("healed by itself: {what}"), healed);
    }
    checks.narrator.chapter("conntrackd, and one datagram of eight bytes");
    pair.start_incumbent().await?;
    checks.note("conntrackd hears nothing any more", wedged(&pair, &stranger).await);
    Ok(checks.end())
}

fn forged() -> Result<Entry> {
    let mut entry = entries::connection(0);
    entry.orig.src = FORGED.parse()?;
    entry.reply = entry.orig.inverse();
    Ok(entry)
}

async fn with_a_key(pair: &mut Pair, stranger: &Node, checks: &mut Checks<'_>) -> Result<()> {
    // Something is said on the channel, then router1's daemon starts anew.
    entries::create(&pair.topology.router(1)?.node.net, 0, 500)?;
    let former = hear(pair, stranger, 500)?;
    let router = pair.topology.router_mut(1)?;
    router.node.kill("ctsync")?;
    router.start_ctsync()?;
    pair.wait_ready(2).await?;
    let living = hear(pair, stranger, 1000)?;
    let mut heard = Heard { living, former, entry: forged()? };
    heard.keep_believable();
    ensure!(heard.living.len() > 8 && heard.former.len() > 8, "he has heard too little");
    let held = pair.wait_equal().await?;
    let before = Seen::of(pair).await?;
    let flood = Flood::start(&stranger.net, ROUTER2, heard);
    let began = now();
    tokio::time::sleep(BEFORE).await;
    // What changes under the flood arrives, too.
    let opened = pair.open(CONNECTIONS).await;
    checks.note("connections opened under the flood speak", opened.map(|()| String::new()));
    let many = held + CONNECTIONS as u64;
    let arrived = until("router2 has them", PATIENCE, async || {
        let external = pair.topology.router(2)?.statistics().await?["external"]["active"].as_u64();
        Ok((external == Some(many)).then_some(()))
    });
    checks.note("and are on router2", arrived.await.map(|()| format!("{many} entries")));
    checks.narrator.typed("lab", "destroy router1's namespace");
    pair.topology.power_off(1).await?;
    pair.topology.wait_elected(2).await?;
    checks.note("every connection lives", pair.wait_alive().await.map(|alive| alive.to_string()));
    let after = Seen::of(pair).await?;
    let lasted = began.elapsed();
    let sent = flood.stop()?;
    // What waited in the socket when the flood ended is read now.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let total: u64 = sent.iter().map(|(_, sent)| sent).sum();
    let shown: Vec<String> = sent.iter().map(|(sort, sent)| format!("{sent} {sort:?}")).collect();
    checks.narrator.say(&format!("sent: {}", shown.join(", ").to_lowercase()));
    let end = Seen::of(pair).await?;
    checks.note("sent = refused, by reason, and what the socket dropped", end.adds_up(&before, total));
    checks.note("nothing enters", nothing_entered(pair));
    checks.narrator.say(&format!(
        "{:.0} datagrams a second; router2's daemon took {:.0} % of a processor",
        total as f64 / lasted.as_secs_f64(),
        100.0 * (after.processor - before.processor) / lasted.as_secs_f64(),
    ));
    pair.topology.boot_router(1).await?;
    pair.topology.rejoin(1).await?;
    let healthy = until("the pair is protected again", PATIENCE, async || {
        let [one, two] = [1, 2].map(|number| pair.typed(number, &["status"], 0).is_ok());
        Ok((one && two).then_some(()))
    });
    checks.note("the pair is healthy", healthy.await.map(|()| String::new()));
    Ok(())
}

/// What is said on the channel while some entries change.
fn hear(pair: &Pair, stranger: &Node, from: u32) -> Result<Vec<Vec<u8>>> {
    let net = &pair.topology.router(1)?.node.net;
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let heard = scope.spawn(|| attacker::listen(&stranger.net, ATTACKER, &enough));
        let made = (0..20).try_for_each(|at| {
            std::thread::sleep(LISTENS / 20);
            entries::create(net, from + at * 10, 10).map(|_| ())
        });
        // The last change is said, too.
        std::thread::sleep(LISTENS / 4);
        enough.store(true, Ordering::Relaxed);
        made?;
        heard.join().map_err(|_| anyhow::anyhow!("the listener panicked"))?
    })
}

/// What router2 has counted.
struct Seen {
    refused: Vec<(String, u64)>,
    dropped: u64,
    /// Seconds of processor time.
    processor: f64,
}

impl Seen {
    async fn of(pair: &Pair) -> Result<Seen> {
        let router = pair.topology.router(2)?;
        let statistics = router.statistics().await?;
        let counters = statistics["counters"].as_array().cloned().unwrap_or_default();
        let refused = counters.iter().filter_map(|pair| {
            let name = pair[0].as_str()?;
            let kept = name.ends_with("_datagrams")
                && !["heard", "lost", "resent", "unusable"]
                    .iter()
                    .any(|other| name.strip_suffix("_datagrams") == Some(other));
            kept.then(|| (name.trim_end_matches("_datagrams").to_owned(), pair[1].as_u64().unwrap_or(0)))
        });
        let pid = router.node.pid("ctsync")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Fields 14 and 15, counted behind the name in parentheses; a hundred a second.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok()).unwrap_or(0);
        Ok(Seen {
            refused: refused.collect(),
            dropped: dropped(&router.node)?,
            processor: f64::from(ticks(11) + ticks(12)) / 100.0,
        })
    }

    /// Everything sent was refused for a reason, or found the socket full; that may also have dropped what
    /// router1 said.
    fn adds_up(&self, before: &Seen, sent: u64) -> Result<String> {
        let mut told = Vec::new();
        let mut refused = 0;
        for ((name, after), (_, before)) in self.refused.iter().zip(&before.refused) {
            if after > before {
                told.push(format!("{} {name}", after - before));
                refused += after - before;
            }
        }
        let dropped = self.dropped - before.dropped;
        let told = format!("{sent} sent; {}; {dropped} dropped by the full socket", told.join(", "));
        ensure!(refused <= sent && sent <= refused + dropped, "{told}");
        ensure!(refused > sent / 10, "most was never looked at: {told}");
        let reasons: Vec<&str> =
            told.split([',', ';']).filter_map(|part| part.split_whitespace().nth(1)).collect();
        let missing: Vec<&&str> = REASONS.iter().filter(|reason| !reasons.contains(reason)).collect();
        ensure!(missing.is_empty(), "nothing was refused as {missing:?}: {told}");
        Ok(told)
    }
}

/// Datagrams that the channel's socket had no room for: the last column of /proc/net/udp.
fn dropped(node: &Node) -> Result<u64> {
    let table = node.net.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/udp")?))?;
    let channel = table.lines().find(|line| line.contains(":0EC4 ")).context("router2 has no channel")?;
    channel.split_whitespace().last().and_then(|count| count.parse().ok()).context("no column of drops")
}

fn nothing_entered(pair: &Pair) -> Result<String> {
    let router = pair.topology.router(2)?;
    let kernel = router.node.output("conntrack", &["-L"])?;
    ensure!(!kernel.contains(FORGED), "the forged entry is in router2's kernel");
    for cache in ["internal", "external"] {
        let (_, out) = router.type_command(&["show", "conntrack-sync", "cache", cache])?;
        ensure!(!out.contains(FORGED), "the forged entry is in router2's {cache} cache");
    }
    Ok(String::new())
}

/// The positive control: anyone on the link can write to both tables.
async fn lands(pair: &Pair, stranger: &Node) -> Result<String> {
    let heard = hear(pair, stranger, 2000)?;
    attacker::send(&stranger.net, ATTACKER, &attacker::forge(&heard, &forged()?)?)?;
    until("it is in router2's kernel", Duration::from_secs(5), async || {
        let kernel = pair.topology.router(2)?.node.output("conntrack", &["-L"])?;
        Ok(kernel.contains(FORGED).then_some(()))
    })
    .await?;
    let status = pair.topology.router(2)?.type_command(&["status"])?.1;
    ensure!(status.contains("NOT authenticated"), "{status}");
    Ok("`status` says that the channel is not authenticated".into())
}

/// One lie about each router; what changes then arrives, and both say that they are well, without a restart.
async fn heals(pair: &Pair, stranger: &Node, lie: Lie, from: u32) -> Result<String> {
    const CHANGES: u32 = 100;
    let heard = hear(pair, stranger, from)?;
    pair.wait_equal().await?;
    let lies = attacker::lie(&heard, lie);
    ensure!(lies.len() == 2, "alives of {} routers were heard", lies.len());
    let before = overtaken(pair).await?;
    let began = now();
    lies.iter().try_for_each(|datagram| attacker::send(&stranger.net, ATTACKER, datagram))?;
    let made = entries::create(&pair.topology.router(1)?.node.net, from + 500, CHANGES)?;
    ensure!(made == CHANGES, "{made} of {CHANGES} entries could be made");
    let mut unwell = began;
    until("both say that they are protected, for a while", HEALS, async || {
        let well = [1, 2].map(|number| pair.typed(number, &["status"], 0).is_ok());
        if well != [true; 2] {
            unwell = now();
        }
        Ok((unwell.elapsed() > CALM).then_some(()))
    })
    .await?;
    let entries = pair.wait_equal().await?;
    let outage = unwell.duration_since(began).as_secs_f64();
    // The outage may be too short to be seen: each lie is ahead of the truth, which counts as overtaken then.
    ensure!(overtaken(pair).await? > before, "nobody heard the lie");
    Ok(format!("well again after {outage:.1} s; {entries} entries on both"))
}

/// Signs of life that both routers have refused because a later one had come.
async fn overtaken(pair: &Pair) -> Result<u64> {
    let mut all = 0;
    for number in [1, 2] {
        all += pair.topology.router(number)?.counter("overtaken_datagrams").await?;
    }
    Ok(all)
}

/// A sign of life with a number far ahead, in conntrackd's layout: everything later is "before".
async fn wedged(pair: &Pair, stranger: &Node) -> Result<String> {
    let heard = hear(pair, stranger, 0)?;
    let number = |datagram: &Vec<u8>| Some(u32::from_be_bytes(datagram.get(4..8)?.try_into().ok()?));
    let last = heard.iter().filter_map(number).max().context("conntrackd was not heard")?;
    let before = external(pair)?;
    let mut datagram = vec![0x1a, 0x10, 0, 8];
    datagram.extend_from_slice(&last.wrapping_add(1_000_000).to_be_bytes());
    attacker::send(&stranger.net, ATTACKER, &datagram)?;
    entries::create(&pair.topology.router(1)?.node.net, 10_000, 1000)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = external(pair)?;
    ensure!(after < before + 500, "{before} entries on router2 before, {after} after 1000 more");
    Ok(format!("{before} entries on router2 before, {after} after 1000 more on router1"))
}

fn external(pair: &Pair) -> Result<u64> {
    Ok(incumbent::numbers(&pair.topology.router(2)?.node)?[1])
}
