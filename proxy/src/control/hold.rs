//! Runs the local limiter: it measures always, limits while the control plane is silent, and steps back when it speaks.

use std::{num::NonZeroU32, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weir_policy::ConcurrencyLimit;

use crate::{
    config::LocalLimit,
    control::InForce,
    regulate::{Load, LocalLimiter, STEP},
    workload::{Current, Workload},
};

/// Steps the local limiter until `stop`, wherever the configuration in force asks for one. What it has learnt of the service
/// stays when a reload says otherwise how long may be waited.
pub(crate) async fn hold(current: Current, mut in_force: watch::Receiver<InForce>, stop: CancellationToken) {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut held: Option<(LocalLimit, LocalLimiter)> = None;
    loop {
        let (config, followed) = asked(&mut in_force);
        let Some(config) = config else {
            if held.take().is_some() {
                release(&current.load());
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = in_force.changed() => continue,
                else => return,
            }
        };
        let now = tokio::select! {
            () = stop.cancelled() => return,
            // when it was due may be long ago, and requests have begun since
            _ = ticks.tick() => Instant::now(),
        };
        // each time that of now: a reload may know of more servers
        let workload = current.load();
        let wait = Duration::from_millis(config.queue_wait_ms);
        let (obeyed, limiter) = held.get_or_insert_with(|| {
            workload.latencies.want();
            (config, LocalLimiter::new(wait, 1, now))
        });
        if *obeyed != config {
            *obeyed = config;
            limiter.set_queue_wait(wait);
            enforce(&workload, &config, NonZeroU32::new(workload.local_limit.load(Relaxed)));
        }
        let heard = workload.policy_news.borrow().unwrap_or(started);
        let silent = !followed || now.duration_since(heard) >= Duration::from_millis(config.silence_ms);
        limiter.set_floor(workload.servers.unwrap_or(1));
        step(&workload, &config, limiter, silent, now);
    }
}

/// What the configuration in force says, and whether there is a control plane at all.
fn asked(in_force: &mut watch::Receiver<InForce>) -> (Option<LocalLimit>, bool) {
    let in_force = in_force.borrow_and_update();
    (in_force.config.limits.local_limit, in_force.config.policy.is_some())
}

/// Nobody asks for a limit any more.
fn release(workload: &Workload) {
    workload.latencies.want_no_more();
    workload.local_limit.store(0, Relaxed);
    workload.gate.set_local(None);
}

fn step(workload: &Workload, config: &LocalLimit, limiter: &mut LocalLimiter, silent: bool, now: Instant) {
    let before = workload.local_limit.load(Relaxed);
    let (in_flight, _) = workload.gate.load();
    let waited = workload.servers.and_then(|servers| workload.latencies.behind(servers, now));
    let load = Load { in_flight, used_up: before > 0 && in_flight >= before, waited };
    let measured = workload.latencies.look();
    let (limit, taken) = if silent { limiter.step(measured, load, now) } else { limiter.watch(measured, load, now) };
    if taken {
        workload.latencies.clear();
    }
    let after = limit.unwrap_or(0);
    if after == before {
        return;
    }
    enforce(workload, config, NonZeroU32::new(after));
    match (before, after) {
        (0, _) => {
            let base_ms = limiter.base_s() * 1e3;
            warn!(limit = after, base_ms, "the service queues and nobody regulates it: limited here");
        }
        (_, 0) => info!("the local limit holds nobody back any more, and goes"),
        _ => {}
    }
}

fn enforce(workload: &Workload, config: &LocalLimit, limit: Option<NonZeroU32>) {
    workload.local_limit.store(limit.map_or(0, NonZeroU32::get), Relaxed);
    let local = |limit| ConcurrencyLimit { limit, queue: config.queue, queue_timeout_ms: config.queue_wait_ms };
    workload.gate.set_local(limit.map(local));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;
    use weir_policy::PolicySet;

    use super::*;
    use crate::{
        Config,
        counters::Tally,
        regulate::{Ask, Priority},
        security::Security,
    };

    const TEXT: &str = "service: tagger\nservers: 2\n\
        listeners: [{ address: '127.0.0.1:0', direction: inbound, routes: [{ upstream: app }] }]\n\
        upstreams: [{ name: app, endpoints: ['127.0.0.1:9001'] }]";

    fn workload() -> Arc<Workload> {
        let config = Config::from_yaml(TEXT).unwrap();
        Arc::new(Workload::new(
            &config,
            "127.0.0.1:80".parse().unwrap(),
            Arc::new(Tally::default()),
            Security::default(),
        ))
    }

    /// A configuration with this local limit, and with or without a control plane.
    fn in_force(local_limit: Option<LocalLimit>, followed: bool) -> (watch::Sender<InForce>, watch::Receiver<InForce>) {
        watch::channel(told(local_limit, followed))
    }

    fn told(local_limit: Option<LocalLimit>, followed: bool) -> InForce {
        let policy = if followed { "policy: { from: 'http://127.0.0.1:1' }\n" } else { "" };
        let mut config = Config::from_yaml(&format!("{policy}{TEXT}")).unwrap();
        config.limits.local_limit = local_limit;
        InForce::open(Arc::new(config), None, &Arc::default()).unwrap()
    }

    /// What a service of two workers of 10 ms shows in `ms` with this many in flight.
    async fn serve(workload: &Workload, in_flight: u32, ms: u64) {
        let latency = Duration::from_millis(10) * in_flight.max(2) / 2;
        for _ in 0..ms / 5 {
            workload.latencies.observe(latency, in_flight);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn limit(workload: &Workload) -> (u64, bool) {
        (workload.local_limit(), workload.gate.is_bounded())
    }

    /// It began to measure when the control plane fell silent, and took an overload that was there
    /// already for what is usual.
    #[tokio::test(start_paused = true)]
    async fn it_acts_within_100_ms_of_silence_in_an_overload_and_steps_back_no_faster_than_others_regulate() {
        let (workload, stop) = (workload(), CancellationToken::new());
        let config = LocalLimit { queue_wait_ms: 20, silence_ms: 1_000, queue: 4 };
        let (_reloaded, in_force) = in_force(Some(config), true);
        let current = Arc::new(arc_swap::ArcSwap::from(workload.clone()));
        let holding = tokio::spawn(hold(current, in_force, stop.clone()));
        let speak = || workload.policy_news.send_replace(Some(Instant::now()));
        for _ in 0..5 {
            speak();
            serve(&workload, 1, 900).await;
        }
        for _ in 0..60 {
            speak();
            serve(&workload, 40, 500).await;
            assert_eq!(limit(&workload), (0, false), "the control plane sees it too");
        }
        serve(&workload, 40, 490).await;
        assert_eq!(limit(&workload), (0, false), "it may yet speak");
        serve(&workload, 40, 110).await;
        // two workers of 10 ms and 20 ms of waiting allowed: six in flight
        assert_eq!(limit(&workload), (6, true));
        workload.apply(Arc::new(PolicySet::default()));
        assert!(workload.gate.is_bounded(), "a set that says nothing of the service does not lift it");

        let mut places = Vec::new();
        for expected in [6, 8, 10] {
            assert_eq!(limit(&workload), (expected, true), "it speaks again");
            while (places.len() as u64) < expected {
                let now = Instant::now();
                let ask = Ask { now, give_up: now, priority: Priority::Normal };
                places.push(workload.gate.admit(ask).await.unwrap());
            }
            for _ in 0..2 {
                speak();
                serve(&workload, 6, 525).await;
            }
        }
        drop(places);
        for _ in 0..3 {
            speak();
            serve(&workload, 1, 900).await;
        }
        assert_eq!(limit(&workload), (0, false), "it held nobody back");
        serve(&workload, 40, 1_100).await;
        assert_eq!(limit(&workload), (6, true), "silent again");
        stop.cancel();
        holding.await.unwrap();
    }

    /// A changed local limit needed a restart once, and with it went what was known of the service.
    #[tokio::test(start_paused = true)]
    async fn a_reload_changes_the_wait_and_forgets_nothing() {
        let (workload, stop) = (workload(), CancellationToken::new());
        let config = LocalLimit { queue_wait_ms: 20, silence_ms: 1_000, queue: 4 };
        let (reloaded, in_force) = in_force(Some(config), false);
        let current = Arc::new(arc_swap::ArcSwap::from(workload.clone()));
        let holding = tokio::spawn(hold(current, in_force, stop.clone()));
        serve(&workload, 1, 4_500).await;
        serve(&workload, 40, 200).await;
        // two workers of 10 ms and 20 ms of waiting allowed
        assert_eq!(limit(&workload), (6, true));
        reloaded.send_replace(told(Some(LocalLimit { queue_wait_ms: 10, ..config }), false));
        serve(&workload, 6, 200).await;
        assert_eq!(limit(&workload), (4, true), "10 ms from now on");
        reloaded.send_replace(told(None, false));
        serve(&workload, 4, 100).await;
        assert_eq!(limit(&workload), (0, false), "nobody asks for it any more");
        assert_eq!(workload.latencies.look(), None, "nor measures for it");
        reloaded.send_replace(told(Some(config), false));
        serve(&workload, 1, 4_500).await;
        serve(&workload, 40, 200).await;
        assert_eq!(limit(&workload), (6, true), "somebody does again");
        stop.cancel();
        holding.await.unwrap();
    }

    /// Found by measuring: it waited for the answers of those who waited.
    #[tokio::test(start_paused = true)]
    async fn who_waits_is_seen_before_there_is_an_answer_where_the_servers_are_known() {
        // two of little less than 10 ms, for some wait by chance, and 20 ms of waiting allowed: seven in flight
        for (servers, expected) in [("servers: 2\n", (7, true)), ("", (0, false))] {
            let config = Config::from_yaml(&TEXT.replace("servers: 2\n", servers)).unwrap();
            let first = "127.0.0.1:80".parse().unwrap();
            let workload = Arc::new(Workload::new(&config, first, Arc::default(), Security::default()));
            let stop = CancellationToken::new();
            let config = LocalLimit { queue_wait_ms: 20, silence_ms: 1_000, queue: 4 };
            let (_reloaded, in_force) = in_force(Some(config), false);
            let current = Arc::new(arc_swap::ArcSwap::from(workload.clone()));
            let holding = tokio::spawn(hold(current, in_force, stop.clone()));
            // one at a time, every 50 ms
            for _ in 0..200 {
                workload.latencies.observe(Duration::from_millis(10), 1);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // this thread was busy: its next look was due long before they began
            let busy = tokio::time::advance(Duration::from_secs(8)).now_or_never();
            let waiting: Vec<_> = (0..40).map(|_| workload.latencies.begin(Instant::now())).collect();
            assert_eq!(busy, None);
            tokio::time::sleep(Duration::from_millis(19)).await;
            assert_eq!(limit(&workload), (0, false), "they may wait so long");
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(limit(&workload), expected, "{servers:?}");
            drop(waiting);
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert_eq!(limit(&workload), (0, false), "nobody needs it");
            stop.cancel();
            holding.await.unwrap();
        }
    }
}
