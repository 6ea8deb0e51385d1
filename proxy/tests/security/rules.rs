//! Rules in whole flows: what the client gets, what the application never sees, what is recorded.

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use weir_proxy::{Config, Proxy};

use crate::mesh::{Mesh, app, ask, client, client_of, connect, get, get_plain, inbound, listener_tls, metric, request};

const RULES: &str = "\n    authorization:\n      rules:\n        \
    - { name: no-admin, action: deny, match: { paths: [\"/admin*\"] }, not: { principals: [mesh.local/ns/shop/sa/root] } }\n        \
    - { name: taggers, action: allow, match: { principals: [\"*/sa/tagger\"], methods: [GET] } }\n        \
    - { name: root, action: allow, match: { principals: [mesh.local/ns/shop/sa/root] } }";

#[tokio::test(flavor = "multi_thread")]
async fn identity_method_and_path_decide() {
    let mesh = Mesh::new("mesh.local");
    let (parser, trust) = (mesh.workload("parser"), mesh.trust());
    let (otlp, mut spans) = crate::sink::start().await;
    let telemetry = format!("telemetry: {{ otlp: \"http://{otlp}\", batch_age_ms: 1 }}\n");
    let proxy = inbound(app().await, &(listener_tls(&parser, &trust, "") + RULES), &telemetry);
    let address = proxy.addresses()[0];
    let [tagger, lexer, root] = ["tagger", "lexer", "root"].map(|name| client_of(&mesh.workload(name)));
    for (client, path, status, rule) in [
        (&tagger, "/work", 200, Some("taggers")),
        (&lexer, "/work", 403, None),
        (&root, "/work", 200, Some("root")),
        (&tagger, "/admin", 403, Some("no-admin")),
        (&tagger, "/%61dmin", 403, Some("no-admin")),
        (&tagger, "//admin", 403, Some("no-admin")),
        (&tagger, "/x/../admin", 403, Some("no-admin")),
        (&tagger, "/x/..%2fadmin", 403, Some("no-admin")),
        (&tagger, "/x/..;/admin", 403, Some("no-admin")),
        (&root, "/admin", 200, Some("root")),
    ] {
        let answer = get(address, client, path).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{path}: {answer:?}");
        if status == 403 {
            assert_eq!(answer.headers["x-weir-reason"], "denied");
        } else {
            assert_eq!(answer.sent("path"), Some(path), "what passes is passed on as it came");
        }
        let span = spans.recv().await.unwrap();
        assert_eq!(span["weir.authorization"], if status == 200 { "allowed" } else { "denied" }, "{path}");
        assert_eq!(span.get("weir.authorization_rule").map(String::as_str), rule, "{path}");
        assert_eq!(span["weir.policy_action"], if status == 200 { "admitted" } else { "denied" });
        assert_eq!(span["http.response.status_code"], status.to_string());
    }
    assert_eq!(metric(&proxy, "weir_proxy_authorization_allowed_total").await, 3.0);
    assert_eq!(metric(&proxy, "weir_proxy_authorization_denied_total").await, 7.0);
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_told_in_its_own_words() {
    let mesh = Mesh::new("mesh.local");
    let proxy = inbound(app().await, &(listener_tls(&mesh.workload("parser"), &mesh.trust(), "") + RULES), "");
    let stream = connect(proxy.addresses()[0], &client_of(&mesh.workload("lexer"))).await.unwrap();
    let mut call = request("/pkg.Service/Method");
    call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let answer = ask(stream, false, call).await.unwrap();
    assert_eq!((answer.status, &answer.headers["grpc-status"]), (StatusCode::OK, &"7".parse().unwrap()));
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_permissive_listener_nobody_has_no_identity() {
    let mesh = Mesh::new("mesh.local");
    let tls = listener_tls(&mesh.workload("parser"), &mesh.trust(), ", mode: permissive");
    let rules = "\n    authorization: { rules: [{ name: known, action: deny, match: { paths: [\"/private/*\"] }, \
        not: { principals: [\"*\"] } }] }";
    let proxy = inbound(app().await, &(tls + rules), "");
    let address = proxy.addresses()[0];
    let plain = async |path: &str| get_plain(address, request(path)).await.unwrap().status;
    assert_eq!((plain("/public").await, plain("/private/x").await), (StatusCode::OK, StatusCode::FORBIDDEN));
    let tagger = client_of(&mesh.workload("tagger"));
    assert_eq!(get(address, &tagger, "/private/x").await.unwrap().status, StatusCode::OK);
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_route_answers_itself_is_behind_the_rules_too() {
    let text = "service: parser\nthreads: 1\nlisteners:\n  - address: 127.0.0.1:0\n    direction: inbound\n    routes:\n      \
        - { name: secret, match: { path_prefix: /secret }, respond: { status: 200, body: told } }\n      \
        - { name: moved, match: { path_prefix: /moved }, redirect: { path: /secret } }\n    \
        authorization: { rules: [{ name: none, action: deny, match: { paths: [/secret, /moved] } }] }\nupstreams: []\n";
    let proxy = Proxy::start(Config::from_yaml(text).unwrap()).unwrap();
    for (path, status) in [("/secret", 403), ("//secret", 403), ("/secret/x", 200), ("/moved", 403), ("/moved/x", 301)]
    {
        let answer = get_plain(proxy.addresses()[0], request(path)).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{path}: {answer:?}");
    }
    proxy.drain().await;
}

/// An application that greets whoever connects, and says each time that somebody did.
async fn greeter() -> (std::net::SocketAddr, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, (said, connected)) = (listener.local_addr().unwrap(), mpsc::unbounded_channel());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            said.send(()).unwrap();
            stream.write_all(b"hello").await.unwrap();
        }
    });
    (address, connected)
}

