//! The messages of OTLP: what each field is called in JSON, and what it is on the wire.

use opentelemetry_proto::tonic::{
    logs::v1::SeverityNumber,
    metrics::v1::AggregationTemporality,
    trace::v1::{span::SpanKind, status::StatusCode},
};

use crate::Signal;

/// A message's fields.
pub(super) struct Message {
    pub(super) fields: &'static [Field],
}

pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) presence: Presence,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Message(&'static Message),
    Text,
    Bool,
    Double,
    Uint32,
    Fixed32,
    Sint32,
    Int64,
    Sfixed64,
    Uint64,
    Fixed64,
    /// The number of a name.
    Enum(fn(&str) -> Option<i32>),
    /// Bytes that are an id.
    Hex,
    Base64,
}

/// What it means that a field is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nothing, when it is zero or empty.
    Implicit,
    /// Something, whatever it is.
    Explicit,
    /// As explicit, and that no other of the message is.
    Alone,
    Repeated,
}

use Kind::{Base64, Bool, Double, Enum, Fixed32, Fixed64, Hex, Int64, Sfixed64, Sint32, Text, Uint32, Uint64};

/// The request of a signal.
pub(super) fn request(signal: Signal) -> &'static Message {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
    }
}

const fn one(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, presence: Presence::Implicit }
}

const fn explicit(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, presence: Presence::Explicit }
}

const fn alone(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, presence: Presence::Alone }
}

const fn many(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, presence: Presence::Repeated }
}

const fn message(name: &'static str, number: u32, message: &'static Message) -> Field {
    explicit(name, number, Kind::Message(message))
}

const fn messages(name: &'static str, number: u32, message: &'static Message) -> Field {
    many(name, number, Kind::Message(message))
}

static TRACES: Message = Message { fields: &[messages("resourceSpans", 1, &RESOURCE_SPANS)] };

static RESOURCE_SPANS: Message = Message {
    fields: &[message("resource", 1, &RESOURCE), messages("scopeSpans", 2, &SCOPE_SPANS), one("schemaUrl", 3, Text)],
};

static SCOPE_SPANS: Message =
    Message { fields: &[message("scope", 1, &SCOPE), messages("spans", 2, &SPAN), one("schemaUrl", 3, Text)] };

static SPAN: Message = Message {
    fields: &[
        one("traceId", 1, Hex),
        one("spanId", 2, Hex),
        one("parentSpanId", 4, Hex),
        one("name", 5, Text),
        one("kind", 6, Enum(|name| SpanKind::from_str_name(name).map(i32::from))),
        one("startTimeUnixNano", 7, Fixed64),
        one("endTimeUnixNano", 8, Fixed64),
        messages("attributes", 9, &KEY_VALUE),
        message("status", 15, &STATUS),
        messages("events", 11, &EVENT),
        messages("links", 13, &LINK),
        one("traceState", 3, Text),
        one("flags", 16, Fixed32),
        one("droppedAttributesCount", 10, Uint32),
        one("droppedEventsCount", 12, Uint32),
        one("droppedLinksCount", 14, Uint32),
    ],
};

static STATUS: Message = Message {
    fields: &[one("message", 2, Text), one("code", 3, Enum(|name| StatusCode::from_str_name(name).map(i32::from)))],
};

static EVENT: Message = Message {
    fields: &[
        one("timeUnixNano", 1, Fixed64),
        one("name", 2, Text),
        messages("attributes", 3, &KEY_VALUE),
        one("droppedAttributesCount", 4, Uint32),
    ],
};

static LINK: Message = Message {
    fields: &[
        one("traceId", 1, Hex),
        one("spanId", 2, Hex),
        one("traceState", 3, Text),
        messages("attributes", 4, &KEY_VALUE),
        one("droppedAttributesCount", 5, Uint32),
        one("flags", 6, Fixed32),
    ],
};

static LOGS: Message = Message { fields: &[messages("resourceLogs", 1, &RESOURCE_LOGS)] };

static RESOURCE_LOGS: Message = Message {
    fields: &[message("resource", 1, &RESOURCE), messages("scopeLogs", 2, &SCOPE_LOGS), one("schemaUrl", 3, Text)],
};

static SCOPE_LOGS: Message =
    Message { fields: &[message("scope", 1, &SCOPE), messages("logRecords", 2, &RECORD), one("schemaUrl", 3, Text)] };

static RECORD: Message = Message {
    fields: &[
        one("timeUnixNano", 1, Fixed64),
        one("observedTimeUnixNano", 11, Fixed64),
        one("severityNumber", 2, Enum(|name| SeverityNumber::from_str_name(name).map(i32::from))),
        one("severityText", 3, Text),
        message("body", 5, &ANY_VALUE),
        messages("attributes", 6, &KEY_VALUE),
        one("traceId", 9, Hex),
        one("spanId", 10, Hex),
        one("eventName", 12, Text),
        one("flags", 8, Fixed32),
        one("droppedAttributesCount", 7, Uint32),
    ],
};

static METRICS: Message = Message { fields: &[messages("resourceMetrics", 1, &RESOURCE_METRICS)] };

static RESOURCE_METRICS: Message = Message {
    fields: &[
        message("resource", 1, &RESOURCE),
        messages("scopeMetrics", 2, &SCOPE_METRICS),
        one("schemaUrl", 3, Text),
    ],
};

static SCOPE_METRICS: Message =
    Message { fields: &[message("scope", 1, &SCOPE), messages("metrics", 2, &METRIC), one("schemaUrl", 3, Text)] };

