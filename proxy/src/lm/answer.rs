//! [`Answer`]: what a model's answer says of itself, read as it passes: chat completions, completions,
//! the responses API and messages, whole or as server-sent events.

use http::{HeaderMap, header::CONTENT_ENCODING, header::CONTENT_TYPE};
use memchr::memmem;

use crate::lm::{
    Name,
    json::{Scalar, Scanner, Word},
    sse::{Events, Part},
};

/// By which JSON of an unknown kind is known to be a model's.
const USAGE: &[u8] = b"\"usage\"";

/// Whether and how an answer is read.
#[derive(Debug, Default)]
pub(crate) enum Reading {
    /// It is nothing that could hold a usage.
    #[default]
    Not,
    /// It could, but it is compressed, and is left alone.
    Compressed,
    /// JSON of an unknown kind: read from where it first says `"usage"`, so other JSON costs one search. How many bytes of
    /// that word it ended with so far.
    Waiting(usize),
    /// A model's.
    On(Box<Answer>),
}

/// What is known of an answer so far.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    events: Option<Events>,
    scanner: Scanner,
    pub(crate) model: Option<Name>,
    input: Input,
    pub(crate) output_tokens: Option<u64>,
    pub(crate) finish_reasons: FinishReasons,
    /// Events that brought text: about one a token.
    pub(crate) token_events: u64,
    /// Events with data.
    pub(crate) data_events: u64,
    /// Whether the event under way brought text.
    has_text: bool,
}

/// What was read of a prompt: OpenAI counts all of it (`prompt_tokens`, of which some were `cached_tokens`), Anthropic beside
/// `input_tokens` what it wrote to a cache and what it read from one.
#[derive(Clone, Copy, Debug, Default)]
struct Input {
    /// `prompt_tokens`, which others than Anthropic say beside its words for caches, and which holds those.
    whole: Option<u64>,
    tokens: Option<u64>,
    cached: Option<u64>,
    cache_creation: Option<u64>,
    cache_read: Option<u64>,
}

/// Why a model stopped; several choices may have several reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FinishReasons(u16);

impl FinishReasons {
    /// Those of OpenAI and Anthropic; another is kept as `other`.
    const NAMES: [&str; 13] = [
        "stop",
        "length",
        "tool_calls",
        "content_filter",
        "function_call",
        "end_turn",
        "max_tokens",
        "stop_sequence",
        "tool_use",
        "completed",
        "incomplete",
        "failed",
        "other",
    ];

    #[cfg(test)]
    pub(crate) fn of(names: &[&str]) -> Self {
        let mut reasons = Self::default();
        names.iter().for_each(|name| reasons.add(name.as_bytes()));
        reasons
    }

    fn add(&mut self, name: &[u8]) {
        let known = Self::NAMES.iter().position(|known| known.as_bytes() == name);
        self.0 |= 1 << known.unwrap_or(Self::NAMES.len() - 1);
    }

    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().enumerate().filter(move |(at, _)| self.0 >> at & 1 == 1).map(|(_, name)| name)
    }
}

impl Reading {
    /// As the head of the answer has it.
    pub(crate) fn of(headers: &HeaderMap, of_a_model: bool) -> Self {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let stream = essence.eq_ignore_ascii_case("text/event-stream");
        let json = essence.eq_ignore_ascii_case("application/json");
        if !stream && !json {
            return Self::Not;
        }
        let plain = headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding == "identity");
        match (plain, of_a_model) {
            (false, _) => Self::Compressed,
            (true, false) if json => Self::Waiting(0),
            (true, _) => Self::On(Box::new(Answer { events: stream.then(Events::default), ..Answer::default() })),
        }
    }

    /// Looks at a chunk that passes; whether it brought data, and whether tokens.
    pub(crate) fn watch(&mut self, chunk: &[u8]) -> Watched {
        match self {
            Self::Not | Self::Compressed => Watched::default(),
            Self::On(answer) => answer.watch(chunk),
            Self::Waiting(begun) => {
                match after_usage(chunk, *begun) {
                    Ok(rest) => {
                        let mut answer = Answer { scanner: Scanner::inside_object(), ..Answer::default() };
                        answer.watch(USAGE);
                        answer.watch(rest);
                        *self = Self::On(Box::new(answer));
                    }
                    Err(so_far) => *begun = so_far,
                }
                Watched::default()
            }
        }
    }

    /// What was read, once the answer has ended.
    pub(crate) fn answer(&self) -> Option<&Answer> {
        if let Self::On(answer) = self { Some(answer) } else { None }
    }
}

