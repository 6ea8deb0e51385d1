//! Spans made for tests, with every column that the analysis reads.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, Float64Array, Int64Array, MapBuilder, MapFieldNames, StringArray, StringBuilder,
        new_null_array,
    },
    record_batch::RecordBatch,
};
use weir_schema::Table;

/// A span.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) trace: u128,
    pub(crate) id: u64,
    pub(crate) parent: u64,
    pub(crate) start: i64,
    pub(crate) duration: i64,
    pub(crate) service: String,
    pub(crate) operation: String,
    pub(crate) kind: &'static str,
    pub(crate) error: bool,
    pub(crate) peer: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) messaging: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) instance: Option<String>,
    /// As its sidecar says.
    pub(crate) servers: Option<u32>,
    pub(crate) weight: Option<f64>,
    pub(crate) queue_wait: Option<i64>,
    /// In and out.
    pub(crate) tokens: Option<i64>,
    pub(crate) first_token: Option<i64>,
    pub(crate) received: i64,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            trace: 1,
            id: 1,
            parent: 0,
            start: 0,
            duration: 1_000_000,
            service: "front".into(),
            operation: "GET /".into(),
            kind: "server",
            error: false,
            peer: None,
            database: None,
            messaging: None,
            address: None,
            instance: None,
            servers: None,
            weight: None,
            queue_wait: None,
            tokens: None,
            first_token: None,
            received: 0,
        }
    }
}

impl Made {
    pub(crate) fn end(&self) -> i64 {
        self.start + self.duration
    }
}

pub(crate) fn batch<'a>(spans: impl IntoIterator<Item = &'a Made>) -> RecordBatch {
    let spans: Vec<&Made> = spans.into_iter().collect();
    let long = |value: fn(&Made) -> Option<i64>| {
        Arc::new(spans.iter().map(|span| value(span)).collect::<Int64Array>()) as ArrayRef
    };
    let text = |value: fn(&Made) -> Option<&str>| {
        Arc::new(spans.iter().map(|span| value(span)).collect::<StringArray>()) as ArrayRef
    };
    let bytes = |value: fn(&Made) -> Option<Vec<u8>>| {
        Arc::new(spans.iter().map(|span| value(span)).collect::<BinaryArray>()) as ArrayRef
    };
    let schema = Table::Spans.schema();
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "trace_id" => bytes(|s| Some(s.trace.to_be_bytes().to_vec())),
        "span_id" => bytes(|s| Some(s.id.to_be_bytes().to_vec())),
        "parent_span_id" => bytes(|s| (s.parent > 0).then(|| s.parent.to_be_bytes().to_vec())),
        "start_unix_nano" => long(|s| Some(s.start)),
        "duration_ns" => long(|s| Some(s.duration)),
        "received_unix_nano" => long(|s| Some(s.received)),
        "service" => text(|s| Some(&s.service)),
        "operation" => text(|s| Some(&s.operation)),
        "kind" => text(|s| Some(s.kind)),
        "status" => text(|s| Some(if s.error { "error" } else { "unset" })),
        "peer_service" => text(|s| s.peer.as_deref()),
        "db_system" => text(|s| s.database.as_deref()),
        "messaging_system" => text(|s| s.messaging.as_deref()),
        "server_address" => text(|s| s.address.as_deref()),
        "instance" => text(|s| s.instance.as_deref()),
        // only sidecars say how many servers there are, and they say what they did to each request
        "policy_action" => text(|s| s.servers.map(|_| "admitted")),
        "queue_wait_ns" => long(|s| s.queue_wait),
        "gen_ai_input_tokens" | "gen_ai_output_tokens" => long(|s| s.tokens),
        "time_to_first_token_ns" => long(|s| s.first_token),
        "sample_weight" => Arc::new(spans.iter().map(|s| s.weight).collect::<Float64Array>()),
        "resource_attributes" => resources(&spans),
        _ => new_null_array(field.data_type(), spans.len()),
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

fn resources(spans: &[&Made]) -> ArrayRef {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut resources = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for servers in spans.iter().map(|span| span.servers) {
        if let Some(servers) = servers {
            resources.keys().append_value("weir.servers");
            resources.values().append_value(servers.to_string());
        }
        resources.append(servers.is_some()).unwrap();
    }
    Arc::new(resources.finish())
}
