//! OTLP/HTTP: `POST /v1/{traces,metrics,logs}`, protobuf or JSON, identity, gzip, deflate or zstd; from web pages of allowed origins too.

use std::{convert::Infallible, io, time::Duration};

use ::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use prost::Message;
use serde_json::json;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use weir_schema::{Encoding, Signal};

use crate::{
    body::{self, Frames},
    collector::{Accepted, Arrived, Collector, NotAccepted},
    cors,
    doors::{self, Speaks},
    grpc,
    inflate::Coding,
    ingest::Ingest,
    patience::Patience,
};

/// When who was too slow may come again.
const AFTER_TIMEOUT: Duration = Duration::from_secs(1);

/// A refused body is read over up to so many times the limit: who sends a little too much sees why,
/// who sends without end is cut.
const DISCARDED_BODIES: usize = 4;

pub(crate) async fn serve<I: Ingest>(
    collector: Collector<I>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let answering = collector.clone();
    let service = service_fn(move |request| {
        let collector = answering.clone();
        async move {
            let allowed = collector.cors.allowed(request.headers());
            let mut response = match allowed.is_some() && cors::is_preflight(request.method(), request.headers()) {
                true => cors::preflight(request.headers()),
                false => answer(&collector, request).await,
            };
            collector.cors.mark(allowed, &mut response);
            Ok::<_, Infallible>(response)
        }
    });
    doors::serve(&collector, listener, Speaks::Both, service, shutdown).await
}

/// An answer that is not 200: status, reason, and when to come back.
struct Failure {
    status: StatusCode,
    message: String,
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }
}

async fn answer<I: Ingest>(collector: &Collector<I>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let signal = match request.uri().path() {
        "/v1/traces" => Signal::Traces,
        "/v1/metrics" => Signal::Metrics,
        "/v1/logs" => Signal::Logs,
        path => {
            let why = format!("{path} is not here: POST to /v1/traces, /v1/metrics or /v1/logs");
            return failure(Encoding::Json, &Failure::new(StatusCode::NOT_FOUND, why));
        }
    };
    if request.method() != Method::POST {
        let mut response =
            failure(Encoding::Json, &Failure::new(StatusCode::METHOD_NOT_ALLOWED, "only POST is answered here"));
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("POST"));
        return response;
    }
    let Some(encoding) = encoding(request.headers()) else {
        let why = "Content-Type must be application/x-protobuf or application/json";
        return failure(Encoding::Json, &Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    };
    let coding = request.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let Some(coding) = Coding::of(coding) else {
        let why = format!("Content-Encoding {:?} is not gzip, deflate, zstd or identity", coding.unwrap_or_default());
        return failure(encoding, &Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    };
    let ending = collector.begins(signal);
    let end = accept(collector, Kind { signal, encoding, coding }, request.into_body()).await;
    ending.is(&end);
    match end {
        Ok(accepted) => success(signal, encoding, accepted),
        Err(error) => failure(encoding, &not_accepted(error)),
    }
}

/// What a request says it is.
#[derive(Clone, Copy)]
struct Kind {
    signal: Signal,
    encoding: Encoding,
    coding: Coding,
}

async fn accept<I: Ingest>(
    collector: &Collector<I>,
    Kind { signal, encoding, coding }: Kind,
    body: Incoming,
) -> Result<Accepted, NotAccepted> {
    let config = &collector.config;
    let patience = Patience::new(Instant::now(), Duration::from_millis(config.max_wait_ms), None);
    let announced = body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let reservation = collector.admit(coding, announced, patience).await;
    let deadline = Instant::now() + Duration::from_millis(config.body_timeout_ms);
    let mut frames = Frames::new(body, deadline);
    let read = match reservation {
        Ok(mut reservation) => match frames.collect(config.max_body_bytes, &mut reservation).await {
            Ok(body) => Ok((body, reservation)),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error),
    };
    match read {
        Ok((body, reservation)) => collector.accept(Arrived { signal, encoding, coding, body, reservation }).await,
        Err(error) => {
            if !matches!(error, NotAccepted::TimedOut) {
                // the answer goes out at once; a client that reads only when it has sent finds it then
                let most = config.max_body_bytes.saturating_mul(DISCARDED_BODIES);
                tokio::spawn(body::discard(frames.into_inner(), most, deadline));
            }
            Err(error)
        }
    }
}

/// The one place where a refusal becomes an HTTP status.
fn not_accepted(error: NotAccepted) -> Failure {
    match error {
        NotAccepted::Malformed(why) => Failure::new(StatusCode::BAD_REQUEST, why),
        NotAccepted::TooLarge { limit } => {
            let why = format!("the body is larger than {limit} bytes: send smaller batches");
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, why)
        }
        // not 408: OTLP lets clients send again after 503 only
        NotAccepted::TimedOut => Failure {
            retry_after: Some(AFTER_TIMEOUT),
            ..Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the body took too long")
        },
        NotAccepted::Refused(refused) => {
            let retry_after = Some(refused.retry_after());
            Failure { status: StatusCode::SERVICE_UNAVAILABLE, message: refused.to_string(), retry_after }
        }
    }
}

fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/x-protobuf" | "application/protobuf" => Some(Encoding::Protobuf),
        "application/json" => Some(Encoding::Json),
        _ => None,
    }
}

fn success(signal: Signal, encoding: Encoding, accepted: Accepted) -> Response<Full<Bytes>> {
    let body = match encoding {
        Encoding::Protobuf => grpc::response(signal, accepted),
        Encoding::Json => json_response(signal, &accepted),
    };
    respond(StatusCode::OK, encoding, body)
}

/// As protobuf's JSON has it: 64-bit numbers are strings, what is not set is left out.
fn json_response(signal: Signal, accepted: &Accepted) -> Vec<u8> {
    if !accepted.is_partial() {
        return b"{}".to_vec();
    }
    let rejected = match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
    };
    let mut partial = json!({ "errorMessage": accepted.message });
    if accepted.rejected > 0 {
        partial[rejected] = accepted.rejected.to_string().into();
    }
    json!({ "partialSuccess": partial }).to_string().into_bytes()
}

/// A `google.rpc.Status` in the request's encoding.
fn failure(encoding: Encoding, failure: &Failure) -> Response<Full<Bytes>> {
    let code = match failure.status {
        StatusCode::SERVICE_UNAVAILABLE => 14,
        StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::NOT_FOUND => 5,
        _ => 3,
    };
    let body = match encoding {
        Encoding::Json => json!({"code": code, "message": failure.message}).to_string().into_bytes(),
        Encoding::Protobuf => {
            tonic_types::Status { code, message: failure.message.clone(), details: Vec::new() }.encode_to_vec()
        }
    };
    let mut response = respond(failure.status, encoding, body);
    if let Some(after) = failure.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, whole_seconds(after).into());
    }
    response
}

/// All that `Retry-After` can say. The fraction becomes the chance of a second more (its last digits
/// are as good as drawn), so that those who are kept apart stay apart.
fn whole_seconds(after: Duration) -> u64 {
    let one_more = after.subsec_nanos() % 1_000 < after.subsec_millis();
    (after.as_secs() + u64::from(one_more)).max(1)
}

fn respond(status: StatusCode, encoding: Encoding, body: Vec<u8>) -> Response<Full<Bytes>> {
    let content_type = match encoding {
        Encoding::Protobuf => "application/x-protobuf",
        Encoding::Json => "application/json",
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
