//! [`Service`]: one HTTP server of the chain, with its own workers.
//!
//! A request waits for a worker, holds it while it sleeps its service time, gives it back, and only
//! then calls the next service. The last one holds its worker (a slot of the model) until it has
//! streamed every token.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp1};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::chain::{Pace, Spec};

/// A prompt in the demo is a few numbers.
const BODY_MAX_BYTES: usize = 64 * 1024;

/// What a caller must send on so that its calls belong to the same trace.
const FORWARDED: [&str; 2] = ["traceparent", "tracestate"];

type Body = UnsyncBoxBody<Bytes, BoxError>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is asked of the chain.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Prompt {
    pub(crate) context_tokens: u32,
    pub(crate) output_tokens: u32,
}

/// One service.
pub(crate) struct Service {
    spec: Spec,
    pace: Pace,
    workers: Arc<Semaphore>,
    random: Mutex<StdRng>,
    /// How many thousandths of its usual time its work takes.
    slowdown_permille: AtomicU64,
    /// Where its outbound sidecar listens; none for the last.
    next: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Service {
    pub(crate) fn new(spec: Spec, pace: Pace, next: Option<String>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            spec,
            pace,
            workers: Arc::new(Semaphore::new(spec.servers as usize)),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            slowdown_permille: AtomicU64::new(1000),
            next,
            client: Client::builder(TokioExecutor::new()).build_http(),
        })
    }

    /// Makes its work take `factor` times as long from now on.
    pub(crate) fn slow_down(&self, factor: f64) {
        self.slowdown_permille.store((factor * 1000.0) as u64, Relaxed);
    }

    /// Serves until `shutdown`; requests under way are cut.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { continue };
            // a socket that refuses still works
            let _ = stream.set_nodelay(true);
            let service = self.clone();
            connections.spawn(async move {
                let answer = service_fn(move |request| {
                    let service = service.clone();
                    async move { Ok::<_, Infallible>(service.answer(request).await) }
                });
                auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await
            });
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_MAX_BYTES).collect().await.map(http_body_util::Collected::to_bytes)
        else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "a prompt is small");
        };
        let Ok(prompt) = serde_json::from_slice::<Prompt>(&body) else {
            return text(StatusCode::BAD_REQUEST, "expected {\"context_tokens\":…,\"output_tokens\":…}");
        };
        let Ok(worker) = self.workers.clone().acquire_owned().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping");
        };
        match &self.next {
            Some(next) => {
                tokio::time::sleep(self.work_time().await).await;
                drop(worker);
                self.call(next, &parts.headers, body).await
            }
            None => self.generate(prompt, worker).await,
        }
    }

    /// Exponential around the service time.
    async fn work_time(&self) -> Duration {
        let unit: f64 = Exp1.sample(&mut *self.random.lock().await);
        self.spec.service_time.mul_f64(unit * self.slowdown())
    }

    fn slowdown(&self) -> f64 {
        self.slowdown_permille.load(Relaxed) as f64 / 1000.0
    }

    async fn call(&self, next: &str, headers: &HeaderMap, body: Bytes) -> Response<Body> {
        let mut request = Request::post(format!("http://{next}/v1/generate"));
        for name in FORWARDED {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(body));
        let Ok(request) = request else { return text(StatusCode::INTERNAL_SERVER_ERROR, "no request") };
        match self.client.request(request).await {
            Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
            Err(error) => text(StatusCode::BAD_GATEWAY, &error.to_string()),
        }
    }

    /// Streams the answer as server-sent events, the usage last.
    async fn generate(&self, prompt: Prompt, slot: OwnedSemaphorePermit) -> Response<Body> {
        let prefill = self.work_time().await + self.pace.prefill_per_token * prompt.context_tokens;
        let per_event = self.pace.event_interval.mul_f64(self.slowdown());
        let tokens_per_event = self.pace.tokens_per_event;
        let stream = stream::unfold(Stream { prompt, tokens_per_event, sent: 0, slot }, move |mut stream| async move {
            if stream.sent > prompt.output_tokens {
                return None;
            }
            tokio::time::sleep(if stream.sent == 0 { prefill } else { per_event }).await;
            let event = stream.next_event();
            Some((Ok::<_, BoxError>(Frame::data(event)), stream))
        });
        let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/event-stream"));
        response
    }
}

struct Stream {
    prompt: Prompt,
    tokens_per_event: u32,
    /// Tokens sent; above the prompt's number once the end was sent.
    sent: u32,
    /// Held to the end of the stream.
    slot: OwnedSemaphorePermit,
}

impl Stream {
    fn next_event(&mut self) -> Bytes {
        debug_assert!(self.slot.num_permits() == 1);
        let Prompt { context_tokens, output_tokens } = self.prompt;
        if self.sent < output_tokens {
            let tokens = self.tokens_per_event.min(output_tokens - self.sent);
            self.sent += tokens;
            return Bytes::from(format!(
                "data: {{\"tokens\":{tokens},\"text\":\"{}\"}}\n\n",
                "word ".repeat(tokens as usize)
            ));
        }
        self.sent = output_tokens + 1;
        Bytes::from(format!(
            "data: {{\"usage\":{{\"prompt_tokens\":{context_tokens},\"completion_tokens\":{output_tokens}}}}}\n\ndata: [DONE]\n\n"
        ))
    }
}

fn text(status: StatusCode, why: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{why}\n"))).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
