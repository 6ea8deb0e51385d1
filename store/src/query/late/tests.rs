//! The search through encoded pages against a look at every row, over random maps in files of many forms.

use std::{path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, MapBuilder, MapFieldNames, StringArray, StringBuilder},
    compute::cast,
    datatypes::{DataType, Field},
    record_batch::RecordBatch,
};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::RowSelection},
    basic::Encoding,
    file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion},
    schema::types::ColumnPath,
};

use super::{
    super::footers::{Footer, Footers},
    search::search,
    sought::{Of, Sought},
};

/// A row's map, if it has one: keys may come twice, values may be null.
type Map = Option<Vec<(String, Option<String>)>>;

struct Row {
    map: Map,
    text: Option<String>,
    id: String,
}

/// A linear congruential generator: a failure comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn value(&mut self) -> Option<String> {
        match self.below(40) {
            0 => None,
            1 => Some(String::new()),
            2 => Some("\u{2}\0\0\0v7".into()), // holds another one's bytes
            3 => Some(format!("a value that is much longer than others {}", self.below(50))),
            _ => Some(format!("v{}", self.below(300))),
        }
    }

    fn map(&mut self) -> Map {
        let entries = match self.below(30) {
            0 => return None,
            1 => 0,
            _ => self.below(9),
        };
        Some((0..entries).map(|_| (format!("k{}", self.below(40)), self.value())).collect())
    }

    fn rows(&mut self, count: usize) -> Vec<Row> {
        let mut row = |n: usize| Row { map: self.map(), text: self.value(), id: format!("v{}", n / 30) };
        (0..count).map(&mut row).collect()
    }

    /// Most, few or runs of rows.
    fn selection(&mut self, rows: usize) -> RowSelection {
        let run = [1, 7, 500, rows][self.below(4)];
        let mut ranges = Vec::new();
        let mut at = self.below(run.min(rows));
        while at < rows {
            let end = rows.min(at + 1 + self.below(run));
            ranges.push(at..end);
            at = end + 1 + self.below(run);
        }
        RowSelection::from_consecutive_ranges(ranges.into_iter(), rows)
    }

    fn sought(&mut self) -> Sought {
        let values = [1, 1, 1, 3, 12][self.below(5)];
        let any_of = (0..values).map(|_| self.value().unwrap_or_else(|| "not there".into()).into_bytes()).collect();
        let of = match self.below(6) {
            0 => Of::Column("text".into()),
            1 => Of::Column("id".into()),
            _ => Of::Entry { map: "map".into(), key: format!("k{}", self.below(44)).into_bytes() },
        };
        Sought { of, any_of }
    }
}

fn maps(rows: &[Row]) -> ArrayRef {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for row in rows {
        for (key, value) in row.map.iter().flatten() {
            map.keys().append_value(key);
            map.values().append_option(value.as_ref());
        }
        map.append(row.map.is_some()).unwrap();
    }
    Arc::new(map.finish())
}

/// The column with its values in another of Arrow's types.
fn with_values(map: &ArrayRef, of: &DataType) -> ArrayRef {
    let DataType::Map(entries, sorted) = map.data_type() else { unreachable!("it is a map") };
    let DataType::Struct(fields) = entries.data_type() else { unreachable!("it has entries") };
    let value = Arc::new(Field::clone(&fields[1]).with_data_type(of.clone()));
    let pair = DataType::Struct([fields[0].clone(), value].into_iter().collect());
    let entries = Arc::new(Field::clone(entries).with_data_type(pair));
    cast(map, &DataType::Map(entries, *sorted)).unwrap()
}

/// A file of these rows, text in this type of Arrow's.
fn footer(dir: &Path, rows: &[Row], text: &DataType, properties: WriterProperties) -> Arc<Footer> {
    let of_texts: StringArray = rows.iter().map(|row| row.text.as_ref()).collect();
    let ids = StringArray::from_iter_values(rows.iter().map(|row| &row.id));
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("map", with_values(&maps(rows), text), true),
        ("text", cast(&of_texts, text).unwrap(), true),
        ("id", Arc::new(ids), false),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let path = dir.join("file");
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    Footers::new(Arc::new(crate::disk::RealDisk)).get(&path).unwrap()
}

fn leaf(name: &str) -> ColumnPath {
    ColumnPath::new(["map", "key_value", name].map(String::from).to_vec())
}

