//! `History`: what the analyzer learnt and stored spans cannot give back in seconds: usual rates and
//! service times, how stations serve and how they went, what is usual of each service, which findings are open, what people ordered, and the requests that estimates of model servers rest on.
//!
//! It is written from where it stands, up to a bound: of a larger one, half of the keys of each sort are left out that were not
//! seen for longest, of those seen last at one time what was learnt from fewest requests, and again until it fits. How many of each
//! sort were left out is told ([`Analyzer::left_out`](crate::Analyzer::left_out)) and counted.
//!
//! CBOR (RFC 8949) after a mark and a version. Names are kept by number, so everything else may stand by
//! number too. A field that is added is given a default and needs no new version; one that changes its
//! meaning does, and what another version wrote is refused: an analyzer without history learns it in minutes,
//! one with a wrong history accuses the innocent.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{Error, Read, Result as IoResult, Write},
};

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use crate::{
    control::SavedControl,
    findings::{LeftOut, SavedFindings},
    lm::SavedLm,
    names::SavedNames,
    snapshot::Snapshot,
    spans::Name,
    stations::{SavedCourse, SavedStation},
};

/// What the bytes begin with.
const MARK: &[u8; 8] = b"weirhist";

/// Raised when a field changes its meaning.
const VERSION: u32 = 3;

/// A larger history is not written, nor read: a thousand services with fifty operations each take 10 MiB.
const MAX_BYTES: usize = 64 << 20;

/// Times that keys are halved: what does not fit then is not made of keys.
const MOST_HALVINGS: usize = 6;

/// What courses that are left out are called.
pub(crate) const COURSES: &str = "courses of services";

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct History<'a> {
    /// Of windows of this length.
    pub(crate) window_ms: u64,
    /// Windows that ended by then are in it.
    pub(crate) closed_until: Option<UnixNanos>,
    pub(crate) names: SavedNames,
    pub(crate) usual_rates: BTreeMap<Name, f64>,
    pub(crate) usual_service_ms: BTreeMap<Name, f64>,
    pub(crate) stations: Vec<SavedStation>,
    /// Of the services with most requests, these first.
    #[serde(default)]
    pub(crate) courses: Vec<SavedCourse>,
    pub(crate) findings: SavedFindings<'a>,
    pub(crate) last_snapshot: Option<Cow<'a, Snapshot>>,
    #[serde(default)]
    pub(crate) control: SavedControl,
    #[serde(default)]
    pub(crate) lm: Vec<SavedLm>,
}

/// Why a history cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// It does not begin as one.
    #[error("these bytes are not a history of the analyzer")]
    NotOurs,
    /// Another version wrote it.
    #[error("the history is of version {found}, and this weir reads version {VERSION}")]
    Version {
        /// Which.
        found: u32,
    },
    /// It was learnt with windows of another length.
    #[error("the history is of windows of {noted_ms} ms, and window_ms is {configured_ms}")]
    Window {
        /// Theirs.
        noted_ms: u64,
        /// Ours.
        configured_ms: u64,
    },
    /// It ends early, or says what cannot be.
    #[error("the history is damaged")]
    Damaged,
}

/// Bytes up to a bound; writing stops there.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, more: &[u8]) -> IoResult<usize> {
        if self.bytes.len() + more.len() > self.most {
            return Err(Error::other("more than a history may have"));
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> IoResult<()> {
        Ok(())
    }
}

impl History<'_> {
    /// With what there was no room for. `None` when what is not left out is larger than the bound.
    pub(crate) fn into_bytes(self) -> Option<(Vec<u8>, LeftOut)> {
        self.into_bytes_within(MAX_BYTES)
    }

    fn into_bytes_within(mut self, most: usize) -> Option<(Vec<u8>, LeftOut)> {
        let mut left_out = LeftOut::new();
        for _ in 0..MOST_HALVINGS {
            if let Some(bytes) = self.written(most) {
                return Some((bytes, left_out));
            }
            self.findings.halve(&mut left_out);
            self.halve_courses(&mut left_out);
        }
        Some((self.written(most)?, left_out))
    }

    /// Lets go of those of the services with fewest requests.
    fn halve_courses(&mut self, left_out: &mut LeftOut) {
        let gone = self.courses.split_off(self.courses.len() / 2).len() as u64;
        if gone > 0 {
            *left_out.entry(COURSES).or_default() += gone;
        }
    }

    fn written(&self, most: usize) -> Option<Vec<u8>> {
        let mut bounded = Bounded { bytes: [&MARK[..], &VERSION.to_le_bytes()].concat(), most };
        ciborium::into_writer(self, &mut bounded).ok().map(|()| bounded.bytes)
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<History<'static>, Foreign> {
        let rest = bytes.strip_prefix(MARK).ok_or(Foreign::NotOurs)?;
        let (version, mut rest) = rest.split_first_chunk().ok_or(Foreign::Damaged)?;
        match u32::from_le_bytes(*version) {
            VERSION => {}
            found => return Err(Foreign::Version { found }),
        }
        if bytes.len() > MAX_BYTES {
            return Err(Foreign::Damaged);
        }
        let history = ciborium::from_reader(&mut rest).map_err(|_| Foreign::Damaged)?;
        let nothing_follows = rest.read(&mut [0]).is_ok_and(|read| read == 0);
        nothing_follows.then_some(history).ok_or(Foreign::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of so many services, of which the last were seen last.
    fn history(services: u32) -> History<'static> {
        History {
            window_ms: 10_000,
            closed_until: None,
            names: SavedNames::default(),
            usual_rates: BTreeMap::new(),
            usual_service_ms: BTreeMap::new(),
            stations: Vec::new(),
            courses: Vec::new(),
            findings: SavedFindings::of_services(services),
            last_snapshot: None,
            control: SavedControl::default(),
            lm: Vec::new(),
        }
    }

    #[test]
    fn what_is_too_large_is_written_without_what_was_not_seen_for_longest() {
        let (whole, left_out) = history(100).into_bytes().unwrap();
        assert!(left_out.is_empty());
        assert_eq!(History::of_bytes(&whole).unwrap().findings.services(), (0..100).collect::<Vec<_>>());
        let most = whole.len() / 3;
        let (cut, left_out) = history(100).into_bytes_within(most).unwrap();
        assert!(cut.len() <= most, "{} of {most}", cut.len());
        assert_eq!(History::of_bytes(&cut).unwrap().findings.services(), (75..100).collect::<Vec<_>>());
        assert_eq!(left_out, [("own times of services", 75)].into());
        assert_eq!(history(100).into_bytes_within(100), None, "an empty one is larger");
    }

    #[test]
    fn a_key_takes_what_its_numbers_take() {
        let bytes = |services| history(services).into_bytes().unwrap().0;
        let (few, many) = (bytes(100), bytes(1_100));
        let each = (many.len() - few.len()) / 1_000;
        // thirty windows of two floats and a count
        assert!(each < 30 * 25, "{each} bytes of a service");
    }

    #[test]
    fn writing_stops_at_the_bound() {
        let mut bounded = Bounded { bytes: Vec::new(), most: 10 };
        assert!(ciborium::into_writer(&vec![1_u64 << 40; 1_000_000], &mut bounded).is_err());
        assert!(bounded.bytes.len() <= 10);
    }
}