/// What of a chunk follows the word, of which `begun` bytes came before; or how many of them have come by now.
fn after_usage(chunk: &[u8], begun: usize) -> Result<&[u8], usize> {
    let wanted = &USAGE[begun..];
    if let Some(rest) = chunk.strip_prefix(wanted) {
        return Ok(rest);
    }
    if begun > 0 && wanted.starts_with(chunk) {
        return Err(begun + chunk.len());
    }
    let so_far = || (0..USAGE.len()).rev().find(|begun| chunk.ends_with(&USAGE[..*begun])).unwrap_or(0);
    memmem::find(chunk, USAGE).map(|at| &chunk[at + USAGE.len()..]).ok_or_else(so_far)
}

/// What a chunk of a stream brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) data: bool,
    pub(crate) token: bool,
}

impl Answer {
    /// Whether it comes event by event.
    pub(crate) fn is_stream(&self) -> bool {
        self.events.is_some()
    }

    /// About how many tokens came, where nothing says it: one with each event.
    pub(crate) fn came_tokens(&self) -> u64 {
        self.token_events.max(self.data_events)
    }

    /// Whether it said anything of itself.
    pub(crate) fn says_something(&self) -> bool {
        self.output_tokens.is_some() || self.input_tokens().is_some() || self.is_stream()
    }

    /// All of the prompt, whether or not a cache had it.
    pub(crate) fn input_tokens(&self) -> Option<u64> {
        let Input { whole, tokens, cache_creation, cache_read, .. } = self.input;
        let beside = cache_creation.unwrap_or(0).saturating_add(cache_read.unwrap_or(0));
        whole.or_else(|| tokens.map(|tokens| tokens.saturating_add(beside)))
    }

    /// How much of the prompt a cache had.
    pub(crate) fn cache_read_tokens(&self) -> Option<u64> {
        self.input.cache_read.or(self.input.cached)
    }

    /// How much of the prompt a cache was given.
    pub(crate) fn cache_creation_tokens(&self) -> Option<u64> {
        self.input.cache_creation
    }

    fn watch(&mut self, chunk: &[u8]) -> Watched {
        let before = (self.data_events, self.token_events);
        match self.events.take() {
            None => self.read(chunk),
            Some(mut events) => {
                events.push(chunk, &mut |part| match part {
                    Part::Data(data) => self.read(data),
                    Part::End => self.event_ends(),
                });
                self.events = Some(events);
            }
        }
        Watched { data: self.data_events > before.0, token: self.token_events > before.1 }
    }

    fn event_ends(&mut self) {
        self.data_events += 1;
        self.token_events += u64::from(std::mem::take(&mut self.has_text));
        self.scanner.reset();
    }

    fn read(&mut self, json: &[u8]) {
        let mut scanner = std::mem::take(&mut self.scanner);
        scanner.push(json, &mut |path, scalar| self.has_text |= self.note(path, scalar));
        self.scanner = scanner;
    }

