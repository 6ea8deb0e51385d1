//! Certificates, keys and roots are replaced under load: nothing is lost, and what is not fit is not used.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use http::StatusCode;
use weir_ca::{CERTIFICATE, KEY, TRUST, WorkloadRequest};
use weir_proxy::{Config, Proxy};

use crate::mesh::{
    Mesh, app, client, client_of, connect, get, get_plain, inbound, inbound_config, listener_tls, metric, request,
    until,
};

const RELOADED: &str = "weir_proxy_certificates_reloaded_total";
const REFUSED: &str = "weir_proxy_certificates_refused_total";

/// Rotations of the test under load, both sides each time.
const ROTATIONS: usize = 4;

/// An idle client is not closed for being idle.
const PATIENT: &str = "timeouts: { header_read_ms: 120000 }";

/// SHA-256 of the certificate that a new handshake meets.
async fn shown(address: SocketAddr, folder: &Path) -> String {
    let stream = connect(address, &client_of(folder)).await.unwrap();
    let der = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der))
}

/// SHA-256 of the certificate in `folder`.
fn certified(folder: &Path) -> String {
    weir_ca::inspect(&fs::read_to_string(folder.join(CERTIFICATE)).unwrap()).unwrap().remove(0).sha256
}

/// A sidecar that calls `callee` as `tagger`, with a connection for each request: none is kept longer than 1 ms.
fn caller(callee: SocketAddr, mesh: &Mesh, folder: &Path) -> Proxy {
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    let text = format!(
        "service: tagger\ninstance: tagger-0\nthreads: 1\nadmin: 127.0.0.1:0\ntimeouts: {{ pool_idle_ms: 1 }}\n\
         listeners: [{{ address: \"127.0.0.1:0\", direction: outbound, routes: [{{ upstream: parser }}] }}]\n\
         upstreams: [{{ name: parser, endpoints: [\"{callee}\"], tls: {{ certificate: {certificate:?}, key: {key:?}, \
         trust: {:?}, verify: {{ spiffe_ids: [\"spiffe://mesh.local/ns/shop/sa/parser\"] }} }} }}]\n",
        mesh.trust()
    );
    Proxy::start(Config::from_yaml(&text).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_load_loses_no_request() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let callee = inbound(app().await, &listener_tls(&parser, &mesh.trust(), ""), "");
    let caller = caller(callee.addresses()[0], &mesh, &tagger);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = |address: SocketAddr| {
        let (stop, answered) = (stop.clone(), answered.clone());
        tokio::spawn(async move {
            while !stop.load(Relaxed) {
                let answer = get_plain(address, request("/")).await.unwrap();
                assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                answered.fetch_add(1, Relaxed);
            }
        })
    };
    let clients: Vec<_> = (0..4).map(|_| load(caller.addresses()[0])).collect();
    for n in 1..=ROTATIONS {
        let before = answered.load(Relaxed);
        for folder in [&parser, &tagger] {
            mesh.root.renew(folder, WorkloadRequest::LIFETIME, SystemTime::now()).unwrap();
        }
        until(&callee, RELOADED, n as f64).await;
        until(&caller, RELOADED, n as f64).await;
        while answered.load(Relaxed) < before + 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    stop.store(true, Relaxed);
    for client in clients {
        client.await.expect("a request was lost");
    }
    assert_eq!(shown(callee.addresses()[0], &tagger).await, certified(&parser), "the newest is in use");
    assert!(metric(&callee, "weir_proxy_tls_handshakes_total").await > ROTATIONS as f64);
    assert_eq!(metric(&callee, REFUSED).await, 0.0, "a pair seen half replaced is no alarm");
    let sent = answered.load(Relaxed) as u64;
    let (caller, callee) = (caller.drain().await, callee.drain().await);
    assert_eq!((caller.requests, callee.requests), (sent, sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_fit_leaves_the_last_good_pair() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let proxy = inbound(app().await, &listener_tls(&parser, &mesh.trust(), ""), "");
    let (address, good) = (proxy.addresses()[0], certified(&parser));
    let old = (fs::read(parser.join(CERTIFICATE)).unwrap(), fs::read(parser.join(KEY)).unwrap());
    let past = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    let late = mesh.workload_at("late", past);
    let half = &old.0[..old.0.len() / 2];
    for (n, (what, certificate, key)) in [
        ("another's key", old.0.clone(), fs::read(tagger.join(KEY)).unwrap()),
        ("half a certificate", half.to_vec(), old.1.clone()),
        ("an expired one", fs::read(late.join(CERTIFICATE)).unwrap(), fs::read(late.join(KEY)).unwrap()),
        ("nothing", Vec::new(), Vec::new()),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = metric(&proxy, REFUSED).await;
        fs::write(parser.join(CERTIFICATE), certificate).unwrap();
        fs::write(parser.join(KEY), key).unwrap();
        until(&proxy, REFUSED, refused + 1.0).await;
        assert_eq!(shown(address, &tagger).await, good, "{n}: {what}");
    }
    fs::remove_file(parser.join(KEY)).unwrap();
    until(&proxy, REFUSED, metric(&proxy, REFUSED).await + 1.0).await;
    assert_eq!(shown(address, &tagger).await, good, "no file at all");
    assert_eq!(metric(&proxy, RELOADED).await, 0.0);

    fs::write(parser.join(CERTIFICATE), &old.0).unwrap();
    fs::write(parser.join(KEY), &old.1).unwrap();
    let renewed = mesh.root.renew(&parser, WorkloadRequest::LIFETIME, SystemTime::now()).unwrap();
    until(&proxy, RELOADED, 1.0).await;
    assert_eq!(shown(address, &tagger).await, certified(&parser));
    let ends = renewed.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(metric(&proxy, "weir_proxy_certificate_expiry_timestamp_seconds").await, ends as f64);
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_turned_by_a_symlink_is_noticed() {
    let mesh = Mesh::new("mesh.local");
    let tagger = mesh.workload("tagger");
    // as the kubelet does: files lead through ..data, which is replaced by a rename
    let (volume, one) = (mesh.dir.path().join("volume"), mesh.workload("parser"));
    let two = mesh.dir.path().join("two");
    fs::create_dir_all(&volume).unwrap();
    fs::create_dir_all(&two).unwrap();
    for name in [CERTIFICATE, KEY, TRUST] {
        fs::copy(one.join(name), two.join(name)).unwrap();
        symlink(Path::new("..data").join(name), volume.join(name)).unwrap();
    }
    mesh.root.renew(&two, WorkloadRequest::LIFETIME, SystemTime::now()).unwrap();
    symlink(&one, volume.join("..data")).unwrap();
    let proxy = inbound(app().await, &listener_tls(&volume, &volume.join(TRUST), ""), "");
    assert_eq!(shown(proxy.addresses()[0], &tagger).await, certified(&one));
    symlink(&two, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    until(&proxy, RELOADED, 1.0).await;
    assert_eq!(shown(proxy.addresses()[0], &tagger).await, certified(&two));
    assert_eq!(metric(&proxy, REFUSED).await, 0.0, "it was turned in one step");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_that_are_taken_out_are_obeyed_at_once() {
    let (old, new) = (Mesh::new("mesh.local"), Mesh::new("mesh.local"));
    let parser = old.workload("parser");
    let trust = old.dir.path().join("trust.crt");
    fs::write(&trust, old.root.certificate_pem()).unwrap();
    let proxy = inbound(app().await, &listener_tls(&parser, &trust, ""), PATIENT);
    let address = proxy.addresses()[0];
    let before = client_of(&old.workload("tagger"));
    let after = client(&old.trust(), Some(&new.workload("tagger")), &["http/1.1"]);
    let open = connect(address, &before).await.unwrap();
    assert_eq!(get(address, &before, "/").await.unwrap().status, StatusCode::OK);
    assert!(get(address, &after, "/").await.is_err());
    fs::write(&trust, new.root.certificate_pem()).unwrap();
    until(&proxy, RELOADED, 1.0).await;
    assert!(get(address, &before, "/").await.is_err(), "its session cannot go on either");
    assert_eq!(get(address, &after, "/").await.unwrap().status, StatusCode::OK);
    // what was open was believed for as long as it lasted
    crate::mesh::is_closed(open).await;
    proxy.drain().await;
}

/// A connection to an upstream was used on and on, although its root was trusted no more.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_whose_root_is_taken_out_is_asked_nothing_more() {
    let (old, new) = (Mesh::new("mesh.local"), Mesh::new("mesh.local"));
    let (tagger, trust) = (old.workload("tagger"), old.dir.path().join("trust.crt"));
    let callee = inbound(app().await, &listener_tls(&old.workload("parser"), &old.trust(), ""), "");
    for protocol in ["http1", "h2"] {
        let roots = |meshes: &[&Mesh]| {
            let all: String = meshes.iter().map(|mesh| mesh.root.certificate_pem()).collect();
            fs::write(&trust, all).unwrap();
        };
        roots(&[&old]);
        let text = format!(
            "service: tagger\nthreads: 1\nadmin: 127.0.0.1:0\n\
             listeners: [{{ address: '127.0.0.1:0', direction: outbound, routes: [{{ upstream: parser }}] }}]\n\
             upstreams: [{{ name: parser, protocol: {protocol}, endpoints: ['{}'], tls: {{ certificate: {:?}, key: {:?}, \
             trust: {trust:?}, verify: {{ server_name: parser }} }} }}]",
            callee.addresses()[0],
            tagger.join(CERTIFICATE),
            tagger.join(KEY)
        );
        let caller = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
        let status = async || get_plain(caller.addresses()[0], request("/")).await.unwrap().status;
        assert_eq!(status().await, StatusCode::OK);
        roots(&[&old, &new]);
        until(&caller, RELOADED, 1.0).await;
        assert_eq!(status().await, StatusCode::OK);
        let handshakes = metric(&callee, "weir_proxy_tls_handshakes_total").await;
        assert_eq!(status().await, StatusCode::OK);
        assert_eq!(metric(&callee, "weir_proxy_tls_handshakes_total").await, handshakes, "what is believed is kept");
        roots(&[&new]);
        until(&caller, RELOADED, 2.0).await;
        assert_eq!(status().await, StatusCode::BAD_GATEWAY, "{protocol}");
        caller.drain().await;
    }
    callee.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_added_ends_no_connection() {
    let (old, new) = (Mesh::new("mesh.local"), Mesh::new("mesh.local"));
    let trust = old.dir.path().join("trust.crt");
    fs::write(&trust, old.root.certificate_pem()).unwrap();
    let proxy = inbound(app().await, &listener_tls(&old.workload("parser"), &trust, ""), "");
    let open = connect(proxy.addresses()[0], &client_of(&old.workload("tagger"))).await.unwrap();
    fs::write(&trust, format!("{}{}", old.root.certificate_pem(), new.root.certificate_pem())).unwrap();
    until(&proxy, RELOADED, 1.0).await;
    let answer = crate::mesh::ask(open, false, request("/")).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "what was open stays open");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_believed_until_it_ends_and_no_longer() {
    let mesh = Mesh::new("mesh.local");
    let proxy = inbound(app().await, &listener_tls(&mesh.workload("parser"), &mesh.trust(), ""), PATIENT);
    // of its day all but a few seconds have passed
    let almost = SystemTime::now() - WorkloadRequest::LIFETIME + Duration::from_secs(4);
    let late = mesh.workload_at("late", almost);
    let address = proxy.addresses()[0];
    let open = connect(address, &client_of(&late)).await.unwrap();
    assert_eq!(get(address, &client_of(&late), "/").await.unwrap().status, StatusCode::OK);
    crate::mesh::is_closed(open).await;
    // connections end by the second, handshakes by the moment
    let refused = async {
        while get(address, &client_of(&late), "/").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.expect("it is believed no longer");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_tls_are_told_to_go_when_it_becomes_strict() {
    let mesh = Mesh::new("mesh.local");
    let (parser, app) = (mesh.workload("parser"), app().await);
    let permissive = listener_tls(&parser, &mesh.trust(), ", mode: permissive");
    let strict = listener_tls(&parser, &mesh.trust(), "");
    for before in ["", permissive.as_str()] {
        let proxy = inbound(app, before, PATIENT);
        let address = proxy.addresses()[0];
        let open = tokio::net::TcpStream::connect(address).await.unwrap();
        assert_eq!(get_plain(address, request("/")).await.unwrap().status, StatusCode::OK);
        proxy.reload(inbound_config(app, before, PATIENT)).await.unwrap();
        let http2 = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(http2).await.unwrap();
        let connection = tokio::spawn(connection);
        let uri = http::Request::get("http://parser/").body(()).unwrap();
        let (answer, _) = sender.send_request(uri, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK, "another reload changes nothing");
        proxy.reload(inbound_config(app, &strict, PATIENT)).await.unwrap();
        crate::mesh::is_closed(open).await;
        let gone = tokio::time::timeout(Duration::from_secs(20), connection).await;
        assert!(gone.is_ok(), "an HTTP/2 connection stays without TLS");
        drop(sender);
        assert!(get_plain(address, request("/")).await.is_err());
        proxy.drain().await;
    }
}
