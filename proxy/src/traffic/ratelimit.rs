//! Tells a client how its token budget stands, in the fields that clients of OpenAI's API read.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::regulate::Budget;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-tokens");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");

/// Adds the three fields; a budget that the upstream states of its own stays.
pub(crate) fn say(headers: &mut HeaderMap, budget: Budget) {
    headers.entry(LIMIT).or_insert_with(|| budget.limit.into());
    headers.entry(REMAINING).or_insert_with(|| budget.remaining.into());
    if let Ok(reset) = HeaderValue::try_from(span(budget.reset)) {
        headers.entry(RESET).or_insert(reset);
    }
}

/// As in `6m0s`, `1.5s` or `12ms`.
fn span(time: Duration) -> String {
    let (minutes, seconds) = (time.as_secs() / 60, (time.as_millis() % 60_000) as f64 / 1e3);
    match minutes {
        0 if time < Duration::from_secs(1) => format!("{}ms", time.as_millis()),
        0 => format!("{seconds}s"),
        _ => format!("{minutes}m{}s", seconds.round()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_said_and_does_not_hide_the_upstreams() {
        for (ms, expected) in [(12, "12ms"), (1_500, "1.5s"), (360_000, "6m0s"), (0, "0ms")] {
            assert_eq!(span(Duration::from_millis(ms)), expected);
        }
        let mut headers = HeaderMap::new();
        headers.insert(REMAINING, HeaderValue::from_static("7"));
        say(&mut headers, Budget { limit: 9, remaining: 8, reset: Duration::from_secs(1) });
        let all = [LIMIT, REMAINING, RESET].map(|name| headers[name].to_str().unwrap().to_owned());
        assert_eq!(all, ["9", "7", "1s"]);
    }
}
