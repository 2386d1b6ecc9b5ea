//! keepalived's two files: the notify FIFO that tells the role, and the track file that the election looks
//! at.
//!
//! Called by the daemon. The FIFO replays nothing; lines wait in the pipe while nobody reads, and its end
//! means that keepalived is gone.

use std::io;
use std::path::{Path, PathBuf};

use futures_util::FutureExt;
use nix::errno::Errno;
use nix::sys::stat::Mode;
use thiserror::Error;
use tokio::net::unix::pipe;

use crate::config::Subject;
use crate::engine::replica::Role;

/// What the track file says of a node that should not be elected: lowers any priority to the least, without
/// FAULT.
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

/// What keepalived said: a sync group or an instance changed its state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told(pub Subject, pub Role);

/// The read end of keepalived's `vrrp_notify_fifo`.
pub struct NotifyFifo {
    path: PathBuf,
    pipe: pipe::Receiver,
    /// Somebody held the other end when last looked.
    held: bool,
    /// It was made again under somebody who held the one before.
    replaced: bool,
    partial: Vec<u8>,
}

impl NotifyFifo {
    /// Open the FIFO, making it if it is missing.
    ///
    /// # Errors
    /// It cannot be made or opened, or is something else.
    pub fn open(path: &Path) -> Result<NotifyFifo, RoleError> {
        let pipe = open_fifo(path)?;
        Ok(NotifyFifo { path: path.to_owned(), pipe, held: false, replaced: false, partial: Vec::new() })
    }

    /// Wait until something can be read.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn readable(&self) -> io::Result<()> {
        self.pipe.readable().await
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Somebody, keepalived, holds the other end open.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// The FIFO was replaced under a keepalived that wrote into the one before, and has not opened this one.
    pub fn is_replaced(&self) -> bool {
        self.replaced && !self.held
    }

    /// Everything said since the last call, in order. The kernel is asked, not the runtime, so that it is
    /// also seen whether somebody holds the other end.
    ///
    /// # Errors
    /// It cannot be read, or not be opened again.
    pub fn read(&mut self) -> Result<Vec<Told>, RoleError> {
        let mut told = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match nix::unistd::read(&self.pipe, &mut buffer) {
                Ok(0) => {
                    if std::mem::take(&mut self.held) {
                        self.partial.clear();
                    }
                    self.wait_for_more()?;
                    return Ok(told);
                }
                Ok(length) => {
                    self.held = true;
                    self.take(buffer.get(..length).unwrap_or_default(), &mut told);
                }
                Err(Errno::EAGAIN) => {
                    self.held = true;
                    self.replaced = false;
                    self.wait_for_more()?;
                    return Ok(told);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    let (path, source) = (self.path.clone(), errno.into());
                    return Err(RoleError { what: "read the notify FIFO", path, source });
                }
            }
        }
    }

    /// The runtime is told that nothing is left, so that it waits. That a writer has closed its end it does
    /// not forget: a fresh open is silent until the next one comes, and what is in the pipe stays there.
    fn wait_for_more(&mut self) -> Result<(), RoleError> {
        let _ = self.pipe.try_io(|| io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
        if self.pipe.readable().now_or_never().is_some() {
            self.pipe = open_fifo(&self.path)?;
        }
        Ok(())
    }

    /// Whether the path still leads to the FIFO that is read here; if not, it is made again. True: it was.
    ///
    /// # Errors
    /// It cannot be made again; tried again at the next look.
    pub fn look(&mut self) -> Result<bool, RoleError> {
        let ours = nix::sys::stat::fstat(&self.pipe).map(|stat| (stat.st_dev, stat.st_ino));
        let there = nix::sys::stat::stat(&self.path).map(|stat| (stat.st_dev, stat.st_ino));
        if ours == there {
            return Ok(false);
        }
        self.pipe = open_fifo(&self.path)?;
        self.replaced |= self.held;
        self.held = false;
        self.partial.clear();
        Ok(true)
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
            told.extend(parse_line(&line).map(|(subject, role)| Told(subject, role)));
        }
    }
}

