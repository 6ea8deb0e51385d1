//! [`Server`]: servers of language models, simulated step by step, of kinds that the fit does not assume.
//!
//! Beside what is fitted they have steps that grow with the tokens that are kept, a smooth knee, attention's quadratic
//! part, noise on every step, prompts taken several at a time, memory by blocks of tokens with preemption and
//! recomputation, a time to hand caches over, and balancers that see only what they sent.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng, rngs::StdRng};

/// A request that comes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Coming {
    pub(crate) at_ms: f64,
    pub(crate) input_tokens: f64,
    pub(crate) output_tokens: f64,
}

/// What its span shows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown {
    pub(crate) first_token_ms: f64,
    pub(crate) end_ms: f64,
    pub(crate) replica: usize,
}

/// How prompts are fitted in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Policy {
    /// Waiting prompts first, together, up to so many tokens; who streams waits.
    PrefillFirst { batched_tokens: f64 },
    /// Everyone who streams has a token of the budget of each step; prompts have the rest of it.
    Chunked { budget: f64 },
    /// Waiting prompts go together, but only after so many steps, or when nobody streams.
    DecodeFirst { steps: u32 },
    /// On another machine; its cache then takes so many milliseconds a token to come over.
    Apart { transfer_ms_per_token: f64 },
}

/// Who gets a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Balancer {
    RoundRobin,
    LeastInFlight,
}

/// A server, or several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) policy: Policy,
    /// A step: the greater of reading weights and arithmetic (smoothed), and reading what is kept.
    pub(crate) weights_ms: f64,
    pub(crate) per_sequence_ms: f64,
    pub(crate) per_kept_token_ms: f64,
    /// Of a batch of prompts, of a token, of a token squared.
    pub(crate) prefill_ms: f64,
    pub(crate) per_token_ms: f64,
    pub(crate) per_token2_ms: f64,
    pub(crate) sequences: usize,
    pub(crate) kept_tokens: f64,
    pub(crate) replicas: usize,
    pub(crate) balancer: Balancer,
    /// Whether spans say which replica it was.
    pub(crate) named: bool,
    /// Relative standard deviation of a step.
    pub(crate) noise: f64,
}

/// The kinds that are compared.
pub(crate) fn kinds() -> Vec<Server> {
    let plain = Server {
        name: "prefill first",
        policy: Policy::PrefillFirst { batched_tokens: 8_192.0 },
        weights_ms: 15.0,
        per_sequence_ms: 0.15,
        per_kept_token_ms: 0.000_05,
        prefill_ms: 5.0,
        per_token_ms: 0.03,
        per_token2_ms: 1e-6,
        sequences: 256,
        kept_tokens: 1e9,
        replicas: 1,
        balancer: Balancer::RoundRobin,
        named: false,
        noise: 0.05,
    };
    let third = Server { replicas: 3, per_token_ms: 0.09, per_sequence_ms: 0.4, ..plain };
    vec![
        plain,
        Server { name: "prefill first, one by one", policy: Policy::PrefillFirst { batched_tokens: 1.0 }, ..plain },
        Server { name: "chunked, 512 tokens", policy: Policy::Chunked { budget: 512.0 }, ..plain },
        Server {
            name: "chunked, 2048 tokens",
            policy: Policy::Chunked { budget: 2_048.0 },
            per_token_ms: 0.045,
            ..plain
        },
        Server { name: "decode first, 16 steps", policy: Policy::DecodeFirst { steps: 16 }, ..plain },
        Server { name: "knee at 40", weights_ms: 20.0, per_sequence_ms: 0.5, per_kept_token_ms: 0.0, ..plain },
        Server { name: "32 sequences", sequences: 32, weights_ms: 11.0, ..plain },
        Server { name: "50,000 kept tokens", kept_tokens: 50_000.0, weights_ms: 13.0, per_sequence_ms: 0.1, ..plain },
        Server { name: "apart", policy: Policy::Apart { transfer_ms_per_token: 0.01 }, per_token_ms: 0.06, ..plain },
        Server { name: "3 replicas, named", named: true, ..third },
        Server { name: "3 replicas, not named", ..third },
        Server { name: "3, least in flight", balancer: Balancer::LeastInFlight, ..third },
    ]
}

