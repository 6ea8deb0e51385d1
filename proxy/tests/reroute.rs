//! Requests that nobody wanted tried again: what certainly never arrived reaches another endpoint all the same, what may
//! have arrived and does harm twice does not; by count.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{Router, body::Bytes};
use http::Method;
use support::{admin, client, nobody, serve, start, until, url};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// An application that can be killed: it stops to listen, and its connections break off, requests under way with them.
struct Mortal {
    address: SocketAddr,
    kill: watch::Sender<bool>,
    answered: Arc<AtomicUsize>,
}

impl Mortal {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, (kill, killed)) = (listener.local_addr().unwrap(), watch::channel(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let count = answered.clone();
        tokio::spawn(async move {
            let mut dies = killed.clone();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = dies.changed() => return,
                };
                tokio::spawn(answer(stream, killed.clone(), count.clone()));
            }
        });
        Self { address, kill, answered }
    }
}

/// Answers one request after the other. The first of a connection it answers whatever happens: one that closes without an answer
/// to its first is not to be taken for one that was closed meanwhile.
async fn answer(mut stream: TcpStream, mut killed: watch::Receiver<bool>, answered: Arc<AtomicUsize>) {
    if request(&mut stream).await.is_none() {
        return;
    }
    loop {
        answered.fetch_add(1, SeqCst);
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
            return;
        }
        tokio::select! {
            _ = killed.wait_for(|killed| *killed) => return,
            request = request(&mut stream) => if request.is_none() { return },
        }
    }
}

/// Reads a head, of a request without a body.
async fn request(stream: &mut TcpStream) -> Option<()> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}

fn two(addresses: [SocketAddr; 2], more: &str) -> String {
    let [one, two] = addresses;
    format!("{{ name: app, endpoints: ['{one}', '{two}']{more} }}")
}

/// Requests that still went to an endpoint that had exited were once answered by a 502.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_killed_under_load_costs_no_request() {
    for balance in ["p2c_peak_ewma", "round_robin", "least_request"] {
        let (dies, stays) = (Mortal::start().await, Mortal::start().await);
        let more = format!(", balance: {balance}, retry_budget: {{ min_retry_concurrency: 100 }}");
        let proxy = Arc::new(start("{ upstream: app }", &two([dies.address, stays.address], &more), ""));
        let (stop, asked, failed) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // one for all: to read the system's roots costs more than all the requests
        let (client, mut clients) = (client(), JoinSet::new());
        for _ in 0..16 {
            let (stop, asked, failed, url) = (stop.clone(), asked.clone(), failed.clone(), url(&proxy, "/"));
            let client = client.clone();
            clients.spawn(async move {
                while !stop.load(SeqCst) {
                    let status = client.get(&url).send().await.unwrap().status();
                    failed.fetch_add(usize::from(status != 200), SeqCst);
                    asked.fetch_add(1, SeqCst);
                }
            });
        }
        until("warm", async || asked.load(SeqCst) >= 500 && dies.answered.load(SeqCst) >= 50).await;
        dies.kill.send(true).unwrap();
        let killed_at = asked.load(SeqCst);
        until("after", async || asked.load(SeqCst) >= killed_at + 500).await;
        stop.store(true, SeqCst);
        clients.join_all().await;
        assert_eq!(failed.load(SeqCst), 0, "{balance}: of {}", asked.load(SeqCst));
        let counters = Arc::into_inner(proxy).unwrap().drain().await;
        assert!(counters.rerouted > 0, "{balance}: none went there");
        assert_eq!((counters.retries, counters.retries_refused), (counters.rerouted, 0), "{balance}");
        assert_eq!(counters.requests as usize, asked.load(SeqCst));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_arrived_goes_elsewhere_whatever_it_is() {
    let app =
        serve(Router::new().fallback(async |method: Method, body: Bytes| format!("{method} {}", body.len()))).await;
    let more = ", balance: round_robin";
    let proxy = start("{ upstream: app }", &two([nobody().await, app], more), "");
    for _ in 0..10 {
        let post = client().post(url(&proxy, "/")).body(vec![7; 100_000]).send().await.unwrap();
        assert_eq!((post.status().as_u16(), post.text().await.unwrap()), (200, "POST 100000".into()));
    }
    assert!(admin(&proxy, "/metrics").await.contains("weir_proxy_rerouted_total 5\n"));
    let counters = proxy.drain().await;
    assert_eq!((counters.requests, counters.rerouted, counters.retries), (10, 5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_holds_and_so_does_what_the_route_says_itself() {
    let app = serve(Router::new().fallback(async || "ok")).await;
    let round_robin = ", balance: round_robin";
    let no_budget = ", balance: round_robin, retry_budget: { max_retries: 0 }";
    for (route, more, failed, refused) in [
        ("{ upstream: app }", round_robin, 0, 0),
        ("{ upstream: app }", no_budget, 5, 5),
        ("{ upstream: app, retries: { attempts: 0 } }", round_robin, 5, 0),
    ] {
        let proxy = start(route, &two([nobody().await, app], more), "");
        let mut statuses = Vec::new();
        for _ in 0..10 {
            statuses.push(client().get(url(&proxy, "/")).send().await.unwrap().status().as_u16());
        }
        assert_eq!(statuses.iter().filter(|status| **status == 502).count(), failed, "{route} {more}: {statuses:?}");
        let counters = proxy.drain().await;
        assert_eq!((counters.rerouted, counters.retries_refused), (5 - failed as u64, refused), "{route} {more}");
    }
    let alone = format!("{{ name: app, endpoints: ['{}'] }}", nobody().await);
    let proxy = start("{ upstream: app }", &alone, "");
    assert_eq!(client().get(url(&proxy, "/")).send().await.unwrap().status(), 502);
    assert_eq!(proxy.drain().await.retries, 0, "who cannot be connected to is not asked twice");
}

/// Answers the first request of each connection and closes it upon the second; counts what arrives.
async fn closes_kept() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, arrived) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = arrived.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                if request(&mut stream).await.is_some() {
                    count.fetch_add(1, SeqCst);
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    if request(&mut stream).await.is_some() {
                        count.fetch_add(1, SeqCst);
                    }
                }
            });
        }
    });
    (address, arrived)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_closes_without_an_answer_is_tried_anew_where_that_does_no_harm() {
    for (method, status, arrived) in [(Method::GET, 200, 3), (Method::DELETE, 200, 3), (Method::POST, 502, 2)] {
        let (address, count) = closes_kept().await;
        let text = support::yaml("{ upstream: app }", &format!("{{ name: app, endpoints: ['{address}'] }}"), "");
        let config = weir_proxy::Config::from_yaml(&text.replace("threads: 2", "threads: 1")).unwrap();
        let proxy = weir_proxy::Proxy::start(config).unwrap();
        let ask = async |method: &Method| {
            client().request(method.clone(), url(&proxy, "/")).send().await.unwrap().status().as_u16()
        };
        assert_eq!((ask(&Method::GET).await, ask(&method).await), (200, status), "{method}");
        assert_eq!(count.load(SeqCst), arrived, "{method}");
        assert_eq!(proxy.drain().await.rerouted, u64::from(status == 200), "{method}");
    }
}

