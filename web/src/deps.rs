//! [`Deps`]: what the handlers are given; they know nobody else.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use weir_analyzer::{Command, Snapshot};
use weir_store::Store;

use crate::webhook::Notifier;

/// What the handlers read and whom they tell.
#[derive(Clone)]
pub struct Deps {
    /// Questions in SQL.
    pub store: Store,
    /// The newest view of the mesh.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Orders to the controller; a full queue is answered 503.
    pub commands: mpsc::Sender<Command>,
    /// Who follows the policy stream.
    pub proxies: Arc<dyn Fn() -> Vec<ProxyView> + Send + Sync>,
    /// `/metrics`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// What is not ready; empty when all is.
    pub ready: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// The other doors of this server.
    pub endpoints: Endpoints,
    /// Where a test alert goes.
    pub notifier: Notifier,
}

/// The other doors of this server.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoints {
    /// OTLP/gRPC and the policy stream.
    pub otlp_grpc: String,
    /// OTLP/HTTP.
    pub otlp_http: String,
}

/// A proxy on the policy stream.
#[derive(Clone, Debug, Serialize)]
pub struct ProxyView {
    /// Its workload.
    pub service: String,
    /// Which replica.
    pub instance: String,
    /// The newest set it enforces.
    pub applied_sequence: u64,
    /// Why it refused the last one; empty if it did not.
    pub refused: String,
    /// When it came.
    pub connected_unix_nano: i64,
    /// When it last said something.
    pub last_seen_unix_nano: i64,
}
