//! Who waits in line for room: bodies of known length, in chunks, compressed, over both doors; and senders that do not wait.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prost::Message;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use weir::server::Server;

use crate::{
    overload::{announce, in_flight, metric},
    support::{client, gzip, request, server_with, span},
};

const START: u64 = 1_700_000_000_000_000_000;
const BODY: usize = 1 << 20;

/// A server with room for two of the largest bodies, and requests that hold it but for `left` bytes.
async fn full(dir: &std::path::Path, max_wait_ms: u64, left: usize) -> (Server, Vec<TcpStream>) {
    let weir = server_with(dir, |config| {
        config.collector.max_body_bytes = BODY;
        config.collector.max_in_flight_bytes = 2 * BODY;
        config.collector.body_timeout_ms = 60_000;
        config.collector.max_wait_ms = max_wait_ms;
    })
    .await;
    let http = weir.addresses.otlp_http;
    let holders = vec![announce(http, BODY).await, announce(http, BODY - left).await];
    in_flight(&weir, 2 * BODY - left).await;
    (weir, holders)
}

/// How a body is sent by HTTP.
#[derive(Clone, Copy, Debug)]
struct Way {
    gzip: bool,
    chunked: bool,
}

const WAYS: [Way; 4] = [
    Way { gzip: false, chunked: false },
    Way { gzip: true, chunked: false },
    Way { gzip: false, chunked: true },
    Way { gzip: true, chunked: true },
];

/// Sends by HTTP; ends with the status and how long it took.
fn by_http(weir: &Server, way: Way, body: Vec<u8>) -> JoinHandle<(u16, Duration)> {
    let url = format!("http://{}/v1/traces", weir.addresses.otlp_http);
    let body = if way.gzip { gzip(&body) } else { body };
    let mut post = client().post(url).header("content-type", "application/x-protobuf");
    if way.gzip {
        post = post.header("content-encoding", "gzip");
    }
    let post = match way.chunked {
        false => post.body(body),
        true => {
            let pieces: Vec<_> = body.chunks(32 << 10).map(Bytes::copy_from_slice).collect();
            post.body(reqwest::Body::wrap_stream(stream::iter(pieces).map(Ok::<_, std::io::Error>)))
        }
    };
    tokio::spawn(async move {
        let sent = Instant::now();
        (post.send().await.unwrap().status().as_u16(), sent.elapsed())
    })
}

/// Sends by gRPC, compressed; ends with what HTTP would have answered.
fn by_grpc(weir: &Server, service: &str) -> JoinHandle<(u16, Duration)> {
    let (url, request) = (format!("http://{}", weir.addresses.otlp_grpc), request(service, Vec::new()));
    tokio::spawn(async move {
        let mut client = TraceServiceClient::connect(url).await.unwrap().send_compressed(CompressionEncoding::Gzip);
        let sent = Instant::now();
        let status = match client.export(request).await.map_err(|status| status.code()) {
            Ok(_) => 200,
            Err(tonic::Code::Unavailable) => 503,
            Err(_) => 500,
        };
        (status, sent.elapsed())
    })
}

