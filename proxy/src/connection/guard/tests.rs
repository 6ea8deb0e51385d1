//! What hyper is given of what a client sends.

use tokio::io::AsyncReadExt;

use super::*;

fn guard(bytes: &'static [u8]) -> Guard<&'static [u8]> {
    Guard::http1(bytes, Vec::new(), 4096, Arc::default(), Patience(Duration::from_secs(1)))
}

#[tokio::test]
async fn a_refused_head_is_never_complete() {
    let mut read = Vec::new();
    guard(b"GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n").read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\0\r\n\r\n");
}

#[tokio::test]
async fn a_body_that_breaks_its_frames_is_an_error() {
    let mut read = Vec::new();
    let bytes = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n";
    let error = guard(bytes).read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(read.ends_with(b"2\r\nabc\r"), "{}", String::from_utf8_lossy(&read));
}

#[tokio::test]
async fn bytes_behind_an_upgrade_wait_for_the_verdict() {
    for (tunnel, expected) in [(true, &b"\x81\x00\n"[..]), (false, b"\x81\x00\0\r\n\r\n")] {
        let mut guard = guard(b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\n\r\n\x81\x00\n");
        let verdict = guard.verdict();
        let mut read = vec![0; 4096];
        let head = guard.read(&mut read).await.unwrap();
        assert!(read[..head].ends_with(b"\r\n\r\n"));
        verdict.settle(1, tunnel);
        let mut rest = Vec::new();
        guard.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, expected);
    }
}

/// The answer to the request before let the bytes behind an upgrade be read as HTTP.
#[tokio::test]
async fn only_the_answer_to_the_upgrade_settles_it() {
    let get = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\n\r\n\x81\x00\n";
    let mut guard = guard(get);
    let verdict = guard.verdict();
    let mut read = vec![0; 4096];
    let heads = guard.read(&mut read).await.unwrap();
    assert!(read[..heads].ends_with(b"upgrade: x\r\n\r\n"));
    verdict.settle(1, false);
    assert!(futures::poll!(Box::pin(guard.read(&mut read))).is_pending(), "the first was answered, not the second");
    verdict.settle(2, true);
    let mut rest = Vec::new();
    guard.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"\x81\x00\n");
}

/// Nobody read while an upgrade was answered, so who left was noticed at the route's timeout.
#[tokio::test]
async fn a_client_that_leaves_while_its_upgrade_is_answered_is_noticed() {
    let (mut client, server) = tokio::io::duplex(4096);
    let mut guard = Guard::http1(server, Vec::new(), 4096, Arc::default(), Patience(Duration::from_secs(1)));
    tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\n\r\n").await.unwrap();
    let mut read = vec![0; 4096];
    assert!(guard.read(&mut read).await.unwrap() > 0);
    assert!(futures::poll!(Box::pin(guard.read(&mut read))).is_pending());
    drop(client);
    let noticed = tokio::time::timeout(Duration::from_secs(20), guard.read(&mut read)).await;
    assert_eq!(noticed.expect("it is noticed").unwrap(), 0);
}

/// A client of a database that paused in the middle of a long answer was cut as one of HTTP that reads too slowly.
#[tokio::test(start_paused = true)]
async fn in_a_tunnel_a_client_may_pause() {
    let patience = Patience(Duration::from_secs(1));
    for tunnel in [false, true] {
        let (_client, server) = tokio::io::duplex(1);
        let mut guard = match tunnel {
            true => Guard::open(server, Vec::new(), Arc::default(), patience),
            false => Guard::http1(server, Vec::new(), 4096, Arc::default(), patience),
        };
        let writing = tokio::io::AsyncWriteExt::write_all(&mut guard, b"rows");
        let waits = tokio::time::timeout(Duration::from_secs(60), writing).await.is_err();
        assert_eq!(waits, tunnel);
    }
}
