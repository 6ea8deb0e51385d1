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
        let operation = Operation::of(path).filter(|_| method == Method::POST);
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
        self.call.iter_mut().for_each(Call::refund);
    }

    /// The client left before the answer; `reached` says whether the call went out.
    pub(crate) fn left(&mut self, reached: bool) {
        self.call.iter_mut().for_each(|call| if reached { call.leave() } else { call.refund() });
    }

    /// What the call came to will never be known.
    pub(crate) fn keep(&mut self) {
        self.call.iter_mut().for_each(Call::keep);
    }

    /// Pays for the call and says what is recorded of it.
    pub(crate) fn settle(&mut self, reading: &Reading, status: u16, response_bytes: u64) -> Option<LmRecord> {
        if let Some(call) = &mut self.call {
            call.settle(reading.answer(), status, response_bytes);
        }
        self.pace.record(self.call.as_ref(), reading)
    }
}
