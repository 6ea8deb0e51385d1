//! A new configuration while requests pass, a bad one, and the end: no request is lost by any of them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use weir_proxy::{Config, Proxy};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const CLIENTS: usize = 16;

/// A server that answers with its name, a moment later.
async fn upstream(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut stream = stream;
                while head(&mut stream).await.is_some() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    let answer = format!("HTTP/1.1 200 OK\r\nx-name: {name}\r\ncontent-length: 0\r\n\r\n");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Reads up to an empty line; `None` when the other side ends before.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    while !read.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8(read).unwrap())
}

/// What clients saw.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answered: AtomicUsize,
    lost: AtomicUsize,
}

impl Load {
    /// Clients that ask one request after the other and reconnect when they are told to.
    fn start(address: SocketAddr) -> (Arc<Self>, JoinSet<()>) {
        let (load, mut clients) = (Arc::new(Self::default()), JoinSet::new());
        for _ in 0..CLIENTS {
            clients.spawn(load.clone().ask(address));
        }
        (load, clients)
    }

    async fn ask(self: Arc<Self>, address: SocketAddr) {
        let mut kept: Option<TcpStream> = None;
        while !self.stop.load(Relaxed) {
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => match TcpStream::connect(address).await {
                    Ok(stream) => stream,
                    Err(_) => return, // nobody listens any more, and nothing was asked
                },
            };
            let sent = stream.write_all(GET).await;
            match head(&mut stream).await.filter(|_| sent.is_ok()) {
                Some(answer) if answer.starts_with("HTTP/1.1 200") => {
                    self.answered.fetch_add(1, Relaxed);
                    kept = (!answer.contains("connection: close")).then_some(stream);
                }
                _ => {
                    self.lost.fetch_add(1, Relaxed);
                }
            }
        }
    }

    async fn reach(&self, answered: usize) {
        until(|| self.answered.load(Relaxed) >= answered).await;
    }
}

async fn until(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it never came true");
}

fn yaml(listeners: &[&str], upstream: SocketAddr, more: &str) -> String {
    let listeners = listeners.iter().map(|address| {
        format!("  - {{ address: \"{address}\", direction: inbound, routes: [{{ upstream: app }}] }}\n")
    });
    format!(
        "service: app\nthreads: 2\nadmin: 127.0.0.1:0\nlisteners:\n{}\
         upstreams: [{{ name: app, endpoints: [\"{upstream}\"] }}]\n{more}",
        listeners.collect::<String>()
    )
}

fn config(listeners: &[&str], upstream: SocketAddr, more: &str) -> Config {
    Config::from_yaml(&yaml(listeners, upstream, more)).unwrap()
}

async fn name(stream: &mut TcpStream) -> String {
    stream.write_all(GET).await.unwrap();
    let answer = head(stream).await.unwrap();
    answer.lines().find_map(|line| line.strip_prefix("x-name: ")).unwrap_or(&answer).to_owned()
}

