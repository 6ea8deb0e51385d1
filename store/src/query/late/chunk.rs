//! [`Chunk`]: the pages of a column in a row group, or of a map's keys or values, one after another. The page index says
//! which rows each has, so pages without wanted rows are neither read nor unpacked.

use std::{ops::Range, sync::Arc};

use datafusion::common::Result;
use parquet::{
    basic::{Encoding, Type},
    column::page::{Page, PageReader},
    file::{metadata::ColumnChunkMetaData, serialized_reader::SerializedPageReader},
};

use super::{
    super::footers::Footer,
    page::{Depth, EncodedPage},
    texts::Texts,
};
use crate::disk::Opened;

/// A column chunk, and what is sought in it.
pub(super) struct Chunk {
    pages: SerializedPageReader<Opened>,
    /// The first row of each page, and the end.
    starts: Vec<usize>,
    next: usize,
    depth: Depth,
    sought: Texts,
    /// Every text is in the dictionary, and none of them is sought.
    hopeless: bool,
}

impl Chunk {
    /// Opens a chunk and reads its dictionary. `None`: it is of a form that is not known here.
    pub(super) fn open(
        file: &Arc<Opened>,
        footer: &Footer,
        row_group: usize,
        leaf: &str,
        mut sought: Texts,
    ) -> Result<Option<Self>> {
        let Some((leaf, index)) = footer.leaf(leaf).zip(footer.metadata.offset_index()) else { return Ok(None) };
        let group = footer.metadata.row_group(row_group);
        let chunk = group.column(leaf);
        let column = chunk.column_descr();
        let depth =
            Depth { repeated: column.max_rep_level() > 0, defined: column.max_def_level().unsigned_abs().into() };
        let known = chunk.encodings().all(is_known) && column.physical_type() == Type::BYTE_ARRAY;
        if !known || column.max_rep_level() > 1 {
            return Ok(None);
        }
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        let locations = index[row_group][leaf].page_locations().clone();
        let starts = locations.iter().map(|page| usize::try_from(page.first_row_index).unwrap_or(rows));
        let starts = starts.chain([rows]).collect();
        let mut pages = SerializedPageReader::new(file.clone(), chunk, rows, Some(locations))?;
        if pages.peek_next_page()?.is_some_and(|page| page.is_dict) {
            let Some(Page::DictionaryPage { buf, num_values, encoding, .. }) = pages.get_next_page()? else {
                return Ok(None);
            };
            #[allow(deprecated)] // old files have it
            let plain = matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY);
            if !plain || sought.look_up(&buf, num_values as usize).is_none() {
                return Ok(None);
            }
        }
        let hopeless = all_in_dictionary(chunk) && !sought.any_in_dictionary();
        Ok(Some(Self { pages, starts, next: 0, depth, sought, hopeless }))
    }

    /// Whether nothing that is sought can be here.
    pub(super) fn is_hopeless(&self) -> bool {
        self.hopeless
    }

    pub(super) fn sought(&self) -> &Texts {
        &self.sought
    }

    /// The rows of the next page.
    pub(super) fn next_rows(&self) -> Option<Range<usize>> {
        Some(*self.starts.get(self.next)?..*self.starts.get(self.next + 1)?)
    }

    /// Leaves the next page out.
    pub(super) fn skip(&mut self) -> Result<()> {
        self.next += 1;
        Ok(self.pages.skip_next_page()?)
    }

    /// Reads the next page. `None`: it is of a form that is not known here.
    pub(super) fn read(&mut self) -> Result<Option<EncodedPage>> {
        let first_row = self.starts[self.next];
        self.next += 1;
        let page = self.pages.get_next_page()?;
        Ok(page.and_then(|page| EncodedPage::of(page, first_row, self.depth)))
    }
}

#[allow(deprecated)] // old files have PLAIN_DICTIONARY
fn is_known(encoding: Encoding) -> bool {
    use Encoding::{PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY};
    matches!(encoding, PLAIN | PLAIN_DICTIONARY | RLE_DICTIONARY | RLE)
}

/// Whether a chunk says that no text of it stands outside its dictionary.
#[allow(deprecated)] // old files have PLAIN_DICTIONARY
fn all_in_dictionary(chunk: &ColumnChunkMetaData) -> bool {
    let only = |encoding| chunk.page_encoding_stats_mask().is_some_and(|mask| mask.is_only(encoding));
    chunk.dictionary_page_offset().is_some() && (only(Encoding::RLE_DICTIONARY) || only(Encoding::PLAIN_DICTIONARY))
}
