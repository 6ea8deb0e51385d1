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

#![allow(clippy::unwrap_used, reason = "tests")]

mod corpus;
mod recorder;

use std::time::Duration;

use corpus::{Case, Verdict};
use recorder::{Recorded, Recorder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weir_proxy::{Config, Proxy};

/// Long after the last byte that anybody sends.
const QUIET: Duration = Duration::from_millis(100);

/// Heads that never end are cut after this.
const HEADER_READ_MS: u64 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_the_corpus_gets_its_verdict() {
    let cases = corpus::read();
    assert!(cases.len() >= 150, "{} cases", cases.len());
    let recorder = Recorder::start().await;
    let text = format!(
        "service: app\nthreads: 1\ntimeouts: {{ header_read_ms: {HEADER_READ_MS} }}\n\
         listeners: [{{ address: \"127.0.0.1:0\", direction: inbound, routes: [{{ upstream: app }}] }}]\n\
         upstreams: [{{ name: app, endpoints: [\"{}\"] }}]\n",
        recorder.address
    );
    let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
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

fn holds(case: &Case, answers: &str, Recorded { bytes, requests }: &Recorded) -> Result<(), String> {
    let good = answers.matches("HTTP/1.1 200").count() + answers.matches("HTTP/1.0 200").count();
    match case.verdict {
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
