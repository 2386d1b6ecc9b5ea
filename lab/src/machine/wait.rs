//! Waiting for a named condition with a deadline; never a bare sleep.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// The lab's clock: it measures real programs.
#[expect(clippy::disallowed_methods, reason = "the lab measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Look until `probe` gives a value; fail with `what` and the last look's complaint.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = now() + limit;
    let mut complaint = None;
    loop {
        match probe().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => complaint = Some(error),
        }
        if now() >= deadline {
            match complaint {
                Some(error) => bail!("waited {} s for: {what}; last: {error:#}", limit.as_secs()),
                None => bail!("waited {} s for: {what}", limit.as_secs()),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
