//! [`SaidServers`]: how many requests a replica works on at once, as its sidecar says with every batch: `weir.servers` of its resource.
//!
//! All spans of a sidecar have the same resource, so the map is searched once for each replica of a batch instead of once for each span. Only spans
//! that a sidecar sent are asked: others have no such attribute.

use std::{cell::Cell, num::NonZeroU16};

use arrow::{
    array::{Array, AsArray, MapArray, StringArray},
    record_batch::RecordBatch,
};

use super::Name;
use crate::config::MAX_SERVERS;

/// The attribute.
const KEY: &str = "weir.servers";

/// Attributes of a resource that are looked at: a sidecar sends three.
const LOOKED_AT: usize = 64;

/// Replicas whose answer is remembered, 1 KB: a row of another one takes its place. Rows of one sender stand together, so that is seldom.
const SEEN: usize = 64;

/// A replica and what it said.
type Seen = Cell<Option<((Name, Option<Name>), Option<NonZeroU16>)>>;

pub(super) struct SaidServers<'a> {
    resources: &'a MapArray,
    keys: &'a StringArray,
    values: &'a StringArray,
    seen: Box<[Seen]>,
}

impl<'a> SaidServers<'a> {
    /// `None` where resources were not read: spans that come back from files.
    pub(super) fn of(batch: &'a RecordBatch) -> Option<Self> {
        let resources = batch.column_by_name("resource_attributes")?.as_map_opt()?;
        let keys = resources.keys().as_string_opt::<i32>()?;
        let values = resources.values().as_string_opt::<i32>()?;
        Some(Self { resources, keys, values, seen: vec![Cell::new(None); SEEN].into() })
    }

    /// The number that the replica which sent a row says; `None` where it says none.
    pub(super) fn servers(&self, row: usize, replica: (Name, Option<Name>)) -> Option<NonZeroU16> {
        let place = (replica.0 as usize).wrapping_mul(31).wrapping_add(replica.1.unwrap_or(0) as usize) % SEEN;
        if let Some((seen, servers)) = self.seen[place].get()
            && seen == replica
        {
            return servers;
        }
        let servers = self.look(row);
        self.seen[place].set(Some((replica, servers)));
        servers
    }

    fn look(&self, row: usize) -> Option<NonZeroU16> {
        if self.resources.is_null(row) {
            return None;
        }
        let offsets = self.resources.value_offsets();
        let entries = offsets[row] as usize..offsets[row + 1] as usize;
        let entry = entries.take(LOOKED_AT).find(|entry| self.keys.value(*entry) == KEY)?;
        let said = self.values.is_valid(entry).then(|| self.values.value(entry))?;
        said.parse().ok().filter(|servers: &NonZeroU16| u32::from(servers.get()) <= MAX_SERVERS)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, MapBuilder, StringBuilder};

    use super::*;

    #[test]
    fn a_resource_is_looked_into_once_a_replica() {
        let mut resources = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for said in [Some("4"), Some("7"), None, Some("0"), Some("20000"), Some("many")] {
            resources.keys().append_value("service.name");
            resources.values().append_value("tagger");
            if let Some(said) = said {
                resources.keys().append_value(KEY);
                resources.values().append_value(said);
            }
            resources.append(true).unwrap();
        }
        let resources: ArrayRef = std::sync::Arc::new(resources.finish());
        let batch = RecordBatch::try_from_iter([("resource_attributes", resources)]).unwrap();
        let said = SaidServers::of(&batch).unwrap();
        let four = NonZeroU16::new(4);
        assert_eq!(said.servers(0, (9, Some(10))), four);
        assert_eq!(said.servers(1, (9, Some(10))), four, "the same replica has the same resource");
        assert_eq!(said.servers(1, (9, None)), NonZeroU16::new(7));
        let others: Vec<_> = (2..6).map(|row| said.servers(row, (row as Name + 20, None))).collect();
        assert_eq!(others, [None; 4]);
    }
}
