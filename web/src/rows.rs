//! Rows of an answer as plain values, whatever physical type the engine gave a column.

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Int64Type},
    record_batch::RecordBatch,
};
use futures::StreamExt;
use serde_json::Value;
use weir_analyzer::sketch::Sketch;
use weir_store::{SqlError, render};

use crate::{deps::Deps, error::ApiError};

/// A statement's answer, batch by batch, each with its columns cast to plain types.
pub(crate) struct Rows(RecordBatch);

/// Runs a bounded statement and reads its whole answer.
pub(crate) async fn ask(deps: &Deps, statement: &str) -> Result<Vec<Rows>, ApiError> {
    let mut all = Vec::new();
    let keep = |rows| {
        all.push(rows);
        Ok(())
    };
    ask_each(deps, statement, keep).await?;
    Ok(all)
}

/// Runs a statement whose answer may be long and hands on its rows as they come.
pub(crate) async fn ask_each(
    deps: &Deps,
    statement: &str,
    mut take: impl FnMut(Rows) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let mut answer = deps.store.ask(statement, None).await?;
    while let Some(batch) = answer.stream.next().await {
        take(Rows(batch?))?;
    }
    Ok(())
}

/// As [`ask`], the rows as JSON objects.
pub(crate) async fn ask_json(deps: &Deps, statement: &str) -> Result<Vec<Value>, ApiError> {
    Ok(ask(deps, statement).await?.iter().flat_map(|rows| render::to_json_rows(&rows.0)).collect())
}

/// As [`ask`], each span as a JSON object whose attributes are whole.
pub(crate) async fn ask_spans(deps: &Deps, statement: &str) -> Result<Vec<Value>, ApiError> {
    Ok(ask(deps, statement).await?.iter().flat_map(|rows| render::spans_to_json(&rows.0)).collect())
}

impl Rows {
    pub(crate) fn len(&self) -> usize {
        self.0.num_rows()
    }

    /// A column of texts; empty where it is null.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, ApiError> {
        let column = self.column(name, &DataType::Utf8)?;
        Ok(column.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()).collect())
    }

    /// A column of whole numbers; 0 where it is null.
    pub(crate) fn longs(&self, name: &str) -> Result<Vec<i64>, ApiError> {
        let column = self.column(name, &DataType::Int64)?;
        Ok(column.as_primitive::<Int64Type>().iter().map(Option::unwrap_or_default).collect())
    }

    /// A column of truths; false where it is null.
    pub(crate) fn truths(&self, name: &str) -> Result<Vec<bool>, ApiError> {
        let column = self.column(name, &DataType::Boolean)?;
        Ok(column.as_boolean().iter().map(Option::unwrap_or_default).collect())
    }

    /// A column of bytes; none where it is null.
    pub(crate) fn bytes(&self, name: &str) -> Result<Vec<Vec<u8>>, ApiError> {
        let column = self.column(name, &DataType::Binary)?;
        Ok(column.as_binary::<i32>().iter().map(|bytes| bytes.unwrap_or_default().to_vec()).collect())
    }

    /// A column of trace ids.
    pub(crate) fn trace_ids(&self, name: &str) -> Result<Vec<[u8; 16]>, ApiError> {
        let id = |bytes: Vec<u8>| <[u8; 16]>::try_from(bytes).unwrap_or_default();
        Ok(self.bytes(name)?.into_iter().map(id).collect())
    }

    /// A column of duration sketches; empty where it holds none.
    pub(crate) fn sketches(&self, name: &str) -> Result<Vec<Sketch>, ApiError> {
        let sketches = self.bytes(name)?;
        Ok(sketches.iter().map(|bytes| Sketch::from_bytes(bytes).unwrap_or_default()).collect())
    }

    fn column(&self, name: &str, data_type: &DataType) -> Result<ArrayRef, ApiError> {
        let failed = |why: String| ApiError::from(SqlError::Execution(why));
        let column = self.0.column_by_name(name).ok_or_else(|| failed(format!("the answer has no column {name}")))?;
        if column.data_type() == data_type {
            return Ok(column.clone());
        }
        let cast = cast(column, data_type).map_err(|e| failed(format!("column {name}: {e}")))?;
        debug_assert_eq!(cast.len(), self.len());
        Ok(cast)
    }
}
