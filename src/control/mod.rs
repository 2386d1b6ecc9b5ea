//! The operator's socket: one JSON line in, JSON lines out, over a Unix socket. What can be asked, and the
//! client's end; `server` is the daemon's.
//!
//! Most answers are one line. Listings and live changes come in parts, each written before the next one is
//! made, so that neither a large table nor a slow client holds up the daemon.

mod server;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::engine::replica::{Cache, Role};

pub(crate) use server::{ACCEPT_AGAIN, listen};
pub use server::{Client, ControlServer, Heard};

/// What can be asked of a daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// State and verdict.
    Status,
    /// Counters.
    Statistics,
    /// The entries of a cache, in parts.
    Cache {
        /// Which.
        cache: Cache,
    },
    /// Changes of both caches as they happen, in parts, until the client goes.
    Events,
    /// Answer when this node is ready.
    WaitReady,
    /// Where this table and the peer's differ.
    Diff,
    /// Which entries take part.
    Filter,
    /// Tell the role of a group; answered when the fence is closed.
    Notify {
        /// The role.
        role: Role,
        /// The group's name.
        group: String,
    },
    /// Move a group to another node, or let this one be elected again after that; answered when the other one
    /// carries it.
    Switch {
        /// The group's name; with one group alone none.
        group: Option<String>,
        /// Who should take over.
        to: Option<String>,
        /// Also when it is not safe.
        force: bool,
    },
    /// Read the kernel table again; answered when it has been read.
    Resync,
    /// Rebuild a cache; answered when that is done.
    Reset {
        /// Which.
        cache: Cache,
    },
    /// Read the configuration again.
    Reload,
}

impl Request {
    /// Only root and the daemon's own user may do this.
    pub fn changes(&self) -> bool {
        match self {
            Request::Notify { .. }
            | Request::Switch { .. }
            | Request::Resync
            | Request::Reset { .. }
            | Request::Reload => true,
            Request::Status
            | Request::Statistics
            | Request::Cache { .. }
            | Request::Events
            | Request::WaitReady
            | Request::Diff
            | Request::Filter => false,
        }
    }
}

/// The answer, or a part of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// More comes.
    Part(Value),
    /// Done; what was asked for.
    Ok(Value),
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
    /// Whoever takes the parts has had enough.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

/// A question put to a daemon.
pub struct Asked {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Asked {
    /// Connect and ask.
    ///
    /// # Errors
    /// Nothing listens, or the connection breaks.
    pub async fn put(path: &Path, request: &Request) -> Result<Asked, ControlError> {
        let unreachable = |source| ControlError::Unreachable { path: path.to_owned(), source };
        let broken = |source: io::Error| ControlError::NoAnswer { path: path.to_owned(), source };
        let mut stream = UnixStream::connect(path).await.map_err(unreachable)?;
        let mut line = serde_json::to_vec(request).map_err(|error| broken(error.into()))?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(broken)?;
        Ok(Asked { stream: BufReader::new(stream), path: path.to_owned() })
    }

    /// The next line of the answer.
    ///
    /// # Errors
    /// The connection breaks, or what comes is no reply.
    pub async fn next(&mut self) -> Result<Reply, ControlError> {
        let broken = |source: io::Error| ControlError::NoAnswer { path: self.path.clone(), source };
        let mut line = String::new();
        self.stream.read_line(&mut line).await.map_err(broken)?;
        if line.is_empty() {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_str(&line).map_err(|error| broken(error.into()))
    }

    /// The whole answer; parts go to `part` as they come.
    ///
    /// # Errors
    /// The daemon refuses, the connection breaks, or `part` fails.
    pub async fn finish(
        &mut self,
        mut part: impl FnMut(Value) -> io::Result<()>,
    ) -> Result<Value, ControlError> {
        loop {
            match self.next().await? {
                Reply::Part(value) => part(value).map_err(ControlError::Output)?,
                Reply::Ok(value) => return Ok(value),
                Reply::Error(sentence) => return Err(ControlError::Refused(sentence)),
            }
        }
    }
}

/// Ask a daemon and wait for its answer, `limit` at most.
///
/// # Errors
/// The daemon cannot be reached, refuses, or takes too long.
pub async fn ask(path: &Path, request: &Request, limit: Duration) -> Result<Value, ControlError> {
    let exchange = async { Asked::put(path, request).await?.finish(|_| Ok(())).await };
    timeout(limit, exchange).await.map_err(|_| ControlError::TimedOut(limit.as_secs()))?
}
