//! The pattern of `SIMILAR TO` as a regular expression: SQL's own kind, which has `%` and `_` and matches a whole text.

/// The expression that matches what the pattern matches. `escape` before a letter takes its meaning away, or, as in PostgreSQL, makes
/// a class of it (`\\d`).
pub(super) fn expression(pattern: &str, escape: Option<char>) -> String {
    let mut made = String::from("^(?s:");
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            _ if Some(letter) == escape => letters.next().into_iter().for_each(|next| escaped(next, &mut made)),
            '%' => made.push_str(".*"),
            '_' => made.push('.'),
            '[' => set(letters.by_ref(), escape, &mut made),
            '|' | '*' | '+' | '?' | '(' | ')' | '{' | '}' => made.push(letter),
            _ => itself(letter, &mut made),
        }
    }
    made + ")$"
}

/// One of these letters, or none of them; `[:alpha:]` and its like stand in it as they are.
fn set(letters: &mut std::str::Chars<'_>, escape: Option<char>, made: &mut String) {
    made.push('[');
    let mut first = true;
    while let Some(letter) = letters.next() {
        match letter {
            '^' if first && made.ends_with('[') => {
                made.push('^');
                continue;
            }
            ']' if !first => {
                made.push(']');
                return;
            }
            _ if Some(letter) == escape => letters.next().into_iter().for_each(|next| escaped(next, made)),
            '[' if letters.as_str().starts_with(':') => {
                made.push('[');
                for of_class in letters.by_ref() {
                    made.push(of_class);
                    if of_class == ']' {
                        break;
                    }
                }
            }
            '-' => made.push('-'),
            _ if letter.is_ascii_punctuation() => made.extend(['\\', letter]),
            _ => made.push(letter),
        }
        first = false;
    }
}

fn escaped(letter: char, made: &mut String) {
    if letter.is_ascii_alphanumeric() {
        made.extend(['\\', letter]);
    } else {
        itself(letter, made);
    }
}

fn itself(letter: char, made: &mut String) {
    made.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4])));
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
            ("a<b>c", "%<b>%", true),
            ("42", "\\d+", true),
            ("a-c", "[a\\-c]+", true),
            ("b", "[a\\-c]+", false),
            ("abc", "[[:alpha:]]+", true),
            ("x", "[^^]", true),
            ("]", "[]a]", true),
        ] {
            assert_eq!(matches(text, pattern), expect, "{text:?} {pattern}");
        }
    }
}
