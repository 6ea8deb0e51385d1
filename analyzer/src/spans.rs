//! [`SpanColumns`]: a batch of `spans` read column by column, and the [`Names`] that make service
//! and operation names small numbers.

use arrow::{
    array::{Array, AsArray, BinaryArray, Int32Array, Int64Array, StringArray},
    datatypes::{Int32Type, Int64Type},
    record_batch::RecordBatch,
};
use hashbrown::HashMap;
use weir_schema::UnixNanos;

/// A name as a number.
pub(crate) type Name = u32;

/// Names, each once. Bounded by the caller: services and operations, not ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    by_text: HashMap<Box<str>, Name, foldhash::fast::RandomState>,
    texts: Vec<Box<str>>,
}

impl Names {
    pub(crate) fn intern(&mut self, text: &str) -> Name {
        if let Some(name) = self.by_text.get(text) {
            return *name;
        }
        let name = self.texts.len() as Name;
        self.texts.push(text.into());
        self.by_text.insert(text.into(), name);
        name
    }

    pub(crate) fn text(&self, name: Name) -> &str {
        &self.texts[name as usize]
    }

    pub(crate) fn find(&self, text: &str) -> Option<Name> {
        self.by_text.get(text).copied()
    }
}

/// What proxies report, in want of a status, for a client that left before the answer.
const CLIENT_CLOSED_REQUEST: i32 = 499;

/// Why a proxy sheds what has no room, of all its reasons.
const WANT_OF_ROOM: [&str; 4] = ["queue_full", "queue_timeout", "deadline_unmeetable", "displaced"];

/// The gRPC status of a call that its caller gave up.
const GRPC_CANCELLED: i32 = 1;

/// What side of a call a span saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Server,
    Client,
    Internal,
    Unspecified,
}

/// One span, as small as the analysis needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) trace: u128,
    pub(crate) id: u64,
    /// 0 for a root.
    pub(crate) parent: u64,
    pub(crate) start: UnixNanos,
    pub(crate) duration_ns: i64,
    pub(crate) service: Name,
    pub(crate) operation: Name,
    pub(crate) kind: Name,
    pub(crate) side: Side,
    pub(crate) error: bool,
    /// Whether its caller left before the answer: no fault of this service's.
    pub(crate) abandoned: bool,
    /// The other end, where the span names one.
    pub(crate) peer: Option<Name>,
    pub(crate) peer_kind: crate::snapshot::NodeKind,
    pub(crate) instance: Option<Name>,
    pub(crate) queue_wait_ns: Option<i64>,
    /// Whether the proxy turned it away.
    pub(crate) shed: bool,
    /// Whether it did so for want of room: a limit on who may be there was reached.
    pub(crate) refused: bool,
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) first_token_ns: Option<i64>,
}

impl Span {
    pub(crate) fn end(&self) -> UnixNanos {
        self.start.saturating_add(self.duration_ns)
    }

    pub(crate) fn key(&self) -> (u128, u64) {
        (self.trace, self.id)
    }
}

/// The columns of `spans` that the analysis reads.
pub const SPAN_COLUMNS: [&str; 22] = [
    "trace_id",
    "span_id",
    "parent_span_id",
    "start_unix_nano",
    "duration_ns",
    "service",
    "operation",
    "kind",
    "status",
    "peer_service",
    "db_system",
    "messaging_system",
    "server_address",
    "instance",
    "policy_action",
    "http_response_status_code",
    "rpc_grpc_status_code",
    "queue_wait_ns",
    "gen_ai_input_tokens",
    "gen_ai_output_tokens",
    "time_to_first_token_ns",
    "received_unix_nano",
];

/// The columns of a batch that the analysis reads. A batch that lacks one of the first is not ours.
pub(crate) struct SpanColumns<'a> {
    trace: &'a BinaryArray,
    id: &'a BinaryArray,
    parent: &'a BinaryArray,
    start: &'a Int64Array,
    duration: &'a Int64Array,
    service: &'a StringArray,
    operation: &'a StringArray,
    kind: &'a StringArray,
    status: &'a StringArray,
    peer: Option<&'a StringArray>,
    database: Option<&'a StringArray>,
    messaging: Option<&'a StringArray>,
    address: Option<&'a StringArray>,
    instance: Option<&'a StringArray>,
    action: Option<&'a StringArray>,
    http_status: Option<&'a Int32Array>,
    grpc_status: Option<&'a Int32Array>,
    queue_wait: Option<&'a Int64Array>,
    input_tokens: Option<&'a Int64Array>,
    output_tokens: Option<&'a Int64Array>,
    first_token: Option<&'a Int64Array>,
    received: Option<&'a Int64Array>,
}

