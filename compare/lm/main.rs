//! Feeds recorded arrivals to simulated model servers, shows their spans to the analyzer, and prints how near its
//! predictions of time to first token and of token rate come: later, and at other loads.
//!
//! `lm DIR [choose|confirm [SERVER [SEED]]]`: a folder with `conversation.csv`, which half of the recording, a part of the
//! name of the servers to be looked at, and the seed of the first; see README.md.

#![allow(clippy::print_stdout)] // its output is the result

mod servers;
mod spans;

use std::{path::Path, time::Instant};

use servers::{Coming, Server, Shown, kinds, serve};
use spans::estimated;
use weir_analyzer::lm::{Arrival, LmArrivals, LmEstimate, LmView, Sharing, predict, predict_on};

/// The estimate sees this much of a half; the rest is predicted.
const SEEN: f64 = 0.45;

/// Speeds at which the later part comes, against the recording.
const SPEEDS: [f64; 6] = [0.5, 0.75, 1.0, 1.15, 1.3, 1.5];

/// Speeds at which the first part is seen.
const SEEN_SPEEDS: [f64; 2] = [1.0, 0.6];

/// Requests at the start of a part that only fill the server.
const SETTLED: usize = 200;

/// A server this close to what it can do has no steady state within a recording: printed, and counted apart.
const SATURATED: f64 = 0.95;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: lm DIR [choose|confirm [SERVER]]")?;
    let which = std::env::args().nth(2).unwrap_or_else(|| "confirm".into());
    let all = read(&Path::new(&folder).join("conversation.csv"))?;
    let middle = all.len() / 2;
    let half = if which == "choose" { &all[..middle] } else { &all[middle..] };
    let only = std::env::args().nth(3).unwrap_or_default();
    println!("{} requests recorded; {which}: {} of them\n", all.len(), half.len());
    let first_seed = std::env::args().nth(4).map_or(Ok(1), |seed| seed.parse())?;
    let mut errors: Vec<Compared> = Vec::new();
    for seen_speed in SEEN_SPEEDS {
        println!("## Seen at {seen_speed} of the recorded speed, predicted for the requests that came later\n");
        for (seed, server) in (first_seed..).zip(kinds()).filter(|(_, server)| server.name.contains(&only)) {
            errors.extend(compare(&server, half, seen_speed, seed));
        }
    }
    summary(&errors);
    burstiness(&all);
    Ok(())
}

/// One load of one server.
struct Compared {
    server: &'static str,
    seen_speed: f64,
    /// Of the server, really.
    utilization: f64,
    extrapolated: bool,
    confidence: f64,
    /// Predicted over real less one: time to first token mean, p50, p95; token rate of a stream; time per token p50, p95.
    errors: [f64; 6],
    /// The same fed with earlier arrivals as `predict` has them, against the server fed with those.
    what_if: Option<[f64; 2]>,
}

impl Compared {
    fn worst_mean(&self) -> f64 {
        self.errors[0].abs().max(self.errors[3].abs())
    }
}

