//! Tokens in whole flows: which are believed, what the application learns of them, how keys stay fresh.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use weir_ca::{CERTIFICATE, KEY};
use weir_proxy::Proxy;

use crate::mesh::{Answer, Mesh, app, get_plain, inbound, inbound_config, metric, request};

const ISSUER: &str = "https://idp.example";

/// One key of the issuer.
struct Signer {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    pair: KeyPair,
}

impl Signer {
    fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::ES256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Algorithm::ES384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            _ => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
        };
        let pair = pair.unwrap();
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        Self { id, algorithm, key: key.unwrap(), pair }
    }

    /// As it stands in a key set: for one algorithm, or for all of its kind.
    fn jwk(&self, one: bool) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = self.id.into();
        jwk["use"] = "sig".into();
        if !one {
            jwk.as_object_mut().unwrap().remove("alg");
        }
        jwk
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(self.algorithm, Some(self.id), claims)
    }

    fn sign_as(&self, algorithm: Algorithm, id: Option<&str>, claims: &Value) -> String {
        encode(&Header { kid: id.map(str::to_owned), ..Header::new(algorithm) }, claims, &self.key).unwrap()
    }
}

fn good() -> Value {
    let now = get_current_timestamp();
    json!({"iss": ISSUER, "aud": "api", "sub": "ann", "exp": now + 600, "nbf": now - 10, "groups": ["dev"], "age": 7})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    match value {
        Value::Null => claims.as_object_mut().unwrap().remove(name),
        value => claims.as_object_mut().unwrap().insert(name.to_owned(), value),
    };
    claims
}