impl<'a> SpanColumns<'a> {
    pub(crate) fn of(batch: &'a RecordBatch) -> Option<Self> {
        let binary = |name: &str| batch.column_by_name(name)?.as_binary_opt::<i32>();
        let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
        let long = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
        let int = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int32Type>();
        Some(Self {
            trace: binary("trace_id")?,
            id: binary("span_id")?,
            parent: binary("parent_span_id")?,
            start: long("start_unix_nano")?,
            duration: long("duration_ns")?,
            service: text("service")?,
            operation: text("operation")?,
            kind: text("kind")?,
            status: text("status")?,
            peer: text("peer_service"),
            database: text("db_system"),
            messaging: text("messaging_system"),
            address: text("server_address"),
            instance: text("instance"),
            action: text("policy_action"),
            http_status: int("http_response_status_code"),
            grpc_status: int("rpc_grpc_status_code"),
            queue_wait: long("queue_wait_ns"),
            input_tokens: long("gen_ai_input_tokens"),
            output_tokens: long("gen_ai_output_tokens"),
            first_token: long("time_to_first_token_ns"),
            received: long("received_unix_nano"),
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.start.len()
    }

    /// When the collector took the newest of them.
    pub(crate) fn received_until(&self) -> UnixNanos {
        self.received.and_then(arrow::compute::max).unwrap_or(0)
    }

    pub(crate) fn span(&self, row: usize, names: &mut Names) -> Span {
        let kind = self.kind.value(row);
        let side = match kind {
            "server" | "consumer" => Side::Server,
            "client" | "producer" => Side::Client,
            "internal" => Side::Internal,
            _ => Side::Unspecified,
        };
        let (peer, peer_kind) = self.peer(row, side);
        let http_status = number(self.http_status, row);
        let failed_server = side == Side::Server && http_status.is_some_and(|s| s >= 500);
        let cancelled = number(self.grpc_status, row) == Some(GRPC_CANCELLED);
        let action = text(self.action, row);
        Span {
            trace: self.trace.value(row).try_into().map_or(0, u128::from_be_bytes),
            id: id(self.id.value(row)),
            parent: if self.parent.is_valid(row) { id(self.parent.value(row)) } else { 0 },
            start: self.start.value(row),
            duration_ns: self.duration.value(row).max(0),
            service: names.intern(self.service.value(row)),
            operation: names.intern(self.operation.value(row)),
            kind: names.intern(kind),
            side,
            error: self.status.value(row) == "error" || failed_server,
            abandoned: cancelled || http_status == Some(CLIENT_CLOSED_REQUEST),
            peer: peer.map(|peer| names.intern(peer)),
            peer_kind,
            instance: text(self.instance, row).map(|instance| names.intern(instance)),
            queue_wait_ns: long(self.queue_wait, row),
            shed: action.is_some_and(|action| !matches!(action, "admitted" | "queued")),
            refused: action.is_some_and(|action| WANT_OF_ROOM.contains(&action)),
            input_tokens: long(self.input_tokens, row).unwrap_or(0),
            output_tokens: long(self.output_tokens, row).unwrap_or(0),
            first_token_ns: long(self.first_token, row),
        }
    }

    /// Who a client span calls, as far as the span itself says.
    fn peer(&self, row: usize, side: Side) -> (Option<&'a str>, crate::snapshot::NodeKind) {
        use crate::snapshot::NodeKind;
        if side != Side::Client {
            return (None, NodeKind::Service);
        }
        let peer = text(self.peer, row);
        if let Some(database) = text(self.database, row) {
            return (peer.or(Some(database)), NodeKind::Database);
        }
        if let Some(messaging) = text(self.messaging, row) {
            return (peer.or(Some(messaging)), NodeKind::Messaging);
        }
        (peer.or(text(self.address, row)), NodeKind::External)
    }
}

fn id(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

fn text(column: Option<&StringArray>, row: usize) -> Option<&str> {
    column.filter(|c| c.is_valid(row)).map(|c| c.value(row)).filter(|text| !text.is_empty())
}

fn long(column: Option<&Int64Array>, row: usize) -> Option<i64> {
    column.filter(|c| c.is_valid(row)).map(|c| c.value(row))
}

fn number(column: Option<&Int32Array>, row: usize) -> Option<i32> {
    column.filter(|c| c.is_valid(row)).map(|c| c.value(row))
}
