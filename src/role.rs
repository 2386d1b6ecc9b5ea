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
    sync_group: String,
    pipe: pipe::Receiver,
    partial: Vec<u8>,
}

/// What keepalived said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// The sync group changed its state.
    Role(Role),
    /// keepalived closed the FIFO: it is gone.
    Gone,
}

impl NotifyFifo {
    /// Open the FIFO, making it if it is missing.
    pub fn open(path: &Path, sync_group: &str) -> Result<NotifyFifo, RoleError> {
        let failed = |what| move |source: io::Error| RoleError { what, path: path.to_owned(), source };
        match nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed("make the notify FIFO")(errno.into())),
        }
        let pipe = pipe::OpenOptions::new().open_receiver(path).map_err(failed("open the notify FIFO"))?;
        Ok(NotifyFifo { path: path.to_owned(), sync_group: sync_group.to_owned(), pipe, partial: Vec::new() })
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
                    *self = NotifyFifo::open(&self.path, &self.sync_group)?;
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
            if let Some(role) = parse_line(&line, &self.sync_group) {
                told.push(Told::Role(role));
            }
        }
    }
}

/// `GROUP "name" STATE priority`, keepalived.conf(5), vrrp_notify_fifo. Other lines and groups tell nothing.
pub fn parse_line(line: &str, sync_group: &str) -> Option<Role> {
    let rest = line.strip_prefix("GROUP \"")?;
    let (name, rest) = rest.split_once('"')?;
    if name != sync_group {
        return None;
    }
    match rest.split_whitespace().next()? {
        "MASTER" => Some(Role::Primary),
        "BACKUP" => Some(Role::Backup),
        "FAULT" | "STOP" => Some(Role::Fault),
        _ => None,
    }
}

/// The file that keepalived's `vrrp_track_file` watches.
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
    fn only_our_groups_lines_count() {
        for (line, role) in [
            ("GROUP \"SYNC\" MASTER 200", Some(Role::Primary)),
            ("GROUP \"SYNC\" BACKUP 100", Some(Role::Backup)),
            ("GROUP \"SYNC\" FAULT 0", Some(Role::Fault)),
            ("GROUP \"SYNC\" STOP 0", Some(Role::Fault)),
            ("GROUP \"OTHER\" MASTER 200", None),
            ("INSTANCE \"SYNC\" MASTER 200", None),
            ("GROUP \"SYNC\"", None),
            ("", None),
        ] {
            assert_eq!(parse_line(line, "SYNC"), role, "{line}");
        }
    }
}
