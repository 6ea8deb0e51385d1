//! [`Kind`]: what a finding says is wrong. This is the one place that says what each kind means.

use serde::{Deserialize, Serialize};

use crate::causes::CauseKind;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// The service's own time per request is far above its history, and not because more requests come.
    Bottleneck,
    /// One replica is slow beside siblings that are as usual.
    SlowInstance,
    /// Calls take longer than their answers, or a peer that sends no spans (a database, a host) answers late.
    SlowDependency,
    /// Requests fail there while its own calls succeed; of a peer without spans: calls to it fail.
    ErrorSource,
    /// Callers repeat failed calls to it so often that the repeats are a load of their own.
    RetryStorm,
    /// So many more requests arrive at this entry that a service behind it has to let them wait, serving each as
    /// fast as ever. The finding names the entry; `peer` is the service that is loaded most.
    UpstreamSurge,
    /// Requests that succeed no longer make a call that they used to make: an early return, a cache, a new version.
    MissingCalls,
    /// Requests make a call that they did not make before.
    NewCalls,
    /// Requests stop early, fail or call otherwise than before, and the traces do not say which of it: an exception
    /// in code looks like this where no span has a status.
    ChangedCalls,
    /// Its utilization grows by a trend that reaches 1 soon. Nothing is wrong yet.
    SaturationAhead,
    /// For many windows the measured wait is not the one its model predicts: its capacity and headroom, and what they
    /// decide, are not to be relied on. Nothing need be wrong with the service.
    ModelMismatch,
}

/// Whether something is wrong now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Class {
    /// Requests suffer.
    Fault,
    /// They do not, or not yet.
    Outlook,
}

impl Kind {
    /// All of them: each looks at each service in each window.
    pub(crate) const ALL: [Self; 11] = [
        Self::Bottleneck,
        Self::SlowInstance,
        Self::SlowDependency,
        Self::ErrorSource,
        Self::RetryStorm,
        Self::UpstreamSurge,
        Self::MissingCalls,
        Self::NewCalls,
        Self::ChangedCalls,
        Self::SaturationAhead,
        Self::ModelMismatch,
    ];

    /// The kind of a word.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The word in tables, payloads and pages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bottleneck => "bottleneck",
            Self::SlowInstance => "slow_instance",
            Self::SlowDependency => "slow_dependency",
            Self::ErrorSource => "error_source",
            Self::RetryStorm => "retry_storm",
            Self::UpstreamSurge => "upstream_surge",
            Self::MissingCalls => "missing_calls",
            Self::NewCalls => "new_calls",
            Self::ChangedCalls => "changed_calls",
            Self::SaturationAhead => "saturation_ahead",
            Self::ModelMismatch => "model_mismatch",
        }
    }

    pub(crate) fn class(self) -> Class {
        match self {
            Self::SaturationAhead | Self::ModelMismatch => Class::Outlook,
            _ => Class::Fault,
        }
    }

    /// Whether a finding of that name is of a fault. A name of nobody's is.
    pub(crate) fn is_fault(name: &str) -> bool {
        Self::of_name(name).is_none_or(|kind| kind.class() == Class::Fault)
    }

    /// Whether the service that is named is the one to be mended: an entry that is called too often is not.
    pub(crate) fn accuses(name: &str) -> bool {
        Self::is_fault(name) && name != Self::UpstreamSurge.as_str()
    }

    /// What the ranking of traces calls it. Changed calls are told apart by the detectors of calls and errors, where
    /// one of them suspects the same service.
    pub(crate) fn of_cause(cause: CauseKind) -> Self {
        match cause {
            CauseKind::SlowService | CauseKind::StarvedCpu | CauseKind::NoHistory => Self::Bottleneck,
            CauseKind::SlowNetwork => Self::SlowDependency,
            CauseKind::ChangedCalls => Self::ChangedCalls,
        }
    }

    /// Whether a finding of the other kind may turn out to be of this one: late answers are when metrics, which come
    /// later than spans, say that the service lacks CPU.
    pub(crate) fn replaces(self, other: Self) -> bool {
        self.explains(other) || (self, other) == (Self::Bottleneck, Self::SlowDependency)
    }

    /// Whether it says more precisely what the other says of the same service.
    pub(crate) fn explains(self, other: Self) -> bool {
        if other.class() == Class::Outlook {
            return self.class() == Class::Fault;
        }
        match self {
            Self::SlowInstance => matches!(other, Self::Bottleneck),
            Self::RetryStorm => matches!(other, Self::ErrorSource | Self::ChangedCalls | Self::Bottleneck),
            Self::ErrorSource | Self::MissingCalls | Self::NewCalls => matches!(other, Self::ChangedCalls),
            _ => false,
        }
    }
}
