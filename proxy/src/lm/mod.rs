//! What is known of a call to a language model, read from messages as they pass: nothing is gathered,
//! nothing is delayed, and a stream of any length costs the same few hundred bytes.
//!
//! [`json`] walks JSON and [`sse`] server-sent events, both across chunk borders anywhere; [`request`]
//! reads what was asked, [`answer`] what came back; [`call`] joins the two and settles the token bill, and
//! [`conversation`] is all of it that one exchange holds. Whose models they are says [`provider`].

mod answer;
mod call;
mod conversation;
mod json;
mod provider;
mod request;
mod sse;

pub(crate) use answer::{Answer, FinishReasons, Reading, Watched};
pub(crate) use call::{Call, Pace};
pub(crate) use conversation::Conversation;
pub(crate) use provider::provider;
pub(crate) use request::Asked;

/// What a path asks of a model, in the words of OpenTelemetry's `gen_ai.operation.name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Operation {
    Chat,
    TextCompletion,
    Embeddings,
}

/// The name of a model; what is longer than any is cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    length: u8,
    bytes: [u8; Name::MAX],
}

impl Operation {
    /// By how the paths of OpenAI-style APIs end, wherever they are mounted.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let (_, last) = path.rsplit_once('/')?;
        match last {
            "completions" if path.ends_with("/chat/completions") => Some(Self::Chat),
            "completions" => Some(Self::TextCompletion),
            "responses" | "messages" if path.contains("/v1/") => Some(Self::Chat),
            "embeddings" => Some(Self::Embeddings),
            _ => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::TextCompletion => "text_completion",
            Self::Embeddings => "embeddings",
        }
    }
}

impl Name {
    /// 63 bytes: the longest names of models in use have about 50.
    const MAX: usize = 63;

    pub(crate) fn new(text: &str) -> Self {
        // some encoders escape slashes, of which names of models have many
        let plain = text.contains("\\/").then(|| text.replace("\\/", "/"));
        let text = plain.as_deref().unwrap_or(text);
        let end = (0..=text.len().min(Self::MAX)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let mut bytes = [0; Self::MAX];
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Self { length: end as u8, bytes }
    }

    /// As JSON has it, perhaps cut in the middle of a character.
    pub(crate) fn of(text: &[u8]) -> Option<Self> {
        let whole = text.utf8_chunks().next()?.valid();
        (!whole.is_empty()).then(|| Self::new(whole))
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_known_by_their_paths() {
        for (path, expected) in [
            ("/v1/chat/completions", Some(Operation::Chat)),
            ("/openai/v1/completions", Some(Operation::TextCompletion)),
            ("/v1/responses", Some(Operation::Chat)),
            ("/v1/messages", Some(Operation::Chat)),
            ("/v1/embeddings", Some(Operation::Embeddings)),
            ("/messages", None),
            ("/v1/models", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(Operation::of(path), expected, "{path}");
        }
    }

    #[test]
    fn names_are_cut_between_characters() {
        let long = format!("{}é", "m".repeat(62));
        assert_eq!(Name::new(&long).as_str(), "m".repeat(62));
        assert_eq!(Name::new("gpt-x").as_str(), "gpt-x");
        let cut = &format!("{}é", "m".repeat(59)).into_bytes()[..60];
        for (text, expected) in
            [(cut, Some("m".repeat(59))), (b"meta\\/llama", Some("meta/llama".into())), (b"", None), (b"\xff", None)]
        {
            assert_eq!(Name::of(text).map(|name| name.as_str().to_owned()), expected);
        }
    }
}
