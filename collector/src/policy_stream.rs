//! The policy stream: each proxy is sent the whole set at once, again at each change, and again when
//! a third of its time to live has passed, so that a set decays only where nobody is heard. The proxy
//! says what it applied or refused.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};
use weir_policy::{
    PolicySet,
    wire::proto::{self, policy_service_server::PolicyService},
};

use crate::{
    collector::now_unix_nano,
    proxies::{Connection, Proxies, ProxyState},
};

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
        let sets = sets(self.policy.clone()).map(|set| Ok(proto::PolicySet::from(set.as_ref())));
        let statuses = listen(statuses, connection);
        // the stream ends when the proxy leaves or the server stops; the list entry goes with it
        let ended = futures::future::select(Box::pin(statuses), Box::pin(self.shutdown.clone().cancelled_owned()));
        Ok(Response::new(Box::pin(sets.take_until(ended))))
    }
}

/// The newest set, at once, at each change, and as a sign of life in between.
fn sets(policy: watch::Receiver<Arc<PolicySet>>) -> impl Stream<Item = Arc<PolicySet>> {
    stream::unfold((policy, true), |(mut policy, first)| async move {
        if !first {
            let life_sign = policy.borrow().ttl().map(|ttl| ttl / 3);
            let changed = match life_sign {
                Some(pause) => tokio::time::timeout(pause, policy.changed()).await.unwrap_or(Ok(())),
                None => policy.changed().await,
            };
            changed.ok()?;
        }
        let newest = policy.borrow_and_update().clone();
        Some((newest, (policy, false)))
    })
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
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_set_is_sent_at_once_at_a_change_and_as_a_sign_of_life() {
        let of = |sequence| Arc::new(PolicySet { sequence, ttl_ms: 30_000, ..PolicySet::default() });
        let (change, policy) = watch::channel(of(1));
        let mut sets = Box::pin(sets(policy));
        let started = tokio::time::Instant::now();
        assert_eq!(sets.next().await.unwrap().sequence, 1);
        assert_eq!(started.elapsed().as_secs(), 0);
        assert_eq!(sets.next().await.unwrap().sequence, 1);
        assert_eq!(started.elapsed().as_secs(), 10, "a third of the time to live");
        change.send_replace(of(2));
        assert_eq!(sets.next().await.unwrap().sequence, 2);
        assert_eq!(started.elapsed().as_secs(), 10);
        drop(change);
        assert!(sets.next().await.is_none());
    }
}
