//! OTLP in over HTTP, answers by SQL, traces and the error table of a collector.

use prost::Message;

use crate::support::{client, request, send, server, server_with, span, sql};

const START: u64 = 1_700_000_000_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_queryable_when_it_is_acked_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let running = server(dir.path()).await;
    let (otlp, web) = (format!("http://{}", running.addresses.otlp_http), format!("http://{}", running.addresses.web));
    let (trace, client) = (0xabcd_u128, client());
    assert!(send(&client, &otlp, &request("gateway", vec![span(trace, 1, 0, "GET /", START, 1000)])).await);
    assert!(send(&client, &otlp, &request("cart", vec![span(trace, 2, 1, "GET /cart", START + 100, 500)])).await);
    let rows = sql(&web, "SELECT service, count(*) FROM spans GROUP BY service ORDER BY service").await;
    assert_eq!(rows, ["cart,1", "gateway,1"]);
    let url = format!("{web}/api/v1/traces/{trace:032x}");
    let page: serde_json::Value = client.get(&url).send().await.unwrap().json().await.unwrap();
    assert_eq!(page["spans"].as_array().unwrap().len(), 2);
    assert_eq!(page["critical_path"].as_array().unwrap().len(), 3);
    running.stop().await.unwrap();
    let running = server(dir.path()).await;
    let web = format!("http://{}", running.addresses.web);
    assert_eq!(
        sql(&web, "SELECT caller, callee, sum(count) FROM edges GROUP BY caller, callee").await,
        ["gateway,cart,1"]
    );
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_is_answered_as_promised() {
    let dir = tempfile::tempdir().unwrap();
    let running = server_with(dir.path(), |config| config.collector.max_body_bytes = 64 << 10).await;
    let url = format!("http://{}/v1/traces", running.addresses.otlp_http);
    let good = request("a", vec![span(1, 1, 0, "x", START, 1)]).encode_to_vec();
    let half_bad = request("a", vec![span(2, 1, 0, "x", START, 1), span(0, 1, 0, "x", START, 1)]).encode_to_vec();
    let bomb = {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 10 << 20]).unwrap();
        gzip.finish().unwrap()
    };
    let protobuf = "application/x-protobuf";
    let cases: Vec<(&str, &str, &str, Vec<u8>, u16)> = vec![
        ("good", protobuf, "", good.clone(), 200),
        ("half bad", protobuf, "", half_bad, 200),
        ("empty", protobuf, "", Vec::new(), 200),
        ("cut", protobuf, "", good[..good.len() - 2].to_vec(), 400),
        ("not json", "application/json", "", b"{".to_vec(), 400),
        ("no such type", "text/plain", "", good.clone(), 415),
        ("no such coding", protobuf, "br", good, 415),
        ("not gzip", protobuf, "gzip", b"nope".to_vec(), 400),
        ("bomb", protobuf, "gzip", bomb, 413),
        ("too big", protobuf, "", vec![0; 65 << 10], 413),
    ];
    let client = client();
    for (name, content_type, coding, body, status) in cases {
        let mut post = client.post(&url).header("content-type", content_type).body(body);
        if !coding.is_empty() {
            post = post.header("content-encoding", coding);
        }
        let response = post.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{name}");
        assert!(response.headers().get("retry-after").is_none(), "{name}: coming back would not help");
    }
    let web = format!("http://{}", running.addresses.web);
    assert_eq!(sql(&web, "SELECT count(*) FROM spans").await, ["2"]);
    running.stop().await.unwrap();
}
