//! Oracle of the configuration: what is accepted can be written in either form, and then means the same.
//! Called by the targets `json` and `set_lines`.

use std::path::Path;

use ctsync::config::{self, Loaded};

/// Read as the binary reads a file (`config check`), convert both ways (`config convert`).
pub fn check(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    match read(text) {
        Ok(loaded) => {
            for written in [config::to_json(&loaded.values), config::to_set_lines(&loaded.values)] {
                let again = read(&written);
                let again = again.unwrap_or_else(|refused| panic!("{written} is refused: {refused}"));
                assert_eq!(again.config, loaded.config, "{written}");
            }
        }
        Err(refused) => {
            assert!(!refused.errors.is_empty() && !refused.to_string().is_empty());
        }
    }
}

fn read(text: &str) -> Result<Loaded, config::Refused> {
    config::parse(Path::new("file"), text)
}
