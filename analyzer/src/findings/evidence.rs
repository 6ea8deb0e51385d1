//! Evidence as it is built: a sentence with its number, then the trace and the statement that show it.

use crate::snapshot::Evidence;

impl Evidence {
    /// A sentence and the number in it.
    pub(crate) fn number(text: String, value: f64, unit: &str) -> Self {
        Self { text, value: Some(value), unit: Some(unit.to_owned()), ..Self::default() }
    }

    /// With a trace that shows it.
    pub(crate) fn with_trace(self, trace: Option<u128>) -> Self {
        Self { trace_id: trace.map(|trace| format!("{trace:032x}")).or(self.trace_id), ..self }
    }

    /// With a statement that shows it.
    pub(crate) fn with_sql(self, sql: String) -> Self {
        Self { sql: Some(sql), ..self }
    }
}
