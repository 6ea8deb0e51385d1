//! [`Follower`]: follows the policy stream, applies each set whole, and answers what became of it.
//!
//! A set that cannot be enforced is refused whole and the one before stays. Any message is news; when
//! none came for the set's TTL, limits decay to the static configuration, never to "unlimited".

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};
use weir_policy::{
    ConcurrencyLimit, PolicySet,
    wire::proto::{self, policy_service_client::PolicyServiceClient},
};

use crate::{
    config::PolicySource,
    control::{Keeper, Reach, StateFile, state::Kept, statuses::Statuses},
    counters::add,
    telemetry::jittered,
    workload::{Current, Origin, Workload},
};

/// The first wait before the stream is opened again; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);

/// 5 s: a control plane that restarts finds its proxies soon.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// 10 s for the answer to a subscription, which needs nothing of the control plane but to be there; as for a call to the collector.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The loop that follows.
pub(crate) struct Follower {
    current: Current,
    reach: Reach,
    /// No policy may hold a service to fewer requests per second.
    min_rate_per_s: f64,
    keeper: Option<Keeper>,
    /// Which control plane is followed.
    from: String,
    /// What was accepted last, of it or of the one before.
    last: Remembered,
}

/// What is enforced of an earlier run, or of another control plane, until the control plane speaks.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    /// Whose it is, if that is known.
    from: Option<String>,
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

impl Remembered {
    /// Enforces what was kept of the last run, unless it has outlived its time since it was last heard.
    pub(crate) fn enforce(Kept { set, from, age }: Kept, current: &Current) -> Self {
        let (newest, now) = ((set.sequence, set.issued_unix_nano), Instant::now());
        let left = set.ttl().map(|ttl| ttl.saturating_sub(age));
        if left.is_some_and(|left| left.is_zero()) {
            warn!(
                sequence = set.sequence,
                "the policy kept from the last run has outlived its time; the static limits hold"
            );
            Workload::decay(current);
            return Self { from, newest, decays: None };
        }
        info!(sequence = set.sequence, "enforcing the policy kept from the last run");
        Workload::enforce(current, Origin::Disk, Arc::new(set));
        add(&current.load().tally.policies_applied, 1);
        Self { from, newest, decays: left.map(|left| now + left) }
    }

    /// Which number a set of the control plane at `from` must not be older than: each counts by itself.
    fn newest_of(&self, from: &str) -> (u64, u64) {
        if self.from.as_deref() == Some(from) { self.newest } else { (0, 0) }
    }
}

impl Follower {
    /// Goes on from what is `remembered`; within a runtime. `None` if the address is none.
    pub(crate) fn new(
        current: Current,
        PolicySource { from, min_rate_per_s, .. }: PolicySource,
        state: Option<StateFile>,
        remembered: Remembered,
    ) -> Option<Self> {
        let tls = current.load().security.control_plane_tls();
        let reach = Reach::new(from.clone(), tls)?;
        let keeper = state.map(|state| Keeper::start(state, &from));
        // whose it is nobody knows is taken for this one's
        let last = Remembered { from: remembered.from.or_else(|| Some(from.clone())), ..remembered };
        Some(Self { current, reach, min_rate_per_s, keeper, from, last })
    }

