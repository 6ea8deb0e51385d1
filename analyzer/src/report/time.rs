//! Times as people read them.

/// Nanoseconds since the epoch as RFC 3339 in UTC, to the millisecond. Every `i64` of them is a time: 292 years to either side of 1970.
pub(super) fn rfc3339(unix_nano: i64) -> String {
    jiff::Timestamp::from_nanosecond(unix_nano.into()).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
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
            (i64::MIN, "1677-09-21T00:12:43.145Z"),
        ];
        for (nanos, text) in cases {
            assert_eq!(rfc3339(nanos), text);
        }
    }
}
