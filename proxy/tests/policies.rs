//! Policies in whole flows: what the control plane says is obeyed whole or refused whole, in a storm of them too, and outlives it.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod flow;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use futures::future::join_all;
use tokio::{task::JoinHandle, time::Instant};
use weir_policy::wire::proto;
use weir_proxy::{Config, Proxy};

use flow::{
    admin, app, ask, client, config,
    control_plane::{ControlPlane, set},
    proxy, until, url,
};

/// A control plane, and the configuration of a sidecar that follows it and keeps what it says in `state`.
async fn followed(state: &Path) -> (ControlPlane, JoinHandle<()>, Config) {
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let control = ControlPlane::default();
    let (address, serving) = control.start().await;
    let more = format!("policy: {{ from: \"http://{address}\", state_dir: {state:?} }}\n");
    (control, serving, config(app, "      - { upstream: app }", &more))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_obeyed_whole_or_refused_whole_and_outlives_the_control_plane() {
    let state = tempfile::tempdir().unwrap();
    let (control, serving, config) = followed(state.path()).await;
    let start = || Proxy::start(config.clone()).unwrap();
    let first = start();
    until("subscribed", async || control.last_status().is_some()).await;
    control.send(set(7, 0.001));
    until("applied", async || control.last_status().unwrap().applied_sequence == 7).await;
    assert_eq!(ask(client().get(url(&first, "/"))).await.0, 200, "the burst");
    assert_eq!(ask(client().get(url(&first, "/"))).await, (429, "rate_limited".into()));

    control.send(set(8, f64::NAN));
    until("refused", async || !control.last_status().unwrap().refused.is_empty()).await;
    let status = control.last_status().unwrap();
    assert_eq!(status.applied_sequence, 7);
    assert!(status.refused.starts_with("policies[0].rate_limit.rate_per_s is NaN"), "{}", status.refused);
    assert_eq!(first.policy().sequence, 7, "the one before stays");
    assert_eq!(ask(client().get(url(&first, "/"))).await.0, 429);
    let counters = first.drain().await;
    assert_eq!((counters.policies_applied, counters.policies_refused), (1, 1));

    serving.abort();
    let second = start();
    until("the kept policy", async || second.policy().sequence == 7).await;
    assert_eq!(ask(client().get(url(&second, "/"))).await.0, 200);
    assert_eq!(ask(client().get(url(&second, "/"))).await.0, 429);
    second.drain().await;
}

/// A thousand changes a second for two seconds, each in force soon, while requests pass; the newest is the one that is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_policies_costs_no_request() {
    const SETS: u64 = 2_000;
    let state = tempfile::tempdir().unwrap();
    let (control, _serving, config) = followed(state.path()).await;
    let proxy = Proxy::start(config).unwrap();
    until("subscribed", async || control.last_status().is_some()).await;
    let calm = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4).map(|_| tokio::spawn(ask_until(calm.clone(), url(&proxy, "/")))).collect();
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sent = Vec::new();
    for sequence in 1..=SETS {
        pace.tick().await;
        sent.push((sequence, Instant::now()));
        control.send(easy(sequence));
    }
    until("the last one", async || control.confirmed(SETS).is_some()).await;
    calm.store(true, Relaxed);
    let mut passed = 0;
    for (good, lost) in join_all(load).await.into_iter().map(Result::unwrap) {
        assert_eq!(lost, Vec::new(), "after {good} that passed");
        passed += good;
    }
    assert!(passed > 0);
    let took = sent.into_iter().map(|(sequence, at)| control.confirmed(sequence).unwrap() - at);
    let times = Times::of(took);
    println!("{SETS} policies at 1,000/s, {passed} requests passed; from sent to said to be in force: {times}");

    let feels = Times::of(felt(&proxy, &control, SETS + 1..SETS + 21).await);
    println!("from a policy to the first request that feels it: {feels}");
    assert_eq!(proxy.drain().await.policies_applied, SETS + 20);
    let kept = std::fs::read_to_string(state.path().join("tagger.policy")).unwrap();
    assert!(kept.contains(&format!("\"sequence\":{}", SETS + 20)), "{kept}");
}

/// Of the answers to sets that came in one burst only sixteen were once sent, and the newest was not among them.
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_of_a_burst_is_confirmed() {
    const SETS: u64 = 2_000;
    let state = tempfile::tempdir().unwrap();
    let (control, _serving, config) = followed(state.path()).await;
    let proxy = Proxy::start(config).unwrap();
    until("subscribed", async || control.last_status().is_some()).await;
    (1..=SETS).for_each(|sequence| control.send(easy(sequence)));
    until("the last one", async || control.confirmed(SETS).is_some()).await;
    let told = control.told() as u64;
    let counters = proxy.drain().await;
    // one beside them, for the subscription
    assert_eq!((counters.policies_applied, told + counters.policy_statuses_skipped), (SETS, SETS + 1));
}

/// A set like no other, that turns nobody away.
fn easy(sequence: u64) -> proto::PolicySet {
    let mut set = set(sequence, 1e6 + sequence as f64);
    set.policies[0].rate_limit.as_mut().unwrap().burst = 1_000;
    set
}

/// Asks one request after the other; how many passed, and what the others were told.
async fn ask_until(end: Arc<AtomicBool>, url: String) -> (u64, Vec<(u16, String)>) {
    let (client, mut passed, mut lost) = (client(), 0, Vec::new());
    while !end.load(Relaxed) {
        match ask(client.get(&url)).await {
            (200, _) => passed += 1,
            other => lost.push(other),
        }
    }
    (passed, lost)
}