/// A token put together by hand, for what no library would sign.
fn by_hand(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

/// HMAC with the text of a public key: what a checker that lets the token choose the algorithm would take.
fn hmac_of_public_key(signer: &Signer, claims: &Value) -> String {
    let key = EncodingKey::from_secret(signer.pair.public_key_pem().as_bytes());
    encode(&Header { kid: Some(signer.id.into()), ..Header::new(Algorithm::HS256) }, claims, &key).unwrap()
}

fn tampered(token: &str, claims: &Value) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    format!("{}.{}.{}", parts[0], BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
}

fn jwt(jwks: &str, more: &str) -> String {
    format!("jwt: {{ issuers: [{{ issuer: \"{ISSUER}\", audiences: [api, web], jwks: {jwks}{more} }}] }}")
}

fn file(path: &Path) -> String {
    format!("{{ file: {path:?} }}")
}

async fn bearer(proxy: &Proxy, token: &str) -> Answer {
    let mut request = request("/work");
    if !token.is_empty() {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    get_plain(proxy.addresses()[0], request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_is_believed_or_refused_for_its_reason() {
    let (rsa, only_rs256, other) = (
        Signer::new("rsa", Algorithm::RS256),
        Signer::new("only", Algorithm::RS256),
        Signer::new("rsa", Algorithm::RS256),
    );
    let (ec256, ec384) = (Signer::new("ec256", Algorithm::ES256), Signer::new("ec384", Algorithm::ES384));
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("jwks.json");
    let symmetric = json!({"kty": "oct", "kid": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode("secret")});
    let encryption = {
        let mut jwk = other.jwk(false);
        (jwk["kid"], jwk["use"]) = ("enc".into(), "enc".into());
        jwk
    };
    let unknown_kind = json!({"kty": "XYZ", "kid": "xyz"});
    let keys =
        [rsa.jwk(false), only_rs256.jwk(true), ec256.jwk(false), ec384.jwk(true), symmetric, encryption, unknown_kind];
    fs::write(&set, json!({ "keys": keys }).to_string()).unwrap();
    let proxy = inbound(app().await, &jwt(&file(&set), ""), "");

    let now = get_current_timestamp();
    let secret = EncodingKey::from_secret(b"secret");
    let oct = Header { kid: Some("oct".into()), ..Header::new(Algorithm::HS256) };
    let enc = Header { kid: Some("enc".into()), ..Header::new(Algorithm::RS256) };
    let none = json!({"alg": "none", "kid": "rsa", "typ": "JWT"});
    let es512 = json!({"alg": "ES512", "kid": "ec384", "typ": "JWT"});
    let crit = json!({"alg": "RS256", "kid": "rsa", "crit": ["exp"]});
    let rs = |claims: &Value| rsa.sign(claims);
    let cases: Vec<(&str, String, &str)> = vec![
        ("RS256", rs(&good()), ""),
        ("RS384", rsa.sign_as(Algorithm::RS384, Some("rsa"), &good()), ""),
        ("RS512", rsa.sign_as(Algorithm::RS512, Some("rsa"), &good()), ""),
        ("PS256", rsa.sign_as(Algorithm::PS256, Some("rsa"), &good()), ""),
        ("PS384", rsa.sign_as(Algorithm::PS384, Some("rsa"), &good()), ""),
        ("PS512", rsa.sign_as(Algorithm::PS512, Some("rsa"), &good()), ""),
        ("ES256", ec256.sign(&good()), ""),
        ("ES384", ec384.sign(&good()), ""),
        ("no key id, RSA", rsa.sign_as(Algorithm::RS256, None, &good()), ""),
        ("no key id, EC", ec384.sign_as(Algorithm::ES384, None, &good()), ""),
        ("one of two audiences", rs(&with("aud", json!(["other", "web"]))), ""),
        ("expired within the leeway", rs(&with("exp", json!(now - 30))), ""),
        ("valid soon, within the leeway", rs(&with("nbf", json!(now + 30))), ""),
        ("without nbf", rs(&with("nbf", Value::Null)), ""),
        ("no token", String::new(), "none"),
        ("not a token", "abc".into(), "not a signed token"),
        ("two parts", "a.b".into(), "not a signed token"),
        ("junk in three parts", "a.b.c".into(), "not a signed token"),
        ("alg none, no signature", by_hand(&none, &good(), ""), "algorithm is not one that is checked"),
        (
            "alg none, a signature",
            by_hand(&none, &good(), rs(&good()).rsplit('.').next().unwrap()),
            "algorithm is not one that is checked",
        ),
        ("ES512", by_hand(&es512, &good(), "AAAA"), "algorithm is not one that is checked"),
        ("HMAC of the public key", hmac_of_public_key(&rsa, &good()), "not for this algorithm"),
        ("HMAC with a key of the set", encode(&oct, &good(), &secret).unwrap(), "key is not known"),
        ("a key for encryption", encode(&enc, &good(), &other.key).unwrap(), "key is not known"),
        ("EC key, RSA key id", ec256.sign_as(Algorithm::ES256, Some("rsa"), &good()), "not for this algorithm"),
        ("RSA key, EC key id", rsa.sign_as(Algorithm::RS256, Some("ec256"), &good()), "not for this algorithm"),
        (
            "RS512 with a key for RS256",
            only_rs256.sign_as(Algorithm::RS512, Some("only"), &good()),
            "not for this algorithm",
        ),
        (
            "PS256 with a key for RS256",
            only_rs256.sign_as(Algorithm::PS256, Some("only"), &good()),
            "not for this algorithm",
        ),
        ("another's key under this id", other.sign(&good()), "signature"),
        ("an unknown key id", rsa.sign_as(Algorithm::RS256, Some("gone"), &good()), "key is not known"),
        ("claims changed", tampered(&rs(&good()), &with("sub", json!("root"))), "signature"),
        ("signature cut", rs(&good()).trim_end_matches(|c| c != '.').to_owned(), "signature"),
        ("an extension that must be understood", by_hand(&crit, &good(), "AAAA"), "not a signed token"),
        ("expired", rs(&with("exp", json!(now - 90))), "expired"),
        ("not valid yet", rs(&with("nbf", json!(now + 90))), "not valid yet"),
        ("without exp", rs(&with("exp", Value::Null)), "claim"),
        ("exp a text", rs(&with("exp", json!("tomorrow"))), "claim"),
        ("another issuer", rs(&with("iss", json!("https://evil.example"))), "issuer"),
        ("without issuer", rs(&with("iss", Value::Null)), "claim"),
        ("another audience", rs(&with("aud", json!("other"))), "audience"),
        ("without audience", rs(&with("aud", Value::Null)), "claim"),
    ];
    assert!(cases.len() >= 25);
    let mut refused = 0.0;
    for (what, token, expected) in &cases {
        let answer = bearer(&proxy, token).await;
        if expected.is_empty() {
            assert_eq!((answer.status, answer.sent("authorization")), (StatusCode::OK, None), "{what}: {answer:?}");
            continue;
        }
        refused += 1.0;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(answer.headers["x-weir-reason"], "unauthenticated");
        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer realm=\"parser\""), "{challenge}");
        if *expected == "none" {
            assert!(!challenge.contains("error"), "{challenge}");
        } else {
            assert!(
                challenge.contains("error=\"invalid_token\"") && challenge.contains(expected),
                "{what}: {challenge}"
            );
        }
    }
    assert_eq!(metric(&proxy, "weir_proxy_unauthenticated_total").await, refused);
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_learns_what_the_token_says_and_not_what_a_client_says() {
    let (rsa, dir) = (Signer::new("rsa", Algorithm::RS256), tempfile::tempdir().unwrap());
    let set = dir.path().join("jwks.json");
    fs::write(&set, json!({"keys": [rsa.jwk(false)]}).to_string()).unwrap();
    let more = ", from: [{ header: x-token }, { query: token }, { cookie: session }], claims_to_headers: \
        [{ claim: sub, header: x-user }, { claim: groups, header: x-groups }, { claim: age, header: x-age }, \
        { claim: none, header: x-none }]";
    let listener = jwt(&file(&set), more);
    let optional = listener.replace("jwt: {", "jwt: { required: false,");
    let token = rsa.sign(&good());
    let proxy = inbound(app().await, &optional, "");
    let forged = |path: &str| {
        let mut request = request(path);
        for name in ["x-user", "x-groups", "x-none"] {
            request.headers_mut().insert(name, "root".parse().unwrap());
        }
        request
    };
    let ask = async |request: Request<Full<Bytes>>| get_plain(proxy.addresses()[0], request).await.unwrap();

    let nobody = ask(forged("/")).await;
    assert_eq!((nobody.status, nobody.sent("x-user"), nobody.sent("x-groups")), (StatusCode::OK, None, None));
    let mut request = forged("/");
    request.headers_mut().insert("x-token", token.parse().unwrap());
    let by_header = ask(request).await;
    assert_eq!(by_header.sent("x-token"), None, "it was for the proxy");
    let by_query = ask(forged(&format!("/work?a=1&token={token}"))).await;
    assert_eq!(by_query.sent("path"), Some("/work?a=1"));
    let mut request = forged("/");
    request.headers_mut().insert("cookie", format!("a=b; session={token}").parse().unwrap());
    let by_cookie = ask(request).await;
    assert!(by_cookie.sent("cookie").is_some());
    // of two tokens the first was checked and the other passed on
    let other = rsa.sign(&with("sub", json!("mallory")));
    for (second, expected) in [(&token, StatusCode::OK), (&other, StatusCode::UNAUTHORIZED)] {
        let mut request = forged(&format!("/work?token={second}"));
        request.headers_mut().insert("x-token", token.parse().unwrap());
        let answer = ask(request).await;
        assert_eq!((answer.status, answer.sent("x-token")), (expected, None));
        assert!(!answer.body.contains("token="), "it is taken out wherever it stood: {answer:?}");
    }
    // what `Connection` names went after the proxy had set it
    let mut request = forged("/");
    request.headers_mut().insert("x-token", token.parse().unwrap());
    request.headers_mut().insert("x_user", "root".parse().unwrap());
    request.headers_mut().insert("connection", "keep-alive, x-user, x-age".parse().unwrap());
    let by_connection = ask(request).await;
    assert_eq!(by_connection.sent("x_user"), None, "many servers read it as x-user");
    for answer in [by_header, by_query, by_cookie, by_connection] {
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!((answer.sent("x-user"), answer.sent("x-age")), (Some("ann"), Some("7")));
        assert_eq!((answer.sent("x-groups"), answer.sent("x-none")), (Some("[\"dev\"]"), None));
    }
    let mut twice = forged("/");
    for _ in 0..2 {
        twice.headers_mut().append("x-token", token.parse().unwrap());
    }
    assert_eq!(ask(twice).await.status, StatusCode::UNAUTHORIZED, "which of the two would the application read?");
    proxy.drain().await;

    let forward = inbound(app().await, &jwt(&file(&set), ", forward: true"), "");
    assert!(bearer(&forward, &token).await.sent("authorization").unwrap().ends_with(&token));
    forward.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_see_claims() {
    let (rsa, dir) = (Signer::new("rsa", Algorithm::RS256), tempfile::tempdir().unwrap());
    let set = dir.path().join("jwks.json");
    fs::write(&set, json!({"keys": [rsa.jwk(false)]}).to_string()).unwrap();
    let rules = "\n    authorization: { rules: [{ name: devs, action: allow, \
        match: { claims: { groups: [dev] }, request_principals: [\"https://idp.example/*\"] } }] }";
    let proxy = inbound(app().await, &(jwt(&file(&set), "") + rules), "");
    assert_eq!(bearer(&proxy, &rsa.sign(&good())).await.status, StatusCode::OK);
    assert_eq!(bearer(&proxy, &rsa.sign(&with("groups", json!(["ops"])))).await.status, StatusCode::FORBIDDEN);
    assert_eq!(bearer(&proxy, &rsa.sign(&with("sub", Value::Null))).await.status, StatusCode::FORBIDDEN);
    proxy.drain().await;
}

/// An issuer's address: what it answers now, and how often it was asked.
struct Idp {
    address: SocketAddr,
    answer: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicUsize>,
}

impl Idp {
    async fn start(tls: Option<&Path>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new((StatusCode::SERVICE_UNAVAILABLE, String::new())));
        let asked = Arc::new(AtomicUsize::new(0));
        let acceptor = tls.map(acceptor);
        let (says, counts) = (answer.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (says, counts) = (says.clone(), counts.clone());
                let service = service_fn(move |_: Request<Incoming>| {
                    counts.fetch_add(1, Relaxed);
                    let (status, text) = says.lock().unwrap().clone();
                    let response = Response::builder().status(status).body(Full::new(Bytes::from(text))).unwrap();
                    async { Ok::<_, Infallible>(response) }
                });
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    match acceptor {
                        None => drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await),
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                });
            }
        });
        Self { address, answer, asked }
    }

    fn says(&self, keys: &[Value]) {
        *self.answer.lock().unwrap() = (StatusCode::OK, json!({ "keys": keys }).to_string());
    }
}

