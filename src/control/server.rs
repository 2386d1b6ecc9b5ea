//! The daemon's end of the control socket. Who may connect is the socket's mode (0660); who may change
//! anything is checked by the peer's credentials.
//!
//! A silent or slow client holds up nobody: each is a future of its own with a time limit.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::{Reply, Request};

/// Clients that ask or are being answered at once; the next one waits in the listen queue.
const CLIENTS: usize = 256;
/// Longest request line, in bytes.
const REQUEST: u64 = 4096;
/// A client that says nothing for this long is dropped: requests are written before anything is read.
const SILENCE: Duration = Duration::from_millis(500);
/// A client that does not read for this long is dropped.
const PATIENCE: Duration = Duration::from_secs(5);
/// Out of descriptors, most likely: the next try can wait.
pub(crate) const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A client that waits for its answer.
pub struct Client {
    stream: UnixStream,
}

/// What a client did.
pub enum Heard<P> {
    /// It asks.
    Asked(Client, Request),
    /// It has read a part, and waits for the next one.
    Read(Client, P),
    /// It did not read a part: it is gone.
    Gone(P),
}

type Step<P> = Pin<Box<dyn Future<Output = Option<Heard<P>>>>>;

/// The daemon's end; `P` remembers what a client that is answered in parts is in the middle of.
pub struct ControlServer<P> {
    listener: UnixListener,
    steps: FuturesUnordered<Step<P>>,
}

impl<P: 'static> ControlServer<P> {
    /// Listen at a path; a socket that nobody answers on is replaced.
    ///
    /// # Errors
    /// Another daemon answers there, or the socket cannot be made.
    pub fn open(path: &Path) -> io::Result<ControlServer<P>> {
        Ok(ControlServer { listener: listen(path, 0o660)?, steps: FuturesUnordered::new() })
    }

    /// The socket's path leads nowhere any more: listen there anew. Clients that are being answered go on.
    ///
    /// # Errors
    /// As [`ControlServer::open`].
    pub fn listen_again(&mut self, path: &Path) -> io::Result<()> {
        self.listener = listen(path, 0o660)?;
        Ok(())
    }

    /// What a client does next.
    pub async fn next(&mut self) -> Heard<P> {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.steps.len() < CLIENTS => {
                    match accepted {
                        Ok((stream, _)) => self.steps.push(Box::pin(read_request(stream))),
                        Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                    }
                }
                Some(done) = self.steps.next() => {
                    if let Some(heard) = done {
                        return heard;
                    }
                }
            }
        }
    }

    /// Answer a client and let it go.
    pub fn answer(&mut self, client: Client, reply: Reply) {
        self.steps.push(Box::pin(async move {
            write_reply(client.stream, &reply).await;
            None
        }));
    }

    /// Give a client a part of its answer; [`Heard::Read`] tells when it has been taken.
    pub fn give_part(&mut self, client: Client, part: serde_json::Value, then: P) {
        self.steps.push(Box::pin(async move {
            Some(match write_reply(client.stream, &Reply::Part(part)).await {
                Some(stream) => Heard::Read(Client { stream }, then),
                None => Heard::Gone(then),
            })
        }));
    }
}

/// A Unix socket at a path; one that nobody answers on is replaced.
///
/// # Errors
/// Somebody answers there, or the socket cannot be made.
pub(crate) fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let is_socket = |kind: std::fs::FileType| std::os::unix::fs::FileTypeExt::is_socket(&kind);
    if path.symlink_metadata().is_ok_and(|found| is_socket(found.file_type())) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another ctsync answers on it"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

impl Client {
    /// Whether the client still waits.
    pub fn waits(&self) -> bool {
        let mut byte = [0];
        // Clients say one line and then only listen: readable with nothing to read means gone.
        !matches!(self.stream.try_read(&mut byte), Ok(0))
    }
}

async fn read_request<P>(stream: UnixStream) -> Option<Heard<P>> {
    let credentials = stream.peer_cred().ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    let read = timeout(SILENCE, (&mut reader).take(REQUEST).read_until(b'\n', &mut line)).await;
    let stream = reader.into_inner();
    let Ok(Ok(_)) = read else { return None };
    let request = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => request,
        Err(error) => {
            write_reply(stream, &Reply::Error(format!("cannot read the request: {error}"))).await;
            return None;
        }
    };
    let own = nix::unistd::geteuid().as_raw();
    if request.changes() && credentials.uid() != 0 && credentials.uid() != own {
        let sentence = "only root and the daemon's own user may change anything";
        write_reply(stream, &Reply::Error(sentence.into())).await;
        return None;
    }
    Some(Heard::Asked(Client { stream }, request))
}

/// The stream, if the client read it all in time.
async fn write_reply(mut stream: UnixStream, reply: &Reply) -> Option<UnixStream> {
    let mut line = serde_json::to_vec(reply).ok()?;
    line.push(b'\n');
    // A client that went away or does not read loses its answer, nothing else.
    match timeout(PATIENCE, stream.write_all(&line)).await {
        Ok(Ok(())) => Some(stream),
        Ok(Err(_)) | Err(_) => None,
    }
}
