//! HTTP/2 floods: cheap frames in great number end the connection with GOAWAY, are counted, and cost
//! the process no memory.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_proxy::Proxy;

use crate::{
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PING, POST, PRIORITY, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, frame, open, parse,
    },
    peer::{Peer, Upstream, metric, proxy, soon, with},
};

/// An attack gives up after so many frames; each below is cut long before.
const MOST_FRAMES: usize = 2_000_000;

/// What the resident memory of this process may grow by in an attack.
const GROWTH_BYTES: u64 = 64 << 20;

/// Sends `frames` over and over until the connection is closed; says how many went.
async fn attack(peer: Peer, mut frames: impl FnMut(u32) -> Vec<u8>) -> usize {
    let (mut read, mut write) = peer.stream.into_split();
    // what comes back is taken, or the attack would end by its own back-pressure
    let reading = tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
    let mut sent = 0;
    while sent < MOST_FRAMES {
        let burst: Vec<u8> = (0..100).flat_map(|n| frames(sent as u32 + n)).collect();
        sent += 100;
        if write.write_all(&burst).await.is_err() {
            break;
        }
    }
    drop(write);
    let _ = soon(reading).await.unwrap();
    sent
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Attacks, and holds what every attack must come to.
async fn is_cut(proxy: &Proxy, name: &str, opening: &[u8], frames: impl FnMut(u32) -> Vec<u8>) {
    let before = resident_bytes();
    let mut peer = open(proxy).await;
    peer.send(opening).await;
    let sent = attack(peer, frames).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(sent < MOST_FRAMES, "{name}: all of {sent} frames were taken");
    assert!(grown < GROWTH_BYTES, "{name}: {grown} bytes more after {sent} frames");
}

#[tokio::test]
async fn control_frames_in_great_number_end_the_connection() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let open_stream = frame(HEADERS, END_HEADERS, 1, POST);
    is_cut(&proxy, "ping", &[], |_| frame(PING, 0, 0, &[0; 8])).await;
    is_cut(&proxy, "settings", &[], |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])).await;
    is_cut(&proxy, "priority", &[], |n| frame(PRIORITY, 0, n * 2 + 1, &[0, 0, 0, 0, 16])).await;
    is_cut(&proxy, "empty data", &open_stream, |_| frame(DATA, 0, 1, &[])).await;
    is_cut(&proxy, "reset", &[], |n| {
        let mut pair = frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, GET);
        pair.extend(frame(RST_STREAM, 0, n * 2 + 1, &8_u32.to_be_bytes()));
        pair
    })
    .await;
    // no reset of the client's own: a window of nothing makes the server reset each stream it has begun
    is_cut(&proxy, "made to reset", &[], |n| {
        let mut pair = frame(HEADERS, END_HEADERS, n * 2 + 1, POST);
        pair.extend(frame(WINDOW_UPDATE, 0, n * 2 + 1, &[0; 4]));
        pair
    })
    .await;
    let counted = metric(&proxy, "weir_proxy_refused_requests_total{reason=\"frame_flood\"}").await;
    assert!(counted >= 3, "{counted} floods were counted");
    proxy.drain().await;
}

#[tokio::test]
async fn who_is_cut_is_told() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, "routes: [{ upstream: app }]", "", "http: { max_control_frames_per_s: 10 }\n");
    let mut peer = open(&proxy).await;
    // one for our settings, one for the acknowledgement of theirs would fit, too
    peer.send(frame(PING, 0, 0, &[0; 8]).repeat(48)).await;
    let mut received = Vec::new();
    let pongs = |received: &[u8]| parse(received).iter().filter(|(kind, _)| *kind == PING).count();
    soon(async {
        while pongs(&received) < 48 {
            assert!(peer.stream.read_buf(&mut received).await.unwrap() > 0, "a burst is let through");
        }
    })
    .await;
    peer.send(frame(PING, 0, 0, &[0; 8]).repeat(60)).await;
    let _ = soon(peer.stream.read_to_end(&mut received)).await;
    let (kind, payload) = parse(&received).into_iter().rfind(|(kind, _)| *kind == GOAWAY).expect("GOAWAY");
    assert_eq!((kind, &payload[4..8]), (GOAWAY, &1_u32.to_be_bytes()[..]), "PROTOCOL_ERROR");
    assert_eq!(metric(&proxy, "weir_proxy_refused_requests_total{reason=\"frame_flood\"}").await, 1);
    proxy.drain().await;
}

#[tokio::test]
async fn a_head_that_never_ends_ends_the_connection() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let unfinished = frame(HEADERS, END_STREAM, 1, GET);
    is_cut(&proxy, "empty continuation", &unfinished, |_| frame(CONTINUATION, 0, 1, &[])).await;
    // literal without indexing, 4 KiB of value each
    let mut field = vec![0, 1, b'x', 0x7f, 0x81, 0x1f];
    field.extend([b'y'; 4096]);
    is_cut(&proxy, "long continuation", &unfinished, |_| frame(CONTINUATION, 0, 1, &field)).await;
    assert!(upstream.is_left_alone().await);
    proxy.drain().await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, "routes: [{ upstream: app }]", "", "http: { max_streams: 2 }\n");
    let mut peer = open(&proxy).await;
    let streams = [1, 3, 5].map(|n| frame(HEADERS, END_HEADERS | END_STREAM, n, GET));
    peer.send(streams.concat()).await;
    let (_first, _second) = (upstream.accept().await, upstream.accept().await);
    assert!(upstream.is_left_alone().await, "the third is not passed on");
    let mut received = Vec::new();
    soon(async {
        // REFUSED_STREAM: safe to send again
        while !parse(&received).contains(&(RST_STREAM, 7_u32.to_be_bytes().to_vec())) {
            assert!(peer.stream.read_buf(&mut received).await.unwrap() > 0);
        }
    })
    .await;
    drop(peer);
    proxy.drain().await;
}
