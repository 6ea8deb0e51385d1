//! OTLP/gRPC: the three `Export` methods, and the policy stream.
//!
//! The export methods read gRPC's framing themselves (a byte that says whether the message is
//! compressed, its length in four bytes, the message): the length is known before the message is
//! there, so a request that does not fit is refused unread, and what is stored is what was sent.

use std::{convert::Infallible, io, time::Duration};

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse},
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse},
};
use prost::Message;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, service::Routes};
use tonic_types::{ErrorDetails, StatusExt};
use tower::ServiceExt;
use weir_policy::wire::proto::policy_service_server::PolicyServiceServer;
use weir_schema::{Encoding, Signal};

use crate::{
    body::{BodyError, Exactly, Frames},
    collector::{Accepted, Arrived, Collector, NotAccepted},
    doors::{self, Speaks},
    ending::Ending,
    inflate::Coding,
    ingest::Ingest,
    patience::Patience,
    policy_stream::PolicyStream,
    reservation::Reservation,
};

/// A compression flag and a length come before each message.
const PREFIX_BYTES: usize = 5;

pub(crate) async fn serve<I: Ingest>(
    collector: Collector<I>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let policy = PolicyStream {
        policy: collector.policy.clone(),
        proxies: collector.proxies.clone(),
        shutdown: shutdown.clone(),
    };
    let others = Routes::new(PolicyServiceServer::new(policy)).prepare();
    let answering = collector.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (collector, others) = (answering.clone(), others.clone());
        async move {
            match signal(request.uri().path()) {
                Some(signal) => Ok::<_, Infallible>(export(&collector, signal, request).await),
                None => others.oneshot(request).await,
            }
        }
    });
    doors::serve(&collector, listener, Speaks::Http2, service, shutdown).await
}

fn signal(path: &str) -> Option<Signal> {
    match path {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Some(Signal::Traces),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Some(Signal::Metrics),
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Some(Signal::Logs),
        _ => None,
    }
}

async fn export<I: Ingest>(collector: &Collector<I>, signal: Signal, request: Request<Incoming>) -> Response<Body> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_grpc = content_type.is_some_and(is_protobuf_over_grpc);
    if request.method() != Method::POST || !is_grpc {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let call = match Call::of(request.headers(), collector) {
        Ok(call) => call,
        Err(status) => return failure(status),
    };
    let (deadline, ending) = (call.deadline, collector.begins(signal));
    if deadline <= Instant::now() {
        return failure(Status::deadline_exceeded("the deadline of the call has passed"));
    }
    let answered = tokio::time::timeout_at(deadline, accept(collector, signal, ending, call, request.into_body()));
    match answered.await {
        Ok(Ok(accepted)) => success(&response(signal, accepted)),
        Ok(Err(status)) => failure(status),
        Err(_) => failure(Status::deadline_exceeded("the deadline of the call has passed")),
    }
}

fn is_protobuf_over_grpc(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"].iter().any(|known| media_type.eq_ignore_ascii_case(known))
}

/// What the head of a call says.
struct Call {
    coding: Coding,
    patience: Patience,
    /// When the caller no longer waits.
    deadline: Instant,
    /// When the message must be there, if the caller waits so long.
    read_by: Instant,
}

impl Call {
    fn of<I>(headers: &HeaderMap, collector: &Collector<I>) -> Result<Self, Status> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let coding = text("grpc-encoding");
        let coding = Coding::of(coding).ok_or_else(|| {
            Status::unimplemented(format!(
                "grpc-encoding {:?} is not gzip, deflate, zstd or identity",
                coding.unwrap_or_default()
            ))
        })?;
        let now = Instant::now();
        let config = &collector.config;
        let timeout = match text("grpc-timeout") {
            None => FOREVER,
            Some(text) => timeout(text).ok_or_else(|| Status::internal("grpc-timeout is malformed"))?,
        };
        let deadline = now + timeout.min(FOREVER);
        let patience = Patience::new(now, Duration::from_millis(config.max_wait_ms), Some(deadline));
        let read_by = patience.unread_until + Duration::from_millis(config.body_timeout_ms);
        Ok(Self { coding, patience, deadline, read_by })
    }
}

/// The wait of a call without a deadline: longer than any.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads a `grpc-timeout`: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let well_formed = (1..=8).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    let value: u64 = digits.parse().ok().filter(|_| well_formed)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

async fn accept<I: Ingest>(
    collector: &Collector<I>,
    signal: Signal,
    ending: Ending,
    call: Call,
    body: Incoming,
) -> Result<Accepted, Status> {
    let read = read(collector, &call, body).await;
    let end = match read {
        Ok((coding, body, reservation)) => {
            let encoding = Encoding::Protobuf;
            collector.accept(Arrived { signal, encoding, coding, body, reservation }).await
        }
        Err(Unread::NotAccepted(error)) => Err(error),
        Err(Unread::Framing(status)) => {
            ending.is(&Err(NotAccepted::Malformed(String::new())));
            return Err(status);
        }
    };
    ending.is(&end);
    end.map_err(status)
}

