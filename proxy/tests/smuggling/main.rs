//! Requests that two readers could read differently, byte by byte: what must not pass does not, and
//! what is sound does.
//!
//! `corpus/*.txt` holds them. A section begins with `=== verdict | name`; its lines are the bytes, with
//! `\r`, `\n`, `\t`, `\xNN`, `\\` and `\{a*70000}` (a run) written out; where a line ends in the file means
//! nothing. `compare/proxy/smuggling.py` runs the same files against other proxies. The verdicts:
//!
//! - `refused`: no byte of it reaches the upstream, and the client is answered 4xx or closed;
//! - `cut`: its head may, but the upstream never sees it complete;
//! - `passed N`: the upstream sees exactly N requests.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod corpus;
mod recorder;

use std::{sync::Arc, time::Duration};

use corpus::{Case, Verdict};
use rand::{Rng, SeedableRng, rngs::StdRng};
use recorder::{Recorded, Recorder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use weir_proxy::{Config, Proxy};

/// Long after the last byte that anybody sends.
const QUIET: Duration = Duration::from_millis(100);

/// Heads that never end are cut after this.
const HEADER_READ_MS: u64 = 300;

/// Mutated requests, so many at once.
const ROUNDS: usize = 30;
const AT_ONCE: usize = 50;
const SEED: u64 = 2026;

/// Bytes that mean something to somebody.
const ODD: &[u8] = b"\r\n \t:;,\0\x0b\x0c\x7f\x85\xff0159afxX-+\"%/#?*@[]()<>=&._";

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_the_corpus_gets_its_verdict() {
    let cases = corpus::read();
    assert!(cases.len() >= 150, "{} cases", cases.len());
    let recorder = Recorder::start().await;
    let proxy = proxy(&recorder);
    let mut wrong = Vec::new();
    for case in &cases {
        recorder.forget();
        let answers = ask(&proxy, &case.bytes).await;
        let recorded = recorder.recorded();
        if let Err(why) = holds(case, &answers, &recorded) {
            wrong.push(format!("{} | {}: {why}\n   answered {answers:?}", case.theme, case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    proxy.drain().await;
}

/// What the corpus does not think of: its requests with bytes changed, doubled, dropped and swapped in.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_sent_the_upstream_sees_sound_requests() {
    println!("seed {SEED}");
    let mut rng = StdRng::seed_from_u64(SEED);
    let cases = corpus::read();
    let short: Vec<&Case> = cases.iter().filter(|case| case.bytes.len() < 1_000).collect();
    let recorder = Recorder::start().await;
    let proxy = Arc::new(proxy(&recorder));
    let mut answered = 0;
    for _ in 0..ROUNDS {
        let mut asking = JoinSet::new();
        for _ in 0..AT_ONCE {
            let bytes = mutated(&short[rng.random_range(0..short.len())].bytes, &mut rng);
            let proxy = proxy.clone();
            asking.spawn(async move { good(&ask(&proxy, &bytes).await) });
        }
        while let Some(good) = asking.join_next().await {
            answered += good.unwrap();
        }
    }
    let Recorded { requests, unsound, .. } = recorder.recorded();
    assert!(unsound.is_empty(), "{} of them: {:#?}", unsound.len(), &unsound[..unsound.len().min(5)]);
    assert_eq!(requests, answered, "each answer is to one request");
    assert!(answered > ROUNDS, "mutations that break everything show nothing: {answered}");
}

/// One to three changes.
fn mutated(bytes: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..5) {
            0 => bytes[at] = ODD[rng.random_range(0..ODD.len())],
            1 => bytes.insert(at, ODD[rng.random_range(0..ODD.len())]),
            2 if bytes.len() > 1 => drop(bytes.remove(at)),
            3 => bytes.insert(at, bytes[at]),
            _ => {
                let other = rng.random_range(0..bytes.len());
                bytes.swap(at, other);
            }
        }
    }
    bytes
}

fn proxy(recorder: &Recorder) -> Proxy {
    let text = format!(
        "service: app\nthreads: 1\ntimeouts: {{ header_read_ms: {HEADER_READ_MS} }}\n\
         listeners: [{{ address: \"127.0.0.1:0\", direction: inbound, routes: [{{ upstream: app }}] }}]\n\
         upstreams: [{{ name: app, endpoints: [\"{}\"] }}]\n",
        recorder.address
    );
    Proxy::start(Config::from_yaml(&text).unwrap()).unwrap()
}

/// Sends it and reads what comes until the connection ends or nobody has anything more to say.
async fn ask(proxy: &Proxy, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
    // a proxy that has seen enough may close before all is written
    let _ = stream.write_all(bytes).await;
    let mut answers = Vec::new();
    loop {
        let patience = if answers.is_empty() { Duration::from_secs(5) } else { QUIET };
        match tokio::time::timeout(patience, stream.read_buf(&mut answers)).await {
            Ok(Ok(1..)) => {}
            Ok(_) | Err(_) => return String::from_utf8_lossy(&answers).into_owned(),
        }
    }
}

fn good(answers: &str) -> usize {
    answers.matches("HTTP/1.1 200").count() + answers.matches("HTTP/1.0 200").count()
}

fn holds(case: &Case, answers: &str, Recorded { bytes, requests, unsound }: &Recorded) -> Result<(), String> {
    let good = good(answers);
    match case.verdict {
        _ if !unsound.is_empty() => Err(format!("the upstream got {unsound:?}")),
        Verdict::Refused if !bytes.is_empty() => Err(format!("the upstream got {:?}", String::from_utf8_lossy(bytes))),
        Verdict::Cut if *requests > 0 => Err("the upstream got all of it".into()),
        Verdict::Refused | Verdict::Cut if good > 0 => Err("it was answered well".into()),
        Verdict::Refused | Verdict::Cut => Ok(()),
        Verdict::Passed(expected) if *requests != expected => {
            Err(format!("the upstream got {requests} requests in {:?}", String::from_utf8_lossy(bytes)))
        }
        Verdict::Passed(expected) if good != expected => Err(format!("{good} answers")),
        Verdict::Passed(_) => Ok(()),
    }
}
