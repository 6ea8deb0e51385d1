//! [`LmStats`]: the GenAI metrics of OpenTelemetry's semantic conventions, by route, operation, provider and model.
//!
//! <https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/>: names and bucket bounds are
//! theirs. Series are made by what clients ask for, so there is a bound on how many.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    config::Direction,
    lm::Name,
    telemetry::{LmRecord, SpanRecord},
};

/// 64 series; the rest is one, with the model `other`. A proxy in front of more models is unheard of.
const MAX_SERIES: usize = 64;

/// 16 kinds of errors of a series; the rest is one.
const MAX_ERRORS: usize = 16;

const TOKEN_BOUNDS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
const FIRST_TOKEN_BOUNDS_S: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const PER_TOKEN_BOUNDS_S: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

const DURATION_BOUNDS_S: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

/// What models were asked since the start.
#[derive(Debug, Default)]
pub(crate) struct LmStats {
    series: Mutex<BTreeMap<Key, Series>>,
}

/// What tells series apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) route: String,
    pub(crate) operation: &'static str,
    /// Whose model it is, if that is known.
    pub(crate) provider: Option<Arc<str>>,
    /// As asked for, and as the answer says.
    pub(crate) request_model: Option<String>,
    pub(crate) response_model: Option<String>,
}

/// The histograms of one series.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) input_tokens: Histogram,
    pub(crate) output_tokens: Histogram,
    pub(crate) time_to_first_token: Histogram,
    pub(crate) time_per_output_token: Histogram,
    /// By the side that saw the call, and by the kind of error it ended in, if in one.
    durations: BTreeMap<(Side, Option<Cow<'static, str>>), Histogram>,
}

/// The conventions name what a caller and what a server measures differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Client,
    Server,
}

/// A metric of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    TokenUsage,
    TimeToFirstToken,
    TimePerOutputToken,
    ClientDuration,
    ServerDuration,
}

/// One histogram of a metric, and the attribute that tells it from others of its series, if one does.
pub(crate) type Told<'a> = (Option<(&'static str, &'a str)>, &'a Histogram);

/// Counts by bucket.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    pub(crate) bounds: &'static [f64],
    pub(crate) buckets: Vec<u64>,
    pub(crate) sum: f64,
}

impl Key {
    /// The attributes that tell it from others, in the conventions' words where they have any.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let always = [("weir.route", self.route.as_str()), ("gen_ai.operation.name", self.operation)];
        let known = [
            ("gen_ai.provider.name", self.provider.as_deref()),
            ("gen_ai.request.model", self.request_model.as_deref()),
            ("gen_ai.response.model", self.response_model.as_deref()),
        ];
        always.into_iter().chain(known.into_iter().filter_map(|(key, value)| Some((key, value?))))
    }
}

impl LmStats {
    /// Adds a call, if it was one.
    pub(crate) fn observe(&self, record: &SpanRecord) {
        let Some(lm) = &record.lm else { return };
        let model = |name: Option<Name>| name.map(|name| name.as_str().to_owned());
        let mut key = Key {
            provider: record.upstream.as_ref().and_then(|upstream| upstream.gen_ai_provider.clone()),
            route: record.route.name.clone(),
            operation: lm.operation.map_or("_OTHER", |operation| operation.as_str()),
            request_model: model(lm.request_model),
            response_model: model(lm.response_model),
        };
        let mut series = self.series.lock();
        if series.len() >= MAX_SERIES && !series.contains_key(&key) {
            let other = || Some("other".to_owned());
            let (route, request_model, response_model) = ("other".into(), other(), other());
            key = Key { route, operation: "_OTHER", provider: None, request_model, response_model };
        }
        let series = series.entry(key).or_default();
        series.observe(lm);
        series.took(record);
    }

    /// Every series as it stands.
    pub(crate) fn series(&self) -> Vec<(Key, Series)> {
        self.series.lock().iter().map(|(key, series)| (key.clone(), series.clone())).collect()
    }
}

impl Metric {
    pub(crate) const ALL: [Self; 5] = [
        Self::TokenUsage,
        Self::TimeToFirstToken,
        Self::TimePerOutputToken,
        Self::ClientDuration,
        Self::ServerDuration,
    ];

