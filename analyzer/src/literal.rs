//! Names and times as they stand in the SQL that findings show.

use std::ops::Range;

use weir_schema::UnixNanos;

/// A condition on a column of times.
pub(crate) fn within(column: &str, time: &Range<UnixNanos>) -> String {
    format!("{column} >= {} AND {column} < {}", time.start, time.end)
}

/// A literal: names come from spans, so anything may be in them.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_literals_whatever_is_in_them() {
        assert_eq!(text("o'hara' OR 1=1 --"), "'o''hara'' OR 1=1 --'");
        assert_eq!(within("start_unix_nano", &(5..9)), "start_unix_nano >= 5 AND start_unix_nano < 9");
    }
}
