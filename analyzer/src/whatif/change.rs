//! [`Change`]: what is asked, whether it can be, and what it means for the service: of one operation, through the mix of all.
//!
//! Operations share their service's queue. With shares pᵢ, means Sᵢ and variations cᵢ² the mixture has `S = Σ pᵢSᵢ` and
//! `1 + cs² = Σ pᵢSᵢ²(1 + cᵢ²)/S²`, and those two moments are what the wait follows (L. Kleinrock, "Queueing Systems, Volume II",
//! 1976, section 3.2, for M/G/1).

use serde::{Deserialize, Serialize};

use super::{mix::Mix, services};
use crate::{
    config::MAX_SERVERS,
    model::Model,
    snapshot::{Estimate, OperationTime, Snapshot},
};

/// What is changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Of which service.
    pub service: String,
    /// Of this operation only: its arrivals and its service time.
    #[serde(default)]
    pub operation: Option<String>,
    /// Arrivals are multiplied by this, and with them the calls that are made for them.
    #[serde(default = "one")]
    pub arrivals: f64,
    /// Servers added, or taken away.
    #[serde(default)]
    pub servers: i64,
    /// Its service time is multiplied by this.
    #[serde(default = "one")]
    pub service_time: f64,
}

/// A change that cannot be asked for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WhatIfError {
    /// Nothing of that name had traffic.
    #[error("no service {0} had traffic in the window looked at")]
    NoSuchService(String),
    /// The service has no such operation, or its service time is not known.
    #[error("of {service} no operation {operation} has a known service time in the window looked at")]
    NoSuchOperation {
        /// Of which service.
        service: String,
        /// What was asked.
        operation: String,
    },
    /// A factor that is not one.
    #[error("{field} {value}: must be a number above 0 and at most 1000")]
    Factor {
        /// Which.
        field: &'static str,
        /// What was given.
        value: f64,
    },
    /// Fewer than one server would be left.
    #[error("servers {change:+}: {service} has {servers}, and at least 1 must be left")]
    TooFewServers {
        /// Of which service.
        service: String,
        /// How many it has.
        servers: u32,
        /// What was asked.
        change: i64,
    },
    /// More servers than anybody has, and than can be solved in no time.
    #[error("servers {change:+}: must be at most {MAX_SERVERS} more or less")]
    TooManyServers {
        /// What was asked.
        change: i64,
    },
    /// Something else than arrivals was changed of a model server.
    #[error(
        "{field}: {service} streams a model's answers in batches, and of these only other arrivals can be replayed"
    )]
    OfBatches {
        /// Of which service.
        service: String,
        /// What was changed.
        field: &'static str,
    },
    /// Servers were changed of a service whose number is not known.
    #[error("servers: how many {service} has is not known: {reason}")]
    UnknownServers {
        /// Of which service.
        service: String,
        /// Why.
        reason: String,
    },
}

/// A change as its service feels it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Factors {
    pub(super) arrivals: f64,
    pub(super) service_time: f64,
    pub(super) cs2: f64,
    pub(super) servers: i64,
    /// What its requests are, by who asks it then; none of them takes longer for that.
    pub(super) mix: Mix,
}

impl Factors {
    pub(super) const NONE: Self = Self { arrivals: 1.0, service_time: 1.0, cs2: 1.0, servers: 0, mix: Mix::AS_NOW };

    /// S then; what a server is held for by calls to others stays.
    pub(super) fn service_time_ms(&self, now_ms: f64, estimate: &Estimate) -> f64 {
        let held_ms = estimate.held_ms.unwrap_or(0.0);
        (now_ms - held_ms).max(0.0) * self.service_time + held_ms
    }
}

fn one() -> f64 {
    1.0
}

impl Change {
    /// What it means, or why it cannot be asked.
    pub(super) fn factors(&self, snapshot: &Snapshot) -> Result<Factors, WhatIfError> {
        let found = services(snapshot).find(|s| s.service == self.service && s.rate_per_s > 0.0);
        let service = found.ok_or_else(|| WhatIfError::NoSuchService(self.service.clone()))?;
        for (field, value) in [("arrivals", self.arrivals), ("service_time", self.service_time)] {
            if !(value > 0.0 && value <= 1_000.0) {
                return Err(WhatIfError::Factor { field, value });
            }
        }
        if Model::of(&service.estimate) == Some(Model::Lm) {
            self.validate_of_batches()?;
        }
        self.validate_servers(&service.estimate)?;
        let (arrivals, service_time, servers) = (self.arrivals, self.service_time, self.servers);
        let whole = Factors { arrivals, service_time, servers, ..Factors::NONE };
        match &self.operation {
            None => Ok(whole),
            Some(operation) => self.of_operation(operation, &service.estimate.operations, whole),
        }
    }

    fn validate_of_batches(&self) -> Result<(), WhatIfError> {
        let other = [
            ("servers", self.servers != 0),
            ("service_time", self.service_time != 1.0),
            ("operation", self.operation.is_some()),
        ];
        match other.into_iter().find(|(_, changed)| *changed) {
            Some((field, _)) => Err(WhatIfError::OfBatches { service: self.service.clone(), field }),
            None => Ok(()),
        }
    }

    fn validate_servers(&self, estimate: &Estimate) -> Result<(), WhatIfError> {
        if self.servers == 0 {
            return Ok(());
        }
        if self.servers.unsigned_abs() > u64::from(MAX_SERVERS) {
            return Err(WhatIfError::TooManyServers { change: self.servers });
        }
        let Some(servers) = estimate.servers else {
            let reason = estimate.reason.clone().unwrap_or_default();
            return Err(WhatIfError::UnknownServers { service: self.service.clone(), reason });
        };
        match i64::from(servers) + self.servers {
            1.. => Ok(()),
            _ => Err(WhatIfError::TooFewServers { service: self.service.clone(), servers, change: self.servers }),
        }
    }

    /// The mix with more or longer requests of one operation beside the mix now.
    fn of_operation(&self, name: &str, all: &[OperationTime], whole: Factors) -> Result<Factors, WhatIfError> {
        let then: Vec<OperationTime> = all
            .iter()
            .cloned()
            .map(|mut operation| {
                if operation.operation == name {
                    operation.share *= self.arrivals;
                    operation.service_time_ms *= self.service_time;
                }
                operation
            })
            .collect();
        let (mixed, mixed_then) = (Operations::of(all), Operations::of(&then));
        match mixed.zip(mixed_then).filter(|_| all.iter().any(|operation| operation.operation == name)) {
            Some((now, then)) => Ok(Factors {
                arrivals: then.share / now.share,
                service_time: then.mean / now.mean,
                cs2: if now.cs2 > 0.0 { then.cs2 / now.cs2 } else { 1.0 },
                ..whole
            }),
            None => Err(WhatIfError::NoSuchOperation { service: self.service.clone(), operation: name.to_owned() }),
        }
    }
}

/// Operations taken together.
struct Operations {
    share: f64,
    mean: f64,
    cs2: f64,
}

impl Operations {
    fn of(operations: &[OperationTime]) -> Option<Self> {
        let share: f64 = operations.iter().map(|o| o.share).sum();
        let mean = operations.iter().map(|o| o.share * o.service_time_ms).sum::<f64>() / share;
        let second =
            operations.iter().map(|o| o.share * o.service_time_ms.powi(2) * (1.0 + o.cs2)).sum::<f64>() / share;
        (share > 0.0 && mean > 0.0).then(|| Self { share, mean, cs2: (second / (mean * mean) - 1.0).max(0.0) })
    }
}
