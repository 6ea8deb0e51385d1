//! Shared connections against a peer that is told what to do: what fills them, what ends them, what they are asked.

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::LocalSet,
};

use super::*;
use crate::{Config, security::Security, traffic::pool::Connection, workload::Workload};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

fn to(listener: &TcpListener) -> (Pool, Pick) {
    with(listener, "")
}

/// An upstream of which `more` is said.
fn with(listener: &TcpListener, more: &str) -> (Pool, Pick) {
    let text = format!(
        "service: a\ntimeouts: {{ connect_ms: 1000 }}\n\
         listeners: [{{ address: '127.0.0.1:0', direction: outbound, routes: [{{ upstream: app }}] }}]\n\
         upstreams: [{{ name: app, protocol: h2, endpoints: ['{}']{more} }}]",
        listener.local_addr().unwrap()
    );
    let config = Config::from_yaml(&text).unwrap();
    let workload = Workload::new(&config, "127.0.0.1:80".parse().unwrap(), Arc::default(), Security::default());
    let pick = workload.upstreams[0].pick(None, &[], Instant::now()).unwrap();
    (Pool::new(config.timeouts, config.http), pick)
}

async fn http2(pool: &Pool, pick: &Pick) -> (http2::SendRequest<RequestBody>, Place) {
    match pool.connection(pick, true).await {
        Ok((Connection::Http2(sender, place), _)) => (sender, place),
        _ => panic!("no HTTP/2 connection"),
    }
}

/// Runs `flow` to its end while `answering` serves the other side.
async fn while_answered(flow: impl Future<Output = ()>, answering: impl Future<Output = ()>) {
    let both = async {
        tokio::select! {
            () = flow => {}
            () = answering => panic!("the connection ended"),
        }
    };
    LocalSet::new().run_until(both).await;
}

/// Three answers of 2 MiB once filled the 5 MiB that hyper gives a connection.
#[tokio::test]
async fn answers_that_nobody_reads_stop_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (pool, pick) = to(&listener);
    let answering = async {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        while let Some(Ok((request, mut answer))) = connection.accept().await {
            let bytes = request.uri().path()[1..].parse().unwrap();
            let mut body = answer.send_response(Response::new(()), false).unwrap();
            body.send_data(vec![0; bytes].into(), true).unwrap();
        }
    };
    let flow = async {
        let (mut sender, _place) = http2(&pool, &pick).await;
        let mut ask = async |bytes: usize| {
            let request = Request::get(format!("http://app/{bytes}")).body(RequestBody::Whole(Full::default()));
            sender.send_request(request.unwrap()).await.unwrap().into_body()
        };
        let mut unread = Vec::new();
        for _ in 0..4 {
            unread.push(ask(3 << 20).await);
        }
        let quick = tokio::time::timeout(Duration::from_secs(10), ask(10).await.collect()).await;
        assert_eq!(quick.expect("it waits for what nobody reads").unwrap().to_bytes().len(), 10);
        assert_eq!(unread.pop().unwrap().collect().await.unwrap().to_bytes().len(), 3 << 20, "they come when read");
    };
    while_answered(flow, answering).await;
}

/// 4,096 streams that nobody read could hold 1 GiB on one connection.
#[tokio::test]
async fn what_nobody_reads_is_bounded_on_each_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (pool, pick) = to(&listener);
    let accepted = Rc::new(Cell::new(0));
    let answering = async {
        let local = LocalSet::new();
        local
            .run_until(async {
                loop {
                    let stream = listener.accept().await.unwrap().0;
                    accepted.set(accepted.get() + 1);
                    tokio::task::spawn_local(async move {
                        let mut connection = h2::server::handshake(stream).await.unwrap();
                        while let Some(Ok((_, mut answer))) = connection.accept().await {
                            let mut body = answer.send_response(Response::new(()), false).unwrap();
                            body.send_data(vec![0; 300 << 10].into(), true).unwrap();
                        }
                    });
                }
            })
            .await;
    };
    let flow = async {
        let mut unread = Vec::new();
        for opened in 1..=129_usize {
            let (mut sender, place) = http2(&pool, &pick).await;
            let request = Request::get("http://app/").body(RequestBody::Whole(Full::default())).unwrap();
            unread.push((sender.send_request(request).await.unwrap().into_body(), place));
            assert_eq!(accepted.get(), opened.div_ceil(128), "{opened} streams");
        }
        let (read, _place) = unread.swap_remove(0);
        assert_eq!(read.collect().await.unwrap().to_bytes().len(), 300 << 10, "it comes when read");
    };
    while_answered(flow, answering).await;
}

/// More than 4,096 streams once shared windows that were made for those, and who did not read stopped others.
#[tokio::test]
async fn no_connection_carries_more_than_its_window_is_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (pool, pick) = to(&listener);
    let answering = async {
        let mut connections = Vec::new();
        loop {
            let stream = listener.accept().await.unwrap().0;
            let mut connection = h2::server::Builder::new();
            connection.max_concurrent_streams(1);
            let mut connection = connection.handshake::<_, bytes::Bytes>(stream).await.unwrap();
            connections.push(tokio::task::spawn_local(async move { while connection.accept().await.is_some() {} }));
        }
    };
    let flow = async {
        let mut places = Vec::new();
        for _ in 0..ENOUGH_CONNECTIONS + 1 {
            places.push(http2(&pool, &pick).await.1);
        }
        let kept = pool.kept.borrow()[&pick.endpoint.id].clone();
        let open = || kept.http2.open.borrow().iter().map(|c| c.in_use.get()).collect::<Vec<_>>();
        assert_eq!((open().len(), open().iter().max()), (ENOUGH_CONNECTIONS, Some(&2)), "one waits for the peer's");
        while open().iter().min() < Some(&MAX_STREAMS) {
            places.push(http2(&pool, &pick).await.1);
        }
        assert_eq!(open(), [MAX_STREAMS; ENOUGH_CONNECTIONS]);
        places.push(http2(&pool, &pick).await.1);
        assert_eq!((open().len(), open().iter().max()), (ENOUGH_CONNECTIONS + 1, Some(&MAX_STREAMS)));
    };
    while_answered(flow, answering).await;
}

