//! [`Worker`]: what the requests of one data thread share while one configuration is in force.

use std::{rc::Rc, sync::Arc};

use http::HeaderValue;
use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

use crate::{traffic::pool::Pool, workload::Workload};

/// The configuration, the connections to upstreams, and who we say we are.
pub(crate) struct Worker {
    pub(crate) workload: Arc<Workload>,
    pub(crate) pool: Rc<Pool>,
    /// What outbound requests say of who sends them.
    pub(crate) identity: HeaderValue,
    /// Connections and tunnels, which the drain waits for.
    pub(crate) tasks: TaskTracker,
}

/// Runs what hyper spawns on this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl Worker {
    pub(crate) fn new(workload: Arc<Workload>, tasks: TaskTracker) -> Rc<Self> {
        let identity = format!("{}/{}", workload.service, workload.instance);
        Rc::new(Self {
            pool: Rc::new(Pool::new(workload.endpoint_count(), workload.timeouts)),
            identity: HeaderValue::from_str(&identity).unwrap_or_else(|_| HeaderValue::from_static("unnamed")),
            tasks,
            workload,
        })
    }
}

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
