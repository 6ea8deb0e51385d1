//! Discovery in whole flows: endpoints come and go, and no request is lost.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{
    Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, SRV},
    },
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{admin, client, serve, start, until, url};
use tokio::{net::UdpSocket, sync::watch};
use weir_proxy::Proxy;

/// An application that says its name, at once or, at `/slow`, when it is told to.
async fn app(name: &'static str, go: watch::Receiver<bool>) -> SocketAddr {
    let slow = async move |State(mut go): State<watch::Receiver<bool>>| {
        go.wait_for(|go| *go).await.unwrap();
        name
    };
    let app = Router::new().route("/", get(async move || name)).route("/slow", get(slow));
    serve(app.with_state(go)).await
}

/// The addresses that the registry page shows.
async fn registry(proxy: &Proxy) -> BTreeSet<String> {
    let rows: Value = serde_json::from_str(&admin(proxy, "/endpoints").await).unwrap();
    let endpoints = rows[0]["endpoints"].as_array().unwrap();
    endpoints.iter().map(|endpoint| endpoint["address"].as_str().unwrap().to_owned()).collect()
}

async fn until_registry_is(proxy: &Proxy, expected: &[SocketAddr]) {
    let expected: BTreeSet<String> = expected.iter().map(SocketAddr::to_string).collect();
    until("the registry", async || registry(proxy).await == expected).await;
}

/// What a catalogue was asked: the service, the query and the token.
type Asked = Arc<Mutex<Vec<(String, BTreeMap<String, String>, Option<String>)>>>;

/// A catalogue: what it answers, at which index; `None` fails.
#[derive(Clone)]
struct Catalogue {
    answers: watch::Sender<(u64, Option<Vec<SocketAddr>>)>,
    asked: Asked,
}

impl Catalogue {
    async fn serve() -> (Self, SocketAddr) {
        let catalogue = Self { answers: watch::channel((1, Some(Vec::new()))).0, asked: Arc::default() };
        let app = Router::new().route("/v1/health/service/{name}", get(answer)).with_state(catalogue.clone());
        (catalogue, serve(app).await)
    }

    fn set(&self, index: u64, addresses: &[SocketAddr]) {
        self.answers.send_replace((index, Some(addresses.to_vec())));
    }
}

