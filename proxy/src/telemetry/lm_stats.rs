//! [`LmStats`]: the GenAI metrics of OpenTelemetry's semantic conventions, by route, operation, provider and model.
//!
//! <https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/>: names and bucket bounds are
//! theirs. Series are made by what clients ask for, so there is a bound on how many.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::telemetry::{LmRecord, SpanRecord};

/// 64 series; the rest is one, with the model `other`. A proxy in front of more models is unheard of.
const MAX_SERIES: usize = 64;

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
    pub(crate) model: String,
}

/// The histograms of one series.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) input_tokens: Histogram,
    pub(crate) output_tokens: Histogram,
    pub(crate) time_to_first_token: Histogram,
    pub(crate) time_per_output_token: Histogram,
}

/// Counts by bucket.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    pub(crate) bounds: &'static [f64],
    pub(crate) buckets: Vec<u64>,
    pub(crate) sum: f64,
}

impl LmStats {
    /// Adds a call, if it was one.
    pub(crate) fn observe(&self, record: &SpanRecord) {
        let Some(lm) = &record.lm else { return };
        let model = lm.response_model.or(lm.request_model);
        let mut key = Key {
            provider: record.upstream.as_ref().and_then(|upstream| upstream.gen_ai_provider.clone()),
            route: record.route.name.clone(),
            operation: lm.operation.map_or("_OTHER", |operation| operation.as_str()),
            model: model.map_or_else(|| "unknown".to_owned(), |name| name.as_str().to_owned()),
        };
        let mut series = self.series.lock();
        if series.len() >= MAX_SERIES && !series.contains_key(&key) {
            key = Key { route: "other".into(), operation: "_OTHER", provider: None, model: "other".into() };
        }
        series.entry(key).or_default().observe(lm);
    }

    /// Every series as it stands.
    pub(crate) fn series(&self) -> Vec<(Key, Series)> {
        self.series.lock().iter().map(|(key, series)| (key.clone(), series.clone())).collect()
    }
}

impl Series {
    /// Each histogram with its name, unit, what it says, and a word that tells it from others of its name.
    pub(crate) fn named(&self) -> [(&'static str, &'static str, &'static str, Option<&'static str>, &Histogram); 4] {
        let tokens = ("gen_ai.client.token.usage", "{token}", "tokens of prompts and answers");
        let first = ("gen_ai.server.time_to_first_token", "s", "from the request to the first token of a stream");
        let each = ("gen_ai.server.time_per_output_token", "s", "per token after the first of a stream");
        [
            (tokens.0, tokens.1, tokens.2, Some("input"), &self.input_tokens),
            (tokens.0, tokens.1, tokens.2, Some("output"), &self.output_tokens),
            (first.0, first.1, first.2, None, &self.time_to_first_token),
            (each.0, each.1, each.2, None, &self.time_per_output_token),
        ]
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
