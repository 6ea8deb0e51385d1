//! [`Control`]: what the control thread runs beside the traffic, until it is told to stop.

use std::{pin::pin, sync::Arc};

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
    telemetry::{Exporter, Gatherer, Rings, Taps, unix_nano_now},
    workload::{Current, Workload},
};

/// Its parts.
pub(crate) struct Control {
    pub(crate) current: Current,
    /// The configuration in force, and each that follows.
    pub(crate) in_force: watch::Receiver<InForce>,
    pub(crate) rings: Rings,
    pub(crate) taps: Arc<Taps>,
    /// What is enforced of an earlier run.
    pub(crate) remembered: Remembered,
    pub(crate) admin: Option<std::net::TcpListener>,
    pub(crate) status: Arc<ArcSwap<Status>>,
    pub(crate) draining: CancellationToken,
    pub(crate) stopping: CancellationToken,
}

impl Control {
    pub(crate) async fn run(self) {
        let Self { current, stopping, .. } = self;
        let tasks = TaskTracker::new();
        tasks.spawn(keep_fresh(self.in_force.clone(), current.clone(), stopping.clone()));
        let tally = current.load().tally.clone();
        let gatherer = Gatherer::new(self.rings, self.in_force.clone(), self.taps.clone(), tally);
        tasks.spawn(gather(gatherer, self.in_force.clone(), current.clone(), tasks.clone(), stopping.clone()));
        tasks.spawn(memory::watch(current.clone(), stopping.clone()));
        tasks.spawn(hold(current.clone(), self.in_force.clone(), stopping.clone()));
        tasks.spawn(follow(self.in_force.clone(), current.clone(), self.remembered, stopping.clone()));
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

/// Gathers what data threads leave, and exports it as the configuration in force asks. One exporter that follows another
/// leaves it `flush_ms` for what it has.
async fn gather(
    mut gatherer: Gatherer,
    mut in_force: watch::Receiver<InForce>,
    current: Current,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let started_unix_nano = unix_nano_now();
    loop {
        let config = in_force.borrow_and_update().config.clone();
        let of_this_one = stop.child_token();
        let collector_tls = current.load().security.collector_tls();
        let collector = config.telemetry.otlp.clone().and_then(|url| Reach::new(url, collector_tls));
        gatherer.export_to(collector.map(|collector| {
            let (records, queued) = mpsc::channel(config.telemetry.queue_records);
            let (telemetry, channel) = (config.telemetry.clone(), collector.channel());
            let exporter = Exporter::new(telemetry, current.clone(), queued, channel, started_unix_nano);
            tasks.spawn(exporter.run(of_this_one.clone()));
            records
        }));
        tokio::select! {
            // before anything else is gathered
            biased;
            () = another(&mut in_force, |now| exports_otherwise(&now.config.telemetry, &config.telemetry)) => {}
            () = gatherer.run(&stop) => return,
        }
        of_this_one.cancel();
    }
}

/// Whether what is exported, or how, differs. The rest is the data threads' and the access log's.
fn exports_otherwise(now: &Telemetry, before: &Telemetry) -> bool {
    let Telemetry { span_ratio, propagation, access_log, access_log_ratio, access_log_file, access_log_format, .. } =
        before.clone();
    let ours = Telemetry {
        span_ratio,
        propagation,
        access_log,
        access_log_ratio,
        access_log_file,
        access_log_format,
        ..now.clone()
    };
    ours != *before
}

/// Follows the control plane that the configuration in force names. What one has said holds until another one speaks, for its time to
/// live; without any the static limits hold.
async fn follow(
    mut in_force: watch::Receiver<InForce>,
    current: Current,
    mut remembered: Remembered,
    stop: CancellationToken,
) {
    loop {
        let InForce { config, state, .. } = in_force.borrow_and_update().clone();
        let of_this_one = stop.child_token();
        let mut following = pin!(follow_one(config.policy.clone(), state, &current, remembered, of_this_one.clone()));
        tokio::select! {
            // it was told to stop
            _ = following.as_mut() => return,
            () = another(&mut in_force, |now| now.config.policy != config.policy) => of_this_one.cancel(),
        }
        remembered = following.await;
        if in_force.borrow().config.policy.is_none() {
            Workload::decay(&current);
            remembered = Remembered::default();
        }
    }
}

/// Waits until a reload says something else.
async fn another(in_force: &mut watch::Receiver<InForce>, differs: impl FnMut(&InForce) -> bool) {
    let said = in_force.wait_for(differs).await.is_ok();
    if !said {
        std::future::pending().await
    }
}

/// Follows `source` until `stop`, and says what another one goes on from.
async fn follow_one(
    source: Option<PolicySource>,
    state: Option<StateFile>,
    current: &Current,
    remembered: Remembered,
    stop: CancellationToken,
) -> Remembered {
    let Some(source) = source else {
        stop.cancelled().await;
        return remembered;
    };
    let followed = Follower::new(current.clone(), source, state, remembered);
    followed.expect("validated: the address can be read").run(stop).await
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