fn spans() -> Vec<u8> {
    request("a", vec![span(1, 1, 0, "x", START, 1)]).encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_waits_in_line_however_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (weir, holders) = full(dir.path(), 120_000, 0).await;
    let http = WAYS.map(|way| (way, by_http(&weir, way, spans())));
    let grpc = by_grpc(&weir, "a");
    metric(&weir, "weir_collector_waiting_requests{before=\"read\"} 5\n").await;
    drop(holders);
    for (way, sent) in http {
        assert_eq!(sent.await.unwrap().0, 200, "{way:?}");
    }
    assert_eq!(grpc.await.unwrap().0, 200);
    metric(&weir, "weir_collector_refused_requests_total{signal=\"traces\"} 0\n").await;
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_proves_larger_waits_for_more_and_goes_before_newcomers() {
    // small as sent and announced, but for the one in chunks, which says nothing
    for way in [Some(WAYS[1]), Some(WAYS[2]), None] {
        let dir = tempfile::tempdir().unwrap();
        let (weir, holders) = full(dir.path(), 120_000, 192 << 10).await;
        let name = "x".repeat(500 << 10);
        let grows = match way {
            Some(way) => by_http(&weir, way, request(&name, Vec::new()).encode_to_vec()),
            None => by_grpc(&weir, &name),
        };
        metric(&weir, "weir_collector_waiting_requests{before=\"grown\"} 1\n").await;
        // there is room for it, but not before those who are inside
        let newcomer = by_http(&weir, WAYS[0], spans());
        metric(&weir, "weir_collector_waiting_requests{before=\"read\"} 1\n").await;
        drop(holders);
        assert_eq!((grows.await.unwrap().0, newcomer.await.unwrap().0), (200, 200), "{way:?}");
        in_flight(&weir, 0).await;
        weir.stop().await.unwrap();
    }
}

/// Found by reasoning: eight half-read bodies hold all the room and each waits for more of it.
#[tokio::test(flavor = "multi_thread")]
async fn half_read_bodies_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (weir, holders) = full(dir.path(), 120_000, 0).await;
    let large = request(&"x".repeat(700 << 10), Vec::new()).encode_to_vec();
    let sent: Vec<_> = (0..8).map(|_| by_http(&weir, WAYS[2], large.clone())).collect();
    metric(&weir, "weir_collector_waiting_requests{before=\"read\"} 8\n").await;
    drop(holders);
    for sent in sent {
        assert_eq!(sent.await.unwrap().0, 200);
    }
    in_flight(&weir, 0).await;
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_longer_than_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (weir, holders) = full(dir.path(), 600, 192 << 10).await;
    let large = request(&"x".repeat(500 << 10), Vec::new()).encode_to_vec();
    for way in WAYS {
        let (status, took) = by_http(&weir, way, large.clone()).await.unwrap();
        assert_eq!(status, 503, "{way:?}");
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(10), "{way:?}: {took:?}");
    }
    assert_eq!(by_grpc(&weir, &"x".repeat(500 << 10)).await.unwrap().0, 503);
    drop(holders);
    weir.stop().await.unwrap();
}

/// Found by reasoning: what waits unread used up the connection's window, and with it stopped who held the room.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_on_a_connection_do_not_stop_who_is_read_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let (weir, holders) = full(dir.path(), 120_000, 600 << 10).await;
    let connection = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let post = || {
        let url = format!("http://{}/v1/traces", weir.addresses.otlp_http);
        connection.post(url).header("content-type", "application/x-protobuf")
    };
    let large = request(&"x".repeat(500 << 10), Vec::new()).encode_to_vec();
    let (pieces, body) = tokio::sync::mpsc::channel::<Bytes>(1);
    let body = ReceiverStream::new(body).map(Ok::<_, std::io::Error>);
    let read = post().header("content-length", large.len()).body(reqwest::Body::wrap_stream(body));
    let read = tokio::spawn(read.send());
    in_flight(&weir, 2 * BODY - (600 << 10) + large.len()).await;
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(post().body(large.clone()).send())).collect();
    metric(&weir, "weir_collector_waiting_requests{before=\"read\"} 20\n").await;
    for piece in large.chunks(32 << 10) {
        pieces.send(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    drop(pieces);
    assert_eq!(read.await.unwrap().unwrap().status(), 200);
    drop(holders);
    for sent in waiting {
        assert_eq!(sent.await.unwrap().unwrap().status(), 200);
    }
    weir.stop().await.unwrap();
}

/// Such a call was counted nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_refused_before_its_deadline_and_counted_as_abandoned_when_it_ends_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let (weir, holders) = full(dir.path(), 120_000, 0).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let url = format!("http://{}/opentelemetry.proto.collector.trace.v1.TraceService/Export", weir.addresses.otlp_grpc);
    let message = spans();
    let framed = [&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat();
    let whole = || reqwest::Body::from(framed.clone());
    let never_sent = || reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let calls = [("1S", whole(), "14", 0), ("100m", never_sent(), "4", 1), ("0n", whole(), "4", 2)];
    for (calls, (timeout, body, status, abandoned)) in (1..).zip(calls) {
        let post = client.post(&url).header("content-type", "application/grpc").header("grpc-timeout", timeout);
        let answer = post.body(body).send().await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], status, "{timeout}");
        metric(&weir, &format!("weir_collector_abandoned_requests_total{{signal=\"traces\"}} {abandoned}\n")).await;
        metric(&weir, &format!("weir_collector_requests_total{{signal=\"traces\"}} {calls}\n")).await;
    }
    metric(&weir, "weir_collector_malformed_requests_total{signal=\"traces\"} 0\n").await;
    drop(holders);
    weir.stop().await.unwrap();
}
