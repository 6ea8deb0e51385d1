//! [`Templates`]: which line of code a log record comes from, when only its text is known.
//!
//! Words that carry values are masked: those with a digit or a quote, and what follows a `=`. What is left is matched
//! against the templates seen, as in Drain (P. He et al., ICWS 2017): a short way down by service, number of words
//! and first two words, then the nearest of a few, whose differing words become
//! wildcards. Only the first words are compared, because lists of values stand at the end. A record that names its place in
//! the code is of that place.

use super::{hashed, observed::Map};
use crate::{
    names::Role,
    spans::{Name, Names},
};

/// Words of a record that are compared.
const WORDS: usize = 12;

/// The share of fixed words that two records of one template have in common.
const SIMILAR: f64 = 0.7;

/// Templates of one service; further records are left out.
const MAX_TEMPLATES: usize = 512;

/// Words of which each one tells templates apart.
const LEADING: usize = 2;

const WILDCARD: &str = "*";

/// The templates seen so far.
#[derive(Debug, Default)]
pub(super) struct Templates {
    groups: Map<u64, Vec<Template>>,
    of_service: Map<Name, usize>,
}

#[derive(Debug)]
struct Template {
    words: Vec<Box<str>>,
    name: Name,
}

impl Templates {
    /// The name of a record's template; `None` for an empty one, or when the service has too many.
    pub(super) fn of(&mut self, service: Name, body: &str, names: &mut Names) -> Option<Name> {
        let words: Vec<Box<str>> = body.split_whitespace().take(WORDS).map(mask).collect();
        if words.is_empty() {
            return None;
        }
        let placed = words.iter().find(|word| is_place(word)).map(|word| &**word);
        let key = group(service, &words, placed);
        let group = self.groups.get_mut(&key).map(Vec::as_mut_slice).unwrap_or_default();
        // what stands in one place of the code is one template, whatever it says
        let similarity = |template: &Template| if placed.is_some() { 1.0 } else { template.similarity(&words) };
        let nearest = group.iter_mut().map(|template| (similarity(template), template));
        let nearest = nearest.filter(|(similarity, _)| *similarity >= SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, template)) = nearest {
            template.widen(&words);
            names.touch(template.name);
            return Some(template.name);
        }
        let known = self.of_service.entry(service).or_default();
        if *known >= MAX_TEMPLATES {
            return None;
        }
        *known += 1;
        let name = names.intern_as(Role::Template, &words.join(" "));
        self.groups.entry(key).or_default().push(Template { words, name });
        Some(name)
    }
}

impl Template {
    fn similarity(&self, words: &[Box<str>]) -> f64 {
        let pairs = || self.words.iter().zip(words).filter(|(a, b)| &***a != WILDCARD || &***b != WILDCARD);
        let same = pairs().filter(|(a, b)| a == b).count();
        match pairs().count() {
            0 => 1.0,
            fixed => same as f64 / fixed as f64,
        }
    }

    fn widen(&mut self, words: &[Box<str>]) {
        for (mine, theirs) in self.words.iter_mut().zip(words) {
            if mine != theirs {
                *mine = WILDCARD.into();
            }
        }
    }
}

fn group(service: Name, words: &[Box<str>], placed: Option<&str>) -> u64 {
    let text = |word: &str| hashed(word.bytes().map(u64::from));
    if let Some(place) = placed {
        return hashed([u64::from(service), 0, text(place)]);
    }
    let leading = words.iter().filter(|word| &***word != WILDCARD).take(LEADING).map(|word| text(word));
    hashed([u64::from(service), words.len() as u64].into_iter().chain(leading))
}

fn mask(word: &str) -> Box<str> {
    if is_place(word) {
        return word.into();
    }
    if let Some((key, _)) = word.split_once('=').filter(|(key, _)| !key.is_empty() && !has_value(key)) {
        return format!("{key}={WILDCARD}").into();
    }
    if has_value(word) { WILDCARD.into() } else { word.into() }
}

fn has_value(word: &str) -> bool {
    word.contains(|letter: char| letter.is_ascii_digit() || letter == '"' || letter == '\'')
}

/// Where in the code: `a.b.Class#31`, `main.go:31`. Its number is no value.
fn is_place(word: &str) -> bool {
    let word = word.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
    let Some((path, line)) = word.rsplit_once(['#', ':']) else { return false };
    let Some((_, name)) = path.rsplit_once('.') else { return false };
    let is_name = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphabetic() || letter == '_');
    is_name && !line.is_empty() && line.bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_make_no_templates_and_words_do() {
        let cases = [
            ("order 17 paid by alice-1", "order 99 paid by bob-2", true),
            ("order 17 paid", "order 17 refused", false),
            ("user=alice logged in", "user=bob logged in", true),
            ("12:01:02.106 INFO a.B#31 find", "12:01:03.001 INFO a.B#34 find", false),
            ("main.go:31 found Shanghai", "main.go:31 found Suzhou and Nanjing", true),
            ("took \"a\" from the shelf", "took \"b\" from the shelf", true),
            ("visit to the town of Shanghai began", "visit to the town of Suzhou began", true),
            ("one two", "one two three", false),
        ];
        for (a, b, same) in cases {
            let (mut templates, mut names) = (Templates::default(), Names::default());
            let (a_name, b_name) = (templates.of(1, a, &mut names), templates.of(1, b, &mut names));
            assert!(a_name.is_some());
            assert_eq!(a_name == b_name, same, "{a:?} and {b:?}");
        }
    }

    #[test]
    fn a_service_has_only_so_many() {
        let (mut templates, mut names) = (Templates::default(), Names::default());
        let word = |number: usize| -> String {
            (0..4).map(|digit| char::from(b'a' + (number >> (4 * digit) & 15) as u8)).collect()
        };
        let named = (0..2 * MAX_TEMPLATES).filter_map(|number| templates.of(1, &word(number), &mut names)).count();
        assert_eq!(named, MAX_TEMPLATES);
        assert_eq!(templates.groups.values().map(Vec::len).sum::<usize>(), MAX_TEMPLATES);
        assert_eq!(templates.groups.len(), MAX_TEMPLATES, "what is left out leaves nothing behind");
        assert_eq!(names.find_service(&word(0)), None, "a line is no service");
        assert!(templates.of(2, "another service's", &mut names).is_some());
        assert_eq!(templates.of(1, "", &mut names), None);
    }
}
