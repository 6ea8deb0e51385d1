//! [`SpanColumns`]: a batch of `spans` read column by column.

mod maybe;
mod said;

use std::{cell::Cell, num::NonZeroU16};

use arrow::{
    array::{Array, AsArray, BinaryArray, Float64Array, Int32Array, Int64Array, StringArray},
    datatypes::{Float64Type, Int32Type, Int64Type},
    record_batch::RecordBatch,
};
pub(crate) use maybe::MaybeNs;
use said::SaidServers;
use weir_schema::UnixNanos;

use crate::names::{self, Role};
pub(crate) use crate::names::{Name, Names};

/// What proxies report, in want of a status, for a client that left before the answer.
const CLIENT_CLOSED_REQUEST: i32 = 499;

/// Why a proxy sheds what has no room, of all its reasons.
const WANT_OF_ROOM: [&str; 4] = ["queue_full", "queue_timeout", "deadline_unmeetable", "displaced"];

/// The gRPC status of a call that its caller gave up.
const GRPC_CANCELLED: i32 = 1;

/// No span stands for more attempts than this: a proxy's own bound is far below.
const MAX_REPEATS: u16 = 100;

/// No span stands for more than this: a sender that claims to keep one of more claims what cannot be checked.
const MAX_WEIGHT: f64 = 1e6;

/// No request lasts a year: what says so lasts one, and begins when two more can be told. So no sum of times overflows.
const LONGEST_NS: i64 = 366 * 86_400 * 1_000_000_000;
const LAST_START: UnixNanos = UnixNanos::MAX - 2 * LONGEST_NS;

/// What side of a call a span saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Server,
    Client,
    Internal,
    #[default]
    Unspecified,
}

/// One span, as small as the analysis needs it: 128 bytes, up to which a copy is no call.
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
    /// The other end, where the span names one: who is called, or of a server span who calls.
    pub(crate) peer: Option<Name>,
    pub(crate) peer_kind: crate::snapshot::NodeKind,
    pub(crate) instance: Option<Name>,
    /// How many requests the replica works on at once, as its sidecar says.
    pub(crate) servers: Option<NonZeroU16>,
    pub(crate) queue_wait_ns: MaybeNs,
    /// Whether the proxy turned it away.
    pub(crate) shed: bool,
    /// Whether it did so for want of room: a limit on who may be there was reached.
    pub(crate) refused: bool,
    /// Attempts that failed before the one it tells of: a proxy makes one span of all of them.
    pub(crate) repeats: u16,
    /// Whether it is an attempt after one that failed, by its own word: who instruments code makes a span of each.
    pub(crate) is_repeat: bool,
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) first_token_ns: MaybeNs,
    /// How many spans it stands for, see [`whole_weight`].
    pub(crate) weight: u32,
    /// Whether others like it were left out: 4/3 as a whole number is 1 for two traces of three, and they are sampled.
    pub(crate) sampled: bool,
}

impl Default for Span {
    fn default() -> Self {
        Self {
            trace: 0,
            id: 0,
            parent: 0,
            start: 0,
            duration_ns: 0,
            service: 0,
            operation: 0,
            kind: 0,
            side: Side::default(),
            error: false,
            abandoned: false,
            peer: None,
            peer_kind: crate::snapshot::NodeKind::Service,
            instance: None,
            servers: None,
            queue_wait_ns: MaybeNs::default(),
            shed: false,
            refused: false,
            repeats: 0,
            is_repeat: false,
            input_tokens: 0,
            output_tokens: 0,
            first_token_ns: MaybeNs::default(),
            weight: 1,
            sampled: false,
        }
    }
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

/// A column of names that remembers some: rows of one sender stand together and name the same few.
struct NameColumn<'a> {
    texts: &'a StringArray,
    role: Role,
    /// By the last bytes of the text: where names differ.
    seen: Box<[Seen<'a>]>,
}

/// A text and its name.
type Seen<'a> = Cell<Option<(&'a str, Name)>>;

/// 512 of 24 bytes: a column's stay within the second cache; of 64, names of 1,000 services displaced each other.
const SEEN_NAMES: usize = 512;

impl<'a> NameColumn<'a> {
    fn new(role: Role, texts: &'a StringArray) -> Self {
        Self { texts, role, seen: vec![Cell::new(None); SEEN_NAMES].into() }
    }

