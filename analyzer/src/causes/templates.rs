//! [`Templates`]: which line of code a log record comes from, when only its text is known.
//!
//! Words that carry values are masked: those with a digit or a quote, and what follows a `=`. What is left is matched
//! against the templates seen, as in Drain (P. He et al., ICWS 2017): a short way down by service, number of words
//! and first two words, then the nearest of a few, whose differing words become
//! wildcards. Only the first words are compared, because lists of values stand at the end. A record that names its place in
//! the code is of that place.

use std::{borrow::Cow, hash::BuildHasher};

use foldhash::quality::FixedState;

use super::{hashed, lines::is_error, observed::Map};
use crate::spans::Name;

/// Words of a record that are compared.
const WORDS: usize = 12;

/// Bytes of a record that are looked at: twelve words are shorter, and no template takes more.
const MAX_BODY_BYTES: usize = 1_024;

/// The share of fixed words that two records of one template have in common.
const SIMILAR: f64 = 0.7;

/// Templates of one service; further records are left out.
const MAX_OF_SERVICE: usize = 512;

/// Templates of all services: 10 MB at some 500 bytes, 25 MB at the most.
const MAX_TEMPLATES: usize = 20_000;

/// Turns without use after which a template makes room: code that is deployed no more logs it no more.
const KEPT_TURNS: u32 = 1;

/// Words of which each one tells templates apart.
const LEADING: usize = 2;

pub(super) const WILDCARD: &str = "*";

/// A template as a number that is never given twice, and whether it is of an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Template {
    number: u32,
    pub(super) is_error: bool,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In the table `logs`.
    Log,
    /// On a span.
    Event,
}

/// The templates seen so far.
#[derive(Debug, Default)]
pub(super) struct Templates {
    groups: Map<u64, Vec<Pattern>>,
    /// As they began.
    texts: Map<Template, (Source, Box<str>)>,
    of_service: Map<Name, usize>,
    next: u32,
    turn: u32,
    /// Records for whose template there was no room.
    pub(super) refused: u64,
}

#[derive(Debug)]
struct Pattern {
    words: Vec<Box<str>>,
    service: Name,
    template: Template,
    /// The turn in which it was seen last.
    used: u32,
}

impl Templates {
    /// The template of a record; `None` for an empty one, or when there are too many.
    pub(super) fn of(&mut self, service: Name, source: Source, body: &str) -> Option<Template> {
        let words: Vec<Cow<str>> = cut(body).split_whitespace().take(WORDS).map(mask).collect();
        if words.is_empty() {
            return None;
        }
        let placed = words.iter().find(|word| is_place(word)).map(|word| &**word);
        let group = group(service, source, &words, placed);
        if let Some(pattern) = self.groups.get_mut(&group).and_then(|group| nearest(group, &words, placed.is_some())) {
            pattern.widen(&words);
            pattern.used = self.turn;
            return Some(pattern.template);
        }
        let known = self.of_service.entry(service).or_default();
        if *known >= MAX_OF_SERVICE || self.texts.len() >= MAX_TEMPLATES {
            self.refused += 1;
            return None;
        }
        *known += 1;
        self.next += 1;
        let text = words.join(" ");
        let template = Template { number: self.next, is_error: is_error(&text) };
        self.texts.insert(template, (source, text.into()));
        let words = words.into_iter().map(|word| word.into()).collect();
        self.groups.entry(group).or_default().push(Pattern { words, service, template, used: self.turn });
        Some(template)
    }

    /// What it looked like first; nothing when it was forgotten.
    pub(super) fn text(&self, template: Template) -> &str {
        self.texts.get(&template).map_or("", |(_, text)| text)
    }

    pub(super) fn source(&self, template: Template) -> Source {
        self.texts.get(&template).map_or(Source::Log, |(source, _)| *source)
    }

    /// Forgets what was not used in this turn, nor in the last.
    pub(super) fn turn(&mut self) {
        self.turn += 1;
        let Self { groups, texts, of_service, turn, .. } = self;
        groups.retain(|_, patterns| {
            patterns.retain(|pattern| {
                let kept = *turn - pattern.used <= KEPT_TURNS;
                if !kept {
                    texts.remove(&pattern.template);
                    *of_service.entry(pattern.service).or_insert(1) -= 1;
                }
                kept
            });
            !patterns.is_empty()
        });
        of_service.retain(|_, count| *count > 0);
    }
}

