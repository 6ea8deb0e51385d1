//! Bytes that are passed on and not read: plain TCP, `CONNECT`, and what an upgrade became.
//!
//! A tunnel is one exchange: admitted, picked and recorded like a request, with the span ending when
//! the tunnel does.

use std::{rc::Rc, sync::Arc};

use http::{HeaderValue, Method, Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use crate::{
    connection::{Ended, splice},
    counters::add,
    lm::{Reading, Watched},
    routing::{RetryPolicy, Route, Target},
    telemetry::Failure,
    traffic::{
        admission::Entrance,
        answers::Answers,
        attempt::Answer,
        body::ProxyBody,
        client::Client,
        exchange::{End, Exchange},
        headers::strip_hop_by_hop,
        open::Open,
        outcome::Outcome,
        pool::Wire,
        serve::Worker,
        upgrade::Upgrade,
    },
    upstream::{Affinity, Upstream},
};

/// As the status of a tunnel's span: it had no other answer than to be opened.
const OPENED: u16 = 200;
const FORBIDDEN: u16 = 403;
const REFUSED: u16 = 503;
const UNREACHABLE: u16 = 502;

/// Passes a TCP connection on to an endpoint of the route's upstream, if the rules of the listener let its client through.
pub(crate) async fn tcp<S>(worker: Rc<Worker>, listener: usize, route: Arc<Route>, client: Client, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(b"TCP").expect("a token");
    if let Some(peer) = &client.peer {
        request.extensions_mut().insert(peer.clone());
    }
    let target = route.next_target();
    let upstream = target.map(|target| target.upstream.clone());
    let mut exchange = Exchange::begin(&worker, route.clone(), upstream, &client, &request);
    exchange.tunnels(&HeaderValue::from_static("tcp"));
    let guard = worker.workload.security.guard(listener);
    match guard.map_or(Ok(None), |guard| guard.check_connection(client.peer.as_deref())) {
        Ok(decision) => exchange.allowed(decision),
        Err(decision) => return exchange.end(End::Denied { decision: Some(decision), status: FORBIDDEN }),
    }
    let Some(Target { upstream, .. }) = target else {
        return exchange.end(End::Failed { failure: Failure::NoEndpoint, status: REFUSED });
    };
    let give_up = exchange.started() + route.timeout;
    let entrance = Entrance { worker: &worker, route: &route, upstream, give_up };
    if let Err(refusal) = entrance.admit(request.headers(), &mut exchange).await {
        return exchange.end(End::Shed { refusal, status: REFUSED });
    }
    let Affinity { hash, .. } = Affinity::of(upstream, &request, client.address);
    match connect(&worker, &route, upstream, hash, &mut exchange).await {
        Ok(wire) => {
            exchange.opened(OPENED);
            run(&worker, exchange, stream, wire).await;
        }
        Err(failure) => exchange.end(End::Failed { failure, status: UNREACHABLE }),
    }
}

/// A connection of its own to an endpoint, for `CONNECT` and TCP.
pub(crate) async fn connect(
    worker: &Worker,
    route: &Route,
    upstream: &Arc<Upstream>,
    hash: Option<u64>,
    exchange: &mut Exchange,
) -> Result<Wire, Failure> {
    let pick = upstream.pick(hash, &[], Instant::now()).ok_or(Failure::NoEndpoint)?;
    let tried = pick.endpoint.id;
    exchange.picked(pick);
    let failure = match dial(worker, exchange).await {
        Ok(wire) => return Ok(wire),
        Err(failure) => failure,
    };
    // nothing was said yet, so another endpoint will do as well, unless the route says otherwise
    let outcome = Outcome::Failed(failure);
    let unwanted = |policy: &RetryPolicy| policy.attempts == 0 || !policy.wants(outcome, &Method::CONNECT);
    if route.retries.as_ref().is_some_and(unwanted) {
        return Err(failure);
    }
    let other = upstream.pick(hash, &[tried], Instant::now()).filter(|other| other.endpoint.id != tried);
    let (Some(other), Some(_permit)) = (other, upstream.retry_permit()) else { return Err(failure) };
    add(&worker.workload.tally.retries, 1);
    add(&worker.workload.tally.rerouted, 1);
    exchange.retried(outcome);
    exchange.picked(other);
    dial(worker, exchange).await
}

/// Connects to the endpoint that was picked.
async fn dial(worker: &Worker, exchange: &mut Exchange) -> Result<Wire, Failure> {
    let pick = exchange.pick().ok_or(Failure::NoEndpoint)?;
    let (wire, peer) = worker.pool.connect(pick).await?;
    exchange.answered_by(peer);
    Ok(wire)
}

/// What a tunnel keeps of its client's connection for as long as it lasts: what shows one over HTTP/2 that something is under way on
/// it, and its place among those that are open, which hyper's part of one over HTTP/1 does not outlive.
pub(crate) type Held = (Option<Rc<Answers>>, Option<Rc<Open>>);

/// A tunnel for `CONNECT`, on a connection that was made for it.
pub(crate) fn open(
    worker: &Rc<Worker>,
    mut exchange: Exchange,
    client: OnUpgrade,
    held: Held,
    wire: Wire,
) -> Response<ProxyBody> {
    exchange.opened(OPENED);
    exchange.tunnels(&HeaderValue::from_static("connect"));
    start(worker, exchange, client, held, async move { Ok(wire) });
    Response::new(ProxyBody::empty())
}

/// The upstream leaves HTTP, and so does the client: what follows are bytes.
pub(crate) fn switch(
    worker: &Rc<Worker>,
    answer: Answer,
    upgrade: Upgrade,
    held: Held,
    mut exchange: Exchange,
) -> Response<ProxyBody> {
    let Answer { mut response, peer, .. } = answer;
    exchange.answered_by(peer);
    exchange.opened(response.status().as_u16());
    exchange.tunnels(&upgrade.protocol);
    let upstream = hyper::upgrade::on(&mut response);
    strip_hop_by_hop(response.headers_mut());
    upgrade.grant(&mut response);
    let (parts, _) = response.into_parts();
    start(worker, exchange, upgrade.client, held, async move { upstream.await.map(TokioIo::new) });
    Response::from_parts(parts, ProxyBody::empty())
}

/// Runs a tunnel once the client's side has become one; the upstream's side may have to, too.
fn start<U>(
    worker: &Rc<Worker>,
    exchange: Exchange,
    client: OnUpgrade,
    held: Held,
    upstream: impl Future<Output = hyper::Result<U>> + 'static,
) where
    U: Stream + 'static,
{
    let tunnel = {
        let worker = worker.clone();
        async move {
            let _held = held;
            match tokio::join!(client, upstream) {
                (Ok(client), Ok(upstream)) => run(&worker, exchange, TokioIo::new(client), upstream).await,
                (Err(_), _) => exchange.end(End::Left(&Reading::Not)),
                (Ok(_), Err(_)) => {
                    exchange.end(End::Broken { failure: Failure::UpstreamReset, reading: &Reading::Not });
                }
            }
        }
    };
    worker.tasks.spawn_local(tunnel);
}

/// What a tunnel can be made of.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

async fn run(worker: &Worker, mut exchange: Exchange, client: impl Stream, upstream: impl Stream) {
    let workload = &worker.workload;
    add(&workload.tally.tunnels, 1);
    // as they pass: a tunnel that the end of a drain cuts has carried them too
    let to_client = |bytes| exchange.chunk(bytes, Watched::default());
    let ended = splice(client, upstream, workload.timeouts.tunnel_idle(), to_client).await;
    let reading = &Reading::Not;
    exchange.end(match ended {
        Ended::Well => End::Complete(reading),
        Ended::ClientBroke => End::Left(reading),
        Ended::UpstreamBroke => End::Broken { failure: Failure::UpstreamReset, reading },
        Ended::Idle => End::Broken { failure: Failure::TunnelIdle, reading },
    });
}
