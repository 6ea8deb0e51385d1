//! [`TraceClient`]: the export call of OTLP/gRPC with a request that is bytes already.

use bytes::{BufMut, Bytes};
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::{
    Request, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Calls the collector.
pub(crate) struct TraceClient {
    grpc: Grpc<Channel>,
}

/// Bytes out, a message in.
#[derive(Clone, Copy, Debug, Default)]
struct BytesOut;

impl TraceClient {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { grpc: Grpc::new(channel) }
    }

    /// Sends an encoded `ExportTraceServiceRequest`.
    pub(crate) async fn export(&mut self, request: Bytes) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let ready = self.grpc.ready().await;
        ready.map_err(|error| Status::unavailable(format!("no connection: {error}")))?;
        self.grpc.unary(Request::new(request), PathAndQuery::from_static(EXPORT), BytesOut).await
    }
}

impl Codec for BytesOut {
    type Encode = Bytes;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesOut {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for BytesOut {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let message = ExportTraceServiceResponse::decode(from);
        message.map(Some).map_err(|error| Status::internal(format!("the collector's answer: {error}")))
    }
}
