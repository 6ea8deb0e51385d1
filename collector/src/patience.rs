//! [`Patience`]: how long a request waits for room.

use std::time::Duration;

use tokio::time::Instant;

/// When a request is told to come back, if there is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// As long as it is not read.
    pub(crate) unread_until: Instant,
    /// Once it is.
    pub(crate) until: Instant,
}

impl Patience {
    /// That of a request which came at `since` and may wait for `max_wait`, but not until the deadline of its caller, who would
    /// not hear when to come back.
    pub(crate) fn new(since: Instant, max_wait: Duration, deadline: Option<Instant>) -> Self {
        let wait = deadline.map_or(max_wait, |deadline| max_wait.min(deadline.saturating_duration_since(since)));
        // the last fifth is for reading it and for what it has to wait then
        Self { unread_until: since + wait / 5 * 4, until: since + wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_unread_until_the_caller_has_gone() {
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        for (max_wait_ms, deadline, unread_until, until) in [
            (5_000, None, 4_000, 5_000),
            (5_000, Some(after(10_000)), 4_000, 5_000),
            (5_000, Some(after(1_000)), 800, 1_000),
            (5_000, Some(now), 0, 0),
            (0, None, 0, 0),
        ] {
            let expected = Patience { unread_until: after(unread_until), until: after(until) };
            assert_eq!(Patience::new(now, Duration::from_millis(max_wait_ms), deadline), expected);
        }
    }
}
