//! [`serve`]: the events of an [`LmServer`] fed with arrivals.
//!
//! Between two events (a prompt done, a sequence done, an arrival) every step takes the same time, so they are taken
//! together: a request costs O(log n), however many tokens it makes. 1,500 requests take about 0.2 ms.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::server::{Balance, LmServer, Sharing, Slots};

/// Prompt tokens that go together at most; as many as servers commonly take at once.
const TOGETHER_TOKENS: f64 = 16_384.0;

/// A prompt has so many tokens of every step, whoever else is there.
const MIN_PIECE_TOKENS: f64 = 16.0;

/// One request that comes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Arrival {
    /// When, in milliseconds since some beginning.
    pub at_ms: f64,
    /// Of the prompt.
    pub input_tokens: f64,
    /// It makes, the first among them.
    pub output_tokens: f64,
    /// Which replica took it, from 0; for [`Balance::AsSeen`].
    pub replica: u32,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// When its prompt was begun.
    pub started_ms: f64,
    /// When the first token was there.
    pub first_token_ms: f64,
    /// When the last was.
    pub end_ms: f64,
    /// Sequences that ran beside it when its first token came, itself among them.
    pub batch: f64,
}

/// Serves arrivals, which are in order of time.
#[must_use]
pub fn serve(server: &LmServer, arrivals: &[Arrival]) -> Vec<Served> {
    let mut served = vec![Served::default(); arrivals.len()];
    if server.is_shared() {
        let given = arrivals.iter().map(|arrival| (arrival.at_ms, server.prefill_ms(arrival.input_tokens))).collect();
        run(server, arrivals, given, &mut served);
    } else {
        let prompts = prompts_alone(server, arrivals, &mut served);
        let given = prompts.iter().map(|done| (*done, 0.0)).collect();
        let firsts = prompts;
        run(server, arrivals, given, &mut served);
        // the first token came with the prompt; a wait for a slot is before the second
        served.iter_mut().zip(firsts).for_each(|(served, first)| served.first_token_ms = first);
    }
    served
}

/// Prompts on machines of their own, one after the other; when each is done.
fn prompts_alone(server: &LmServer, arrivals: &[Arrival], served: &mut [Served]) -> Vec<f64> {
    let mut free = vec![0.0_f64; server.replicas.max(1) as usize];
    let mut turn = 0;
    arrivals
        .iter()
        .zip(served)
        .map(|(arrival, served)| {
            let replica = match server.balance {
                Balance::AsSeen => arrival.replica as usize % free.len(),
                Balance::RoundRobin => turn % free.len(),
                Balance::LeastInFlight => {
                    (0..free.len()).min_by(|a, b| free[*a].total_cmp(&free[*b])).expect("at least one replica")
                }
            };
            turn += 1;
            served.started_ms = free[replica].max(arrival.at_ms);
            free[replica] = served.started_ms + server.prefill_ms(arrival.input_tokens);
            free[replica]
        })
        .collect()
}

/// `given`: when each request comes to the batch, and what its prompt takes there.
fn run(server: &LmServer, arrivals: &[Arrival], given: Vec<(f64, f64)>, served: &mut [Served]) {
    let mut order: Vec<usize> = (0..given.len()).collect();
    order.sort_by(|a, b| given[*a].0.total_cmp(&given[*b].0));
    let count = server.replicas.max(1) as usize;
    let mut batches: Vec<Batch> = (0..count).map(|_| Batch::new(server, arrivals, &given)).collect();
    for (turn, request) in order.into_iter().enumerate() {
        let at = given[request].0;
        let replica = match server.balance {
            _ if count == 1 => 0,
            Balance::AsSeen => arrivals[request].replica as usize % count,
            Balance::RoundRobin => turn % count,
            Balance::LeastInFlight => {
                batches.iter_mut().for_each(|batch| batch.run_until(at, served));
                (0..count).min_by_key(|replica| batches[*replica].in_flight()).expect("at least one replica")
            }
        };
        batches[replica].run_until(at, served);
        batches[replica].push(request);
    }
    batches.iter_mut().for_each(|batch| batch.run_until(f64::INFINITY, served));
}

