//! The channel's keys: a file of their own, so that a configuration can be shown to anybody.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Loaded;
use super::mistake::{Mistake, Refused};
use crate::seal::Key;

/// The keys that a configuration names, in their order; none without a `key-file`.
///
/// # Errors
/// The file cannot be read, others may read it, or a line is no key.
pub fn read_keys(loaded: &Loaded) -> Result<Vec<Key>, Refused> {
    let Some(file) = &loaded.config.key_file else { return Ok(Vec::new()) };
    read(file).map_err(|mistake| Refused { errors: vec![loaded.source.wrong("/key-file", mistake)] })
}

fn read(file: &Path) -> Result<Vec<Key>, Mistake> {
    let unreadable = |source| Mistake::KeyUnreadable { file: file.to_owned(), source };
    let mode = std::fs::metadata(file).map_err(unreadable)?.mode();
    if mode & 0o077 != 0 {
        return Err(Mistake::KeyPermissions { file: file.to_owned(), mode: mode & 0o777 });
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let key = parse(line).ok_or(Mistake::NotAKey { file: file.to_owned(), line: number + 1 })?;
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(Mistake::NoKey { file: file.to_owned() });
    }
    Ok(keys)
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
