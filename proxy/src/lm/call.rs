//! [`Call`]: one call to a model: what was asked, what of the token budget was set aside for it, and
//! what it came to in the end. [`Pace`] is when its tokens came.

use std::{cell::RefCell, rc::Rc};

use tokio::time::Instant;

use crate::{
    lm::{Answer, Asked, Operation, Reading, Watched, request::BYTES_PER_TOKEN},
    regulate::{Reservation, TokenEstimate},
    telemetry::LmRecord,
};

/// One call to a model.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) operation: Option<Operation>,
    /// Shared with the request's body, which fills it as it passes.
    pub(crate) asked: Rc<RefCell<Asked>>,
    /// As the request announced it.
    pub(crate) body_bytes: Option<u64>,
    /// Whether its body says what it will cost; else only the usage of its answer is charged.
    estimated: bool,
    reservations: Vec<Reservation>,
}

/// When the events of a streamed answer came, in nanoseconds since the request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    first_event_ns: Option<u64>,
    first_token_ns: Option<u64>,
    last_token_ns: u64,
}

impl Call {
    /// `json` is whether its body is, as far as the request says.
    pub(crate) fn new(operation: Option<Operation>, json: bool, body_bytes: Option<u64>) -> Self {
        let estimated = operation.is_some() && json;
        Self { operation, asked: Rc::default(), body_bytes, estimated, reservations: Vec::new() }
    }

    /// Whether its body says what it will cost.
    pub(crate) fn is_estimated(&self) -> bool {
        self.estimated
    }

    /// What it will cost, as far as the request says.
    pub(crate) fn estimate(&self) -> TokenEstimate {
        let max_output = if self.estimated { self.asked.borrow().max_output_tokens() } else { Some(0) };
        TokenEstimate { prompt: self.prompt_tokens(self.body_bytes), max_output }
    }

    /// About how many tokens its prompt has; none where nothing says that its body is one.
    fn prompt_tokens(&self, body_bytes: Option<u64>) -> u64 {
        if self.estimated { self.asked.borrow().prompt_tokens(body_bytes) } else { 0 }
    }

    /// Sets tokens aside until the call is settled.
    pub(crate) fn reserve(&mut self, reservation: Reservation) {
        self.reservations.push(reservation);
    }

    /// The call never reached the model: what was set aside goes back.
    pub(crate) fn refund(&mut self) {
        self.reservations.clear();
    }

    /// What it came to will never be known: what was set aside stays taken.
    pub(crate) fn keep(&mut self) {
        self.reservations.drain(..).for_each(Reservation::keep);
    }

    /// The client left before there was an answer, and the model stops: it has read what was sent of the prompt.
    pub(crate) fn leave(&mut self) {
        let (now, read) = (Instant::now(), self.prompt_tokens(None));
        self.reservations.drain(..).for_each(|reservation| reservation.settle(read, 0, now));
    }

    /// Books what the call came to; `None` for an answer that was not read.
    pub(crate) fn settle(&mut self, answer: Option<&Answer>, status: u16, response_bytes: u64) {
        if self.reservations.is_empty() {
            return;
        }
        let (input, output) = self.bill(answer, status, response_bytes);
        let now = Instant::now();
        self.reservations.drain(..).for_each(|reservation| reservation.settle(input, output, now));
    }

    fn bill(&self, answer: Option<&Answer>, status: u16, response_bytes: u64) -> (u64, u64) {
        let prompt = self.estimate().prompt;
        match answer {
            Some(answer) if answer.input_tokens().is_some() || answer.output_tokens.is_some() => {
                (answer.input_tokens().unwrap_or(prompt), answer.output_tokens.unwrap_or_else(|| answer.came_tokens()))
            }
            // a refusal or a failure of the model's: nothing was generated
            _ if status >= 400 => (0, 0),
            // an upload, say: what is not known to be a model's costs nothing, but for tokens that came in its words
            Some(answer) if !self.estimated => (0, answer.token_events),
            None if !self.estimated => (0, 0),
            // a stream without a usage, or cut off before it: about one token came with each event
            Some(answer) if answer.is_stream() => (prompt, answer.came_tokens()),
            _ => (prompt, response_bytes / BYTES_PER_TOKEN),
        }
    }
}