/// A prompt under way.
#[derive(Clone, Copy, Debug)]
struct Prompt {
    request: usize,
    left_tokens: f64,
}

/// A place in the order of ending: steps made by then, and who.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ending(f64, usize);

impl Eq for Ending {}

impl PartialOrd for Ending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

/// One replica.
struct Batch<'a> {
    server: &'a LmServer,
    arrivals: &'a [Arrival],
    given: &'a [(f64, f64)],
    now: f64,
    /// Steps made since the beginning.
    steps: f64,
    /// Steps made when the last prompt was done.
    steps_at_prompt: f64,
    running: BinaryHeap<Reverse<Ending>>,
    waiting: VecDeque<usize>,
    prompt: Option<Prompt>,
    /// Requests whose prompts go together with it, whole.
    together: Vec<usize>,
    kept_tokens: f64,
    /// What the last piece of a prompt left of its step, and when that step began.
    left_of_step: (f64, f64),
}

impl<'a> Batch<'a> {
    fn new(server: &'a LmServer, arrivals: &'a [Arrival], given: &'a [(f64, f64)]) -> Self {
        Self {
            server,
            arrivals,
            given,
            now: 0.0,
            steps: 0.0,
            steps_at_prompt: f64::NEG_INFINITY,
            running: BinaryHeap::new(),
            waiting: VecDeque::new(),
            prompt: None,
            together: Vec::new(),
            kept_tokens: 0.0,
            left_of_step: (0.0, f64::NEG_INFINITY),
        }
    }

    fn in_flight(&self) -> usize {
        self.running.len() + self.waiting.len() + self.together.len() + usize::from(self.prompt.is_some())
    }

    fn push(&mut self, request: usize) {
        if self.in_flight() == 0 {
            self.now = self.now.max(self.given[request].0);
        }
        self.waiting.push_back(request);
    }

    fn run_until(&mut self, until: f64, served: &mut [Served]) {
        while self.now < until && self.in_flight() > 0 {
            if self.prompt.is_none() {
                self.admit(served);
            }
            match self.prompt {
                Some(prompt) => self.prefill(prompt, served),
                None => self.decode(until),
            }
            self.end(served);
        }
    }

    /// Begins the next prompt, if there is a place for it, and those that go together with it.
    fn admit(&mut self, served: &mut [Served]) {
        let held = match self.server.sharing {
            Sharing::DecodeFirst { steps } => !self.running.is_empty() && self.steps - self.steps_at_prompt < steps,
            _ => false,
        };
        if held || self.waiting.is_empty() || self.is_full() {
            return;
        }
        let Some(request) = self.begin(served) else { return };
        self.prompt = Some(Prompt { request, left_tokens: self.arrivals[request].input_tokens.max(1.0) });
        if matches!(self.server.sharing, Sharing::Chunked { .. }) {
            return;
        }
        let mut tokens = self.arrivals[request].input_tokens;
        while let Some(next) = self.waiting.front().copied() {
            tokens += self.arrivals[next].input_tokens;
            if tokens > TOGETHER_TOKENS || self.is_full() {
                break;
            }
            let Some(next) = self.begin(served) else { break };
            self.together.push(next);
        }
    }

    /// Whether the one that waits longest has no place.
    fn is_full(&self) -> bool {
        let sequences = self.running.len() + self.together.len() + usize::from(self.prompt.is_some());
        let Some(next) = self.waiting.front() else { return false };
        sequences > 0
            && match self.server.slots {
                Slots::Unlimited => false,
                Slots::Sequences(slots) => sequences >= slots as usize,
                Slots::Tokens(most) => self.kept_tokens + self.tokens(*next) > most,
            }
    }

    fn begin(&mut self, served: &mut [Served]) -> Option<usize> {
        let request = self.waiting.pop_front()?;
        self.kept_tokens += self.tokens(request);
        served[request].started_ms = self.now.max(self.given[request].0);
        Some(request)
    }

    /// What a sequence keeps, on average over its life.
    fn tokens(&self, request: usize) -> f64 {
        self.arrivals[request].input_tokens + self.arrivals[request].output_tokens / 2.0
    }

