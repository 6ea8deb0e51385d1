//! What a reload changes beside the traffic: which requests leave spans and logs, where logs go, and who may ask at the
//! admin address; by count, and without a restart.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod support;

use std::{fs, path::Path};

use axum::{Router, routing::get};
use futures::{StreamExt, stream::BoxStream};
use support::{client, serve, start, until, url, yaml};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use weir_policy::wire::proto::{
    self,
    policy_service_server::{PolicyService, PolicyServiceServer},
};
use weir_proxy::{Config, Proxy};

const ROUTE: &str = "{ upstream: app }";

async fn upstream() -> String {
    let app = serve(Router::new().fallback(get(async || "ok"))).await;
    format!("{{ name: app, endpoints: ['{app}'] }}")
}

fn config(upstream: &str, more: &str) -> Config {
    Config::from_yaml(&yaml(ROUTE, upstream, more)).unwrap()
}

async fn ask(proxy: &Proxy, times: usize) {
    let client = client();
    for _ in 0..times {
        assert_eq!(client.get(url(proxy, "/work")).send().await.unwrap().status(), 200);
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A change of any of these was once refused, and needed a restart.
#[tokio::test(flavor = "multi_thread")]
async fn access_logs_begin_move_change_form_and_end() {
    let (upstream, folder) = (upstream().await, tempfile::tempdir().unwrap());
    let (one, two) = (folder.path().join("one.log"), folder.path().join("two.log"));
    let logging = |path: &Path, format: &str| {
        format!("telemetry: {{ access_log: all, access_log_file: {path:?}, access_log_format: {format} }}")
    };
    let proxy = start(ROUTE, &upstream, "");
    ask(&proxy, 3).await;
    for (more, requests, written) in [
        (logging(&one, "json"), 5, 5),
        (logging(&one, "text"), 7, 12),
        (logging(&two, "text"), 11, 23),
        ("telemetry: { access_log: all }".into(), 13, 23),
        (logging(&two, "text").replace("all", "'off'"), 17, 23),
    ] {
        proxy.reload(config(&upstream, &more)).await.unwrap();
        ask(&proxy, requests).await;
        until("written", async || proxy.counters().log_lines_written == written).await;
    }
    let counters = proxy.drain().await;
    assert_eq!((counters.log_lines_written, counters.log_lines_dropped), (23, 0));
    let (one, two) = (lines(&one), lines(&two));
    let json = one.iter().filter(|line| line.starts_with('{')).count();
    assert_eq!((json, one.len() - json, two.len()), (5, 7, 11));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_opened_is_refused_whole() {
    let (upstream, folder) = (upstream().await, tempfile::tempdir().unwrap());
    let log = folder.path().join("access.log");
    let logging = |path: &Path| format!("telemetry: {{ access_log: all, access_log_file: {path:?} }}");
    let proxy = start(ROUTE, &upstream, &logging(&log));
    let nowhere = folder.path().join("missing/access.log");
    let refused = proxy.reload(config(&upstream, &logging(&nowhere))).await.unwrap_err().to_string();
    assert!(refused.starts_with("telemetry.access_log_file "), "{refused}");
    ask(&proxy, 3).await;
    assert_eq!(proxy.drain().await.log_lines_written, 3);
    assert_eq!(lines(&log).len(), 3, "the one before goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_traces_that_are_recorded_changes() {
    let upstream = upstream().await;
    let recording =
        |ratio: f64| format!("telemetry: {{ otlp: 'http://127.0.0.1:1', span_ratio: {ratio}, flush_ms: 1 }}");
    let proxy = start(ROUTE, &upstream, &recording(0.0));
    for (ratio, recorded) in [(0.0, 0), (1.0, 20), (0.0, 20)] {
        proxy.reload(config(&upstream, &recording(ratio))).await.unwrap();
        ask(&proxy, 20).await;
        until("recorded", async || proxy.counters().spans_recorded == recorded).await;
    }
    let counters = proxy.drain().await;
    assert_eq!((counters.requests, counters.spans_recorded), (60, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_ask_at_the_admin_address_changes() {
    let (upstream, folder) = (upstream().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("token");
    let in_file = format!("admin_token_file: {file:?}");
    fs::write(&file, "in file\n").unwrap();
    let proxy = start(ROUTE, &upstream, "");
    let asked = async |token: &str| {
        let address = proxy.admin_address().unwrap();
        client().get(format!("http://{address}/metrics")).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    for (more, expected) in [
        ("admin_token: one", [200, 401, 401]),
        ("admin_token: two", [401, 200, 401]),
        (&in_file, [401, 401, 200]),
        ("", [200, 200, 200]),
    ] {
        proxy.reload(config(&upstream, more)).await.unwrap();
        assert_eq!([asked("one").await, asked("two").await, asked("in file").await], expected, "{more}");
    }
    proxy.reload(config(&upstream, &in_file)).await.unwrap();
    fs::write(&file, "another").unwrap();
    proxy.reload(config(&upstream, &in_file)).await.unwrap();
    assert_eq!((asked("in file").await, asked("another").await), (401, 200), "a reload reads the file again");
    fs::write(&file, "").unwrap();
    assert!(proxy.reload(config(&upstream, &in_file)).await.is_err(), "anybody would know it");
    assert_eq!((asked("").await, asked("another").await), (401, 200));
    proxy.drain().await;
}

/// A control plane that says this rate for the service `app` to whoever asks, and passes on what it is told of it.
struct Rate {
    sequence: u64,
    rate_per_s: f64,
    told: mpsc::UnboundedSender<proto::ProxyStatus>,
}

#[tonic::async_trait]
impl PolicyService for Rate {
    type SubscribeStream = BoxStream<'static, Result<proto::PolicySet, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<proto::ProxyStatus>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (mut statuses, told) = (request.into_inner(), self.told.clone());
        tokio::spawn(async move {
            while let Ok(Some(status)) = statuses.message().await {
                let _ = told.send(status);
            }
        });
        let rate_limit = Some(proto::RateLimit { rate_per_s: self.rate_per_s, burst: 9 });
        let policy = proto::Policy { service: "app".into(), rate_limit, ..Default::default() };
        // the newer set was issued later
        let issued_unix_nano = self.sequence;
        let set = proto::PolicySet {
            sequence: self.sequence,
            issued_unix_nano,
            policies: vec![policy],
            ..Default::default()
        };
        Ok(Response::new(futures::stream::once(async { Ok(set) }).chain(futures::stream::pending()).boxed()))
    }
}

async fn control_plane(sequence: u64, rate_per_s: f64) -> (String, mpsc::UnboundedReceiver<proto::ProxyStatus>) {
    let (told, statuses) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(PolicyServiceServer::new(Rate { sequence, rate_per_s, told }));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (format!("http://{address}"), statuses)
}

/// To follow another control plane, or none, a restart was needed once.
#[tokio::test(flavor = "multi_thread")]
async fn another_control_plane_is_followed_and_none_leaves_the_static_limits() {
    let (upstream, folder) = (upstream().await, tempfile::tempdir().unwrap());
    let ((one, mut told), (two, _)) = (control_plane(3, 30.0).await, control_plane(5, 50.0).await);
    let limits = "limits: { rate_limit: { rate_per_s: 7, burst: 9 } }";
    let following = |from: &str, more: &str| format!("{limits}\npolicy: {{ from: '{from}'{more} }}");
    let yaml = |more: &str| yaml(ROUTE, &upstream, more).replace("service: shop", "service: app");
    let config = |more: &str| Config::from_yaml(&yaml(more)).unwrap();
    let proxy = Proxy::start(config(limits)).unwrap();
    let rate = || proxy.policy().for_service("app").and_then(|policy| policy.rate_limit).map(|rate| rate.rate_per_s());
    assert_eq!(rate(), Some(7.0));
    let state_dir = format!(", state_dir: {:?}", folder.path());
    for (more, sequence, expected, refused) in [
        (following(&one, ""), 3, 30.0, ""),
        (following(&two, &state_dir), 5, 50.0, ""),
        // its numbers are its own: 3 is not older than the 5 of another
        (following(&one, &state_dir), 3, 30.0, ""),
        (limits.to_owned(), 3, 7.0, ""),
        (following(&one, ", min_rate_per_s: 40"), 3, 7.0, "policy.min_rate_per_s is 40"),
        (following(&one, ""), 3, 30.0, ""),
    ] {
        proxy.reload(config(&more)).await.unwrap();
        while !refused.is_empty() && !told.recv().await.unwrap().refused.contains(refused) {}
        until(&more, async || (proxy.policy().sequence, rate()) == (sequence, Some(expected))).await;
        ask(&proxy, 1).await;
    }
    proxy.drain().await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "one file for the sets of both");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named() {
    let upstream = upstream().await;
    let proxy = start(ROUTE, &upstream, "");
    let before = yaml(ROUTE, &upstream, "");
    for (old, new, key) in [
        ("service: shop", "service: other", "service"),
        ("service: shop", "service: shop\ninstance: other", "instance"),
        ("threads: 2", "threads: 1", "threads"),
        ("admin: 127.0.0.1:0", "admin: 127.0.0.2:0", "admin"),
    ] {
        let changed = Config::from_yaml(&before.replace(old, new)).unwrap();
        let refused = proxy.reload(changed).await.unwrap_err().to_string();
        assert_eq!(refused, format!("{key} cannot change while the proxy runs: restart it"));
        ask(&proxy, 1).await;
    }
    proxy.drain().await;
}
