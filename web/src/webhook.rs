//! [`Notifier`]: alerts to webhooks, in the shape Alertmanager's receivers know (version 4).
//!
//! One task with a bounded queue: analysis never waits for a receiver. A try that fails is
//! repeated with growing pauses and jitter; every try is told, for the history. When the queue is
//! full the alert is dropped and counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::Rng;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use weir_analyzer::{Alert, AlertState};

use crate::config::{Config, Webhook};

/// Alerts waiting for their turn.
const QUEUE: usize = 256;

/// Tries for one receiver.
const MAX_ATTEMPTS: u32 = 6;

/// The first pause between tries; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How long a receiver may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the last alerts may take when the server stops.
const LAST_TRIES: Duration = Duration::from_secs(3);

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it.
    Delivered,
    /// It did not, and is tried again.
    Retried,
    /// It did not, and is not tried again.
    GaveUp,
}

impl Outcome {
    /// The word in the table `alerts`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::GaveUp => "gave_up",
        }
    }
}

/// One try.
#[derive(Clone, Debug)]
pub struct DeliveryEvent {
    /// What was to be told.
    pub alert: Alert,
    /// What became of it.
    pub outcome: Outcome,
    /// To whom.
    pub receiver: String,
    /// Which try, from 1.
    pub attempt: u32,
    /// What the receiver answered.
    pub http_status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// When.
    pub time_unix_nano: i64,
}

/// The way to the webhooks. Clones share it.
#[derive(Clone)]
pub struct Notifier {
    inner: Arc<Inner>,
}

struct Inner {
    receivers: Vec<String>,
    queue: mpsc::Sender<Alert>,
    dropped: AtomicU64,
    delivered: Arc<AtomicU64>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Notifier {
    /// Starts the task that delivers; every try goes to `deliveries`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn start(config: &Config, deliveries: mpsc::Sender<DeliveryEvent>) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(TRY_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let (queue, alerts) = mpsc::channel(QUEUE);
        let (stop, delivered) = (CancellationToken::new(), Arc::<AtomicU64>::default());
        let receivers = config.webhooks.iter().map(|hook| hook.name.clone()).collect();
        let courier = Courier {
            hooks: config.webhooks.clone(),
            client,
            deliveries,
            delivered: delivered.clone(),
            stop: stop.clone(),
        };
        let task = Mutex::new(Some(tokio::spawn(courier.run(alerts))));
        Ok(Self { inner: Arc::new(Inner { receivers, queue, dropped: AtomicU64::new(0), delivered, stop, task }) })
    }

    /// The names of those who are told.
    #[must_use]
    pub fn receivers(&self) -> &[String] {
        &self.inner.receivers
    }

    /// Queues an alert; never waits.
    pub fn notify(&self, alert: Alert) {
        if let Err(error) = self.inner.queue.try_send(alert) {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
            warn!(%error, "an alert was dropped");
        }
    }

    /// Tries what is queued once more, within a few seconds, and ends.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        if let Some(task) = self.inner.task.lock().await.take()
            && let Err(error) = task.await
        {
            warn!(%error, "the notifier failed");
        }
    }

    /// Its counters in Prometheus text.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let (delivered, dropped) =
            (self.inner.delivered.load(Ordering::Relaxed), self.inner.dropped.load(Ordering::Relaxed));
        format!(
            "# HELP weir_alerts_delivered_total Alerts that a receiver took\n# TYPE weir_alerts_delivered_total counter\n\
             weir_alerts_delivered_total {delivered}\n# HELP weir_alerts_dropped_total Alerts dropped because the queue was full\n\
             # TYPE weir_alerts_dropped_total counter\nweir_alerts_dropped_total {dropped}\n"
        )
    }
}

