//! The HTTP socket where metrics are scraped. A silent or slow scraper holds up nobody: each is a future of
//! its own with a time limit.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;

use super::Format;
use crate::config::MetricsAddress;

/// Scrapers served at once; the next one waits in the listen queue.
const SCRAPERS: usize = 16;
/// Longest request head, in bytes.
const HEAD: usize = 8192;
/// A scraper that says nothing, or does not read, for this long is dropped.
const PATIENCE: Duration = Duration::from_secs(5);

trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Stream for T {}

/// A scraper that waits for its text.
pub struct Scrape {
    stream: Box<dyn Stream>,
    /// How it wants it.
    pub format: Format,
}

type Step = Pin<Box<dyn Future<Output = Option<Scrape>>>>;

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// The HTTP socket.
pub struct MetricsServer {
    listener: Listener,
    steps: FuturesUnordered<Step>,
}

impl MetricsServer {
    /// Listen.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn open(address: &MetricsAddress) -> io::Result<MetricsServer> {
        let listener = match address {
            MetricsAddress::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await?),
            MetricsAddress::Unix(path) => Listener::Unix(crate::control::listen(path, 0o666)?),
        };
        Ok(MetricsServer { listener, steps: FuturesUnordered::new() })
    }

    /// The next scraper that asks for metrics; others are told what is wrong.
    pub async fn next(&mut self) -> Scrape {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.steps.len() < SCRAPERS => {
                    match accepted {
                        Ok(stream) => self.steps.push(Box::pin(async {
                            timeout(PATIENCE, read_request(stream)).await.ok().flatten()
                        })),
                        Err(_) => tokio::time::sleep(crate::control::ACCEPT_AGAIN).await,
                    }
                }
                Some(done) = self.steps.next() => {
                    if let Some(scrape) = done {
                        return scrape;
                    }
                }
            }
        }
    }

    /// Give a scraper its text and let it go.
    pub fn answer(&mut self, scrape: Scrape, body: String) {
        let Scrape { stream, format } = scrape;
        self.steps.push(Box::pin(async move {
            respond(stream, "200 OK", format.content_type(), &body).await;
            None
        }));
    }
}

async fn read_request(mut stream: Box<dyn Stream>) -> Option<Scrape> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    let plain = "text/plain; charset=utf-8";
    loop {
        let length = stream.read(&mut buffer).await.ok()?;
        if length == 0 {
            return None;
        }
        head.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Complete(_)) => {
                let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
                if request.method != Some("GET") {
                    respond(stream, "405 Method Not Allowed", plain, "only GET is understood\n").await;
                    return None;
                }
                if path != "/metrics" {
                    respond(stream, "404 Not Found", plain, "metrics are at /metrics\n").await;
                    return None;
                }
                let open = request.headers.iter().any(|header| {
                    header.name.eq_ignore_ascii_case("accept")
                        && String::from_utf8_lossy(header.value).contains("application/openmetrics-text")
                });
                let format = if open { Format::OpenMetrics } else { Format::Prometheus };
                return Some(Scrape { stream, format });
            }
            Ok(httparse::Status::Partial) if head.len() < HEAD => {}
            Ok(httparse::Status::Partial) | Err(_) => {
                respond(stream, "400 Bad Request", plain, "not an HTTP request that is understood\n").await;
                return None;
            }
        }
    }
}

async fn respond(mut stream: Box<dyn Stream>, status: &str, kind: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A scraper that went away or does not read loses its answer, nothing else.
    let _ = timeout(PATIENCE, async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}