/// Resets the first stream for this `reason`, and answers the others.
async fn refuses_first(reason: h2::Reason) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let first = Arc::new(AtomicBool::new(true));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let first = first.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if first.swap(false, SeqCst) {
                        respond.send_reset(reason);
                    } else {
                        let _ = respond.send_response(http::Response::new(()), true);
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_goes_out_once_more_if_its_body_is_still_there() {
    for (reason, method, body, status) in [
        (h2::Reason::REFUSED_STREAM, Method::GET, "", 200),
        (h2::Reason::REFUSED_STREAM, Method::POST, "", 200),
        (h2::Reason::REFUSED_STREAM, Method::POST, "once", 502),
        (h2::Reason::CANCEL, Method::GET, "", 502),
    ] {
        let address = refuses_first(reason).await;
        let upstream = format!("{{ name: app, protocol: h2, endpoints: ['{address}'] }}");
        let proxy = start("{ upstream: app }", &upstream, "");
        let answer = client().request(method.clone(), url(&proxy, "/")).body(body).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{reason:?} {method} {body:?}");
        assert_eq!(proxy.drain().await.rerouted, u64::from(status == 200), "{reason:?} {method} {body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_begins_at_another_endpoint_when_the_first_is_gone() {
    let greets = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = greets.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = greets.accept().await {
            stream.write_all(b"hello").await.unwrap();
        }
    });
    let text = format!(
        "service: a\nthreads: 1\nlisteners: [{{ address: '127.0.0.1:0', direction: outbound, protocol: tcp, upstream: app }}]\n\
         upstreams: [{}]",
        two([nobody().await, address], ", balance: round_robin")
    );
    let proxy = weir_proxy::Proxy::start(weir_proxy::Config::from_yaml(&text).unwrap()).unwrap();
    for _ in 0..10 {
        let (mut stream, mut said) = (TcpStream::connect(proxy.addresses()[0]).await.unwrap(), String::new());
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
    }
    let counters = proxy.drain().await;
    assert_eq!((counters.tunnels, counters.rerouted), (10, 5));
}

/// A tunnel was once begun elsewhere although its route wants nothing tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_tried_again_as_its_route_says() {
    let app = Mortal::start().await;
    for (retries, failed) in [("", 0), ("{}", 0), ("{ attempts: 0 }", 5), ("{ on: ['503'] }", 5)] {
        let retries = if retries.is_empty() { String::new() } else { format!(", retries: {retries}") };
        let text = support::yaml(
            &format!("{{ upstream: app{retries} }}"),
            &two([nobody().await, app.address], ", balance: round_robin"),
            "",
        );
        let text = text.replacen("direction: outbound", "direction: outbound, connect: tunnelled", 1);
        let proxy = weir_proxy::Proxy::start(weir_proxy::Config::from_yaml(&text).unwrap()).unwrap();
        let mut statuses = Vec::new();
        for _ in 0..10 {
            let mut stream = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
            stream.write_all(b"CONNECT app:80 HTTP/1.1\r\nhost: app:80\r\n\r\n").await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            statuses.push(String::from_utf8_lossy(&head).into_owned());
        }
        assert_eq!(statuses.iter().filter(|status| status.ends_with("502")).count(), failed, "{retries}: {statuses:?}");
        let counters = proxy.drain().await;
        assert_eq!(counters.rerouted, 5 - failed as u64, "{retries}");
    }
}
