//! [`Scanner`]: walks JSON that comes in pieces and says each scalar with the path it stands at.
//!
//! It keeps no text but the first bytes of the scalar it is in, so its memory does not depend on the
//! document; it does not check the document either, that is the business of those who exchange it.
//! What it cannot follow (not JSON, nested deeper than [`MAX_DEPTH`]) it stops reading.

/// Braces open at once; one bit each says whether it is an object.
const MAX_DEPTH: usize = 64;

/// Levels whose keys are remembered; everything of interest lies above.
const MAX_PATH: usize = 8;

/// 64 bytes of a scalar: names of models and numbers are shorter.
const MAX_TEXT: usize = 64;

/// The keys of interest; arrays are entered by [`Word::Item`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Word {
    #[default]
    Other,
    Item,
    CacheCreationInputTokens,
    CachedTokens,
    CacheReadInputTokens,
    Choices,
    CompletionTokens,
    Content,
    Delta,
    FinishReason,
    InputTokens,
    InputTokensDetails,
    MaxCompletionTokens,
    MaxOutputTokens,
    MaxTokens,
    Message,
    Model,
    N,
    OutputTokens,
    PartialJson,
    PromptTokens,
    PromptTokensDetails,
    ReasoningContent,
    Response,
    Status,
    StopReason,
    Text,
    Thinking,
    ToolCalls,
    Usage,
}

/// A value that has no parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    /// As much of it as is kept, escapes as they stand.
    Text(&'a [u8]),
    /// A whole number; others count as [`Scalar::Else`].
    Number(u64),
    Else,
}

/// Where in the grammar it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Value,
    Key,
    Colon,
    After,
    Text {
        key: bool,
        escaped: bool,
    },
    Bare,
    Lost,
}

/// The walk through one document.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    state: State,
    depth: usize,
    objects: u64,
    path: [Word; MAX_PATH],
    text: Buffer,
}

#[derive(Debug)]
struct Buffer {
    bytes: [u8; MAX_TEXT],
    length: usize,
}

impl Scanner {
    /// Begins inside an object, as if its brace had been read.
    pub(crate) fn inside_object() -> Self {
        Self { state: State::Key, depth: 1, objects: 1, ..Self::default() }
    }

    /// Begins a new document.
    pub(crate) fn reset(&mut self) {
        (self.state, self.depth, self.objects) = (State::Value, 0, 0);
        self.path = [Word::Other; MAX_PATH];
        self.text.length = 0;
    }

