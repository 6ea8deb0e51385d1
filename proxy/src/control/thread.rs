//! [`Control`]: what the control thread runs beside the traffic, until it is told to stop.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{PolicySource, Telemetry},
    control::{Admin, Follower, InForce, Reach, Remembered, StateFile, hold::hold, serve_admin},
    discovery, memory,
    reload::Status,
    telemetry::{Exporter, Gatherer, Rings, Taps},
    workload::Current,
};

/// Its parts.
pub(crate) struct Control {
    pub(crate) current: Current,
    /// The configuration in force, and each that follows.
    pub(crate) in_force: watch::Receiver<InForce>,
    pub(crate) telemetry: Telemetry,
    pub(crate) rings: Rings,
    pub(crate) taps: Arc<Taps>,
    pub(crate) policy: Option<(PolicySource, Option<StateFile>, Remembered)>,
    pub(crate) admin: Option<std::net::TcpListener>,
    pub(crate) status: Arc<ArcSwap<Status>>,
    pub(crate) draining: CancellationToken,
    pub(crate) stopping: CancellationToken,
}

impl Control {
    pub(crate) async fn run(self) {
        let Self { current, telemetry, stopping, .. } = self;
        let tasks = TaskTracker::new();
        tasks.spawn(keep_fresh(self.in_force.clone(), current.clone(), stopping.clone()));
        let (control_plane_tls, collector_tls) = {
            let workload = current.load();
            (workload.security.control_plane_tls(), workload.security.collector_tls())
        };
        let collector = telemetry.otlp.clone().and_then(|url| Reach::new(url, collector_tls));
        let records = collector.map(|collector| {
            let (records, queued) = mpsc::channel(telemetry.queue_records);
            let exporter = Exporter::new(telemetry, current.clone(), queued, collector.channel());
            tasks.spawn(exporter.run(stopping.clone()));
            records
        });
        let tally = current.load().tally.clone();
        let gatherer = Gatherer::new(self.rings, records, self.in_force.clone(), self.taps.clone(), tally);
        tasks.spawn(gatherer.run(stopping.clone()));
        tasks.spawn(memory::watch(current.clone(), stopping.clone()));
        tasks.spawn(hold(current.clone(), self.in_force.clone(), stopping.clone()));
        if let Some((source, state, remembered)) = self.policy
            && let Some(reach) = Reach::new(source.from, control_plane_tls)
        {
            let follower = Follower::new(current.clone(), reach, source.min_rate_per_s, state, remembered);
            tasks.spawn(follower.run(stopping.clone()));
        }
        if let Some(listener) = self.admin.and_then(|a| TcpListener::from_std(a).ok()) {
            let (taps, in_force, status) = (self.taps, self.in_force, self.status);
            let local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
            let admin = Admin { current, taps, in_force, status, local, drain: self.draining };
            tasks.spawn(serve_admin(listener, admin, stopping));
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Looks for endpoints, and watches certificates and keys, as the configuration in force asks; begins anew with each.
async fn keep_fresh(mut in_force: watch::Receiver<InForce>, current: Current, stop: CancellationToken) {
    loop {
        let (of_this_one, tasks) = (stop.child_token(), TaskTracker::new());
        let upstreams = in_force.borrow_and_update().config.upstreams.clone();
        discovery::start(&upstreams, &current, &tasks, &of_this_one);
        current.load().security.watch(&tasks, &of_this_one);
        let another = tokio::select! {
            () = stop.cancelled() => false,
            changed = in_force.changed() => changed.is_ok(),
        };
        if !another {
            stop.cancelled().await;
        }
        of_this_one.cancel();
        tasks.close();
        tasks.wait().await;
        if !another {
            return;
        }
    }
}
