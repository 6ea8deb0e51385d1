//! [`Table`]: the tables, each with its name and columns.

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::{Signal, columns};

/// A table of the store; its folder is `<data>/tables/<name>/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// One row per span, as received.
    Spans,
    /// One row per log record.
    Logs,
    /// One row per metric data point.
    Metrics,
    /// RED per minute, service, operation and kind. Rows add up: a late span makes a second row.
    Operations,
    /// Calls per minute, caller and callee. Rows add up, as in `operations`.
    Edges,
    /// Each change of a finding's state.
    Findings,
    /// Each change of policy, with its reason.
    PolicyChanges,
    /// Each alert and each attempt to deliver it.
    Alerts,
    /// When each trace ran and how it began. A trace that came in several flushes has a row for each.
    TraceIndex,
    /// Which services sent what, hour by hour.
    Services,
    /// Which attribute keys were seen, with which types, hour by hour.
    AttributeKeys,
}

impl Table {
    /// All tables, in the order docs list them.
    pub const ALL: [Self; 11] = [
        Self::Spans,
        Self::Logs,
        Self::Metrics,
        Self::Operations,
        Self::Edges,
        Self::Findings,
        Self::PolicyChanges,
        Self::Alerts,
        Self::TraceIndex,
        Self::Services,
        Self::AttributeKeys,
    ];

    /// Its name in SQL and on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Spans => "spans",
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::Operations => "operations",
            Self::Edges => "edges",
            Self::Findings => "findings",
            Self::PolicyChanges => "policy_changes",
            Self::Alerts => "alerts",
            Self::TraceIndex => "trace_index",
            Self::Services => "services",
            Self::AttributeKeys => "attribute_keys",
        }
    }

    /// The table of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// The table that an OTLP signal's records go to.
    #[must_use]
    pub fn of(signal: Signal) -> Self {
        match signal {
            Signal::Traces => Self::Spans,
            Signal::Metrics => Self::Metrics,
            Signal::Logs => Self::Logs,
        }
    }

    /// Its columns.
    #[must_use]
    pub fn schema(self) -> SchemaRef {
        columns::schema(self)
    }

    /// The column that rows are sorted and pruned by.
    #[must_use]
    pub fn time_column(self) -> &'static str {
        match self {
            Self::Spans | Self::TraceIndex => "start_unix_nano",
            Self::Services | Self::AttributeKeys => "hour_unix_nano",
            Self::Operations | Self::Edges => "minute_unix_nano",
            Self::Logs | Self::Metrics | Self::Findings | Self::PolicyChanges | Self::Alerts => "time_unix_nano",
        }
    }
}