impl Pace {
    /// Takes note of a chunk that came `elapsed_ns` after the request.
    pub(crate) fn note(&mut self, watched: Watched, elapsed_ns: u64) {
        if watched.data {
            self.first_event_ns.get_or_insert(elapsed_ns);
        }
        if watched.token {
            self.first_token_ns.get_or_insert(elapsed_ns);
            self.last_token_ns = elapsed_ns;
        }
    }

    /// What there is to record of an answer, if it is a model's.
    pub(crate) fn record(&self, call: Option<&Call>, reading: &Reading) -> Option<LmRecord> {
        let answer = reading.answer();
        let operation = call.and_then(|call| call.operation);
        let of_a_model = operation.is_some() || answer.is_some_and(Answer::says_something);
        let output_tokens = answer.and_then(|a| a.output_tokens);
        of_a_model.then(|| LmRecord {
            operation,
            request_model: call.and_then(|call| call.asked.borrow().model),
            response_model: answer.and_then(|a| a.model),
            input_tokens: answer.and_then(Answer::input_tokens),
            cache_read_tokens: answer.and_then(Answer::cache_read_tokens),
            cache_creation_tokens: answer.and_then(Answer::cache_creation_tokens),
            output_tokens,
            time_to_first_token_ns: self.time_to_first_token_ns(),
            time_per_output_token_ns: output_tokens.and_then(|n| self.time_per_output_token_ns(n)),
            finish_reasons: answer.map(|a| a.finish_reasons).unwrap_or_default(),
            compressed: matches!(reading, Reading::Compressed),
        })
    }

    /// The first event with text; the first event at all where none is known to have any.
    fn time_to_first_token_ns(&self) -> Option<u64> {
        self.first_token_ns.or(self.first_event_ns)
    }

    /// The mean gap after the first token.
    fn time_per_output_token_ns(&self, output_tokens: u64) -> Option<u64> {
        let spread = self.last_token_ns.checked_sub(self.first_token_ns?)?;
        (output_tokens > 1).then(|| spread / (output_tokens - 1))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};

    use super::*;

    /// Anthropic says a first token at the beginning of a message, and all of them at its end: who left in between paid for one,
    /// however much had come.
    #[test]
    fn a_message_that_is_left_before_its_end_costs_what_came() {
        let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}"#;
        let text = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}"#;
        let thinks = r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"Hm"}}"#;
        let calls = r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{}"}}"#;
        let end = r#"{"type":"message_delta","usage":{"output_tokens":15}}"#;
        let call = Call::new(Some(Operation::Chat), true, Some(400));
        for (events, tokens, bill) in [
            (&[start, text, text, text][..], 3, (5, 4)),
            (&[start, thinks, calls], 2, (5, 3)),
            (&[start, text, end], 1, (5, 15)),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))]);
            let mut reading = Reading::of(&headers, true);
            events.iter().for_each(|event| _ = reading.watch(format!("data: {event}\n\n").as_bytes()));
            assert_eq!(reading.answer().unwrap().token_events, tokens, "{events:?}");
            assert_eq!(call.bill(reading.answer(), 200, 0), bill, "{events:?}");
        }
    }

    #[test]
    fn the_pace_is_that_of_events_with_text() {
        let mut pace = Pace::default();
        let event = |token| Watched { data: true, token };
        for (watched, at) in
            [(Watched::default(), 5), (event(false), 10), (event(true), 20), (event(true), 60), (event(false), 90)]
        {
            pace.note(watched, at);
        }
        assert_eq!((pace.time_to_first_token_ns(), pace.time_per_output_token_ns(5)), (Some(20), Some(10)));
        assert_eq!(pace.time_per_output_token_ns(1), None);
        let mut unknown = Pace::default();
        unknown.note(event(false), 7);
        assert_eq!((unknown.time_to_first_token_ns(), unknown.time_per_output_token_ns(5)), (Some(7), None));
    }
}