fn compare(server: &Server, half: &[Coming], seen_speed: f64, seed: u64) -> Vec<Compared> {
    let cut = (half.len() as f64 * SEEN) as usize;
    let earlier = at_speed(&half[..cut], seen_speed);
    let shown = serve(server, &earlier, seed);
    let began = Instant::now();
    let view = estimated(server, &earlier, &shown);
    let took_ms = began.elapsed().as_secs_f64() * 1e3;
    println!("### {}\n", server.name);
    let Some(estimate) = view.estimate.as_ref() else {
        println!("not identifiable: {:?}\n", view.reason);
        return Vec::new();
    };
    describe(&view, took_ms);
    let (said, recent) = (view.capacity_tokens_per_s.unwrap_or(0.0), capacity(server, &recent(estimate), seed));
    println!("capacity {said:.0} tokens/s, really {recent:.0} ({:+.1} %)\n", (said / recent - 1.0) * 100.0);
    let capacity = capacity(server, &half[cut..], seed);
    println!(
        "| speed | ρ really | said | TTFT ms mean | p50 | p95 | error mean | p50 | p95 | tokens/s of a stream | error | per token p50 | p95 | what-if TTFT | rate |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut compared = Vec::new();
    for speed in SPEEDS {
        let later = at_speed(&half[cut..], speed);
        let really = Times::of(&later, &serve(server, &later, seed + 77), SETTLED..later.len());
        let tokens = later.iter().map(|c| c.output_tokens).sum::<f64>() / later.len() as f64;
        let utilization = rate_per_s(&later) * tokens / capacity;
        let one = against(server, estimate, &later, &really, utilization, seen_speed);
        let what_if = counterfactual(server, estimate, speed / seen_speed, seed);
        row(speed, &really, &one, what_if);
        compared.push(Compared { what_if, confidence: view.confidence, ..one });
    }
    println!();
    compared
}

fn against(
    server: &Server,
    estimate: &LmEstimate,
    later: &[Coming],
    really: &Times,
    utilization: f64,
    seen_speed: f64,
) -> Compared {
    let shown = serve(server, later, 0); // who takes a request is the balancer's affair and is known from spans
    let arrivals: Vec<Arrival> = later.iter().zip(&shown).map(|(c, s)| arrival(server, c, s)).collect();
    let predicted = predict_on(estimate, &arrivals, SETTLED).unwrap_or_default();
    let first = predicted.time_to_first_token_ms.unwrap_or_default();
    let token = predicted.time_per_output_token_ms.unwrap_or_default();
    let errors = [
        first.mean / really.first[0],
        first.p50 / really.first[1],
        first.p95 / really.first[2],
        predicted.stream_tokens_per_s / really.stream_rate,
        token.p50 / really.token[1],
        token.p95 / really.token[2],
    ];
    Compared {
        server: server.name,
        seen_speed,
        utilization,
        extrapolated: predicted.extrapolated,
        confidence: 0.0,
        errors: errors.map(|ratio| ratio - 1.0),
        what_if: None,
    }
}

/// `predict` as the product calls it, beside the server fed with the same arrivals that much closer together.
fn counterfactual(server: &Server, estimate: &LmEstimate, factor: f64, seed: u64) -> Option<[f64; 2]> {
    let predicted = predict(estimate, factor)?;
    let closer = at_speed(&recent(estimate), factor);
    let really = Times::of(&closer, &serve(server, &closer, seed + 99), estimate.settled..closer.len());
    let first = predicted.time_to_first_token_ms?.mean / really.first[0];
    Some([first - 1.0, predicted.stream_tokens_per_s / really.stream_rate - 1.0])
}

/// The arrivals the estimate keeps.
fn recent(estimate: &LmEstimate) -> Vec<Coming> {
    let coming = |a: &Arrival| Coming { at_ms: a.at_ms, input_tokens: a.input_tokens, output_tokens: a.output_tokens };
    estimate.recent.iter().map(coming).collect()
}

fn arrival(server: &Server, coming: &Coming, shown: &Shown) -> Arrival {
    Arrival {
        at_ms: coming.at_ms,
        input_tokens: coming.input_tokens,
        output_tokens: coming.output_tokens,
        replica: if server.named { shown.replica as u32 } else { 0 },
    }
}

/// What spans of a part show: mean, median and 95th percentile.
struct Times {
    first: [f64; 3],
    token: [f64; 3],
    stream_rate: f64,
}

impl Times {
    fn of(coming: &[Coming], shown: &[Shown], range: std::ops::Range<usize>) -> Self {
        let part = || coming.iter().zip(shown).skip(range.start).take(range.len());
        let streams = || part().filter(|(c, _)| c.output_tokens >= 2.0);
        let per_token = |(c, s): (&Coming, &Shown)| (s.end_ms - s.first_token_ms) / (c.output_tokens - 1.0);
        let rates: Vec<f64> = streams().map(|one| 1e3 / per_token(one)).collect();
        Self {
            first: quantiles(part().map(|(c, s)| s.first_token_ms - c.at_ms).collect()),
            token: quantiles(streams().map(per_token).collect()),
            stream_rate: rates.iter().sum::<f64>() / rates.len().max(1) as f64,
        }
    }
}

fn quantiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values[(q * (values.len() - 1) as f64) as usize];
    [values.iter().sum::<f64>() / values.len() as f64, at(0.5), at(0.95)]
}

