//! The universal scalability law: throughput against concurrency, with what is serial (σ) and what
//! has to agree (κ): `X(N) = γN/(1 + σ(N−1) + κN(N−1))`, most at `N* = √((1−σ)/κ)`.
//! N. J. Gunther, "Guerrilla Capacity Planning", 2007, chapters 4 to 6.
//!
//! Fitted by least squares on `N/X = (1 + σ(N−1) + κN(N−1))/γ`, which is linear in 1/γ, σ/γ and κ/γ, with
//! negative parts set to zero. Points within less than a factor of two of concurrency say nothing of
//! the curve, and give no fit.

/// A fitted law.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Usl {
    /// Throughput of one (γ), per unit of time.
    pub gamma: f64,
    /// Contention (σ).
    pub sigma: f64,
    /// Coherency (κ).
    pub kappa: f64,
}

/// Largest over smallest concurrency that a fit needs.
const MIN_SPAN: f64 = 2.0;

/// Points that a fit of three numbers needs.
const MIN_POINTS: usize = 5;

/// Requests at once that a chain is followed to.
const MAX_THERE: u32 = 100_000;

impl Usl {
    /// Through points of concurrency and throughput; `None` when they do not tell.
    #[must_use]
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        Self::fit_weighted(&points.iter().map(|(n, x)| (*n, *x, 1.0)).collect::<Vec<_>>())
    }

    /// The same where points are not alike sure: the third of each says how much it counts.
    #[must_use]
    pub fn fit_weighted(points: &[(f64, f64, f64)]) -> Option<Self> {
        let usable: Vec<_> = points.iter().copied().filter(|(n, x, _)| *n >= 1.0 && *x > 0.0).collect();
        let least = usable.iter().map(|(n, ..)| *n).fold(f64::INFINITY, f64::min);
        let most = usable.iter().map(|(n, ..)| *n).fold(0.0, f64::max);
        if usable.len() < MIN_POINTS || most < MIN_SPAN * least {
            return None;
        }
        // without coherency first, then without contention, whichever would be negative
        let attempts = [[true, true], [true, false], [false, true], [false, false]];
        attempts.into_iter().find_map(|terms| Self::with_terms(&usable, terms))
    }

    fn with_terms(points: &[(f64, f64, f64)], [sigma, kappa]: [bool; 2]) -> Option<Self> {
        let basis = |n: f64| [1.0, if sigma { n - 1.0 } else { 0.0 }, if kappa { n * (n - 1.0) } else { 0.0 }];
        let mut normal = [[0.0; 4]; 3];
        for (n, x, counts) in points {
            // errors of X are about in proportion to X, so those of N/X are to N/X
            let (row, value, weight) = (basis(*n), n / x, counts * (x / n).powi(2));
            for i in 0..3 {
                for j in 0..3 {
                    normal[i][j] += weight * row[i] * row[j];
                }
                normal[i][3] += weight * row[i] * value;
            }
        }
        for (place, used) in [(1, sigma), (2, kappa)] {
            if !used {
                normal[place][place] = 1.0;
            }
        }
        let [inverse_gamma, s, k] = solved(normal)?;
        let holds = inverse_gamma > 0.0 && s >= 0.0 && k >= 0.0;
        holds.then(|| Self { gamma: 1.0 / inverse_gamma, sigma: s / inverse_gamma, kappa: k / inverse_gamma })
    }

    /// X at concurrency `n`.
    #[must_use]
    pub fn throughput(&self, n: f64) -> f64 {
        self.gamma * n / (1.0 + self.sigma * (n - 1.0) + self.kappa * n * (n - 1.0))
    }

    /// Mean response time of an open station of this law under Poisson arrivals, in the unit of 1/γ; `None` beyond its peak.
    ///
    /// The number there is a birth-death chain with deaths at X(n). Past its peak the law falls without end, so in the
    /// long run every such station collapses; what is given holds until then: the chain ends where X falls below λ for good.
    #[must_use]
    pub fn response_time(&self, arrival_rate: f64) -> Option<f64> {
        if !(arrival_rate > 0.0 && arrival_rate.is_finite()) {
            return (arrival_rate == 0.0).then(|| 1.0 / self.gamma);
        }
        let (mut weight, mut total, mut there) = (1.0_f64, 1.0_f64, 0.0_f64);
        let mut was_faster = false;
        for n in 1..=MAX_THERE {
            let served = self.throughput(f64::from(n));
            let faster = served > arrival_rate;
            if was_faster && !faster {
                break;
            }
            was_faster |= faster;
            weight *= arrival_rate / served;
            total += weight;
            there += weight * f64::from(n);
            if faster && weight < 1e-12 * total {
                break;
            }
            if weight > 1e200 {
                return None;
            }
        }
        was_faster.then(|| there / total / arrival_rate)
    }

    /// The concurrency of most throughput; `None` when more never costs.
    #[must_use]
    pub fn peak_concurrency(&self) -> Option<f64> {
        (self.kappa > 0.0).then(|| ((1.0 - self.sigma).max(0.0) / self.kappa).sqrt())
    }
}