struct Courier {
    hooks: Vec<Webhook>,
    client: reqwest::Client,
    deliveries: mpsc::Sender<DeliveryEvent>,
    delivered: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Courier {
    async fn run(self, mut alerts: mpsc::Receiver<Alert>) {
        loop {
            let alert = tokio::select! {
                alert = alerts.recv() => alert,
                () = self.stop.cancelled() => break,
            };
            let Some(alert) = alert else { return };
            self.deliver(&alert).await;
        }
        let last = async {
            while let Ok(alert) = alerts.try_recv() {
                self.deliver(&alert).await;
            }
        };
        // what is left after that is in the table as fired, without a delivery
        let _ = tokio::time::timeout(LAST_TRIES, last).await;
    }

    /// To all receivers at once: a slow one holds up no other.
    async fn deliver(&self, alert: &Alert) {
        futures::future::join_all(self.hooks.iter().map(|hook| self.deliver_to(hook, alert))).await;
    }

    async fn deliver_to(&self, hook: &Webhook, alert: &Alert) {
        for attempt in 1..=MAX_ATTEMPTS {
            let tried = self.post(hook, alert).await;
            let (status, error) = match &tried {
                Ok(status) => (Some(*status), (!(200..300).contains(status)).then(|| format!("answered {status}"))),
                Err(error) => (None, Some(error.to_string())),
            };
            let last = attempt == MAX_ATTEMPTS || self.stop.is_cancelled() || status.is_some_and(is_final);
            let outcome = match (&error, last) {
                (None, _) => Outcome::Delivered,
                (Some(_), true) => Outcome::GaveUp,
                (Some(_), false) => Outcome::Retried,
            };
            self.tell(hook, alert, outcome, attempt, status, error).await;
            if outcome != Outcome::Retried {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause(attempt)) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    async fn post(&self, hook: &Webhook, alert: &Alert) -> Result<u16, reqwest::Error> {
        let mut post = self.client.post(&hook.url).json(&payload(&hook.name, alert));
        for (name, value) in &hook.headers {
            post = post.header(name, value);
        }
        Ok(post.send().await?.status().as_u16())
    }

    async fn tell(
        &self,
        hook: &Webhook,
        alert: &Alert,
        outcome: Outcome,
        attempt: u32,
        http_status: Option<u16>,
        error: Option<String>,
    ) {
        if outcome == Outcome::Delivered {
            self.delivered.fetch_add(1, Ordering::Relaxed);
        }
        let receiver = hook.name.clone();
        let event = DeliveryEvent {
            alert: alert.clone(),
            outcome,
            receiver,
            attempt,
            http_status,
            error,
            time_unix_nano: now_unix_nano(),
        };
        // nobody keeps a history any more: the server is ending
        let _ = self.deliveries.send(event).await;
    }
}

/// A receiver that will not take it later either. 408 and 429 may.
fn is_final(status: u16) -> bool {
    (400..500).contains(&status) && status != 408 && status != 429
}

/// Twice as long each time, and up to a half more by chance, so that receivers are not hit in step.
fn pause(attempt: u32) -> Duration {
    let base = FIRST_PAUSE * 2_u32.pow(attempt.saturating_sub(1).min(10));
    base.mul_f64(1.0 + rand::rng().random_range(0.0..0.5))
}

/// Alertmanager's webhook payload, version 4.
fn payload(receiver: &str, alert: &Alert) -> Value {
    let status = match alert.state {
        AlertState::Firing => "firing",
        AlertState::Resolved => "resolved",
    };
    let time = |unix_nano: i64| {
        jiff::Timestamp::from_nanosecond(unix_nano.into()).map_or_else(|_| String::new(), |t| t.to_string())
    };
    let ends = alert.ends_unix_nano.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), time);
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{alertname=\"{}\",service=\"{}\"}}", alert.name, alert.service),
        "truncatedAlerts": 0,
        "status": status,
        "receiver": receiver,
        "groupLabels": {"alertname": alert.name, "service": alert.service},
        "commonLabels": alert.labels,
        "commonAnnotations": alert.annotations,
        "externalURL": "",
        "alerts": [{
            "status": status,
            "labels": alert.labels,
            "annotations": alert.annotations,
            "startsAt": time(alert.starts_unix_nano),
            "endsAt": ends,
            "generatorURL": "",
            "fingerprint": alert.alert_id,
        }],
    })
}

fn now_unix_nano() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_some_answers_are_final() {
        assert!(pause(1) >= FIRST_PAUSE && pause(1) <= FIRST_PAUSE * 2);
        assert!(pause(5) >= FIRST_PAUSE * 16);
        for (status, end) in [(404, true), (429, false), (408, false), (500, false)] {
            assert_eq!(is_final(status), end, "{status}");
        }
    }
}
