//! Sends the requests over OTLP/HTTP as fast as they are acknowledged; one that is refused as overload is sent again.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

/// How many requests wait to be sent; the readers of the files wait when there are as many.
const QUEUE: usize = 16;

pub(crate) async fn send(url: &str, dir: &Path, connections: usize) {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join("otlp")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (bodies, queue) = tokio::sync::mpsc::channel::<Vec<u8>>(QUEUE);
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let start = Instant::now();
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (queue, url) = (queue.clone(), format!("{url}/v1/traces"));
            tokio::spawn(async move {
                let client = reqwest::Client::builder().build().unwrap();
                let (mut sent, mut refused) = (0_u64, 0_u64);
                loop {
                    let next = queue.lock().await.recv().await;
                    let Some(body) = next else { return (sent, refused) };
                    refused += post(&client, &url, body.into()).await;
                    sent += 1;
                }
            })
        })
        .collect();
    tokio::task::spawn_blocking(move || files.iter().for_each(|path| read_requests(path, &bodies))).await.unwrap();
    let (mut sent, mut refused) = (0, 0);
    for worker in workers {
        let (of_worker, refused_to_worker) = worker.await.unwrap();
        sent += of_worker;
        refused += refused_to_worker;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({"requests": sent, "refused": refused, "seconds": seconds}));
}

fn read_requests(path: &Path, bodies: &tokio::sync::mpsc::Sender<Vec<u8>>) {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).unwrap());
    let mut length = [0; 4];
    while file.read_exact(&mut length).is_ok() {
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        file.read_exact(&mut body).unwrap();
        bodies.blocking_send(body).unwrap();
    }
}

/// Sends until it is taken; says how often it was not.
async fn post(client: &reqwest::Client, url: &str, body: Bytes) -> u64 {
    let mut refused = 0;
    loop {
        let answer = client.post(url).header("content-type", "application/x-protobuf").body(body.clone()).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => return refused,
            Ok(answer) if [429, 502, 503, 504].contains(&answer.status().as_u16()) => {}
            Ok(answer) => panic!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
            Err(error) if refused > 200 => panic!("{error}"),
            Err(_) => {}
        }
        refused += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
