//! A control plane in this process that sends what it is given and keeps what proxies say.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use futures::{StreamExt, stream::BoxStream};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use weir_policy::wire::proto::{
    self,
    policy_service_server::{PolicyService, PolicyServiceServer},
};

type SetSender = mpsc::Sender<Result<proto::PolicySet, Status>>;

/// A control plane that sends what the test gives it and keeps what proxies say.
#[derive(Clone, Default)]
pub(crate) struct ControlPlane {
    pub(crate) subscriptions: Arc<AtomicUsize>,
    sets: Arc<Mutex<Option<SetSender>>>,
    statuses: Arc<Mutex<Vec<(Instant, proto::ProxyStatus)>>>,
}

#[tonic::async_trait]
impl PolicyService for ControlPlane {
    type SubscribeStream = BoxStream<'static, Result<proto::PolicySet, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<proto::ProxyStatus>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (sets, stream) = mpsc::channel(4_096);
        *self.sets.lock().unwrap() = Some(sets);
        self.subscriptions.fetch_add(1, Relaxed);
        let (kept, mut statuses) = (self.statuses.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(status)) = statuses.message().await {
                kept.lock().unwrap().push((Instant::now(), status));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}

impl ControlPlane {
    /// Starts on a free port.
    pub(crate) async fn start(&self) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(PolicyServiceServer::new(self.clone()));
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        (address, serving)
    }

    /// To whoever subscribed last.
    pub(crate) fn send(&self, set: proto::PolicySet) {
        self.sets.lock().unwrap().as_ref().unwrap().try_send(Ok(set)).unwrap();
    }

    pub(crate) fn last_status(&self) -> Option<proto::ProxyStatus> {
        self.statuses.lock().unwrap().last().map(|(_, status)| status.clone())
    }

    /// How many statuses came.
    pub(crate) fn told(&self) -> usize {
        self.statuses.lock().unwrap().len()
    }

    /// When a proxy first said that this set or a newer one is in force.
    pub(crate) fn confirmed(&self, sequence: u64) -> Option<Instant> {
        let statuses = self.statuses.lock().unwrap();
        let first = statuses.partition_point(|(_, status)| status.applied_sequence < sequence);
        statuses.get(first).map(|(at, _)| *at)
    }
}

/// A set that holds `tagger` to a rate.
pub(crate) fn set(sequence: u64, rate_per_s: f64) -> proto::PolicySet {
    let rate_limit = Some(proto::RateLimit { rate_per_s, burst: 1 });
    let policy = proto::Policy { service: "tagger".into(), rate_limit, ..Default::default() };
    proto::PolicySet { sequence, policies: vec![policy], ..Default::default() }
}
