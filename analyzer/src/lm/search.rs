//! [`candidates`] and [`search`]: the servers that may be behind what was seen, and the one that comes closest.
//!
//! Every way of sharing, with every limit of slots that was met, and, where requests overtake each other, every number of
//! replicas, is replayed once with the fitted lines. The best are refined: each number is moved by some percent, in
//! turn, as long as the replay comes closer, by ever smaller steps (a pattern search: R. Hooke and T. A. Jeeves,
//! Journal of the ACM 8, 1961).

use super::{
    decode::Decode,
    prefill::Prefill,
    recent::LmRequest,
    replay::Replay,
    server::{Balance, LmServer, Sharing, Slots},
};

/// Ways of sharing that are tried.
const SHARINGS: [Sharing; 9] = [
    Sharing::PrefillFirst,
    Sharing::Chunked { chunk_tokens: 256.0 },
    Sharing::Chunked { chunk_tokens: 512.0 },
    Sharing::Chunked { chunk_tokens: 1_024.0 },
    Sharing::Chunked { chunk_tokens: 2_048.0 },
    Sharing::DecodeFirst { steps: 4.0 },
    Sharing::DecodeFirst { steps: 10.0 },
    Sharing::DecodeFirst { steps: 20.0 },
    Sharing::Apart,
];

/// The same where spans do not name replicas: fewer, because there are so many numbers of them.
const REPLICATED: [Sharing; 3] =
    [Sharing::PrefillFirst, Sharing::Chunked { chunk_tokens: 512.0 }, Sharing::Chunked { chunk_tokens: 2_048.0 }];

/// Replicas that are tried where spans do not name them.
const REPLICAS: [u32; 6] = [2, 3, 4, 5, 6, 8];

/// Requests that overtake another on the way to the first token, as a share, before replicas are thought of.
const OVERTAKING: f64 = 0.02;

/// Candidates refined a little, and of them refined to the end.
const ROUGH: usize = 6;
const FINE: usize = 2;

/// Steps of the refinement, as shares of each number.
const ROUGH_STEPS: [f64; 2] = [0.3, 0.15];
const FINE_STEPS: [f64; 4] = [0.1, 0.05, 0.025, 0.012];

/// A server with a limit of slots, or with replicas that spans do not name, must come closer by this factor.
const EXTRA: f64 = 1.15;

/// Standard errors by which prompts must be seen to hold streams up.
const HELD_UP: f64 = 5.0;

/// Where nothing is seen of what a prompt takes beside its tokens, the search begins at this share of a step: from
/// nothing it would not move.
const SOME: f64 = 0.1;

/// Sweeps over all numbers with one step.
const SWEEPS: usize = 3;

/// Where steps go first, a prompt that was begun just before another is no longer held after so many times the steps tried.
const HOLDS: f64 = 1.5;

/// Limits that were met.
pub(crate) struct Limits {
    /// By prompts that waited.
    pub(crate) of_slots: Vec<Slots>,
    /// By those that waited longer than any number of steps explains.
    pub(crate) beyond_steps: Vec<Slots>,
}

/// How long steps that go first may hold a prompt.
pub(crate) fn longest_hold_ms(decode: &Decode) -> f64 {
    let step = decode.base_ms + decode.per_sequence_ms * decode.batch;
    let steps = SHARINGS.iter().map(|sharing| if let Sharing::DecodeFirst { steps } = sharing { *steps } else { 0.0 });
    HOLDS * step.max(0.0) * steps.fold(0.0, f64::max)
}

/// Servers worth a replay.
pub(crate) fn candidates(requests: &[LmRequest], prefill: &Prefill, decode: &Decode, limits: &Limits) -> Vec<LmServer> {
    let named = requests.iter().map(|r| r.replica + 1).max().unwrap_or(1);
    let mut found = Vec::new();
    for sharing in SHARINGS {
        let server = start(sharing, prefill, decode);
        let limits = match sharing {
            // a wait for a slot comes after the first token there, and no span shows it
            Sharing::Apart => &limits.of_slots[..1],
            Sharing::DecodeFirst { .. } => &limits.beyond_steps[..],
            _ => &limits.of_slots[..],
        };
        for slots in limits {
            found.push(LmServer { slots: *slots, replicas: named, balance: Balance::AsSeen, ..server });
        }
    }
    if named > 1 || overtaking(requests) < OVERTAKING {
        return found;
    }
    let balances = [Balance::RoundRobin, Balance::LeastInFlight];
    for (replicas, balance) in REPLICAS.iter().flat_map(|replicas| balances.map(|balance| (*replicas, balance))) {
        for server in REPLICATED.map(|sharing| start(sharing, prefill, decode)) {
            found.extend(limits.of_slots.iter().take(2).map(|slots| split(&server, *slots, replicas, balance)));
        }
    }
    found
}

/// Of several replicas, each has its part of the batch that was seen.
fn split(server: &LmServer, slots: Slots, replicas: u32, balance: Balance) -> LmServer {
    let share = f64::from(replicas);
    let slots = match slots {
        Slots::Unlimited => Slots::Unlimited,
        Slots::Sequences(all) => Slots::Sequences((all / replicas).max(1)),
        Slots::Tokens(all) => Slots::Tokens(all / share),
    };
    let own = server.step_ms_per_sequence * (share - 1.0);
    LmServer {
        // of those beside it, a stream has its part with it, but itself whole
        step_base_ms: (server.step_base_ms - own).max(0.5 * server.step_base_ms),
        step_ms_per_sequence: server.step_ms_per_sequence * share,
        step_ms_per_sequence_beyond: server.step_ms_per_sequence_beyond * share,
        knee_sequences: server.knee_sequences / share,
        slots,
        replicas,
        balance,
        ..*server
    }
}