/// A listener of plain TCP could once ask who connects, and not say who may.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_connect_reaches_no_upstream() {
    let mesh = Mesh::new("mesh.local");
    let (parser, folder) = (mesh.workload("parser"), tempfile::tempdir().unwrap());
    // who agrees on a protocol by ALPN speaks it
    let [tagger, lexer] = ["tagger", "lexer"].map(|name| client(&mesh.trust(), Some(&mesh.workload(name)), &[]));
    for (protocol, mode) in [("tcp", "strict"), ("tcp", "permissive"), ("detect", "strict")] {
        let (app, mut connected) = greeter().await;
        let log = folder.path().join(format!("{protocol}-{mode}.log"));
        let tls = listener_tls(&parser, &mesh.trust(), &format!(", mode: {mode}"));
        let routes = if protocol == "detect" { "routes: [{ upstream: app }]," } else { "" };
        let text = format!(
            "service: parser\nthreads: 1\nadmin: 127.0.0.1:0\ntimeouts: {{ detect_ms: 10 }}\n\
             listeners: [{{ address: '127.0.0.1:0', direction: inbound, protocol: {protocol}, upstream: app, {routes} {tls}, \
             authorization: {{ rules: [{{ name: taggers, action: allow, match: {{ principals: ['*/sa/tagger'] }} }}] }} }}]\n\
             upstreams: [{{ name: app, endpoints: ['{app}'] }}]\ntelemetry: {{ access_log_file: {log:?} }}"
        );
        let proxy = Proxy::start(Config::from_yaml(&text).unwrap_or_else(|why| panic!("{why}"))).unwrap();
        let address = proxy.addresses()[0];
        let read = async |config| {
            let mut greeting = String::new();
            let stream = connect(address, config).await;
            // TLS that is closed without a word is an error of its own
            let _ = stream.unwrap().read_to_string(&mut greeting).await;
            greeting
        };
        assert_eq!(read(&lexer).await, "", "{protocol} {mode}");
        if mode == "permissive" {
            let mut nobody = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut greeting = String::new();
            let _ = nobody.write_all(b"who am I").await;
            let _ = nobody.read_to_string(&mut greeting).await;
            assert_eq!(greeting, "", "nobody has no identity");
        }
        assert!(connected.try_recv().is_err(), "no upstream was connected to");
        assert_eq!(read(&tagger).await, "hello", "{protocol} {mode}");
        assert_eq!(connected.recv().await, Some(()));
        let denied = if mode == "permissive" { 2.0 } else { 1.0 };
        assert_eq!(metric(&proxy, "weir_proxy_authorization_allowed_total").await, 1.0);
        assert_eq!(metric(&proxy, "weir_proxy_authorization_denied_total").await, denied);
        assert_eq!(proxy.drain().await.tunnels, 1);
        let log = std::fs::read_to_string(log).unwrap();
        assert_eq!(log.matches("\"weir.policy_action\":\"denied\"").count() as f64, denied, "{log}");
        assert!(log.contains("mesh.local/ns/shop/sa/lexer"), "it says who: {log}");
    }
}

#[test]
fn rules_on_what_plain_tcp_does_not_have_are_named() {
    for (condition, expected) in [
        ("methods: [GET]", "rules[0].match.methods: plain TCP has none"),
        ("paths: [/x]", "rules[0].match.paths: plain TCP has none"),
        ("hosts: [x]", "rules[0].match.hosts: plain TCP has none"),
        ("principals: ['*']", "can never match: the listener's tls identifies no client"),
    ] {
        let text = format!(
            "service: parser\nlisteners: [{{ address: '127.0.0.1:0', direction: inbound, protocol: tcp, upstream: app, \
             authorization: {{ rules: [{{ name: r, action: allow, match: {{ {condition} }} }}] }} }}]\n\
             upstreams: [{{ name: app, endpoints: ['a:1'] }}]"
        );
        let why = Config::from_yaml(&text).unwrap_err().to_string();
        assert!(why.contains(expected), "{condition}: {why}");
    }
}
