//! A disk that is full, for real: `weir serve` on a small volume of its own refuses with 503 and a time to
//! come back, answers queries all the while, and takes requests again by itself once there is room.
//! Nothing acked is lost, also not by a kill on the full disk.
//!
//! The volume is a tmpfs in a mount namespace that ends with the test. Whoever may not mount (not
//! root, no `unshare`) is told that the test was skipped. `TEST_FULL_ROUNDS` says how often (default 1).

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use prost::Message;

use crate::support::{Process, client, request, span, sql};

/// Size of the volume.
const VOLUME_MIB: u64 = 24;

/// What somebody else's file takes, until it is deleted.
const BALLAST_MIB: usize = 8;

/// Free space below which appends are refused.
const MIN_FREE_BYTES: u64 = 5 << 20;

/// Spans of one request.
const SPANS: u64 = 200;

/// How long "by itself" may take: the store looks every few seconds.
const RECOVERY: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_answers_and_recovers_by_itself() {
    let rounds: u64 = std::env::var("TEST_FULL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for round in 0..rounds {
        let volume = match Volume::mount() {
            Ok(volume) => volume,
            Err(why) => return println!("skipped: no volume of its own can be mounted here: {why}"),
        };
        run(&volume, round).await;
    }
    println!("{rounds} times full: refused, answered, recovered; lost 0, phantom 0, duplicated 0");
}

async fn run(volume: &Volume, round: u64) {
    let ballast = volume.seen.join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST_MIB << 20]).unwrap();
    let server = volume.serve();
    let mut sender = Sender::new(&server, round);

    sender.send_until_refused().await;
    assert!(!sender.acked.is_empty(), "the volume was full from the start");
    sender.check(&server, "full").await;

    std::fs::remove_file(&ballast).unwrap();
    sender.send_until_taken().await;
    sender.check(&server, "room again").await;

    sender.send_until_refused().await;
    sender.check(&server, "full again").await;
    server.kill();
    let server = volume.serve();
    sender.check(&server, "killed on the full disk").await;
    server.kill();
}

/// Sends numbered requests and knows what was acked.
struct Sender {
    client: reqwest::Client,
    url: String,
    next: u64,
    sent: BTreeSet<u64>,
    acked: BTreeSet<u64>,
}

impl Sender {
    fn new(server: &Process, round: u64) -> Self {
        let url = format!("{}/v1/traces", server.otlp_http);
        Self { client: client(), url, next: round * 1_000_000 + 1, sent: BTreeSet::new(), acked: BTreeSet::new() }
    }

    /// Sends one request: the status, and the time to come back.
    async fn send(&mut self, number: u64) -> (u16, Option<u64>) {
        self.sent.insert(number);
        let post = self.client.post(&self.url).header("content-type", "application/x-protobuf");
        let response = post.body(numbered(number)).send().await.unwrap();
        let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
        let status = response.status().as_u16();
        if status == 200 {
            self.acked.insert(number);
        }
        (status, retry_after)
    }

    /// New requests until one is refused, as it should be.
    async fn send_until_refused(&mut self) {
        loop {
            let (status, retry_after) = self.send(self.next).await;
            if status != 200 {
                assert_eq!(status, 503);
                assert!(retry_after.is_some_and(|s| s > 0), "a refusal says when to come back: {retry_after:?}");
                return;
            }
            self.next += 1;
        }
    }

    /// The refused request again, when it was told to come back, until it is taken.
    async fn send_until_taken(&mut self) {
        let deadline = std::time::Instant::now() + RECOVERY;
        loop {
            let (status, retry_after) = self.send(self.next).await;
            if status == 200 {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "still refused {RECOVERY:?} after there was room");
            tokio::time::sleep(Duration::from_secs(retry_after.unwrap_or(1))).await;
        }
        self.next += 1;
    }

    /// Every acked request is there once and whole, and nothing that was never sent.
    async fn check(&self, server: &Process, when: &str) {
        let statement = "SELECT hex(trace_id), count(*), count(DISTINCT span_id) FROM spans GROUP BY trace_id";
        let whole = SPANS.to_string();
        let mut stored = BTreeSet::new();
        for row in sql(&server.web, statement).await {
            let cells: Vec<_> = row.split(',').collect();
            let number = u64::from_str_radix(cells[0].trim_matches('"'), 16).unwrap();
            assert_eq!(
                (cells[1], cells[2]),
                (&*whole, &*whole),
                "{when}: request {number} is not there once and whole"
            );
            stored.insert(number);
        }
        let lost: Vec<_> = self.acked.difference(&stored).collect();
        let phantom: Vec<_> = stored.difference(&self.sent).collect();
        assert!(lost.is_empty(), "{when}: acked but lost: {lost:?}");
        assert!(phantom.is_empty(), "{when}: never sent: {phantom:?}");
    }
}

/// The request of this number: the same bytes each time, which do not compress well.
fn numbered(number: u64) -> Vec<u8> {
    let start = 1_700_000_000_000_000_000 + number * 1_000;
    let name = |i: u64| {
        format!("{:032x}", u128::from(number * SPANS + i).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    };
    let spans = (0..SPANS).map(|i| span(u128::from(number), number * SPANS + i + 1, 0, &name(i), start + i, 1_000));
    request("load", spans.collect()).encode_to_vec()
}

/// A tmpfs that only processes of its namespace see.
struct Volume {
    /// Keeps the namespace alive as long as its input is open.
    holder: Child,
    _input: Option<ChildStdin>,
    dir: tempfile::TempDir,
    /// The volume as seen from here.
    seen: PathBuf,
}

impl Volume {
    fn mount() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let script = format!("mount -t tmpfs -o size={VOLUME_MIB}m tmpfs \"$0\" && echo mounted && read line");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", &script]).arg(dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().map_err(|e| format!("unshare: {e}"))?;
        let input = holder.stdin.take();
        let mut said = String::new();
        // its output ends with it, so this waits for no time
        let read = holder.stdout.take().map(|out| BufReader::new(out).read_line(&mut said));
        if said.trim() != "mounted" {
            let mut why = format!("{read:?} ");
            holder.stderr.take().map(|mut out| out.read_to_string(&mut why));
            let _ = holder.wait();
            return Err(why);
        }
        let inside = dir.path().strip_prefix("/").unwrap_or(dir.path());
        let seen = Path::new("/proc").join(holder.id().to_string()).join("root").join(inside);
        Ok(Self { holder, _input: input, dir, seen })
    }

    /// `weir serve` on the volume.
    fn serve(&self) -> Process {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount", "--", env!("CARGO_BIN_EXE_weir")]);
        command.env("WEIR_STORE__MIN_FREE_BYTES", MIN_FREE_BYTES.to_string());
        // small segments, so that it is files that fill the volume and not one segment that cannot be trimmed
        command.env("WEIR_STORE__WAL_SEGMENT_BYTES", (2 << 20).to_string());
        Process::start_by(command, &self.dir.path().join("data"), &self.seen.join("data"))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // the namespace ends with its last process, and the volume with it
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