/// The lines as they are for one way of sharing.
fn start(sharing: Sharing, prefill: &Prefill, decode: &Decode) -> LmServer {
    let mut server = LmServer {
        prefill_base_ms: prefill.base_ms,
        prefill_ms_per_token: prefill.per_token_ms,
        prefill_ms_per_token2: prefill.per_token2_ms,
        step_base_ms: decode.base_ms,
        step_ms_per_sequence: decode.per_sequence_ms,
        step_ms_per_sequence_beyond: decode.beyond_ms,
        knee_sequences: decode.knee,
        sharing,
        slots: Slots::Unlimited,
        replicas: 1,
        balance: Balance::AsSeen,
    };
    let step = server.step_ms(decode.batch);
    match sharing {
        Sharing::Apart => {}
        // a prompt waits for the end of a step, on average half of one
        Sharing::PrefillFirst => server.prefill_base_ms = (prefill.base_ms - step / 2.0).max(SOME * step),
        // steps go beside or before a prompt: what it took itself is better seen by those it held up
        _ if decode.prompt_significance > HELD_UP => {
            server.prefill_ms_per_token = decode.per_prompt_token_ms;
            server.prefill_base_ms = decode.per_prompt_ms.max(SOME * step);
            server.prefill_ms_per_token2 = 0.0;
        }
        Sharing::DecodeFirst { steps } => {
            server.prefill_base_ms = (prefill.base_ms - step * steps / 2.0).max(SOME * step)
        }
        Sharing::Chunked { chunk_tokens } => {
            server.prefill_ms_per_token -= (step / chunk_tokens).min(0.9 * prefill.per_token_ms);
            server.prefill_base_ms = SOME * step;
        }
    }
    server
}

/// Share of requests whose first token came before that of somebody who had come before.
fn overtaking(requests: &[LmRequest]) -> f64 {
    let mut latest = f64::NEG_INFINITY;
    let mut overtook = 0;
    for request in requests {
        overtook += usize::from(request.first_token_ms < latest);
        latest = latest.max(request.first_token_ms);
    }
    overtook as f64 / requests.len().max(1) as f64
}

/// The one that comes closest.
pub(crate) fn search(replay: &Replay<'_>, candidates: Vec<LmServer>) -> LmServer {
    let loss = |server: &LmServer| replay.loss(server) * extras(server);
    let mut all: Vec<(f64, LmServer)> = candidates.into_iter().map(|server| (loss(&server), server)).collect();
    for (keep, steps) in [(ROUGH, &ROUGH_STEPS[..]), (FINE, &FINE_STEPS[..])] {
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.truncate(keep);
        all.iter_mut().for_each(|(lowest, server)| refine(&loss, lowest, server, steps));
    }
    all.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("there is a candidate of every way of sharing").1
}

/// What is not seen must explain something to be believed.
fn extras(server: &LmServer) -> f64 {
    let limit = if server.slots == Slots::Unlimited { 1.0 } else { EXTRA };
    if server.replicas > 1 && server.balance != Balance::AsSeen { limit * EXTRA } else { limit }
}

/// Moves each number as long as the replay comes closer.
fn refine(loss: &impl Fn(&LmServer) -> f64, lowest: &mut f64, server: &mut LmServer, steps: &[f64]) {
    for step in steps {
        for _ in 0..SWEEPS {
            let before = *lowest;
            for number in NUMBERS {
                for factor in [1.0 + step, 1.0 / (1.0 + step)] {
                    let mut moved = *server;
                    if !number(&mut moved, factor) {
                        break;
                    }
                    let then = loss(&moved);
                    if then < *lowest {
                        (*lowest, *server) = (then, moved);
                        break;
                    }
                }
            }
            if *lowest > before * 0.999 {
                break;
            }
        }
    }
}

/// Multiplies one number; whether a server has it.
type Number = fn(&mut LmServer, f64) -> bool;

/// What is moved. The step keeps its shape: whole streams say it better than a replay, which may send a request to
/// another replica than it went to.
const NUMBERS: [Number; 5] = [
    |s, by| times(&mut s.prefill_base_ms, by),
    |s, by| times(&mut s.prefill_ms_per_token, by) | times(&mut s.prefill_ms_per_token2, by),
    |s, by| {
        times(&mut s.step_base_ms, by)
            | times(&mut s.step_ms_per_sequence, by)
            | times(&mut s.step_ms_per_sequence_beyond, by)
    },
    |s, by| match &mut s.sharing {
        Sharing::Chunked { chunk_tokens: number } | Sharing::DecodeFirst { steps: number } => times(number, by),
        _ => false,
    },
    |s, by| match &mut s.slots {
        Slots::Tokens(tokens) => times(tokens, by),
        _ => false,
    },
];

fn times(number: &mut f64, by: f64) -> bool {
    *number *= by;
    *number > 0.0
}
