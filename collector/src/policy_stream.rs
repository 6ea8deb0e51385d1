//! The policy stream: each proxy is sent the whole set at once and again at each change, and says
//! what it applied or refused.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
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
        let sets = WatchStream::new(self.policy.clone()).map(|set| Ok(proto::PolicySet::from(set.as_ref())));
        let statuses = listen(statuses, connection);
        // the stream ends when the proxy leaves or the server stops; the list entry goes with it
        let ended = futures::future::select(Box::pin(statuses), Box::pin(self.shutdown.clone().cancelled_owned()));
        Ok(Response::new(Box::pin(sets.take_until(ended))))
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
