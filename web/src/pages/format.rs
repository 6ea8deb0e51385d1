//! Numbers as people read them: three digits that matter, and the unit.

use jiff::Timestamp;

/// Where there is nothing to say.
pub(crate) const NONE: &str = "–";

/// Events per second.
pub(crate) fn rate(per_s: f64) -> String {
    format!("{}/s", digits(per_s))
}

/// A time in milliseconds.
pub(crate) fn ms(value: f64) -> String {
    if value >= 10_000.0 { format!("{} s", digits(value / 1e3)) } else { format!("{} ms", digits(value)) }
}

/// A time in milliseconds that may not be known.
pub(crate) fn maybe_ms(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), ms)
}

/// A time in nanoseconds.
pub(crate) fn ns(value: i64) -> String {
    ms(value as f64 / 1e6)
}

/// A share.
pub(crate) fn percent(share: f64) -> String {
    format!("{} %", digits(share * 100.0))
}

/// A number that may not be known.
pub(crate) fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |v| format!("{v:.2}"))
}

/// A moment to the millisecond, in UTC.
pub(crate) fn moment(unix_nano: i64) -> String {
    written(unix_nano, "%Y-%m-%d %H:%M:%S%.3f")
}

/// The time of day to the second, in UTC.
pub(crate) fn time_of_day(unix_nano: i64) -> String {
    written(unix_nano, "%H:%M:%S")
}

/// The hour and minute, in UTC.
pub(crate) fn hour_and_minute(unix_nano: i64) -> String {
    written(unix_nano, "%H:%M")
}

/// The day and hour, in UTC.
pub(crate) fn day_and_hour(unix_nano: i64) -> String {
    written(unix_nano, "%m-%d %H:%M")
}

fn written(unix_nano: i64, form: &str) -> String {
    match Timestamp::from_nanosecond(i128::from(unix_nano)) {
        Ok(time) => time.strftime(form).to_string(),
        Err(_) => unix_nano.to_string(),
    }
}

/// At most `length` characters, the end replaced by "…".
pub(crate) fn short(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let kept: String = text.chars().take(length - 1).collect();
    format!("{kept}…")
}

fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v < 0.1 => format!("{value:.3}"),
        v if v < 10.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (found, expected) in [
            (ms(0.04), "0.040 ms"),
            (ms(12.34), "12 ms"),
            (ms(9_999.0), "9999 ms"),
            (ms(12_000.0), "12 s"),
            (rate(80.26), "80/s"),
            (percent(0.0123), "1.2 %"),
            (percent(0.0), "0 %"),
            (short("recommendationservice", 12), "recommendat…"),
            (moment(1_661_212_800_123_456_789), "2022-08-23 00:00:00.123"),
        ] {
            assert_eq!(found, expected);
        }
    }
}
