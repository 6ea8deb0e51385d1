//! [`Tokens`]: reads the `usage` of a language model's answer as it passes, without keeping it.
//!
//! A stream (server-sent events) ends with an event that holds `"usage":{…}`; a plain JSON answer
//! holds the same near its end. Only the last chunk with data is kept, and it is shared, not copied.

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;

use crate::telemetry::Usage;

/// A `usage` object is some hundred bytes; what is longer is not one.
const USAGE_MAX_BYTES: usize = 4096;

/// Watches one answer.
#[derive(Debug)]
pub(crate) struct Tokens {
    kind: Kind,
    /// The newest chunk that holds `"usage"`.
    last: Option<Bytes>,
}

/// What the answer's content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    EventStream,
    Json,
}

#[derive(Deserialize)]
struct WireUsage {
    #[serde(alias = "prompt_tokens")]
    input_tokens: u64,
    #[serde(alias = "completion_tokens", default)]
    output_tokens: u64,
}

impl Tokens {
    /// For answers that can hold a usage.
    pub(crate) fn of(content_type: Option<&http::HeaderValue>) -> Option<Self> {
        let text = content_type?.to_str().ok()?;
        let essence = text.split(';').next().unwrap_or_default().trim();
        let kind = match essence {
            "text/event-stream" => Kind::EventStream,
            "application/json" => Kind::Json,
            _ => return None,
        };
        Some(Self { kind, last: None })
    }

    /// Whether the first chunk is the first token.
    pub(crate) fn is_stream(&self) -> bool {
        self.kind == Kind::EventStream
    }

    /// Looks at a chunk that passes.
    pub(crate) fn watch(&mut self, chunk: &Bytes) {
        if memmem::find(chunk, b"\"usage\"").is_some() {
            self.last = Some(chunk.clone());
        }
    }

    /// The tokens counted, once the answer has ended.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let chunk = self.last.as_ref()?;
        let at = memmem::rfind(chunk, b"\"usage\"")? + b"\"usage\"".len();
        let rest = &chunk[at..];
        let open = rest.iter().position(|b| *b == b'{')?;
        let end = (open + USAGE_MAX_BYTES).min(rest.len());
        let mut values = serde_json::Deserializer::from_slice(&rest[open..end]).into_iter::<WireUsage>();
        let WireUsage { input_tokens, output_tokens } = values.next()?.ok()?;
        Some(Usage { input_tokens, output_tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(content_type: &'static str, chunks: &[&'static str]) -> Option<Usage> {
        let mut tokens = Tokens::of(Some(&http::HeaderValue::from_static(content_type)))?;
        chunks.iter().for_each(|c| tokens.watch(&Bytes::from_static(c.as_bytes())));
        tokens.usage()
    }

    #[test]
    fn the_usage_at_the_end_is_read() {
        let some = |input_tokens, output_tokens| Some(Usage { input_tokens, output_tokens });
        let last =
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":34,\"total_tokens\":46}}\n\n";
        assert_eq!(usage("text/event-stream", &["data: {}\n\n", last, "data: [DONE]\n\n"]), some(12, 34));
        let plain = "{\"content\":\"x\",\"usage\":{\"input_tokens\":5,\"output_tokens\":6,\"cache\":{\"read\":1}}}";
        assert_eq!(usage("application/json; charset=utf-8", &[plain]), some(5, 6));
        for nothing in ["{\"usage\":null}", "{\"usage\":{\"of\":\"land\"}}", "{}"] {
            assert_eq!(usage("application/json", &[nothing]), None, "{nothing}");
        }
        assert_eq!(usage("text/html", &[plain]), None);
    }
}
