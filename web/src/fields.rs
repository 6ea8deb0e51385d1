//! [`Fields`]: what stands behind the `?` of an address, and [`TimeRange`]: `from` and `to` in it.

use serde::Deserialize;

use crate::error::ApiError;

/// The fields of an address, in order; a name may stand there several times.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Fields(Vec<(String, String)>);

/// Event times in `[from, to)`, nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeRange {
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl Fields {
    /// The first value of this name that says something.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of this name that says something.
    pub(crate) fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.0.iter().filter(move |(key, value)| key == name && !value.trim().is_empty()).map(|(_, value)| value.trim())
    }

    /// As [`Fields::get`], for what must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.get(name).ok_or_else(|| ApiError::bad_request(format!("the address has no {name}=")))
    }

    /// Refuses names other than these: a misspelt filter must not be a wider search.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(ApiError::bad_request(format!("{name} is not one of {}", known.join(", ")))),
            None => Ok(()),
        }
    }

    /// All but the values of this name.
    pub(crate) fn without(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|(key, _)| key != name).cloned().collect())
    }

    /// A number from 0, if it is there.
    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
        value.map(Some).ok_or_else(|| ApiError::bad_request(format!("{name}={text:?} is not a number from 0")))
    }

    /// How many rows: `limit`, at least 1 and at most `most`.
    pub(crate) fn limit(&self, default: usize, most: usize) -> Result<usize, ApiError> {
        Ok(self.number("limit")?.map_or(default, |limit| limit as usize).clamp(1, most))
    }

    /// A time, if it is there: RFC 3339, nanoseconds since the Unix epoch, `now`, or `-15m` before now.
    pub(crate) fn time(&self, name: &str, now: i64) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad = || {
            let expected = "neither RFC 3339 such as 2022-08-23T12:00:00Z nor a time ago such as -15m";
            ApiError::bad_request(format!("{name}={text:?} is {expected}"))
        };
        let time = match text {
            "now" => Some(now),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
            ago if ago.starts_with('-') => duration_ns(&ago[1..]).map(|ago| now.saturating_sub(ago)),
            text => {
                let time = text.parse::<jiff::Timestamp>().ok();
                time.and_then(|time| i64::try_from(time.as_nanosecond()).ok())
            }
        };
        time.map(Some).ok_or_else(bad)
    }

    /// The values in their order as part of an address, `replaced` among them instead of what was there.
    pub(crate) fn address(&self, replaced: &[(&str, &str)]) -> String {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        let kept = self
            .0
            .iter()
            .filter(|(name, value)| !value.trim().is_empty() && !replaced.iter().any(|(replaced, _)| replaced == name));
        text.extend_pairs(kept);
        text.extend_pairs(replaced.iter().filter(|(_, value)| !value.is_empty()));
        text.finish()
    }
}

impl TimeRange {
    /// `from` and `to`; none when neither is there. A lone `from` reaches to now.
    pub(crate) fn of(fields: &Fields, now: i64) -> Result<Option<Self>, ApiError> {
        let range = match (fields.time("from", now)?, fields.time("to", now)?) {
            (None, None) => return Ok(None),
            (from, to) => Self { from: from.unwrap_or(0), to: to.unwrap_or(now) },
        };
        if range.from >= range.to {
            return Err(ApiError::bad_request("from= is not before to="));
        }
        Ok(Some(range))
    }

    /// A condition on a column that holds a time.
    pub(crate) fn condition(self, column: &str) -> String {
        format!("{column} >= {} AND {column} < {}", self.from, self.to)
    }

    /// Its length in seconds.
    pub(crate) fn seconds(self) -> f64 {
        self.to.saturating_sub(self.from) as f64 / 1e9
    }
}

/// `90s`, `5m`, `1h`: its nanoseconds, if it is a positive duration.
pub(crate) fn duration_ns(text: &str) -> Option<i64> {
    let duration: jiff::SignedDuration = text.parse().ok()?;
    i64::try_from(duration.as_nanos()).ok().filter(|ns| *ns > 0)
}

/// A text literal of SQL.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(crate) fn now_unix_nano() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The fields of an address.
    pub(crate) fn fields(pairs: &[(&str, &str)]) -> Fields {
        Fields(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn times_are_absolute_or_ago() {
        const NOW: i64 = 10_000_000_000_000;
        for (text, time) in [
            ("1970-01-01T00:00:01Z", Some(1_000_000_000)),
            ("1970-01-01T01:00:01+01:00", Some(1_000_000_000)),
            ("5", Some(5)),
            ("now", Some(NOW)),
            ("-1h", Some(NOW - 3_600_000_000_000)),
            ("-0s", None),
            ("noon", None),
            ("-", None),
        ] {
            assert_eq!(fields(&[("from", text)]).time("from", NOW).ok().flatten(), time, "{text}");
        }
        let range = |pairs: &[(&str, &str)]| TimeRange::of(&fields(pairs), NOW);
        assert_eq!(range(&[("from", " ")]).unwrap(), None);
        assert_eq!(range(&[("from", "7")]).unwrap(), Some(TimeRange { from: 7, to: NOW }));
        assert!(range(&[("from", "7"), ("to", "7")]).is_err());
    }

    #[test]
    fn an_address_keeps_what_was_asked() {
        let asked = fields(&[("attribute", "a=1"), ("attribute", "b=x y"), ("cursor", "old"), ("to", "")]);
        assert_eq!(asked.address(&[("cursor", "new")]), "attribute=a%3D1&attribute=b%3Dx+y&cursor=new");
        assert_eq!(asked.all("attribute").collect::<Vec<_>>(), ["a=1", "b=x y"]);
        assert!(asked.only(&["attribute", "to"]).unwrap_err().message.contains("cursor is not one of"));
    }
}
