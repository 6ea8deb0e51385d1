//! What fuzzers call: each parser of bytes that strangers send, with what has to hold of it whatever
//! they send. Only with the feature `fuzzing`, and in tests, which replay the corpus; nothing here is part of the proxy.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use prost::Message;
use tokio::time::Instant;
use weir_policy::{PolicySet, wire::proto};

use crate::{
    Config, ConfigError,
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

/// What the documents that are fuzzed are put into.
const BASE: &str = "{ service: productpage, listeners: [{ address: '127.0.0.1:0', direction: outbound, \
    istio: [fuzzed] }], upstreams: [{ name: reviews, endpoints: [{ address: '10.0.0.1:9080', labels: { version: v1 } }, \
    { address: '10.0.0.2:9080', labels: { version: v2 } }] }, { name: ratings, endpoints: ['10.0.1.1:9081'] }] }";

/// A file of Istio's: refused with words, or what becomes of it compiles.
pub fn istio(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match with_istio(text) {
        Ok(config) if config.validate().is_ok() => compile(&config),
        Ok(_) => {}
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}

fn with_istio(text: &str) -> Result<Config, ConfigError> {
    let mut base = Config::from_yaml(BASE).expect("it is one");
    base.listeners[0].istio.clear();
    base.with_istio_text(text)
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
        (answer.model, answer.input_tokens(), answer.output_tokens, reasons, answer.token_events, answer.data_events)
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 5] =
        [("config", config), ("istio", istio), ("policy", policy), ("stream", stream), ("json", json)];

    /// By name; what is named `wrong` is refused.
    fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let read = |path: &Path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap());
        let mut files: Vec<_> = files.map(|file| read(&file.unwrap().path())).collect();
        files.sort();
        files
    }

    /// Whole, and cut in many places.
    #[test]
    fn the_corpus_still_holds() {
        for (name, run) in TARGETS {
            let corpus = corpus(name);
            assert!(corpus.len() >= 3, "{name}: {} inputs are left", corpus.len());
            for (_, input) in &corpus {
                run(input);
                let step = (input.len() / 40).max(1);
                (0..input.len()).step_by(step).for_each(|end| run(&input[..end]));
            }
        }
    }

    /// A corpus of texts that are all refused would lead no fuzzer anywhere.
    #[test]
    fn the_corpus_is_what_the_parsers_read() {
        let text = |input: Vec<u8>| String::from_utf8(input).unwrap();
        for (name, input) in corpus("config") {
            let refused = Config::from_yaml(&text(input)).err();
            assert_eq!(
                refused.is_some(),
                ["wrong.yaml", "anchors.yaml"].contains(&name.as_str()),
                "{name}: {refused:?}"
            );
        }
        for (name, input) in corpus("istio") {
            let refused = with_istio(&text(input)).err();
            assert_eq!(refused.is_some(), name == "wrong.yaml", "{name}: {refused:?}");
        }
        let accepted = corpus("policy").into_iter().filter(|(_, input)| {
            let message = proto::PolicySet::decode(&**input).ok().and_then(|message| PolicySet::try_from(message).ok());
            message.is_some_and(|set| !set.policies.is_empty()) || serde_json::from_slice::<PolicySet>(input).is_ok()
        });
        assert!(accepted.count() >= 2, "one of each encoding");
    }
}
