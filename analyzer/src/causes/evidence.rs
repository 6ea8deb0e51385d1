//! What causes rest on, as sentences, and the statements that show it where it is not in spans.

use std::ops::Range;

use weir_schema::UnixNanos;

use super::{
    latency::Excess,
    marks::{Mark, Sign},
    statements,
    strain::Surge,
    templates::{Source, Template, Templates},
};
use crate::{
    snapshot::Evidence,
    spans::{Name, Names},
};

/// What sentences are made of.
pub(super) struct Words<'a> {
    pub(super) names: &'a Names,
    pub(super) templates: &'a Templates,
    /// The time that statements show.
    pub(super) shown: Range<UnixNanos>,
}

impl Words<'_> {
    pub(super) fn text(&self, name: Name) -> &str {
        self.names.text(name)
    }

    fn quoted(&self, template: Template) -> String {
        let error = if template.is_error { "error " } else { "" };
        format!("the {error}line {:?}", self.templates.text(template))
    }

    /// A statement that shows a line of a service.
    fn line(&self, service: Name, template: Template) -> String {
        match self.templates.source(template) {
            Source::Log => statements::lines(self.text(service), self.templates.text(template), &self.shown),
            Source::Event => statements::exceptions(self.text(service), &self.shown),
        }
    }
}

/// What is otherwise at an operation that a service is blamed for.
pub(super) fn otherwise(service: Name, at: (Name, Name), sign: Sign, requests: f64, words: &Words) -> Evidence {
    let whose = match at.0 == service {
        true => String::new(),
        false => format!(" of {}, which called it last,", words.text(at.0)),
    };
    let how = match sign {
        Sign::Calls => "stops early, fails or calls otherwise than before".to_owned(),
        Sign::Shows(Mark::Failed) => "fails by itself more often than before".to_owned(),
        Sign::Shows(Mark::Thrown(template)) => {
            format!("throws more often than before: {}", words.templates.text(template))
        }
        Sign::Shows(Mark::Line(template)) => format!("logs, more often than before, {}", words.quoted(template)),
        Sign::Lacks(Mark::Line(template)) => format!("no longer logs {}", words.quoted(template)),
        Sign::Lacks(_) => "fails by itself less often than before".to_owned(),
    };
    let text = format!("{requests:.0} requests: {}{whose} {how}", words.text(at.1));
    let sql = match sign {
        Sign::Shows(Mark::Line(template) | Mark::Thrown(template)) | Sign::Lacks(Mark::Line(template)) => {
            Some(words.line(at.0, template))
        }
        _ => None,
    };
    Evidence { sql, ..Evidence::number(text, requests, "requests") }
}

/// That more of something is used than before; `word` is in the names of the metrics that say so.
pub(super) fn surged(service: Name, (what, word): (&str, &str), surge: &Surge, words: &Words) -> Evidence {
    let at = surge.instance.map_or(String::new(), |name| format!(" of {}", words.text(name)));
    let Surge { now, usual, z, .. } = *surge;
    let text = format!("{what}{at}: {now:.3} instead of {usual:.3} ({z:.0} standard deviations)");
    let sql = statements::readings(words.text(service), word, &words.shown);
    Evidence { text, value: Some(now), sql: Some(sql), ..Evidence::default() }
}

pub(super) fn slower(what: &str, excess: &Excess) -> Evidence {
    let (now, usual) = (excess.now.median, excess.usual.median);
    let text = format!(
        "{what}: {now:.1} ms instead of {usual:.1} ms in {:.0} requests ({:.0} standard deviations)",
        excess.now.traces, excess.z
    );
    Evidence::number(text, now, "ms")
}