fn acceptor(folder: &Path) -> tokio_rustls::TlsAcceptor {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = CertificateDer::pem_file_iter(folder.join(CERTIFICATE)).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(folder.join(KEY)).unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap()).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_asked_for_once_and_made_up_ones_are_not() {
    let (first, second) = (Signer::new("first", Algorithm::ES256), Signer::new("second", Algorithm::ES256));
    let idp = Idp::start(None).await;
    idp.says(&[first.jwk(false)]);
    let proxy = inbound(app().await, &jwt(&format!("{{ url: \"http://{}/keys\" }}", idp.address), ""), "");
    crate::mesh::until(&proxy, "weir_proxy_jwks_loaded_total", 1.0).await;
    assert_eq!(bearer(&proxy, &first.sign(&good())).await.status, StatusCode::OK);
    let before = idp.asked.load(Relaxed);
    idp.says(&[second.jwk(false)]);
    assert_eq!(
        bearer(&proxy, &second.sign(&good())).await.status,
        StatusCode::OK,
        "the request waited for the new key"
    );
    assert_eq!(bearer(&proxy, &first.sign(&good())).await.status, StatusCode::UNAUTHORIZED, "the old one is gone");
    for _ in 0..50 {
        let made_up = second.sign_as(Algorithm::ES256, Some("made-up"), &good());
        assert_eq!(bearer(&proxy, &made_up).await.status, StatusCode::UNAUTHORIZED);
    }
    let after = idp.asked.load(Relaxed);
    assert!(after - before <= 3, "50 made-up key ids led to {} readings", after - before);
    proxy.drain().await;
}

