//! Bytes that are passed on and not read: plain TCP, `CONNECT`, and what an upgrade became.
//!
//! A tunnel is one exchange: admitted, picked and recorded like a request, with the span ending when
//! the tunnel does.

use std::{rc::Rc, sync::Arc};

use http::{HeaderValue, Method, Request, Response};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};

use crate::{
    connection::{Ended, splice},
    counters::add,
    telemetry::Failure,
    traffic::{
        balance::Pick,
        body::ProxyBody,
        exchange::Exchange,
        forward::{admit, fail},
        headers::strip_hop_by_hop,
        serve::Worker,
        upgrade::Upgrade,
    },
    workload::Route,
};

/// As the status of a tunnel's span: it had no other answer than to be opened.
const OPENED: u16 = 200;
const REFUSED: u16 = 503;
const UNREACHABLE: u16 = 502;

/// Passes a TCP connection on to an endpoint of the route's upstream.
pub(crate) async fn tcp<S>(worker: Rc<Worker>, route: Arc<Route>, client: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(b"TCP").expect("a token");
    let mut exchange = Exchange::begin(&worker, route.clone(), &request);
    exchange.tunnels(HeaderValue::from_static("tcp"));
    let give_up = exchange.started() + route.timeout;
    if let Err(refusal) = admit(&worker, &route, &mut exchange, give_up).await {
        return exchange.shed(refusal, REFUSED);
    }
    exchange.picked(Pick::of(&route.upstream, Instant::now()));
    match connect(&worker, &exchange).await {
        Ok(upstream) => {
            exchange.answered(OPENED);
            run(&worker, exchange, client, upstream).await;
        }
        Err(failure) => {
            exchange.failed(failure, UNREACHABLE);
            exchange.complete(None);
        }
    }
}

/// A tunnel for `CONNECT`, to the endpoint that was picked.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    mut exchange: Exchange,
    request: &mut Request<Incoming>,
) -> Response<ProxyBody> {
    let client = hyper::upgrade::on(request);
    match connect(worker, &exchange).await {
        Ok(upstream) => {
            exchange.answered(OPENED);
            exchange.tunnels(HeaderValue::from_static("connect"));
            start(worker, exchange, client, async move { Ok(upstream) });
            Response::new(ProxyBody::empty())
        }
        Err(failure) => fail(exchange, failure, false),
    }
}

/// The upstream leaves HTTP, and so does the client: what follows are bytes.
pub(crate) fn switch(
    worker: &Rc<Worker>,
    mut response: Response<Incoming>,
    upgrade: Upgrade,
    mut exchange: Exchange,
) -> Response<ProxyBody> {
    exchange.answered(response.status().as_u16());
    exchange.tunnels(upgrade.protocol.clone());
    let upstream = hyper::upgrade::on(&mut response);
    strip_hop_by_hop(response.headers_mut());
    upgrade.grant(&mut response);
    let (parts, _) = response.into_parts();
    start(worker, exchange, upgrade.client, async move { upstream.await.map(TokioIo::new) });
    Response::from_parts(parts, ProxyBody::empty())
}

/// A connection of its own to the endpoint that was picked.
async fn connect(worker: &Worker, exchange: &Exchange) -> Result<TcpStream, Failure> {
    let pick = exchange.pick().ok_or(Failure::ConnectFailed)?;
    let stream = worker.pool.connect(pick.endpoint()).await?;
    Ok(stream.into_inner())
}

/// Runs a tunnel once the client's side has become one; the upstream's side may have to, too.
fn start<U>(
    worker: &Rc<Worker>,
    exchange: Exchange,
    client: OnUpgrade,
    upstream: impl Future<Output = hyper::Result<U>> + 'static,
) where
    U: Stream + 'static,
{
    let tunnel = {
        let worker = worker.clone();
        async move {
            let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return exchange.broken() };
            run(&worker, exchange, TokioIo::new(client), upstream).await;
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
    let spliced = splice(client, upstream, workload.timeouts.tunnel_idle()).await;
    exchange.chunk(usize::try_from(spliced.to_client_bytes).unwrap_or(usize::MAX), false);
    match spliced.ended {
        Ended::Well => exchange.complete(None),
        Ended::Broken => exchange.broken(),
        Ended::Idle => exchange.idle(),
    }
}
