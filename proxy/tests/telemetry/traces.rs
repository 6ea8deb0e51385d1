//! Traces: continued in the forms that are configured, and sampled.

use crate::{
    answers,
    flow::{self, app, ask, client, collector::Collector, proxy, url},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_continued_in_the_forms_that_are_configured() {
    let (collector, otlp) = Collector::start().await;
    let telemetry = format!("telemetry: {{ otlp: \"http://{otlp}\", span_ratio: 0, propagation: [b3, tracecontext] }}");
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    let request = client().get(url(&proxy, "/"));
    let request = request.header("b3", "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1");
    let request = request.header("baggage", "user=anna").header("x-b3-other", "kept");
    let seen = request.send().await.unwrap().text().await.unwrap();
    for expected in [
        "b3=463ac35c9f6413ad48485a3953bb6124-",
        "-a2fb4a1d1a96d312\n",
        "traceparent=00-463ac35c9f6413ad48485a3953bb6124-",
        "baggage=user=anna\n",
        "x-b3-other=kept\n",
    ] {
        assert!(seen.contains(expected), "{expected} in {seen}");
    }
    assert_eq!(ask(client().get(url(&proxy, "/"))).await.0, 200, "not sampled: the ratio is 0");
    let counters = proxy.drain().await;
    assert_eq!((counters.spans_recorded, counters.spans_sent), (1, 1), "{counters:?}");
    let span = &collector.spans()[0];
    assert_eq!(span.parent_span_id, [0xa2, 0xfb, 0x4a, 0x1d, 0x1a, 0x96, 0xd3, 0x12]);
}

/// No span said what it stood for, so a tenth of the spans was a tenth of the load.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sampled_says_what_it_stands_for_and_what_callers_leave_out_is_counted() {
    const REQUESTS: u64 = 400;
    let (collector, otlp) = Collector::start().await;
    let telemetry = format!("telemetry: {{ otlp: \"http://{otlp}\", span_ratio: 0.25 }}");
    let proxy = proxy(app(answers().await).await, "      - { upstream: app }", &telemetry);
    let (client, mut told) = (client(), 0);
    for _ in 0..REQUESTS {
        let seen = client.get(url(&proxy, "/")).send().await.unwrap().text().await.unwrap();
        let kept = seen.lines().any(|line| line.starts_with("traceparent=") && line.ends_with("-01"));
        assert_eq!(seen.contains("tracestate=ot=th:c\n"), kept, "{seen}");
        told += u64::from(kept);
    }
    let trace = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
    for (flags, state) in [("01", "vendor=1,ot=th:8"), ("00", "vendor=2")] {
        let request = client.get(url(&proxy, "/")).header("tracestate", state);
        let seen = request.header("traceparent", format!("00-{trace}-{flags}")).send().await.unwrap();
        let seen = seen.text().await.unwrap();
        assert!(seen.contains(&format!("tracestate={state}\n")), "the caller's choice goes on as it is: {seen}");
    }
    assert_eq!(flow::metric(&proxy, "weir_proxy_unsampled_here_total").await, (REQUESTS - told) as f64);
    assert_eq!(flow::metric(&proxy, "weir_proxy_unsampled_by_caller_total").await, 1.0);
    proxy.drain().await;
    let spans = collector.spans();
    let (callers, own): (Vec<_>, Vec<_>) = spans.iter().partition(|span| !span.parent_span_id.is_empty());
    assert!(own.iter().all(|span| span.trace_state == "ot=th:c") && own.len() as u64 == told);
    // 100 expected, 8.7 the standard deviation: six of them to either side
    assert!((48..=152).contains(&told), "{told} of {REQUESTS}, each for four");
    assert_eq!(callers.iter().map(|span| span.trace_state.as_str()).collect::<Vec<_>>(), ["vendor=1,ot=th:8"]);
    for (name, expected) in [("weir.proxy.unsampled_here", REQUESTS - told), ("weir.proxy.unsampled_by_caller", 1)] {
        use opentelemetry_proto::tonic::metrics::v1::metric::Data;
        let Some(Data::Sum(sum)) = collector.metric(name).unwrap().data else { panic!("{name} is no count") };
        assert_eq!(format!("{:?}", sum.data_points[0].value), format!("Some(AsInt({expected}))"), "{name}");
    }
}