/// As Consul: holds a question whose index is that of the newest answer.
async fn answer(
    State(catalogue): State<Catalogue>,
    Path(name): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let asked_index: u64 = query["index"].parse().unwrap();
    let token = headers.get("x-consul-token").map(|token| token.to_str().unwrap().to_owned());
    catalogue.asked.lock().push((name, query, token));
    let mut answers = catalogue.answers.subscribe();
    let (index, addresses) = answers.wait_for(|(index, _)| *index != asked_index).await.unwrap().clone();
    let Some(addresses) = addresses else { return (StatusCode::INTERNAL_SERVER_ERROR, "no leader").into_response() };
    let entry = |address: &SocketAddr| {
        json!({
            "Node": { "Node": "n", "Address": address.ip().to_string() },
            "Service": { "ID": "s", "Service": "app", "Address": "", "Port": address.port(), "Meta": { "version": "v1" } },
            "Checks": [],
        })
    };
    let entries: Vec<Value> = addresses.iter().map(entry).collect();
    ([("x-consul-index", index.to_string())], axum::Json(entries)).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_s_instances_come_and_go() {
    let (_go, going) = watch::channel(true);
    let (a, b) = (app("a", going.clone()).await, app("b", going).await);
    let (catalogue, agent) = Catalogue::serve().await;
    catalogue.set(5, &[a]);
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&token, "secret\n").unwrap();
    let upstreams = format!(
        "{{ name: app, discover: {{ consul: {{ service: app, address: 'http://{agent}', tag: blue, token_file: {:?} }} }} }}",
        token.path()
    );
    let proxy = start("{ upstream: app }", &upstreams, "");
    until_registry_is(&proxy, &[a]).await;
    assert_eq!(client().get(url(&proxy, "/")).send().await.unwrap().text().await.unwrap(), "a");
    catalogue.set(6, &[a, b]);
    until_registry_is(&proxy, &[a, b]).await;

    // what fails changes nothing, and an answer that nothing is there is believed
    catalogue.answers.send_replace((7, None));
    until("a failure", async || {
        catalogue.asked.lock().iter().filter(|(_, query, _)| query["index"] == "0").count() > 1
    })
    .await;
    assert_eq!(registry(&proxy).await.len(), 2);
    assert!(admin(&proxy, "/endpoints").await.contains("failing_ms"));
    catalogue.set(8, &[]);
    until_registry_is(&proxy, &[]).await;
    assert!(!admin(&proxy, "/endpoints").await.contains("failing_ms"));
    let refused = client().get(url(&proxy, "/")).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["x-weir-reason"].to_str().unwrap()), (503, "no_endpoint"));
    until("an index after the empty answer", async || catalogue.asked.lock().last().unwrap().1["index"] == "8").await;

    // an index that goes backwards begins anew
    catalogue.set(3, &[b]);
    until_registry_is(&proxy, &[b]).await;
    until("index 3", async || catalogue.asked.lock().last().unwrap().1["index"] == "3").await;
    let asked = catalogue.asked.lock().clone();
    let indexes: Vec<&str> = asked.iter().rev().take(3).map(|(_, query, _)| query["index"].as_str()).collect();
    assert_eq!(indexes, ["3", "0", "8"]);
    let (name, query, token) = asked.last().unwrap();
    assert_eq!((name.as_str(), query["passing"].as_str(), query["tag"].as_str()), ("app", "1", "blue"));
    assert_eq!((query["wait"].as_str(), token.as_deref()), ("60000ms", Some("secret")));
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_goes_loses_no_request() {
    let (go, going) = watch::channel(false);
    let (a, b) = (app("a", going.clone()).await, app("b", going).await);
    let (catalogue, agent) = Catalogue::serve().await;
    catalogue.set(1, &[a]);
    let upstreams = format!("{{ name: app, discover: {{ consul: {{ service: app, address: 'http://{agent}' }} }} }}");
    let proxy = start("{ upstream: app }", &upstreams, "");
    until_registry_is(&proxy, &[a]).await;
    let slow = tokio::spawn(client().get(url(&proxy, "/slow")).send());
    let stop = Arc::new(AtomicBool::new(false));
    let load = (0..8).map(|_| {
        let (client, url, stop) = (client(), url(&proxy, "/"), stop.clone());
        tokio::spawn(async move {
            let (mut answers, mut failed) = (BTreeMap::<String, u32>::new(), 0);
            while !stop.load(SeqCst) {
                match client.get(&url).send().await {
                    Ok(answer) if answer.status() == 200 => {
                        *answers.entry(answer.text().await.unwrap()).or_default() += 1;
                    }
                    _ => failed += 1,
                }
            }
            (answers, failed)
        })
    });
    let load: Vec<_> = load.collect();
    for turn in 0..20_u64 {
        let there = if turn % 2 == 0 { b } else { a };
        catalogue.set(2 + turn, &[there]);
        until_registry_is(&proxy, &[there]).await;
    }
    catalogue.set(99, &[b]);
    until_registry_is(&proxy, &[b]).await;
    stop.store(true, SeqCst);
    for task in load {
        let (answers, failed) = task.await.unwrap();
        assert_eq!(failed, 0, "{answers:?}");
        assert_eq!(answers.into_keys().collect::<Vec<_>>(), ["a", "b"]);
    }
    go.send_replace(true);
    assert_eq!(slow.await.unwrap().unwrap().text().await.unwrap(), "a", "it finishes where it began");
    assert_eq!(client().get(url(&proxy, "/")).send().await.unwrap().text().await.unwrap(), "b");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_followed_and_a_broken_one_changes_nothing() {
    let (_go, going) = watch::channel(true);
    let (a, b) = (app("a", going.clone()).await, app("b", going).await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.yaml");
    let write = |text: String| {
        let aside = path.with_extension("new");
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(&aside, &path).unwrap();
    };
    let upstreams = format!(
        "{{ name: app, discover: {{ file: {path:?} }} }},
         {{ name: v2, subset_of: {{ upstream: app, labels: {{ version: v2 }} }} }}"
    );
    let proxy =
        start("{ match: { path_prefix: /v2 }, upstream: v2, rewrite: { path: / } }, { upstream: app }", &upstreams, "");
    let answer = client().get(url(&proxy, "/")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["x-weir-reason"].to_str().unwrap()), (503, "no_endpoint"));
    write(format!("- '{a}'\n- {{ address: '{b}', labels: {{ version: v2 }} }}\n"));
    until_registry_is(&proxy, &[a, b]).await;
    assert_eq!(client().get(url(&proxy, "/v2")).send().await.unwrap().text().await.unwrap(), "b");
    write("- nowhere\n".to_owned());
    write(format!("- '{a}'\n- oops"));
    write(format!("- '{b}'\n"));
    until_registry_is(&proxy, &[b]).await;
    std::fs::remove_file(&path).unwrap();
    until("a file that is gone", async || admin(&proxy, "/endpoints").await.contains("failing_ms")).await;
    assert_eq!(registry(&proxy).await.len(), 1, "it says nothing of endpoints");
    write("[]".to_owned());
    until_registry_is(&proxy, &[]).await;
    proxy.drain().await;
}

/// By name and type.
type Records = BTreeMap<(String, RecordType), Vec<RData>>;

/// What a name server answers, and how often it was asked.
#[derive(Clone, Default)]
struct Zone {
    records: Arc<Mutex<Records>>,
    /// What kind of record it fails to tell of.
    broken: Arc<Mutex<Option<RecordType>>>,
    asked: Arc<AtomicUsize>,
}

/// Answers from `zone`, with a time to live of 1 s; a name that is not there is said not to be.
async fn name_server(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let query = question.queries[0].clone();
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_query(query.clone());
            zone.asked.fetch_add(1, SeqCst);
            let name = query.name().to_utf8().to_lowercase();
            let there = zone.records.lock().keys().any(|(known, _)| *known == name);
            answer.metadata.response_code = match there {
                _ if *zone.broken.lock() == Some(query.query_type()) => ResponseCode::ServFail,
                true => ResponseCode::NoError,
                false => ResponseCode::NXDomain,
            };
            let key = (query.name().to_utf8().to_lowercase(), query.query_type());
            for data in zone.records.lock().get(&key).into_iter().flatten() {
                answer.add_answer(Record::from_rdata(query.name().clone(), 1, data.clone()));
            }
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_asked_again_when_their_time_ends() {
    let zone = Zone::default();
    let server = name_server(zone.clone()).await;
    let a = |last| RData::A(A::new(127, 0, 0, last));
    let set = |name: &str, kind, data: Vec<RData>| {
        zone.records.lock().insert((name.to_owned(), kind), data);
    };
    set("app.example.", RecordType::A, vec![a(1), a(2)]);
    let upstreams =
        format!("{{ name: app, discover: {{ dns: {{ name: app.example., port: 8080, server: '{server}' }} }} }}");
    let proxy = start("{ upstream: app }", &upstreams, "");
    let at = |last: u8, port| SocketAddr::from(([127, 0, 0, last], port));
    until_registry_is(&proxy, &[at(1, 8080), at(2, 8080)]).await;
    set("app.example.", RecordType::A, vec![a(3)]);
    until_registry_is(&proxy, &[at(3, 8080)]).await;
    // no answer about IPv4 is none, although there is nothing of IPv6
    *zone.broken.lock() = Some(RecordType::A);
    until("a failure", async || admin(&proxy, "/endpoints").await.contains("failing_ms")).await;
    assert_eq!(registry(&proxy).await.len(), 1, "the last addresses are kept");
    *zone.broken.lock() = None;
    for gone in [None, Some(("app.example.", RecordType::TXT))] {
        zone.records.lock().clear();
        if let Some((name, kind)) = gone {
            set(name, kind, Vec::new());
        }
        until_registry_is(&proxy, &[]).await;
        set("app.example.", RecordType::A, vec![a(3)]);
        until_registry_is(&proxy, &[at(3, 8080)]).await;
    }
    proxy.drain().await;

    let target = |name: &str| Name::from_utf8(name).unwrap();
    let srv = |priority, weight, name: &str| RData::SRV(SRV::new(priority, weight, 9000, target(name)));
    set("_http._tcp.app.example.", RecordType::SRV, vec![srv(0, 5, "one.example."), srv(1, 0, "two.example.")]);
    set("one.example.", RecordType::A, vec![a(1)]);
    set("two.example.", RecordType::A, vec![a(2)]);
    let upstreams =
        format!("{{ name: app, discover: {{ dns_srv: {{ name: _http._tcp.app.example., server: '{server}' }} }} }}");
    let proxy = start("{ upstream: app }", &upstreams, "");
    until_registry_is(&proxy, &[at(1, 9000), at(2, 9000)]).await;
    let rows: Value = serde_json::from_str(&admin(&proxy, "/endpoints").await).unwrap();
    assert_eq!(rows[0]["source"], "dns_srv");
    let row = |n: usize| (rows[0]["endpoints"][n]["weight"].as_u64(), rows[0]["endpoints"][n]["priority"].as_u64());
    assert_eq!((row(0), row(1)), ((Some(5), Some(0)), (Some(1), Some(1))));
    zone.records.lock().remove(&("one.example.".to_owned(), RecordType::A));
    until_registry_is(&proxy, &[at(2, 9000)]).await;
    proxy.drain().await;
}
