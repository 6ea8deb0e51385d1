//! The way in: a place at the route, then one at the service; or, outbound, a breaker that lets it out.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    config::Direction,
    regulate::{Ask, Budget, Priority, Refusal},
    traffic::{deadline, exchange::Exchange, read_along::ReadAlong, serve::Worker},
    workload::Route,
};

/// Holds places for the exchange until it ends, or says why there are none.
pub(crate) async fn admit<B: Body<Data = Bytes> + Unpin>(
    worker: &Worker,
    route: &Route,
    request: &mut Request<ReadAlong<B>>,
    exchange: &mut Exchange,
    give_up: Instant,
) -> Result<Option<Budget>, Refusal> {
    let budget = if exchange.counts_tokens() {
        // what an answer will cost stands in the request, mostly near its start
        request.body_mut().read_start(give_up).await;
        exchange.asks_now();
        reserve_tokens(worker, route, request.headers(), exchange)?
    } else {
        None
    };
    let ask = ask(worker, route, request.headers(), exchange, give_up);
    match route.direction {
        Direction::Inbound => {
            let route_place = route.gate.admit(ask).await?;
            // a wait at the route is gone by now
            let ask = if route_place.queued { Ask { now: Instant::now(), ..ask } } else { ask };
            let service_place = worker.workload.gate.admit(ask).await?;
            exchange.admitted([Some(service_place), Some(route_place)]);
        }
        Direction::Outbound => {
            let dice = rand::random();
            let open = route.upstream.circuit.admit(ask.now, dice) && route.circuit.admit(ask.now, dice);
            open.then_some(()).ok_or(Refusal::BreakerOpen)?;
            // a route's own limits, from the file, hold what leaves too
            if route.is_limited {
                exchange.admitted([Some(route.gate.admit(ask).await?), None]);
            }
        }
    }
    Ok(budget)
}

/// Sets tokens aside at the route and at the service; says the budget that is nearer its end.
fn reserve_tokens(
    worker: &Worker,
    route: &Route,
    headers: &HeaderMap,
    exchange: &mut Exchange,
) -> Result<Option<Budget>, Refusal> {
    let inbound = route.direction == Direction::Inbound;
    let limiters = [Some(&route.gate.tokens), inbound.then_some(&worker.workload.gate.tokens)];
    let mut nearest: Option<Budget> = None;
    for limiter in limiters.into_iter().flatten() {
        let Some(call) = exchange.call() else { return Ok(None) };
        let Some(reserved) = limiter.reserve(headers, call.estimate(), Instant::now()) else { continue };
        let (reservation, budget) =
            reserved.map_err(|(retry_after, budget)| Refusal::TokensExhausted { retry_after, budget })?;
        call.reserve(reservation);
        nearest = nearest.filter(|other| other.remaining <= budget.remaining).or(Some(budget));
    }
    Ok(nearest)
}

fn ask(worker: &Worker, route: &Route, headers: &HeaderMap, exchange: &Exchange, give_up: Instant) -> Ask {
    let now = exchange.asked();
    let may_wait = route.gate.is_bounded() || worker.workload.gate.is_bounded();
    if !may_wait {
        return Ask { now, give_up, priority: route.priority };
    }
    let give_up = deadline::nearest(headers, exchange.started(), exchange.started_unix_ms(), give_up);
    Ask { now, give_up, priority: priority(worker.workload.priority_header.as_ref(), route, headers) }
}

fn priority(header: Option<&HeaderName>, route: &Route, headers: &HeaderMap) -> Priority {
    let said = header.and_then(|name| headers.get(name)).and_then(Priority::of_header);
    said.unwrap_or(route.priority)
}
