//! Alerts: to the webhooks, and, with each attempt to deliver them, into the table `alerts`.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int32Array, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::warn;
use weir_analyzer::{Alert, AlertState};
use weir_schema::{Batch, Table};
use weir_store::Store;
use weir_web::webhook::{DeliveryEvent, Notifier};

use super::now_unix_nano;

/// Deliveries waiting to be written; a full queue makes the notifier wait, never the analyzer.
const DELIVERY_QUEUE: usize = 256;

/// The notifier and the task that records what it did.
pub(super) struct Alerts {
    notifier: Notifier,
    recorder: JoinHandle<()>,
}

impl Alerts {
    pub(super) fn start(config: &weir_web::Config, store: Store) -> Result<Self, anyhow::Error> {
        let (deliveries, mut deliveries_in) = mpsc::channel::<DeliveryEvent>(DELIVERY_QUEUE);
        let notifier = Notifier::start(config, deliveries)?;
        let recorder = tokio::spawn(async move {
            while let Some(event) = deliveries_in.recv().await {
                if let Err(error) = store.append_rows(delivery_row(&event)).await {
                    warn!(%error, "a delivery is not in the history");
                }
            }
        });
        Ok(Self { notifier, recorder })
    }

    pub(super) fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Ends the notifier, then the recorder once it has written what is left.
    pub(super) async fn stop(self) {
        self.notifier.stop().await;
        drop(self.notifier);
        if let Err(error) = self.recorder.await {
            warn!(%error, "the recorder of deliveries failed");
        }
    }
}

/// The row of an alert that fires or is resolved.
pub(super) fn alert_row(alert: &Alert) -> Batch {
    let event = match alert.state {
        AlertState::Firing => "fired",
        AlertState::Resolved => "resolved",
    };
    Row {
        alert_id: &alert.alert_id,
        event,
        name: &alert.name,
        service: &alert.service,
        severity: alert.severity.as_str(),
        finding_id: alert.finding_id.as_deref(),
        summary: &alert.summary,
        receiver: None,
        attempt: None,
        http_status: None,
        error: None,
    }
    .into_batch(now_unix_nano())
}

fn delivery_row(event: &DeliveryEvent) -> Batch {
    Row {
        alert_id: &event.alert.alert_id,
        event: event.outcome.as_str(),
        name: &event.alert.name,
        service: &event.alert.service,
        severity: event.alert.severity.as_str(),
        finding_id: event.alert.finding_id.as_deref(),
        summary: &event.alert.summary,
        receiver: Some(&event.receiver),
        attempt: i32::try_from(event.attempt).ok(),
        http_status: event.http_status.map(i32::from),
        error: event.error.as_deref(),
    }
    .into_batch(event.time_unix_nano)
}

struct Row<'a> {
    alert_id: &'a str,
    event: &'a str,
    name: &'a str,
    service: &'a str,
    severity: &'a str,
    finding_id: Option<&'a str>,
    summary: &'a str,
    receiver: Option<&'a str>,
    attempt: Option<i32>,
    http_status: Option<i32>,
    error: Option<&'a str>,
}

impl Row<'_> {
    fn into_batch(self, time_unix_nano: i64) -> Batch {
        let text = |value: Option<&str>| Arc::new(StringArray::from(vec![value])) as ArrayRef;
        let int = |value: Option<i32>| Arc::new(Int32Array::from(vec![value])) as ArrayRef;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![time_unix_nano])),
            text(Some(self.alert_id)),
            text(Some(self.event)),
            text(Some(self.name)),
            text(Some(self.service)),
            text(Some(self.severity)),
            text(self.finding_id),
            text(Some(self.summary)),
            text(self.receiver),
            int(self.attempt),
            int(self.http_status),
            text(self.error),
        ];
        let table = Table::Alerts;
        let rows = RecordBatch::try_new(table.schema(), columns).expect("the columns above are the table's");
        Batch { table, rows }
    }
}