/// gRPC servers close whoever pings a stream without data more often than every five minutes: every 10 s was too often for
/// all calls on that connection after 40 s.
#[tokio::test]
async fn a_quiet_stream_is_pinged_only_where_that_is_asked_for() {
    for (more, pings) in [("", 0), (", ping_ms: 60000", 9)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, pick) = with(&listener, more);
        let counting = async {
            let mut stream = listener.accept().await.unwrap().0;
            stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
            stream.read_exact(&mut [0; 24]).await.unwrap();
            let (mut seen, mut asked) = (0, 0);
            // the second request ends it
            while asked < 2 {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
                stream.read_exact(&mut payload).await.unwrap();
                match head[3] {
                    PING => {
                        seen += 1;
                        let pong = [&[0, 0, 8, PING, 1, 0, 0, 0, 0][..], &payload].concat();
                        stream.write_all(&pong).await.unwrap();
                    }
                    HEADERS => asked += 1,
                    _ => {}
                }
            }
            seen
        };
        let flow = async {
            let (mut sender, _place) = http2(&pool, &pick).await;
            let request = || Request::get("http://app/").body(RequestBody::Whole(Full::default())).unwrap();
            let quiet = sender.send_request(request());
            let asked = tokio::task::spawn_local(quiet);
            tokio::time::pause();
            for _ in 0..570 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            tokio::time::resume();
            let second = tokio::task::spawn_local(sender.send_request(request()));
            (asked, second)
        };
        let (seen, _) = LocalSet::new().run_until(async { tokio::join!(counting, flow) }).await;
        assert_eq!(seen, pings, "in nine and a half minutes, with {more:?}");
    }
}

/// One that carried nothing any more stayed for as long as its peer let it, whatever `pool_idle_ms` said.
#[tokio::test]
async fn a_connection_without_streams_is_closed_after_its_time() {
    for (more, longest_s) in [(", pool_idle_ms: 20000", 20), ("", 300)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, pick) = with(&listener, more);
        let closed = Notify::new();
        let answering = async {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            while let Some(Ok((_, mut answer))) = connection.accept().await {
                answer.send_response(Response::new(()), true).unwrap();
            }
            closed.notify_one();
            std::future::pending::<()>().await;
        };
        let flow = async {
            let (mut sender, place) = http2(&pool, &pick).await;
            let request = Request::get("http://app/").body(RequestBody::Whole(Full::default())).unwrap();
            sender.send_request(request).await.unwrap();
            drop(sender);
            let left_after = async |seconds| {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                pool.sweep(&[pick.endpoint.id].into());
                pool.kept.borrow()[&pick.endpoint.id].http2.open.borrow().len()
            };
            tokio::time::pause();
            assert_eq!(left_after(3_600).await, 1, "its stream is open");
            drop(place);
            assert_eq!((left_after(longest_s - 1).await, left_after(1).await), (1, 0), "{more:?}");
            tokio::time::resume();
            closed.notified().await;
        };
        while_answered(flow, answering).await;
    }
}

/// Unless told otherwise h2 takes 16 KiB, where over HTTP/1.1 the same answers came through.
#[tokio::test]
async fn an_answer_may_have_as_long_a_head_as_a_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (pool, pick) = to(&listener);
    let answering = async {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        while let Some(Ok((request, mut answer))) = connection.accept().await {
            let bytes: usize = request.uri().path()[1..].parse().unwrap();
            let head = Response::builder().header("x-long", "a".repeat(bytes)).body(()).unwrap();
            let _ = answer.send_response(head, true);
        }
    };
    let flow = async {
        let (mut sender, _place) = http2(&pool, &pick).await;
        for (bytes, taken) in [(1_000, true), (50 * 1024, true), (70 * 1024, false)] {
            let request =
                Request::get(format!("http://app/{bytes}")).body(RequestBody::Whole(Full::default())).unwrap();
            assert_eq!(sender.send_request(request).await.is_ok(), taken, "{bytes}");
        }
    };
    while_answered(flow, answering).await;
}

/// The next request inherited a handshake that nobody had waited for, with its deadlines of then.
#[tokio::test]
async fn a_handshake_that_all_have_left_is_begun_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (pool, pick) = to(&listener);
    let flow = async {
        let left = tokio::time::timeout(Duration::from_millis(100), pool.connection(&pick, true)).await;
        assert!(left.is_err(), "nobody answers");
        let _silent = listener.accept().await.unwrap();
        // until the deadline of that handshake has passed
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let answering = async {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            while connection.accept().await.is_some() {}
        };
        tokio::select! {
            connected = pool.connection(&pick, true) => assert!(connected.is_ok(), "it is connected anew"),
            () = answering => panic!("the connection ended"),
        }
    };
    LocalSet::new().run_until(flow).await;
}
