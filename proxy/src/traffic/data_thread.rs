//! [`DataThread`]: one data thread's share of the traffic: its listeners, its orders, its drain.
//!
//! The first order starts it, each later one is a reload: listeners that stay get the new
//! configuration, new ones begin to accept, others drain.
//!
//! A drain has three steps: everybody is told to go, while whoever has not heard of it still finds open sockets (the
//! lame duck); the sockets close; what is under way gets its time to finish.

use std::{collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    sockets::{ListenerKey, Sockets},
    telemetry::Recorder,
    traffic::{listener::Slot, open::OpenConnections, pool::Pool, serve::Worker},
    workload::Workload,
};

/// 1 s between two looks for connections that were idle for too long: they are looked at before they are used, too.
const SWEEP: Duration = Duration::from_secs(1);

/// A configuration to obey from now on.
pub(crate) struct Order {
    pub(crate) workload: Arc<Workload>,
    /// Sockets of this thread for listeners it does not have yet.
    pub(crate) sockets: Sockets,
    /// Told when it is obeyed.
    pub(crate) done: oneshot::Sender<()>,
}

/// The listeners of one thread and what runs for them.
pub(crate) struct DataThread {
    slots: HashMap<ListenerKey, Rc<Slot>>,
    /// Of the configuration in force; its connections to upstreams outlive it.
    worker: Option<Rc<Worker>>,
    recorder: Rc<Recorder>,
    tasks: TaskTracker,
    open: Rc<OpenConnections>,
    /// Cancelled when the drain begins.
    shutdown: CancellationToken,
    /// Cancelled when the sockets close.
    closing: CancellationToken,
}

impl DataThread {
    pub(crate) fn new(recorder: Recorder, shutdown: CancellationToken) -> Self {
        let (slots, recorder, closing) = (HashMap::new(), Rc::new(recorder), CancellationToken::new());
        Self { slots, worker: None, recorder, tasks: TaskTracker::new(), open: Rc::default(), shutdown, closing }
    }

    /// Obeys until the shutdown; requests under way then get until the drain's end.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let (mut lame_duck, mut drain) = (Duration::ZERO, Duration::ZERO);
        let mut sweeps = tokio::time::interval(SWEEP);
        loop {
            let order = tokio::select! {
                biased;
                Some(order) = orders.recv() => order,
                () = self.shutdown.cancelled() => break,
                _ = sweeps.tick() => {
                    self.worker.iter().for_each(|worker| worker.sweep());
                    continue;
                }
            };
            let timeouts = order.workload.timeouts;
            (lame_duck, drain) = (timeouts.lame_duck(order.workload.is_reachable()), timeouts.drain());
            self.obey(order);
        }
        // whoever would still reload hears that the proxy drains
        drop(orders);
        tokio::time::sleep(lame_duck).await;
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(drain, self.tasks.wait()).await.is_err() {
            warn!("requests were still under way at the end of the drain");
        }
    }

    fn obey(&mut self, order: Order) {
        let Order { workload, sockets, done } = order;
        let kept = self.worker.take().map(|worker| worker.pool.clone());
        let pool = kept.unwrap_or_else(|| Rc::new(Pool::new(workload.timeouts, workload.http)));
        pool.obey(workload.timeouts, workload.http);
        self.recorder.obey(workload.wanted);
        let worker = Worker::new(workload.clone(), pool, self.recorder.clone(), self.tasks.clone());
        self.worker = Some(worker.clone());
        let mut sockets: HashMap<_, _> = sockets.into_iter().collect();
        for (index, accepts) in workload.accepts.iter().enumerate() {
            match (self.slots.get(&accepts.key), sockets.remove(&accepts.key)) {
                (Some(slot), _) => slot.set(worker.clone(), index),
                (None, Some(socket)) => self.listen(accepts.key, socket, &worker, index),
                (None, None) => warn!(address = %accepts.key.address, "no socket came with a new listener"),
            }
        }
        self.slots.retain(|key, slot| {
            let stays = workload.accepts.iter().any(|accepts| accepts.key == *key);
            if !stays {
                slot.close();
            }
            stays
        });
        // whoever gave the order may have left
        let _ = done.send(());
    }

    fn listen(&mut self, key: ListenerKey, socket: std::net::TcpListener, worker: &Rc<Worker>, index: usize) {
        match TcpListener::from_std(socket) {
            Ok(listener) => {
                let (draining, closing) = (self.shutdown.child_token(), self.closing.child_token());
                let slot = Slot::new(worker.clone(), index, self.open.clone(), draining, closing);
                self.tasks.spawn_local(slot.clone().accept(listener));
                self.slots.insert(key, slot);
            }
            Err(error) => warn!(%error, address = %key.address, "a listener cannot be used"),
        }
    }
}
