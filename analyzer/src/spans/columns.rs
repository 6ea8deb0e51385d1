//! [`SpanColumns`]: a batch of `spans` read column by column.

use std::borrow::Cow;

use arrow::{
    array::{Array, AsArray, BinaryArray, Float64Array, Int32Array, Int64Array, StringArray},
    datatypes::{Float64Type, Int32Type, Int64Type},
    record_batch::RecordBatch,
};
use weir_schema::UnixNanos;

use super::{Side, Span, name_column::NameColumn, said::SaidServers, whole::whole_weight};
use crate::{
    names::{self, Name, Names, Role},
    snapshot::NodeKind,
};

/// What proxies report, in want of a status, for a client that left before the answer.
const CLIENT_CLOSED_REQUEST: i32 = 499;

/// Why a proxy sheds what has no room, of all its reasons.
const WANT_OF_ROOM: [&str; 4] = ["queue_full", "queue_timeout", "deadline_unmeetable", "displaced"];

/// The gRPC status of a call that its caller gave up.
const GRPC_CANCELLED: i32 = 1;

/// What a gRPC server answers when the caller is to blame: what the conventions do not count as errors of a server, but for what had no
/// room (RESOURCE_EXHAUSTED).
const GRPC_REFUSALS: [i32; 9] = [1, 3, 5, 6, 7, 9, 10, 11, 16];

/// What an HTTP server of 400 to 499 answers though the caller is not to blame: it waited too long for the request, it is too early, there are
/// too many of them. Another try may succeed.
const HTTP_FAILURES: [i32; 3] = [408, 425, 429];

/// No span stands for more attempts than this: a proxy's own bound is far below.
const MAX_REPEATS: u16 = 100;

/// No request lasts a year: what says so lasts one, and begins when two more can be told. So no sum of times overflows.
const LONGEST_NS: i64 = 366 * 86_400 * 1_000_000_000;
const LAST_START: UnixNanos = UnixNanos::MAX - 2 * LONGEST_NS;

/// The columns of `spans` that the analysis reads.
pub const SPAN_COLUMNS: [&str; 24] = [
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
    "sample_weight",
    "received_unix_nano",
    "http_request_resend_count",
];

/// The columns of a batch that the analysis reads. A batch that lacks one of the first is not ours.
pub(crate) struct SpanColumns<'a> {
    trace: &'a BinaryArray,
    id: &'a BinaryArray,
    parent: &'a BinaryArray,
    start: &'a Int64Array,
    duration: &'a Int64Array,
    service: NameColumn<'a>,
    operation: NameColumn<'a>,
    kind: NameColumn<'a>,
    status: &'a StringArray,
    peer: Option<&'a StringArray>,
    database: Option<&'a StringArray>,
    messaging: Option<&'a StringArray>,
    address: Option<&'a StringArray>,
    instance: Option<NameColumn<'a>>,
    action: Option<&'a StringArray>,
    http_status: Option<&'a Int32Array>,
    grpc_status: Option<&'a Int32Array>,
    queue_wait: Option<&'a Int64Array>,
    input_tokens: Option<&'a Int64Array>,
    output_tokens: Option<&'a Int64Array>,
    first_token: Option<&'a Int64Array>,
    weight: Option<&'a Float64Array>,
    received: Option<&'a Int64Array>,
    resent: Option<&'a Int32Array>,
    said: Option<SaidServers<'a>>,
}