/// The pattern of a group that is most like these words, if one is like them. What stands in one place of the code is one
/// template, whatever it says.
fn nearest<'a>(group: &'a mut [Pattern], words: &[Cow<str>], placed: bool) -> Option<&'a mut Pattern> {
    let similarity = |pattern: &Pattern| if placed { 1.0 } else { pattern.similarity(words) };
    let patterns = group.iter_mut().map(|pattern| (similarity(pattern), pattern));
    let similar = patterns.filter(|(similarity, _)| *similarity >= SIMILAR);
    similar.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, pattern)| pattern)
}

impl Pattern {
    fn similarity(&self, words: &[Cow<str>]) -> f64 {
        let pairs = self.words.iter().zip(words).filter(|(a, b)| &***a != WILDCARD || &***b != WILDCARD);
        let (same, fixed) = pairs.fold((0, 0), |(same, fixed), (a, b)| (same + u32::from(**a == **b), fixed + 1));
        if fixed == 0 { 1.0 } else { f64::from(same) / f64::from(fixed) }
    }

    fn widen(&mut self, words: &[Cow<str>]) {
        for (mine, theirs) in self.words.iter_mut().zip(words) {
            if **mine != **theirs && **mine != *WILDCARD {
                *mine = WILDCARD.into();
            }
        }
    }
}

fn group(service: Name, source: Source, words: &[Cow<str>], placed: Option<&str>) -> u64 {
    let text = |word: &str| FixedState::default().hash_one(word);
    let service = u64::from(service) << 1 | u64::from(source == Source::Event);
    if let Some(place) = placed {
        return hashed([service, 0, text(place)]);
    }
    let leading = words.iter().filter(|word| &***word != WILDCARD).take(LEADING).map(|word| text(word));
    hashed([service, words.len() as u64].into_iter().chain(leading))
}

fn cut(body: &str) -> &str {
    if body.len() <= MAX_BODY_BYTES {
        return body;
    }
    let end = (0..=MAX_BODY_BYTES).rev().find(|end| body.is_char_boundary(*end));
    &body[..end.unwrap_or(0)]
}

fn mask(word: &str) -> Cow<'_, str> {
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
            let mut templates = Templates::default();
            let [a_name, b_name] = [a, b].map(|body| templates.of(1, Source::Log, body));
            assert!(a_name.is_some());
            assert_eq!(a_name == b_name, same, "{a:?} and {b:?}");
            assert_ne!(templates.of(1, Source::Event, a), a_name, "what stands elsewhere is another");
        }
    }

    /// A text of four letters that no value masks.
    fn word(number: usize) -> String {
        (0..4).map(|digit| char::from(b'a' + (number >> (4 * digit) & 15) as u8)).collect()
    }

    #[test]
    fn a_service_has_only_so_many_and_so_have_all() {
        let mut templates = Templates::default();
        let mut of = |service: Name, number: usize| templates.of(service, Source::Log, &word(number));
        let named = (0..2 * MAX_OF_SERVICE).filter_map(|number| of(1, number)).count();
        assert_eq!(named, MAX_OF_SERVICE);
        assert!(of(2, 0).is_some() && of(1, 0).is_some(), "known ones stay, and others have their own");
        let all = (2..100).flat_map(|service| (0..MAX_OF_SERVICE).map(move |number| (service, number)));
        all.for_each(|(service, number)| _ = of(service, number));
        assert_eq!((templates.texts.len(), templates.of(1, Source::Log, "")), (MAX_TEMPLATES, None));
        let body = "x".repeat(1 << 20);
        assert!(templates.of(1, Source::Log, &body).is_none_or(|it| templates.text(it).len() <= MAX_BODY_BYTES));
    }

    #[test]
    fn what_is_logged_no_more_makes_room_and_its_number_is_not_given_again() {
        let mut templates = Templates::default();
        let old = (0..MAX_OF_SERVICE).filter_map(|number| templates.of(1, Source::Log, &word(number))).max().unwrap();
        let used = templates.of(1, Source::Log, &word(0));
        for _ in 0..=KEPT_TURNS {
            assert_eq!(templates.of(1, Source::Log, &word(0)), used);
            templates.turn();
        }
        assert_eq!((templates.text(old), templates.texts.len(), templates.of_service[&1]), ("", 1, 1));
        assert!(templates.of(1, Source::Log, "new words").is_some_and(|new| new > old));
    }
}