    /// Takes note of one scalar; whether it is text of the model's.
    fn note(&mut self, path: &[Word], scalar: Scalar<'_>) -> bool {
        use Word::{
            CacheCreationInputTokens, CacheReadInputTokens, CachedTokens, Choices, CompletionTokens, Content, Delta,
            FinishReason, InputTokens, InputTokensDetails, Item, Message, Model, OutputTokens, PartialJson,
            PromptTokens, PromptTokensDetails, ReasoningContent, Response, Status, StopReason, Text, Thinking,
            ToolCalls, Usage,
        };
        // a message begins with a first token, and says all of them at its end
        if let [Message, Usage, OutputTokens] = path {
            return false;
        }
        // the responses API and messages wrap what others say at the top
        let inner = if let [Response | Message, inner @ ..] = path { inner } else { path };
        match (inner, scalar) {
            ([Model], Scalar::Text(name)) => self.model = Name::of(name),
            ([Usage, PromptTokens], Scalar::Number(n)) => self.input.whole = Some(n),
            ([Usage, InputTokens], Scalar::Number(n)) => self.input.tokens = Some(n),
            ([Usage, PromptTokensDetails | InputTokensDetails, CachedTokens], Scalar::Number(n)) => {
                self.input.cached = Some(n);
            }
            ([Usage, CacheCreationInputTokens], Scalar::Number(n)) => self.input.cache_creation = Some(n),
            ([Usage, CacheReadInputTokens], Scalar::Number(n)) => self.input.cache_read = Some(n),
            ([Usage, CompletionTokens | OutputTokens], Scalar::Number(n)) => self.output_tokens = Some(n),
            ([Choices, Item, FinishReason] | [Delta, StopReason] | [StopReason], Scalar::Text(reason)) => {
                self.finish_reasons.add(reason);
            }
            ([Status], Scalar::Text(status @ (b"completed" | b"incomplete" | b"failed"))) => {
                self.finish_reasons.add(status);
            }
            (
                [Choices, Item, Delta, Content | ReasoningContent]
                | [Choices, Item, Text]
                | [Choices, Item, Delta, ToolCalls, ..]
                | [Delta]
                | [Delta, Text | Thinking | PartialJson],
                Scalar::Text(text),
            ) => return !text.is_empty(),
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(kind: &'static str, of_a_model: bool, text: &str, size: usize) -> Reading {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let mut reading = Reading::of(&headers, of_a_model);
        text.as_bytes().chunks(size).for_each(|chunk| {
            reading.watch(chunk);
        });
        reading
    }

    fn summary(reading: &Reading) -> String {
        let Some(a) = reading.answer() else { return format!("{reading:?}") };
        let reasons: Vec<&str> = a.finish_reasons.names().collect();
        let model = a.model.as_ref().map_or("-", Name::as_str);
        format!("{model} {:?}/{:?} {reasons:?} {} tokens seen", a.input_tokens(), a.output_tokens, a.token_events)
    }

    #[test]
    fn streams_are_read_wherever_chunks_end() {
        let chat = "data: {\"model\":\"gpt-x\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
            data: {\"model\":\"gpt-x\",\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\r\n\r\n: ping\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"lo \\\"usage\\\":{\\\"prompt_tokens\\\":9}\"},\ndata: \"finish_reason\":null}]}\n\n\
            data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":34,\"total_tokens\":46}}\n\ndata: [DONE]\n\n";
        let responses = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"o-1\",\"status\":\"in_progress\"}}\n\n\
            data: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n\
            data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"usage\":{\"input_tokens\":3,\"input_tokens_details\":{\"cached_tokens\":1},\"output_tokens\":4}}}\n\n";
        let messages = "data: {\"type\":\"message_start\",\"message\":{\"model\":\"c-1\",\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n\
            data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n\
            data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n";
        let tools = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"{\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\n";
        let calls = "data: {\"model\":\"modèle-é\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"météo\",\"arguments\":\"\"}}]}}],\"usage\":null}\r\n\r\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"Grüße 😀\"},\"finish_reason\":null}],\"usage\":null}\r\n\r\n\
            data: {\"choices\":[{\"delta\":{\"content\":null},\"finish_reason\":\"tool_calls\"}],\"usage\":null}\r\n\r\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6}}\r\n\r\ndata: [DONE]\r\n\r\n";
        let thoughts = "data: {\"choices\":[{\"delta\":{\"reasoning\":\"Hm\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"reasoning_content\":\"Hm\"}}]}\n\n";
        for (text, expected) in [
            (thoughts, "- None/None [] 2 tokens seen"),
            (calls, "modèle-é Some(5)/Some(6) [\"tool_calls\"] 2 tokens seen"),
            (chat, "gpt-x Some(12)/Some(34) [\"length\"] 2 tokens seen"),
            (responses, "o-1 Some(3)/Some(4) [\"completed\"] 1 tokens seen"),
            (messages, "c-1 Some(5)/Some(15) [\"end_turn\"] 1 tokens seen"),
            (tools, "- None/None [\"tool_calls\"] 1 tokens seen"),
            ("data: one\n\ndata: 2\n\n", "- None/None [] 0 tokens seen"),
        ] {
            for size in 1..=text.len() {
                assert_eq!(summary(&read("text/event-stream", false, text, size)), expected, "pieces of {size}");
            }
        }
    }

    #[test]
    fn whole_answers_are_read() {
        let chat = r#"{"model":"gpt-x","choices":[{"message":{"content":"x"},"finish_reason":"stop"},{"finish_reason":"odd"}],
            "usage":{"prompt_tokens":5,"completion_tokens":6,"prompt_tokens_details":{"cached_tokens":2}}}"#;
        for size in 1..=chat.len() {
            let reading = read("application/json; charset=utf-8", true, chat, size);
            assert_eq!(summary(&reading), "gpt-x Some(5)/Some(6) [\"stop\", \"other\"] 0 tokens seen");
        }
        let calls = r#"{"model":"m","choices":[{"message":{"content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\"usage\":1}"}}]},
            "finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
        assert_eq!(
            summary(&read("application/json", true, calls, 7)),
            "m Some(1)/Some(2) [\"tool_calls\"] 0 tokens seen"
        );
        let elsewhere = "{\"content\":\"x\",\"usage\":{\"input_tokens\":5,\"output_tokens\":6,\"cache\":{\"read\":1}}}";
        for size in 1..=elsewhere.len() {
            let reading = read("application/json", false, elsewhere, size);
            assert_eq!(summary(&reading), "- Some(5)/Some(6) [] 0 tokens seen", "pieces of {size}");
        }
        for nothing in ["{\"usage\":null}", "{\"usage\":{\"of\":\"land\"}}", "{\"usage\":[{\"prompt_tokens\":1}]}"] {
            let reading = read("application/json", false, nothing, 99);
            assert!(!reading.answer().unwrap().says_something(), "{nothing}");
        }
        assert_eq!(summary(&read("application/json", false, "{}", 99)), "Waiting(0)");
        assert_eq!(summary(&read("text/html", true, chat, 99)), "Not");
    }

    /// Anthropic counts what caches had apart: such a call was told and charged as the few tokens that none had.
    #[test]
    fn what_a_cache_had_of_a_prompt_is_part_of_it() {
        let messages = "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":100,\
            \"cache_read_input_tokens\":1000,\"cache_creation\":{\"ephemeral_5m_input_tokens\":100},\"output_tokens\":1}}}\n\n\
            data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5}}\n\n";
        let message = r#"{"usage":{"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,"output_tokens":5}}"#;
        let chat =
            r#"{"usage":{"prompt_tokens":1110,"prompt_tokens_details":{"cached_tokens":1000},"completion_tokens":5}}"#;
        let responses =
            r#"{"usage":{"input_tokens":1110,"input_tokens_details":{"cached_tokens":1000},"output_tokens":5}}"#;
        let gateway = r#"{"usage":{"prompt_tokens":1110,"completion_tokens":5,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000}}"#;
        let uncached = r#"{"usage":{"prompt_tokens":1110,"completion_tokens":5}}"#;
        for (text, from_cache, to_cache) in [
            (messages, Some(1_000), Some(100)),
            (message, Some(1_000), Some(100)),
            (chat, Some(1_000), None),
            (responses, Some(1_000), None),
            (gateway, Some(1_000), Some(100)),
            (uncached, None, None),
        ] {
            let kind = if text == messages { "text/event-stream" } else { "application/json" };
            for size in 1..=text.len() {
                let reading = read(kind, true, text, size);
                let answer = reading.answer().unwrap();
                let caches = (answer.cache_read_tokens(), answer.cache_creation_tokens());
                assert_eq!((answer.input_tokens(), answer.output_tokens), (Some(1_110), Some(5)), "{text}");
                assert_eq!(caches, (from_cache, to_cache), "{text}");
            }
        }
    }

    #[test]
    fn a_line_of_any_length_is_read_in_the_same_few_bytes() {
        let long = "x".repeat(4 << 20);
        let text = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{long}\"}}}}],\"{long}\":1,\"usage\":{{\"completion_tokens\":3}}}}\n\n"
        );
        let reading = read("text/event-stream", true, &text, 16_384);
        assert_eq!(summary(&reading), "- None/Some(3) [] 1 tokens seen");
        // nothing in it is on the heap
        assert!(size_of::<Answer>() < 512, "{}", size_of::<Answer>());
    }

    #[test]
    fn compressed_answers_are_left_alone() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(matches!(Reading::of(&headers, true), Reading::Compressed));
    }
}
