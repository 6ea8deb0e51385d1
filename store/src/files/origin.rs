//! [`Origin`]: which log records a file's rows come from. It outlives merging and packing, so a restore can tell rows that are still
//! here from those that are gone.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Runs of records that are remembered of a file; of more nothing is known. Files that are merged follow each other, so few are usual.
const MAX_RUNS: usize = 256;

/// Runs of log records, first to last, by who wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin(BTreeMap<u64, Vec<(u64, u64)>>);

impl Origin {
    /// The records from `first` to `last` as `application` counts them in the log that began with `lineage`: another folder's
    /// log counts other records.
    pub(crate) fn of(lineage: u64, application: &str, first: u64, last: u64) -> Self {
        let writer = xxh3_64_with_seed(application.as_bytes(), lineage);
        Self(BTreeMap::from([(writer, vec![(first, last)])]))
    }

    /// Of all of these together.
    pub(crate) fn all_of<'a>(origins: impl Iterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for (writer, runs) in origins.flat_map(|origin| &origin.0) {
            all.0.entry(*writer).or_default().extend(runs);
        }
        all.0.values_mut().for_each(join);
        all
    }

    /// As it is remembered of one file: unless all of its rows are accounted for, nothing is.
    pub(crate) fn of_merged(sources: &[&Self]) -> Self {
        let all = Self::all_of(sources.iter().copied());
        let known = sources.iter().all(|source| !source.0.is_empty());
        let runs: usize = all.0.values().map(Vec::len).sum();
        if known && runs <= MAX_RUNS { all } else { Self::default() }
    }

    /// Whether every record of `other`, which must be known, is among these.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let covered = |writer: &u64, (first, last): &(u64, u64)| {
            self.runs(writer).iter().any(|(from, to)| from <= first && last <= to)
        };
        !other.0.is_empty() && other.0.iter().all(|(writer, runs)| runs.iter().all(|run| covered(writer, run)))
    }

    /// Whether some record of `other` is among these.
    pub(crate) fn touches(&self, other: &Self) -> bool {
        let touched = |writer: &u64, (first, last): &(u64, u64)| {
            self.runs(writer).iter().any(|(from, to)| from <= last && first <= to)
        };
        other.0.iter().any(|(writer, runs)| runs.iter().any(|run| touched(writer, run)))
    }

    /// As it stands in the Delta log, `writer:first-last,…;…`; `None` when nothing is known.
    pub(crate) fn to_tag(&self) -> Option<String> {
        let runs = |runs: &[(u64, u64)]| runs.iter().map(|(first, last)| format!("{first}-{last}")).collect::<Vec<_>>();
        let writers = self.0.iter().map(|(writer, own)| format!("{writer:016x}:{}", runs(own).join(",")));
        (!self.0.is_empty()).then(|| writers.collect::<Vec<_>>().join(";"))
    }

    /// Reads a tag; nothing is known of one that cannot be read.
    pub(crate) fn from_tag(tag: &str) -> Self {
        let run = |run: &str| {
            let (first, last) = run.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        let writer = |text: &str| {
            let (writer, runs) = text.split_once(':')?;
            Some((u64::from_str_radix(writer, 16).ok()?, runs.split(',').map(run).collect::<Option<Vec<_>>>()?))
        };
        Self(tag.split(';').map(writer).collect::<Option<_>>().unwrap_or_default())
    }

    fn runs(&self, writer: &u64) -> &[(u64, u64)] {
        self.0.get(writer).map_or(&[], Vec::as_slice)
    }
}

/// In order, and what follows without a gap as one.
fn join(runs: &mut Vec<(u64, u64)>) {
    runs.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
    for (first, last) in runs.drain(..) {
        match joined.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    *runs = joined;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(first: u64, last: u64) -> Origin {
        Origin::of(7, "node", first, last)
    }

    #[test]
    fn merged_files_account_for_what_their_sources_did() {
        let sources = [origin(1, 10), origin(21, 30), origin(11, 12)];
        let merged = Origin::of_merged(&sources.each_ref());
        assert_eq!(merged, Origin::all_of([origin(1, 12), origin(21, 30)].iter()));
        let cases = [
            (origin(1, 10), true, true),
            (origin(11, 12), true, true),
            (origin(21, 30), true, true),
            (merged.clone(), true, true),
            (origin(12, 13), false, true),
            (origin(13, 20), false, false),
            (origin(1, 30), false, true),
            (Origin::of(8, "node", 1, 10), false, false),
            (Origin::of(7, "node/spans", 1, 10), false, false),
            (Origin::default(), false, false),
        ];
        for (other, covers, touches) in cases {
            assert_eq!((merged.covers(&other), merged.touches(&other)), (covers, touches), "{other:?}");
        }
    }

    #[test]
    fn of_a_file_that_is_accounted_for_in_part_nothing_is_known() {
        assert_eq!(Origin::of_merged(&[&origin(1, 2), &Origin::default()]), Origin::default());
        let scattered: Vec<Origin> = (0..=MAX_RUNS as u64).map(|n| origin(n * 2, n * 2)).collect();
        assert_eq!(Origin::of_merged(&scattered.iter().collect::<Vec<_>>()), Origin::default());
        assert_ne!(Origin::of_merged(&scattered[1..].iter().collect::<Vec<_>>()), Origin::default());
    }

    #[test]
    fn a_tag_says_all_of_it() {
        let both = Origin::all_of([origin(1, 12), origin(21, 30), Origin::of(8, "node", 5, 5)].iter());
        assert_eq!(Origin::from_tag(&both.to_tag().unwrap()), both);
        assert_eq!(Origin::default().to_tag(), None);
        for damaged in ["", "x", "0f:", "0f:1", "0f:1-", "zz:1-2", "0f:1-2;"] {
            assert_eq!(Origin::from_tag(damaged), Origin::default(), "{damaged}");
        }
    }
}