    /// Reads on, and says every scalar that ends here with its path.
    pub(crate) fn push(&mut self, mut bytes: &[u8], say: &mut impl FnMut(&[Word], Scalar<'_>)) {
        while let Some((first, rest)) = bytes.split_first() {
            match self.state {
                State::Lost => return,
                State::Text { key, escaped: false } => {
                    let end = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
                    self.text.add(&bytes[..end]);
                    bytes = &bytes[end..];
                    self.end_of_run(&mut bytes, key, say);
                }
                State::Text { key, escaped: true } => {
                    self.text.add(&bytes[..1]);
                    self.state = State::Text { key, escaped: false };
                    bytes = rest;
                }
                State::Bare if is_bare(*first) => {
                    self.text.add(&bytes[..1]);
                    bytes = rest;
                }
                State::Bare => self.bare_ends(say),
                _ => {
                    self.structure(*first);
                    bytes = rest;
                }
            }
        }
    }

    /// Ends the document: a number at the very end is known to be whole only now, but none of interest stands there.
    #[cfg(test)]
    pub(crate) fn finish(&mut self, say: &mut impl FnMut(&[Word], Scalar<'_>)) {
        if self.state == State::Bare {
            self.bare_ends(say);
        }
    }

    /// A quote or a backslash, or the end of the piece.
    fn end_of_run(&mut self, bytes: &mut &[u8], key: bool, say: &mut impl FnMut(&[Word], Scalar<'_>)) {
        let Some((stop, rest)) = bytes.split_first() else { return };
        *bytes = rest;
        if *stop == b'\\' {
            self.text.add(b"\\");
            self.state = State::Text { key, escaped: true };
        } else if key {
            self.name(Word::of(self.text.get()));
            self.state = State::Colon;
        } else {
            say(self.path(), Scalar::Text(self.text.get()));
            self.state = State::After;
        }
    }

    fn bare_ends(&mut self, say: &mut impl FnMut(&[Word], Scalar<'_>)) {
        let number = std::str::from_utf8(self.text.get()).ok().and_then(|text| text.parse().ok());
        say(self.path(), number.map_or(Scalar::Else, Scalar::Number));
        self.state = State::After;
    }

    /// A byte between values.
    fn structure(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (state, b' ' | b'\t' | b'\r' | b'\n') => state,
            (State::Value, b'{') => self.open(true),
            (State::Value, b'[') => self.open(false),
            (State::Value | State::After, b']') if !self.in_object() => self.close(),
            (State::Key | State::After, b'}') if self.in_object() => self.close(),
            (State::Value, b'"') => self.begin(State::Text { key: false, escaped: false }),
            (State::Key, b'"') => self.begin(State::Text { key: true, escaped: false }),
            (State::Value, byte) if is_bare(byte) => {
                let state = self.begin(State::Bare);
                self.text.add(&[byte]);
                state
            }
            (State::Colon, b':') => State::Value,
            (State::After, b',') if self.in_object() => State::Key,
            (State::After, b',') if self.depth > 0 => State::Value,
            _ => State::Lost,
        };
    }

    fn begin(&mut self, state: State) -> State {
        self.text.length = 0;
        state
    }

    fn open(&mut self, object: bool) -> State {
        if self.depth == MAX_DEPTH {
            return State::Lost;
        }
        self.objects = self.objects << 1 | u64::from(object);
        self.depth += 1;
        self.name(if object { Word::Other } else { Word::Item });
        if object { State::Key } else { State::Value }
    }

    fn close(&mut self) -> State {
        if self.depth == 0 {
            return State::Lost;
        }
        self.objects >>= 1;
        self.depth -= 1;
        State::After
    }

    fn in_object(&self) -> bool {
        self.depth > 0 && self.objects & 1 == 1
    }

    fn name(&mut self, word: Word) {
        if let Some(place) = self.path.get_mut(self.depth - 1) {
            *place = word;
        }
    }

    fn path(&self) -> &[Word] {
        // deeper than is remembered: no path of interest is that long
        self.path.get(..self.depth).unwrap_or_default()
    }
}

impl Buffer {
    fn add(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(MAX_TEXT - self.length);
        self.bytes[self.length..self.length + fits].copy_from_slice(&bytes[..fits]);
        self.length += fits;
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: [0; MAX_TEXT], length: 0 }
    }
}

impl Word {
    fn of(key: &[u8]) -> Self {
        match key {
            b"cache_creation_input_tokens" => Self::CacheCreationInputTokens,
            b"cache_read_input_tokens" => Self::CacheReadInputTokens,
            b"cached_tokens" => Self::CachedTokens,
            b"choices" => Self::Choices,
            b"completion_tokens" => Self::CompletionTokens,
            b"content" => Self::Content,
            b"delta" => Self::Delta,
            b"finish_reason" => Self::FinishReason,
            b"input_tokens" => Self::InputTokens,
            b"input_tokens_details" => Self::InputTokensDetails,
            b"max_completion_tokens" => Self::MaxCompletionTokens,
            b"max_output_tokens" => Self::MaxOutputTokens,
            b"max_tokens" => Self::MaxTokens,
            b"message" => Self::Message,
            b"model" => Self::Model,
            b"n" => Self::N,
            b"output_tokens" => Self::OutputTokens,
            b"partial_json" => Self::PartialJson,
            b"prompt_tokens" => Self::PromptTokens,
            b"prompt_tokens_details" => Self::PromptTokensDetails,
            // vLLM has the shorter name by now
            b"reasoning_content" | b"reasoning" => Self::ReasoningContent,
            b"response" => Self::Response,
            b"status" => Self::Status,
            b"stop_reason" => Self::StopReason,
            b"text" => Self::Text,
            b"thinking" => Self::Thinking,
            b"tool_calls" => Self::ToolCalls,
            b"usage" => Self::Usage,
            _ => Self::Other,
        }
    }
}

/// What numbers and the three words consist of.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every scalar with its path, read in pieces of `size`.
    fn scalars(text: &str, size: usize) -> Vec<String> {
        let (mut scanner, mut seen) = (Scanner::default(), Vec::new());
        let mut say = |path: &[Word], scalar: Scalar<'_>| {
            let value = match scalar {
                Scalar::Text(text) => String::from_utf8_lossy(text).into_owned(),
                other => format!("{other:?}"),
            };
            seen.push(format!("{path:?} {value}"));
        };
        text.as_bytes().chunks(size).for_each(|piece| scanner.push(piece, &mut say));
        scanner.finish(&mut say);
        seen
    }

    #[test]
    fn scalars_have_their_paths_wherever_pieces_end() {
        let text = r#" {"model":"m\"x","n": 2,"choices":[{"delta":{"content":""},"finish_reason":null},{"text":"}"}],
            "usage":{"prompt_tokens":12,"deep":[[{"usage":3}]],"completion_tokens":-1.5e3},"stream":true}"#;
        let expected = [
            r#"[Model] m\"x"#,
            "[N] Number(2)",
            "[Choices, Item, Delta, Content] ",
            "[Choices, Item, FinishReason] Else",
            "[Choices, Item, Text] }",
            "[Usage, PromptTokens] Number(12)",
            "[Usage, Other, Item, Item, Usage] Number(3)",
            "[Usage, CompletionTokens] Else",
            "[Other] Else",
        ];
        for size in 1..text.len() {
            assert_eq!(scalars(text, size), expected, "pieces of {size}");
        }
    }

    #[test]
    fn what_is_not_json_is_left() {
        for (text, expected) in [
            ("[DONE]", &["[Item] Else"][..]),
            ("}", &[]),
            ("]", &[]),
            ("{\"a\" 1}", &[]),
            ("{\"a\":1,]", &["[Other] Number(1)"]),
            ("12", &["[] Number(12)"]),
            ("{\"usage\":1}{\"usage\":2}", &["[Usage] Number(1)"]),
        ] {
            assert_eq!(scalars(text, 3), expected, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(scalars(&deep, 1_000).is_empty());
    }

    #[test]
    fn a_scalar_of_any_length_keeps_its_beginning() {
        let text = format!("[\"{}\",\"b\"]", "a".repeat(1_000_000));
        let seen = scalars(&text, 4_096);
        assert_eq!(seen[0].len(), "[Item] ".len() + MAX_TEXT);
        assert_eq!(seen[1], "[Item] b");
    }
}
