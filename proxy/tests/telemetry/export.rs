//! What becomes of records while the collector is there, slow, restarted or away.

use crate::{
    answers,
    flow::{
        self, app, ask, client,
        collector::{Collector, attributes},
        proxy, url,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_restarted_is_found_again() {
    let (first, second) = (Collector::default(), Collector::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let otlp = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(first.clone().serve(listener, async { drop(stopped.await) }));
    let telemetry = format!("telemetry: {{ otlp: \"http://{otlp}\", batch_age_ms: 10, flush_ms: 1 }}");
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    ask(client().get(url(&proxy, "/ok"))).await;
    flow::until("the first has it", async || first.spans().len() == 1).await;
    stop.send(()).unwrap();
    serving.await.unwrap();
    ask(client().get(url(&proxy, "/slow"))).await;
    let listener = tokio::net::TcpListener::bind(otlp).await.unwrap();
    tokio::spawn(second.clone().serve(listener, std::future::pending()));
    flow::until("the second has what waited", async || second.spans().len() == 1).await;
    flow::until("acknowledged", async || proxy.counters().spans_sent == 2).await;
    let counters = proxy.drain().await;
    assert_eq!((counters.spans_recorded, counters.spans_dropped), (2, 0), "{counters:?}");
}

/// More records than the ring and the queue behind it hold, and nobody who takes them: all are counted.
#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_sent_or_counted_as_dropped() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (collector, here) = Collector::start().await;
    let address = app(answers().await).await;
    for (otlp, queue, sent) in [(gone, 8, 0), (here, 65_536, 300)] {
        let telemetry = format!(
            "telemetry: {{ otlp: \"http://{otlp}\", access_log: all, queue_records: {queue}, batch_spans: 4, retry_ms: 50, flush_ms: 2000 }}"
        );
        let proxy = proxy(address, "      - { upstream: app }", &telemetry);
        let client = client();
        for _ in 0..300 {
            ask(client.get(url(&proxy, "/ok"))).await;
        }
        let c = proxy.drain().await;
        if otlp == here {
            use opentelemetry_proto::tonic::metrics::v1::metric::Data;
            let Some(Data::Gauge(open)) = collector.metric("http.client.open_connections").unwrap().data else {
                panic!()
            };
            let states: Vec<_> =
                open.data_points.iter().map(|p| attributes(&p.attributes)["http.connection.state"].clone()).collect();
            assert_eq!(states, ["idle", "active"]);
            let Some(Data::Sum(requests)) = collector.metric("weir.proxy.endpoint.requests").unwrap().data else {
                panic!()
            };
            assert_eq!(format!("{:?}", requests.data_points[0].value), "Some(AsInt(300))");
        }
        assert_eq!((c.spans_recorded, c.spans_sent, c.spans_dropped), (300, sent, 300 - sent), "{c:?}");
        assert_eq!(c.logs_sent + c.logs_dropped, 300, "{c:?}");
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Records held slices of the buffers that requests were read into, so each kept a whole head alive
/// for as long as the collector was away.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_collector_is_away_records_wait_and_not_what_was_read() {
    const REQUESTS: usize = 2_000;
    const HEAD_BYTES: usize = 50_000;
    // it takes connections and says nothing
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let telemetry = format!("telemetry: {{ otlp: \"http://{}\", flush_ms: 1 }}", silent.local_addr().unwrap());
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    let (client, padding) = (client(), "x".repeat(HEAD_BYTES));
    let ask = async || ask(client.get(url(&proxy, "/ok")).header("x-padding", &padding)).await;
    assert_eq!(ask().await.0, 200);
    let before = resident_bytes();
    for _ in 0..REQUESTS {
        assert_eq!(ask().await.0, 200);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < (REQUESTS * HEAD_BYTES / 2) as u64, "{grown} bytes more for {REQUESTS} records");
    let counters = proxy.drain().await;
    assert_eq!((counters.spans_recorded, counters.spans_sent), (REQUESTS as u64 + 1, 0), "{counters:?}");
}
