//! [`Asked`]: what a request asks of a model, read from its body as it passes.

use crate::lm::{
    Name,
    json::{Scalar, Scanner, Word},
};

/// 256 KiB of a body are read; what a request asks of the model stands around its prompt, not in it.
const MAX_READ: usize = 256 * 1024;

/// Four bytes of text are about a token, in English, with the tokenizers in use.
pub(super) const BYTES_PER_TOKEN: u64 = 4;

/// What is known of a request so far.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    scanner: Scanner,
    /// Bytes of the body seen.
    read: usize,
    pub(crate) model: Option<Name>,
    max_tokens: Option<u64>,
    choices: Option<u64>,
}

impl Asked {
    /// Looks at a chunk that passes.
    pub(crate) fn watch(&mut self, chunk: &[u8]) {
        let wanted = chunk.len().min(MAX_READ.saturating_sub(self.read));
        self.read = self.read.saturating_add(chunk.len());
        let mut scanner = std::mem::take(&mut self.scanner);
        scanner.push(&chunk[..wanted], &mut |path, scalar| match (path, scalar) {
            ([Word::Model], Scalar::Text(name)) => self.model = Name::of(name),
            ([Word::MaxTokens | Word::MaxCompletionTokens | Word::MaxOutputTokens], Scalar::Number(n)) => {
                self.max_tokens = Some(n);
            }
            ([Word::N], Scalar::Number(n)) => self.choices = Some(n),
            _ => {}
        });
        self.scanner = scanner;
    }

    /// The most tokens the answer may have, if the request says so.
    pub(crate) fn max_output_tokens(&self) -> Option<u64> {
        self.max_tokens.map(|max| max.saturating_mul(self.choices.unwrap_or(1).max(1)))
    }

    /// About how many tokens the prompt has; `length` is the body's, when known.
    pub(crate) fn prompt_tokens(&self, length: Option<u64>) -> u64 {
        length.unwrap_or(self.read as u64) / BYTES_PER_TOKEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Asked {
        let mut asked = Asked::default();
        text.as_bytes().chunks(7).for_each(|chunk| asked.watch(chunk));
        asked
    }

    #[test]
    fn the_bounds_of_an_answer_are_read() {
        for (text, model, max) in [
            (r#"{"model":"m","max_tokens":100}"#, Some("m"), Some(100)),
            (r#"{"max_completion_tokens":100,"n":3,"messages":[{"content":"\"max_tokens\":7"}]}"#, None, Some(300)),
            (r#"{"messages":[{"max_tokens":7,"model":"x"}],"max_output_tokens":9}"#, None, Some(9)),
            (r#"{"max_tokens":null,"n":2}"#, None, None),
            (r#"{"max_tokens":18446744073709551615,"n":9}"#, None, Some(u64::MAX)),
            ("model=m", None, None),
        ] {
            let asked = asked(text);
            assert_eq!(asked.model.as_ref().map(Name::as_str), model, "{text}");
            assert_eq!(asked.max_output_tokens(), max, "{text}");
        }
        assert_eq!((asked("12345678").prompt_tokens(None), asked("1").prompt_tokens(Some(400))), (2, 100));
    }
}
