//! `History`: what the analyzer learnt and stored spans cannot give back in seconds: usual rates and
//! service times, how stations serve, what is usual of each service, which findings are open, and what people ordered.
//!
//! CBOR (RFC 8949) after a mark and a version. Names are kept by number, so everything else may stand by
//! number too. A field that is added is given a default and needs no new version; one that changes its
//! meaning does, and what another version wrote is refused: an analyzer without history learns it in minutes,
//! one with a wrong history accuses the innocent.

use std::{collections::BTreeMap, io::Read};

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use crate::{
    control::SavedControl, findings::SavedFindings, names::SavedNames, snapshot::Snapshot, spans::Name,
    stations::SavedStation,
};

/// What the bytes begin with.
const MARK: &[u8; 8] = b"weirhist";

/// Raised when a field changes its meaning.
const VERSION: u32 = 1;

/// A larger history is not written, nor read: a thousand services with fifty operations each take 8 MiB.
const MAX_BYTES: usize = 64 << 20;

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct History {
    /// Of windows of this length.
    pub(crate) window_ms: u64,
    /// Windows that ended by then are in it.
    pub(crate) closed_until: Option<UnixNanos>,
    pub(crate) names: SavedNames,
    pub(crate) usual_rates: BTreeMap<Name, f64>,
    pub(crate) usual_service_ms: BTreeMap<Name, f64>,
    pub(crate) stations: Vec<SavedStation>,
    pub(crate) findings: SavedFindings,
    pub(crate) last_snapshot: Option<Snapshot>,
    #[serde(default)]
    pub(crate) control: SavedControl,
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

impl History {
    /// `None` when it is larger than the bound.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut bytes = [&MARK[..], &VERSION.to_le_bytes()].concat();
        ciborium::into_writer(self, &mut bytes).expect("a vector takes all that is written");
        (bytes.len() <= MAX_BYTES).then_some(bytes)
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<Self, Foreign> {
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