/// Three equations by Gauss's elimination with pivots.
fn solved(mut rows: [[f64; 4]; 3]) -> Option<[f64; 3]> {
    for column in 0..3 {
        let pivot = (column..3).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()))?;
        rows.swap(column, pivot);
        if rows[column][column].abs() < 1e-300 {
            return None;
        }
        let pivot = rows[column];
        for row in rows.iter_mut().skip(column + 1) {
            let factor = row[column] / pivot[column];
            row.iter_mut().zip(pivot).for_each(|(value, of_pivot)| *value -= factor * of_pivot);
        }
    }
    let mut found = [0.0; 3];
    for place in (0..3).rev() {
        let known: f64 = (place + 1..3).map(|later| rows[place][later] * found[later]).sum();
        found[place] = (rows[place][3] - known) / rows[place][place];
    }
    found.iter().all(|value| value.is_finite()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn textbook_values() {
        for (sigma, kappa, peak, most) in [(0.02, 1e-4, 98.995, 25_189.56), (0.05, 0.001, 30.822, 9_037.98)] {
            let law = Usl { gamma: 1_000.0, sigma, kappa };
            let n = law.peak_concurrency().unwrap();
            assert!((n - peak).abs() < 1e-3 && (law.throughput(n) - most).abs() < 0.01, "{n} {}", law.throughput(n));
        }
    }

    #[test]
    fn a_fit_gives_the_law_back_through_noise() {
        let law = Usl { gamma: 1_000.0, sigma: 0.05, kappa: 0.001 };
        // two percent up and down by turns
        let noisy =
            |n: u32| (f64::from(n), law.throughput(f64::from(n)) * if n.is_multiple_of(2) { 1.02 } else { 0.98 });
        let found = Usl::fit(&(1..60).map(noisy).collect::<Vec<_>>()).unwrap();
        assert!((found.peak_concurrency().unwrap() / 30.822 - 1.0).abs() < 0.05, "{found:?}");
        assert!((found.gamma / 1_000.0 - 1.0).abs() < 0.03, "{found:?}");
    }

    #[test]
    fn a_straight_line_has_neither_contention_nor_peak() {
        let found = Usl::fit(&(1..20).map(|n| (f64::from(n), 50.0 * f64::from(n))).collect::<Vec<_>>()).unwrap();
        assert!(found.sigma < 1e-9 && found.kappa < 1e-9 && (found.gamma - 50.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn an_open_station_of_one_server_is_mm1_and_one_beyond_its_peak_has_no_steady_state() {
        // all serial: X(n) is one whatever n
        let serial = Usl { gamma: 1.0, sigma: 1.0, kappa: 0.0 };
        assert!((serial.response_time(0.8).unwrap() - 5.0).abs() < 1e-6);
        // nothing serial: everybody has a server
        let delay = Usl { gamma: 1.0, sigma: 0.0, kappa: 0.0 };
        assert!((delay.response_time(7.0).unwrap() - 1.0).abs() < 1e-6);
        let law = Usl { gamma: 1.0, sigma: 0.05, kappa: 0.001 };
        assert!(law.response_time(4.0).unwrap() > law.response_time(2.0).unwrap());
        assert_eq!((law.response_time(9.1), law.response_time(0.0)), (None, Some(1.0)));
    }

    #[test]
    fn too_little_tells_nothing() {
        assert_eq!(Usl::fit(&[(4.0, 1.0), (5.0, 1.2), (6.0, 1.3), (7.0, 1.4), (7.5, 1.5)]), None, "less than twice");
        assert_eq!(Usl::fit(&[(1.0, 1.0), (8.0, 4.0)]), None, "two points");
        assert_eq!(Usl::fit(&[]), None);
    }
}
