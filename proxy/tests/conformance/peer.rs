//! Raw ends of connections, and a proxy between them.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use weir_proxy::{Config, Proxy};

/// What a test waits for at most; far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// One end of a connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    ahead: Vec<u8>,
}

/// A server whose every byte the test writes.
pub(crate) struct Upstream {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Upstream {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(crate) async fn accept(&self) -> Peer {
        Peer::new(soon(self.listener.accept()).await.unwrap().0)
    }

    /// Whether nobody connects although there was time to.
    pub(crate) async fn is_left_alone(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(200), self.listener.accept()).await.is_err()
    }

    /// Accepts, takes one request's head and answers it.
    pub(crate) async fn answer(&self, text: &str) -> (Peer, String) {
        let mut peer = self.accept().await;
        let head = peer.head().await;
        peer.send(text).await;
        (peer, head)
    }
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    pub(crate) async fn connect(proxy: &Proxy) -> Self {
        Self::new(TcpStream::connect(proxy.addresses()[0]).await.unwrap())
    }

    /// Connects and says something.
    pub(crate) async fn say(proxy: &Proxy, text: &str) -> Self {
        let mut peer = Self::connect(proxy).await;
        peer.send(text).await;
        peer
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    /// Up to and with the empty line.
    pub(crate) async fn head(&mut self) -> String {
        self.until(b"\r\n\r\n").await
    }

    /// Up to and with `end`; panics when the other side ends before.
    pub(crate) async fn until(&mut self, end: &[u8]) -> String {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|w| w == end) {
                let rest = self.ahead.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.ahead, rest)).unwrap();
            }
            let so_far = String::from_utf8_lossy(&self.ahead).into_owned();
            let read = soon(self.stream.read_buf(&mut self.ahead)).await.unwrap();
            assert!(read > 0, "it ended after {so_far:?}");
        }
    }

    /// Exactly so many bytes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count {
            let read = soon(self.stream.read_buf(&mut self.ahead)).await.unwrap();
            assert!(read > 0, "it ended after {:?}", String::from_utf8_lossy(&self.ahead));
        }
        let rest = self.ahead.split_off(count);
        std::mem::replace(&mut self.ahead, rest)
    }

    pub(crate) async fn text(&mut self, count: usize) -> String {
        String::from_utf8(self.bytes(count).await).unwrap()
    }

    /// What comes until the other side ends, well or by a reset.
    pub(crate) async fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.ahead);
        let _ = soon(self.stream.read_to_end(&mut rest)).await;
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// Says no more, but still listens.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Breaks the connection off with RST.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A proxy with one inbound listener in front of `upstream`.
pub(crate) fn proxy(upstream: &Upstream) -> Proxy {
    with(upstream, "routes: [{ upstream: app }]", "", "")
}

/// The same with more to say: of the listener, of the upstream, and at the end of the file.
pub(crate) fn with(upstream: &Upstream, listener: &str, protocol: &str, more: &str) -> Proxy {
    at(upstream.address, listener, protocol, more)
}

/// In front of an address.
pub(crate) fn at(upstream: SocketAddr, listener: &str, protocol: &str, more: &str) -> Proxy {
    Proxy::start(file(upstream, listener, protocol, more)).unwrap()
}

/// What it is told.
pub(crate) fn file(upstream: SocketAddr, listener: &str, protocol: &str, more: &str) -> Config {
    let timeouts = if more.contains("timeouts:") { "" } else { "timeouts: { drain_ms: 2000 }\n" };
    let text = format!(
        "service: app\nthreads: 1\nadmin: 127.0.0.1:0\n\
         listeners: [{{ address: \"127.0.0.1:0\", direction: inbound, {listener} }}]\n\
         upstreams: [{{ name: app, endpoints: [\"{upstream}\"] {protocol} }}]\n{timeouts}{more}"
    );
    Config::from_yaml(&text).unwrap()
}

/// Waits, but not for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Waits until another thread has made it true.
pub(crate) async fn until(done: impl Fn() -> bool) {
    soon(async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// One line of `/metrics` that begins with `name` and a space.
pub(crate) async fn metric(proxy: &Proxy, name: &str) -> u64 {
    let mut admin = Peer::new(TcpStream::connect(proxy.admin_address().unwrap()).await.unwrap());
    admin.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    let text = admin.rest().await;
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).rsplit(' ').next().unwrap().trim().parse().unwrap()
}

/// The value of a field in a head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let mut found = fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    let first = found.next();
    assert!(found.next().is_none(), "{name} twice in {head}");
    first
}
