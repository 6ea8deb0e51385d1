//! A stop and a start of the server: what people ordered holds, and answers say what they still lack.

use std::{
    num::NonZeroU32,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use tokio_postgres::{AsyncMessage, Client, NoTls};
use weir::server::Server;
use weir_analyzer::Command;
use weir_policy::{Policy, RateLimit};

use crate::support::{client, request, send, server, server_with, span};

/// What an answer says while the log is being replayed.
const SAID: &str = "the log is being replayed after the start";

const COUNT: &str = "SELECT count(*) AS n FROM spans";

#[tokio::test(flavor = "multi_thread")]
async fn orders_outlive_a_restart_and_show_before_the_first_window() {
    let dir = tempfile::tempdir().unwrap();
    let first = server(dir.path()).await;
    first.store.replayed().await; // a stop before that leaves all to the next start
    let policy = Policy {
        service: "cart".into(),
        rate_limit: RateLimit::new(7.0, NonZeroU32::MIN),
        reason: "by hand".into(),
        ..Policy::default()
    };
    let by_hand = Command::Override { policy, author: "ana".into(), expires_unix_nano: None };
    first.commands.send(by_hand).await.unwrap();
    first.commands.send(Command::SetControl { enabled: true }).await.unwrap();
    first.stop().await.unwrap();

    let second = server(dir.path()).await;
    let mut snapshot = second.snapshot.clone();
    let restored = snapshot.wait_for(|snapshot| snapshot.control.enabled);
    let restored = tokio::time::timeout(Duration::from_secs(60), restored).await.unwrap().unwrap().clone();
    assert_eq!(restored.control.overrides.len(), 1);
    assert!(restored.policy.sequence > 0 && restored.policy.for_service("cart").is_some(), "{:?}", restored.policy);
    let web = format!("http://{}", second.addresses.web);
    let lift = serde_json::json!({ "kill_switch": { "engaged": true, "author": "ana" } });
    let answer = client().post(format!("{web}/api/v1/policy")).json(&lift).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let lifted = snapshot.wait_for(|snapshot| snapshot.control.kill_switch);
    tokio::time::timeout(Duration::from_secs(60), lifted).await.unwrap().unwrap();
    second.stop().await.unwrap();

    let third = server(dir.path()).await;
    let mut snapshot = third.snapshot.clone();
    let restored = snapshot.wait_for(|snapshot| snapshot.control.kill_switch);
    let restored = tokio::time::timeout(Duration::from_secs(60), restored).await.unwrap().unwrap().clone();
    assert!(restored.policy.policies.is_empty() && restored.control.overrides.len() == 1);
    third.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_an_open_minute_has_its_rates_when_it_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let first = server(dir.path()).await;
    first.store.replayed().await;
    let spans = (1..=50).map(|n| span(u128::from(n), n, 0, "GET", 1_700_000_000_000_000_000 + n, 1_000)).collect();
    assert!(send(&client(), &format!("http://{}", first.addresses.otlp_http), &request("cart", spans)).await);
    let backup = first.store.backup("first").await.unwrap();
    first.stop().await.unwrap();
    for again in [false, true] {
        let served = server(&backup).await;
        served.store.replayed().await;
        if again {
            let web = format!("http://{}", served.addresses.web);
            assert_eq!(crate::support::sql(&web, "SELECT sum(count) FROM operations").await, ["50"]);
        }
        served.stop().await.unwrap(); // which closes every minute
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_so_until_the_log_is_replayed() {
    let (dir, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let in_the_log = |config: &mut weir::config::Config| {
        config.store.flush_age_ms = 3_600_000;
        config.store.flush_rows = usize::MAX;
    };
    let first = server_with(dir.path(), in_the_log).await;
    let (requests, spans) = (30, 500);
    for n in 0..requests {
        let of_request = (n * spans..(n + 1) * spans).map(long_span).collect();
        assert!(send(&client(), &format!("http://{}", first.addresses.otlp_http), &request("cart", of_request)).await);
    }
    // what a kill at this moment would leave
    copy_folder(dir.path(), killed.path());
    first.stop().await.unwrap();

    // so little memory that the past goes to files piece by piece
    let second = server_with(killed.path(), |config| config.store.memory_limit_bytes = 16 << 20).await;
    let (warned, _) = by_http(&second).await;
    assert!(warned, "the first answer comes before 30 MB are replayed");
    let (pg, notices) = connect(&second).await;
    pg.query_one(COUNT, &[]).await.unwrap();
    let noticed = notices.lock().unwrap().iter().any(|notice| notice.contains(SAID));
    check(&second, "PostgreSQL", noticed);
    let address = |path: &str| format!("http://{}{path}", second.addresses.web);
    let services = client().get(address("/api/v1/services")).send().await.unwrap();
    let header = services.headers().get("weir-warning").and_then(|value| value.to_str().ok()).unwrap_or_default();
    check(&second, "the API", header.contains(SAID));
    let page = client().get(address("/traces")).send().await.unwrap().text().await.unwrap();
    check(&second, "a page", page.contains(SAID));
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_weir"));
    let printed = command.args(["sql", "--url", &address(""), COUNT]).output().await.unwrap();
    check(&second, "weir sql", String::from_utf8_lossy(&printed.stderr).contains(SAID));

    loop {
        let (warned, count) = by_http(&second).await;
        assert!(warned || count == requests * spans, "{count} rows and no word");
        if !warned {
            break;
        }
    }
    notices.lock().unwrap().clear();
    pg.query_one(COUNT, &[]).await.unwrap();
    assert!(notices.lock().unwrap().is_empty(), "{notices:?}");
    second.stop().await.unwrap();
}

/// An answer that was given while the log was replayed has to say so.
fn check(weir: &Server, which: &str, said: bool) {
    let replaying = weir.store.recovering().is_some();
    println!("{which}: said {said}, still replaying {replaying}");
    assert!(said || !replaying, "{which} says nothing");
}

/// Whether the answer is warned of, and the count.
async fn by_http(weir: &Server) -> (bool, u64) {
    let post = client().post(format!("http://{}/api/v1/sql", weir.addresses.web));
    let answer = post.body(COUNT).send().await.unwrap().json::<serde_json::Value>().await.unwrap();
    let warnings = answer["warnings"].as_array().unwrap();
    (warnings.iter().any(|w| w.as_str().unwrap().contains(SAID)), answer["rows"][0]["n"].as_u64().unwrap())
}

/// A client, and the notices that come to it.
async fn connect(weir: &Server) -> (Client, Arc<Mutex<Vec<String>>>) {
    let (host, port) = (weir.addresses.pg.ip(), weir.addresses.pg.port());
    let options = format!("host={host} port={port} user=reader dbname=weir");
    let (client, mut connection) = tokio_postgres::connect(&options, NoTls).await.unwrap();
    let notices = Arc::new(Mutex::new(Vec::new()));
    let seen = notices.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = futures::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message {
                seen.lock().unwrap().push(notice.message().to_owned());
            }
        }
    });
    (client, notices)
}

/// A span of two kilobytes.
fn long_span(n: u64) -> opentelemetry_proto::tonic::trace::v1::Span {
    let note = AnyValue { value: Some(Value::StringValue(format!("{n:0>2000}"))) };
    let mut long = span(u128::from(n) + 1, n + 1, 0, "GET", 1_700_000_000_000_000_000 + n, 500);
    long.attributes = vec![KeyValue { key: "note".into(), value: Some(note), ..KeyValue::default() }];
    long
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}