static METRIC: Message = Message {
    fields: &[
        one("name", 1, Text),
        one("description", 2, Text),
        one("unit", 3, Text),
        messages("metadata", 12, &KEY_VALUE),
        alone("gauge", 5, Kind::Message(&GAUGE)),
        alone("sum", 7, Kind::Message(&SUM)),
        alone("histogram", 9, Kind::Message(&HISTOGRAM)),
        alone("exponentialHistogram", 10, Kind::Message(&EXPONENTIAL_HISTOGRAM)),
        alone("summary", 11, Kind::Message(&SUMMARY)),
    ],
};

const TEMPORALITY: Field =
    one("aggregationTemporality", 2, Enum(|name| AggregationTemporality::from_str_name(name).map(i32::from)));

static GAUGE: Message = Message { fields: &[messages("dataPoints", 1, &NUMBER_POINT)] };

static SUM: Message =
    Message { fields: &[messages("dataPoints", 1, &NUMBER_POINT), TEMPORALITY, one("isMonotonic", 3, Bool)] };

static HISTOGRAM: Message = Message { fields: &[messages("dataPoints", 1, &HISTOGRAM_POINT), TEMPORALITY] };

static EXPONENTIAL_HISTOGRAM: Message =
    Message { fields: &[messages("dataPoints", 1, &EXPONENTIAL_POINT), TEMPORALITY] };

static SUMMARY: Message = Message { fields: &[messages("dataPoints", 1, &SUMMARY_POINT)] };

static NUMBER_POINT: Message = Message {
    fields: &[
        messages("attributes", 7, &KEY_VALUE),
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        alone("asDouble", 4, Double),
        alone("asInt", 6, Sfixed64),
        messages("exemplars", 5, &EXEMPLAR),
        one("flags", 8, Uint32),
    ],
};

static HISTOGRAM_POINT: Message = Message {
    fields: &[
        messages("attributes", 9, &KEY_VALUE),
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        one("count", 4, Fixed64),
        explicit("sum", 5, Double),
        many("bucketCounts", 6, Fixed64),
        many("explicitBounds", 7, Double),
        messages("exemplars", 8, &EXEMPLAR),
        one("flags", 10, Uint32),
        explicit("min", 11, Double),
        explicit("max", 12, Double),
    ],
};

static EXPONENTIAL_POINT: Message = Message {
    fields: &[
        messages("attributes", 1, &KEY_VALUE),
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        one("count", 4, Fixed64),
        explicit("sum", 5, Double),
        one("scale", 6, Sint32),
        one("zeroCount", 7, Fixed64),
        message("positive", 8, &BUCKETS),
        message("negative", 9, &BUCKETS),
        one("flags", 10, Uint32),
        messages("exemplars", 11, &EXEMPLAR),
        explicit("min", 12, Double),
        explicit("max", 13, Double),
        one("zeroThreshold", 14, Double),
    ],
};

static BUCKETS: Message = Message { fields: &[one("offset", 1, Sint32), many("bucketCounts", 2, Uint64)] };

static SUMMARY_POINT: Message = Message {
    fields: &[
        messages("attributes", 7, &KEY_VALUE),
        one("startTimeUnixNano", 2, Fixed64),
        one("timeUnixNano", 3, Fixed64),
        one("count", 4, Fixed64),
        one("sum", 5, Double),
        messages("quantileValues", 6, &VALUE_AT_QUANTILE),
        one("flags", 8, Uint32),
    ],
};

static VALUE_AT_QUANTILE: Message = Message { fields: &[one("quantile", 1, Double), one("value", 2, Double)] };

static EXEMPLAR: Message = Message {
    fields: &[
        messages("filteredAttributes", 7, &KEY_VALUE),
        one("timeUnixNano", 2, Fixed64),
        alone("asDouble", 3, Double),
        alone("asInt", 6, Sfixed64),
        one("spanId", 4, Hex),
        one("traceId", 5, Hex),
    ],
};

static RESOURCE: Message = Message {
    fields: &[
        messages("attributes", 1, &KEY_VALUE),
        one("droppedAttributesCount", 2, Uint32),
        messages("entityRefs", 3, &ENTITY_REF),
    ],
};

static ENTITY_REF: Message = Message {
    fields: &[
        one("schemaUrl", 1, Text),
        one("type", 2, Text),
        many("idKeys", 3, Text),
        many("descriptionKeys", 4, Text),
    ],
};

static SCOPE: Message = Message {
    fields: &[
        one("name", 1, Text),
        one("version", 2, Text),
        messages("attributes", 3, &KEY_VALUE),
        one("droppedAttributesCount", 4, Uint32),
    ],
};

static KEY_VALUE: Message = Message { fields: &[one("key", 1, Text), message("value", 2, &ANY_VALUE)] };

/// Of several values the last is meant, as in protobuf and in other collectors.
static ANY_VALUE: Message = Message {
    fields: &[
        explicit("stringValue", 1, Text),
        explicit("boolValue", 2, Bool),
        explicit("intValue", 3, Int64),
        explicit("doubleValue", 4, Double),
        message("arrayValue", 5, &ARRAY),
        message("kvlistValue", 6, &KEY_VALUE_LIST),
        explicit("bytesValue", 7, Base64),
    ],
};

static ARRAY: Message = Message { fields: &[messages("values", 1, &ANY_VALUE)] };

static KEY_VALUE_LIST: Message = Message { fields: &[messages("values", 1, &KEY_VALUE)] };
