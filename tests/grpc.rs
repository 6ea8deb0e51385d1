//! OTLP/gRPC: what is taken, and the answers to what is not.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, trace_service_client::TraceServiceClient,
};
use prost::Message;
use tonic::codec::CompressionEncoding;

use crate::support::{gzip, request, server_with, span, sql};

const START: u64 = 1_700_000_000_000_000_000;
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const EXPORTS: [&str; 3] = [
    EXPORT,
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
];

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

/// A message in gRPC's framing.
fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_body_gets_the_promised_code() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |config| config.collector.max_body_bytes = 64 << 10).await;
    // a resource and an empty scope: all three signals write that alike
    let good = request("cart", Vec::new()).encode_to_vec();
    let big = request(&"x".repeat(65 << 10), Vec::new()).encode_to_vec();
    let (gzipped, bomb) = (gzip(&good), gzip(&vec![0; 10 << 20]));
    let zstd = zstd::encode_all(&good[..], 3).unwrap();
    let cases: Vec<(&str, &str, Vec<u8>, &str)> = vec![
        ("good", "", framed(0, &good), "0"),
        ("empty message", "", framed(0, &[]), "0"),
        ("gzip", "gzip", framed(1, &gzipped), "0"),
        ("zstd", "zstd", framed(1, &zstd), "0"),
        ("identity", "identity", framed(0, &good), "0"),
        ("gzip announced, this message is not", "gzip", framed(0, &good), "0"),
        ("cut protobuf", "", framed(0, &good[..good.len() - 1]), "3"),
        ("noise", "", framed(0, &[0xff; 100]), "3"),
        ("not gzip", "gzip", framed(1, &good), "3"),
        ("cut gzip", "gzip", framed(1, &gzipped[..gzipped.len() - 9]), "3"),
        ("cut zstd", "zstd", framed(1, &zstd[..zstd.len() - 5]), "3"),
        ("too big", "", framed(0, &big), "8"),
        ("too big inflated", "gzip", framed(1, &bomb), "8"),
        ("a length of 4 GiB", "", vec![0, 0xff, 0xff, 0xff, 0xff], "8"),
        ("no message", "", Vec::new(), "12"),
        ("two messages", "", [framed(0, &good), framed(0, &good)].concat(), "12"),
        ("no such coding", "snappy", framed(1, &good), "12"),
        ("cut prefix", "", vec![0, 0, 0], "13"),
        ("cut message", "", framed(0, &good)[..20].to_vec(), "13"),
        ("no such flag", "", framed(2, &good), "13"),
        ("compressed with nothing", "", framed(1, &gzipped), "13"),
    ];
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    for export in EXPORTS {
        let url = format!("http://{}{export}", weir.addresses.otlp_grpc);
        for (name, coding, body, code) in &cases {
            let mut post = client.post(&url).header("content-type", "application/grpc").header("te", "trailers");
            if !coding.is_empty() {
                post = post.header("grpc-encoding", *coding);
            }
            let answer = post.body(body.clone()).send().await.unwrap();
            let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
            assert_eq!(answer.status(), 200, "{name}");
            // an error has no body, so its status stands in the head; a success has it in the trailers
            let found = header("grpc-status").unwrap_or("0".into());
            assert_eq!(found, *code, "{export}: {name}: {:?}", header("grpc-message"));
            assert!(header("grpc-status-details-bin").is_none(), "{name}: coming back would not help");
            if *name == "no such coding" {
                assert_eq!(header("grpc-accept-encoding").as_deref(), Some("identity,gzip,deflate,zstd"));
            }
        }
    }
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_head_gets_the_promised_code() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |_| {}).await;
    let body = framed(0, &request("a", vec![span(1, 1, 0, "x", START, 1)]).encode_to_vec());
    let cases = [
        ("good", EXPORT, "application/grpc", "", 200, "0"),
        ("with a subtype", EXPORT, "application/grpc+proto", "30S", 200, "0"),
        ("of JSON", EXPORT, "application/grpc+json", "", 415, ""),
        ("not gRPC", EXPORT, "application/x-protobuf", "", 415, ""),
        ("malformed timeout", EXPORT, "application/grpc", "soon", 200, "13"),
        ("the deadline has passed", EXPORT, "application/grpc", "0n", 200, "4"),
        (
            "no such method",
            "/opentelemetry.proto.collector.trace.v1.TraceService/Import",
            "application/grpc",
            "",
            200,
            "12",
        ),
    ];
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    for (name, path, content_type, timeout, status, code) in cases {
        let url = format!("http://{}{path}", weir.addresses.otlp_grpc);
        let mut post = client.post(url).header("content-type", content_type).header("te", "trailers");
        if !timeout.is_empty() {
            post = post.header("grpc-timeout", timeout);
        }
        let answer = post.body(body.clone()).send().await.unwrap();
        assert_eq!(answer.status(), status, "{name}");
        if status == 200 {
            let found = answer.headers().get("grpc-status").map_or("0", |value| value.to_str().unwrap());
            assert_eq!(found, code, "{name}");
        }
    }
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
