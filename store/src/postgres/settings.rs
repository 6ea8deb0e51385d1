//! What a session's settings are: those of a PostgreSQL of defaults. A client sets how long its statements
//! may take, and no other.

/// Units of a time, the longest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// A time as settings have it (`500`, `'500ms'`, `'1.5 s'`, `'1min'`) in milliseconds.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = (text[..digits].parse::<f64>().ok()?, text[digits..].trim());
    let unit = if unit.is_empty() { 1 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    let time = (number * unit as f64).round();
    // PostgreSQL has 32 bits for it
    (time <= f64::from(i32::MAX)).then_some(time as u64)
}

/// A time as PostgreSQL writes it: in the longest unit that has a whole number.
pub(super) fn written(time_ms: u64) -> String {
    let unit = UNITS.iter().find(|(_, unit)| time_ms > 0 && time_ms.is_multiple_of(*unit));
    unit.map_or_else(|| time_ms.to_string(), |(name, unit)| format!("{}{name}", time_ms / unit))
}

/// Whether a time zone is the one that times are in.
pub(super) fn is_utc(zone: &str) -> bool {
    const NAMES: [&str; 11] =
        ["utc", "etc/utc", "gmt", "etc/gmt", "uct", "zulu", "universal", "z", "default", "local", "greenwich"];
    let zone = zone.trim().to_lowercase();
    let offset = zone.trim_start_matches(['+', '-']);
    NAMES.contains(&zone.as_str()) || (!offset.is_empty() && offset.chars().all(|letter| "0:".contains(letter)))
}

/// The value of a setting as `SHOW` and `current_setting` give it; `None` when it has none.
pub(crate) fn setting(name: &str) -> Option<&'static str> {
    Some(match name {
        "server_version" => "16.6",
        "server_version_num" => "160006",
        "server_encoding" | "client_encoding" => "UTF8",
        "timezone" | "time_zone" => "UTC",
        "transaction_isolation" | "transaction_isolation_level" | "default_transaction_isolation" => "read committed",
        "transaction_read_only" | "default_transaction_read_only" | "standard_conforming_strings" => "on",
        "search_path" => "public",
        "datestyle" => "ISO, MDY",
        "intervalstyle" => "postgres",
        "default_table_access_method" => "heap",
        "max_identifier_length" => "63",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_with_their_units() {
        for (text, time_ms, same) in [
            ("500", 500, "500ms"),
            ("500ms", 500, "500ms"),
            (" 5 s", 5_000, "5s"),
            ("1.5s", 1_500, "1500ms"),
            ("1min", 60_000, "1min"),
            ("2h", 7_200_000, "2h"),
            ("0", 0, "0"),
        ] {
            assert_eq!((milliseconds(text), written(time_ms)), (Some(time_ms), same.to_owned()), "{text}");
        }
        for text in ["", "-1", "ms", "5 years", "1.2.3", "2147483648"] {
            assert_eq!(milliseconds(text), None, "{text}");
        }
    }

    #[test]
    fn only_utc_is_utc() {
        assert!(["UTC", "Etc/UTC", "0", "+00:00", "gmt"].into_iter().all(is_utc));
        assert!(!["Europe/Berlin", "+02", "", "GMT+1"].into_iter().any(is_utc));
    }
}