/// From the sending of policies that change what is let in to the first request that feels each.
async fn felt(proxy: &Proxy, control: &ControlPlane, sequences: std::ops::Range<u64>) -> Vec<Duration> {
    let (client, mut times) = (client(), Vec::new());
    for sequence in sequences {
        let (rate_per_s, expected) = if sequence % 2 == 0 { (0.001, 429) } else { (1e9, 200) };
        let began = Instant::now();
        control.send(set(sequence, rate_per_s));
        let obeyed = async { while ask(client.get(url(proxy, "/"))).await.0 != expected {} };
        tokio::time::timeout(Duration::from_secs(30), obeyed).await.expect("it is obeyed");
        times.push(began.elapsed());
    }
    times
}

/// Sorted, to be told.
struct Times(Vec<Duration>);

impl Times {
    fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |share: f64| self.0[((self.0.len() - 1) as f64 * share) as usize];
        write!(f, "{:?} in the median, {:?} p99, {:?} at most", at(0.5), at(0.99), at(1.0))
    }
}

/// A reload could put an older set back and report the newer one.
#[tokio::test(flavor = "multi_thread")]
async fn reloads_and_policies_take_turns() {
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let control = ControlPlane::default();
    let (address, _serving) = control.start().await;
    let more = format!("policy: {{ from: \"http://{address}\" }}\n");
    let proxy = Proxy::start(config(app, "      - { upstream: app }", &more)).unwrap();
    until("subscribed", async || control.last_status().is_some()).await;
    for round in 0..20 {
        for n in 1..=50 {
            control.send(set(round * 50 + n, 1e6));
        }
        proxy.reload(config(app, "      - { upstream: app }", &more)).await.unwrap();
    }
    until("the last one", async || proxy.policy().sequence == 1_000).await;
    proxy.drain().await;
}

/// Passes bytes on until it is told to hold them, without closing anything; connections that come later pass.
async fn relay(to: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, dead) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let holds = dead.clone();
    tokio::spawn(async move {
        let mut first = true;
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (holds, ends) = (holds.clone(), std::mem::take(&mut first));
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
                let pass = tokio::io::copy_bidirectional(&mut client, &mut server);
                if !ends {
                    return drop(pass.await);
                }
                let told = async {
                    while !holds.load(Relaxed) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                tokio::select! { _ = pass => return, () = told => {} }
                std::future::pending::<()>().await;
                drop((client, server));
            });
        }
    });
    (address, dead)
}

/// A stream whose other end vanished without a word was never opened again.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_stream_that_died_silently_is_opened_again() {
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let control = ControlPlane::default();
    let (address, _serving) = control.start().await;
    let (relay, dead) = relay(address).await;
    let proxy = proxy(app, "      - { upstream: app }", &format!("policy: {{ from: \"http://{relay}\" }}\n"));
    until("subscribed", async || control.last_status().is_some()).await;
    control.send(set(1, 1e6));
    until("applied", async || proxy.policy().sequence == 1).await;
    dead.store(true, Relaxed);
    until("another stream is opened", async || control.subscriptions.load(Relaxed) == 2).await;
    control.send(set(2, 1e6));
    until("it brings the next one", async || proxy.policy().sequence == 2).await;
    proxy.drain().await;
}

/// An expired policy came back with each start.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_policy_is_as_old_as_it_is() {
    let state = tempfile::tempdir().unwrap();
    let (control, serving, config) = followed(state.path()).await;
    let start = || Proxy::start(config.clone()).unwrap();
    let first = start();
    until("subscribed", async || control.last_status().is_some()).await;
    control.send(proto::PolicySet { ttl_ms: 60_000, ..set(7, 1.0) });
    until("applied", async || first.policy().sequence == 7).await;
    first.drain().await;
    serving.abort();
    let kept = std::fs::read_dir(state.path()).unwrap().map(|file| file.unwrap().path()).next().unwrap();
    for (age_s, source, second_passes) in [(1, "disk", false), (3_600, "decayed", true)] {
        let heard = std::time::SystemTime::now() - Duration::from_secs(age_s);
        std::fs::File::options().write(true).open(&kept).unwrap().set_modified(heard).unwrap();
        let proxy = start();
        // in force before the first request
        let statuses = [ask(client().get(url(&proxy, "/"))).await.0, ask(client().get(url(&proxy, "/"))).await.0];
        assert_eq!(statuses, [200, if second_passes { 200 } else { 429 }], "{age_s} s old");
        let told = admin(&proxy, "/policy").await;
        assert!(told.contains(&format!("\"source\": \"{source}\"")), "{age_s} s old: {told}");
        proxy.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_policy_that_is_damaged_is_not_used_and_the_limits_of_the_file_hold() {
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("tagger.policy"), "00000000\n{\"sequence\":7,\"policies\":[]}").unwrap();
    let app = app(Router::new().fallback(get(async || "ok"))).await;
    let more = format!(
        "limits: {{ rate_limit: {{ rate_per_s: 0.001, burst: 1 }} }}\n\
         policy: {{ from: \"http://127.0.0.1:1\", state_dir: {:?} }}\n",
        state.path()
    );
    let proxy = proxy(app, "      - { upstream: app }", &more);
    assert_eq!(ask(client().get(url(&proxy, "/"))).await.0, 200);
    assert_eq!(ask(client().get(url(&proxy, "/"))).await, (429, "rate_limited".into()));
    let told = admin(&proxy, "/policy").await;
    assert!(told.contains("\"source\": \"static\"") && told.contains("\"sequence\": 0"), "{told}");
    proxy.drain().await;
}
