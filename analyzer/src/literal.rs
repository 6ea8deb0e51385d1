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

/// Words of a statement that are neither columns of the tables it reads nor names it gives: what a store would not know.
#[cfg(test)]
pub(crate) fn unknown_words(sql: &str, functions: &[&str]) -> Vec<String> {
    // literals may hold anything
    let bare: String = sql.split('\'').step_by(2).collect::<Vec<_>>().join("''");
    let words: Vec<&str> = bare.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let after = |keywords: &'static [&'static str]| {
        words.windows(2).filter(move |pair| keywords.contains(&pair[0])).map(|pair| pair[1])
    };
    let tables: Vec<weir_schema::Table> = weir_schema::Table::ALL
        .into_iter()
        .filter(|table| after(&["FROM", "JOIN"]).any(|name| name == table.name()))
        .collect();
    let columns: Vec<&str> =
        tables.iter().flat_map(|table| weir_schema::columns::columns(*table)).map(|column| column.name).collect();
    let aliases: Vec<&str> = after(&["AS"]).chain(after(&["spans"])).collect();
    let known = |word: &str| {
        columns.contains(&word)
            || aliases.contains(&word)
            || functions.contains(&word)
            || tables.iter().any(|table| table.name() == word)
            || word.chars().all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit())
            || word.starts_with(|letter: char| letter.is_ascii_digit())
    };
    words.iter().filter(|word| !known(word)).map(|word| (*word).to_owned()).collect()
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