    /// The prompt, or the part of it until a sequence ends.
    fn prefill(&mut self, prompt: Prompt, served: &mut [Served]) {
        let work = self.given[prompt.request].1;
        match self.server.sharing {
            Sharing::Chunked { chunk_tokens } if work > 0.0 => self.piece(prompt, work, chunk_tokens, served),
            _ => {
                // one pass over all of them: what a prompt takes beside its tokens is taken once
                let base = if work > 0.0 { self.server.prefill_base_ms } else { 0.0 };
                let together = std::mem::take(&mut self.together);
                self.now += work + together.iter().map(|other| self.given[*other].1 - base).sum::<f64>();
                self.first_token(prompt.request, served);
                together.into_iter().for_each(|other| self.first_token(other, served));
            }
        }
    }

    fn piece(&mut self, mut prompt: Prompt, work: f64, chunk: f64, served: &mut [Served]) {
        let all = self.arrivals[prompt.request].input_tokens.max(1.0);
        // every sequence that runs has its token of the step before prompts have theirs
        let chunk = (chunk - self.running.len() as f64).max(MIN_PIECE_TOKENS);
        let ms_per_token = work / all;
        let (left, began) = self.left_of_step;
        if left > 0.0 && self.given[prompt.request].0 <= began {
            // the step that the prompt before it ended in had room for this one
            let taken = left.min(prompt.left_tokens);
            self.now += taken * ms_per_token;
            prompt.left_tokens -= taken;
            self.left_of_step.0 -= taken;
        } else {
            self.left_of_step.0 = 0.0;
        }
        let step = if self.running.is_empty() { 0.0 } else { self.server.step_ms(self.running.len() as f64) };
        let needed = (prompt.left_tokens / chunk).ceil();
        let until_end = self.running.peek().map_or(f64::INFINITY, |Reverse(Ending(at, _))| (at - self.steps).max(1.0));
        let steps = needed.min(until_end.ceil());
        let tokens = (steps * chunk).min(prompt.left_tokens);
        let before = self.now;
        self.now += steps * step + tokens * ms_per_token;
        self.steps += steps;
        prompt.left_tokens -= tokens;
        if prompt.left_tokens > 0.0 {
            self.prompt = Some(prompt);
            return;
        }
        if steps > 0.0 {
            self.left_of_step = (steps * chunk - tokens, self.now - (self.now - before) / steps);
        }
        self.first_token(prompt.request, served);
    }

    fn first_token(&mut self, request: usize, served: &mut [Served]) {
        self.prompt = None;
        self.steps_at_prompt = self.steps;
        let more = (self.arrivals[request].output_tokens - 1.0).max(0.0);
        self.running.push(Reverse(Ending(self.steps + more, request)));
        served[request].first_token_ms = self.now;
        served[request].batch = self.running.len() as f64;
    }

    /// Steps until a sequence ends or somebody may come.
    fn decode(&mut self, until: f64) {
        let Some(Reverse(Ending(at, _))) = self.running.peek() else {
            self.now = until;
            return;
        };
        let step = self.server.step_ms(self.running.len() as f64);
        let until_end = at - self.steps;
        let until_come = ((until - self.now) / step).ceil().max(1.0);
        let until_prompt = match self.server.sharing {
            Sharing::DecodeFirst { steps } if !self.waiting.is_empty() => {
                let left = steps - (self.steps - self.steps_at_prompt);
                // a prompt that waits for a slot waits for an end
                if left > 0.0 { left.ceil() } else { f64::INFINITY }
            }
            _ => f64::INFINITY,
        };
        let steps = until_end.min(until_come).min(until_prompt).max(0.0);
        self.now += steps * step;
        self.steps += steps;
    }

    /// Lets go who is done.
    fn end(&mut self, served: &mut [Served]) {
        while let Some(Reverse(Ending(_, request))) =
            self.running.peek().copied().filter(|r| r.0.0 <= self.steps + 1e-9)
        {
            self.running.pop();
            self.kept_tokens -= self.tokens(request);
            served[request].end_ms = self.now;
        }
    }
}
