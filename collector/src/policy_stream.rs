//! The policy stream: each proxy is sent the whole set at once, again at each change, and again as a sign of life when
//! [`SIGN_OF_LIFE`] or a third of its time to live has passed, so that a set decays, and a sidecar regulates itself, only where
//! nobody is heard. The proxy says what it applied or refused.
//!
//! Limits of the proxy's own service are of all replicas together, so each replica that is connected is sent its share of
//! them, and another one when replicas come or go.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};
use weir_policy::{
    PolicySet, ReplicaShare,
    wire::proto::{self, policy_service_server::PolicyService},
};

use crate::{
    collector::now_unix_nano,
    proxies::{Connection, Proxies, ProxyState},
};

/// 1 s from a replica that comes or goes to other shares: when many come at once, nobody is sent a set for each.
const SETTLE: Duration = Duration::from_secs(1);

/// 5 s: a third of the silence after which a sidecar's `local_limit` acts by itself.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

pub(crate) struct PolicyStream {
    pub(crate) policy: watch::Receiver<Arc<PolicySet>>,
    pub(crate) proxies: Proxies,
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl PolicyService for PolicyStream {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<proto::PolicySet, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<proto::ProxyStatus>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut statuses = request.into_inner();
        let hello = statuses.message().await?;
        let hello = hello.filter(|h| !h.service.is_empty());
        let hello = hello.ok_or_else(|| Status::invalid_argument("the first message must name the service"))?;
        info!(service = hello.service, instance = hello.instance, "proxy follows the policy");
        let connection = self.proxies.connect(state(&hello));
        let feed = Feed::new(self.policy.clone(), &self.proxies, &hello);
        let sets = feed.sets().map(|set| Ok(proto::PolicySet::from(&set)));
        let statuses = listen(statuses, connection);
        // the stream ends when the proxy leaves or the server stops; the list entry goes with it
        let ended = futures::future::select(Box::pin(statuses), Box::pin(self.shutdown.clone().cancelled_owned()));
        Ok(Response::new(Box::pin(sets.take_until(ended))))
    }
}

/// What one replica is sent: its share of the newest set, at once, at each change of either, and as a sign of life in between.
struct Feed {
    policy: watch::Receiver<Arc<PolicySet>>,
    proxies: Proxies,
    /// When proxies come and go.
    moves: watch::Receiver<()>,
    service: String,
    instance: String,
    /// Whether it enforces a set already, as all do when the control plane was away.
    holds: bool,
    sent: Option<ReplicaShare>,
}

impl Feed {
    fn new(policy: watch::Receiver<Arc<PolicySet>>, proxies: &Proxies, hello: &proto::ProxyStatus) -> Self {
        let (service, instance) = (hello.service.clone(), hello.instance.clone());
        let holds = hello.applied_sequence != 0;
        Self { policy, proxies: proxies.clone(), moves: proxies.moves(), service, instance, holds, sent: None }
    }

    fn sets(self) -> impl Stream<Item = PolicySet> {
        stream::unfold(self, |mut feed| async move { feed.next().await.map(|set| (set, feed)) })
    }

    async fn next(&mut self) -> Option<PolicySet> {
        match self.sent {
            Some(sent) => self.news(sent).await?,
            // its share of before is better than the whole, until the others are here too
            None if self.holds => tokio::time::sleep(SETTLE).await,
            None => {}
        }
        let share = self.proxies.share(&self.service, &self.instance);
        self.sent = Some(share);
        Some(self.policy.borrow_and_update().of_replica(&self.service, share))
    }

