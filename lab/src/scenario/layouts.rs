//! conntrackd 1.4 in a namespace of its own, its `-s` beside our layout fed with its numbers: equal to the
//! byte.

use anyhow::{Context, Result, ensure};
use ctsync::faces::show::{CacheStatistics, Statistics, plain_statistics};

use super::stage::{Checks, PATIENCE, Stage};
use crate::machine::net::Links;
use crate::machine::node::Node;
use crate::machine::wait::until;
use crate::story::narrator::Narrator;

/// FTFW on a cable to nobody, accounting off: what VyOS generates, as far as it shows in `-s`.
const CONFIGURATION: &str = "Sync {
    Mode FTFW {
    }
    LINK
}
General {
    HashSize 1024
    HashLimit 4096
    Syslog off
    LockFile /run/conntrackd.lock
    UNIX {
        Path /run/conntrackd.ctl
    }
    NetlinkBufferSize 2097152
    NetlinkBufferSizeMaxGrowth 8388608
}
";
const MULTICAST: &str = "Multicast {
        IPv4_address 225.0.0.50
        Group 3780
        IPv4_interface 10.9.9.1
        Interface eth0
        Checksum on
    }";
const UNICAST: &str = "UDP {
        IPv4_address 10.9.9.1
        IPv4_Destination_Address 10.9.9.2
        Port 3780
        Interface eth0
        Checksum on
    }";

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("conntrackd's own statistics beside ours");
    let mut checks = Checks::new(narrator);
    for (kind, link) in [("multicast", MULTICAST), ("UDP", UNICAST)] {
        let compared = compare(stage, kind, link).await;
        checks.note(&format!("{kind}: conntrackd -s = our layout of its numbers"), compared);
    }
    Ok(checks.end())
}

async fn compare(stage: &Stage<'_>, kind: &str, link: &str) -> Result<String> {
    let mut node = Node::boot(&format!("conntrackd-{kind}"), stage.directory).await?;
    let mut far = Node::boot(&format!("far-{kind}"), stage.directory).await?;
    let links = Links::open(&far.net)?;
    links.add_bridge("br0").await?;
    links.plug("port", "br0", &node.net, "eth0").await?;
    Links::open(&node.net)?.add_address("eth0", "10.9.9.1".parse()?, 24).await?;
    links.add_address("br0", "10.9.9.2".parse()?, 24).await?;
    let rules =
        "table ip t { chain c { type filter hook output priority 0; ct state established accept; }; }\n";
    node.feed("nft", &["-f", "-"], rules)?;
    let path = node.directory.join("conntrackd.conf");
    std::fs::write(&path, CONFIGURATION.replace("LINK", link))?;
    let path = path.to_string_lossy().into_owned();
    node.start("conntrackd", "conntrackd", &["-C", &path])?;
    // Some of its numbers should not be 0.
    let text = until("conntrackd has entries and has sent", PATIENCE, async || {
        node.try_run("ping", &["-c", "1", "-W", "1", "10.9.9.2"], "")?;
        let (code, text, _) = node.try_run("conntrackd", &["-C", &path, "-s"], "")?;
        let numbers = read(&text).ok();
        let busy = |shown: &Statistics| shown.internal.active > 0 && shown.bytes[0] > 0;
        Ok((code == 0 && numbers.as_ref().is_some_and(busy)).then_some(text))
    })
    .await?;
    let numbers = read(&text)?;
    let ours = plain_statistics(&numbers);
    let first_difference = ours.lines().zip(text.lines()).find(|(ours, theirs)| ours != theirs);
    ensure!(ours == text, "first difference: {first_difference:?}");
    for node in [&mut node, &mut far] {
        if node.runs("conntrackd") {
            node.kill("conntrackd")?;
        }
    }
    Ok(format!("{} bytes, {} internal, {} bytes sent", text.len(), numbers.internal.active, numbers.bytes[0]))
}

/// The numbers of conntrackd's `-s`, in their order.
fn read(text: &str) -> Result<Statistics> {
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let mut next = || numbers.next().context("a number is missing");
    let mut cache = || -> Result<CacheStatistics> {
        Ok(CacheStatistics {
            active: next()?,
            created: [next()?, next()?],
            updated: [next()?, next()?],
            destroyed: [next()?, next()?],
        })
    };
    let (internal, external) = (cache()?, cache()?);
    let processed = [next()?, next()?];
    ensure!(processed == [0, 0], "accounting is on");
    Ok(Statistics {
        internal,
        external,
        multicast: text.contains("\nmulticast traffic"),
        interface: "eth0".into(),
        bytes: [next()?, next()?],
        datagrams: [next()?, next()?],
        errors: [next()?, next()?],
        malformed: next()?,
        lost: next()?,
        ..Statistics::default()
    })
}
