//! One span made of a recorded one: fresh ids, a shifted time, and the attributes that were not recorded. Every
//! value comes from a hash of the day and the span's place, so that the same arguments give the same bytes.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::recording::{Kind, Parent, Recorded, Recording, service};

pub(crate) const SEED: u64 = 7;
const DAY_NANOS: i64 = 86_400_000_000_000;
const USERS: u64 = 10_000;
const WIDE_KEYS: u64 = 300;
const WIDE_KEYS_PER_SERVICE: u64 = 60;
const WIDE_KEYS_PER_SPAN: u64 = 9;
const WIDE_VALUES: u64 = 1_000;
pub(crate) const SCOPE: &str = "shop.instrumentation";
pub(crate) const SCOPE_VERSION: &str = "1.4.0";

/// Which kind of attributes spans get.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// About 7, by OpenTelemetry's conventions.
    Narrow,
    /// 300 keys overall, 11 a span.
    Wide,
}

/// One span, complete: what both outputs are written from.
pub(crate) struct Made {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
    pub(crate) parent_span_id: Option<[u8; 8]>,
    pub(crate) pod: usize,
    pub(crate) operation: usize,
    pub(crate) start_unix_nano: i64,
    pub(crate) duration_ns: i64,
    pub(crate) kind: Kind,
    pub(crate) error: bool,
    pub(crate) texts: Vec<(String, String)>,
    pub(crate) numbers: Vec<(&'static str, i64)>,
    pub(crate) event: Option<MadeEvent>,
}

pub(crate) struct MadeEvent {
    pub(crate) time_unix_nano: i64,
    pub(crate) name: &'static str,
    pub(crate) attribute: (&'static str, String),
}

/// The chance of one day and place: the same for the same purpose, unrelated between purposes.
#[derive(Clone, Copy)]
struct Dice {
    day: u64,
    place: u64,
}

impl Dice {
    fn hash(self, purpose: &str) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.day.to_le_bytes());
        bytes[8..].copy_from_slice(&self.place.to_le_bytes());
        xxh3_64_with_seed(&bytes, xxh3_64_with_seed(purpose.as_bytes(), SEED))
    }

    fn below(self, purpose: &str, end: u64) -> u64 {
        self.hash(purpose) % end
    }
}

pub(crate) fn make_span(recording: &Recording, span: &Recorded, day: u64, shape: Shape) -> Made {
    let place = u64::from(span.ordinal);
    let (of_span, of_trace) = (Dice { day, place }, Dice { day, place: u64::from(span.trace) });
    let id = |place| Dice { day, place }.hash("span").to_be_bytes();
    let mut trace_id = [0; 16];
    trace_id[..8].copy_from_slice(&of_trace.hash("trace").to_be_bytes());
    trace_id[8..].copy_from_slice(&of_trace.hash("rest of trace").to_be_bytes());
    let error = span.kind != Kind::Internal && of_span.below("error", 100) == 0;
    let operation = &recording.operations[span.operation];
    let version = 1 + of_span.below("version", 3);
    let route = format!("/api/v{version}/{}", operation.trim_start_matches('/').replace('.', "/"));
    let mut made = Made {
        trace_id,
        span_id: id(place),
        parent_span_id: match span.parent {
            Parent::Root => None,
            Parent::Recorded(parent) => Some(id(u64::from(parent))),
            Parent::Missing(parent) => Some(Dice { day, place: parent }.hash("missing").to_be_bytes()),
        },
        pod: span.pod,
        operation: span.operation,
        start_unix_nano: span.start_unix_nano + day as i64 * DAY_NANOS,
        duration_ns: span.duration_ns,
        kind: span.kind,
        error,
        texts: vec![("http.route".into(), route)],
        numbers: vec![("http.response.status_code", status_code(of_span, error))],
        event: None,
    };
    match shape {
        Shape::Narrow => narrow_attributes(&mut made, recording, span, of_span, of_trace),
        Shape::Wide => wide_attributes(&mut made, of_span),
    }
    made.event = event(&made, of_span);
    made
}

fn status_code(dice: Dice, error: bool) -> i64 {
    match (error, dice.below("status", 100)) {
        (true, 0..=69) => 500,
        (true, _) => 503,
        (false, 0..=1) => 404,
        (false, 2..=5) => 204,
        (false, _) => 200,
    }
}

fn narrow_attributes(made: &mut Made, recording: &Recording, span: &Recorded, dice: Dice, of_trace: Dice) {
    let mut text = |key: &str, value: String| made.texts.push((key.to_owned(), value));
    let posts = span.operation.is_multiple_of(3);
    text("http.request.method", if posts { "POST" } else { "GET" }.into());
    let address = service(&recording.pods[span.callee.unwrap_or(span.pod)]);
    text("server.address", format!("{address}.shop.svc.cluster.local"));
    let environment =
        ["production", "production", "production", "staging", "canary"][dice.below("environment", 5) as usize];
    text("deployment.environment.name", environment.into());
    if span.kind == Kind::Server {
        text("user.id", format!("user-{:05}", of_trace.below("user", USERS)));
    } else {
        text("thread.name", format!("worker-{:02}", dice.below("thread", 32)));
    }
    if matches!(span.parent, Parent::Root) {
        text("session.id", format!("{:016x}", of_trace.hash("session")));
    }
    if dice.below("has request id", 1_000) == 0 {
        text("app.request.id", format!("{:016x}{:016x}", dice.hash("request id"), dice.hash("rest of request id")));
    }
    made.numbers.push(("http.response.body.size", dice.below("size", 100_000) as i64));
}

/// Two keys of three belong to the operation, the others are any of the service's; low values are likelier.
fn wide_attributes(made: &mut Made, dice: Dice) {
    let of_operation = Dice { day: 0, place: made.operation as u64 };
    let first_key = made.pod as u64 * 27;
    for slot in 0..WIDE_KEYS_PER_SPAN {
        let chooser = if slot < WIDE_KEYS_PER_SPAN * 2 / 3 { of_operation } else { dice };
        let offset = chooser.below(&format!("key {slot}"), WIDE_KEYS_PER_SERVICE);
        let key = format!("app.k{:03}", (first_key + offset) % WIDE_KEYS);
        if made.texts.iter().any(|(taken, _)| *taken == key) {
            continue;
        }
        let value = dice
            .below(&format!("value {slot}"), WIDE_VALUES)
            .min(dice.below(&format!("other value {slot}"), WIDE_VALUES));
        made.texts.push((key, format!("value-{value:03}")));
    }
}

/// One on every 20th span.
fn event(made: &Made, dice: Dice) -> Option<MadeEvent> {
    if dice.below("has event", 20) != 0 {
        return None;
    }
    let (name, attribute) = if made.error {
        let kind = ["TimeoutError", "ConnectionRefused", "InvalidArgument"][dice.below("exception", 3) as usize];
        ("exception", ("exception.type", kind.to_owned()))
    } else {
        ("cache.lookup", ("cache.key", format!("item-{:04}", dice.below("item", 5_000))))
    };
    Some(MadeEvent { time_unix_nano: made.start_unix_nano + made.duration_ns / 2, name, attribute })
}

/// The attributes of a pod's resource.
pub(crate) fn resource(pod: &str) -> [(&'static str, &str); 3] {
    [("service.name", service(pod)), ("service.instance.id", pod), ("telemetry.sdk.language", "go")]
}