/// As a mounted Secret is renewed: the file is behind a link to a folder, and the link is turned.
#[tokio::test(flavor = "multi_thread")]
async fn keys_in_a_file_that_is_turned_by_a_symlink_are_taken() {
    let (first, second) = (Signer::new("first", Algorithm::ES256), Signer::new("second", Algorithm::ES256));
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let turn = |version: &str, text: String| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("jwks.json"), text).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    let set = |signer: &Signer| json!({"keys": [signer.jwk(false)]}).to_string();
    turn("..1", set(&first));
    symlink("..data/jwks.json", at("jwks.json")).unwrap();
    let proxy = inbound(app().await, &jwt(&file(&at("jwks.json")), ""), "");
    let statuses = async || {
        let (by_first, by_second) = (first.sign(&good()), second.sign(&good()));
        (bearer(&proxy, &by_first).await.status.as_u16(), bearer(&proxy, &by_second).await.status.as_u16())
    };
    assert_eq!(statuses().await, (200, 401));
    turn("..2", set(&second));
    crate::mesh::until(&proxy, "weir_proxy_jwks_loaded_total", 1.0).await;
    assert_eq!(statuses().await, (401, 200));
    turn("..3", "{ \"keys\": [".to_owned());
    crate::mesh::until(&proxy, "weir_proxy_jwks_failed_total", 1.0).await;
    assert_eq!(statuses().await, (401, 200), "half a file leaves the last good keys");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_away_stops_nothing_that_was_known() {
    let (key, dir) = (Signer::new("k", Algorithm::ES256), tempfile::tempdir().unwrap());
    let idp = Idp::start(None).await;
    let proxy = inbound(app().await, &jwt(&format!("{{ url: \"http://{}/keys\" }}", idp.address), ""), "");
    assert_eq!(bearer(&proxy, &key.sign(&good())).await.status, StatusCode::UNAUTHORIZED, "nothing is known yet");
    idp.says(&[key.jwk(false)]);
    crate::mesh::until(&proxy, "weir_proxy_jwks_loaded_total", 1.0).await;
    assert_eq!(bearer(&proxy, &key.sign(&good())).await.status, StatusCode::OK, "tried again until it answered");
    proxy.drain().await;

    let set = dir.path().join("jwks.json");
    fs::write(&set, json!({"keys": [key.jwk(false)]}).to_string()).unwrap();
    let proxy = inbound(app().await, &jwt(&file(&set), ""), "");
    fs::write(&set, "{ \"keys\": [").unwrap();
    crate::mesh::until(&proxy, "weir_proxy_jwks_failed_total", 1.0).await;
    assert_eq!(bearer(&proxy, &key.sign(&good())).await.status, StatusCode::OK, "the last good keys stay");
    proxy.drain().await;
}

