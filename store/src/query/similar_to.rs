//! The pattern of `SIMILAR TO` as a regular expression: SQL's own kind, which has `%` and `_` and matches a whole text.

/// The expression that matches what the pattern matches, `escape` before a letter that stands for itself.
pub(super) fn expression(pattern: &str, escape: Option<char>) -> String {
    let mut made = String::from("^(?s:");
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            _ if Some(letter) == escape => letters.next().into_iter().for_each(|next| itself(next, &mut made)),
            '%' => made.push_str(".*"),
            '_' => made.push('.'),
            '[' => set(&mut letters, &mut made),
            '|' | '*' | '+' | '?' | '(' | ')' | '{' | '}' => made.push(letter),
            _ => itself(letter, &mut made),
        }
    }
    made + ")$"
}

/// One of these letters, or none of them.
fn set(letters: &mut std::str::Chars<'_>, made: &mut String) {
    made.push('[');
    let mut first = true;
    for letter in letters.by_ref() {
        match letter {
            ']' if !first => {
                made.push(']');
                return;
            }
            '\\' | '&' | '~' => made.extend(['\\', letter]),
            _ => made.push(letter),
        }
        first = first && letter == '^';
    }
}

fn itself(letter: char, made: &mut String) {
    if letter.is_ascii_punctuation() {
        made.push('\\');
    }
    made.push(letter);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PostgreSQL's documentation says of its examples, and what people write.
    #[test]
    fn a_whole_text_is_matched() {
        let matches =
            |text: &str, pattern: &str| regex::Regex::new(&expression(pattern, Some('\\'))).unwrap().is_match(text);
        for (text, pattern, expect) in [
            ("abc", "abc", true),
            ("abc", "a", false),
            ("abc", "%(b|d)%", true),
            ("abc", "(b|c)%", false),
            ("-abc-", "%abc%", true),
            ("a\nb", "a_b", true),
            ("a.c", "a.c", true),
            ("abc", "a.c", false),
            ("50%", "50\\%", true),
            ("504", "50\\%", false),
            ("GET /a", "(GET|POST) /[a-c]+", true),
            ("d", "[^a-c]", true),
            ("aaa", "a{3}", true),
            ("^x$", "^x$", true),
        ] {
            assert_eq!(matches(text, pattern), expect, "{text:?} {pattern}");
        }
    }
}