/// Serves requests in order of arrival.
pub(crate) fn serve(server: &Server, coming: &[Coming], seed: u64) -> Vec<Shown> {
    let mut shown = vec![Shown::default(); coming.len()];
    let mut machines: Vec<Machine> =
        (0..server.replicas).map(|at| Machine::new(server, seed + 1_000 * at as u64)).collect();
    for (place, request) in coming.iter().enumerate() {
        machines.iter_mut().for_each(|machine| machine.run_until(request.at_ms, coming, &mut shown));
        let replica = match server.balancer {
            Balancer::RoundRobin => place % server.replicas,
            Balancer::LeastInFlight => (0..server.replicas).min_by_key(|r| machines[*r].in_flight()).unwrap_or(0),
        };
        shown[place].replica = replica;
        machines[replica].come(place, coming);
    }
    machines.iter_mut().for_each(|machine| machine.run_until(f64::INFINITY, coming, &mut shown));
    shown
}

/// A sequence in the batch.
#[derive(Clone, Copy, Debug)]
struct Running {
    request: usize,
    made: f64,
}

struct Machine<'a> {
    server: &'a Server,
    random: StdRng,
    now: f64,
    /// When the other machine, of prompts, is free.
    prompts_free: f64,
    steps_since_prompts: u32,
    /// Prompt tokens still to do, and tokens made before it was sent back.
    waiting: VecDeque<(usize, f64, f64)>,
    /// A prompt that is done in pieces.
    begun: Option<(usize, f64, f64)>,
    /// Caches on their way: when they are here, and whose.
    transfers: Vec<(f64, usize)>,
    running: Vec<Running>,
}

impl<'a> Machine<'a> {
    fn new(server: &'a Server, seed: u64) -> Self {
        Self {
            server,
            random: StdRng::seed_from_u64(seed),
            now: 0.0,
            prompts_free: 0.0,
            steps_since_prompts: u32::MAX,
            waiting: VecDeque::new(),
            begun: None,
            transfers: Vec::new(),
            running: Vec::new(),
        }
    }

    fn in_flight(&self) -> usize {
        self.waiting.len() + self.running.len() + self.transfers.len() + usize::from(self.begun.is_some())
    }

    fn come(&mut self, request: usize, coming: &[Coming]) {
        if self.in_flight() == 0 {
            self.now = self.now.max(coming[request].at_ms);
        }
        self.waiting.push_back((request, coming[request].input_tokens, 0.0));
    }

    fn run_until(&mut self, until: f64, coming: &[Coming], shown: &mut [Shown]) {
        if let Policy::Apart { transfer_ms_per_token } = self.server.policy {
            self.prompts_apart(transfer_ms_per_token, coming, shown);
        }
        while self.now < until && self.in_flight() > 0 {
            match self.server.policy {
                Policy::PrefillFirst { batched_tokens } => {
                    if !self.prompts(batched_tokens, coming, shown) {
                        self.step(0.0, coming, shown);
                    }
                }
                Policy::DecodeFirst { steps } => {
                    let may = self.running.is_empty() || self.steps_since_prompts >= steps;
                    if !(may && self.prompts(16_384.0, coming, shown)) {
                        self.step(0.0, coming, shown);
                    }
                }
                Policy::Chunked { budget } => self.mixed(budget, coming, shown),
                Policy::Apart { .. } => self.take_over(until, coming, shown),
            }
        }
    }

    fn kept(&self, coming: &[Coming]) -> f64 {
        self.running.iter().map(|r| coming[r.request].input_tokens + r.made).sum()
    }

    fn noisy(&mut self, ms: f64) -> f64 {
        let (a, b): (f64, f64) = (self.random.random(), self.random.random());
        let normal = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        ms * (1.0 + self.server.noise * normal).max(0.2)
    }

    fn prompt_ms(&self, tokens: f64) -> f64 {
        self.server.per_token_ms * tokens + self.server.per_token2_ms * tokens * tokens
    }

    fn fits(&self, tokens: f64, sequences: usize, kept: f64) -> bool {
        self.running.is_empty() && sequences == 0
            || (self.running.len() + sequences < self.server.sequences
                && kept + tokens <= 0.98 * self.server.kept_tokens)
    }

    /// A batch of prompts, whole; whether there was one.
    fn prompts(&mut self, most_tokens: f64, coming: &[Coming], shown: &mut [Shown]) -> bool {
        let mut kept = self.kept(coming);
        let (mut tokens, mut ms, mut taken) = (0.0, 0.0, Vec::new());
        while let Some((request, left, made)) = self.waiting.front().copied() {
            let too_many = !taken.is_empty() && tokens + left > most_tokens;
            if too_many || !self.fits(left, taken.len(), kept) {
                break;
            }
            self.waiting.pop_front();
            tokens += left;
            kept += left;
            ms += self.prompt_ms(left);
            taken.push((request, made));
        }
        if taken.is_empty() {
            return false;
        }
        self.now += self.noisy(self.server.prefill_ms + ms);
        self.steps_since_prompts = 0;
        taken.into_iter().for_each(|(request, made)| self.first_token(request, made, coming, shown));
        true
    }

