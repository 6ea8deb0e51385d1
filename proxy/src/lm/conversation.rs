//! [`Conversation`]: the model's side of one exchange: what was asked, how the answer came, and what it
//! came to in the end.

use http::{HeaderMap, Method, Request, header::CONTENT_TYPE};
use http_body::Body;

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
    pub(crate) fn begin<B: Body>(&mut self, request: &Request<B>, counts_tokens: bool) -> Option<&Call> {
        let operation = Operation::of(request.uri().path()).filter(|_| request.method() == Method::POST);
        if operation.is_some() || counts_tokens {
            let size = request.body().size_hint().exact();
            self.call = Some(Call::new(operation, may_be_json(request.headers()), size));
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

/// Whether a body may be a prompt in JSON: a form with parts, a file among them, is none. Servers of models take any other kind for
/// JSON, so what the client calls it must not make it free.
fn may_be_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&[][..], |kind| kind.as_bytes().trim_ascii_start());
    !kind.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_form_may_be_a_prompt() {
        for (kind, expected) in [
            (None, true),
            (Some("application/json"), true),
            (Some("Application/JSON; charset=utf-8"), true),
            (Some("application/vnd.model+json"), true),
            (Some("multipart/form-data; boundary=x"), false),
            (Some(" Multipart/mixed"), false),
            (Some("text/plain"), true),
            (Some("application/octet-stream"), true),
            (Some(""), true),
        ] {
            let headers = HeaderMap::from_iter(kind.map(|kind| (CONTENT_TYPE, kind.parse().unwrap())));
            assert_eq!(may_be_json(&headers), expected, "{kind:?}");
        }
    }
}
