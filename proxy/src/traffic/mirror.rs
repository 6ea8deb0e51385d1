//! Mirroring: a copy of a request goes to another upstream, and its answer to nobody.
//!
//! The copy leaves once the whole request has passed, and only if its body stayed within the bound; it
//! runs beside the request and never holds it up. More than `max_in_flight` at once are dropped and counted.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use http::{Request, request::Parts};
use http_body_util::{BodyExt, Full};
use tokio::time::{Duration, Instant, timeout};

use crate::{
    config::{self, Direction},
    counters::add,
    regulate::{Ask, Priority},
    telemetry::Failure,
    traffic::{
        address,
        attempt::{Answer, Sending, send_to},
        headers::PEER,
        outcome::Outcome,
        replay::{Recording, RequestBody},
        serve::Worker,
    },
    upstream::{Pick, Upstream},
};

/// Where copies go.
pub(crate) struct Mirror {
    upstream: Arc<Upstream>,
    percent: f64,
    pub(crate) body_bytes: usize,
    max_in_flight: u32,
    under_way: Arc<AtomicU32>,
}

impl Mirror {
    pub(crate) fn new(config: &config::Mirror, upstream: Arc<Upstream>) -> Arc<Self> {
        let config::Mirror { percent, body_bytes, max_in_flight, .. } = *config;
        Arc::new(Self { upstream, percent, body_bytes, max_in_flight, under_way: Arc::default() })
    }

    /// Counts on, after a reload, the copies that are under way.
    pub(crate) fn goes_on_from(&mut self, before: &Self) {
        self.under_way = before.under_way.clone();
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        let room = |n| (n < self.max_in_flight).then_some(n + 1);
        self.under_way.fetch_update(Relaxed, Relaxed, room).ok().map(|_| Place(self.clone()))
    }
}

/// A copy under way.
struct Place(Arc<Mirror>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

/// Begins to mirror a request, if the dice say so and there is room; `parts` are those of the request as it goes on.
pub(crate) fn begin(sending: &Sending<'_>, mirror: &Arc<Mirror>, parts: &Parts, recording: &Recording) {
    let Sending { worker, route, via: (via, received), .. } = sending;
    if rand::random::<f64>() * 100.0 >= mirror.percent {
        return;
    }
    let Some(place) = mirror.enter() else {
        return add(&worker.workload.tally.mirrors_dropped, 1);
    };
    let (worker, mut parts, copied) = (Rc::clone(worker), parts.clone(), recording.copy());
    address::shadow(&mut parts, &mirror.upstream);
    // as its own upstream has it, whatever that of the request says: a copy that comes round must be known for a loop
    match route.direction == Direction::Outbound && mirror.upstream.sends_peer {
        true => parts.headers.insert(PEER, worker.identity.clone()),
        false => parts.headers.remove(PEER),
    };
    via.sign_copy(&mut parts.headers, *received, mirror.upstream.sends_via);
    tokio::task::spawn_local(async move {
        let delivered = match copied.await {
            Ok(chunks) => {
                let request = Request::from_parts(parts, RequestBody::Whole(whole(&chunks)));
                deliver(&worker, &place.0.upstream, request).await
            }
            Err(_incomplete) => None,
        };
        let tally = &worker.workload.tally;
        add(if delivered.is_some() { &tally.mirrored } else { &tally.mirrors_dropped }, 1);
    });
}

/// Sends, and reads the answer to its end so that the connection can be kept.
async fn deliver(worker: &Worker, upstream: &Arc<Upstream>, request: Request<RequestBody>) -> Option<()> {
    /// Nobody waits for it, so an answer that trickles may not hold its place for long.
    const LONGEST_ANSWER: Duration = Duration::from_secs(10);
    let now = Instant::now();
    let ask = Ask { now, give_up: now + LONGEST_ANSWER, priority: Priority::Low };
    let _place = upstream.enter(ask).await.ok()?;
    let (_pick, Answer { response, lease, .. }) = ask_one(worker, upstream, request).await?;
    let mut body = response.into_body();
    let read = timeout(LONGEST_ANSWER, async {
        while let Some(frame) = body.frame().await {
            frame.ok()?;
        }
        Some(())
    });
    if let Ok(Some(())) = read.await {
        lease.give_back();
    }
    Some(())
}

/// Sends to an endpoint, which is judged by it as by any request: a dead one must not keep its share. The upstream's breaker
/// is not: nobody who waits for an answer is to be shed because of copies.
async fn ask_one(worker: &Worker, upstream: &Arc<Upstream>, request: Request<RequestBody>) -> Option<(Pick, Answer)> {
    if !upstream.has_room() {
        return None;
    }
    let since = Instant::now();
    let pick = upstream.pick(None, &[], since)?;
    let answered = timeout(worker.workload.timeouts.response(), send_to(worker, &pick, request)).await;
    let answered = answered.map_or(Err(Failure::UpstreamTimeout), |sent| sent.map_err(|undone| undone.failure));
    let (outcome, now) = (Outcome::of(&answered), Instant::now());
    if answered.as_ref().is_err_and(|failure| failure.is_nobodys()) {
        return None;
    }
    pick.observe(now.duration_since(since), outcome.asks_to_slow_down(), outcome.rest(), now);
    upstream.observe(&pick.endpoint, outcome.verdict(), now);
    Some((pick, answered.ok()?))
}

fn whole(chunks: &[Bytes]) -> Full<Bytes> {
    let mut all = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks.iter().for_each(|chunk| all.extend_from_slice(chunk));
    Full::new(all.freeze())
}