/// Output tokens a second of the real server when everyone waits.
fn capacity(server: &Server, part: &[Coming], seed: u64) -> f64 {
    let waiting: Vec<Coming> = part.iter().map(|c| Coming { at_ms: 0.0, ..*c }).collect();
    let shown = serve(server, &waiting, seed);
    let mut ends: Vec<f64> = shown.iter().map(|s| s.end_ms).collect();
    ends.sort_by(f64::total_cmp);
    let (from, to) = (ends.len() / 5, ends.len() * 4 / 5);
    let tokens = part.iter().map(|c| c.output_tokens).sum::<f64>() / part.len() as f64;
    (to - from) as f64 / (ends[to] - ends[from]) * 1e3 * tokens
}

fn at_speed(part: &[Coming], speed: f64) -> Vec<Coming> {
    let first = part.first().map_or(0.0, |c| c.at_ms);
    part.iter().map(|c| Coming { at_ms: (c.at_ms - first) / speed, ..*c }).collect()
}

fn rate_per_s(part: &[Coming]) -> f64 {
    part.len() as f64 / part.last().map_or(1.0, |c| c.at_ms / 1e3)
}

fn describe(view: &LmView, took_ms: f64) {
    let Some(server) = view.server else { return };
    let sharing = match server.sharing {
        Sharing::PrefillFirst => "prefill first".into(),
        Sharing::Chunked { chunk_tokens } => format!("chunked, {chunk_tokens:.0} tokens"),
        Sharing::DecodeFirst { steps } => format!("decode first, {steps:.0} steps"),
        Sharing::Apart => "apart".to_owned(),
    };
    println!(
        "taken for {sharing}, {:?}, {} replicas ({:?}): prefill {:.1} ms + {:.4}·c + {:.2e}·c², step {:.1} ms + {:.3}·B + {:.3}·(B−{:.0})⁺",
        server.slots,
        server.replicas,
        server.balance,
        server.prefill_base_ms,
        server.prefill_ms_per_token,
        server.prefill_ms_per_token2,
        server.step_base_ms,
        server.step_ms_per_sequence,
        server.step_ms_per_sequence_beyond,
        server.knee_sequences
    );
    println!(
        "from {} requests, R² {:.2} and {:.2}, past within {:.1} %, confidence {:.2}; all windows took {took_ms:.0} ms",
        view.samples,
        view.prefill.map_or(0.0, |line| line.r2),
        view.decode.map_or(0.0, |line| line.r2),
        view.replay_error.unwrap_or(0.0) * 100.0,
        view.confidence
    );
}

fn row(speed: f64, really: &Times, one: &Compared, what_if: Option<[f64; 2]>) {
    let percent = |error: f64| format!("{:+.1} %", error * 100.0);
    let [mean, p50, p95] = really.first.map(|ms| format!("{ms:.0}"));
    let said = if one.errors[0] <= -1.0 {
        "saturated"
    } else if one.extrapolated {
        "extrapolated"
    } else {
        ""
    };
    let errors = one.errors.map(percent);
    let [first, rate] = what_if.map_or(["".into(), "".into()], |errors| errors.map(percent));
    println!(
        "| {speed} | {:.2} | {said} | {mean} | {p50} | {p95} | {} | {} | {} | {:.1} | {} | {} | {} | {first} | {rate} |",
        one.utilization, errors[0], errors[1], errors[2], really.stream_rate, errors[3], errors[4], errors[5]
    );
}

