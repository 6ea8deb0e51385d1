//! [`LmServer`]: the server as it is taken to be, in a dozen numbers.
//!
//! A prompt of c tokens takes `a + b·c + q·c²` of the machine; a step of B running sequences takes
//! `d0 + d1·B + d2·max(0, B − knee)`. That step time is nearly flat while weights are read and grows once arithmetic
//! binds, and that prompts cost in proportion to their tokens, is what P. Patel et al. measured ("Splitwise", ISCA
//! 2024, §III); the quadratic part is attention's.

use serde::{Deserialize, Serialize};

/// How prompts and running sequences share the machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// A prompt goes first, whole, and everyone who streams waits for it (W. Kwon et al., "PagedAttention", SOSP 2023).
    PrefillFirst,
    /// A prompt goes piece by piece beside the steps, so many tokens a step (A. Agrawal et al., "Sarathi-Serve", OSDI 2024).
    Chunked {
        /// Tokens a step, those of running sequences among them.
        chunk_tokens: f64,
    },
    /// Steps go first: prompts wait until so many were made since the last ones, then go together.
    DecodeFirst {
        /// Steps between prompts.
        steps: f64,
    },
    /// Prompts and steps have machines of their own ("Splitwise", as above).
    Apart,
}

/// What keeps a request out of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slots {
    /// Nothing that was seen.
    Unlimited,
    /// So many sequences at once, a replica.
    Sequences(u32),
    /// So many tokens kept at once, a replica: prompts and what was made of them.
    Tokens(f64),
}

/// Who of several replicas gets a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The one that the span names.
    #[default]
    AsSeen,
    /// One after the other.
    RoundRobin,
    /// The one with the fewest in it.
    LeastInFlight,
}

/// A server, or several of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LmServer {
    /// a: of a prompt without tokens.
    pub prefill_base_ms: f64,
    /// b.
    pub prefill_ms_per_token: f64,
    /// q; 0 unless it is significant.
    pub prefill_ms_per_token2: f64,
    /// d0: of a step without sequences.
    pub step_base_ms: f64,
    /// d1.
    pub step_ms_per_sequence: f64,
    /// d2: the same beyond the knee, on top; 0 unless it is significant.
    pub step_ms_per_sequence_beyond: f64,
    /// Sequences at which a step begins to cost more.
    pub knee_sequences: f64,
    /// How prompts and steps share it.
    pub sharing: Sharing,
    /// What keeps requests out.
    pub slots: Slots,
    /// How many there are, each with a batch of its own.
    pub replicas: u32,
    /// Who gets a request.
    pub balance: Balance,
}

impl LmServer {
    /// Of the machine, for a prompt.
    #[must_use]
    pub fn prefill_ms(&self, input_tokens: f64) -> f64 {
        let per_token = self.prefill_ms_per_token + self.prefill_ms_per_token2 * input_tokens;
        self.prefill_base_ms + per_token * input_tokens
    }

    /// One token of each of so many sequences.
    #[must_use]
    pub fn step_ms(&self, sequences: f64) -> f64 {
        let beyond = (sequences - self.knee_sequences).max(0.0);
        let step =
            self.step_base_ms + self.step_ms_per_sequence * sequences + self.step_ms_per_sequence_beyond * beyond;
        // a step takes some time, whatever a line says far from where it was fitted
        step.max(1e-3)
    }

    /// Prompts share their machine with steps.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.sharing != Sharing::Apart
    }
}