    fn name(&self, row: usize, names: &mut Names) -> Name {
        let text = self.texts.value(row);
        let place = &self.seen[place_of(text)];
        if let Some((seen, name)) = place.get()
            && seen == text
        {
            return name;
        }
        let name = names.said(self.role, text);
        place.set(Some((text, name)));
        name
    }
}

fn place_of(text: &str) -> usize {
    let mix = |hash: usize, byte: &u8| hash.wrapping_mul(37).wrapping_add(*byte as usize);
    text.as_bytes().iter().rev().take(6).fold(text.len(), mix) % SEEN_NAMES
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
            error: self.status.value(row) == "error" || failed_server,
            abandoned: cancelled || http_status == Some(CLIENT_CLOSED_REQUEST),
            peer: peer.map(|(role, peer)| names.said(role, peer)),
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
    fn queue(&self, row: usize) -> (Option<(Role, &'a str)>, crate::snapshot::NodeKind) {
        let (peer, kind) = self.peer(row, Side::Server);
        match text(self.messaging, row) {
            Some(messaging) => (peer.or(Some((Role::Peer, messaging))), crate::snapshot::NodeKind::Messaging),
            None => (peer, kind),
        }
    }

    /// Who a client span calls, or who a server span is called by, as far as the span itself says.
    fn peer(&self, row: usize, side: Side) -> (Option<(Role, &'a str)>, crate::snapshot::NodeKind) {
        use crate::snapshot::NodeKind;
        let peer = text(self.peer, row).map(|peer| (Role::Peer, peer));
        if side != Side::Client {
            return (peer, NodeKind::Service);
        }
        if let Some(database) = text(self.database, row) {
            return (peer.or(Some((Role::Peer, database))), NodeKind::Database);
        }
        if let Some(messaging) = text(self.messaging, row) {
            return (peer.or(Some((Role::Peer, messaging))), NodeKind::Messaging);
        }
        (peer.or(text(self.address, row).map(|address| (Role::Host, address))), NodeKind::External)
    }
}

/// A weight as a whole number: w of 4/3 is 1 for two traces of three and 2 for one, chosen by trace
/// id. So its mean is right (D. Horvitz and D. Thompson, JASA 1952), counts stay exact and can be taken
/// out again, all spans of a trace count alike, and a duplicate says the same twice.
fn whole_weight(weight: f64, trace: u128) -> u32 {
    let weight = if weight.is_nan() { 1.0 } else { weight.clamp(1.0, MAX_WEIGHT) };
    // the low bits of an id decide whether it is sampled at all, so all its bits are mixed (splitmix64)
    let mut mixed = ((trace >> 64) as u64 ^ (trace as u64).rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let uniform = ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64;
    (weight + uniform) as u32
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
        let text = |value: Option<&str>| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let long = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
        let id = |bytes: &[u8]| -> ArrayRef { Arc::new(BinaryArray::from_iter_values([bytes])) };
        let columns: [(&str, ArrayRef); 11] = [
            ("trace_id", id(&[7; 16])),
            ("span_id", id(&[1; 8])),
            ("parent_span_id", id(&[2; 8])),
            ("start_unix_nano", long(5)),
            ("duration_ns", long(9)),
            ("service", text(Some("order"))),
            ("operation", text(Some("POST"))),
            ("kind", text(Some(kind))),
            ("status", text(Some("unset"))),
            ("policy_action", text(action)),
            ("http_request_resend_count", Arc::new(Int32Array::from(vec![resent]))),
        ];
        let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect()).unwrap();
        SpanColumns::of(&batch).unwrap().span(0, &mut Names::default())
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

    #[test]
    fn weights_are_whole_and_right_in_the_mean() {
        assert_eq!(whole_weight(1.0, 7), 1);
        assert_eq!(whole_weight(8.0, 7), 8);
        assert_eq!((whole_weight(f64::NAN, 7), whole_weight(-3.0, 7), whole_weight(0.5, 7)), (1, 1, 1));
        assert_eq!(whole_weight(f64::INFINITY, 7), 1_000_000);
        for weight in [4.0 / 3.0, 1.1, 2.5, 10.25] {
            let sum: f64 = (0..30_000_u128).map(|trace| f64::from(whole_weight(weight, trace << 40 | trace))).sum();
            assert!((sum / 30_000.0 / weight - 1.0).abs() < 0.01, "{weight}: {}", sum / 30_000.0);
        }
    }
}
