//! OTLP in over HTTP, answers by SQL, traces and the error table of a collector.

use prost::Message;

use crate::support::{client, gzip, request, send, server, server_with, span, sql};

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
    let (gzipped, bomb) = (gzip(&good), gzip(&vec![0; 10 << 20]));
    let protobuf = "application/x-protobuf";
    let cases: Vec<(&str, &str, &str, Vec<u8>, u16)> = vec![
        ("good", protobuf, "", good.clone(), 200),
        ("half bad", protobuf, "", half_bad, 200),
        ("empty", protobuf, "", Vec::new(), 200),
        ("cut", protobuf, "", good[..good.len() - 2].to_vec(), 400),
        ("not json", "application/json", "", b"{".to_vec(), 400),
        ("no such type", "text/plain", "", good.clone(), 415),
        ("no such coding", protobuf, "br", good.clone(), 415),
        ("not gzip", protobuf, "gzip", b"nope".to_vec(), 400),
        ("gzip", protobuf, "gzip", gzipped.clone(), 200),
        ("zstd", protobuf, "zstd", zstd::encode_all(&good[..], 3).unwrap(), 200),
        ("cut gzip", protobuf, "gzip", gzipped[..gzipped.len() - 9].to_vec(), 400),
        ("with a charset", "application/json; charset=utf-8", "", b"{}".to_vec(), 200),
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

#[tokio::test(flavor = "multi_thread")]
async fn json_is_read_as_otlp_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = server(dir.path()).await;
    let (otlp, web) = (format!("http://{}", running.addresses.otlp_http), format!("http://{}", running.addresses.web));
    let trace = |name: &str, fields: &str| {
        let ids = r#""traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174""#;
        format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{ids},"name":"{name}",{fields}}}]}}]}}]}}"#)
    };
    let times = r#""startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712660000000005""#;
    let attribute = |value: &str| format!(r#"{times},"attributes":[{{"key":"k","value":{value}}}]"#);
    let k = "SELECT attributes['k'] FROM spans WHERE operation = ";
    let cases: Vec<(&str, String, String, &str)> = vec![
        ("traces", trace("ids", times), "SELECT hex(trace_id), duration_ns FROM spans WHERE operation = 'ids'".into(), "5b8efff798038103d269b633813fc60c,5"),
        ("traces", trace("numbers", r#""startTimeUnixNano":1544712660000000000,"endTimeUnixNano":1544712660000000007"#), "SELECT duration_ns FROM spans WHERE operation = 'numbers'".into(), "7"),
        ("traces", trace("enum", &format!(r#"{times},"kind":3,"status":{{"code":2,"message":"no"}}"#)), "SELECT kind, status, status_message FROM spans WHERE operation = 'enum'".into(), "client,error,no"),
        ("traces", trace("unknown", &format!(r#"{times},"notOfOtlp":{{"a":[1,{{}}]}},"flags":257"#)), "SELECT count(*) FROM spans WHERE operation = 'unknown'".into(), "1"),
        ("traces", trace("null", &format!(r#"{times},"parentSpanId":"","attributes":[]"#)), "SELECT parent_span_id IS NULL FROM spans WHERE operation = 'null'".into(), "true"),
        ("traces", trace("i", &attribute(r#"{"intValue":"9223372036854775807"}"#)), format!("{k}'i'"), "9223372036854775807"),
        ("traces", trace("n", &attribute(r#"{"intValue":-3}"#)), format!("{k}'n'"), "-3"),
        ("traces", trace("d", &attribute(r#"{"doubleValue":0.5}"#)), format!("{k}'d'"), "0.5"),
        ("traces", trace("b", &attribute(r#"{"boolValue":true}"#)), format!("{k}'b'"), "true"),
        ("traces", trace("y", &attribute(r#"{"bytesValue":"AP8="}"#)), format!("{k}'y'"), "AP8="),
        ("traces", trace("a", &attribute(r#"{"arrayValue":{"values":[{"intValue":"1"},{"boolValue":false}]}}"#)), format!("{k}'a'"), "\"[1,false]\""),
        ("traces", format!(r#"{{"resourceSpans":[{{"schemaUrl":"r","scopeSpans":[{{"scope":{{"name":"lib","version":"2","attributes":[{{"key":"team","value":{{"intValue":"7"}}}}]}},"spans":[{{"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174","name":"scope",{times},"flags":257,"droppedAttributesCount":1,"droppedEventsCount":2,"droppedLinksCount":3}}]}}]}}]}}"#), "SELECT scope_name, scope_version, scope_attributes['team'], scope_attribute_types, schema_url, flags, dropped_attributes_count, dropped_events_count, dropped_links_count FROM spans WHERE operation = 'scope'".into(), "lib,2,7,i,r,257,1,2,3"),
        ("logs", r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"5","severityNumber":17,"severityText":"Error","body":{"stringValue":"out of stock"},"traceId":"5b8efff798038103d269b633813fc60c","flags":1,"droppedAttributesCount":4}],"scope":{"name":"lib","attributes":[{"key":"team","value":{"stringValue":"shop"}}]},"schemaUrl":"s"}]}]}"#.into(), "SELECT severity_number, severity, body, scope_attributes['team'], schema_url, flags, dropped_attributes_count FROM logs".into(), "17,Error,out of stock,shop,s,1,4"),
        ("metrics", r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"orders","unit":"1","sum":{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[{"asInt":"3","timeUnixNano":"5"}]}},{"name":"orders","gauge":{"dataPoints":[{"asDouble":4.5,"timeUnixNano":6,"flags":1}]}}],"scope":{"name":"lib","version":"2"}}]}]}"#.into(), "SELECT kind, temporality, value, flags, scope_version FROM metrics ORDER BY kind".into(), "gauge,,4.5,1,2|sum,cumulative,3,,2"),
    ];
    let client = client();
    for (signal, json, statement, expected) in cases {
        let post = client.post(format!("{otlp}/v1/{signal}")).header("content-type", "application/json");
        let answer = post.body(json.clone()).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!((status.as_u16(), text.as_str()), (200, "{}"), "{json}");
        assert_eq!(sql(&web, &statement).await.join("|"), expected, "{json}");
    }
    let half_bad = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"","spanId":""}]}]}]}"#;
    let post = client.post(format!("{otlp}/v1/traces")).header("content-type", "application/json").body(half_bad);
    let answer: serde_json::Value = post.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["partialSuccess"]["rejectedSpans"], "1", "a 64-bit integer is a string: {answer}");
    let short = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"7","traceId":"5b8eff"}]}]}]}"#;
    let post = client.post(format!("{otlp}/v1/logs")).header("content-type", "application/json").body(short);
    let answer: serde_json::Value = post.send().await.unwrap().json().await.unwrap();
    let warning =
        "resource_logs[0].scope_logs[0].log_records[0] is stored without its trace_id, which has 3 bytes, not 16";
    assert_eq!(answer, serde_json::json!({"partialSuccess": {"errorMessage": warning}}), "nothing is rejected");
    assert_eq!(sql(&web, "SELECT count(*) FROM logs WHERE time_unix_nano = 7").await, ["1"]);
    running.stop().await.unwrap();
}

/// 12 MiB in one request, as the OpenTelemetry Collector sends them: more than 4 MiB were refused for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let running = server(dir.path()).await;
    let name = "x".repeat(1_000);
    let spans = (1..=12_000).map(|id| span(1, id, 0, &name, START, 1)).collect();
    let large = request("cart", spans);
    assert!(large.encoded_len() > 12_000_000);
    assert!(send(&client(), &format!("http://{}", running.addresses.otlp_http), &large).await);
    let web = format!("http://{}", running.addresses.web);
    assert_eq!(sql(&web, "SELECT count(*) FROM spans").await, ["12000"]);
    running.stop().await.unwrap();
}
