//! [`watch`]: looks at the files of every listener and upstream, and swaps in what has changed.
//!
//! Content is compared, not file times: a secret of Kubernetes changes by turning a symlink, an editor by a
//! rename, a copy in place; all of them are seen, and none needs a watch on the right folder. The files are
//! few and small, so a look costs some 50 µs of the control thread.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::security::{
    SecurityError, SecurityStats,
    stats::count,
    tls::{
        ClientTls, ServerTls,
        identity::unix_s_now,
        material::{Files, Material},
    },
};

/// 1 s: a rotation is in force well before who rotates would look.
const INTERVAL: Duration = Duration::from_secs(1);

/// Certificate without end: nothing is known of one.
const NEVER: i64 = i64::MAX;

/// The files of one listener or upstream and what becomes of a change.
#[derive(Clone)]
pub(crate) struct Watched(Arc<Inner>);

struct Inner {
    files: Files,
    provider: Arc<CryptoProvider>,
    target: Target,
    not_after_unix_s: AtomicI64,
    seen: Mutex<Seen>,
}

struct Seen {
    /// What is in force.
    fingerprint: [u8; 32],
    /// Why what is in the files is not.
    complaint: Option<Complaint>,
}

struct Complaint {
    why: SecurityError,
    said: bool,
}

/// Who uses what is in the files.
#[derive(Debug)]
pub(crate) enum Target {
    Server(Arc<ServerTls>),
    Client(Arc<ClientTls>),
}

/// What a look has found.
enum Found {
    Same,
    Swapped([u8; 32]),
    Refused(SecurityError),
}

impl Watched {
    /// What is in the files at start, where nothing could be kept instead.
    pub(crate) fn first(files: &Files, provider: &CryptoProvider) -> Result<(Material, [u8; 32]), SecurityError> {
        let contents = files.read()?;
        Ok((files.parse(&contents, provider, unix_s_now())?, contents.fingerprint()))
    }

    pub(crate) fn new(
        files: Files,
        provider: Arc<CryptoProvider>,
        material: &Material,
        fingerprint: [u8; 32],
        target: Target,
    ) -> Self {
        let not_after_unix_s = AtomicI64::new(expiry(material));
        let seen = Mutex::new(Seen { fingerprint, complaint: None });
        Self(Arc::new(Inner { files, provider, target, not_after_unix_s, seen }))
    }

    /// Where the configuration names the files.
    pub(crate) fn key(&self) -> &str {
        &self.0.files.key
    }

    /// When the certificate in force ends.
    pub(crate) fn not_after_unix_s(&self) -> Option<i64> {
        Some(self.0.not_after_unix_s.load(Relaxed)).filter(|at| *at != NEVER)
    }

    /// Looks once.
    fn look(&self, stats: &SecurityStats) {
        let inner = &self.0;
        let mut seen = inner.seen.lock();
        match self.find(&seen) {
            Found::Same => seen.complaint = None,
            Found::Swapped(fingerprint) => {
                seen.fingerprint = fingerprint;
                count(&stats.certificates_reloaded);
                info!(key = inner.files.key, not_after_unix_s = self.not_after_unix_s(), "certificates replaced");
                seen.complaint = None;
            }
            Found::Refused(why) => seen.complain(why, stats),
        }
    }

    fn find(&self, seen: &Seen) -> Found {
        let Inner { files, provider, target, not_after_unix_s, .. } = &*self.0;
        let contents = match files.read() {
            Ok(contents) if contents.fingerprint() == seen.fingerprint => return Found::Same,
            Ok(contents) => contents,
            Err(why) => return Found::Refused(why),
        };
        let swapped = files.parse(&contents, provider, unix_s_now()).and_then(|material| {
            target.swap(&material).map_err(|why| SecurityError::new(&files.key, why))?;
            not_after_unix_s.store(expiry(&material), Relaxed);
            Ok(())
        });
        swapped.map_or_else(Found::Refused, |()| Found::Swapped(contents.fingerprint()))
    }
}

impl Target {
    fn swap(&self, material: &Material) -> Result<(), String> {
        match self {
            Self::Server(server) => server.swap(material),
            Self::Client(client) => client.swap(material),
        }
    }
}

impl Seen {
    /// Said at the second look, and once: a pair is replaced file by file, so at the first it may be half done.
    fn complain(&mut self, why: SecurityError, stats: &SecurityStats) {
        match &mut self.complaint {
            Some(complaint) if complaint.why == why && complaint.said => {}
            Some(complaint) if complaint.why == why => {
                complaint.said = true;
                count(&stats.certificates_refused);
                warn!(%why, "new certificates cannot be used; the last good ones stay");
            }
            _ => self.complaint = Some(Complaint { why, said: false }),
        }
    }
}

/// Looks at all of them until `stop`.
pub(crate) async fn watch(all: Vec<Watched>, stats: Arc<SecurityStats>, stop: CancellationToken) {
    let mut due = tokio::time::interval(INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = due.tick() => {}
        }
        let (all, stats) = (all.clone(), stats.clone());
        // a file system that hangs must not hold the control thread
        let looked = tokio::task::spawn_blocking(move || all.iter().for_each(|watched| watched.look(&stats)));
        tokio::select! {
            () = stop.cancelled() => return,
            ended = looked => if ended.is_err() {
                tracing::error!("looking at the certificates panicked");
            }
        }
    }
}

fn expiry(material: &Material) -> i64 {
    material.leaf.as_ref().map_or(NEVER, |leaf| leaf.not_after_unix_s)
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.0.files).finish()
    }
}