    /// Follows until `stop`; the newest set is on disk when it returns, with what another one would go on from.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Remembered {
        self.follow_until(stop).await;
        if let Some(keeper) = self.keeper {
            keeper.finish().await;
        }
        self.last
    }

    async fn follow_until(&mut self, stop: CancellationToken) {
        let mut backoff = MIN_BACKOFF;
        loop {
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                () = decay_at(self.last.decays) => { self.decay(); continue }
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
                () = decay_at(self.last.decays) => self.decay(),
                () = tokio::time::sleep(jittered(backoff)) => backoff = (backoff * 2).min(MAX_BACKOFF),
            }
        }
    }

    async fn open(&self) -> Result<(Statuses, Streaming<proto::PolicySet>), Status> {
        let tally = self.current.load().tally.clone();
        let (statuses, outgoing) = Statuses::begin(self.status(String::new()), tally);
        // a connection of its own: the one before may be dead without a word
        let mut client = PolicyServiceClient::new(self.reach.channel());
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, client.subscribe(outgoing)).await;
        let sets = answered.map_err(|_| Status::deadline_exceeded("no answer in time"))??.into_inner();
        Ok((statuses, sets))
    }

    /// `None` when told to stop.
    async fn follow(
        &mut self,
        statuses: &Statuses,
        mut sets: Streaming<proto::PolicySet>,
        stop: &CancellationToken,
    ) -> Option<()> {
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => Event::Stop,
                () = decay_at(self.last.decays) => Event::Decay,
                set = sets.message() => match set {
                    Ok(Some(set)) => Event::Set(set),
                    Ok(None) => Event::Ended(Status::unavailable("the control plane closed the stream")),
                    Err(error) => Event::Ended(error),
                },
            };
            match event {
                Event::Set(set) => {
                    let refused = self.take(set).err().unwrap_or_default();
                    statuses.say(self.status(refused));
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
        let set = PolicySet::try_from(set).map_err(|error| error.to_string());
        let set = set.and_then(|set| self.bearable(set)).inspect_err(|error| {
            add(&self.current.load().tally.policies_refused, 1);
            warn!(%error, "policy refused whole; the one before stays");
        })?;
        let newest = self.newest();
        // the same set may come with another share of it
        let in_force = (set.sequence, set.issued_unix_nano) == newest
            && self.is_regulated()
            && set == **self.current.load().applied.load();
        // a control plane that lost its count issues lower numbers, but later
        let outdated = set.sequence < newest.0 && set.issued_unix_nano <= newest.1;
        if outdated {
            return Err(format!("sequence {} is older than {}", set.sequence, newest.0));
        }
        // a control plane of which nothing can be enforced regulates no more than one that is silent
        self.current.load().policy_news.send_replace(Some(Instant::now()));
        if in_force {
            self.last.decays = set.ttl().map(|ttl| Instant::now() + ttl);
            self.keeper.iter().for_each(Keeper::heard);
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

    /// A set that does not strangle this service: a rate below the least is refused, and a concurrency limit is not let
    /// leave workers idle.
    fn bearable(&self, mut set: PolicySet) -> Result<PolicySet, String> {
        let workload = self.current.load();
        let servers = workload.servers.and_then(NonZeroU32::new);
        for (index, policy) in set.policies.iter_mut().enumerate().filter(|(_, p)| p.service == workload.service) {
            let rate_per_s = policy.rate_limit.map(|rate| rate.rate_per_s());
            if let Some(rate_per_s) = rate_per_s.filter(|rate| *rate < self.min_rate_per_s) {
                let (min, key) = (self.min_rate_per_s, "rate_limit.rate_per_s");
                return Err(format!("policies[{index}].{key} is {rate_per_s}: policy.min_rate_per_s is {min}"));
            }
            if let (None, Some(asked), Some(servers)) = (&policy.route, policy.concurrency_limit, servers)
                && asked.limit < servers
            {
                // the same set comes again as a sign of life
                if set.sequence != self.newest().0 {
                    warn!(asked = asked.limit, %servers, "a policy would leave workers idle; the limit is their number");
                }
                policy.concurrency_limit = Some(ConcurrencyLimit { limit: servers, ..asked });
            }
        }
        Ok(set)
    }

    /// Which set of this control plane none may be older than.
    fn newest(&self) -> (u64, u64) {
        self.last.newest_of(&self.from)
    }

    /// Whether a set is in force that was not made of the file.
    fn is_regulated(&self) -> bool {
        matches!(self.current.load().origin.lock().0, Origin::ControlPlane | Origin::Disk)
    }

    fn enforce(&mut self, set: PolicySet, origin: Origin) {
        let (newest, decays) = ((set.sequence, set.issued_unix_nano), set.ttl().map(|ttl| Instant::now() + ttl));
        self.last = Remembered { from: Some(self.from.clone()), newest, decays };
        Workload::enforce(&self.current, origin, Arc::new(set));
        add(&self.current.load().tally.policies_applied, 1);
    }

    fn decay(&mut self) {
        warn!(sequence = self.last.newest.0, "no news of the policy for its time to live; the static limits hold");
        self.last.decays = None;
        Workload::decay(&self.current);
    }

    fn status(&self, refused: String) -> proto::ProxyStatus {
        let workload = self.current.load();
        let Workload { service, instance, .. } = &**workload;
        let (service, instance) = (service.clone(), instance.clone());
        // that of another control plane too: what is in force is no less in force
        let applied_sequence = workload.applied.load().sequence;
        proto::ProxyStatus { service, instance, applied_sequence, refused }
    }
}

async fn decay_at(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
