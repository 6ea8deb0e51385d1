//! [`Fields`]: an object of a document, read field by field. Every error says where it stands, and what
//! nobody asked for is an error too, so that no field is ever left out silently.

use std::{cell::RefCell, collections::BTreeMap};

use serde_json::{Map, Value};

use crate::config::{ConfigError, LONGEST_MS};

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Node<'a> {
    at: String,
    value: &'a Value,
}

/// An object of which it is known what was read.
pub(super) struct Fields<'a> {
    at: String,
    map: &'a Map<String, Value>,
    read: RefCell<Vec<&'a str>>,
}

impl<'a> Node<'a> {
    pub(super) fn new(at: String, value: &'a Value) -> Self {
        Self { at, value }
    }

    pub(super) fn error(&self, why: &str) -> ConfigError {
        located(&self.at, why)
    }

    pub(super) fn fields(&self) -> Result<Fields<'a>, ConfigError> {
        let map = self.value.as_object().ok_or_else(|| self.error("must be an object"))?;
        Ok(Fields { at: self.at.clone(), map, read: RefCell::default() })
    }

    pub(super) fn list(&self) -> Result<Vec<Node<'a>>, ConfigError> {
        let list = self.value.as_array().ok_or_else(|| self.error("must be a list"))?;
        let node = |(n, value)| Node { at: format!("{}[{n}]", self.at), value };
        Ok(list.iter().enumerate().map(node).collect())
    }

    pub(super) fn text(&self) -> Result<&'a str, ConfigError> {
        self.value.as_str().ok_or_else(|| self.error("must be text"))
    }

    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        self.value.as_bool().ok_or_else(|| self.error("must be true or false"))
    }

    pub(super) fn whole<T: TryFrom<u64>>(&self) -> Result<T, ConfigError> {
        let number = self.value.as_u64().and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| self.error("must be a whole number that fits"))
    }

    /// From 0 to 100.
    pub(super) fn percent(&self) -> Result<f64, ConfigError> {
        let number = self.value.as_f64().filter(|percent| (0.0..=100.0).contains(percent));
        number.ok_or_else(|| self.error("must be a number from 0 to 100"))
    }

    /// `{ value: 12.5 }`.
    pub(super) fn percentage(&self) -> Result<f64, ConfigError> {
        let fields = self.fields()?;
        // in the wire format 0 is what is left out
        let percent = fields.get("value").map_or(Ok(0.0), |value| value.percent());
        fields.done(&[])?;
        percent
    }

    /// `1h2m3.5s`, `250ms`: longer than nothing.
    pub(super) fn millis(&self) -> Result<u64, ConfigError> {
        let text = self.text()?;
        let millis = millis(text).filter(|millis| (1..=LONGEST_MS).contains(millis));
        millis.ok_or_else(|| self.error(&format!("{text:?} is not a duration from 1ms to a year, such as 2s or 250ms")))
    }

    /// An object of texts.
    pub(super) fn texts(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let fields = self.fields()?;
        let pair = |key: &String| Ok((key.clone(), fields.need(key)?.text()?.to_owned()));
        fields.map.keys().map(pair).collect()
    }

    /// An object of which each value is read by `read`.
    pub(super) fn entries<T>(
        &self,
        read: impl Fn(&str, Node<'a>) -> Result<T, ConfigError>,
    ) -> Result<BTreeMap<String, T>, ConfigError> {
        let fields = self.fields()?;
        let pair = |key: &'a String| Ok((key.clone(), read(key, fields.node(key, &fields.map[key]))?));
        fields.map.keys().map(pair).collect()
    }

    pub(super) fn is_empty_object(&self) -> bool {
        self.value.as_object().is_some_and(Map::is_empty)
    }
}

impl<'a> Fields<'a> {
    /// A field, if it is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<Node<'a>> {
        let (key, value) = self.map.get_key_value(name)?;
        self.read.borrow_mut().push(key);
        (!value.is_null()).then(|| self.node(name, value))
    }

    pub(super) fn need(&self, name: &str) -> Result<Node<'a>, ConfigError> {
        self.get(name).ok_or_else(|| located(&below(&self.at, name), "is missing"))
    }

    /// Reads a field as `read` does, if it is there.
    pub(super) fn map<T>(
        &self,
        name: &str,
        read: impl FnOnce(Node<'a>) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        self.get(name).map(read).transpose()
    }

    /// The elements of a list; none when it is absent.
    pub(super) fn list(&self, name: &str) -> Result<Vec<Node<'a>>, ConfigError> {
        self.get(name).map_or(Ok(Vec::new()), |node| node.list())
    }

    pub(super) fn error(&self, why: &str) -> ConfigError {
        located(&self.at, why)
    }

    /// Whether a field is there, without reading it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// Refuses what was not read; `refused` says of known fields why, and what to do instead.
    pub(super) fn done(&self, refused: &[(&str, &str)]) -> Result<(), ConfigError> {
        let read = self.read.borrow();
        let Some(left) = self.map.keys().find(|key| !read.contains(&key.as_str()) && self.has(key)) else {
            return Ok(());
        };
        let reason = refused.iter().find(|(name, _)| name == left).map(|(_, why)| *why);
        let why = match reason {
            Some(why) => format!("cannot be honoured: {why}"),
            None => "is not a field that is known here: correct or remove it".to_owned(),
        };
        Err(located(&below(&self.at, left), &why))
    }

    fn node(&self, name: &str, value: &'a Value) -> Node<'a> {
        Node { at: below(&self.at, name), value }
    }
}

/// The place of a field; that of a document ends in a colon.
fn below(at: &str, name: &str) -> String {
    if at.ends_with(':') { format!("{at} {name}") } else { format!("{at}.{name}") }
}

fn located(at: &str, why: &str) -> ConfigError {
    ConfigError(format!("{}: {why}", at.trim_end_matches(':')))
}

/// Go's and protobuf's durations: numbers with units, one after the other.
fn millis(text: &str) -> Option<u64> {
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let factor = match &rest[digits..unit_end] {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1_000.0,
            "ms" => 1.0,
            "us" | "µs" => 1e-3,
            "ns" => 1e-6,
            _ => return None,
        };
        sum += number * factor;
        rest = &rest[unit_end..];
    }
    (!text.is_empty() && sum < 1e15).then_some(sum as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        for (text, expected) in [
            ("5s", Some(5_000)),
            ("1.5s", Some(1_500)),
            ("1h2m3s", Some(3_723_000)),
            ("250ms", Some(250)),
            ("0s", Some(0)),
            ("1m30s", Some(90_000)),
            ("5", None),
            ("", None),
            ("5 s", None),
            ("s", None),
            ("-5s", None),
        ] {
            assert_eq!(millis(text), expected, "{text:?}");
        }
    }
}
