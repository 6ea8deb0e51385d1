//! [`KeySource`]: where an issuer's keys come from, and how they stay fresh.
//!
//! The control thread reads them on a schedule and when a data thread asks. A token with a key id that is
//! not known may be the first after a change of keys, so its request waits for one reading, but not longer than
//! [`MAX_WAIT`]; and readings that were asked for keep [`MIN_GAP`] apart, so that made-up key ids cannot drive
//! load to the issuer. What cannot be read leaves the last good set.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::Jwks,
    security::{
        Opening, SecurityError, SecurityStats,
        claims::Claims,
        jwt::{
            Problem,
            fetch::Address,
            keys::{Expected, KeySet},
        },
        stats::count,
    },
};

/// 2 s: longer than an issuer takes to answer, shorter than a client's patience.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// 10 s between two readings that unknown keys ask for.
const MIN_GAP: Duration = Duration::from_secs(10);

/// 1 s between two looks at a file, and between two tries while nothing was ever read.
const LOOK: Duration = Duration::from_secs(1);

/// The keys of one issuer, kept fresh.
#[derive(Debug)]
pub(crate) struct KeySource {
    key: String,
    jwks: Jwks,
    origin: Origin,
    refresh: Duration,
    expected: Expected,
    keys: ArcSwap<KeySet>,
    /// Somebody waits for a reading.
    asked: Notify,
    /// How many readings have ended.
    ended: watch::Sender<u64>,
    state: Mutex<State>,
    stats: Arc<SecurityStats>,
}

#[derive(Debug)]
enum Origin {
    File(PathBuf),
    Address(Box<Address>),
}

#[derive(Debug, Default)]
struct State {
    /// When a reading was last asked for.
    last_asked: Option<Instant>,
    /// That reading has not ended yet.
    waited_for: bool,
    /// What was read last, to notice a change.
    text: Vec<u8>,
    complaint: Option<String>,
}

impl KeySource {
    /// A file must be there; an address may answer later. What was read from it before a reload is known.
    pub(crate) fn open(
        asked: &Jwks,
        key: String,
        expected: Expected,
        Opening { provider, stats, before }: Opening<'_>,
    ) -> Result<Self, SecurityError> {
        let (mut keys, mut state) = (KeySet::default(), State::default());
        let origin = match (&asked.file, &asked.url) {
            (Some(path), _) => {
                let wrong =
                    |why: String| SecurityError::new(format!("{key}.file"), format!("{}: {why}", path.display()));
                state.text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
                keys = KeySet::parse(&state.text, &expected).map_err(wrong)?;
                Origin::File(path.clone())
            }
            (None, url) => {
                let url = url.as_deref().unwrap_or_default();
                let address = Address::new(url, asked.trust.as_deref(), provider);
                let known = before.iter().flat_map(|before| &before.key_sources);
                let known =
                    known.into_iter().find(|known| known.jwks.url == asked.url && known.jwks.trust == asked.trust);
                if let Some(text) = known.map(|known| known.state.lock().text.clone()).filter(|text| !text.is_empty()) {
                    // what was fit then may not be what is expected now
                    keys = KeySet::parse(&text, &expected).unwrap_or_default();
                    state.text = text;
                }
                Origin::Address(Box::new(address.map_err(|why| SecurityError::new(&key, why))?))
            }
        };
        let (jwks, stats) = (asked.clone(), stats.clone());
        let (asked, refresh) = (Notify::new(), jwks.refresh());
        let (keys, ended, state) = (ArcSwap::from_pointee(keys), watch::Sender::new(0), Mutex::new(state));
        Ok(Self { key, jwks, origin, refresh, expected, keys, asked, ended, state, stats })
    }

    /// Checks a token, if need be after one more reading of the keys.
    pub(crate) async fn check(&self, token: &str) -> Result<Claims, Problem> {
        let mut ended = self.ended.subscribe();
        let checked = self.keys.load().check(token);
        if checked.as_ref().is_err_and(|problem| *problem == Problem::UnknownKey) && self.ask() {
            // whether it came in time or not, the keys of then decide
            let _ = tokio::time::timeout(MAX_WAIT, ended.changed()).await;
            return self.keys.load().check(token);
        }
        checked
    }

    /// Asks for a reading, unless one was asked for lately. Requests that come while it is under way wait for it too.
    fn ask(&self) -> bool {
        let (mut state, now) = (self.state.lock(), Instant::now());
        match state.last_asked {
            Some(last) if now.duration_since(last) < MIN_GAP => state.waited_for,
            _ => {
                state.last_asked = Some(now);
                state.waited_for = true;
                self.asked.notify_one();
                true
            }
        }
    }

    /// Reads until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.asked.notified() => {}
                () = tokio::time::sleep_until(due) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.read() => {}
            }
            let known = !self.keys.load().is_empty();
            due = Instant::now() + if known && matches!(self.origin, Origin::Address(_)) { self.refresh } else { LOOK };
        }
    }

    async fn read(&self) {
        let text = match &self.origin {
            Origin::File(path) => tokio::fs::read(path).await.map_err(|error| format!("{}: {error}", path.display())),
            Origin::Address(address) => address.get().await,
        };
        let result = text.and_then(|text| self.take(text));
        self.settle(result);
        self.state.lock().waited_for = false;
        self.ended.send_modify(|n| *n += 1);
    }

    /// Whether the keys are other ones than before.
    fn take(&self, text: Vec<u8>) -> Result<bool, String> {
        if self.state.lock().text == text {
            return Ok(false);
        }
        self.keys.store(Arc::new(KeySet::parse(&text, &self.expected)?));
        self.state.lock().text = text;
        Ok(true)
    }

    fn settle(&self, result: Result<bool, String>) {
        let complaint = &mut self.state.lock().complaint;
        match result {
            Ok(changed) => {
                if changed {
                    count(&self.stats.jwks_loaded);
                    info!(key = self.key, "keys replaced");
                }
                *complaint = None;
            }
            // said once, counted each time
            Err(why) => {
                count(&self.stats.jwks_failed);
                if complaint.as_ref() != Some(&why) {
                    warn!(key = self.key, %why, "the keys cannot be read; the last good ones stay");
                    *complaint = Some(why);
                }
            }
        }
    }
}
