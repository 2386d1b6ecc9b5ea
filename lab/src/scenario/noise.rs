//! What cannot fail over is not counted: beside the clients' connections somebody logs in to the router, the
//! router asks a name server and pings, keepalived and the channel speak, loopback too; the numbers stay
//! those of the clients.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::machine::wait::{now, until};
use crate::routers::topology::SERVER;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 50;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Connections of the routers themselves beside the clients'");
    let pair = Pair::start(stage, CONNECTIONS).await?;
    let mut checks = Checks::new(narrator);
    checks.note("without noise the numbers are the clients'", numbers(&pair, CONNECTIONS as u64).await);
    let noise = Noise::make(&pair)?;
    checks.note("the noise is in router1's kernel", noise.seen(&pair));
    // As long as a burst of replication could last.
    let began = now();
    until("the noise has had its time", PATIENCE, async || {
        Ok((began.elapsed() > Duration::from_secs(2)).then_some(()))
    })
    .await?;
    checks.note("with noise they are the same", numbers(&pair, CONNECTIONS as u64).await);
    checks.note("its events were ignored", ignored(&pair).await);
    let file = pair.topology.router(1)?.config_path();
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("{text}set service conntrack-sync include-local\n"))?;
    let reloaded = pair.typed(1, &["reload"], 0);
    checks.note("include-local is taken over by a reload", reloaded);
    checks.note("then the noise is synchronised too", included(&pair).await);
    Ok(checks.end())
}

/// Internal on router1 = external on router2 = what the lab opened.
async fn numbers(pair: &Pair, opened: u64) -> Result<String> {
    let held = pair.wait_equal().await?;
    ensure!(held == opened, "{held} entries, {opened} were opened");
    Ok(format!("{held} on both"))
}

async fn ignored(pair: &Pair) -> Result<String> {
    let count = pair.topology.router(1)?.counter("ignored_events").await?;
    ensure!(count > 5, "{count} events");
    Ok(format!("{count} events"))
}

async fn included(pair: &Pair) -> Result<String> {
    until("more than the clients' connections on both", PATIENCE, async || {
        let held = pair.wait_equal().await?;
        Ok((held > CONNECTIONS as u64 + 3).then_some(format!("{held} on both")))
    })
    .await
}

/// Connections that begin or end on router1.
struct Noise {
    _login: [TcpStream; 2],
    _resolver: UdpSocket,
    _loopback: UdpSocket,
}

impl Noise {
    fn make(pair: &Pair) -> Result<Noise> {
        let (router, client) = (&pair.topology.router(1)?.node, &pair.topology.client);
        let own: IpAddr = "10.0.1.10".parse()?;
        let listener = router.net.run(|| Ok(TcpListener::bind((own, 22))?))?;
        let near = client.net.run(|| {
            let timeout = Duration::from_secs(5);
            TcpStream::connect_timeout(&SocketAddr::new(own, 22), timeout).context("no login to router1")
        })?;
        let (far, _) = listener.accept()?;
        let ask = |to: &str| -> Result<UdpSocket> {
            router.net.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.send_to(b"?", (to, 53))?;
                Ok(socket)
            })
        };
        let (resolver, loopback) = (ask(SERVER)?, ask("127.0.0.1")?);
        router.output("ping", &["-n", "-c", "1", SERVER])?;
        Ok(Noise { _login: [near, far], _resolver: resolver, _loopback: loopback })
    }

    fn seen(&self, pair: &Pair) -> Result<String> {
        let listing = pair.topology.router(1)?.node.output("conntrack", &["-L"])?;
        let mut seen = Vec::new();
        for (what, of_it) in [
            ("a login", "dst=10.0.1.10 "),
            ("a question", "dport=53"),
            ("loopback", "dst=127.0.0.1"),
            ("a ping", "icmp"),
            ("VRRP", "dst=224.0.0.18"),
            ("the channel", "dport=3780"),
        ] {
            ensure!(listing.contains(of_it), "no {what} in {listing}");
            seen.push(what);
        }
        Ok(seen.join(", "))
    }
}
