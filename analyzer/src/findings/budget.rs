//! The budget of false alarms, and the threshold that follows from it.
//!
//! At most one false finding a day for a hundred services, at windows of 10 s. Each kind looks at each service in each
//! window, bottlenecks four times (against the minutes, the hours, the objective and what servers can do): 100 · 8,640 · 14 looks a day. A finding takes 3 votes of 5, which would forgive 3 in 1,000 looks if
//! votes fell independently. They do not (a queue lasts, and all of them are compared with one history), so the
//! threshold is that of votes which all fall together: a look may err once in ten million.
//!
//! For normal values that is `z` with `Q(z) = 0.83·10⁻⁷`, 5.2 deviations. A spread that is itself estimated from n
//! windows makes it Student's, whose quantile is `t ≈ z + (z³ + z)/(4ν)`, ν = n − 1 (E. Cornish and R. Fisher, Revue
//! de l'Institut International de Statistique 5, 1938): 18 deviations after four windows, 6.5 after thirty. So a young
//! history speaks only of what nobody could miss. Own times are not normal, so the budget is a design value and no
//! promise: 12,000 windows of simulated healthy services opened nothing, which by itself shows only fewer than 216 a day
//! for a hundred services (3/n, 95 %). `findings/tests/health.rs` takes `TEST_WINDOWS` for a longer look.

use super::kind::Kind;

/// False findings a day that hundred services may cost.
const FALSE_A_DAY: f64 = 1.0;

const SERVICES: f64 = 100.0;

/// Looks at a bottleneck beyond one.
const MORE_LOOKS: usize = 3;

/// Of 10 s.
const WINDOWS_A_DAY: f64 = 8_640.0;

/// Deviations from history, known from so many windows, that chance does not make.
pub(super) fn deviations(windows: usize) -> f64 {
    let looks = SERVICES * WINDOWS_A_DAY * (Kind::ALL.len() + MORE_LOOKS) as f64;
    let z = normal_quantile(FALSE_A_DAY / looks);
    let freedom = windows.saturating_sub(1).max(1) as f64;
    z + (z.powi(3) + z) / (4.0 * freedom)
}

/// z with `Q(z) = chance`, for small chances: bisection of Laplace's series `φ(z)/z·(1 − 1/z² + 3/z⁴ − 15/z⁶)`.
fn normal_quantile(chance: f64) -> f64 {
    let tail = |z: f64| {
        let square = z * z;
        let density = (-square / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        density / z * (1.0 - 1.0 / square + 3.0 / square.powi(2) - 15.0 / square.powi(3))
    };
    let (mut low, mut high) = (3.0, 12.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if tail(middle) > chance { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (chance, z) in [(3.167e-5, 4.0), (2.8665e-7, 5.0), (9.8659e-10, 6.0)] {
            assert!((normal_quantile(chance) - z).abs() < 2e-3, "{chance}");
        }
        assert!((deviations(10_000) - 5.235).abs() < 0.02);
        assert!((deviations(30) - 6.5).abs() < 0.1 && (deviations(4) - 17.6).abs() < 0.5);
    }
}
