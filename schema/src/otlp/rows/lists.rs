//! [`Events`] and [`Links`]: what spans have lists of, as columns of lists of structs.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Builder, ListArray, NullBufferBuilder, StructArray},
    datatypes::{DataType, Field, Fields as ArrowFields},
    error::ArrowError,
};

use crate::{
    attribute::{self, Letters},
    cells::{self, Bytes, Maps},
    otlp::{
        nanos,
        value::Attribute,
        wire::{Fields, Malformed},
    },
};

/// Events of spans.
pub(super) struct Events {
    lists: Lists,
    times: Int64Builder,
    names: Bytes,
    attributes: Maps,
    types: Bytes,
}

impl Events {
    pub(super) fn new(item: &Arc<Field>) -> Self {
        let (times, names) = (Int64Builder::new(), Bytes::new());
        Self { lists: Lists::new(item), times, names, attributes: Maps::new(), types: Bytes::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }

    pub(super) fn append_nulls(&mut self, rows: usize) {
        self.lists.append_nulls(rows);
    }

    pub(super) fn append(&mut self, events: &[&[u8]]) -> Result<(), Malformed> {
        for (position, message) in events.iter().enumerate() {
            self.append_one(message).map_err(|e| e.item("events", position))?;
        }
        self.lists.end(self.names.len());
        Ok(())
    }

    fn append_one(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let (mut time, mut name, mut attributes) = (0, "", Vec::new());
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => time = field.fixed64("time_unix_nano")?,
                2 => name = field.text("name")?,
                3 => Attribute::push_checked(field, "attributes", &mut attributes)?,
                _ => {}
            }
        }
        self.times.append_value(nanos(time));
        self.names.append(name.as_bytes());
        append_typed(&mut self.attributes, &mut self.types, &mut self.lists.letters, &attributes)
    }

    pub(super) fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let fields: Vec<ArrayRef> = vec![
            Arc::new(self.times.finish()),
            Arc::new(self.names.finish_text()?),
            Arc::new(self.attributes.finish()?),
            Arc::new(self.types.finish_text()?),
        ];
        self.lists.finish(fields)
    }
}

/// Links of spans.
pub(super) struct Links {
    lists: Lists,
    trace_ids: Bytes,
    span_ids: Bytes,
    trace_states: Bytes,
    attributes: Maps,
    types: Bytes,
}

impl Links {
    pub(super) fn new(item: &Arc<Field>) -> Self {
        let [trace_ids, span_ids, trace_states, types] = std::array::from_fn(|_| Bytes::new());
        Self { lists: Lists::new(item), trace_ids, span_ids, trace_states, attributes: Maps::new(), types }
    }

    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }

    pub(super) fn append_nulls(&mut self, rows: usize) {
        self.lists.append_nulls(rows);
    }

    pub(super) fn append(&mut self, links: &[&[u8]]) -> Result<(), Malformed> {
        for (position, message) in links.iter().enumerate() {
            self.append_one(message).map_err(|e| e.item("links", position))?;
        }
        self.lists.end(self.trace_ids.len());
        Ok(())
    }

    fn append_one(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let (mut trace_id, mut span_id, mut trace_state, mut attributes): (&[u8], &[u8], _, _) =
            (&[], &[], "", Vec::new());
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => trace_id = field.bytes("trace_id")?,
                2 => span_id = field.bytes("span_id")?,
                3 => trace_state = field.text("trace_state")?,
                4 => Attribute::push_checked(field, "attributes", &mut attributes)?,
                _ => {}
            }
        }
        self.trace_ids.append(trace_id);
        self.span_ids.append(span_id);
        append_option(&mut self.trace_states, Some(trace_state.as_bytes()).filter(|state| !state.is_empty()));
        append_typed(&mut self.attributes, &mut self.types, &mut self.lists.letters, &attributes)
    }

    pub(super) fn finish(self) -> Result<ArrayRef, ArrowError> {
        let fields: Vec<ArrayRef> = vec![
            Arc::new(self.trace_ids.finish_binary()),
            Arc::new(self.span_ids.finish_binary()),
            Arc::new(self.trace_states.finish_text()?),
            Arc::new(self.attributes.finish()?),
            Arc::new(self.types.finish_text()?),
        ];
        self.lists.finish(fields)
    }
}

/// Lists of structs as they grow: where each row's list ends.
struct Lists {
    offsets: Vec<i32>,
    valid: NullBufferBuilder,
    item: Arc<Field>,
    letters: Letters,
}

impl Lists {
    fn new(item: &Arc<Field>) -> Self {
        let valid = NullBufferBuilder::new(0);
        Self { offsets: vec![0], valid, item: item.clone(), letters: Letters::default() }
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn end(&mut self, items: usize) {
        self.offsets.push(i32::try_from(items).expect("a request is smaller than 2 GiB"));
        self.valid.append_non_null();
    }

    fn append_nulls(&mut self, rows: usize) {
        let end = self.offsets[self.len()];
        self.offsets.resize(self.offsets.len() + rows, end);
        self.valid.append_n_nulls(rows);
    }

    fn finish(mut self, fields: Vec<ArrayRef>) -> Result<ArrayRef, ArrowError> {
        let items = StructArray::try_new(self.struct_fields(), fields, None)?;
        let offsets = cells::offsets_of(self.offsets);
        Ok(Arc::new(ListArray::try_new(self.item, offsets, Arc::new(items), self.valid.finish())?))
    }

    fn struct_fields(&self) -> ArrowFields {
        match self.item.data_type() {
            DataType::Struct(fields) => fields.clone(),
            other => unreachable!("events and links are structs, not {other}"),
        }
    }
}

fn append_typed(
    maps: &mut Maps,
    types: &mut Bytes,
    letters: &mut Letters,
    attributes: &[Attribute<'_>],
) -> Result<(), Malformed> {
    attribute::append(maps, letters, attributes.iter().copied())?;
    append_option(types, letters.needed());
    Ok(())
}

fn append_option(cells: &mut Bytes, value: Option<&[u8]>) {
    match value {
        Some(value) => cells.append(value),
        None => cells.append_nulls(1),
    }
}
