//! [`Conversation`]: the model's side of one exchange: what was asked, how the answer came, and what it
//! came to in the end.

use http::Method;

use crate::{
    lm::{Call, Operation, Pace, Reading, Watched},
    telemetry::LmRecord,
};

/// What is known of it so far; nothing, where no model is asked.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) call: Option<Call>,
    pace: Pace,
}

impl Conversation {
    /// Begins a call, where the request asks a model or tokens are counted.
    pub(crate) fn begin(
        &mut self,
        method: &Method,
        path: &str,
        body_bytes: Option<u64>,
        counts_tokens: bool,
    ) -> Option<&Call> {
        let operation = if method == Method::POST { Operation::of(path) } else { None };
        if operation.is_some() || counts_tokens {
            self.call = Some(Call::new(operation, body_bytes));
        }
        self.call.as_ref()
    }

    /// Takes note of a chunk of the answer that came `elapsed_ns` after the request.
    pub(crate) fn heard(&mut self, watched: Watched, elapsed_ns: impl FnOnce() -> u64) {
        if watched.data {
            self.pace.note(watched, elapsed_ns());
        }
    }

    /// The call never reached the model.
    pub(crate) fn refund(&mut self) {
        if let Some(call) = &mut self.call {
            call.refund();
        }
    }

    /// Pays for the call and says what is recorded of it.
    pub(crate) fn settle(&mut self, reading: &Reading, status: u16, response_bytes: u64) -> Option<LmRecord> {
        let answer = reading.answer();
        if let Some(call) = &mut self.call {
            call.settle(answer, status, response_bytes);
        }
        let says_something = answer.is_some_and(|answer| answer.says_something());
        if self.call.is_none() && !says_something {
            return None;
        }
        let (operation, request_model) = match &self.call {
            Some(call) => (call.operation, call.asked.borrow().model),
            None => (None, None),
        };
        let output_tokens = answer.and_then(|a| a.output_tokens);
        Some(LmRecord {
            operation,
            request_model,
            response_model: answer.and_then(|a| a.model),
            input_tokens: answer.and_then(|a| a.input_tokens),
            output_tokens,
            time_to_first_token_ns: self.pace.time_to_first_token_ns(),
            time_per_output_token_ns: output_tokens.and_then(|n| self.pace.time_per_output_token_ns(n)),
            finish_reasons: answer.map(|a| a.finish_reasons).unwrap_or_default(),
            compressed: matches!(reading, Reading::Compressed),
        })
    }
}