    /// Waits for a reason to send; `None` when there will be no more policies.
    async fn news(&mut self, sent: ReplicaShare) -> Option<()> {
        let Self { policy, proxies, moves, service, instance, .. } = self;
        let pause = policy.borrow().ttl().map_or(SIGN_OF_LIFE, |ttl| SIGN_OF_LIFE.min(ttl / 3));
        let another_share = async {
            while moves.changed().await.is_ok() {
                tokio::time::sleep(SETTLE).await;
                moves.mark_unchanged();
                if proxies.share(service, instance) != sent {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            changed = policy.changed() => changed.ok(),
            () = tokio::time::sleep(pause) => Some(()),
            () = another_share => Some(()),
        }
    }
}

async fn listen(mut statuses: Streaming<proto::ProxyStatus>, connection: Connection) {
    while let Ok(Some(status)) = statuses.message().await {
        if !status.refused.is_empty() {
            warn!(
                service = status.service,
                instance = status.instance,
                refused = status.refused,
                "proxy refused a policy"
            );
        }
        connection.update(|known| {
            known.applied_sequence = status.applied_sequence;
            known.refused = status.refused;
            known.last_seen_unix_nano = now_unix_nano();
        });
    }
}

fn state(hello: &proto::ProxyStatus) -> ProxyState {
    let now = now_unix_nano();
    ProxyState {
        service: hello.service.clone(),
        instance: hello.instance.clone(),
        applied_sequence: hello.applied_sequence,
        refused: hello.refused.clone(),
        connected_unix_nano: now,
        last_seen_unix_nano: now,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use weir_policy::{ConcurrencyLimit, Policy};

    use super::*;

    fn hello(instance: &str) -> proto::ProxyStatus {
        proto::ProxyStatus { service: "tagger".into(), instance: instance.into(), ..Default::default() }
    }

    fn limited(sequence: u64, limit: u32) -> Arc<PolicySet> {
        living(30_000, sequence, limit)
    }

    fn living(ttl_ms: u64, sequence: u64, limit: u32) -> Arc<PolicySet> {
        let limit = NonZeroU32::new(limit).unwrap();
        let concurrency_limit = Some(ConcurrencyLimit { limit, queue: 0, queue_timeout_ms: 1 });
        let policy = Policy { service: "tagger".into(), concurrency_limit, ..Policy::default() };
        Arc::new(PolicySet { sequence, ttl_ms, policies: vec![policy], ..PolicySet::default() })
    }

    fn limit(set: Option<PolicySet>) -> u32 {
        set.unwrap().policies[0].concurrency_limit.unwrap().limit.get()
    }

    /// A set of `ttl_ms` 60,000 was repeated every 20 s only, and a sidecar with a `local_limit` takes 15 s for silence.
    #[tokio::test(start_paused = true)]
    async fn a_set_is_sent_at_once_at_a_change_and_as_a_sign_of_life() {
        for (ttl_ms, pause_s) in [(60_000, 5), (9_000, 3), (0, 5)] {
            let (change, policy) = watch::channel(living(ttl_ms, 1, 9));
            let mut sets = Box::pin(Feed::new(policy, &Proxies::new(), &hello("tagger-0")).sets());
            let started = tokio::time::Instant::now();
            assert_eq!(sets.next().await.unwrap().sequence, 1);
            assert_eq!(started.elapsed().as_secs(), 0);
            assert_eq!(sets.next().await.unwrap().sequence, 1);
            assert_eq!(started.elapsed().as_secs(), pause_s, "one of {ttl_ms} ms");
            change.send_replace(living(ttl_ms, 2, 9));
            assert_eq!(sets.next().await.unwrap().sequence, 2);
            assert_eq!(started.elapsed().as_secs(), pause_s);
            drop(change);
            assert!(sets.next().await.is_none());
        }
    }

    /// A limit of 9 and two replicas: each held to the 9, so 18 were let in.
    #[tokio::test(start_paused = true)]
    async fn replicas_hold_to_the_limit_together_however_many_there_are() {
        let (_change, policy) = watch::channel(limited(1, 9));
        let proxies = Proxies::new();
        let connect = |instance: &str| {
            let connection = proxies.connect(state(&hello(instance)));
            (connection, Box::pin(Feed::new(policy.clone(), &proxies, &hello(instance)).sets()))
        };
        let (_first, mut to_first) = connect("tagger-0");
        assert_eq!(limit(to_first.next().await), 9);
        let started = tokio::time::Instant::now();
        let (second, mut to_second) = connect("tagger-1");
        let _of_another_service = proxies.connect(ProxyState { service: "parser".into(), ..ProxyState::default() });
        let _again = proxies.connect(state(&hello("tagger-0")));
        assert_eq!((limit(to_second.next().await), limit(to_first.next().await)), (4, 5));
        assert_eq!(started.elapsed(), SETTLE);
        drop((second, to_second));
        assert_eq!(limit(to_first.next().await), 9);
        assert_eq!(started.elapsed(), 2 * SETTLE);
    }

    /// The streams of all replicas end at once and come again one by one: the first was sent the whole limit.
    #[tokio::test(start_paused = true)]
    async fn when_all_replicas_come_again_each_is_sent_its_share() {
        let (_change, policy) = watch::channel(limited(1, 9));
        let proxies = Proxies::new();
        let again = async |instance: &str, after_ms: u64| {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            let hello = proto::ProxyStatus { applied_sequence: 1, ..hello(instance) };
            let connection = proxies.connect(state(&hello));
            let mut sets = Box::pin(Feed::new(policy.clone(), &proxies, &hello).sets());
            (limit(sets.next().await), connection)
        };
        let (first, second) = tokio::join!(again("tagger-0", 0), again("tagger-1", 500));
        assert_eq!((first.0, second.0), (5, 4));
    }
}
