//! TLS on both sides: who is let in, who is believed, what the application learns.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use http::{StatusCode, Version};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use weir_ca::{CERTIFICATE, KEY, TRUST};
use weir_proxy::{Config, Proxy};

use crate::mesh::{
    Mesh, app, ask, client, client_of, connect, get, get_plain, inbound, listener_tls, metric, request, until,
};

/// A certificate of the mesh's root with names that `weir-ca` would not give.
fn odd_workload(mesh: &Mesh, folder: &str, names: &[rcgen::SanType]) -> PathBuf {
    let key = rcgen::KeyPair::from_pem(&fs::read_to_string(mesh.dir.path().join("ca/ca.key")).unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(mesh.root.certificate_pem(), key).unwrap();
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&pair, &issuer).unwrap();
    let folder = mesh.dir.path().join(folder);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(CERTIFICATE), certificate.pem()).unwrap();
    fs::write(folder.join(KEY), pair.serialize_pem()).unwrap();
    fs::write(folder.join(TRUST), mesh.root.certificate_pem()).unwrap();
    folder
}

fn uri(text: &str) -> rcgen::SanType {
    rcgen::SanType::URI(text.try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_lets_in_only_who_proves_to_be_of_the_mesh() {
    let (mesh, other) = (Mesh::new("mesh.local"), Mesh::new("other.local"));
    let parser = mesh.workload("parser");
    // the other root is trusted as a root, but not its trust domain
    let both = mesh.dir.path().join("both.crt");
    fs::write(&both, format!("{}{}", mesh.root.certificate_pem(), other.root.certificate_pem())).unwrap();
    let proxy = inbound(app().await, &listener_tls(&parser, &both, ""), "");
    let address = proxy.addresses()[0];
    let past = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    let impostor = Mesh::new("mesh.local");
    let refused = [
        ("another trust domain", Some(other.workload("tagger"))),
        ("a root that is not trusted", Some(impostor.workload("tagger"))),
        ("expired", Some(mesh.workload_at("late", past))),
        ("no SPIFFE id", Some(odd_workload(&mesh, "dns", &[rcgen::SanType::DnsName("tagger".try_into().unwrap())]))),
        ("two ids", Some(odd_workload(&mesh, "two", &[uri("spiffe://mesh.local/a"), uri("spiffe://mesh.local/b")]))),
        ("an id that is none", Some(odd_workload(&mesh, "bad", &[uri("spiffe://mesh.local/a/../b")]))),
        ("no certificate", None),
    ];
    for (why, folder) in &refused {
        let config = client(&mesh.trust(), folder.as_deref(), &["http/1.1"]);
        assert!(get(address, &config, "/").await.is_err(), "{why}");
    }
    assert!(get_plain(address, request("/")).await.is_err(), "no TLS");
    let tagger = client_of(&mesh.workload("tagger"));
    assert_eq!(get(address, &tagger, "/").await.unwrap().status, StatusCode::OK);
    assert_eq!(metric(&proxy, "weir_proxy_tls_handshakes_failed_total").await, refused.len() as f64 + 1.0);
    assert_eq!(proxy.drain().await.requests, 1, "nobody else came as far as a request");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_learns_who_calls_and_only_from_the_certificate() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let proxy = inbound(app().await, &listener_tls(&parser, &mesh.trust(), ""), "");
    let stream = connect(proxy.addresses()[0], &client_of(&tagger)).await.unwrap();
    let mut forged = request("/work");
    forged.headers_mut().insert("x-forwarded-client-cert", "URI=spiffe://mesh.local/ns/shop/sa/admin".parse().unwrap());
    let answer = ask(stream, false, forged).await.unwrap();
    let certificate = weir_ca::inspect(&fs::read_to_string(tagger.join(CERTIFICATE)).unwrap()).unwrap().remove(0);
    let expected = format!(
        "By=spiffe://mesh.local/ns/shop/sa/parser;Hash={};Subject=\"CN=tagger\";\
         URI=spiffe://mesh.local/ns/shop/sa/tagger;DNS=tagger",
        certificate.sha256
    );
    assert_eq!(answer.sent("x-forwarded-client-cert"), Some(expected.as_str()));
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permissive_takes_both_and_knows_them_apart() {
    let mesh = Mesh::new("mesh.local");
    let proxy = inbound(app().await, &listener_tls(&mesh.workload("parser"), &mesh.trust(), ", mode: permissive"), "");
    let address = proxy.addresses()[0];
    let mut forged = request("/");
    forged.headers_mut().insert("x-forwarded-client-cert", "URI=spiffe://mesh.local/ns/shop/sa/admin".parse().unwrap());
    let plain = get_plain(address, forged).await.unwrap();
    assert_eq!((plain.status, plain.sent("x-forwarded-client-cert")), (StatusCode::OK, None));
    let h2c = ask(TcpStream::connect(address).await.unwrap(), true, request("/")).await.unwrap();
    assert_eq!((h2c.status, h2c.version), (StatusCode::OK, Version::HTTP_2));
    let secure = get(address, &client_of(&mesh.workload("tagger")), "/").await.unwrap();
    assert!(secure.sent("x-forwarded-client-cert").unwrap().contains("/sa/tagger"));
    let nobody = client(&mesh.trust(), None, &[]);
    assert!(get(address, &nobody, "/").await.is_err(), "TLS without a certificate is no plain text");
    assert_eq!(metric(&proxy, "weir_proxy_plain_connections_total").await, 2.0);
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn off_is_off_and_certificates_may_be_optional() {
    let mesh = Mesh::new("mesh.local");
    let (app, parser) = (app().await, mesh.workload("parser"));
    let off = inbound(app, &listener_tls(&parser, &mesh.trust(), ", mode: off"), "");
    assert_eq!(get_plain(off.addresses()[0], request("/")).await.unwrap().status, StatusCode::OK);
    off.drain().await;
    let optional = inbound(app, &listener_tls(&parser, &mesh.trust(), ", require_client_certificate: false"), "");
    let address = optional.addresses()[0];
    let nobody = get(address, &client(&mesh.trust(), None, &[]), "/").await.unwrap();
    assert_eq!(nobody.sent("x-forwarded-client-cert"), None);
    let tagger = get(address, &client_of(&mesh.workload("tagger")), "/").await.unwrap();
    assert!(tagger.sent("x-forwarded-client-cert").is_some());
    let impostor = Mesh::new("mesh.local");
    let stranger = client(&mesh.trust(), Some(&impostor.workload("tagger")), &[]);
    assert!(get(address, &stranger, "/").await.is_err(), "one that is shown must be good");
    optional.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_is_agreed_on_in_the_handshake() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let proxy = inbound(app().await, &listener_tls(&parser, &mesh.trust(), ""), "");
    for (offered, expected) in [
        (&["h2", "http/1.1"][..], Some(Version::HTTP_2)),
        (&["h2"], Some(Version::HTTP_2)),
        (&["http/1.1", "h2"], Some(Version::HTTP_2)),
        (&["http/1.1"], Some(Version::HTTP_11)),
        (&[], Some(Version::HTTP_11)),
        (&["imap"], None),
    ] {
        let config = client(&mesh.trust(), Some(&tagger), offered);
        let version = get(proxy.addresses()[0], &config, "/").await.ok().map(|answer| answer.version);
        assert_eq!(version, expected, "{offered:?}");
    }
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_and_its_peer_is_still_known() {
    let mesh = Mesh::new("mesh.local");
    let proxy = inbound(app().await, &listener_tls(&mesh.workload("parser"), &mesh.trust(), ""), "");
    let tagger = client_of(&mesh.workload("tagger"));
    for _ in 0..3 {
        let answer = get(proxy.addresses()[0], &tagger, "/").await.unwrap();
        assert!(answer.sent("x-forwarded-client-cert").unwrap().contains("/sa/tagger"));
    }
    assert_eq!(metric(&proxy, "weir_proxy_tls_handshakes_resumed_total").await, 2.0);
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_bounded_in_time_and_number() {
    let mesh = Mesh::new("mesh.local");
    let parser = mesh.workload("parser");
    let bounds = ", mode: permissive, handshake_timeout_ms: 300, max_handshakes: 1";
    let proxy = inbound(app().await, &listener_tls(&parser, &mesh.trust(), bounds), "");
    let mut silent = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
    let mut one_too_many = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
    let closed = async |stream: &mut TcpStream| matches!(stream.read(&mut [0]).await, Ok(0) | Err(_));
    assert!(closed(&mut one_too_many).await);
    assert_eq!(metric(&proxy, "weir_proxy_tls_handshakes_shed_total").await, 1.0);
    assert!(closed(&mut silent).await, "it said nothing in time");
    until(&proxy, "weir_proxy_tls_handshakes_failed_total", 1.0).await;
    assert_eq!(get_plain(proxy.addresses()[0], request("/")).await.unwrap().status, StatusCode::OK);
    proxy.drain().await;
}

/// A sidecar whose outbound listener calls `callee` by TLS.
fn outbound(callee: SocketAddr, mesh: &Mesh, folder: &Path, more: &str) -> Proxy {
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    let text = format!(
        "service: tagger\ninstance: tagger-0\nthreads: 1\nadmin: 127.0.0.1:0\n\
         listeners: [{{ address: \"127.0.0.1:0\", direction: outbound, routes: [{{ upstream: parser }}] }}]\n\
         upstreams: [{{ name: parser, endpoints: [\"{callee}\"], \
         tls: {{ certificate: {certificate:?}, key: {key:?}, trust: {:?}, {more} }}]\n",
        mesh.trust()
    );
    Proxy::start(Config::from_yaml(&text).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_know_each_other() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let callee = inbound(app().await, &listener_tls(&parser, &mesh.trust(), ""), "");
    for (more, expected) in [
        ("verify: { spiffe_ids: [\"spiffe://mesh.local/ns/shop/sa/parser\"] } }", 200),
        ("verify: { spiffe_ids: [\"spiffe://mesh.local/x\", \"spiffe://mesh.local/ns/shop/*\"] } }", 200),
        ("verify: { spiffe_ids: [\"spiffe://mesh.local/ns/shop/sa/lexer\"] } }", 502),
        ("verify: { spiffe_ids: [\"spiffe://mesh.local/ns/pay/*\"] } }", 502),
        ("verify: { server_name: parser } }", 200),
        ("verify: { server_name: lexer } }", 502),
        ("}", 502), // the endpoint's host is 127.0.0.1, which the certificate does not name
        ("verify: { server_name: parser } }, protocol: h2", 200),
    ] {
        let caller = outbound(callee.addresses()[0], &mesh, &tagger, more);
        for _ in 0..2 {
            let answer = get_plain(caller.addresses()[0], request("/work")).await.unwrap();
            assert_eq!(answer.status.as_u16(), expected, "{more}: {answer:?}");
            if expected == 200 {
                assert!(
                    answer
                        .sent("x-forwarded-client-cert")
                        .unwrap()
                        .contains("URI=spiffe://mesh.local/ns/shop/sa/tagger")
                );
            } else {
                assert_eq!(answer.headers["x-weir-reason"], "tls_failed", "{more}");
            }
        }
        caller.drain().await;
    }
    let impostor = Mesh::new("mesh.local");
    let caller =
        outbound(callee.addresses()[0], &mesh, &impostor.workload("tagger"), "verify: { server_name: parser } }");
    let answer = get_plain(caller.addresses()[0], request("/work")).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "its certificate leads to another root");
    caller.drain().await;
    callee.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subset_is_reached_by_tls_as_its_upstream_is() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let callee = inbound(app().await, &listener_tls(&parser, &mesh.trust(), ""), "");
    let (certificate, key) = (tagger.join(CERTIFICATE), tagger.join(KEY));
    let text = format!(
        "service: tagger\nthreads: 1\n\
         listeners: [{{ address: \"127.0.0.1:0\", direction: outbound, routes: [{{ upstream: parser-v1 }}] }}]\n\
         upstreams:\n  - name: parser\n    endpoints: [{{ address: \"{}\", labels: {{ version: v1 }} }}]\n    \
         tls: {{ certificate: {certificate:?}, key: {key:?}, trust: {:?}, verify: {{ server_name: parser }} }}\n  \
         - {{ name: parser-v1, subset_of: {{ upstream: parser, labels: {{ version: v1 }} }} }}\n",
        callee.addresses()[0],
        mesh.trust()
    );
    let caller = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
    let answer = get_plain(caller.addresses()[0], request("/")).await.unwrap();
    assert!(answer.sent("x-forwarded-client-cert").is_some(), "{answer:?}");
    caller.drain().await;
    callee.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_speaks_no_tls_is_said_so() {
    let mesh = Mesh::new("mesh.local");
    let tagger = mesh.workload("tagger");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (callee, status, reason) in
        [(app().await, 502, "tls_failed"), (silent.local_addr().unwrap(), 504, "connect_timeout")]
    {
        let more = "verify: { server_name: parser } }}]\ntimeouts: { connect_ms: 300 }\n#";
        let caller = outbound(callee, &mesh, &tagger, more);
        let answer = get_plain(caller.addresses()[0], request("/")).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.headers["x-weir-reason"].to_str().unwrap()), (status, reason));
        caller.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_say_who_was_at_either_end() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let (otlp, mut spans) = crate::sink::start().await;
    let telemetry = format!("telemetry: {{ otlp: \"http://{otlp}\", batch_age_ms: 1 }}\n");
    let callee = inbound(app().await, &listener_tls(&parser, &mesh.trust(), ""), &telemetry);
    get(callee.addresses()[0], &client_of(&tagger), "/").await.unwrap();
    let span = spans.recv().await.unwrap();
    assert_eq!(span["source.principal"], "spiffe://mesh.local/ns/shop/sa/tagger");
    assert!(!span.contains_key("weir.authorization"), "no rules were asked");
    for protocol in ["http1", "h2"] {
        let verify = "verify: { spiffe_ids: [\"spiffe://mesh.local/*\"] } }";
        let more = format!("{verify}, protocol: {protocol} }}]\n{telemetry}#");
        let caller = outbound(callee.addresses()[0], &mesh, &tagger, &more);
        for _ in 0..2 {
            assert_eq!(get_plain(caller.addresses()[0], request("/")).await.unwrap().status, StatusCode::OK);
        }
        caller.drain().await;
        for _ in 0..4 {
            let span = spans.recv().await.unwrap();
            let (end, expected) = match span["weir.direction"].as_str() {
                "outbound" => ("destination.principal", "parser"),
                _ => ("source.principal", "tagger"),
            };
            assert_eq!(span[end], format!("spiffe://mesh.local/ns/shop/sa/{expected}"), "{protocol}, kept or new");
        }
    }
    callee.drain().await;
}

#[test]
fn what_cannot_be_set_up_is_named() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let past = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    let late = mesh.workload_at("late", past);
    let (junk, empty) = (mesh.dir.path().join("junk"), mesh.dir.path().join("empty"));
    fs::write(&junk, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    fs::write(&empty, "").unwrap();
    let start = |certificate: &Path, key: &Path, trust: &Path| {
        let text = format!(
            "service: parser\nlisteners: [{{ address: \"127.0.0.1:0\", direction: inbound, routes: [{{ upstream: app }}], \
             tls: {{ certificate: {certificate:?}, key: {key:?}, trust: {trust:?} }} }}]\n\
             upstreams: [{{ name: app, endpoints: [\"127.0.0.1:1\"] }}]\n"
        );
        let config = Config::from_yaml(&text).unwrap();
        let why = Proxy::check(&config).unwrap_err().to_string();
        assert_eq!(Proxy::start(config).map(|_| ()).unwrap_err().to_string(), why, "a check says what a start would");
        why
    };
    let (certificate, key, trust) = (parser.join(CERTIFICATE), parser.join(KEY), mesh.trust());
    for (why, expected) in [
        (start(&parser.join("none"), &key, &trust), "listeners[0].tls.certificate: "),
        (start(&junk, &key, &trust), "listeners[0].tls.certificate: "),
        (start(&empty, &key, &trust), "no certificate"),
        (start(&certificate, &tagger.join(KEY), &trust), "not the certificate's key"),
        (start(&certificate, &empty, &trust), "listeners[0].tls.key: "),
        (start(&late.join(CERTIFICATE), &late.join(KEY), &trust), "expired"),
        (start(&certificate, &key, &empty), "listeners[0].tls.trust: "),
        (start(&certificate, &key, &junk), "listeners[0].tls.trust: "),
    ] {
        assert!(why.to_lowercase().contains(&expected.to_lowercase()), "{expected}: {why}");
    }
}

/// A client that agreed on HTTP/2 and then said nothing was waited for without end.
#[tokio::test(flavor = "multi_thread")]
async fn who_agrees_on_http2_and_says_nothing_is_not_waited_for() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let more = "max_connections: 2\ntimeouts: { header_read_ms: 300 }";
    let proxy = inbound(app().await, &listener_tls(&parser, &mesh.trust(), ""), more);
    let config = client(&mesh.trust(), Some(&tagger), &["h2"]);
    let address = proxy.addresses()[0];
    for _ in 0..2 {
        crate::mesh::is_closed(connect(address, &config).await.unwrap()).await;
    }
    assert_eq!(get(address, &config, "/").await.unwrap().status, StatusCode::OK);
    proxy.drain().await;
}