/// A reload forgot the keys, and without the issuer nobody was believed any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_forgets_no_key() {
    let (key, idp) = (Signer::new("k", Algorithm::ES256), Idp::start(None).await);
    idp.says(&[key.jwk(false)]);
    let listener = jwt(&format!("{{ url: \"http://{}/keys\" }}", idp.address), "");
    let app = app().await;
    let proxy = inbound(app, &listener, "");
    crate::mesh::until(&proxy, "weir_proxy_jwks_loaded_total", 1.0).await;
    *idp.answer.lock().unwrap() = (StatusCode::SERVICE_UNAVAILABLE, String::new());
    let asked = idp.asked.load(Relaxed);
    for _ in 0..3 {
        proxy.reload(inbound_config(app, &listener, "")).await.unwrap();
        assert_eq!(bearer(&proxy, &key.sign(&good())).await.status, StatusCode::OK);
    }
    crate::mesh::until(&proxy, "weir_proxy_jwks_failed_total", 1.0).await;
    assert!(idp.asked.load(Relaxed) > asked, "it is asked again all the same");
    assert_eq!(bearer(&proxy, &key.sign(&good())).await.status, StatusCode::OK);
    let narrower = listener.replace("[api, web]", "[web]");
    proxy.reload(inbound_config(app, &narrower, "")).await.unwrap();
    assert_eq!(bearer(&proxy, &key.sign(&good())).await.status, StatusCode::UNAUTHORIZED, "what is expected is new");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_nobody_speaks_of_a_certificate() {
    for (listener, passes) in [
        ("", false),
        ("tls: { mode: off }", false),
        ("tls: { mode: off, forward_client_cert: always_forward_only }", true),
    ] {
        let proxy = inbound(app().await, listener, "");
        let mut request = request("/");
        request.headers_mut().insert("x-forwarded-client-cert", "URI=spiffe://mesh.local/admin".parse().unwrap());
        let answer = get_plain(proxy.addresses()[0], request).await.unwrap();
        assert_eq!(answer.sent("x-forwarded-client-cert").is_some(), passes, "{listener}");
        proxy.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_by_https_from_whom_is_trusted() {
    let (mesh, key) = (Mesh::new("mesh.local"), Signer::new("k", Algorithm::ES256));
    let stranger = Mesh::new("mesh.local");
    let idp = Idp::start(Some(&mesh.workload("localhost"))).await;
    idp.says(&[key.jwk(false)]);
    let url = format!("https://localhost:{}/keys", idp.address.port());
    let start =
        async |trust: &Path| inbound(app().await, &jwt(&format!("{{ url: {url:?}, trust: {trust:?} }}"), ""), "");
    let proxy = start(&mesh.trust()).await;
    crate::mesh::until(&proxy, "weir_proxy_jwks_loaded_total", 1.0).await;
    assert_eq!(bearer(&proxy, &key.sign(&good())).await.status, StatusCode::OK);
    proxy.drain().await;
    let proxy = start(&stranger.trust()).await;
    crate::mesh::until(&proxy, "weir_proxy_jwks_failed_total", 1.0).await;
    assert_eq!(bearer(&proxy, &key.sign(&good())).await.status, StatusCode::UNAUTHORIZED);
    proxy.drain().await;
}
