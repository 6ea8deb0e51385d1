//! [`Arrivals`]: when requests come and how long they are: Poisson, or as recorded.

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp, Geometric, LogNormal};

/// Context of a made-up request: a median of 350 tokens and some very long ones, as chat has.
const CONTEXT_MEDIAN: f64 = 350.0;
const CONTEXT_SIGMA: f64 = 0.8;

/// Mean answer of a made-up request.
const OUTPUT_MEAN: f64 = 32.0;

/// Longer made-up answers are cut: one request must not hold a slot for seconds.
const OUTPUT_MAX: u32 = 400;

/// An endless series of requests.
#[derive(Debug)]
pub struct Arrivals {
    random: StdRng,
    source: Source,
}

/// One request to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// After the one before.
    pub(crate) gap: Duration,
    pub(crate) context_tokens: u32,
    pub(crate) output_tokens: u32,
}

/// A file of recorded arrivals that cannot be used: which line, and what is expected.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadArrivals {
    line: usize,
    why: String,
}

#[derive(Debug)]
enum Source {
    Poisson { gap_s: Exp<f64>, context: LogNormal<f64>, output: Geometric },
    Recorded { arrivals: Vec<Arrival>, next: usize },
}

impl Arrivals {
    /// Poisson arrivals at `rate_per_s`; `None` unless the rate is finite and above zero.
    #[must_use]
    pub fn poisson(rate_per_s: f64, seed: u64) -> Option<Self> {
        let gap_s = Exp::new(rate_per_s).ok().filter(|_| rate_per_s > 0.0)?;
        let context = LogNormal::new(CONTEXT_MEDIAN.ln(), CONTEXT_SIGMA).ok()?;
        let output = Geometric::new(1.0 / OUTPUT_MEAN).ok()?;
        Some(Self { random: StdRng::seed_from_u64(seed), source: Source::Poisson { gap_s, context, output } })
    }

    /// Recorded arrivals from CSV with the columns `TIMESTAMP,ContextTokens,GeneratedTokens`. The
    /// pattern of gaps is kept and scaled to a mean of `rate_per_s`; at its end it starts again.
    ///
    /// # Errors
    /// The first line that cannot be read, or a file whose arrivals are all at one time.
    pub fn recorded(csv: &str, rate_per_s: f64) -> Result<Self, BadArrivals> {
        let mut rows = Vec::new();
        for (number, line) in csv.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
            rows.push(row(line).map_err(|why| BadArrivals { line: number + 1, why })?);
        }
        rows.sort_by_key(|r| r.0);
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Err(BadArrivals { line: 1, why: "no arrivals below the header".into() });
        };
        let recorded_s = (last.0 - first.0).as_secs_f64();
        if recorded_s <= 0.0 {
            return Err(BadArrivals { line: 2, why: "all arrivals are at one time: a pattern needs two".into() });
        }
        let scale = rows.len() as f64 / rate_per_s / recorded_s;
        let mut before = first.0;
        let arrivals = rows.iter().map(|&(at, context_tokens, output_tokens)| {
            let gap = (at - before).mul_f64(scale);
            before = at;
            Arrival { gap, context_tokens, output_tokens: output_tokens.max(1) }
        });
        let source = Source::Recorded { arrivals: arrivals.collect(), next: 0 };
        Ok(Self { random: StdRng::seed_from_u64(0), source })
    }

    /// Mean tokens of context and of answer.
    pub(crate) fn mean_tokens(&self) -> (f64, f64) {
        match &self.source {
            Source::Poisson { .. } => (CONTEXT_MEDIAN * (CONTEXT_SIGMA * CONTEXT_SIGMA / 2.0).exp(), OUTPUT_MEAN),
            Source::Recorded { arrivals, .. } => {
                let mean = |tokens: fn(&Arrival) -> u32| {
                    arrivals.iter().map(|arrival| f64::from(tokens(arrival))).sum::<f64>() / arrivals.len() as f64
                };
                (mean(|arrival| arrival.context_tokens), mean(|arrival| arrival.output_tokens))
            }
        }
    }

    pub(crate) fn next(&mut self) -> Arrival {
        match &mut self.source {
            Source::Poisson { gap_s, context, output } => Arrival {
                gap: Duration::from_secs_f64(gap_s.sample(&mut self.random)),
                context_tokens: context.sample(&mut self.random) as u32,
                output_tokens: u32::try_from(1 + output.sample(&mut self.random)).unwrap_or(OUTPUT_MAX).min(OUTPUT_MAX),
            },
            Source::Recorded { arrivals, next } => {
                let arrival = arrivals[*next];
                *next = (*next + 1) % arrivals.len();
                arrival
            }
        }
    }
}

/// Time of day, context tokens, generated tokens.
fn row(line: &str) -> Result<(Duration, u32, u32), String> {
    let mut fields = line.split(',').map(str::trim);
    let (Some(time), Some(context), Some(output), None) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("expected TIMESTAMP,ContextTokens,GeneratedTokens".into());
    };
    let tokens = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is not a number of tokens"));
    let at: jiff::civil::DateTime =
        time.parse().map_err(|_| format!("{time:?} is not a time such as 2023-11-16 18:15:46.680"))?;
    let epoch = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);
    let since = Duration::try_from(at.duration_since(epoch)).map_err(|_| format!("{time:?} is before 1970"))?;
    Ok((since, tokens(context)?, tokens(output)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_gaps_have_the_mean_and_spread_of_an_exponential() {
        let mut arrivals = Arrivals::poisson(80.0, 7).unwrap();
        let gaps: Vec<f64> = (0..20_000).map(|_| arrivals.next().gap.as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 80.0 - 1.0).abs() < 0.03, "mean {mean}");
        assert!((variance / mean.powi(2) - 1.0).abs() < 0.06, "ca2 {}", variance / mean.powi(2));
        assert!(Arrivals::poisson(0.0, 7).is_none());
    }

    #[test]
    fn recorded_arrivals_keep_their_pattern_at_the_rate_asked_for() {
        let csv = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0,374,44\n\
                   2023-11-16 18:15:47.0,396,109\n2023-11-16 18:15:50.0,879,55\n";
        let mut arrivals = Arrivals::recorded(csv, 3.0).unwrap();
        let all: Vec<Arrival> = (0..4).map(|_| arrivals.next()).collect();
        let gaps: Vec<u128> = all.iter().map(|a| a.gap.as_millis()).collect();
        assert_eq!(gaps, [0, 250, 750, 0], "one second for three");
        assert_eq!((all[1].context_tokens, all[1].output_tokens), (396, 109));
        assert_eq!(arrivals.mean_tokens(), (1649.0 / 3.0, 208.0 / 3.0));
    }

    #[test]
    fn a_recording_without_a_pattern_is_refused() {
        for csv in ["header\n", "header\n2023-11-16 18:15:46,1,2\n2023-11-16 18:15:46,3,4\n"] {
            assert!(Arrivals::recorded(csv, 80.0).is_err(), "it would arrive all at once, without end");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for (line, expected) in [
            ("soon,1,2", "line 2: \"soon\""),
            ("2023-11-16 18:15:46,x,2", "\"x\" is not"),
            ("1,2", "expected TIMESTAMP"),
        ] {
            let why = Arrivals::recorded(&format!("header\n{line}\n"), 1.0).unwrap_err().to_string();
            assert!(why.contains(expected), "{why}");
        }
    }
}
