//! H2/M/c: bursty arrivals, exponential service times, c servers, one queue. Exact.
//!
//! Distances between arrivals are exponential of two means, which of them is drawn anew each time, with probabilities p and q and
//! rates `λᵢ = 2·αᵢ·λ` (balanced means: each kind takes half of the time; the usual stand-in for arrivals of which ca² > 1 is all that is
//! known, W. Whitt, "Approximating a point process by a renewal process", Operations Research 30, 1982).
//!
//! From c requests on their number is geometric with ratio σ, the root of `σ = A*(cμ(1−σ))` (L. Takács, "Introduction to the Theory of
//! Queues", 1962), here of a quadratic: with `x = cμ(1−σ)`, `x² + (λ₁+λ₂−cμ)x = 4pq·λ(cμ−λ)`. Below c the number and the kind of the next
//! distance are a Markov chain that arrivals take up one level at a time, whatever the kind that ended: its rates from level to level are
//! of rank one (M. F. Neuts, "Matrix-Geometric Solutions", 1981) and follow from the top down by sums of what is positive, so nothing cancels.
//! Beside Takács's sum over the states below c: the same to nine digits for c of 1, 3, 8 and 16; with ca² = 1 it is M/M/c.

use std::num::NonZeroU32;

/// Wait in the queue, in the unit of `service_time`; `None` when ρ ≥ 1 or ca² < 1.
pub(crate) fn queue_wait(arrival_rate: f64, service_time: f64, servers: NonZeroU32, ca2: f64) -> Option<f64> {
    let (rate, c) = (arrival_rate * service_time, f64::from(servers.get()));
    let is_known = rate > 0.0 && rate < c && ca2 >= 1.0 && ca2.is_finite();
    is_known.then(|| service_time * of_unit_service(rate, servers, ca2))
}

/// Two kinds of distances.
type Kinds = [f64; 2];

fn of_unit_service(rate: f64, servers: NonZeroU32, ca2: f64) -> f64 {
    let c = f64::from(servers.get());
    let first = 0.5 * (1.0 + ((ca2 - 1.0) / (ca2 + 1.0)).sqrt());
    let drawn = [first, 1.0 - first];
    let rates = drawn.map(|share| 2.0 * share * rate);
    let (half, product) = ((rates[0] + rates[1] - c) / 2.0, 4.0 * first * (1.0 - first) * rate * (c - rate));
    let left = (half * half + product).sqrt() - half;
    let ratio = 1.0 - left / c;
    // of a level: how often the next is entered, by the kind that is drawn then, for each arrival; from c-1 on it is the same
    let mut up = [drawn[0] / (rates[0] + left), drawn[1] / (rates[1] + left)];
    // arrivals at c-1 are the unit; those at n are so many departures at n+1
    let (mut arrivals, mut all) = (1.0, 1.0 / (c * (1.0 - ratio)));
    for level in (1..servers.get()).rev().map(f64::from) {
        up = below(level, up, drawn, rates);
        arrivals /= dot(up, rates);
        all += arrivals / level;
    }
    all += arrivals * (up[0] / rates[0] + up[1] / rates[1]);
    let waiting = ratio / (c * (1.0 - ratio).powi(2)) / all;
    // of very many servers hardly any are busy: sums leave the range of numbers, and nobody waits
    if waiting.is_finite() { waiting / rate } else { 0.0 }
}

/// The same of the level below, on which so many are served; by the formula of J. Sherman and W. J. Morrison (1950).
fn below(level: f64, up: Kinds, drawn: Kinds, rates: Kinds) -> Kinds {
    let back = rates.map(|rate| (level + 1.0) * rate);
    let over = |of: Kinds| [of[0] / (rates[0] + level), of[1] / (rates[1] + level)];
    let (drawn, returning) = (over(drawn), over(up));
    let again = dot(drawn, back) / (1.0 - dot(returning, back));
    [drawn[0] + again * returning[0], drawn[1] + again * returning[1]]
}

fn dot(a: Kinds, b: Kinds) -> f64 {
    a[0] * b[0] + a[1] * b[1]
}
