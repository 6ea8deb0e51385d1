//! The way in: a place at the route, then one at the service; or, outbound, a breaker that lets it out. What the route
//! answers itself passes its route alone.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    config::Direction,
    regulate::{Ask, Budget, Priority, Refusal},
    routing::Route,
    traffic::{deadline, exchange::Exchange, read_along::ReadAlong, serve::Worker},
    upstream::Upstream,
};

/// Who asks to be let in, and where to.
#[derive(Clone, Copy)]
pub(crate) struct Entrance<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) route: &'a Route,
    pub(crate) upstream: &'a Upstream,
    /// When the request stops making sense.
    pub(crate) give_up: Instant,
}

impl Entrance<'_> {
    /// As [`Self::admit`], after tokens were set aside where they are limited; says the budget that is left of them.
    pub(crate) async fn admit_request<B: Body<Data = Bytes> + Unpin>(
        self,
        request: &mut Request<ReadAlong<B>>,
        exchange: &mut Exchange,
    ) -> Result<Option<Budget>, Refusal> {
        let budget = if exchange.counts_tokens() {
            if exchange.call().is_some_and(|call| call.is_estimated()) {
                // what an answer will cost stands in the request, mostly near its start
                request.body_mut().read_start(self.give_up).await;
            }
            self.reserve_tokens(request.headers(), exchange)?
        } else {
            None
        };
        self.admit(request.headers(), exchange).await?;
        Ok(budget)
    }

    /// Holds places for the exchange until it ends, or says why there are none.
    pub(crate) async fn admit(self, headers: &HeaderMap, exchange: &mut Exchange) -> Result<(), Refusal> {
        if !self.upstream.has_room() {
            return Err(Refusal::UpstreamOverflow);
        }
        let now = exchange.asks_now();
        let (route, ask) = (self.route, self.ask(headers, exchange, now));
        match route.direction {
            Direction::Inbound => {
                let route_place = route.gate.admit(ask).await?;
                // a wait at the route is gone by now
                let ask = ask.after(&route_place);
                let service_place = self.worker.workload.gate.admit(ask).await?;
                let connection = self.upstream.enter(ask.after(&service_place)).await?;
                exchange.admitted([Some(service_place), Some(route_place), connection]);
            }
            Direction::Outbound => {
                let dice = rand::random();
                let open = self.upstream.circuit.admit(ask.now, dice) && route.circuit.admit(ask.now, dice);
                open.then_some(()).ok_or(Refusal::BreakerOpen)?;
                // a route's own limits, from the file, hold what leaves too
                let route_place = match route.static_policy {
                    Some(_) => Some(route.gate.admit(ask).await?),
                    None => None,
                };
                let ask = route_place.as_ref().map_or(ask, |place| ask.after(place));
                let connection = self.upstream.enter(ask).await?;
                if route_place.is_some() || connection.is_some() {
                    exchange.admitted([None, route_place, connection]);
                }
            }
        }
        // a wait is over by now, and others may have gone before
        if self.upstream.has_room() { Ok(()) } else { Err(Refusal::UpstreamOverflow) }
    }

    /// Sets tokens aside at the route and at the service; says the budget that is nearer its end.
    fn reserve_tokens(self, headers: &HeaderMap, exchange: &mut Exchange) -> Result<Option<Budget>, Refusal> {
        let inbound = self.route.direction == Direction::Inbound;
        let limiters = [Some(&self.route.gate.tokens), inbound.then_some(&self.worker.workload.gate.tokens)];
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

    fn ask(self, headers: &HeaderMap, exchange: &Exchange, now: Instant) -> Ask {
        let Self { worker, route, give_up, .. } = self;
        let may_wait = route.gate.is_bounded() || worker.workload.gate.is_bounded() || self.upstream.is_bounded();
        if !may_wait {
            return Ask { now, give_up, priority: route.priority };
        }
        let give_up = deadline::nearest(headers, exchange.started(), exchange.started_unix_ms(), give_up);
        Ask { now, give_up, priority: priority(worker.workload.priority_header.as_ref(), route, headers) }
    }
}

/// Lets in what the route answers itself: it is held to the route's limits, and takes no place of the service's.
pub(crate) async fn admit_here(
    worker: &Worker,
    route: &Route,
    headers: &HeaderMap,
    give_up: Instant,
    exchange: &mut Exchange,
) -> Result<(), Refusal> {
    if route.direction == Direction::Inbound || route.static_policy.is_some() {
        let now = exchange.asks_now();
        let give_up = deadline::nearest(headers, exchange.started(), exchange.started_unix_ms(), give_up);
        let priority = priority(worker.workload.priority_header.as_ref(), route, headers);
        let place = route.gate.admit(Ask { now, give_up, priority }).await?;
        exchange.admitted([None, Some(place), None]);
    }
    Ok(())
}

fn priority(header: Option<&HeaderName>, route: &Route, headers: &HeaderMap) -> Priority {
    let said = header.and_then(|name| headers.get(name)).and_then(Priority::of_header);
    said.unwrap_or(route.priority)
}