impl<'a> SpanColumns<'a> {
    pub(crate) fn of(batch: &'a RecordBatch) -> Option<Self> {
        let binary = |name: &str| batch.column_by_name(name)?.as_binary_opt::<i32>();
        let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
        let long = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
        let int = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int32Type>();
        let names = |role: Role, name: &str| text(name).map(|texts| NameColumn::new(role, texts));
        Some(Self {
            trace: binary("trace_id")?,
            id: binary("span_id")?,
            parent: binary("parent_span_id")?,
            start: long("start_unix_nano")?,
            duration: long("duration_ns")?,
            service: names(Role::Service, "service")?,
            operation: names(Role::Operation, "operation")?,
            kind: names(Role::Operation, "kind")?,
            status: text("status")?,
            peer: text("peer_service"),
            database: text("db_system"),
            messaging: text("messaging_system"),
            address: text("server_address"),
            instance: names(Role::Instance, "instance"),
            action: text("policy_action"),
            http_status: int("http_response_status_code"),
            grpc_status: int("rpc_grpc_status_code"),
            queue_wait: long("queue_wait_ns"),
            input_tokens: long("gen_ai_input_tokens"),
            output_tokens: long("gen_ai_output_tokens"),
            first_token: long("time_to_first_token_ns"),
            weight: batch.column_by_name("sample_weight").and_then(|column| column.as_primitive_opt::<Float64Type>()),
            received: long("received_unix_nano"),
            // hardly any batch has one: then no span is asked
            resent: int("http_request_resend_count").filter(|counts| counts.null_count() < counts.len()),
            said: SaidServers::of(batch),
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
        let kind = self.kind.name(row, names);
        let side = match kind {
            names::SERVER | names::CONSUMER => Side::Server,
            names::CLIENT | names::PRODUCER => Side::Client,
            names::INTERNAL => Side::Internal,
            _ => Side::Unspecified,
        };
        let parent = if self.parent.is_valid(row) { id(self.parent.value(row)) } else { 0 };
        let takes_from_queue = parent == 0 && kind == names::CONSUMER;
        let (peer, peer_kind) = if takes_from_queue { self.queue(row) } else { self.peer(row, side) };
        let http_status = number(self.http_status, row);
        let failed_server = side == Side::Server && http_status.is_some_and(|s| s >= 500);
        let cancelled = number(self.grpc_status, row) == Some(GRPC_CANCELLED);
        let action = text(self.action, row);
        let is_refusal = side == Side::Client && action.is_some() && self.is_refusal(row);
        let (repeats, is_repeat) = if side == Side::Client { self.repeats(row, action.is_some()) } else { (0, false) };
        // what a hostile sender says does not reach beyond its span
        let duration_ns = self.duration.value(row).clamp(0, LONGEST_NS);
        let within = |ns: i64| ns.clamp(0, duration_ns);
        let trace = self.trace.value(row).try_into().map_or(0, u128::from_be_bytes);
        let (weight, sampled) = self.weight(row, trace);
        let (service, instance) = (self.service.name(row, names), self.instance(row, names));
        // who says what it did to a request is a sidecar
        let said = self.said.as_ref().filter(|_| side == Side::Server && action.is_some());
        Span {
            trace,
            id: id(self.id.value(row)),
            parent,
            start: self.start.value(row).clamp(0, LAST_START),
            duration_ns,
            service,
            operation: self.operation.name(row, names),
            kind,
            side,
            error: failed_server || (self.status.value(row) == "error" && !is_refusal),
            abandoned: cancelled || http_status == Some(CLIENT_CLOSED_REQUEST),
            peer: peer.map(|(role, peer)| names.said(role, &peer)),
            peer_kind,
            instance,
            servers: said.and_then(|said| said.servers(row, (service, instance))),
            queue_wait_ns: long(self.queue_wait, row).map(within).into(),
            shed: action.is_some_and(|action| !matches!(action, "admitted" | "queued")),
            refused: action.is_some_and(|action| WANT_OF_ROOM.contains(&action)),
            repeats,
            is_repeat,
            input_tokens: long(self.input_tokens, row).unwrap_or(0).max(0),
            output_tokens: long(self.output_tokens, row).unwrap_or(0).max(0),
            first_token_ns: long(self.first_token, row).map(within).into(),
            weight,
            sampled,
        }
    }

    /// Whether what was called answered that the caller is to blame. The conventions make that an error of the call, but nothing failed:
    /// it is neither a cause nor worth another try. What was turned away for want of room or time did fail.
    fn is_refusal(&self, row: usize) -> bool {
        let grpc_status = number(self.grpc_status, row).unwrap_or_default();
        number(self.http_status, row).is_some_and(|status| match status {
            400..500 => !HTTP_FAILURES.contains(&status),
            _ => status < 400 && GRPC_REFUSALS.contains(&grpc_status),
        })
    }

    /// How many spans it stands for, and whether any were left out.
    fn weight(&self, row: usize, trace: u128) -> (u32, bool) {
        let Some(weight) = self.weight.filter(|column| column.is_valid(row)) else { return (1, false) };
        let weight = weight.value(row);
        (whole_weight(weight, trace), weight > 1.0)
    }

    /// What a count of repeats is of: a proxy's span, which says what it did with the request, has them in itself; with
    /// others it is the number of this attempt (OpenTelemetry's `http.request.resend_count`).
    fn repeats(&self, row: usize, of_proxy: bool) -> (u16, bool) {
        let Some(count) = number(self.resent, row).filter(|count| *count > 0) else { return (0, false) };
        if of_proxy { (u16::try_from(count).unwrap_or(MAX_REPEATS).min(MAX_REPEATS), false) } else { (0, true) }
    }

    fn instance(&self, row: usize, names: &mut Names) -> Option<Name> {
        let column = self.instance.as_ref()?;
        text(Some(column.texts), row).map(|_| column.name(row, names))
    }

    /// Whom a consumer has its message from: where no parent says who sent it, it is the queue.
    fn queue(&self, row: usize) -> (Option<(Role, Cow<'a, str>)>, NodeKind) {
        let (peer, kind) = self.peer(row, Side::Server);
        match text(self.messaging, row) {
            Some(messaging) => (peer.or(Some((Role::Peer, messaging.into()))), NodeKind::Messaging),
            None => (peer, kind),
        }
    }

    /// Who a client span calls, or who a server span is called by, as far as the span itself says.
    fn peer(&self, row: usize, side: Side) -> (Option<(Role, Cow<'a, str>)>, NodeKind) {
        let peer = text(self.peer, row).map(|peer| (Role::Peer, peer.into()));
        if side != Side::Client {
            return (peer, NodeKind::Service);
        }
        if let Some(database) = text(self.database, row) {
            return (peer.or_else(|| Some((Role::Peer, self.database(row, database)))), NodeKind::Database);
        }
        if let Some(messaging) = text(self.messaging, row) {
            return (peer.or(Some((Role::Peer, messaging.into()))), NodeKind::Messaging);
        }
        (peer.or(text(self.address, row).map(|address| (Role::Host, address.into()))), NodeKind::External)
    }

    /// A database by its system and, where it is said, its host: two of one system are two. SQL says it alike (`findings/statements.rs`).
    fn database(&self, row: usize, system: &'a str) -> Cow<'a, str> {
        text(self.address, row).map_or(system.into(), |address| format!("{system} {address}").into())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::ArrayRef,
        datatypes::{Field, Schema},
    };

    use super::*;

    /// A span of this kind that says what its proxy did, and a count of repeats.
    fn span(kind: &str, action: Option<&str>, resent: Option<i32>) -> Span {
        let resent: ArrayRef = Arc::new(Int32Array::from(vec![resent]));
        span_with(kind, action, "unset", [("http_request_resend_count", resent)])
    }

    fn span_with<const N: usize>(kind: &str, action: Option<&str>, status: &str, more: [(&str, ArrayRef); N]) -> Span {
        SpanColumns::of(&batch_with(kind, action, status, more)).unwrap().span(0, &mut Names::default())
    }

    fn batch_with<const N: usize>(
        kind: &str,
        action: Option<&str>,
        status: &str,
        more: [(&str, ArrayRef); N],
    ) -> RecordBatch {
        let text = |value: Option<&str>| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let long = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
        let id = |bytes: &[u8]| -> ArrayRef { Arc::new(BinaryArray::from_iter_values([bytes])) };
        let columns: [(&str, ArrayRef); 10] = [
            ("trace_id", id(&[7; 16])),
            ("span_id", id(&[1; 8])),
            ("parent_span_id", id(&[2; 8])),
            ("start_unix_nano", long(5)),
            ("duration_ns", long(9)),
            ("service", text(Some("order"))),
            ("operation", text(Some("POST"))),
            ("kind", text(Some(kind))),
            ("status", text(Some(status))),
            ("policy_action", text(action)),
        ];
        let columns: Vec<(&str, ArrayRef)> = columns.into_iter().chain(more).collect();
        let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect()).unwrap()
    }

    /// Otherwise a call that found nothing would hide what its caller failed of, and the next would be a retry.
    #[test]
    fn what_a_callee_refuses_is_no_failure_of_a_proxys_call() {
        for (kind, action, http, grpc, expect) in [
            ("client", Some("admitted"), Some(404), None, false),
            ("client", Some("admitted"), Some(200), Some(5), false),
            ("client", Some("admitted"), Some(200), Some(14), true),
            // a limit of the callee is no fault of the caller: who is turned away fails of it, and tries again
            ("client", Some("admitted"), Some(429), None, true),
            ("client", Some("admitted"), Some(408), None, true),
            ("client", Some("admitted"), Some(425), None, true),
            ("client", Some("admitted"), Some(200), Some(8), true),
            ("client", Some("admitted"), Some(503), None, true),
            ("client", Some("admitted"), None, None, true),
            // what other tracers call an error is one
            ("client", None, Some(404), None, true),
            ("server", Some("admitted"), Some(404), None, true),
        ] {
            let number = |value: Option<i32>| -> ArrayRef { Arc::new(Int32Array::from(vec![value])) };
            let more = [("http_response_status_code", number(http)), ("rpc_grpc_status_code", number(grpc))];
            let span = span_with(kind, action, "error", more);
            assert_eq!(span.error, expect, "{kind} {action:?} {http:?} {grpc:?}");
        }
    }

    #[test]
    fn databases_of_one_system_are_told_apart_where_their_host_is_said() {
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, NodeKind);
        let cases: [Case<'_>; 5] = [
            (&[("db_system", "postgresql")], "postgresql", NodeKind::Database),
            (
                &[("db_system", "postgresql"), ("server_address", "orders-db")],
                "postgresql orders-db",
                NodeKind::Database,
            ),
            (&[("db_system", "redis"), ("server_address", "")], "redis", NodeKind::Database),
            (
                &[("db_system", "redis"), ("server_address", "a"), ("peer_service", "sessions")],
                "sessions",
                NodeKind::Database,
            ),
            (&[("server_address", "orders-db")], "orders-db", NodeKind::External),
        ];
        for (said, name, kind) in cases {
            let text = |name: &str| -> ArrayRef {
                let value = said.iter().find(|(column, _)| *column == name).map(|(_, value)| *value);
                Arc::new(StringArray::from(vec![value]))
            };
            let more = ["db_system", "server_address", "peer_service"].map(|name| (name, text(name)));
            let mut names = Names::default();
            let span = SpanColumns::of(&batch_with("client", None, "ok", more)).unwrap().span(0, &mut names);
            assert_eq!((names.text(span.peer.unwrap()), span.peer_kind), (name, kind), "{said:?}");
        }
    }

    #[test]
    fn a_proxys_span_holds_its_repeats_and_of_others_each_is_one() {
        let cases = [
            ("client", Some("admitted"), Some(3), (3, false)),
            ("client", Some("queued"), Some(1_000_000), (MAX_REPEATS, false)),
            ("client", None, Some(3), (0, true)),
            ("client", None, Some(0), (0, false)),
            ("client", Some("admitted"), None, (0, false)),
            // what a sidecar repeats towards its own service its callers did not
            ("server", Some("admitted"), Some(3), (0, false)),
        ];
        for (kind, action, resent, expect) in cases {
            let span = span(kind, action, resent);
            assert_eq!((span.repeats, span.is_repeat), expect, "{kind} {action:?} {resent:?}");
        }
    }
}