/// The rows that are selected and have such a value; of a map its first entry with the key counts.
fn plainly(sought: &Sought, rows: &[Row], selection: &RowSelection) -> Vec<usize> {
    let value = |row: &Row| match &sought.of {
        Of::Column(name) if name == "id" => Some(row.id.clone()),
        Of::Column(_) => row.text.clone(),
        Of::Entry { key, .. } => {
            row.map.iter().flatten().find(|(of, _)| of.as_bytes() == key).and_then(|(_, value)| value.clone())
        }
    };
    let has = |row: &usize| value(&rows[*row]).is_some_and(|value| sought.any_of.contains(&value.into_bytes()));
    selected(selection).into_iter().filter(has).collect()
}

fn selected(selection: &RowSelection) -> Vec<usize> {
    let mut at = 0;
    let mut rows = Vec::new();
    for selector in selection.iter() {
        if !selector.skip {
            rows.extend(at..at + selector.row_count);
        }
        at += selector.row_count;
    }
    rows
}

type Form = (&'static str, fn(WriterPropertiesBuilder) -> WriterPropertiesBuilder);

const FORMS: [Form; 8] = [
    ("as weir writes: keys in a dictionary, values not", |it| it.set_column_dictionary_enabled(leaf("value"), false)),
    ("both in dictionaries", |it| it),
    ("neither", |it| it.set_dictionary_enabled(false)),
    ("dictionaries that overflow", |it| it.set_dictionary_page_size_limit(120).set_write_batch_size(64)),
    ("pages of keys and of values that do not match", |it| {
        it.set_column_dictionary_enabled(leaf("value"), false)
            .set_column_data_page_size_limit(leaf("value"), 900)
            .set_column_data_page_size_limit(leaf("key"), 150)
            .set_write_batch_size(16)
    }),
    ("small pages in dictionaries", |it| it.set_data_page_row_count_limit(50).set_write_batch_size(10)),
    ("row groups", |it| it.set_max_row_group_row_count(Some(900))),
    ("row groups that overflow", |it| {
        it.set_max_row_group_row_count(Some(1_700))
            .set_dictionary_page_size_limit(900)
            .set_data_page_row_count_limit(300)
    }),
];

#[tokio::test]
async fn a_search_finds_what_a_look_at_every_row_finds() {
    let dir = tempfile::tempdir().unwrap();
    for (form, of) in FORMS {
        for text in [DataType::Utf8, DataType::Utf8View, DataType::LargeUtf8] {
            let mut random = Random(11);
            let rows = random.rows(3_000);
            let properties = of(WriterProperties::builder().set_write_batch_size(128)).build();
            let footer = footer(dir.path(), &rows, &text, properties);
            let mut found = 0;
            for _ in 0..60 {
                let sought = random.sought();
                found += compare(&sought, &rows, &footer, &mut random, form).await;
            }
            assert!(found > 100, "{form}: {found} rows are too few to say anything");
        }
    }
}

/// Asks each row group; says how many rows were found.
async fn compare(sought: &Sought, rows: &[Row], footer: &Footer, random: &mut Random, form: &str) -> usize {
    let (mut first, mut count) = (0, 0);
    for row_group in 0..footer.row_groups() {
        let end = first + footer.metadata.row_group(row_group).num_rows() as usize;
        let selection = random.selection(end - first);
        let found = search(sought, footer, row_group, &selection).await.unwrap().expect("a form that is known");
        let found = selected(&found.selection);
        assert_eq!(found, plainly(sought, &rows[first..end], &selection), "{form}: {sought:?}");
        count += found.len();
        first = end;
    }
    count
}

#[tokio::test]
async fn pages_of_another_form_are_left_to_a_reader_that_knows_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(5);
    let rows = random.rows(500);
    let of_ids =
        |encoding| WriterProperties::builder().set_dictionary_enabled(false).set_column_encoding("id".into(), encoding);
    let second_version = WriterProperties::builder().set_writer_version(WriterVersion::PARQUET_2_0);
    let all = RowSelection::from_consecutive_ranges(std::iter::once(0..500), 500);
    for (known, properties) in [
        (false, second_version),
        (false, of_ids(Encoding::DELTA_BYTE_ARRAY)),
        (false, of_ids(Encoding::DELTA_LENGTH_BYTE_ARRAY)),
        (true, of_ids(Encoding::PLAIN)),
    ] {
        let footer = footer(dir.path(), &rows, &DataType::Utf8, properties.build());
        let sought = Sought { of: Of::Column("id".into()), any_of: vec!["v1".into()] };
        assert_eq!(search(&sought, &footer, 0, &all).await.unwrap().is_some(), known);
    }
}
