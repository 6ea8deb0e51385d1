//! Times as people read them.

/// Nanoseconds since the epoch as RFC 3339 in UTC (civil date by the algorithm of H. Hinnant).
pub(super) fn rfc3339(unix_nano: i64) -> String {
    let (seconds, nanos) = (unix_nano.div_euclid(1_000_000_000), unix_nano.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_661_256_085_250_000_000, "2022-08-23T12:01:25.250Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
        ];
        for (nanos, text) in cases {
            assert_eq!(rfc3339(nanos), text);
        }
    }
}