    /// Its name, its unit, and what it says.
    pub(crate) fn about(self) -> [&'static str; 3] {
        match self {
            Self::TokenUsage => ["gen_ai.client.token.usage", "{token}", "tokens of prompts and answers"],
            Self::TimeToFirstToken => {
                ["gen_ai.server.time_to_first_token", "s", "from the request to the first token of a stream"]
            }
            Self::TimePerOutputToken => {
                ["gen_ai.server.time_per_output_token", "s", "per token after the first of a stream"]
            }
            Self::ClientDuration => ["gen_ai.client.operation.duration", "s", "calls to models that left, whole"],
            Self::ServerDuration => ["gen_ai.server.request.duration", "s", "calls to models that came in, whole"],
        }
    }
}

impl Series {
    /// The histograms of a metric that have seen anything.
    pub(crate) fn of(&self, metric: Metric) -> Vec<Told<'_>> {
        let of_side = |side| {
            let ended = self.durations.iter().filter(move |((of, _), _)| *of == side);
            ended.map(|((_, error), seen)| (error.as_deref().map(|error| ("error.type", error)), seen)).collect()
        };
        let all: Vec<Told<'_>> = match metric {
            Metric::TokenUsage => vec![
                (Some(("gen_ai.token.type", "input")), &self.input_tokens),
                (Some(("gen_ai.token.type", "output")), &self.output_tokens),
            ],
            Metric::TimeToFirstToken => vec![(None, &self.time_to_first_token)],
            Metric::TimePerOutputToken => vec![(None, &self.time_per_output_token)],
            Metric::ClientDuration => of_side(Side::Client),
            Metric::ServerDuration => of_side(Side::Server),
        };
        all.into_iter().filter(|(_, histogram)| histogram.buckets.iter().any(|count| *count > 0)).collect()
    }

    fn took(&mut self, record: &SpanRecord) {
        let side = match record.route.direction {
            Direction::Inbound => Side::Server,
            Direction::Outbound => Side::Client,
        };
        let mut ended = (side, record.error_type().filter(|_| record.is_error()));
        if self.durations.len() >= MAX_ERRORS && !self.durations.contains_key(&ended) {
            ended.1 = ended.1.map(|_| "_OTHER".into());
        }
        let durations = self.durations.entry(ended).or_insert_with(|| Histogram::new(&DURATION_BOUNDS_S));
        durations.add(Some(record.duration_ns as f64 / 1e9));
    }

    fn observe(&mut self, lm: &LmRecord) {
        let seconds = |ns: u64| ns as f64 / 1e9;
        self.input_tokens.add(lm.input_tokens.map(|n| n as f64));
        self.output_tokens.add(lm.output_tokens.map(|n| n as f64));
        self.time_to_first_token.add(lm.time_to_first_token_ns.map(seconds));
        self.time_per_output_token.add(lm.time_per_output_token_ns.map(seconds));
    }
}

impl Default for Series {
    fn default() -> Self {
        Self {
            input_tokens: Histogram::new(&TOKEN_BOUNDS),
            output_tokens: Histogram::new(&TOKEN_BOUNDS),
            time_to_first_token: Histogram::new(&FIRST_TOKEN_BOUNDS_S),
            time_per_output_token: Histogram::new(&PER_TOKEN_BOUNDS_S),
            durations: BTreeMap::new(),
        }
    }
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn add(&mut self, value: Option<f64>) {
        let Some(value) = value else { return };
        self.buckets[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{
        Failure,
        wire::tests::{record, workload},
    };

    #[test]
    fn durations_are_told_apart_by_how_calls_ended_and_bounded() {
        let (stats, workload) = (LmStats::default(), workload());
        let full = SpanRecord { failure: None, grpc_status: None, ..record(&workload) };
        for status in [200, 200, 500].into_iter().chain(501..550) {
            stats.observe(&SpanRecord { status, ..full.clone() });
        }
        stats.observe(&SpanRecord { status: 502, failure: Some(Failure::UpstreamReset), ..full });
        let (_, series) = stats.series().remove(0);
        let seen: Vec<(Option<&str>, u64)> = series
            .of(Metric::ServerDuration)
            .into_iter()
            .map(|(error, seen)| (error.map(|(_, kind)| kind), seen.buckets.iter().sum()))
            .collect();
        assert_eq!((seen.len(), seen[0], seen[1]), (MAX_ERRORS + 1, (None, 2), (Some("500"), 1)));
        assert_eq!(seen.last(), Some(&(Some("_OTHER"), 36)));
        assert!(series.of(Metric::ClientDuration).is_empty(), "it came in");
    }
}
