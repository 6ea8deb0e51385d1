//! Access logs: lines in a file and records at the collector.

use crate::{
    answers,
    flow::{self, app, ask, client, collector::Collector, proxy, url},
};

#[tokio::test(flavor = "multi_thread")]
async fn access_logs_are_lines_in_a_file_and_records_at_the_collector() {
    let (collector, otlp) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    for (format, which, expected) in [("json", "all", 4), ("text", "errors", 2)] {
        let path = folder.path().join(format);
        let telemetry = format!(
            "telemetry: {{ otlp: \"http://{otlp}\", access_log: {which}, access_log_file: {path:?}, access_log_format: {format} }}"
        );
        let proxy = proxy(app(answers().await).await, "      - { name: all, upstream: app }", &telemetry);
        for path in ["/ok", "/bad", "/ok", "/bad?secret=1"] {
            ask(client().get(url(&proxy, path)).header("x-weir-peer", "tokenizer/tokenizer-0")).await;
        }
        let counters = proxy.drain().await;
        assert_eq!((counters.logs_sent, counters.logs_dropped), (expected, 0), "{counters:?}");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count() as u64, expected, "{text}");
        assert!(!text.contains("secret"), "{text}");
        for line in text.lines() {
            if format == "json" {
                let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
                assert_eq!((&line["weir.route"], &line["peer.service"]), (&"all".into(), &"tokenizer".into()));
                assert!(
                    line["duration_ns"].as_u64() > Some(0) && line["time"].as_str().unwrap().ends_with('Z'),
                    "{line}"
                );
                assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
            } else {
                assert!(line.contains("Z inbound all GET /bad 500 "), "{line}");
                assert!(line.contains(" admitted peer=\"tokenizer/tokenizer-0\" trace="), "{line}");
            }
        }
    }
    assert_eq!(collector.logs().len(), 6);
}

/// After a rotation the proxy went on writing to the file that had been moved away.
#[tokio::test(flavor = "multi_thread")]
async fn an_access_log_that_is_moved_away_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
    let telemetry = format!("telemetry: {{ access_log: all, access_log_file: {path:?} }}");
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    let (client, mut asked) = (client(), 1);
    ask(client.get(url(&proxy, "/ok"))).await;
    flow::until("written", async || flow::metric(&proxy, "weir_proxy_log_lines_written_total").await == 1.0).await;
    std::fs::rename(&path, &old).unwrap();
    proxy.reopen_access_log();
    flow::until("there is another one", async || path.exists()).await;
    std::fs::remove_file(&path).unwrap();
    flow::until("and again, unasked", async || {
        ask(client.get(url(&proxy, "/ok"))).await;
        asked += 1;
        path.exists()
    })
    .await;
    ask(client.get(url(&proxy, "/slow"))).await;
    assert_eq!(proxy.drain().await.log_lines_written, asked + 1);
    assert_eq!(std::fs::read_to_string(&old).unwrap().lines().count(), 1);
    assert!(std::fs::read_to_string(&path).unwrap().lines().last().unwrap().contains("/slow"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_access_logs_is_a_share_and_needs_no_collector() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let telemetry = format!("telemetry: {{ access_log: all, access_log_ratio: 0.3, access_log_file: {path:?} }}");
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    let client = client();
    for _ in 0..300 {
        ask(client.get(url(&proxy, "/ok"))).await;
    }
    let counters = proxy.drain().await;
    assert_eq!((counters.requests, counters.spans_recorded), (300, 0));
    let lines = std::fs::read_to_string(&path).unwrap().lines().count();
    // 90 expected, 8 the standard deviation: six of them to either side
    assert!((42..=138).contains(&lines), "{lines} of 300");
}
