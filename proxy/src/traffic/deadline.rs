//! When a request stops making sense: the nearest of the route's timeout and what its caller says.
//!
//! Three fields are understood: gRPC's `grpc-timeout` (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>),
//! Envoy's `x-envoy-expected-rq-timeout-ms`, and `x-request-deadline`, a moment in milliseconds since
//! the Unix epoch. A field that does not hold is ignored; none can make a deadline later.

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::{Duration, Instant};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const REQUEST_DEADLINE: HeaderName = HeaderName::from_static("x-request-deadline");

/// The nearest deadline, at most `give_up`; `started` is when the request came, also as `unix_ms`.
pub(crate) fn nearest(headers: &HeaderMap, started: Instant, unix_ms: u64, give_up: Instant) -> Instant {
    let left = [
        headers.get(GRPC_TIMEOUT).and_then(grpc_timeout),
        headers.get(EXPECTED_TIMEOUT).and_then(number).map(Duration::from_millis),
        headers.get(REQUEST_DEADLINE).and_then(number).map(|at| Duration::from_millis(at.saturating_sub(unix_ms))),
    ];
    let at = |left: Duration| started.checked_add(left).unwrap_or(give_up);
    left.into_iter().flatten().map(at).fold(give_up, Instant::min)
}

/// At most eight digits and a unit.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    let usable = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let n: u64 = std::str::from_utf8(digits).ok().filter(|_| usable)?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(n * 3_600)),
        b'M' => Some(Duration::from_secs(n * 60)),
        b'S' => Some(Duration::from_secs(n)),
        b'm' => Some(Duration::from_millis(n)),
        b'u' => Some(Duration::from_micros(n)),
        b'n' => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_deadline_counts() {
        for (fields, expected_ms) in [
            (&[][..], 1_000),
            (&[("grpc-timeout", "100m")][..], 100),
            (&[("grpc-timeout", "2H")][..], 1_000),
            (&[("grpc-timeout", "99999999n")][..], 99),
            (&[("grpc-timeout", "123456789m")][..], 1_000),
            (&[("grpc-timeout", "-1S")][..], 1_000),
            (&[("grpc-timeout", "S")][..], 1_000),
            (&[("x-envoy-expected-rq-timeout-ms", "250")][..], 250),
            (&[("x-request-deadline", "5300")][..], 300),
            (&[("x-request-deadline", "4000")][..], 0),
            (&[("x-request-deadline", "18446744073709551615")][..], 1_000),
            (&[("x-request-deadline", "tomorrow")][..], 1_000),
            (&[("grpc-timeout", "1S"), ("x-request-deadline", "5200")][..], 200),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            let started = Instant::now();
            let nearest = nearest(&headers, started, 5_000, started + Duration::from_secs(1));
            assert_eq!(nearest.duration_since(started).as_millis(), expected_ms, "{fields:?}");
        }
    }
}
