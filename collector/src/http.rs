//! OTLP/HTTP: `POST /v1/{traces,metrics,logs}`, protobuf or JSON, identity, gzip or zstd.

use std::{convert::Infallible, io, time::Duration};

use ::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse,
    trace::v1::ExportTraceServiceResponse,
};
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use weir_schema::{Encoding, Signal};

use crate::{
    collector::{Accepted, Collector, NotAccepted},
    grpc,
    inflate::{Coding, InflateError, inflate},
    ingest::Ingest,
    stats::add,
};

/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests in the air may take once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

pub(crate) async fn serve<I: Ingest>(
    collector: Collector<I>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server.http2().timer(TokioTimer::new());
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "a connection was lost before it was accepted");
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        // without it small answers wait for the client's delayed ack
        let _ = stream.set_nodelay(true);
        let collector = collector.clone();
        let service = service_fn(move |request| {
            let collector = collector.clone();
            async move { Ok::<_, Infallible>(answer(&collector, request).await) }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection ended");
            }
        });
    }
    // what is still open after that is cut
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
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
    match accept(collector, signal, encoding, request).await {
        Ok(accepted) => success(signal, encoding, accepted),
        Err(error) => failure(encoding, &error),
    }
}

async fn accept<I: Ingest>(
    collector: &Collector<I>,
    signal: Signal,
    encoding: Encoding,
    request: Request<Incoming>,
) -> Result<Accepted, Failure> {
    let limit = collector.config.max_body_bytes;
    let too_large = || {
        add(&collector.stats.of(signal).too_large, 1);
        Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {limit} bytes: send smaller batches"),
        )
    };
    let coding = request.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let coding = Coding::of(coding).ok_or_else(|| {
        let why = format!("Content-Encoding {:?} is not gzip, zstd or identity", coding.unwrap_or_default());
        Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)
    })?;
    let body = tokio::time::timeout(BODY_TIMEOUT, Limited::new(request.into_body(), limit).collect()).await;
    let body = match body {
        Err(_) => return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(error)) => return Err(Failure::new(StatusCode::BAD_REQUEST, error.to_string())),
        Ok(Ok(body)) => body.to_bytes(),
    };
    let body = match inflate(body, coding, limit) {
        Ok(body) => body,
        Err(InflateError::TooLarge { .. }) => return Err(too_large()),
        Err(error @ InflateError::Malformed { .. }) => {
            add(&collector.stats.of(signal).malformed, 1);
            return Err(Failure::new(StatusCode::BAD_REQUEST, error.to_string()));
        }
    };
    collector.accept(signal, encoding, body).await.map_err(not_accepted)
}

/// The one place where a refusal becomes an HTTP status.
fn not_accepted(error: NotAccepted) -> Failure {
    match error {
        NotAccepted::Malformed(error) => Failure::new(StatusCode::BAD_REQUEST, error.to_string()),
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
    let protobuf = grpc::response(signal, accepted);
    let body = match encoding {
        Encoding::Protobuf => protobuf,
        Encoding::Json => json_response(signal, &protobuf),
    };
    respond(StatusCode::OK, encoding, body)
}

fn json_response(signal: Signal, protobuf: &[u8]) -> Vec<u8> {
    let json = match signal {
        Signal::Traces => ExportTraceServiceResponse::decode(protobuf).ok().and_then(|r| serde_json::to_vec(&r).ok()),
        Signal::Metrics => {
            ExportMetricsServiceResponse::decode(protobuf).ok().and_then(|r| serde_json::to_vec(&r).ok())
        }
        Signal::Logs => ExportLogsServiceResponse::decode(protobuf).ok().and_then(|r| serde_json::to_vec(&r).ok()),
    };
    json.unwrap_or_else(|| b"{}".to_vec())
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
        response.headers_mut().insert(header::RETRY_AFTER, after.as_secs().max(1).into());
    }
    response
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
