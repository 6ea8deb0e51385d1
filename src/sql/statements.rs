//! [`split`]: text into statements at the `;` that ends each: not one in quotes or in a comment.

/// What a text holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// Whole statements, without their `;`. Those without a word are left out.
    pub(super) statements: Vec<String>,
    /// What comes behind the last `;`: a statement that goes on.
    pub(super) rest: String,
}

/// Where a character stands.
#[derive(Clone, Copy, PartialEq)]
enum In {
    Sql,
    /// Quotes end where they begin again; twice in a row is one of them, which closes and opens.
    Quotes(char),
    LineComment,
    /// How many are open: they nest.
    Comment(u32),
}

pub(super) fn split(text: &str) -> Split {
    let mut split = Split::default();
    let (mut place, mut begin) = (In::Sql, 0);
    let mut characters = text.char_indices().peekable();
    // whether there is more than space and comments
    let mut says_something = false;
    while let Some((at, character)) = characters.next() {
        let next = characters.peek().map(|(_, next)| *next);
        place = match (place, character, next) {
            (In::Sql, ';', _) => {
                if std::mem::take(&mut says_something) {
                    split.statements.push(text[begin..at].trim().to_owned());
                }
                begin = at + 1;
                In::Sql
            }
            (In::Sql, '-', Some('-')) => In::LineComment,
            (In::Sql, '/', Some('*')) => step(&mut characters, In::Comment(1)),
            (In::Sql, '\'' | '"', _) => {
                says_something = true;
                In::Quotes(character)
            }
            (In::Sql, _, _) => {
                says_something |= !character.is_whitespace();
                In::Sql
            }
            (In::Quotes(quote), _, _) if character == quote => In::Sql,
            (In::LineComment, '\n', _) => In::Sql,
            (In::Comment(depth), '/', Some('*')) => step(&mut characters, In::Comment(depth + 1)),
            (In::Comment(1), '*', Some('/')) => step(&mut characters, In::Sql),
            (In::Comment(depth), '*', Some('/')) => step(&mut characters, In::Comment(depth - 1)),
            (place, _, _) => place,
        };
    }
    let rest = text[begin..].trim();
    if says_something || place != In::Sql {
        rest.clone_into(&mut split.rest);
    }
    split
}

/// The second character of a mark is read with the first.
fn step(characters: &mut impl Iterator<Item = (usize, char)>, place: In) -> In {
    characters.next();
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_semicolon_of_the_statement_itself_ends_it() {
        let cases: &[(&str, &[&str], &str)] = &[
            ("", &[], ""),
            (" ; ;", &[], ""),
            ("SELECT 1", &[], "SELECT 1"),
            ("SELECT 1; SELECT 2;", &["SELECT 1", "SELECT 2"], ""),
            ("SELECT 1; SELECT", &["SELECT 1"], "SELECT"),
            ("SELECT 'a;\nb', \"c;\";", &["SELECT 'a;\nb', \"c;\""], ""),
            ("SELECT 'it''s;", &[], "SELECT 'it''s;"),
            ("SELECT 1 -- x;", &[], "SELECT 1 -- x;"),
            ("SELECT 1 -- x;\n;", &["SELECT 1 -- x;"], ""),
            ("-- it's\nSELECT 1;", &["-- it's\nSELECT 1"], ""),
            ("SELECT /* ; /* ; */ ; */ 1; -- done", &["SELECT /* ; /* ; */ ; */ 1"], "-- done"),
            ("/* open ;", &[], "/* open ;"),
            ("SELECT 'Zürich;' -- ü\n;SELECT 2", &["SELECT 'Zürich;' -- ü"], "SELECT 2"),
        ];
        for (text, statements, rest) in cases {
            let found = split(text);
            assert_eq!(found.statements, *statements, "{text:?}");
            assert_eq!(found.rest, *rest, "{text:?}");
        }
    }
}
