//! Clients and servers of the lab: numbered lines echoed, every byte checked, on sockets that stay open.
//!
//! Each side is a thread inside its node's namespace with a runtime of its own. A server appends to every
//! line the address it sees, so that the client can tell that its source port at the server did not change.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::sync::oneshot;

use crate::machine::net::Namespace;
use crate::machine::wait::now;

/// The echo port.
pub(crate) const PORT: u16 = 7000;
/// The echo port of connections that are counted by themselves.
pub(crate) const LATE_PORT: u16 = 7020;
/// The port that pours.
const BULK_PORT: u16 = 7001;
/// Bytes of a bulk transfer that count as one echo.
const BULK_CHUNK: usize = 256 * 1024;
const BULK_BYTE: u8 = b'x';
/// Between two lines of one connection.
const PACE: Duration = Duration::from_millis(100);
/// Right echoes after a takeover that make a connection alive.
pub(crate) const ALIVE: u64 = 10;

/// A thread inside a namespace; ends when dropped.
pub(crate) struct Worker {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Worker {
    /// Do this inside until it is dropped; the work says when it is ready.
    pub(crate) fn start<F: Future<Output = Result<()>> + 'static>(
        namespace: &Namespace,
        work: impl FnOnce(mpsc::Sender<()>) -> F + Send + 'static,
    ) -> Result<Worker> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let namespace = namespace.clone();
        let thread = std::thread::spawn(move || {
            let run = || -> Result<()> {
                namespace.enter()?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let local = tokio::task::LocalSet::new();
                runtime.block_on(local.run_until(async {
                    tokio::select! {
                        _ = stopped => Ok(()),
                        result = work(ready) => result,
                    }
                }))
            };
            if let Err(error) = run() {
                eprintln!("a traffic thread ended: {error:#}");
            }
        });
        is_ready.recv().map_err(|_| anyhow!("a traffic thread did not start"))?;
        Ok(Worker { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The server's side.
pub(crate) struct Server {
    _worker: Worker,
    /// ICMP id of the last echo request that arrived, as the server sees it.
    ping_id: Arc<AtomicU32>,
}

impl Server {
    /// What the server sees of pings: source NAT may translate their id like a port.
    pub(crate) fn ping_id(&self) -> Arc<AtomicU32> {
        self.ping_id.clone()
    }
}

/// Start the servers: echo over TCP and UDP, both families; a source of bulk transfers; a look at pings.
pub(crate) fn serve(namespace: &Namespace) -> Result<Server> {
    let ping_id = Arc::new(AtomicU32::new(0));
    let seen = ping_id.clone();
    let worker = Worker::start(namespace, |ready| async move {
        let tcp = TcpListener::bind(("::", PORT)).await.context("cannot listen")?;
        let late = TcpListener::bind(("::", LATE_PORT)).await.context("cannot listen")?;
        let bulk = TcpListener::bind(("::", BULK_PORT)).await.context("cannot listen")?;
        let udp = UdpSocket::bind(("::", PORT)).await.context("cannot bind")?;
        let icmp = icmp_socket()?;
        let _ = ready.send(());
        tokio::select! {
            result = serve_tcp(tcp) => result,
            result = serve_tcp(late) => result,
            result = serve_bulk(bulk) => result,
            result = serve_udp(udp) => result,
            result = watch_pings(icmp, &seen) => result,
        }
    })?;
    Ok(Server { _worker: worker, ping_id })
}

/// A raw socket hears every ICMP message that arrives; the kernel answers pings by itself.
fn icmp_socket() -> Result<UdpSocket> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let raw = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
    // Only `recv` is used, which is the same for both kinds of socket.
    Ok(UdpSocket::from_std(raw.into())?)
}

async fn watch_pings(socket: UdpSocket, seen: &AtomicU32) -> Result<()> {
    const ECHO_REQUEST: u8 = 8;
    let mut buffer = [0; 256];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let packet = buffer.get(..length).unwrap_or_default();
        let header = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
        if let Some([ECHO_REQUEST, _, _, _, high, low, ..]) = packet.get(header..) {
            seen.store(u32::from(u16::from_be_bytes([*high, *low])), Ordering::Relaxed);
        }
    }
}

/// Tells whom it sees, then pours bytes as fast as they go.
async fn serve_bulk(listener: TcpListener) -> Result<()> {
    loop {
        let (mut stream, peer) = listener.accept().await?;
        let peer = plain(peer);
        tokio::task::spawn_local(async move {
            let mut result = stream.write_all(format!("{peer}\n").as_bytes()).await;
            let chunk = vec![BULK_BYTE; 65536];
            while result.is_ok() {
                result = stream.write_all(&chunk).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener) -> Result<()> {
    loop {
        let (mut stream, peer) = listener.accept().await?;
        let peer = plain(peer);
        tokio::task::spawn_local(async move {
            let (read, mut write) = stream.split();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if write.write_all(format!("{line} {peer}\n").as_bytes()).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn serve_udp(socket: UdpSocket) -> Result<()> {
    let mut buffer = [0; 256];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        let line = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        let _ = socket.send_to(format!("{line} {}", plain(peer)).as_bytes(), peer).await;
    }
}

/// `::ffff:10.0.0.1` is 10.0.0.1.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What one connection has lived through.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub kind: Kind,
    /// Local address and port.
    pub local: Option<SocketAddr>,
    /// What the server sees.
    pub seen: Option<String>,
    pub echoes: u64,
    /// Right echoes since the last mark.
    pub echoes_since: u64,
    /// Longest silence since the last mark.
    pub gap: Duration,
    last: Option<Instant>,
    /// Why it ended.
    pub ended: Option<String>,
}

/// What kind of connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Tcp,
    Udp,
    /// TCP from the server as fast as it goes.
    Bulk,
    Ssh,
    Ping,
}

impl Life {
    fn new(kind: Kind) -> Life {
        Life {
            kind,
            local: None,
            seen: None,
            echoes: 0,
            echoes_since: 0,
            gap: Duration::ZERO,
            last: None,
            ended: None,
        }
    }

    /// A word for a report: which kind, from where, how it ended.
    pub(crate) fn describe(&self) -> String {
        let local = self.local.map_or_else(|| "-".into(), |address| address.to_string());
        let ended = self.ended.as_deref().unwrap_or("silent");
        format!("{:?} {local}: {} echoes, {ended}", self.kind, self.echoes)
    }

    /// Alive: enough right echoes came since the mark, on the same socket, from the same port.
    pub(crate) fn alive(&self) -> bool {
        self.ended.is_none() && self.echoes_since >= ALIVE
    }

    fn echo(&mut self, seen: &str) -> Result<()> {
        match &self.seen {
            None => self.seen = Some(seen.to_owned()),
            Some(first) if first != seen => bail!("the server sees {seen}, it was {first}"),
            Some(_) => {}
        }
        let at = now();
        if let Some(last) = self.last {
            self.gap = self.gap.max(at - last);
        }
        self.last = Some(at);
        self.echoes += 1;
        self.echoes_since += 1;
        Ok(())
    }
}

/// Many connections from one client, or one session of a real program.
pub(crate) struct Clients {
    lives: Arc<Mutex<Vec<Life>>>,
    quiet: Arc<AtomicBool>,
    _keeper: Keeper,
}

/// What keeps the connections open; all end with it.
enum Keeper {
    Worker { _worker: Worker },
    Program { child: std::process::Child },
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Keeper::Program { child } = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Clients {
    /// Open `count` connections to the echo server; they stay open until this is dropped.
    pub(crate) fn open(namespace: &Namespace, kind: Kind, server: IpAddr, count: usize) -> Result<Clients> {
        let lives = Arc::new(Mutex::new(vec![Life::new(kind); count]));
        let shared = lives.clone();
        let quiet = Arc::new(AtomicBool::new(false));
        let hushed = quiet.clone();
        let worker = Worker::start(namespace, move |ready| async move {
            for number in 0..count {
                let (lives, hushed) = (shared.clone(), hushed.clone());
                tokio::task::spawn_local(async move {
                    // Spread over the pace, so that they do not speak in chorus.
                    tokio::time::sleep(PACE.mul_f64((number % 64) as f64 / 64.0)).await;
                    let target = SocketAddr::new(server, PORT);
                    let result = match kind {
                        Kind::Tcp => talk_tcp(&lives, number, target, &hushed).await,
                        Kind::Udp => talk_udp(&lives, number, target).await,
                        Kind::Bulk => fetch_bulk(&lives, number, server).await,
                        Kind::Ssh | Kind::Ping => Err(anyhow!("a program's connection, not ours")),
                    };
                    if let (Err(error), Some(life)) = (result, lives.lock().get_mut(number)) {
                        life.ended = Some(format!("{error:#}"));
                    }
                });
            }
            let _ = ready.send(());
            std::future::pending().await
        })?;
        Ok(Clients { lives, quiet, _keeper: Keeper::Worker { _worker: worker } })
    }

    /// A real program on the client that echoes: every line it prints is handed to `read`, which tells what
    /// the far end sees; with `speak` it is given numbered lines at the usual pace.
    pub(crate) fn program(
        kind: Kind,
        mut command: std::process::Command,
        speak: bool,
        complaints: std::fs::File,
        read: impl Fn(&str) -> Result<Option<String>> + Send + 'static,
    ) -> Result<Clients> {
        use std::io::{BufRead, Write};
        use std::process::Stdio;
        command.stdout(Stdio::piped()).stderr(complaints);
        command.stdin(if speak { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().context("cannot start the client program")?;
        let lives = Arc::new(Mutex::new(vec![Life::new(kind)]));
        let (output, input) = (child.stdout.take().context("no output")?, child.stdin.take());
        let shared = lives.clone();
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(output).lines().map_while(Result::ok) {
                let result = read(&line).and_then(|seen| match seen {
                    Some(seen) => note(&shared, 0, |life| life.echo(&seen)),
                    None => Ok(()),
                });
                if let (Err(error), Some(life)) = (result, shared.lock().first_mut()) {
                    life.ended = Some(format!("{error:#}"));
                }
            }
            if let Some(life) = shared.lock().first_mut() {
                life.ended.get_or_insert_with(|| "the program ended".into());
            }
        });
        if let Some(mut input) = input {
            std::thread::spawn(move || {
                for count in 0u64.. {
                    if writeln!(input, "{count}").and_then(|()| input.flush()).is_err() {
                        break;
                    }
                    std::thread::sleep(PACE);
                }
            });
        }
        Ok(Clients { lives, quiet: Arc::default(), _keeper: Keeper::Program { child } })
    }

    /// All connections as they are now.
    pub(crate) fn lives(&self) -> Vec<Life> {
        self.lives.lock().clone()
    }

    /// Let TCP connections of ours say nothing from here on, or speak again.
    pub(crate) fn hush(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    /// Count echoes and gaps from here.
    pub(crate) fn mark(&self) {
        for life in self.lives.lock().iter_mut() {
            life.echoes_since = 0;
            life.gap = Duration::ZERO;
        }
    }

    /// Count echoes from here, keep the gap.
    pub(crate) fn mark_echoes(&self) {
        for life in self.lives.lock().iter_mut() {
            life.echoes_since = 0;
        }
    }
}

fn note(lives: &Mutex<Vec<Life>>, number: usize, change: impl FnOnce(&mut Life) -> Result<()>) -> Result<()> {
    lives.lock().get_mut(number).map_or(Ok(()), change)
}

/// `NUMBER COUNT SEEN` must answer `NUMBER COUNT`.
fn check<'a>(said: &str, heard: &'a str) -> Result<&'a str> {
    heard
        .strip_prefix(said)
        .and_then(|rest| rest.strip_prefix(' '))
        .with_context(|| format!("said \"{said}\", heard \"{heard}\""))
}

async fn talk_tcp(
    lives: &Mutex<Vec<Life>>,
    number: usize,
    target: SocketAddr,
    quiet: &AtomicBool,
) -> Result<()> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let mut stream = tokio::time::timeout(Duration::from_secs(10), socket.connect(target))
        .await
        .context("no connection within 10 s")?
        .context("cannot connect")?;
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    note(lives, number, |life| {
        life.local = Some(local);
        Ok(())
    })?;
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    for count in 0u64.. {
        while quiet.load(Ordering::Relaxed) {
            tokio::time::sleep(PACE).await;
        }
        let said = format!("{number} {count}");
        write.write_all(format!("{said}\n").as_bytes()).await?;
        let heard = lines.next_line().await?.context("closed by the server")?;
        let seen = check(&said, &heard)?;
        note(lives, number, |life| life.echo(seen))?;
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

async fn fetch_bulk(lives: &Mutex<Vec<Life>>, number: usize, server: IpAddr) -> Result<()> {
    let stream = tokio::net::TcpStream::connect((server, BULK_PORT)).await.context("cannot connect")?;
    let local = stream.local_addr()?;
    note(lives, number, |life| {
        life.local = Some(local);
        Ok(())
    })?;
    let mut stream = BufReader::new(stream);
    let mut seen = String::new();
    stream.read_line(&mut seen).await?;
    let mut chunk = vec![0; BULK_CHUNK];
    loop {
        stream.read_exact(&mut chunk).await?;
        if chunk.iter().any(|byte| *byte != BULK_BYTE) {
            bail!("a wrong byte in a bulk transfer");
        }
        note(lives, number, |life| life.echo(seen.trim()))?;
    }
}

async fn talk_udp(lives: &Mutex<Vec<Life>>, number: usize, target: SocketAddr) -> Result<()> {
    let any: IpAddr = if target.is_ipv4() { "0.0.0.0".parse()? } else { "::".parse()? };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    let local = socket.local_addr()?;
    note(lives, number, |life| {
        life.local = Some(local);
        Ok(())
    })?;
    let mut buffer = [0; 256];
    for count in 0u64.. {
        let said = format!("{number} {count}");
        // ICMP errors during a takeover are not the end of an exchange.
        let _ = socket.send(said.as_bytes()).await;
        // A late answer to an earlier datagram is no right echo, and no wrong one; the right one may stand
        // behind it.
        let right = async {
            loop {
                let Ok(length) = socket.recv(&mut buffer).await else { continue };
                let heard = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                if let Ok(seen) = check(&said, &heard) {
                    break seen.to_owned();
                }
            }
        };
        if let Ok(seen) = tokio::time::timeout(PACE, right).await {
            note(lives, number, |life| life.echo(&seen))?;
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}
