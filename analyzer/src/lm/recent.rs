//! [`LmServices`]: the requests of LM services that are kept, and what follows from them.
//!
//! A service's ring holds its newest requests: 48 bytes each, 2,000 at most, for 30 min at most; with as many
//! arrivals of 32 bytes in the view, 64 services take 10 MB. A batch is known only when all of it is: of a sampled
//! stream nothing is said, for rate, batch and slots would be those of the part that is there. What comes to a service beyond the 64th is not looked at, but counted, and
//! its view says so. A service is estimated
//! again once a minute, one service a window: that costs about 0.1 s with 2,000 requests (`compare/lm`).

use std::{collections::VecDeque, ops::Range};

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use weir_schema::{MINUTE_NS, UnixNanos};

use super::{
    arrivals::LmArrivals,
    engine::Arrival,
    fit::{self, LmEstimate, LmUnidentifiable},
    requests::{Kept, Requests, is_sound},
    view::LmView,
};
use crate::spans::{Name, Span};

/// Services.
const MAX_SERVICES: usize = 64;

/// An estimate stands as long.
const ESTIMATED_FOR_NS: i64 = 60_000_000_000;

/// Minutes of arrivals in a row.
const MAX_MINUTES: usize = 60;

/// One streamed request, in milliseconds since some beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LmRequest {
    /// When the proxy let it in.
    pub arrival_ms: f64,
    /// When its first token came.
    pub first_token_ms: f64,
    /// When its last did.
    pub end_ms: f64,
    /// Of the prompt.
    pub input_tokens: f64,
    /// It made.
    pub output_tokens: f64,
    /// Which replica took it, from 0; 0 when spans do not say.
    pub replica: u32,
}

impl LmRequest {
    /// What of it a server is fed with.
    #[must_use]
    pub fn arrival(&self) -> Arrival {
        let Self { arrival_ms: at_ms, input_tokens, output_tokens, replica, .. } = *self;
        Arrival { at_ms, input_tokens, output_tokens, replica }
    }

    /// Time per token after the first.
    #[must_use]
    pub fn per_token_ms(&self) -> f64 {
        (self.end_ms - self.first_token_ms) / (self.output_tokens - 1.0)
    }
}

/// All LM services.
#[derive(Debug, Default)]
pub(crate) struct LmServices {
    by_service: HashMap<Name, Recent>,
    /// Those beyond the bound in the last window.
    beyond: HashSet<Name>,
    /// Their requests.
    pub(crate) refused: u64,
}

/// One of them as a checkpoint holds it: 80 KB at most.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedLm {
    service: Name,
    requests: Requests,
    view: LmView,
}

/// One of them.
#[derive(Debug, Default)]
struct Recent {
    requests: Requests,
    /// Of the window that is being closed.
    fresh: Vec<Kept>,
    /// Requests with tokens but without a time to first token, since the last estimate.
    unstreamed: u64,
    minutes: VecDeque<LmArrivals>,
    estimated: Option<UnixNanos>,
    view: LmView,
}

impl LmServices {
    /// Takes in a request of a window that is being closed.
    pub(crate) fn push(&mut self, span: &Span) {
        let is_lm = span.output_tokens > 0 && !span.shed;
        if !is_lm {
            return;
        }
        if self.by_service.len() >= MAX_SERVICES && !self.by_service.contains_key(&span.service) {
            self.refused += 1;
            self.beyond.insert(span.service);
            return;
        }
        let recent = self.by_service.entry(span.service).or_default();
        match Kept::of(span) {
            Some(kept) => recent.fresh.push(kept),
            None => recent.unstreamed += 1,
        }
    }

    /// Ends a window: estimates the service that waits longest for it.
    pub(crate) fn close(&mut self, end: UnixNanos) {
        for recent in self.by_service.values_mut() {
            recent.settle(end);
        }
        self.by_service.retain(|_, recent| !recent.requests.all().is_empty() || recent.unstreamed > 0);
        let due = self.by_service.iter_mut().filter(|(_, r)| r.estimated.is_none_or(|at| end - at >= ESTIMATED_FOR_NS));
        if let Some((_, recent)) = due.min_by_key(|(name, recent)| (recent.estimated, **name)) {
            recent.estimate(end);
        }
    }

    /// What is known of a service of the window that was closed last.
    pub(crate) fn view(&self, service: Name) -> Option<LmView> {
        let beyond = || {
            let reason = format!("not looked at: there are {MAX_SERVICES} LM services before it");
            LmView { reason: Some(reason), ..LmView::default() }
        };
        let known = self.by_service.get(&service).map(|recent| recent.view.clone());
        known.or_else(|| self.beyond.contains(&service).then(beyond))
    }

    /// Before a window is closed.
    pub(crate) fn begin(&mut self) {
        self.beyond.clear();
    }

    /// Of this time not all requests came.
    pub(crate) fn miss(&mut self, time: &Range<UnixNanos>) {
        self.by_service.values_mut().for_each(|recent| recent.requests.miss(time.clone()));
    }

    /// As a checkpoint holds them, in order.
    pub(crate) fn save(&self) -> Vec<SavedLm> {
        let saved = |(service, recent): (&Name, &Recent)| SavedLm {
            service: *service,
            requests: recent.requests.clone(),
            view: LmView { estimate: None, ..recent.view.clone() },
        };
        let mut all: Vec<SavedLm> = self.by_service.iter().map(saved).collect();
        all.sort_unstable_by_key(|saved| saved.service);
        all
    }

