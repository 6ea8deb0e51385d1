//! A collector that hands on the attributes of each span.

use std::{collections::HashMap, net::SocketAddr};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// The attributes of one span, as text.
pub(crate) type Attributes = HashMap<String, String>;

struct Sink(mpsc::UnboundedSender<Attributes>);

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resource_spans = request.into_inner().resource_spans;
        let spans = resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
        for span in spans {
            let text = |value: Value| match value {
                Value::StringValue(text) => text,
                Value::IntValue(int) => int.to_string(),
                other => format!("{other:?}"),
            };
            let pair =
                |kv: opentelemetry_proto::tonic::common::v1::KeyValue| (kv.key, text(kv.value.unwrap().value.unwrap()));
            self.0.send(span.attributes.into_iter().map(pair).collect()).unwrap();
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Where it listens, and the spans it gets.
pub(crate) async fn start() -> (SocketAddr, mpsc::UnboundedReceiver<Attributes>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (send, receive) = mpsc::unbounded_channel();
    let serving = Server::builder().add_service(TraceServiceServer::new(Sink(send)));
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, receive)
}
