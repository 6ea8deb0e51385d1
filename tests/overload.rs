//! More comes than fits: bodies that hold their places, answers that say when to come back, and room
//! again when the places are given back.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic_types::StatusExt;
use weir::server::Server;

use crate::support::{client, request, send, server_with, span};

const START: u64 = 1_700_000_000_000_000_000;
const BODY: usize = 1 << 20;

/// A server that has room for two of the largest bodies.
async fn small(dir: &std::path::Path, body_timeout_ms: u64) -> Server {
    server_with(dir, |config| {
        config.collector.max_body_bytes = BODY;
        config.collector.max_in_flight_bytes = 2 * BODY;
        config.collector.body_timeout_ms = body_timeout_ms;
    })
    .await
}

/// A request that announces a body and sends none of it.
pub(crate) async fn announce(address: SocketAddr, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: weir\r\ncontent-type: application/x-protobuf\r\ncontent-length: {bytes}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Reads until the head and a body of the announced length are there.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap();
        text.extend_from_slice(&piece[..read]);
        let so_far = String::from_utf8_lossy(&text).into_owned();
        let whole = so_far.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            length.is_some_and(|length| body.len() >= length.parse().unwrap())
        });
        if whole || read == 0 {
            return so_far;
        }
    }
}

/// Waits until so many bytes are in flight.
pub(crate) async fn in_flight(weir: &Server, bytes: usize) {
    metric(weir, &format!("weir_collector_in_flight_bytes {bytes}\n")).await;
}

/// Waits until the metrics have this line.
pub(crate) async fn metric(weir: &Server, expected: &str) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while Instant::now() < give_up {
        let metrics = client().get(format!("http://{}/metrics", weir.addresses.web)).send().await.unwrap();
        if metrics.text().await.unwrap().contains(expected) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never {expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_fit_is_refused_before_the_body_and_told_when_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let weir = small(dir.path(), 60_000).await;
    let (http, grpc) = (weir.addresses.otlp_http, format!("http://{}", weir.addresses.otlp_grpc));
    let holders = [announce(http, BODY).await, announce(http, BODY).await];
    in_flight(&weir, 2 * BODY).await;

    // the answer is there before a byte of the body, and the connection lives on
    let mut refused = announce(http, 1000).await;
    let text = answer(&mut refused).await;
    assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    let retry_after = text.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("a time to come back");
    assert!((1..=8).contains(&retry_after.parse::<u64>().unwrap()), "{retry_after}");

    let spans = || request("a", vec![span(1, 1, 0, "x", START, 1)]);
    let mut exporter = TraceServiceClient::connect(grpc).await.unwrap();
    let status = exporter.export(spans()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    let retry_delay = status.get_error_details().retry_info().and_then(|info| info.retry_delay).unwrap();
    assert!((1.0..=8.0).contains(&retry_delay.as_secs_f64()), "{retry_delay:?}");

    // whoever holds a place and leaves gives it back
    drop(holders);
    in_flight(&weir, 0).await;
    exporter.export(spans()).await.unwrap();
    refused.write_all(&[0; 1000]).await.unwrap();
    refused.write_all(b"GET /v1/traces HTTP/1.1\r\nhost: weir\r\n\r\n").await.unwrap();
    let text = answer(&mut refused).await;
    assert!(text.starts_with("HTTP/1.1 405"), "what was refused is read over, then the next is answered: {text}");
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_room_waits_unread_and_is_served_when_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |config| {
        config.collector.max_body_bytes = BODY;
        config.collector.max_in_flight_bytes = 2 * BODY;
        config.collector.body_timeout_ms = 60_000;
        config.collector.max_wait_ms = 120_000;
    })
    .await;
    let holders = [announce(weir.addresses.otlp_http, BODY).await, announce(weir.addresses.otlp_http, BODY).await];
    in_flight(&weir, 2 * BODY).await;
    let (http, grpc) = (weir.addresses.otlp_http, weir.addresses.otlp_grpc);
    let by_http = tokio::spawn(async move {
        let spans = request("a", vec![span(1, 1, 0, "x", START, 1)]);
        send(&client(), &format!("http://{http}"), &spans).await
    });
    let by_grpc = tokio::spawn(async move {
        let mut exporter = TraceServiceClient::connect(format!("http://{grpc}")).await.unwrap();
        exporter.export(request("a", vec![span(2, 2, 0, "x", START, 1)])).await
    });
    metric(&weir, "weir_collector_waiting_requests{before=\"read\"} 2\n").await;
    in_flight(&weir, 2 * BODY).await;

    drop(holders);
    assert!(by_http.await.unwrap());
    by_grpc.await.unwrap().unwrap();
    metric(&weir, "weir_collector_waiting_requests{before=\"read\"} 0\n").await;
    metric(&weir, "weir_collector_refused_requests_total{signal=\"traces\"} 0\n").await;
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_gives_its_place_back() {
    let dir = tempfile::tempdir().unwrap();
    let weir = small(dir.path(), 200).await;
    let mut slow = announce(weir.addresses.otlp_http, BODY).await;
    slow.write_all(&[0; 100]).await.unwrap();
    let text = answer(&mut slow).await;
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("retry-after: 1"), "it may be sent again: {text}");
    in_flight(&weir, 0).await;
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    assert!(send(&client(), &otlp, &request("a", vec![span(1, 1, 0, "x", START, 1)])).await);
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_the_bound_is_closed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |config| config.collector.max_connections = 1).await;
    let mut first = announce(weir.addresses.otlp_http, 5).await;
    first.write_all(b"noise").await.unwrap();
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 400"));
    let mut second = TcpStream::connect(weir.addresses.otlp_grpc).await.unwrap();
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed: both doors share the bound");
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_the_bound_of_the_web_door_is_closed_at_once_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |config| config.web.max_connections = 1).await;
    let mut first = TcpStream::connect(weir.addresses.web).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));
    let mut second = TcpStream::connect(weir.addresses.web).await.unwrap();
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    drop(first);
    let counted = async {
        loop {
            let metrics = client().get(format!("http://{}/metrics", weir.addresses.web)).send().await;
            if let Ok(metrics) = metrics {
                return metrics.text().await.unwrap();
            }
        }
    };
    let text = tokio::time::timeout(std::time::Duration::from_secs(60), counted).await.unwrap();
    assert!(!text.contains("weir_web_refused_connections_total 0\n"), "{text}");
    weir.stop().await.unwrap();
}
