//! The format of `to_char` as PostgreSQL has it (`YYYY-MM-DD HH24:MI:SS`), in chrono's words, which are planned here.

/// A word of a format and what it is in chrono; numbers may be written small, too. Longer ones come first.
const WORDS: [(&str, &str); 24] = [
    ("FMMonth", "%B"),
    ("FMDay", "%A"),
    ("FMHH24", "%-H"),
    ("FMHH12", "%-I"),
    ("FMMM", "%-m"),
    ("FMDD", "%-d"),
    ("IYYY", "%G"),
    ("FF3", "%3f"),
    ("FF6", "%6f"),
    ("YYYY", "%Y"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("DDD", "%j"),
    ("Mon", "%b"),
    ("YY", "%y"),
    ("MM", "%m"),
    ("DD", "%d"),
    ("HH", "%I"),
    ("MI", "%M"),
    ("SS", "%S"),
    ("MS", "%3f"),
    ("US", "%6f"),
    ("IW", "%V"),
    ("Dy", "%a"),
];

/// Halves of the day.
const HALVES: [(&str, &str); 4] = [("AM", "%p"), ("PM", "%p"), ("am", "%P"), ("pm", "%P")];

/// Words of PostgreSQL that are not planned here: what they would make is not made silently otherwise.
const UNKNOWN: [&str; 35] = [
    "MONTH", "Month", "month", "MON", "mon", "DAY", "Day", "day", "DY", "dy", "SSSS", "WW", "CC", "RM", "rm", "TZH",
    "TZM", "TZ", "tz", "OF", "Q", "W", "J", "FM", "YYY", "Y", "ID", "I", "D", "AD", "BC", "A.M.", "P.M.", "TH", "FF",
];

/// The format in chrono's words; one that has them already (`%Y`) stays. `Err`: the word that is not known here.
pub(super) fn format(text: &str) -> Result<String, &'static str> {
    if text.contains('%') {
        return Ok(text.to_owned());
    }
    let (mut made, mut rest) = (String::new(), text);
    while let Some(letter) = rest.chars().next() {
        if letter == '"' {
            let quoted = &rest[1..];
            let end = quoted.find('"').unwrap_or(quoted.len());
            made.push_str(&quoted[..end]);
            rest = quoted.get(end + 1..).unwrap_or_default();
            continue;
        }
        let unknown = UNKNOWN.iter().filter(|unknown| begins_with(rest, unknown)).max_by_key(|unknown| unknown.len());
        if let Some((word, of_chrono)) =
            word(rest).filter(|(word, _)| unknown.is_none_or(|other| other.len() < word.len()))
        {
            made.push_str(of_chrono);
            rest = &rest[word.len()..];
        } else if let Some(unknown) = unknown {
            return Err(unknown);
        } else {
            made.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    Ok(made)
}

fn word(rest: &str) -> Option<(&'static str, &'static str)> {
    WORDS
        .iter()
        .find(|(word, _)| begins_with(rest, word))
        .or_else(|| HALVES.iter().find(|(word, _)| rest.starts_with(word)))
        .copied()
}

/// Words without small letters may be written small.
fn begins_with(rest: &str, word: &str) -> bool {
    let is_large = !word.chars().any(|letter| letter.is_ascii_lowercase());
    rest.starts_with(word) || (is_large && rest.starts_with(&word.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_postgresql_become_those_of_chrono() {
        for (text, expect) in [
            ("YYYY-MM-DD HH24:MI:SS", Ok("%Y-%m-%d %H:%M:%S")),
            ("yyyy-mm", Ok("%Y-%m")),
            ("YYYY-MM-DD\"T\"HH24:MI:SS.MS", Ok("%Y-%m-%dT%H:%M:%S.%3f")),
            ("Dy, FMDD Mon YYYY", Ok("%a, %-d %b %Y")),
            ("HH12:MI am", Ok("%I:%M %P")),
            ("%H:%M", Ok("%H:%M")),
            ("Month YYYY", Err("Month")),
            ("IYYY-IW", Ok("%G-%V")),
            ("SS.FF3", Ok("%S.%3f")),
            ("yyyy \"of\" dd", Ok("%Y of %d")),
            ("ww", Err("WW")),
            ("", Ok("")),
        ] {
            assert_eq!(format(text).as_deref().map_err(|word| *word), expect, "{text}");
        }
    }
}
