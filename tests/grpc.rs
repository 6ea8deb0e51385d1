//! OTLP/gRPC: what is taken, and the answers to what is not.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, trace_service_client::TraceServiceClient,
};
use prost::Message;
use tonic::codec::CompressionEncoding;

use crate::support::{request, server_with, span, sql};

const START: u64 = 1_700_000_000_000_000_000;
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_is_taken_and_half_bad_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |_| {}).await;
    let grpc = format!("http://{}", weir.addresses.otlp_grpc);
    for (trace, coding) in [(1, None), (2, Some(CompressionEncoding::Gzip)), (3, Some(CompressionEncoding::Zstd))] {
        let mut client = TraceServiceClient::connect(grpc.clone()).await.unwrap();
        if let Some(coding) = coding {
            client = client.send_compressed(coding).accept_compressed(coding);
        }
        let spans = vec![span(trace, 1, 0, "x", START, 1), span(0, 1, 0, "no trace id", START, 1)];
        let answer = client.export(request("a", spans)).await.unwrap().into_inner();
        let partial = answer.partial_success.unwrap();
        assert_eq!(partial.rejected_spans, 1, "{coding:?}");
        assert!(partial.error_message.contains("trace_id"), "{}", partial.error_message);
    }
    assert_eq!(sql(&format!("http://{}", weir.addresses.web), "SELECT count(*) FROM spans").await, ["3"]);
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_gets_the_promised_code() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |config| config.collector.max_body_bytes = 64 << 10).await;
    let url = format!("http://{}{EXPORT}", weir.addresses.otlp_grpc);
    let good = request("a", vec![span(1, 1, 0, "x", START, 1)]).encode_to_vec();
    let big = request("a", vec![span(1, 1, 0, &"x".repeat(65 << 10), START, 1)]).encode_to_vec();
    let cases = [
        ("good", good.clone(), "0"),
        ("cut", good[..good.len() - 1].to_vec(), "3"),
        ("noise", vec![0xff; 100], "3"),
        ("too big", big, "8"),
    ];
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    for (name, message, code) in cases {
        let mut body = vec![0];
        body.extend((message.len() as u32).to_be_bytes());
        body.extend(message);
        let post = client.post(&url).header("content-type", "application/grpc").header("te", "trailers").body(body);
        let answer = post.send().await.unwrap();
        let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        // an error has no body, so its status stands in the head; a success has it in the trailers
        assert_eq!(header("grpc-status").unwrap_or("0".into()), code, "{name}: {:?}", header("grpc-message"));
        assert!(header("grpc-status-details-bin").is_none(), "{name}: coming back would not help");
    }
    assert_eq!(sql(&format!("http://{}", weir.addresses.web), "SELECT count(*) FROM spans").await, ["1"]);
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_request_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |_| {}).await;
    let mut client = TraceServiceClient::connect(format!("http://{}", weir.addresses.otlp_grpc)).await.unwrap();
    let answer = client.export(ExportTraceServiceRequest::default()).await.unwrap().into_inner();
    assert!(answer.partial_success.is_none_or(|partial| partial.rejected_spans == 0));
    weir.stop().await.unwrap();
}
