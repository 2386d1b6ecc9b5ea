//! Where log lines go: to standard error, as its reader wants them. systemd's journal has its own clock and
//! reads a line's priority off its beginning; everybody else gets time and level in words.

use std::io::{IsTerminal, Stderr, Write};
use std::os::fd::AsFd;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Begin; whether the journal reads. `CTSYNC_LOG` chooses what is told.
pub fn start_logging() -> bool {
    let filter = EnvFilter::try_from_env("CTSYNC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), std::io::stderr());
    if journal {
        lines.with_ansi(false).with_level(false).without_time().with_writer(Journal).init();
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).init();
    }
    journal
}

/// Whether a stream is the one that systemd.exec(5) names in `$JOURNAL_STREAM`, as DEVICE:INODE.
fn is_journal(named: Option<&str>, stream: impl AsFd) -> bool {
    let Some((device, inode)) = named.and_then(|text| text.split_once(':')) else { return false };
    nix::sys::stat::fstat(stream)
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

/// Makes lines of the journal.
struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Line<Stderr>;

    fn make_writer(&'a self) -> Line<Stderr> {
        Line { priority: 6, out: std::io::stderr() }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<Stderr> {
        Line { priority: priority(*meta.level()), out: std::io::stderr() }
    }
}

/// sd-daemon(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// What failed last, for whoever reads standard error; each line of it with its priority where that is the
/// journal.
pub fn tell_error(error: &anyhow::Error, journal: bool) {
    let text = format!("ctsync: {error:#}\n");
    let mut out = std::io::stderr();
    let _ = if journal {
        Line { priority: 3, out }.write_all(text.as_bytes())
    } else {
        out.write_all(text.as_bytes())
    };
}

/// A line or several, which the subscriber writes at once: the journal reads a priority off each.
struct Line<W> {
    priority: u8,
    out: W,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.out.write_all(&[format!("<{}>", self.priority).as_bytes(), line].concat())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_priority() {
        let mut heard = Vec::new();
        Line { priority: priority(Level::WARN), out: &mut heard }
            .write_all(b"nothing was changed:\nline 2\n")
            .unwrap();
        assert_eq!(heard, b"<4>nothing was changed:\n<4>line 2\n");
    }

    #[test]
    fn the_journal_is_told_from_another_pipe() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::tempfile().unwrap();
        let stat = file.metadata().unwrap();
        let named = format!("{}:{}", stat.dev(), stat.ino());
        assert!(is_journal(Some(&named), &file));
        for other in [None, Some(""), Some("1"), Some("1:1"), Some(&*format!("{named}0"))] {
            assert!(!is_journal(other, &file), "{other:?}");
        }
    }
}
