//! [`Worker`]: what the requests of one data thread share while one configuration is in force.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use http::HeaderValue;
use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

use crate::{
    telemetry::Recorder,
    traffic::{pool::Pool, timers::Timers},
    workload::Workload,
};

/// The configuration, the connections to upstreams, and who we say we are.
pub(crate) struct Worker {
    pub(crate) workload: Arc<Workload>,
    pub(crate) pool: Rc<Pool>,
    /// What outbound requests say of who sends them.
    pub(crate) identity: HeaderValue,
    /// Where this thread leaves its records.
    pub(crate) recorder: Rc<Recorder>,
    /// Connections and tunnels, which the drain waits for.
    pub(crate) tasks: TaskTracker,
    /// How long upstreams are waited for.
    pub(crate) timers: Timers,
}

/// Runs what hyper spawns on this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl Worker {
    pub(crate) fn new(workload: Arc<Workload>, pool: Rc<Pool>, recorder: Rc<Recorder>, tasks: TaskTracker) -> Rc<Self> {
        let identity = format!("{}/{}", workload.service, workload.instance);
        Rc::new(Self {
            pool,
            recorder,
            identity: HeaderValue::from_str(&identity).unwrap_or_else(|_| HeaderValue::from_static("unnamed")),
            tasks,
            timers: Timers::default(),
            workload,
        })
    }

    /// Closes the connections kept to endpoints that are gone; costs a look at a number when none is.
    pub(crate) fn forget_removed_endpoints(&self) {
        let generation = self.workload.endpoint_changes.load(Relaxed);
        self.pool.keep_only(generation, || self.workload.endpoint_ids());
    }

    /// Closes the connections that nobody is to use any more, whether or not requests come.
    pub(crate) fn sweep(&self) {
        self.pool.sweep(&self.workload.endpoint_ids());
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
