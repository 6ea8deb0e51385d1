//! What more load does to a request at an entry: the answer of `weir whatif`, asked of the last whole window of the range.

use super::EntryWhatIf;
use crate::{
    snapshot::{LOAD_FACTORS, Snapshot},
    whatif::Basis,
};

/// Entries that are asked of, those with most requests: each costs four solutions of the mesh.
pub(super) const MAX_ENTRIES: usize = 50;

/// `None` where a queue on the way has no bound, or nobody entered there in that window.
pub(super) fn what_if(entries: &[String], last: Option<&Snapshot>) -> Vec<EntryWhatIf> {
    let basis = last.map(Basis::of);
    let at = |entry: &String, load_factor: f64| {
        let then = basis.as_ref().and_then(|basis| basis.more_at(entry, load_factor));
        EntryWhatIf {
            entry: entry.clone(),
            load_factor,
            response_time_ms: then.as_ref().and_then(|then| then.response_time_ms_then),
            not_identified: then.map(|then| then.not_identified).unwrap_or_default(),
        }
    };
    entries.iter().flat_map(|entry| LOAD_FACTORS.map(|load_factor| at(entry, load_factor))).collect()
}
