//! [`Door`]: one way into the server, and what it answers.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream};
use reqwest::{Client, RequestBuilder, Response};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{Answer, bodies::Body};

/// Requests in the air on one HTTP/2 connection: what HTTP/2 asks servers to allow at least.
const STREAMS: usize = 100;

/// Few clients do not share a connection: each is a sender of its own.
const LEAST_CONNECTIONS: usize = 16;

/// The connections of a sender.
pub(crate) struct Doors {
    clients: Vec<Client>,
    url: String,
    http: bool,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Door {
    client: Client,
    url: String,
    http: bool,
}

impl Doors {
    /// For so many requests in the air: over HTTP each has a connection, over gRPC a stream.
    pub(crate) fn open(url: &str, http: bool, in_the_air: usize) -> Self {
        let builder = || Client::builder().no_proxy().pool_max_idle_per_host(usize::MAX);
        if http {
            let clients = vec![builder().build().unwrap()];
            return Self { clients, url: format!("{url}/v1/traces"), http };
        }
        let client = |_| builder().http2_prior_knowledge().build().unwrap();
        let connections = in_the_air.div_ceil(STREAMS).max(in_the_air.min(LEAST_CONNECTIONS));
        let clients = (0..connections).map(client).collect();
        let url = format!("{url}/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        Self { clients, url, http }
    }

    /// The door of a client.
    pub(crate) fn of(&self, number: usize) -> Door {
        let client = self.clients[number % self.clients.len()].clone();
        Door { client, url: self.url.clone(), http: self.http }
    }
}

impl Door {
    pub(crate) async fn send(&self, body: Body) -> Answer {
        let sent = if self.http { self.http(body) } else { self.grpc(body) };
        match sent.send().await {
            Err(error) => failed(&error),
            Ok(response) if self.http => http_answer(&response),
            Ok(response) => grpc_answer(response).await,
        }
    }

    fn http(&self, body: Body) -> RequestBuilder {
        let mut post = self.client.post(&self.url).header("content-type", "application/x-protobuf");
        if body.is_gzip() {
            post = post.header("content-encoding", "gzip");
        }
        post.header("content-length", body.bytes()).body(streamed(body.pieces()))
    }

    fn grpc(&self, body: Body) -> RequestBuilder {
        let mut prefix = BytesMut::new();
        prefix.put_u8(u8::from(body.is_gzip()));
        prefix.put_u32(u32::try_from(body.bytes()).unwrap());
        let mut post = self.client.post(&self.url).header("content-type", "application/grpc").header("te", "trailers");
        if body.is_gzip() {
            post = post.header("grpc-encoding", "gzip");
        }
        post.body(streamed(std::iter::once(prefix.freeze()).chain(body.pieces())))
    }
}

fn streamed(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> reqwest::Body {
    reqwest::Body::wrap_stream(stream::iter(pieces).map(Ok::<_, std::io::Error>))
}

/// A failure stands in the head, a success in trailers that follow a message.
async fn grpc_answer(response: Response) -> Answer {
    match Status::from_header_map(response.headers()) {
        None => response.bytes().await.map_or_else(|error| failed(&error), |_| Answer::Acked),
        Some(status) if status.code() == Code::Unavailable => {
            match status.get_error_details().retry_info().and_then(|info| info.retry_delay) {
                Some(retry_after) => Answer::Refused { retry_after },
                None => failed(&status),
            }
        }
        Some(status) => failed(&status),
    }
}

fn http_answer(response: &Response) -> Answer {
    let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    match (response.status().as_u16(), retry_after) {
        (200, _) => Answer::Acked,
        (503, Some(seconds)) => Answer::Refused { retry_after: Duration::from_secs(seconds) },
        (status, _) => failed(&format!("status {status}")),
    }
}

/// Says why, the first times.
#[allow(clippy::print_stderr)] // a tool for the terminal
pub(crate) fn failed(why: &dyn Debug) -> Answer {
    static SAID: AtomicU32 = AtomicU32::new(0);
    if SAID.fetch_add(1, Relaxed) < 3 {
        eprintln!("  a request failed: {why:?}");
    }
    Answer::Failed
}
