//! Rules in whole flows: what the client gets, what the application never sees, what is recorded.

use http::StatusCode;

use crate::mesh::{Mesh, app, ask, client_of, connect, get, get_plain, inbound, listener_tls, metric, request};

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
    let proxy = weir_proxy::Proxy::start(weir_proxy::Config::from_yaml(text).unwrap()).unwrap();
    for (path, status) in [("/secret", 403), ("//secret", 403), ("/secret/x", 200), ("/moved", 403), ("/moved/x", 301)]
    {
        let answer = get_plain(proxy.addresses()[0], request(path)).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{path}: {answer:?}");
    }
    proxy.drain().await;
}
