//! [`search`]: the rows of a row group that have one of some values, in a column or behind a key of a map,
//! found in the encoded pages. Values lead: of a page of values that cannot hold a wanted one, the keys are not read
//! either. In the others the entries of the key are found first, and only their values are looked at.

use std::{ops::Range, sync::Arc};

use datafusion::common::Result;
use parquet::arrow::arrow_reader::RowSelection;

use super::{
    super::footers::Footer,
    chunk::Chunk,
    page::Entry,
    sought::{Of, Sought},
    texts::Texts,
};

/// What a search found.
pub(super) struct Found {
    pub(super) selection: RowSelection,
    /// Selected rows in pages that hold a wanted value.
    pub(super) looked_into: usize,
}

/// The selected rows that have what is sought. `None`: it is stored in a form that is not known here.
pub(super) async fn search(
    sought: &Sought,
    footer: &Footer,
    row_group: usize,
    selection: &RowSelection,
) -> Result<Option<Found>> {
    let file = Arc::new(footer.open()?);
    let open = |leaf: &str, any_of: &[Vec<u8>]| Chunk::open(&file, footer, row_group, leaf, Texts::new(any_of));
    let (keys, leaf) = match &sought.of {
        Of::Column(name) => (None, name.clone()),
        Of::Entry { map, key } => {
            let Some(keys) = open(&format!("{map}.key_value.key"), std::slice::from_ref(key))? else { return Ok(None) };
            (Some(Keys { chunk: keys, entries: Vec::new() }), format!("{map}.key_value.value"))
        }
    };
    if keys.as_ref().is_some_and(|keys| keys.chunk.is_hopeless()) {
        return Ok(Some(Found::nothing(footer, row_group)));
    }
    let Some(values) = open(&leaf, &sought.any_of)? else { return Ok(None) };
    if values.is_hopeless() {
        return Ok(Some(Found::nothing(footer, row_group)));
    }
    let search = Search { keys, values, selected: ranges(selection), rows: Vec::new(), looked_into: 0 };
    let found = search.run().await?;
    Ok(found.map(|(rows, looked_into)| Found { selection: selected(&rows, footer, row_group), looked_into }))
}

impl Found {
    fn nothing(footer: &Footer, row_group: usize) -> Self {
        Self { selection: selected(&[], footer, row_group), looked_into: 0 }
    }
}

/// The search through one row group.
struct Search {
    /// Of a map.
    keys: Option<Keys>,
    values: Chunk,
    selected: Vec<Range<usize>>,
    /// What was found so far.
    rows: Vec<usize>,
    looked_into: usize,
}

/// The entries of the wanted key, the first of each row.
struct Keys {
    chunk: Chunk,
    /// Of pages that were read, those that nobody asked for yet.
    entries: Vec<Entry>,
}

impl Search {
    async fn run(mut self) -> Result<Option<(Vec<usize>, usize)>> {
        while let Some(rows) = self.values.next_rows() {
            let selected = overlapping(&self.selected, &rows);
            if selected.is_empty() {
                self.values.skip()?;
                continue;
            }
            let selected = selected.to_vec();
            if self.look_into(&rows, &selected)?.is_none() {
                return Ok(None);
            }
            tokio::task::yield_now().await;
        }
        Ok(Some((self.rows, self.looked_into)))
    }

    /// Searches the next page of values, which has these rows. `None`: it is of an unknown form.
    fn look_into(&mut self, rows: &Range<usize>, selected: &[Range<usize>]) -> Result<Option<()>> {
        let Some(page) = self.values.read()? else { return Ok(None) };
        if !page.may_have(self.values.sought()) {
            return Ok(Some(()));
        }
        let found = match &mut self.keys {
            None => page.first_entries(self.values.sought()).map(|found| found.iter().map(|text| text.row).collect()),
            Some(keys) => {
                let Some(mut entries) = keys.of_rows(rows)? else { return Ok(None) };
                entries.retain(|entry| are_in(selected, entry.row));
                page.rows(&entries, self.values.sought())
            }
        };
        let Some(found): Option<Vec<usize>> = found else { return Ok(None) };
        self.rows.extend(found.into_iter().filter(|row| are_in(selected, *row)));
        self.looked_into += selected.iter().map(|run| run.end.min(rows.end) - run.start.max(rows.start)).sum::<usize>();
        Ok(Some(()))
    }
}

impl Keys {
    /// Those in a range of rows that is behind all ranges asked for before. `None`: unknown form.
    fn of_rows(&mut self, rows: &Range<usize>) -> Result<Option<Vec<Entry>>> {
        let passed = self.entries.partition_point(|entry| entry.row < rows.start);
        self.entries.drain(..passed);
        while let Some(of_page) = self.chunk.next_rows().filter(|of_page| of_page.start < rows.end) {
            if of_page.end <= rows.start {
                self.chunk.skip()?;
                continue;
            }
            let entries = self.chunk.read()?.and_then(|page| page.first_entries(self.chunk.sought()));
            let Some(entries) = entries else { return Ok(None) };
            self.entries.extend(entries.into_iter().filter(|entry| entry.row >= rows.start));
        }
        let end = self.entries.partition_point(|entry| entry.row < rows.end);
        Ok(Some(self.entries.drain(..end).collect()))
    }
}

fn are_in(ranges: &[Range<usize>], row: usize) -> bool {
    !overlapping(ranges, &(row..row + 1)).is_empty()
}

/// Those of some ranges, in ascending order, that overlap another.
fn overlapping<'a>(ranges: &'a [Range<usize>], other: &Range<usize>) -> &'a [Range<usize>] {
    let first = ranges.partition_point(|range| range.end <= other.start);
    let end = ranges.partition_point(|range| range.start < other.end);
    &ranges[first..end.max(first)]
}

/// The rows that are selected.
fn ranges(selection: &RowSelection) -> Vec<Range<usize>> {
    let mut at = 0;
    let mut ranges = Vec::new();
    for selector in selection.iter() {
        if !selector.skip {
            ranges.push(at..at + selector.row_count);
        }
        at += selector.row_count;
    }
    ranges
}

/// A selection of these rows, in ascending order.
fn selected(rows: &[usize], footer: &Footer, row_group: usize) -> RowSelection {
    let all = usize::try_from(footer.metadata.row_group(row_group).num_rows()).unwrap_or(0);
    let runs = rows.chunk_by(|row, next| row + 1 == *next).map(|run| run[0]..run[0] + run.len());
    RowSelection::from_consecutive_ranges(runs, all)
}
