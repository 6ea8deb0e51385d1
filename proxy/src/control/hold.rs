//! Runs the local limiter while the control plane is silent, and takes its limit away when it speaks.

use std::{num::NonZeroU32, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weir_policy::ConcurrencyLimit;

use crate::{
    config::LocalLimit,
    regulate::{Load, LocalLimiter, STEP},
    workload::{Current, Workload},
};

/// Steps the local limiter until `stop`; `followed` says whether there is a control plane at all.
pub(crate) async fn hold(current: Current, config: LocalLimit, followed: bool, stop: CancellationToken) {
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
        // each time that of now: a reload may know of more servers
        let workload = current.load();
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
            (Some(limiter), true) => {
                limiter.set_floor(workload.servers.unwrap_or(1));
                step(&workload, &config, limiter, now);
            }
        }
    }
}

fn step(workload: &Workload, config: &LocalLimit, limiter: &mut LocalLimiter, now: Instant) {
    let before = workload.local_limit.load(Relaxed);
    let (in_flight, queued) = workload.gate.load();
    let used_up = queued > 0 || (before > 0 && in_flight >= before);
    let (limit, taken) = limiter.step(workload.latencies.look(), Load { in_flight, used_up }, now);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_policy::PolicySet;

    use super::*;
    use crate::{Config, counters::Tally, security::Security};

    fn workload() -> Arc<Workload> {
        let text = "service: tagger\nservers: 2\nlimits: { local_limit: { queue_wait_ms: 20, silence_ms: 1000 } }\n\
            listeners: [{ address: '127.0.0.1:0', direction: inbound, routes: [{ upstream: app }] }]\n\
            upstreams: [{ name: app, endpoints: ['127.0.0.1:9001'] }]";
        let config = Config::from_yaml(text).unwrap();
        Arc::new(Workload::new(
            &config,
            "127.0.0.1:80".parse().unwrap(),
            Arc::new(Tally::default()),
            Security::default(),
        ))
    }

    /// What a service of two workers of 10 ms shows in `ms` with this many in flight.
    async fn serve(workload: &Workload, in_flight: u32, ms: u64) {
        let latency = Duration::from_millis(10) * in_flight.max(2) / 2;
        for _ in 0..ms / 5 {
            workload.latencies.observe(latency, in_flight);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_acts_within_100_ms_of_overload_once_nobody_else_does_and_steps_back() {
        let (workload, stop) = (workload(), CancellationToken::new());
        let config = LocalLimit { queue_wait_ms: 20, silence_ms: 1_000, queue: 4 };
        let holding =
            tokio::spawn(hold(Arc::new(arc_swap::ArcSwap::from(workload.clone())), config, true, stop.clone()));
        serve(&workload, 40, 990).await;
        assert_eq!(workload.local_limit(), 0, "the control plane may yet speak");
        serve(&workload, 1, 200).await;
        assert_eq!(workload.local_limit(), 0, "no need");
        serve(&workload, 40, 100).await;
        // two workers of 10 ms and 20 ms of waiting allowed: six in flight
        assert_eq!(workload.local_limit(), 6);
        assert!(workload.gate.is_bounded());

        workload.policy_news.send_replace(Some(Instant::now()));
        serve(&workload, 40, 100).await;
        assert_eq!((workload.local_limit(), workload.gate.is_bounded()), (0, false), "it speaks again");
        serve(&workload, 1, 1_200).await;
        serve(&workload, 40, 100).await;
        assert_eq!(workload.local_limit(), 6, "silent again");

        workload.apply(Arc::new(PolicySet::default()));
        assert!(workload.gate.is_bounded(), "a set that says nothing of the service does not lift it");
        stop.cancel();
        holding.await.unwrap();
    }
}
