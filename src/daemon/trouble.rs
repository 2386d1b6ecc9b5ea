//! Something that goes wrong again and again: told when it begins, when it changes and when it is over, not
//! each time.
//!
//! Called wherever the daemon tries a thing again by itself.

use std::error::Error;

/// What goes wrong now, if anything.
#[derive(Default)]
pub(super) struct Trouble(Option<String>);

impl Trouble {
    /// Tried once more. `what` is said when it works again.
    pub(super) fn note<E: Error + Send + Sync + 'static>(&mut self, tried: Result<(), E>, what: &str) {
        match tried {
            Ok(()) if self.0.take().is_some() => tracing::info!("{what} again"),
            Ok(()) => {}
            Err(error) => {
                let text = format!("{:#}", anyhow::Error::new(error));
                if self.0.as_ref() != Some(&text) {
                    tracing::error!("{text}; tried again by itself");
                    self.0 = Some(text);
                }
            }
        }
    }

    /// Why, in one line.
    pub(super) fn why(&self) -> Option<&str> {
        self.0.as_deref()
    }
}
