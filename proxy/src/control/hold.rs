//! Runs the local limiter while the control plane is silent, and takes its limit away when it speaks.

use std::{
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weir_policy::ConcurrencyLimit;

use crate::{
    config::LocalLimit,
    regulate::{LocalLimiter, STEP},
    workload::Workload,
};

/// Steps the local limiter until `stop`; `followed` says whether there is a control plane at all.
pub(crate) async fn hold(workload: Arc<Workload>, config: LocalLimit, followed: bool, stop: CancellationToken) {
    let started = Instant::now();
    let silence = Duration::from_millis(config.silence_ms);
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut limiter = None;
    loop {
        let now = tokio::select! {
            () = stop.cancelled() => return,
            now = ticks.tick() => now,
        };
        let heard = workload.policy_news.borrow().unwrap_or(started);
        let silent = !followed || now.duration_since(heard) >= silence;
        match (&mut limiter, silent) {
            (None, false) => {}
            (None, true) => {
                workload.latencies.clear();
                workload.latencies.want(true);
                limiter = Some(LocalLimiter::new(wait(&config), workload.servers.unwrap_or(1), now));
            }
            (Some(_), false) => {
                info!("the control plane speaks again; the local limit goes");
                workload.latencies.want(false);
                enforce(&workload, &config, None);
                limiter = None;
            }
            (Some(limiter), true) => step(&workload, &config, limiter, now),
        }
    }
}

fn step(workload: &Workload, config: &LocalLimit, limiter: &mut LocalLimiter, now: Instant) {
    let before = workload.local_limit.load(Relaxed);
    let (in_flight, queued) = workload.gate.load();
    let used_up = queued > 0 || (before > 0 && in_flight >= before);
    let (limit, taken) = limiter.step(workload.latencies.look(), used_up, now);
    if taken {
        workload.latencies.clear();
    }
    let limit = limit.and_then(NonZeroU32::new);
    if limit.map_or(0, NonZeroU32::get) != before {
        enforce(workload, config, limit);
        if before == 0 {
            warn!(?limit, base_ms = limiter.base_s() * 1e3, "the service queues and nobody regulates it: limited here");
        }
    }
}

fn enforce(workload: &Workload, config: &LocalLimit, limit: Option<NonZeroU32>) {
    workload.local_limit.store(limit.map_or(0, NonZeroU32::get), Relaxed);
    let local = |limit| ConcurrencyLimit { limit, queue: config.queue, queue_timeout_ms: config.queue_wait_ms };
    workload.gate.set_local(limit.map(local));
}

fn wait(config: &LocalLimit) -> Duration {
    Duration::from_millis(config.queue_wait_ms)
}
