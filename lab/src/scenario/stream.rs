//! UDP exchanges with a packet a second under a short timeout, long before a takeover: no event tells that a
//! packet has renewed a timer, so a copy that aged by its owner's timeout would be gone.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::machine::wait::{now, until};
use crate::routers::topology::SERVER;
use crate::story::narrator::Narrator;

const EXCHANGES: u16 = 20;
/// `nf_conntrack_udp_timeout_stream`, in seconds.
const TIMEOUT: &str = "10";
const BEFORE: Duration = Duration::from_secs(90);
/// Without entries nothing has to age.
const BEFORE_CONTROL: Duration = Duration::from_secs(5);

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("UDP exchanges, a packet a second under a timeout of 10 s, then a takeover");
    let mut pair = Pair::start(stage, 0).await?;
    let mut checks = Checks::new(narrator);
    let alive = across(&mut pair, &mut checks, BEFORE).await?;
    checks.note("after the takeover their far ends reach them", all(alive, EXCHANGES));
    checks.narrator.chapter("The same without ctsync");
    pair.start_control().await?;
    let alive = across(&mut pair, &mut checks, BEFORE_CONTROL).await?;
    checks.note("none is reached", all(alive, 0));
    Ok(checks.end())
}

fn all(alive: u16, wanted: u16) -> Result<String> {
    ensure!(alive == wanted, "{alive} of {EXCHANGES}");
    Ok(format!("{alive} of {EXCHANGES}"))
}

struct Exchange {
    near: UdpSocket,
    far: UdpSocket,
    /// Where the far end sees the near one.
    seen: SocketAddr,
}

impl Exchange {
    fn open(pair: &Pair, port: u16) -> Result<Exchange> {
        let (client, server) = (&pair.topology.client.net, &pair.topology.server.net);
        let far = server.run(|| Ok(UdpSocket::bind((SERVER, port))?))?;
        let near = client.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        }
        near.send_to(b"?", (SERVER, port))?;
        let (_, seen) = far.recv_from(&mut [0; 16]).context("nothing goes there before the takeover")?;
        let exchange = Exchange { near, far, seen };
        ensure!(exchange.answered(), "nothing comes back before the takeover");
        Ok(exchange)
    }

    /// The far end speaks, the near one hears and answers.
    fn answered(&self) -> bool {
        let heard = self.far.send_to(b"!", self.seen).is_ok() && self.near.recv_from(&mut [0; 16]).is_ok();
        heard && self.near.send_to(b"?", self.far.local_addr().unwrap_or(self.seen)).is_ok()
    }
}

/// How many are reached from the far end after the takeover.
async fn across(pair: &mut Pair, checks: &mut Checks<'_>, before: Duration) -> Result<u16> {
    for number in [1, 2] {
        let net = &pair.topology.router(number)?.node.net;
        net.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", TIMEOUT)?;
    }
    let exchanges: Vec<Exchange> =
        (0..EXCHANGES).map(|number| Exchange::open(pair, 7100 + number)).collect::<Result<_>>()?;
    let began = now();
    until("they have spoken long enough", before + PATIENCE, async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let spoken = exchanges.iter().filter(|exchange| exchange.answered()).count();
        ensure!(spoken == exchanges.len(), "{spoken} of {EXCHANGES} speak before the takeover");
        Ok((began.elapsed() > before).then_some(()))
    })
    .await?;
    checks.narrator.say(&format!("{EXCHANGES} exchanges spoke every second for {} s", before.as_secs()));
    if pair.topology.options.sync {
        pair.wait_ready(2).await?;
    }
    pair.lose_router1(checks.narrator).await?;
    let mut reached = vec![false; exchanges.len()];
    // A neighbour may have to be found first, which costs the first datagram.
    for _ in 0..3 {
        for exchange in &exchanges {
            exchange.far.send_to(b"!", exchange.seen)?;
            exchange.near.set_read_timeout(Some(Duration::from_millis(100)))?;
        }
        for (exchange, reached) in exchanges.iter().zip(&mut reached) {
            *reached |= exchange.near.recv_from(&mut [0; 16]).is_ok();
        }
    }
    Ok(u16::try_from(reached.iter().filter(|reached| **reached).count())?)
}