    fn first_token(&mut self, request: usize, made: f64, coming: &[Coming], shown: &mut [Shown]) {
        if made == 0.0 {
            shown[request].first_token_ms = self.now;
        }
        shown[request].end_ms = self.now;
        if made + 1.0 < coming[request].output_tokens {
            self.running.push(Running { request, made: made + 1.0 });
        }
    }

    /// One token of everyone, and `beside_ms` of something else.
    fn step(&mut self, beside_ms: f64, coming: &[Coming], shown: &mut [Shown]) {
        let count = self.running.len() as f64;
        let (read, compute) = (self.server.weights_ms, self.server.per_sequence_ms * count);
        let base = match self.server.per_kept_token_ms {
            // roofline: the greater of the two, rounded off
            0.0 => (read.powi(6) + compute.powi(6)).powf(1.0 / 6.0),
            per_token => read + compute + per_token * self.kept(coming),
        };
        let base = if self.running.is_empty() { 0.0 } else { base };
        self.now += self.noisy(base + beside_ms);
        self.steps_since_prompts = self.steps_since_prompts.saturating_add(1);
        let now = self.now;
        self.running.retain_mut(|running| {
            running.made += 1.0;
            shown[running.request].end_ms = now;
            running.made < coming[running.request].output_tokens
        });
        // memory is short: the newest is sent back, and done again with what it had made
        while self.running.len() > 1 && self.kept(coming) > self.server.kept_tokens {
            let Some(last) = self.running.pop() else { break };
            self.waiting.push_front((last.request, coming[last.request].input_tokens + last.made, last.made));
        }
    }

    /// A step with pieces of prompts in what is left of its budget.
    fn mixed(&mut self, budget: f64, coming: &[Coming], shown: &mut [Shown]) {
        let mut room = (budget - self.running.len() as f64).max(1.0);
        let (mut ms, mut done) = (0.0, Vec::new());
        while room > 0.0 {
            if self.begun.is_none() {
                let Some((request, left, made)) = self.waiting.front().copied() else { break };
                if !self.fits(left, done.len(), self.kept(coming)) {
                    break;
                }
                self.waiting.pop_front();
                self.begun = Some((request, left, made));
                ms += self.server.prefill_ms / 2.0;
            }
            let Some((request, left, made)) = self.begun.take() else { break };
            let piece = left.min(room);
            // attention of a piece is with all before it
            let before = coming[request].input_tokens + made - left;
            ms +=
                self.server.per_token_ms * piece + self.server.per_token2_ms * piece * (piece + 2.0 * before.max(0.0));
            room -= piece;
            if left > piece {
                self.begun = Some((request, left - piece, made));
            } else {
                done.push((request, made));
            }
        }
        self.step(ms, coming, shown);
        done.into_iter().for_each(|(request, made)| self.first_token(request, made, coming, shown));
    }

    /// The machine of prompts does what came, in order.
    fn prompts_apart(&mut self, transfer_ms_per_token: f64, coming: &[Coming], shown: &mut [Shown]) {
        while let Some((request, tokens, _)) = self.waiting.pop_front() {
            let begun = self.prompts_free.max(coming[request].at_ms);
            self.prompts_free = begun + self.noisy(self.server.prefill_ms + self.prompt_ms(tokens));
            shown[request].first_token_ms = self.prompts_free;
            shown[request].end_ms = self.prompts_free;
            if coming[request].output_tokens > 1.0 {
                self.transfers.push((self.prompts_free + transfer_ms_per_token * tokens, request));
            }
        }
        self.transfers.sort_by(|a, b| a.0.total_cmp(&b.0));
    }

    /// A step, with those whose caches have come.
    fn take_over(&mut self, until: f64, coming: &[Coming], shown: &mut [Shown]) {
        if self.running.is_empty() {
            let next = self.transfers.first().map_or(until, |(at, _)| *at);
            self.now = self.now.max(next.min(until));
        }
        while let Some((at, request)) = self.transfers.first().copied() {
            if at > self.now || self.running.len() >= self.server.sequences {
                break;
            }
            self.transfers.remove(0);
            self.running.push(Running { request, made: 1.0 });
        }
        if !self.running.is_empty() {
            self.step(0.0, coming, shown);
        }
    }
}
