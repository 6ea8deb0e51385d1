//! [`whole_weight`]: how many spans a kept one stands for, as a whole number that is right in the mean.

/// No span stands for more than this: a sender that claims to keep one of more claims what cannot be checked.
const MAX_WEIGHT: f64 = 1e6;

/// A weight as a whole number: w of 4/3 is 1 for two traces of three and 2 for one, chosen by trace
/// id. So its mean is right (D. Horvitz and D. Thompson, JASA 1952), counts stay exact and can be taken
/// out again, all spans of a trace count alike, and a duplicate says the same twice.
pub(super) fn whole_weight(weight: f64, trace: u128) -> u32 {
    let weight = if weight.is_nan() { 1.0 } else { weight.clamp(1.0, MAX_WEIGHT) };
    // the low bits of an id decide whether it is sampled at all, so all its bits are mixed (splitmix64)
    let mut mixed = ((trace >> 64) as u64 ^ (trace as u64).rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let uniform = ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64;
    (weight + uniform) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_whole_and_right_in_the_mean() {
        assert_eq!(whole_weight(1.0, 7), 1);
        assert_eq!(whole_weight(8.0, 7), 8);
        assert_eq!((whole_weight(f64::NAN, 7), whole_weight(-3.0, 7), whole_weight(0.5, 7)), (1, 1, 1));
        assert_eq!(whole_weight(f64::INFINITY, 7), 1_000_000);
        for weight in [4.0 / 3.0, 1.1, 2.5, 10.25] {
            let sum: f64 = (0..30_000_u128).map(|trace| f64::from(whole_weight(weight, trace << 40 | trace))).sum();
            assert!((sum / 30_000.0 / weight - 1.0).abs() < 0.01, "{weight}: {}", sum / 30_000.0);
        }
    }
}
