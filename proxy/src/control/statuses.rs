//! [`Statuses`]: what the proxy says of itself to the control plane, which hears the newest always.
//!
//! One word waits to be sent. In a storm of sets, or while the control plane reads slowly, a newer one takes its place, for
//! it says all that counts; how many were never sent is counted.

use std::sync::Arc;

use futures::{Stream, stream};
use tokio::sync::watch;
use weir_policy::wire::proto::ProxyStatus;

use crate::counters::{Tally, add};

/// The end that speaks.
#[derive(Debug)]
pub(crate) struct Statuses {
    /// And how many there were before it.
    newest: watch::Sender<(usize, ProxyStatus)>,
}

impl Statuses {
    /// Begins with `first`; the stream is what goes to the control plane.
    pub(crate) fn begin(first: ProxyStatus, tally: Arc<Tally>) -> (Self, impl Stream<Item = ProxyStatus> + Send) {
        let (newest, mut changes) = watch::channel((0, first));
        changes.mark_changed();
        let sent = stream::unfold((changes, 0), move |(mut changes, next)| {
            let tally = tally.clone();
            async move {
                changes.changed().await.ok()?;
                let (number, status) = changes.borrow_and_update().clone();
                add(&tally.policy_statuses_skipped, number - next);
                Some((status, (changes, number + 1)))
            }
        });
        (Self { newest }, sent)
    }

    /// Says `status` in place of one that still waits.
    pub(crate) fn say(&self, status: ProxyStatus) {
        self.newest.send_modify(|(number, newest)| {
            *number += 1;
            *newest = status;
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn status(applied_sequence: u64) -> ProxyStatus {
        ProxyStatus { applied_sequence, ..ProxyStatus::default() }
    }

    /// Found in a storm of policies: sixteen waited, and the newest was dropped.
    #[tokio::test]
    async fn the_newest_is_heard_and_the_skipped_ones_are_counted() {
        let tally = Arc::new(Tally::default());
        let (statuses, sent) = Statuses::begin(status(0), tally.clone());
        let mut sent = std::pin::pin!(sent);
        let mut heard = vec![sent.next().await.unwrap().applied_sequence];
        for burst in [1..2, 2..1_001, 1_001..1_018] {
            burst.map(status).for_each(|status| statuses.say(status));
            heard.push(sent.next().await.unwrap().applied_sequence);
        }
        assert_eq!(heard, [0, 1, 1_000, 1_017]);
        assert_eq!(tally.read().policy_statuses_skipped, 998 + 16);
        statuses.say(status(1_018));
        drop(statuses);
        assert_eq!(sent.next().await.map(|status| status.applied_sequence), Some(1_018), "the last word");
        assert_eq!(sent.next().await, None);
    }
}
