//! What fuzzers call: each parser of bytes that strangers send, with what has to hold of it whatever
//! they send. Only with the feature `fuzzing`; nothing here is part of the proxy.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use prost::Message;
use tokio::time::Instant;
use weir_policy::{PolicySet, wire::proto};

use crate::{
    Config,
    lm::{Asked, Reading},
    regulate::{Gate, RateLimiter},
    security::Security,
    workload::Workload,
};

/// A `proxy.yaml`: read or refused with words, and what was read can be read again.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::from_yaml(text) {
        Ok(config) => {
            assert_eq!(config.validate(), Ok(()));
            compile(&config);
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}

/// A file of Istio's: refused with words, or what becomes of it compiles.
pub fn istio(data: &[u8]) {
    const BASE: &str = "{ service: productpage, listeners: [{ address: '127.0.0.1:0', direction: outbound, \
        istio: [fuzzed] }], upstreams: [{ name: reviews, endpoints: [{ address: '10.0.0.1:9080', labels: { version: v1 } }, \
        { address: '10.0.0.2:9080', labels: { version: v2 } }] }, { name: ratings, endpoints: ['10.0.1.1:9081'] }] }";
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut base = Config::from_yaml(BASE).expect("it is one");
    base.listeners[0].istio.clear();
    match base.with_istio_text(text) {
        Ok(config) if config.validate().is_ok() => compile(&config),
        Ok(_) => {}
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}

/// What was validated compiles; its files are not opened.
fn compile(config: &Config) {
    if config.thread_count() <= 1_024 && config.listeners.iter().all(|listener| listener.istio.is_empty()) {
        let first = SocketAddr::from(([127, 0, 0, 1], 80));
        Workload::new(config, first, Arc::default(), Security::default());
    }
}

/// A policy as protobuf and as JSON: what is accepted survives the wire and can be enforced.
pub fn policy(data: &[u8]) {
    if let Ok(message) = proto::PolicySet::decode(data)
        && let Ok(set) = PolicySet::try_from(message)
    {
        enforce(&set);
    }
    if let Ok(set) = serde_json::from_slice::<PolicySet>(data)
        && set.validate().is_ok()
    {
        enforce(&set);
    }
}

fn enforce(set: &PolicySet) {
    // an empty route means all routes, so it may come back as none; numbers may not change
    let again = PolicySet::try_from(proto::PolicySet::from(set));
    if set.policies.iter().all(|p| p.route.as_deref() != Some("")) {
        assert_eq!(again.as_ref(), Ok(set));
    }
    let (gate, now) = (Gate::default(), Instant::now());
    for policy in &set.policies {
        gate.set(Some(policy));
        let rate = RateLimiter::default();
        rate.set(policy.rate_limit);
        let _ = (rate.admit(now), rate.admit(now + Duration::from_secs(1)));
        if let Some(limit) = policy.concurrency_limit {
            assert!(limit.limit.get() >= 1);
        }
    }
}

/// A streamed answer: what is read of it does not depend on where chunks end.
pub fn stream(data: &[u8]) {
    answer("text/event-stream", data);
}

/// A whole answer and a request: what is read of them does not depend on where chunks end.
pub fn json(data: &[u8]) {
    answer("application/json", data);
    let (mut whole, mut cut) = (Asked::default(), Asked::default());
    whole.watch(data);
    pieces(data).for_each(|piece| cut.watch(piece));
    assert_eq!((whole.model, whole.max_output_tokens()), (cut.model, cut.max_output_tokens()));
}

fn answer(kind: &'static str, data: &[u8]) {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut reading = Reading::of(&headers, true);
        pieces.for_each(|piece| {
            reading.watch(piece);
        });
        let answer = reading.answer().expect("of a model");
        let reasons: Vec<&str> = answer.finish_reasons.names().collect();
        (answer.model, answer.input_tokens, answer.output_tokens, reasons, answer.token_events, answer.data_events)
    };
    assert_eq!(read(&mut std::iter::once(data)), read(&mut pieces(data)));
}

/// Cuts data by its own bytes, so that a fuzzer moves the cuts too.
fn pieces(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (first, _) = rest.split_first()?;
        let (piece, after) = rest.split_at((usize::from(first % 7) + 1).min(rest.len()));
        rest = after;
        Some(piece)
    })
}