fn summary(all: &[Compared]) {
    println!("## Summary of loads below {SATURATED} of capacity: median and worst error, in percent\n");
    println!("| server | seen at | loads | TTFT mean | p50 | p95 | token rate | per token p95 | what-if TTFT | rate |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let steady: Vec<&Compared> = all.iter().filter(|c| c.utilization < SATURATED).collect();
    for (server, seen_speed) in SEEN_SPEEDS.iter().flat_map(|speed| kinds().into_iter().map(|kind| (kind.name, *speed)))
    {
        let rows: Vec<&Compared> =
            steady.iter().copied().filter(|c| c.server == server && c.seen_speed == seen_speed).collect();
        summary_row(&format!("{server} | {seen_speed}"), &rows);
    }
    for speed in SEEN_SPEEDS {
        let rows: Vec<&Compared> = steady.iter().copied().filter(|c| c.seen_speed == speed).collect();
        summary_row(&format!("**all** | {speed}"), &rows);
    }
    println!();
    let within = |rows: &[&Compared]| rows.iter().filter(|c| c.worst_mean() <= 0.09).count();
    println!("mean TTFT and token rate both within 9 %: {} of {} loads", within(&steady), steady.len());
    let inside: Vec<&Compared> = steady.iter().copied().filter(|c| !c.extrapolated).collect();
    println!("the same of loads not said to be extrapolated: {} of {}", within(&inside), inside.len());
    let beyond: Vec<&Compared> = all.iter().filter(|c| c.utilization >= SATURATED).collect();
    let told = beyond.iter().filter(|c| c.errors[0] <= -1.0).count();
    println!("loads at or beyond {SATURATED} of capacity: {}, of them said to be saturated: {told}", beyond.len());
    println!("\n| confidence said | loads | within 9 % |\n|---|---|---|");
    for (low, high) in [(0.8, 1.01), (0.6, 0.8), (0.4, 0.6), (0.0, 0.4)] {
        let said: Vec<&Compared> = inside.iter().copied().filter(|c| (low..high).contains(&c.confidence)).collect();
        println!("| {low}–{high:.1} | {} | {} |", said.len(), within(&said));
    }
}

fn summary_row(name: &str, rows: &[&Compared]) {
    if rows.is_empty() {
        println!("| {name} | 0 | | | | | | | |");
        return;
    }
    let cell = |values: Vec<f64>| {
        let mut sizes: Vec<f64> = values.iter().map(|v| v.abs() * 100.0).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.last().map_or(String::new(), |worst| format!("{:.1} / {worst:.1}", sizes[sizes.len() / 2]))
    };
    let of = |at: usize| cell(rows.iter().map(|c| c.errors[at]).collect());
    let what_if = |at: usize| cell(rows.iter().filter_map(|c| c.what_if.map(|errors| errors[at])).collect());
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
        rows.len(),
        of(0),
        of(1),
        of(2),
        of(3),
        of(5),
        what_if(0),
        what_if(1)
    );
}

/// ca2 and dispersion of the whole recording as the service view has them.
fn burstiness(all: &[Coming]) {
    let server = kinds().swap_remove(0);
    let coming = at_speed(all, 1.0);
    let view = estimated(&server, &coming, &serve(&server, &coming, 1));
    println!("\n## Arrivals over time\n\n| minute | requests/s | ca2 | dispersion in seconds |\n|---|---|---|---|");
    let row = |name: String, at: &LmArrivals| {
        let said = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.2}"));
        println!("| {name} | {:.2} | {} | {} |", at.rate_per_s, said(at.ca2), said(at.dispersion));
    };
    view.arrivals.iter().zip(1..).for_each(|(at, minute)| row(minute.to_string(), at));
    if let Some(longer) = view.longer {
        row(format!("last {:.1} together", longer.length_ms as f64 / 6e4), &longer);
    }
}

/// `TIMESTAMP,ContextTokens,GeneratedTokens`, all of one day.
fn read(path: &Path) -> Result<Vec<Coming>, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(path)?;
    let mut coming = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split(',').collect();
        let [time, input, output] = fields[..] else { return Err(format!("three fields, not {line}").into()) };
        let clock = time.split(' ').nth(1).ok_or("a date and a time")?;
        let mut at_s = 0.0;
        for part in clock.split(':') {
            at_s = at_s * 60.0 + part.parse::<f64>()?;
        }
        coming.push(Coming { at_ms: at_s * 1e3, input_tokens: input.parse()?, output_tokens: output.parse()? });
    }
    Ok(coming)
}
