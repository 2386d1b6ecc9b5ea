//! keepalived's two files: the notify FIFO that tells the role, and the track file that the election looks at.
//!
//! Called by the daemon. The FIFO replays nothing; lines wait in the pipe while nobody reads, and its end means
//! that keepalived is gone.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use thiserror::Error;
use tokio::net::unix::pipe;

use crate::config::Subject;
use crate::replica::Role;

/// What the track file says of a node that should not be elected: lowers any priority to the least, without FAULT.
const UNFIT: &str = "-250\n";
/// ... and of one that may.
const FIT: &str = "0\n";

/// The FIFO or the track file cannot be used.
#[derive(Debug, Error)]
#[error("cannot {what} {path}")]
pub struct RoleError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The read end of keepalived's `vrrp_notify_fifo`.
pub struct NotifyFifo {
    path: PathBuf,
    pipe: pipe::Receiver,
    partial: Vec<u8>,
}

/// What keepalived said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// A sync group or an instance changed its state.
    Role(Subject, Role),
    /// keepalived closed the FIFO: it is gone.
    Gone,
}

impl NotifyFifo {
    /// Open the FIFO, making it if it is missing.
    pub fn open(path: &Path) -> Result<NotifyFifo, RoleError> {
        let failed = |what| move |source: io::Error| RoleError { what, path: path.to_owned(), source };
        match nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed("make the notify FIFO")(errno.into())),
        }
        let pipe = pipe::OpenOptions::new().open_receiver(path).map_err(failed("open the notify FIFO"))?;
        Ok(NotifyFifo { path: path.to_owned(), pipe, partial: Vec::new() })
    }

    /// Wait until something can be read.
    pub async fn readable(&self) -> io::Result<()> {
        self.pipe.readable().await
    }

    /// Everything said since the last call, in order.
    pub fn read(&mut self) -> Result<Vec<Told>, RoleError> {
        let mut told = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.pipe.try_read(&mut buffer) {
                Ok(0) => {
                    told.push(Told::Gone);
                    // A fresh open is silent until the next writer comes.
                    self.partial.clear();
                    *self = NotifyFifo::open(&self.path)?;
                    return Ok(told);
                }
                Ok(length) => self.take(buffer.get(..length).unwrap_or_default(), &mut told),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(told),
                Err(source) => {
                    let path = self.path.clone();
                    return Err(RoleError { what: "read the notify FIFO", path, source });
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8], told: &mut Vec<Told>) {
        for byte in bytes {
            if *byte != b'\n' {
                // keepalived's lines are short; what is longer is not its line.
                if self.partial.len() < 1024 {
                    self.partial.push(*byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.partial).into_owned();
            self.partial.clear();
            if let Some((subject, role)) = parse_line(&line) {
                told.push(Told::Role(subject, role));
            }
        }
    }
}

/// `GROUP "name" STATE priority` or `INSTANCE ...`, keepalived.conf(5), vrrp_notify_fifo. Other lines tell nothing.
pub fn parse_line(line: &str) -> Option<(Subject, Role)> {
    let (kind, rest) = line.split_once(" \"")?;
    let (name, rest) = rest.split_once('"')?;
    let subject = match kind {
        "GROUP" => Subject::SyncGroup(name.to_owned()),
        "INSTANCE" => Subject::Instance(name.to_owned()),
        _ => return None,
    };
    let role = match rest.split_whitespace().next()? {
        "MASTER" => Role::Primary,
        "BACKUP" => Role::Backup,
        "FAULT" | "STOP" => Role::Fault,
        _ => return None,
    };
    Some((subject, role))
}

/// The file that keepalived's `track_file` watches.
pub struct TrackFile {
    path: PathBuf,
    written: Option<bool>,
}

impl TrackFile {
    /// Nothing is written yet.
    pub fn new(path: &Path) -> TrackFile {
        TrackFile { path: path.to_owned(), written: None }
    }

    /// Say whether this node may be elected; writes only what changes.
    pub fn set(&mut self, fit: bool) -> Result<(), RoleError> {
        if self.written == Some(fit) {
            return Ok(());
        }
        // In place, not by rename: keepalived watches the file itself.
        std::fs::write(&self.path, if fit { FIT } else { UNFIT }).map_err(|source| RoleError {
            what: "write the track file",
            path: self.path.clone(),
            source,
        })?;
        self.written = Some(fit);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_group_or_an_instance() {
        let group = |role| Some((Subject::SyncGroup("SYNC".into()), role));
        let instance = |role| Some((Subject::Instance("SYNC".into()), role));
        for (line, told) in [
            ("GROUP \"SYNC\" MASTER 200", group(Role::Primary)),
            ("GROUP \"SYNC\" BACKUP 100", group(Role::Backup)),
            ("GROUP \"SYNC\" FAULT 0", group(Role::Fault)),
            ("GROUP \"SYNC\" STOP 0", group(Role::Fault)),
            ("INSTANCE \"SYNC\" MASTER 200", instance(Role::Primary)),
            ("INSTANCE \"SYNC\" MASTER_RX_LOWER_PRI 200", None),
            ("GROUP \"SYNC\"", None),
            ("GROUP", None),
            ("", None),
        ] {
            assert_eq!(parse_line(line), told, "{line}");
        }
    }
}
