//! A reload that sends spans, metrics and access logs elsewhere, or nowhere: each span arrives once, and where it was asked for.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod flow;

use axum::{Router, routing::get};
use flow::{app, ask, client, collector::Collector, config, proxy, until, url};
use weir_proxy::Counters;

const ROUTE: &str = "      - { upstream: app }";

/// To send spans to another collector a restart was needed once.
#[tokio::test(flavor = "multi_thread")]
async fn spans_go_where_the_configuration_in_force_says() {
    let address = app(Router::new().fallback(get(async || "ok"))).await;
    let ((one, to_one), (two, to_two)) = (Collector::start().await, Collector::start().await);
    let otlp = |to, more| format!("telemetry: {{ otlp: 'http://{to}', access_log: all{more} }}");
    let sidecar = proxy(address, ROUTE, "");
    let mut spans_recorded = 0;
    for (more, requests, recorded) in [
        ("".to_owned(), 3, 0),
        (otlp(to_one, ""), 5, 5),
        (otlp(to_two, ", metrics_interval_ms: 10"), 7, 7),
        (otlp(to_two, ", metrics_interval_ms: 10, batch_spans: 2"), 11, 11),
        ("".to_owned(), 13, 0),
        (otlp(to_one, ""), 17, 17),
    ] {
        sidecar.reload(config(address, ROUTE, &more)).await.unwrap();
        for _ in 0..requests {
            assert_eq!(ask(client().get(url(&sidecar, "/"))).await.0, 200);
        }
        spans_recorded += recorded;
        until("recorded", async || sidecar.counters().spans_recorded == spans_recorded).await;
    }
    until("metrics", async || two.metric("weir.proxy.requests").is_some()).await;
    let counters = sidecar.drain().await;
    assert_eq!((counters.spans_recorded, counters.spans_sent, counters.spans_dropped), (40, 40, 0));
    assert_eq!((counters.logs_sent, counters.logs_dropped), (40, 0));
    assert_eq!((one.spans().len(), two.spans().len()), (22, 18));
    assert_eq!((one.logs().len(), two.logs().len()), (22, 18));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_left_gets_its_flush_and_what_it_does_not_take_is_counted() {
    let address = app(Router::new().fallback(get(async || "ok"))).await;
    let (one, to_one) = Collector::start().await;
    let otlp = |to: &str, more| format!("telemetry: {{ otlp: 'http://{to}', access_log: 'off', flush_ms: 10{more} }}");
    let sidecar = proxy(address, ROUTE, &otlp("127.0.0.1:1", ""));
    for _ in 0..5 {
        assert_eq!(ask(client().get(url(&sidecar, "/"))).await.0, 200);
    }
    until("recorded", async || sidecar.counters().spans_recorded == 5).await;
    sidecar.reload(config(address, ROUTE, &otlp(&to_one.to_string(), ", batch_age_ms: 1"))).await.unwrap();
    for _ in 0..7 {
        assert_eq!(ask(client().get(url(&sidecar, "/"))).await.0, 200);
    }
    // the control thread changes over in its own time: what it gathers before goes to the one that is left
    let settled = |counters: &Counters| counters.spans_sent + counters.spans_dropped == 12;
    until("sent or dropped", async || settled(&sidecar.counters())).await;
    let counters = sidecar.drain().await;
    assert!(counters.spans_recorded == 12 && settled(&counters) && counters.spans_dropped >= 5, "{counters:?}");
    assert_eq!(one.spans().len() as u64, counters.spans_sent);
}