    /// What was known is said until the next window closes, and then estimated anew from the same requests.
    pub(crate) fn restore(&mut self, saved: Vec<SavedLm>) {
        for SavedLm { service, requests, view } in saved.into_iter().take(MAX_SERVICES) {
            let minutes = view.arrivals.iter().copied().filter(|minute| is_sound(minute.start_unix_nano));
            let minutes = minutes.take(MAX_MINUTES).collect();
            let requests = requests.restored();
            self.by_service.insert(service, Recent { requests, minutes, view, ..Recent::default() });
        }
    }
}

impl Recent {
    fn settle(&mut self, end: UnixNanos) {
        self.requests.add(&mut self.fresh, end);
        match self.requests.sampled() {
            Some(_) => self.minutes.clear(),
            None => self.count_minutes(end),
        }
        self.view.arrivals = self.minutes.iter().copied().collect();
    }

    /// Minutes that nearly everyone who came in them has ended.
    fn count_minutes(&mut self, end: UnixNanos) {
        let all = self.requests.all();
        let Some(first) = all.front() else { return };
        let mut durations: Vec<i64> = all.iter().map(|kept| kept.end - kept.arrival).collect();
        durations.sort_unstable();
        let longest = durations[(durations.len() - 1) * 99 / 100];
        let next = self.minutes.back().map(|minute| minute.start_unix_nano + MINUTE_NS);
        let mut start = next.unwrap_or(i64::MIN).max(first.end - first.end.rem_euclid(MINUTE_NS));
        while start + MINUTE_NS + longest <= end {
            let minute = start..start + MINUTE_NS;
            if !self.requests.has_missed(&minute) {
                let arrivals = arrivals_ms(all, &minute);
                self.minutes.push_back(LmArrivals::of(start, 60_000, &arrivals));
            }
            start += MINUTE_NS;
        }
        let surplus = self.minutes.len().saturating_sub(MAX_MINUTES);
        self.minutes.drain(..surplus);
    }

    fn estimate(&mut self, end: UnixNanos) {
        self.estimated = Some(end);
        let found = self.identify(end);
        let arrivals = std::mem::take(&mut self.view.arrivals);
        self.view = LmView { estimated_unix_nano: end, arrivals, longer: self.longer(end), ..LmView::of(found) };
        self.unstreamed = 0;
    }

    fn identify(&self, end: UnixNanos) -> Result<LmEstimate, LmUnidentifiable> {
        let (kept, until) = self.requests.whole(end);
        if kept.is_empty() && self.unstreamed > 0 {
            return Err(LmUnidentifiable::NoFirstToken);
        }
        if let Some(percent) = self.requests.sampled() {
            return Err(LmUnidentifiable::Sampled { percent });
        }
        let first = kept.iter().map(|kept| kept.arrival).min().unwrap_or(until);
        let ms = |at: UnixNanos| (at - first) as f64 / 1e6;
        let mut instances: Vec<Option<Name>> = kept.iter().map(|kept| kept.instance).collect();
        instances.sort_unstable();
        instances.dedup();
        let request = |kept: &Kept| LmRequest {
            arrival_ms: ms(kept.arrival),
            first_token_ms: ms(kept.first_token),
            end_ms: ms(kept.end),
            input_tokens: f64::from(kept.input_tokens),
            output_tokens: f64::from(kept.output_tokens),
            replica: instances.binary_search(&kept.instance).map_or(0, |place| place as u32),
        };
        let requests: Vec<LmRequest> = kept.iter().map(request).collect();
        fit::estimate(&requests, ms(until))
    }

    /// All arrivals that are kept of a time in which all came, as one stretch.
    fn longer(&self, end: UnixNanos) -> Option<LmArrivals> {
        let (kept, until) = self.requests.whole(end);
        let start = kept.first().filter(|_| self.requests.sampled().is_none())?.end;
        let last = self.minutes.back().map(|minute| minute.start_unix_nano + MINUTE_NS)?.min(until);
        let arrivals = arrivals_ms(&kept, &(start..last));
        (last > start).then(|| LmArrivals::of(start, u64::try_from((last - start) / 1_000_000).unwrap_or(0), &arrivals))
    }
}

/// Arrivals within some time, in order, in milliseconds since its beginning.
fn arrivals_ms<'a>(kept: impl IntoIterator<Item = &'a Kept>, time: &Range<UnixNanos>) -> Vec<f64> {
    let within = kept.into_iter().map(|kept| kept.arrival).filter(|arrival| time.contains(arrival));
    let mut arrivals: Vec<f64> = within.map(|arrival| (arrival - time.start) as f64 / 1e6).collect();
    arrivals.sort_by(f64::total_cmp);
    arrivals
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// Three minutes of a model that streams, a request a second, one in so many seen.
    fn seen(one_in: u32) -> LmView {
        let mut services = LmServices::default();
        for minute in 1..=3 {
            for n in (0..60).step_by(one_in as usize) {
                services.push(&Span {
                    service: 7,
                    start: (minute - 1) * MINUTE_NS + n * SECOND,
                    duration_ns: SECOND,
                    first_token_ns: Some(SECOND / 10 + n % 7).into(),
                    input_tokens: 100 + n,
                    output_tokens: 20,
                    weight: one_in,
                    sampled: one_in > 1,
                    ..Span::default()
                });
            }
            services.close(minute * MINUTE_NS);
        }
        services.view(7).unwrap()
    }

    #[test]
    fn of_a_sampled_stream_nothing_is_said_and_why() {
        let whole = seen(1);
        assert!(whole.arrivals.iter().any(|minute| minute.rate_per_s == 1.0), "{:?}", whole.arrivals);
        assert!(!whole.reason.unwrap_or_default().contains("sampled"));
        let sampled = seen(4);
        let reason = sampled.reason.unwrap();
        assert!(reason.starts_with("sampled: the spans of 25 % of its requests are there"), "{reason}");
        assert!(sampled.arrivals.is_empty() && sampled.longer.is_none() && sampled.utilization.is_none());
    }
}
