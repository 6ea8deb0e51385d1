//! Pages of attributes that hold a wanted key and a wanted value. Text stands in a page, or in the
//! dictionary before it, as it is, so a search through its bytes says at a fraction of the cost of
//! decoding it that nothing in it is wanted. A page in which the bytes happen to stand is decoded and the
//! filter evaluated, as ever.

use std::{ops::Range, sync::Arc};

use datafusion::{
    common::Result,
    logical_expr::Operator,
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr,
        expressions::{BinaryExpr, Column, InListExpr, Literal},
    },
};
use memchr::memmem::Finder;
use parquet::{
    arrow::arrow_reader::RowSelection,
    basic::Encoding,
    column::page::{Page, PageReader},
    file::serialized_reader::SerializedPageReader,
};

use super::super::footers::Footer;

/// A key of a map and values, one of which a row must have there.
#[derive(Debug, PartialEq)]
pub(super) struct Sought {
    /// The column of the map.
    map: String,
    key: String,
    any_of: Vec<String>,
}

impl Sought {
    /// What `attr(map, key) = value`, or one of several values, asks for.
    pub(super) fn by(filter: &Arc<dyn PhysicalExpr>) -> Option<Self> {
        if let Some(comparison) = filter.downcast_ref::<BinaryExpr>().filter(|it| *it.op() == Operator::Eq) {
            let (left, right) = (comparison.left(), comparison.right());
            let (asked, value) = asked(left).map(|it| (it, right)).or_else(|| asked(right).map(|it| (it, left)))?;
            let (map, key) = asked;
            return Some(Self { map, key, any_of: vec![text(value)?] });
        }
        let list = filter.downcast_ref::<InListExpr>().filter(|list| !list.negated())?;
        let any_of = list.list().iter().map(text).collect::<Option<_>>()?;
        let (map, key) = asked(list.expr())?;
        Some(Self { map, key, any_of })
    }

    /// The selected rows that are in pages with the key and such a value.
    pub(super) async fn narrow(
        &self,
        footer: &Footer,
        row_group: usize,
        selection: RowSelection,
    ) -> Result<RowSelection> {
        let with_key = self.pages_with("key", std::slice::from_ref(&self.key), footer, row_group, selection).await?;
        self.pages_with("value", &self.any_of, footer, row_group, with_key).await
    }

    async fn pages_with(
        &self,
        part: &str,
        any_of: &[String],
        footer: &Footer,
        row_group: usize,
        selection: RowSelection,
    ) -> Result<RowSelection> {
        if !selection.selects_any() {
            return Ok(selection);
        }
        let Some(leaf) = footer.leaf(&format!("{}.key_value.{part}", self.map)) else { return Ok(selection) };
        let Some(index) = footer.metadata.offset_index() else { return Ok(selection) };
        let group = footer.metadata.row_group(row_group);
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        let locations = index[row_group][leaf].page_locations().clone();
        let starts = locations.iter().map(|page| usize::try_from(page.first_row_index).unwrap_or(rows));
        let starts: Vec<usize> = starts.chain([rows]).collect();
        let file = Arc::new(footer.open()?);
        let mut pages = SerializedPageReader::new(file, group.column(leaf), rows, Some(locations))?;
        let selected = ranges(&selection);
        let as_stored = as_stored(any_of);
        let mut in_dictionary = false;
        let mut wanted = Vec::new();
        let mut place = 0;
        while place + 1 < starts.len() {
            let page = starts[place]..starts[place + 1];
            let is_dictionary = pages.peek_next_page()?.is_some_and(|next| next.is_dict);
            if !is_dictionary && !selected.iter().any(|rows| rows.start < page.end && page.start < rows.end) {
                pages.skip_next_page()?;
                place += 1;
                continue;
            }
            let holds = |bytes: &[u8]| as_stored.iter().any(|value| value.find(bytes).is_some());
            match pages.get_next_page()? {
                Some(Page::DictionaryPage { buf, .. }) => in_dictionary = holds(&buf),
                Some(data) => {
                    let may_hold = match data.encoding() {
                        Encoding::PLAIN => holds(data.buffer()),
                        #[allow(deprecated)] // old files have it
                        Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => in_dictionary,
                        _ => true,
                    };
                    if may_hold {
                        wanted.push(page);
                    }
                    place += 1;
                }
                None => return Ok(selection), // fewer pages than the index says: nothing is known of the rest
            }
            tokio::task::yield_now().await;
        }
        Ok(selection.intersection(&RowSelection::from_consecutive_ranges(wanted.into_iter(), rows)))
    }
}

/// Texts as they stand in a page: their length, four bytes, and they.
fn as_stored(any_of: &[String]) -> Vec<Finder<'static>> {
    let with_length = |value: &String| {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes();
        Finder::new(&[length.as_slice(), value.as_bytes()].concat()).into_owned()
    };
    any_of.iter().map(with_length).collect()
}

/// The map, and the key it is asked for.
fn asked(expr: &Arc<dyn PhysicalExpr>) -> Option<(String, String)> {
    let call = expr.downcast_ref::<ScalarFunctionExpr>().filter(|call| call.name() == "attr")?;
    let [map, key] = call.args() else { return None };
    Some((map.downcast_ref::<Column>()?.name().to_owned(), text(key)?))
}

fn text(expr: &Arc<dyn PhysicalExpr>) -> Option<String> {
    Some(expr.downcast_ref::<Literal>()?.value().try_as_str()??.to_owned())
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