async fn admin(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_by_reloads_under_load() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let proxy = Proxy::start(config(&["127.0.0.1:0"], one, "")).unwrap();
    let (load, mut clients) = Load::start(proxy.addresses()[0]);
    for round in 1..=50 {
        load.reach(round * 20).await;
        let (to, listeners) = if round % 2 == 0 { (one, &["127.0.0.1:0"][..]) } else { (two, &["127.0.0.1:0"; 2][..]) };
        proxy.reload(config(listeners, to, "")).await.unwrap();
        assert_eq!(proxy.addresses().len(), listeners.len());
    }
    load.reach(1_100).await;
    load.stop.store(true, Relaxed);
    while clients.join_next().await.is_some() {}
    assert_eq!(load.lost.load(Relaxed), 0);
    let counters = proxy.drain().await;
    assert_eq!(counters.requests as usize, load.answered.load(Relaxed), "counts go on over reloads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_lasts_gets_the_new_routes() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let proxy = Proxy::start(config(&["127.0.0.1:0", "127.0.0.1:0"], one, "")).unwrap();
    let addresses = proxy.addresses();
    let mut kept = TcpStream::connect(addresses[0]).await.unwrap();
    let mut other = TcpStream::connect(addresses[1]).await.unwrap();
    assert_eq!((name(&mut kept).await, name(&mut other).await), ("one".into(), "one".into()));
    proxy.reload(config(&["127.0.0.1:0"], two, "")).await.unwrap();
    assert_eq!(proxy.addresses(), addresses[..1]);
    assert_eq!(name(&mut kept).await, "two");
    assert!(head(&mut other).await.is_none(), "the listener is gone, and its idle connections with it");
    until(|| std::net::TcpStream::connect(addresses[1]).is_err()).await;
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_over_a_reload() {
    let one = upstream("one").await;
    let limit = "limits: { rate_limit: { rate_per_s: 0.001, burst: 1 } }\n";
    let proxy = Proxy::start(config(&["127.0.0.1:0"], one, limit)).unwrap();
    let mut stream = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
    assert_eq!(name(&mut stream).await, "one");
    proxy.reload(config(&["127.0.0.1:0"], one, limit)).await.unwrap();
    assert!(name(&mut stream).await.starts_with("HTTP/1.1 429"), "a reload does not fill the bucket");
    let mut second = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
    proxy.reload(config(&["127.0.0.1:0"], one, "")).await.unwrap();
    assert_eq!(name(&mut second).await, "one", "a limit that is gone from the file is gone");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_refused_whole_and_told() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let proxy = Proxy::start(config(&["127.0.0.1:0"], one, "")).unwrap();
    let told = async || admin(proxy.admin_address().unwrap(), "/config").await;
    assert!(told().await.contains("\"refused\": null"));
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let mut nameless = config(&["127.0.0.1:0"], two, "");
    nameless.upstreams[0].name = "other".into();
    let mut renamed = config(&["127.0.0.1:0"], two, "");
    renamed.service = "other".into();
    for (bad, why) in [
        (nameless, "no upstream is named"),
        (renamed, "service cannot change while the proxy runs"),
        (config(&["127.0.0.1:0", &taken], two, ""), "cannot listen on"),
    ] {
        let error = proxy.reload(bad).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(told().await.contains(why), "{}", told().await);
        let mut stream = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
        assert_eq!(name(&mut stream).await, "one", "the one before stays, after {why}");
    }
    proxy.reload(config(&["127.0.0.1:0"], two, "")).await.unwrap();
    let now = told().await;
    assert!(now.contains("\"refused\": null") && now.contains("\"reloads\": 1"), "{now}");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_by_a_drain_under_load() {
    let one = upstream("one").await;
    let proxy = Proxy::start(config(&["127.0.0.1:0"], one, "")).unwrap();
    let (load, mut clients) = Load::start(proxy.addresses()[0]);
    load.reach(200).await;
    let counters = proxy.drain().await;
    while clients.join_next().await.is_some() {}
    assert_eq!(load.lost.load(Relaxed), 0, "of {}", load.answered.load(Relaxed));
    assert_eq!(counters.requests as usize, load.answered.load(Relaxed));
}

/// The binary, ended with the test.
struct Running(Child);

impl Running {
    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_follows_its_file_and_ends_on_sigterm() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy.yaml");
    std::fs::write(&file, yaml(&["127.0.0.1:0"], one, "")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-proxy"));
    command.arg("--config").arg(&file).env("NO_COLOR", "1").stderr(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    let mut log = BufReader::new(running.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let ready = log.find(|line| line.contains("listening=[")).unwrap();
    let port = |after: &str| -> SocketAddr {
        let (_, rest) = ready.split_once(after).unwrap();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        SocketAddr::from(([127, 0, 0, 1], digits.parse().unwrap()))
    };
    let (address, admin_address) = (port("listening=[127.0.0.1:"), port("admin=Some(127.0.0.1:"));
    std::thread::spawn(move || log.for_each(drop));
    let told = async |what: &str| {
        let wait = async {
            while !admin(admin_address, "/config").await.contains(what) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("{what} is not told"));
    };
    let (load, mut clients) = Load::start(address);
    load.reach(100).await;
    std::fs::write(&file, yaml(&["127.0.0.1:0"], two, "")).unwrap();
    told("\"reloads\": 1").await;
    std::fs::write(&file, "service: app\nlistners: []\n").unwrap();
    running.signal("-HUP");
    told("did you mean `listeners`?").await;
    assert_eq!(name(&mut TcpStream::connect(address).await.unwrap()).await, "two");
    std::fs::write(&file, yaml(&["127.0.0.1:0"], one, "")).unwrap();
    running.signal("-HUP");
    told("\"reloads\": 2").await;
    running.signal("-TERM");
    while clients.join_next().await.is_some() {}
    assert!(running.0.wait().unwrap().success());
    assert_eq!(load.lost.load(Relaxed), 0, "of {}", load.answered.load(Relaxed));
}
