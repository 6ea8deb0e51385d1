//! [`Taps`]: a live view of requests at the admin address: one JSON line each, filtered, and no more of
//! them a second than asked for. Nobody's traffic waits for a tap: what does not fit is dropped, and
//! each line says how many were dropped before it.

use std::{
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};
use weir_policy::RateLimit;

use crate::{
    config::LogFormat,
    regulate::RateLimiter,
    telemetry::{SpanRecord, line},
};

/// Eight people may look at once; each costs the control thread a comparison a request.
const MAX_TAPS: usize = 8;

/// 256 lines wait for a client that reads slowly, about 128 KiB.
const MAX_LINES: usize = 256;

/// 100 lines a second unless asked otherwise: more nobody reads.
const RATE_PER_S: u32 = 100;

/// 1,000 lines a second at most: a tap is no export.
const MAX_RATE_PER_S: u32 = 1_000;

/// Everybody who looks.
#[derive(Debug)]
pub(crate) struct Taps {
    /// How many look: data threads keep records for them.
    open: Arc<AtomicU32>,
    taps: Mutex<Vec<Tap>>,
}

/// Which requests are shown; what is absent shows all.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Filter {
    route: Option<String>,
    /// `503`, or a class as `5xx`.
    status: Option<(u16, u16)>,
    path_prefix: Option<String>,
    min_duration_ns: u64,
    rate_per_s: Option<NonZeroU32>,
}

#[derive(Debug)]
struct Tap {
    filter: Filter,
    rate: RateLimiter,
    lines: mpsc::Sender<Bytes>,
    dropped: u64,
}

/// The lines as a body.
#[derive(Debug)]
pub(crate) struct TapBody {
    lines: mpsc::Receiver<Bytes>,
}

/// Why nobody may look now.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TapError {
    #[error("{0}")]
    BadQuery(String),
    #[error("{MAX_TAPS} tap already")]
    TooMany,
}

impl Taps {
    pub(crate) fn new(open: Arc<AtomicU32>) -> Self {
        Self { open, taps: Mutex::default() }
    }

    /// Begins to show what `query` asks for, until the body is dropped.
    pub(crate) fn open(&self, query: &str) -> Result<TapBody, TapError> {
        let filter = Filter::parse(query).map_err(TapError::BadQuery)?;
        let mut taps = self.taps.lock();
        taps.retain(|tap| !tap.lines.is_closed());
        if taps.len() >= MAX_TAPS {
            return Err(TapError::TooMany);
        }
        let rate = RateLimiter::default();
        let per_s = filter.rate_per_s.map_or(RATE_PER_S, |rate| rate.get().min(MAX_RATE_PER_S));
        rate.set(NonZeroU32::new(per_s).and_then(|burst| RateLimit::new(f64::from(per_s), burst)));
        let (lines, receiver) = mpsc::channel(MAX_LINES);
        taps.push(Tap { filter, rate, lines, dropped: 0 });
        self.open.store(taps.len() as u32, Relaxed);
        Ok(TapBody { lines: receiver })
    }

    /// Shows a record to whom it matters.
    pub(crate) fn show(&self, record: &SpanRecord) {
        if self.open.load(Relaxed) == 0 {
            return;
        }
        let mut taps = self.taps.lock();
        taps.retain(|tap| !tap.lines.is_closed());
        let now = Instant::now();
        taps.iter_mut().filter(|tap| tap.filter.accepts(record)).for_each(|tap| tap.show(record, now));
        self.open.store(taps.len() as u32, Relaxed);
    }
}

impl Tap {
    fn show(&mut self, record: &SpanRecord, now: Instant) {
        let line = || {
            let json = line(record, LogFormat::Json);
            Bytes::from(json.replacen('{', &format!("{{\"dropped\":{},", self.dropped), 1))
        };
        let shown = self.rate.admit(now).is_ok() && self.lines.try_send(line()).is_ok();
        self.dropped += u64::from(!shown);
    }
}

impl Filter {
    /// Reads `route=…&status=5xx&path_prefix=/api&min_duration_ms=100&rate_per_s=10`.
    fn parse(query: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let bad = |expected: &str| format!("{key}: expected {expected}, not {value:?}");
            match key {
                "route" => filter.route = Some(value.to_owned()),
                "path_prefix" => filter.path_prefix = Some(value.to_owned()),
                "status" => {
                    filter.status = Some(statuses(value).ok_or_else(|| bad("a status or a class such as 5xx"))?)
                }
                "min_duration_ms" => {
                    let ms: u32 = value.parse().map_err(|_| bad("milliseconds"))?;
                    filter.min_duration_ns = u64::from(ms) * 1_000_000;
                }
                "rate_per_s" => filter.rate_per_s = Some(value.parse().map_err(|_| bad("lines a second, at least 1"))?),
                _ => {
                    return Err(format!(
                        "{key:?} is not known: there is route, status, path_prefix, min_duration_ms and rate_per_s"
                    ));
                }
            }
        }
        Ok(filter)
    }

    fn accepts(&self, record: &SpanRecord) -> bool {
        let path = record.said.path().unwrap_or_default();
        self.route.as_ref().is_none_or(|route| *route == record.route.name)
            && self.status.is_none_or(|(low, high)| (low..=high).contains(&record.status))
            && self.path_prefix.as_ref().is_none_or(|prefix| path.starts_with(prefix.as_str()))
            && record.duration_ns >= self.min_duration_ns
    }
}

fn statuses(text: &str) -> Option<(u16, u16)> {
    match text.strip_suffix("xx") {
        Some(class) => class.parse().ok().filter(|n| (1..=5).contains(n)).map(|n: u16| (n * 100, n * 100 + 99)),
        None => text.parse().ok().map(|status| (status, status)),
    }
}

impl Body for TapBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.get_mut().lines.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_what_is_not_known_is_named() {
        let filter = Filter::parse("route=lm&status=5xx&path_prefix=/v1&min_duration_ms=5&rate_per_s=7").unwrap();
        let expected = Filter {
            route: Some("lm".into()),
            status: Some((500, 599)),
            path_prefix: Some("/v1".into()),
            min_duration_ns: 5_000_000,
            rate_per_s: NonZeroU32::new(7),
        };
        assert_eq!(filter, expected);
        assert_eq!(Filter::parse("").unwrap(), Filter::default());
        for (query, named) in
            [("status=9xx", "status"), ("rate_per_s=0", "rate_per_s"), ("who=me", "\"who\" is not known")]
        {
            assert!(Filter::parse(query).unwrap_err().contains(named), "{query}");
        }
    }
}
