//! OTLP/gRPC: the three `Export` methods over raw bytes, so that what is logged is what was sent,
//! and the policy stream.

use std::{convert::Infallible, io};

use ::http::{HeaderValue, Request, Response};
use axum::{Router, body::Body, routing::post};
use bytes::{Buf, BufMut, Bytes};
use futures::{FutureExt, future::BoxFuture};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse},
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse},
};
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, UnaryService},
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_types::{ErrorDetails, StatusExt};
use weir_policy::wire::proto::policy_service_server::PolicyServiceServer;
use weir_schema::{Encoding, Signal};

use crate::{
    collector::{Accepted, Collector, NotAccepted},
    ingest::Ingest,
    policy_stream::PolicyStream,
    stats::add,
};

const METHODS: [(&str, Signal); 3] = [
    ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", Signal::Traces),
    ("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", Signal::Metrics),
    ("/opentelemetry.proto.collector.logs.v1.LogsService/Export", Signal::Logs),
];

pub(crate) async fn serve<I: Ingest>(
    collector: Collector<I>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let mut router = Router::new();
    for (path, signal) in METHODS {
        let collector = collector.clone();
        router = router.route(path, post(move |request: Request<Body>| export(collector.clone(), signal, request)));
    }
    let policy = PolicyStream {
        policy: collector.policy.clone(),
        proxies: collector.proxies.clone(),
        shutdown: shutdown.clone(),
    };
    let routes = Routes::from(router).add_service(PolicyServiceServer::new(policy));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served =
        Server::builder().add_routes(routes).serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned());
    served.await.map_err(io::Error::other)
}

async fn export<I: Ingest>(
    collector: Collector<I>,
    signal: Signal,
    request: Request<Body>,
) -> Result<Response<Body>, Infallible> {
    let limit = collector.config.max_body_bytes;
    let stats = collector.stats.clone();
    let mut grpc = Grpc::new(RawCodec)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .max_decoding_message_size(limit);
    let mut response = grpc.unary(Export { collector, signal }, request).await.map(Body::new);
    if too_large(&response) {
        add(&stats.of(signal).too_large, 1);
        let code = HeaderValue::from(Code::ResourceExhausted as i32);
        response.headers_mut().insert("grpc-status", code);
    }
    Ok(response)
}

/// The transport says OUT_OF_RANGE; OTLP wants RESOURCE_EXHAUSTED without a time to come back.
fn too_large(response: &Response<Body>) -> bool {
    response.headers().get("grpc-status").is_some_and(|status| status.as_bytes() == b"11")
}

struct Export<I> {
    collector: Collector<I>,
    signal: Signal,
}

impl<I: Ingest> UnaryService<Bytes> for Export<I> {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (collector, signal) = (self.collector.clone(), self.signal);
        async move {
            let accepted = collector.accept(signal, Encoding::Protobuf, request.into_inner()).await;
            let accepted = accepted.map_err(|error| status(&error))?;
            Ok(tonic::Response::new(Bytes::from(response(signal, accepted))))
        }
        .boxed()
    }
}

/// The one place where a refusal becomes a gRPC status.
fn status(error: &NotAccepted) -> Status {
    match error {
        NotAccepted::Malformed(error) => Status::invalid_argument(error.to_string()),
        NotAccepted::Refused(refused) => {
            let details = ErrorDetails::with_retry_info(Some(refused.retry_after()));
            Status::with_error_details(Code::Unavailable, refused.to_string(), details)
        }
    }
}

/// The protobuf answer to an accepted request.
pub(crate) fn response(signal: Signal, accepted: Accepted) -> Vec<u8> {
    let rejected = i64::try_from(accepted.rejected).unwrap_or(i64::MAX);
    let some = rejected > 0;
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

/// Messages as bytes.
#[derive(Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}
