//! The channel's keys: a file of their own, so that a configuration can be shown to anybody.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Loaded;
use super::mistake::{MachineMistake, Refused};
use crate::engine::seal::Key;

/// The keys that a configuration names, in their order; none without a `key-file`.
///
/// # Errors
/// The file cannot be read, others may read it, or a line is no key.
pub fn read_keys(loaded: &Loaded) -> Result<Vec<Key>, Refused> {
    let Some(file) = &loaded.config.key_file else { return Ok(Vec::new()) };
    let wrong = |mistake| vec![loaded.source.wrong("/key-file", mistake)];
    read(file).map_err(|mistake| Refused { errors: wrong(mistake), remarks: Vec::new() })
}

fn read(file: &Path) -> Result<Vec<Key>, MachineMistake> {
    let unreadable = |source| MachineMistake::KeyUnreadable { file: file.to_owned(), source };
    let mode = std::fs::metadata(file).map_err(unreadable)?.mode();
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    if !is_private(file, mode, credentials.as_deref()) {
        return Err(MachineMistake::KeyPermissions { file: file.to_owned(), mode: mode & 0o777 });
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let key =
                parse(line).ok_or(MachineMistake::NotAKey { file: file.to_owned(), line: number + 1 })?;
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(MachineMistake::NoKey { file: file.to_owned() });
    }
    Ok(keys)
}

/// Whether nobody but its owner reads it. systemd shows a service the credentials of its unit by an ACL,
/// whose mask stands where the group's permissions are, in a directory that nobody else may enter
/// (systemd.exec(5), `LoadCredential=`).
fn is_private(file: &Path, mode: u32, credentials: Option<&Path>) -> bool {
    let handed_over = credentials.is_some_and(|directory| file.parent() == Some(directory));
    mode & if handed_over { 0o037 } else { 0o077 } == 0
}

/// 64 hexadecimal digits.
fn parse(text: &str) -> Option<Key> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(Key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reads_a_key_only_where_systemd_handed_it_over() {
        let credentials = Some(Path::new("/run/credentials/ctsync.service"));
        let handed = Path::new("/run/credentials/ctsync.service/key");
        let own = Path::new("/etc/ctsync/key");
        for (file, mode, credentials, private) in [
            (own, 0o100_600, None, true),
            (own, 0o100_440, None, false),
            (own, 0o100_440, credentials, false),
            (handed, 0o100_440, credentials, true),
            (handed, 0o100_440, None, false),
            (handed, 0o100_460, credentials, false),
            (handed, 0o100_444, credentials, false),
        ] {
            assert_eq!(is_private(file, mode, credentials), private, "{} {mode:o}", file.display());
        }
    }
}