fn open_fifo(path: &Path) -> Result<pipe::Receiver, RoleError> {
    let failed = |what| move |source: io::Error| RoleError { what, path: path.to_owned(), source };
    match nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(failed("make the notify FIFO")(errno.into())),
    }
    pipe::OpenOptions::new().open_receiver(path).map_err(failed("open the notify FIFO"))
}

/// `GROUP "name" STATE priority` or `INSTANCE ...`, keepalived.conf(5), vrrp_notify_fifo. Other lines tell
/// nothing.
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
    ///
    /// # Errors
    /// It cannot be written; tried again at the next call.
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

    /// Whether the file still says what was written last; if not, the next [`TrackFile::set`] writes it
    /// again.
    pub fn look(&mut self) -> bool {
        let Some(fit) = self.written else { return true };
        let wanted = if fit { FIT } else { UNFIT };
        let same = std::fs::read(&self.path).is_ok_and(|found| found == wanted.as_bytes());
        if !same {
            self.written = None;
        }
        same
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

    fn open_writer(path: &Path) -> std::fs::File {
        std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    #[tokio::test]
    async fn a_fifo_knows_who_holds_it_and_what_was_replaced() {
        use std::io::Write;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        let mut fifo = NotifyFifo::open(&path).unwrap();
        assert_eq!((fifo.read().unwrap(), fifo.is_held()), (Vec::new(), false), "nobody yet");
        let mut writer = open_writer(&path);
        assert_eq!((fifo.read().unwrap(), fifo.is_held()), (Vec::new(), true), "it is silent");
        writer.write_all(b"GROUP \"SYNC\" MASTER 200\nGROUP \"SY").unwrap();
        let told = Told(Subject::SyncGroup("SYNC".into()), Role::Primary);
        assert_eq!(fifo.read().unwrap(), std::slice::from_ref(&told));
        assert!(!fifo.look().unwrap(), "it is the same");
        drop(writer);
        assert_eq!((fifo.read().unwrap(), fifo.is_held()), (Vec::new(), false));
        let mut writer = open_writer(&path);
        writer.write_all(b"GROUP \"SYNC\" MASTER 200\n").unwrap();
        assert_eq!(
            (fifo.read().unwrap(), fifo.is_held()),
            (vec![told.clone()], true),
            "half a line is forgotten"
        );

        std::fs::remove_file(&path).unwrap();
        assert!(fifo.look().unwrap(), "made again");
        writer.write_all(b"GROUP \"SYNC\" BACKUP 200\n").unwrap();
        assert_eq!((fifo.read().unwrap(), fifo.is_held(), fifo.is_replaced()), (Vec::new(), false, true));
        let mut writer = open_writer(&path);
        writer.write_all(b"GROUP \"SYNC\" MASTER 200\n").unwrap();
        assert_eq!((fifo.read().unwrap(), fifo.is_held(), fifo.is_replaced()), (vec![told], true, false));

        drop(directory);
        assert!(fifo.look().is_err() && fifo.look().is_err(), "its directory is gone");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        assert!(fifo.look().unwrap());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    /// Who opens it and says nothing leaves nothing behind that would wake the loop again and again.
    #[tokio::test]
    async fn a_silent_visitor_does_not_wake_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        let mut fifo = NotifyFifo::open(&path).unwrap();
        for visits in 0..3 {
            drop(std::fs::OpenOptions::new().write(true).open(&path).unwrap());
            // The runtime hears of it before it is read, or does not.
            for _ in 0..visits {
                tokio::task::yield_now().await;
            }
            assert_eq!((fifo.read().unwrap(), fifo.is_held()), (Vec::new(), false));
            tokio::task::yield_now().await;
            fifo.read().unwrap();
            let waits = tokio::time::timeout(std::time::Duration::from_millis(50), fifo.readable()).await;
            assert!(waits.is_err(), "visit {visits}: nothing is to be read");
        }
    }

    #[test]
    fn a_track_file_that_was_changed_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("track");
        let mut track = TrackFile::new(&path);
        track.set(false).unwrap();
        assert!(track.look());
        std::fs::remove_file(&path).unwrap();
        assert!(!track.look());
        track.set(false).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), UNFIT);
    }
}
