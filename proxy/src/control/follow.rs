//! [`Follower`]: follows the policy stream, applies each set whole, and answers what became of it.
//!
//! A set that cannot be enforced is refused whole and the one before stays. Any message is news; when
//! none came for the set's TTL, limits decay to the static configuration, never to "unlimited".

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};
use tracing::{debug, info, warn};
use weir_policy::{
    PolicySet,
    wire::proto::{self, policy_service_client::PolicyServiceClient},
};

use crate::{
    control::{Keeper, StateFile},
    counters::add,
    telemetry::jittered,
    workload::{Current, Origin, Workload},
};

/// The first wait before the stream is opened again; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);

/// 5 s: a control plane that restarts finds its proxies soon.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Statuses that wait to be sent: one a set, and sets come no faster than windows close.
const STATUSES: usize = 16;

/// The loop that follows.
pub(crate) struct Follower {
    current: Current,
    client: PolicyServiceClient<Channel>,
    keeper: Option<Keeper>,
    /// The newest set accepted: its sequence and when it was issued.
    newest: (u64, u64),
    /// When the set in force decays.
    decays: Option<Instant>,
}

enum Event {
    Set(proto::PolicySet),
    Decay,
    Ended(Status),
    Stop,
}

impl Follower {
    /// Enforces what was kept of the last run, if anything.
    pub(crate) fn new(current: Current, channel: Channel, state: Option<StateFile>) -> Self {
        let client = PolicyServiceClient::new(channel);
        let kept = state.as_ref().and_then(StateFile::read);
        let keeper = state.map(Keeper::start);
        let mut follower = Self { current, client, keeper, newest: (0, 0), decays: None };
        if let Some(set) = kept {
            info!(sequence = set.sequence, "enforcing the policy kept from the last run");
            follower.enforce(set, Origin::Disk);
        }
        follower
    }

    /// Follows until `stop`; the newest set is on disk when it returns.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.follow_until(stop).await;
        if let Some(keeper) = self.keeper {
            keeper.finish().await;
        }
    }

    async fn follow_until(&mut self, stop: CancellationToken) {
        let mut backoff = MIN_BACKOFF;
        loop {
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                () = decay_at(self.decays) => { self.decay(); continue }
                opened = self.open() => opened,
            };
            match opened {
                Ok((statuses, sets)) => {
                    backoff = MIN_BACKOFF;
                    if self.follow(&statuses, sets, &stop).await.is_none() {
                        return;
                    }
                }
                Err(error) => debug!(%error, "no policy stream"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = decay_at(self.decays) => self.decay(),
                () = tokio::time::sleep(jittered(backoff)) => backoff = (backoff * 2).min(MAX_BACKOFF),
            }
        }
    }

    async fn open(&self) -> Result<(mpsc::Sender<proto::ProxyStatus>, Streaming<proto::PolicySet>), Status> {
        let (statuses, outgoing) = mpsc::channel(STATUSES);
        // there is room: the channel is new
        let _ = statuses.try_send(self.status(String::new()));
        let sets = self.client.clone().subscribe(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok((statuses, sets))
    }

    /// `None` when told to stop.
    async fn follow(
        &mut self,
        statuses: &mpsc::Sender<proto::ProxyStatus>,
        mut sets: Streaming<proto::PolicySet>,
        stop: &CancellationToken,
    ) -> Option<()> {
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => Event::Stop,
                () = decay_at(self.decays) => Event::Decay,
                set = sets.message() => match set {
                    Ok(Some(set)) => Event::Set(set),
                    Ok(None) => Event::Ended(Status::unavailable("the control plane closed the stream")),
                    Err(error) => Event::Ended(error),
                },
            };
            match event {
                Event::Set(set) => {
                    let refused = self.take(set).err().unwrap_or_default();
                    // a full channel means that the control plane does not read; it is told with the next set
                    let _ = statuses.try_send(self.status(refused));
                }
                Event::Decay => self.decay(),
                Event::Ended(error) => {
                    warn!(%error, "the policy stream ended; the last good policy holds");
                    return Some(());
                }
                Event::Stop => return None,
            }
        }
    }

    /// Enforces a set, or says why not.
    fn take(&mut self, set: proto::PolicySet) -> Result<(), String> {
        let set = PolicySet::try_from(set).map_err(|error| {
            add(&self.current.load().tally.policies_refused, 1);
            warn!(%error, "policy refused whole; the one before stays");
            error.to_string()
        })?;
        let in_force = set.sequence == self.newest.0 && set.issued_unix_nano == self.newest.1 && self.decays.is_some();
        // a control plane that lost its count issues lower numbers, but later
        let outdated = set.sequence < self.newest.0 && set.issued_unix_nano <= self.newest.1;
        if outdated {
            return Err(format!("sequence {} is older than {}", set.sequence, self.newest.0));
        }
        // a control plane of which nothing can be enforced regulates no more than one that is silent
        self.current.load().policy_news.send_replace(Some(Instant::now()));
        if in_force {
            self.decays = set.ttl().map(|ttl| Instant::now() + ttl);
            return Ok(());
        }
        info!(sequence = set.sequence, policies = set.policies.len(), "policy in force");
        self.enforce(set, Origin::ControlPlane);
        // a sync takes longer than a swap may: the set holds first and is kept beside
        if let Some(keeper) = &self.keeper {
            keeper.keep(self.current.load().applied.load_full());
        }
        Ok(())
    }

    fn enforce(&mut self, set: PolicySet, origin: Origin) {
        self.newest = (set.sequence, set.issued_unix_nano);
        self.decays = set.ttl().map(|ttl| Instant::now() + ttl);
        Workload::enforce(&self.current, origin, Arc::new(set));
        add(&self.current.load().tally.policies_applied, 1);
    }

    fn decay(&mut self) {
        warn!(sequence = self.newest.0, "no news of the policy for its time to live; the static limits hold");
        self.decays = None;
        Workload::decay(&self.current);
    }

    fn status(&self, refused: String) -> proto::ProxyStatus {
        let workload = self.current.load();
        let Workload { service, instance, .. } = &**workload;
        let (service, instance) = (service.clone(), instance.clone());
        proto::ProxyStatus { service, instance, applied_sequence: self.newest.0, refused }
    }
}

async fn decay_at(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
