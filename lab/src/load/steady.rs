//! Clients that say something every millisecond, answered or not: no moment of a takeover is without a packet
//! of theirs.
//!
//! Called by `scenario/first_packet`. They talk to the echo servers of `traffic`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Interval, MissedTickBehavior};

use crate::load::traffic::{Kind, Worker};
use crate::machine::net::Namespace;

/// Between two lines.
const PACE: Duration = Duration::from_millis(1);
/// Right echoes since the mark that make a stream alive: a tenth of a second's.
const ALIVE: u64 = 100;
/// TCP doubles its back-off from 1 s for a SYN.
const CONNECT: Duration = Duration::from_secs(10);

/// What one stream has lived through.
#[derive(Clone, Default)]
pub(crate) struct Stream {
    /// What the server saw first.
    seen: Option<String>,
    /// Right echoes since the mark.
    echoes: u64,
    /// Why it ended.
    pub ended: Option<String>,
}

impl Stream {
    /// It speaks, from the port it always had.
    pub(crate) fn alive(&self) -> bool {
        self.ended.is_none() && self.echoes >= ALIVE
    }

    fn hear(&mut self, line: &str) -> Result<()> {
        let (_, seen) = line.rsplit_once(' ').with_context(|| format!("heard \"{line}\""))?;
        match &self.seen {
            None => self.seen = Some(seen.to_owned()),
            Some(first) if first != seen => bail!("the server sees {seen}, it was {first}"),
            Some(_) => {}
        }
        self.echoes += 1;
        Ok(())
    }
}

/// Some streams of one kind to one server; they end when this is dropped.
pub(crate) struct Steady {
    streams: Arc<Mutex<Vec<Stream>>>,
    _worker: Worker,
}

impl Steady {
    /// Begin them, one a millisecond.
    pub(crate) fn open(
        namespace: &Namespace,
        kind: Kind,
        server: SocketAddr,
        count: usize,
    ) -> Result<Steady> {
        let streams = Arc::new(Mutex::new(vec![Stream::default(); count]));
        let shared = streams.clone();
        let worker = Worker::start(namespace, move |ready| async move {
            let _ = ready.send(());
            let mut turns = every_millisecond();
            for number in 0..count {
                turns.tick().await;
                let streams = shared.clone();
                tokio::task::spawn_local(async move {
                    let talk = async {
                        if kind == Kind::Udp {
                            talk_udp(&streams, number, server).await
                        } else {
                            talk_tcp(&streams, number, server).await
                        }
                    };
                    if let (Err(error), Some(stream)) = (talk.await, streams.lock().get_mut(number)) {
                        stream.ended.get_or_insert(format!("{error:#}"));
                    }
                });
            }
            std::future::pending().await
        })?;
        Ok(Steady { streams, _worker: worker })
    }

    /// All as they are now.
    pub(crate) fn streams(&self) -> Vec<Stream> {
        self.streams.lock().clone()
    }

    /// Count echoes from here.
    pub(crate) fn mark(&self) {
        self.streams.lock().iter_mut().for_each(|stream| stream.echoes = 0);
    }
}

fn every_millisecond() -> Interval {
    let mut interval = tokio::time::interval(PACE);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

fn hear(streams: &Mutex<Vec<Stream>>, number: usize, line: &str) -> Result<()> {
    streams.lock().get_mut(number).map_or(Ok(()), |stream| stream.hear(line))
}

async fn talk_tcp(streams: &Mutex<Vec<Stream>>, number: usize, server: SocketAddr) -> Result<()> {
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(server));
    let mut stream = stream.await.context("no connection")?.context("cannot connect")?;
    stream.set_nodelay(true)?;
    // It ends at once: what is said in order is said again through the routers of the next takeover if these
    // are gone.
    stream.set_zero_linger()?;
    let (read, mut write) = stream.split();
    let speak = async {
        let mut turns = every_millisecond();
        for count in 0u64.. {
            turns.tick().await;
            write.write_all(format!("{count}\n").as_bytes()).await?;
        }
        Ok(())
    };
    let listen = async {
        let mut lines = BufReader::new(read).lines();
        for count in 0u64.. {
            let line = lines.next_line().await?.context("closed by the server")?;
            if !line.starts_with(&format!("{count} ")) {
                bail!("said \"{count}\", heard \"{line}\"");
            }
            hear(streams, number, &line)?;
        }
        Ok(())
    };
    tokio::select! {
        result = speak => result,
        result = listen => result,
    }
}

/// A datagram may be lost, and an ICMP error is not the end of a stream: what counts is what the server saw.
async fn talk_udp(streams: &Mutex<Vec<Stream>>, number: usize, server: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
    socket.connect(server).await?;
    let speak = async {
        let mut turns = every_millisecond();
        for count in 0u64.. {
            turns.tick().await;
            let _ = socket.send(count.to_string().as_bytes()).await;
        }
    };
    let listen = async {
        let mut buffer = [0; 256];
        loop {
            let Ok(length) = socket.recv(&mut buffer).await else { continue };
            hear(streams, number, &String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()))?;
        }
    };
    tokio::select! {
        () = speak => Ok(()),
        result = listen => result,
    }
}