/// Why there is no message.
enum Unread {
    NotAccepted(NotAccepted),
    /// The frames are not one gRPC message.
    Framing(Status),
}

impl From<NotAccepted> for Unread {
    fn from(error: NotAccepted) -> Self {
        Self::NotAccepted(error)
    }
}

impl From<BodyError> for Unread {
    fn from(error: BodyError) -> Self {
        Self::NotAccepted(error.into())
    }
}

/// Reads the one message of a unary call.
async fn read<I: Ingest>(
    collector: &Collector<I>,
    call: &Call,
    body: Incoming,
) -> Result<(Coding, Bytes, Reservation), Unread> {
    let mut frames = Frames::new(body, call.read_by);
    let no_message = || Unread::Framing(Status::unimplemented("a unary call has one message, this one has none"));
    let cut = || Unread::Framing(Status::internal("the call ends inside its message"));
    let mut prefix = match frames.exactly(PREFIX_BYTES).await? {
        Exactly::All(prefix) => prefix,
        Exactly::Nothing => return Err(no_message()),
        Exactly::Cut => return Err(cut()),
    };
    let coding = message_coding(prefix.get_u8(), call.coding).map_err(Unread::Framing)?;
    let length = usize::try_from(prefix.get_u32()).unwrap_or(usize::MAX);
    let reservation = collector.admit(coding, Some(length), call.patience).await?;
    let message = match frames.exactly(length).await? {
        Exactly::All(message) => message,
        Exactly::Nothing | Exactly::Cut => return Err(cut()),
    };
    match frames.exactly(1).await? {
        Exactly::Nothing => Ok((coding, message, reservation)),
        _ => Err(Unread::Framing(Status::unimplemented("a unary call has one message, this one has more"))),
    }
}

fn message_coding(flag: u8, announced: Coding) -> Result<Coding, Status> {
    match (flag, announced) {
        (0, _) => Ok(Coding::Identity),
        (1, Coding::Identity) => {
            Err(Status::internal("a message is flagged as compressed, but grpc-encoding names no compression"))
        }
        (1, coding) => Ok(coding),
        (flag, _) => Err(Status::internal(format!("compression flag {flag} does not exist"))),
    }
}

/// The one place where a refusal becomes a gRPC status.
fn status(error: NotAccepted) -> Status {
    match error {
        NotAccepted::Malformed(why) => Status::invalid_argument(why),
        NotAccepted::TooLarge { limit } => {
            // without a time to come back: it would be as large then
            Status::resource_exhausted(format!("the message is larger than {limit} bytes: send smaller batches"))
        }
        NotAccepted::TimedOut => Status::deadline_exceeded("the message took too long to come"),
        NotAccepted::Refused(refused) => {
            let details = ErrorDetails::with_retry_info(Some(refused.retry_after()));
            Status::with_error_details(Code::Unavailable, refused.to_string(), details)
        }
    }
}

fn failure(status: Status) -> Response<Body> {
    let unsupported = status.code() == Code::Unimplemented;
    let mut response = status.into_http::<Body>();
    if unsupported {
        let codings = HeaderValue::from_static("identity,gzip,deflate,zstd");
        response.headers_mut().insert("grpc-accept-encoding", codings);
    }
    response
}

fn success(message: &[u8]) -> Response<Body> {
    let length = u32::try_from(message.len()).expect("an answer is small");
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(length);
    framed.put_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(framed.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The protobuf answer to an accepted request.
pub(crate) fn response(signal: Signal, accepted: Accepted) -> Vec<u8> {
    let some = accepted.is_partial();
    let rejected = i64::try_from(accepted.rejected).unwrap_or(i64::MAX);
    let error_message = accepted.message;
    match signal {
        Signal::Traces => {
            let partial_success = some.then_some(ExportTracePartialSuccess { rejected_spans: rejected, error_message });
            ExportTraceServiceResponse { partial_success }.encode_to_vec()
        }
        Signal::Metrics => {
            let partial_success =
                some.then_some(ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message });
            ExportMetricsServiceResponse { partial_success }.encode_to_vec()
        }
        Signal::Logs => {
            let partial_success =
                some.then_some(ExportLogsPartialSuccess { rejected_log_records: rejected, error_message });
            ExportLogsServiceResponse { partial_success }.encode_to_vec()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_digits_and_a_unit() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999M", Some(Duration::from_secs(99_999_999 * 60))),
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("5", None),
            ("+5S", None),
            ("123456789S", None),
            ("5é", None),
        ];
        for (text, expected) in cases {
            assert_eq!(timeout(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_content_type_is_protobuf_over_grpc() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=utf-8", true),
            ("application/grpc+json", false),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_protobuf_over_grpc(text), expected, "{text}");
        }
    }
}
