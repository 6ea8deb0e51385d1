//! Balancing in whole flows, by count: who stays where, who takes over, and what panic means.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod support;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use axum::{Router, extract::ConnectInfo, http::StatusCode};
use support::{client, serve, start, until, url};
use tokio::net::TcpListener;
use weir_proxy::{Config, Proxy};

/// An application that says its name, or 503 once `broken` is set.
async fn app(name: usize) -> (SocketAddr, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let state = broken.clone();
    let answer = async move || match state.load(SeqCst) {
        false => Ok(name.to_string()),
        true => Err(StatusCode::SERVICE_UNAVAILABLE),
    };
    (serve(Router::new().fallback(answer)).await, broken)
}

/// As many as there are attributes, which stand beside the address.
async fn apps(attributes: &[&str]) -> (String, Vec<Arc<AtomicBool>>) {
    let (mut endpoints, mut switches) = (Vec::new(), Vec::new());
    for (name, more) in attributes.iter().enumerate() {
        let (address, broken) = app(name).await;
        endpoints.push(format!("{{ address: '{address}'{more} }}"));
        switches.push(broken);
    }
    (format!("endpoints: [{}]", endpoints.join(", ")), switches)
}

/// Who answered how many of `n` requests; what failed counts as `failed`.
async fn counts(proxy: &Proxy, n: usize, header: Option<(&str, &str)>) -> BTreeMap<String, usize> {
    let (client, mut counts) = (client(), BTreeMap::new());
    for _ in 0..n {
        let mut request = client.get(url(proxy, "/"));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let answer = request.send().await.unwrap();
        let who = if answer.status() == 200 { answer.text().await.unwrap() } else { "failed".into() };
        *counts.entry(who).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_keeps_who_says_the_same_where_it_is() {
    let (endpoints, broken) = apps(&["", "", "", ""]).await;
    let upstreams = format!(
        "{{ name: app, {endpoints}, balance: {{ ring_hash: {{ header: x-user }} }}, outlier_detection: {{ consecutive_5xx: 2 }} }}"
    );
    let proxy = start("{ upstream: app }", &upstreams, "");
    let mut owners = BTreeMap::new();
    for user in (0..40).map(|n| format!("user-{n}")) {
        let counts = counts(&proxy, 3, Some(("x-user", &user))).await;
        assert_eq!(counts.len(), 1, "{user}: {counts:?}");
        owners.insert(user, counts.into_keys().next().unwrap());
    }
    let lost = owners["user-0"].clone();
    broken[lost.parse::<usize>().unwrap()].store(true, SeqCst);
    assert_eq!(counts(&proxy, 2, Some(("x-user", "user-0"))).await["failed"], 2, "two in a row eject it");
    for (user, owner) in &owners {
        let counts = counts(&proxy, 1, Some(("x-user", user))).await;
        let stays = counts.contains_key(owner);
        assert_eq!(stays, *owner != lost, "{user} was at {owner}, {lost} is out: {counts:?}");
        assert!(!counts.contains_key("failed"));
    }
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_known_by_the_cookie_it_is_given() {
    let (endpoints, _broken) = apps(&["", "", "", ""]).await;
    let upstreams = format!(
        "{{ name: app, {endpoints}, balance: {{ ring_hash: {{ cookie: {{ name: who, ttl_s: 60, path: / }} }} }} }}"
    );
    let proxy = start("{ upstream: app }", &upstreams, "");
    for _ in 0..10 {
        let answer = client().get(url(&proxy, "/")).send().await.unwrap();
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let owner = answer.text().await.unwrap();
        assert_eq!(counts(&proxy, 5, Some(("cookie", &cookie))).await, BTreeMap::from([(owner, 5)]));
    }
    proxy.drain().await;
}

/// Behind a load balancer all clients come from its address; who they are says a field that anybody can send.
#[tokio::test(flavor = "multi_thread")]
async fn a_ring_by_address_believes_trusted_proxies_who_comes_and_nobody_else() {
    let (endpoints, _broken) = apps(&["", "", "", ""]).await;
    let listener = |hops: u32| {
        format!("{{ address: '127.0.0.1:0', direction: inbound, trusted_hops: {hops}, routes: [{{ upstream: app }}] }}")
    };
    let text = format!(
        "service: shop\nthreads: 1\nlisteners: [{}, {}]\n\
         upstreams: [{{ name: app, {endpoints}, balance: {{ ring_hash: source_address }} }}]",
        listener(0),
        listener(2)
    );
    let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
    let (client, [nobody, two]) = (client(), [0, 1].map(|n| format!("http://{}/", proxy.addresses()[n])));
    let owner = async |url: &str, said: &str| {
        client.get(url).header("x-forwarded-for", said).send().await.unwrap().text().await.unwrap()
    };
    let connects = client.get(&nobody).send().await.unwrap().text().await.unwrap();
    let mut owners = BTreeMap::new();
    for address in (0..40).map(|n| format!("198.51.100.{n}")) {
        let own = owner(&two, &format!("{address}, 10.0.0.1")).await;
        for forged in ["6.6.6.6", "198.51.100.99, 6.6.6.6", "unknown", ""] {
            let said = format!("{forged}, {address}, 10.0.0.1");
            assert_eq!(owner(&two, &said).await, own, "{said}: what a client puts before is its own word");
        }
        *owners.entry(own).or_insert(0) += 1;
        for (url, said) in [
            (&nobody, format!("{address}, 10.0.0.1")),
            (&nobody, address.clone()),
            (&two, address.clone()),
            (&two, format!("{address}, unknown, 10.0.0.1")),
        ] {
            assert_eq!(owner(url, &said).await, connects, "{said}: nobody who is trusted says so");
        }
    }
    assert!(owners.len() > 1, "clients are told apart: {owners:?}");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn priorities_and_zones_take_over_and_panic_uses_all() {
    let (endpoints, broken) = apps(&[", priority: 0", ", priority: 1", ", priority: 1"]).await;
    let detection = "outlier_detection: { consecutive_5xx: 2, max_ejection_percent: 100 }";
    let proxy = start("{ upstream: app }", &format!("{{ name: app, {endpoints}, {detection} }}"), "");
    assert_eq!(counts(&proxy, 50, None).await, BTreeMap::from([("0".into(), 50)]));
    broken[0].store(true, SeqCst);
    let failed_over = counts(&proxy, 52, None).await;
    assert_eq!(failed_over["failed"], 2, "{failed_over:?}");
    assert_eq!(failed_over["1"] + failed_over["2"], 50);
    broken[1..].iter().for_each(|broken| broken.store(true, SeqCst));
    assert_eq!(counts(&proxy, 20, None).await["failed"], 20);
    broken.iter().for_each(|broken| broken.store(false, SeqCst));
    assert_eq!(counts(&proxy, 20, None).await.get("failed"), None, "all are out, so all are used");
    proxy.drain().await;

    let (endpoints, broken) = apps(&[
        ", locality: { region: eu, zone: a }",
        ", locality: { region: eu, zone: b }",
        ", locality: { region: us, zone: a }",
    ])
    .await;
    let upstreams = format!("{{ name: app, prefer_local: true, {endpoints}, {detection} }}");
    let proxy = start("{ upstream: app }", &upstreams, "locality: { region: eu, zone: a }\n");
    for (next, failing) in ["0", "1", "2"].into_iter().zip([Some(0), Some(1), None]) {
        assert_eq!(counts(&proxy, 20, None).await, BTreeMap::from([(next.to_owned(), 20)]));
        if let Some(failing) = failing {
            broken[failing].store(true, SeqCst);
            assert_eq!(counts(&proxy, 2, None).await["failed"], 2);
        }
    }
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_bound_are_shed() {
    let hold = Arc::new(tokio::sync::Semaphore::new(0));
    let (entered, mut entries) = tokio::sync::mpsc::channel(8);
    let held = hold.clone();
    let answer = async move || {
        entered.send(()).await.unwrap();
        held.acquire().await.unwrap().forget();
        "ok"
    };
    let address = serve(Router::new().fallback(answer)).await;
    let upstreams = format!("{{ name: app, endpoints: ['{address}'], max_requests: 2 }}");
    let proxy = start("{ upstream: app }", &upstreams, "");
    let mut under_way = Vec::new();
    for _ in 0..2 {
        under_way.push(tokio::spawn(client().get(url(&proxy, "/")).send()));
        entries.recv().await.unwrap();
    }
    let shed = client().get(url(&proxy, "/")).send().await.unwrap();
    assert_eq!((shed.status().as_u16(), shed.headers()["x-weir-reason"].to_str().unwrap()), (503, "upstream_overflow"));
    hold.add_permits(2);
    for request in under_way {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(proxy.drain().await.shed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_one_waits_for_another() {
    let hold = Arc::new(tokio::sync::Semaphore::new(0));
    let (entered, mut entries) = tokio::sync::mpsc::channel(8);
    let held = hold.clone();
    let answer = async move || {
        entered.send(()).await.unwrap();
        held.acquire().await.unwrap().forget();
        "ok"
    };
    let address = serve(Router::new().fallback(answer)).await;
    let upstreams = format!("{{ name: app, endpoints: ['{address}'], max_connections: 1, max_pending_requests: 1 }}");
    let proxy = start("{ upstream: app }", &upstreams, "");
    let send = || tokio::spawn(client().get(url(&proxy, "/")).send());
    let first = send();
    entries.recv().await.unwrap();
    let others = [send(), send()];
    until("one of two is shed", async || proxy.counters().shed == 1).await;
    assert!(entries.try_recv().is_err(), "the other one waits");
    hold.add_permits(2);
    let mut statuses = vec![first.await.unwrap().unwrap().status().as_u16()];
    for other in others {
        statuses.push(other.await.unwrap().unwrap().status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503]);
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_as_many_requests_as_it_may() {
    let answer = async |ConnectInfo(from): ConnectInfo<SocketAddr>| from.to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(answer).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    for (more, expected) in [("", 1), (", max_requests_per_connection: 3", 4), (", max_connections: 5", 1)] {
        let upstreams = format!("{{ name: app, endpoints: ['{address}']{more} }}");
        let text = support::yaml("{ upstream: app }", &upstreams, "").replace("threads: 2", "threads: 1");
        let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
        let connections = counts(&proxy, 12, None).await;
        assert_eq!(connections.len(), expected, "{more}: {connections:?}");
        proxy.drain().await;
    }
}

/// An endpoint that hangs was never blamed, because its clients gave up before the proxy did.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_is_left_out_although_its_clients_give_up_first() {
    let (well, _) = app(1).await;
    let hangs = serve(Router::new().fallback(async || std::future::pending::<()>().await)).await;
    let upstreams = format!(
        "{{ name: app, endpoints: ['{hangs}', '{well}'], balance: round_robin, outlier_detection: {{ consecutive_gateway_errors: 2 }} }}"
    );
    let proxy = start("{ upstream: app }", &upstreams, "");
    let impatient =
        reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_millis(1_300)).build().unwrap();
    let asked = (0..8).map(|_| async { impatient.get(url(&proxy, "/")).send().await.is_ok() });
    let answered = futures::future::join_all(asked).await.into_iter().filter(|answered| *answered).count();
    assert_eq!(answered, 4, "every second one hangs");
    until("it is left out", async || {
        let asked = (0..4).map(|_| async { impatient.get(url(&proxy, "/")).send().await.is_ok() });
        futures::future::join_all(asked).await.into_iter().all(|answered| answered)
    })
    .await;
    proxy.drain().await;
}
