//! The same spans as Parquet, for the peers: plain columns, ids in hex, attributes as two maps by the type of the value.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Int64Builder, ListBuilder, MapBuilder, MapFieldNames, StringBuilder, StructBuilder},
    datatypes::{DataType, Field, Fields, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

use crate::{
    recording::{Kind, Recording, service},
    span::{Made, SCOPE, SCOPE_VERSION, resource},
};

const SPANS_PER_FILE: usize = 600_000;

/// Files of as many rows each.
pub(crate) struct ParquetFiles {
    dir: PathBuf,
    schema: SchemaRef,
    writer: Option<ArrowWriter<File>>,
    rows: usize,
}

impl ParquetFiles {
    pub(crate) fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_owned(), schema: parquet_schema(), writer: None, rows: 0 }
    }

    pub(crate) fn write(&mut self, recording: &Recording, spans: &[Made]) {
        if self.rows.is_multiple_of(SPANS_PER_FILE) {
            self.close();
            let path = self.dir.join(format!("spans-{:04}.parquet", self.rows / SPANS_PER_FILE));
            let level = ZstdLevel::try_new(1).unwrap();
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
            let file = File::create(path).unwrap();
            self.writer = Some(ArrowWriter::try_new(file, self.schema.clone(), Some(properties)).unwrap());
        }
        self.writer.as_mut().unwrap().write(&batch(&self.schema, recording, spans)).unwrap();
        self.rows += spans.len();
    }

    pub(crate) fn close(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.close().unwrap();
        }
    }
}

fn map_field_names() -> MapFieldNames {
    MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() }
}

fn map_type(value: DataType) -> DataType {
    let fields = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(fields), false)), false)
}

fn event_fields() -> Fields {
    Fields::from(vec![
        Field::new("time_unix_nano", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("attribute_key", DataType::Utf8, true),
        Field::new("attribute_value", DataType::Utf8, true),
    ])
}

fn parquet_schema() -> SchemaRef {
    use DataType::{Int64, Utf8};
    let events = DataType::List(Arc::new(Field::new("element", DataType::Struct(event_fields()), true)));
    let columns = [
        ("trace_id", Utf8),
        ("span_id", Utf8),
        ("parent_span_id", Utf8),
        ("start_unix_nano", Int64),
        ("duration_ns", Int64),
        ("service", Utf8),
        ("instance", Utf8),
        ("operation", Utf8),
        ("kind", Utf8),
        ("status", Utf8),
        ("scope_name", Utf8),
        ("scope_version", Utf8),
        ("attributes", map_type(Utf8)),
        ("int_attributes", map_type(Int64)),
        ("resource_attributes", map_type(Utf8)),
        ("events", events),
    ];
    let fields = columns.map(|(name, data_type)| Field::new(name, data_type, false));
    Arc::new(Schema::new(fields.to_vec()))
}

fn batch(schema: &SchemaRef, recording: &Recording, spans: &[Made]) -> RecordBatch {
    let strings = |value: &dyn Fn(&Made) -> String| -> ArrayRef {
        let mut column = StringBuilder::new();
        spans.iter().for_each(|span| column.append_value(value(span)));
        Arc::new(column.finish())
    };
    let numbers = |value: &dyn Fn(&Made) -> i64| -> ArrayRef {
        let mut column = Int64Builder::new();
        spans.iter().for_each(|span| column.append_value(value(span)));
        Arc::new(column.finish())
    };
    let kind = |kind| match kind {
        Kind::Internal => "internal",
        Kind::Server => "server",
        Kind::Client => "client",
    };
    let pod = |span: &Made| recording.pods[span.pod].as_str();
    let mut texts = MapBuilder::new(Some(map_field_names()), StringBuilder::new(), StringBuilder::new());
    let mut integers = MapBuilder::new(Some(map_field_names()), StringBuilder::new(), Int64Builder::new());
    let mut resources = MapBuilder::new(Some(map_field_names()), StringBuilder::new(), StringBuilder::new());
    let mut events = ListBuilder::new(StructBuilder::from_fields(event_fields(), 0)).with_field(Field::new(
        "element",
        DataType::Struct(event_fields()),
        true,
    ));
    for span in spans {
        for (key, value) in &span.texts {
            texts.keys().append_value(key);
            texts.values().append_value(value);
        }
        texts.append(true).unwrap();
        for (key, value) in &span.numbers {
            integers.keys().append_value(key);
            integers.values().append_value(*value);
        }
        integers.append(true).unwrap();
        for (key, value) in resource(pod(span)) {
            resources.keys().append_value(key);
            resources.values().append_value(value);
        }
        resources.append(true).unwrap();
        if let Some(event) = &span.event {
            let fields = events.values();
            fields.field_builder::<Int64Builder>(0).unwrap().append_value(event.time_unix_nano);
            let texts = [event.name, event.attribute.0, &event.attribute.1];
            for (place, value) in texts.into_iter().enumerate() {
                fields.field_builder::<StringBuilder>(place + 1).unwrap().append_value(value);
            }
            fields.append(true);
        }
        events.append(true);
    }
    let columns: Vec<ArrayRef> = vec![
        strings(&|span| hex::encode(span.trace_id)),
        strings(&|span| hex::encode(span.span_id)),
        strings(&|span| span.parent_span_id.map(hex::encode).unwrap_or_default()),
        numbers(&|span| span.start_unix_nano),
        numbers(&|span| span.duration_ns),
        strings(&|span| service(pod(span)).into()),
        strings(&|span| pod(span).into()),
        strings(&|span| recording.operations[span.operation].clone()),
        strings(&|span| kind(span.kind).into()),
        strings(&|span| if span.error { "error" } else { "unset" }.into()),
        strings(&|_| SCOPE.into()),
        strings(&|_| SCOPE_VERSION.into()),
        Arc::new(texts.finish()),
        Arc::new(integers.finish()),
        Arc::new(resources.finish()),
        Arc::new(events.finish()),
    ];
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}
