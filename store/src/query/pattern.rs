//! How large a regular expression is: a text is compared with all its places at worst.

/// Places of an expression, parts that are repeated so many times counted as often. `(ab{3}){5}` has 20.
pub(super) fn places(pattern: &str) -> usize {
    let mut groups = Vec::new();
    let (mut places, mut last) = (0_usize, 0_usize);
    let mut rest = pattern.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '(' => {
                groups.push(places);
                places = 0;
                continue;
            }
            ')' => {
                last = places;
                places = places.saturating_add(groups.pop().unwrap_or_default());
                continue;
            }
            '{' => {
                let times = most(&rest.by_ref().take_while(|letter| *letter != '}').collect::<String>());
                let repeated = last.saturating_mul(times);
                places = places.saturating_sub(last).saturating_add(repeated);
                last = repeated;
                continue;
            }
            '\\' => drop(rest.next()),
            '[' => {
                while let Some(inner) = rest.next().filter(|inner| *inner != ']') {
                    if inner == '\\' {
                        rest.next();
                    }
                }
            }
            _ => {}
        }
        last = 1;
        places = places.saturating_add(1);
    }
    places
}

/// The most times that `n`, `n,` or `n,m` say.
fn most(count: &str) -> usize {
    count.split(',').filter_map(|number| number.trim().parse().ok()).max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_parts_are_counted_as_often() {
        let cases = [
            ("GET .*", 6),
            ("a{3}b{2,5}", 8),
            ("(ab{3}){5}", 20),
            ("[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", 8 + 1 + 15 + 12),
            (r"\{x\}[\]}]{2}", 5),
            ("(((a{100}){100}){100}){100}", 100_000_000),
            ("a{", 1),
            (")){}", 0),
        ];
        for (pattern, expect) in cases {
            assert_eq!(places(pattern), expect, "{pattern}");
        }
    }
}
