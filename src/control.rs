//! The operator's door: one JSON line in, one JSON line out, over a Unix socket.
//!
//! Both ends live here; the daemon answers, the command line asks. Who may connect is the socket's mode (0660);
//! who may change anything is checked by the peer's credentials. A silent or slow client holds up nobody: each
//! is a future of its own with a time limit, and there are at most 32.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::replica::Role;

/// Clients served at once; the next one waits in the listen queue.
const CLIENTS: usize = 32;
/// Longest request line, in bytes.
const REQUEST: u64 = 4096;
/// A client that says nothing, or does not read, for this long is dropped.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked of a daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// State and verdict.
    Status,
    /// Counters.
    Statistics,
    /// Answer when this node is ready.
    WaitReady,
    /// Tell the role of a group; answered when the fence is closed.
    Notify {
        /// The role.
        role: Role,
        /// The group's name.
        group: String,
    },
}

impl Request {
    /// Only root and the daemon's own user may do this.
    pub fn changes(&self) -> bool {
        matches!(self, Request::Notify { .. })
    }
}

/// The answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done; what was asked for.
    Ok(serde_json::Value),
    /// Not done; a sentence.
    Error(String),
}

/// The client cannot reach the daemon or got no answer.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nothing listens.
    #[error("can't connect: is ctsync running? appropriate permissions? (control socket {path})")]
    Unreachable {
        /// Socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon did not answer on {path}")]
    NoAnswer {
        /// Socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("no answer within {0} s")]
    TimedOut(u64),
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
}

/// Ask a daemon and wait for its answer, `limit` at most.
pub async fn ask(path: &Path, request: &Request, limit: Duration) -> Result<serde_json::Value, ControlError> {
    let unreachable = |source| ControlError::Unreachable { path: path.to_owned(), source };
    let broken = |source| ControlError::NoAnswer { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).await.map_err(unreachable)?;
    let exchange = async {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(&mut stream).read_line(&mut answer).await?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str::<Reply>(&answer)?)
    };
    let reply: io::Result<Reply> =
        timeout(limit, exchange).await.map_err(|_| ControlError::TimedOut(limit.as_secs()))?;
    match reply.map_err(broken)? {
        Reply::Ok(value) => Ok(value),
        Reply::Error(sentence) => Err(ControlError::Refused(sentence)),
    }
}

/// A client that waits for its answer.
pub struct Client {
    stream: UnixStream,
}

type Step = Pin<Box<dyn Future<Output = Option<(Client, Request)>>>>;

/// The daemon's end.
pub struct ControlServer {
    listener: UnixListener,
    steps: FuturesUnordered<Step>,
}

impl ControlServer {
    /// Listen at a path; a socket that nobody answers on is replaced.
    pub fn open(path: &Path) -> io::Result<ControlServer> {
        if path.exists() {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another ctsync answers on it"));
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(ControlServer { listener, steps: FuturesUnordered::new() })
    }

    /// The next complete request.
    pub async fn next(&mut self) -> (Client, Request) {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.steps.len() < CLIENTS => {
                    if let Ok((stream, _)) = accepted {
                        self.steps.push(Box::pin(read_request(stream)));
                    }
                }
                Some(read) = self.steps.next() => {
                    if let Some((client, request)) = read {
                        return (client, request);
                    }
                }
            }
        }
    }

    /// Answer a client and let it go.
    pub fn answer(&mut self, client: Client, reply: Reply) {
        self.steps.push(Box::pin(async move {
            write_reply(client.stream, reply).await;
            None
        }));
    }
}

impl Client {
    /// Whether the client still waits.
    pub fn waits(&self) -> bool {
        let mut byte = [0];
        // Clients say one line and then only listen: readable with nothing to read means gone.
        !matches!(self.stream.try_read(&mut byte), Ok(0))
    }
}

async fn read_request(stream: UnixStream) -> Option<(Client, Request)> {
    let credentials = stream.peer_cred().ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    let read = timeout(PATIENCE, (&mut reader).take(REQUEST).read_until(b'\n', &mut line)).await;
    let stream = reader.into_inner();
    let Ok(Ok(_)) = read else { return None };
    let request = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => request,
        Err(error) => {
            write_reply(stream, Reply::Error(format!("cannot read the request: {error}"))).await;
            return None;
        }
    };
    let own = nix::unistd::geteuid().as_raw();
    if request.changes() && credentials.uid() != 0 && credentials.uid() != own {
        let sentence = "only root and the daemon's own user may change anything";
        write_reply(stream, Reply::Error(sentence.into())).await;
        return None;
    }
    Some((Client { stream }, request))
}

async fn write_reply(mut stream: UnixStream, reply: Reply) {
    let Ok(mut line) = serde_json::to_vec(&reply) else { return };
    line.push(b'\n');
    // A client that went away or does not read loses its answer, nothing else.
    let _ = timeout(PATIENCE, stream.write_all(&line)).await;
}
