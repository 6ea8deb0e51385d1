//! [`Edits`]: changes of a message's fields, compiled.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    config::{ConfigError, HeaderEdits, OURS},
    traffic::PEER,
};

/// What goes, what is set, what is added.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl Edits {
    /// Compiles; `key` is where they stand in the configuration.
    pub(crate) fn new(edits: &HeaderEdits, key: &str) -> Result<Self, ConfigError> {
        let name = |name: &String| {
            let wrong = |why: &str| ConfigError(format!("{key}: {name:?} {why}"));
            let parsed: HeaderName = name.parse().map_err(|_| wrong("is not the name of a field"))?;
            match parsed.as_str() {
                "host" => Err(wrong("is changed by rewrite.host")),
                name if PEER == name => Err(wrong("is the sidecar's own")),
                name if OURS.contains(&name) => Err(wrong("is what the message itself needs")),
                _ => Ok(parsed),
            }
        };
        let pair = |(field, value): (&String, &String)| {
            let parsed = HeaderValue::from_str(value);
            let parsed =
                parsed.map_err(|_| ConfigError(format!("{key}.{field}: {value:?} cannot stand in a field")))?;
            Ok((name(field)?, parsed))
        };
        Ok(Self {
            remove: edits.remove.iter().map(name).collect::<Result<_, _>>()?,
            set: edits.set.iter().map(pair).collect::<Result<_, ConfigError>>()?,
            add: edits.add.iter().map(pair).collect::<Result<_, ConfigError>>()?,
        })
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_go_are_set_and_added() {
        let pair = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let edits = HeaderEdits { remove: vec!["X-Gone".into()], set: pair("x-set", "new"), add: pair("x-more", "2") };
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-gone", "1"), ("x-set", "old"), ("x-more", "1")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        Edits::new(&edits, "request_headers").unwrap().apply(&mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(
            (all("x-gone"), all("x-set"), all("x-more")),
            (vec![], vec!["new".into()], vec!["1".into(), "2".into()])
        );
        let others = ["host", "x-weir-peer", "no name", "Content-Length", "Transfer-Encoding", "Connection"];
        for wrong in others.into_iter().chain(OURS) {
            for edits in [
                HeaderEdits { remove: vec![wrong.into()], ..edits.clone() },
                HeaderEdits { set: pair(wrong, "1"), ..edits.clone() },
                HeaderEdits { add: pair(wrong, "1"), ..edits.clone() },
            ] {
                let why = Edits::new(&edits, "request_headers").unwrap_err().0;
                assert!(why.starts_with("request_headers") && why.contains(wrong), "{why}");
            }
        }
    }
}
