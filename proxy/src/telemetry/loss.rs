//! [`Loss`]: why a span or an access log did not reach the collector.

/// One reason; each has its own count in `weir_proxy_dropped_spans_total` and `weir_proxy_dropped_logs_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The data thread's ring was full: the control thread did not come to empty it.
    RingFull,
    /// As many waited for the collector as may (`telemetry.queue_records`).
    QueueFull,
    /// The collector said that it will not take it however often it is sent.
    Refused,
    /// The collector was away, or too busy, for longer than `telemetry.retry_ms`; access logs are tried once.
    Unavailable,
    /// The proxy stopped, and `telemetry.flush_ms` were over.
    Stopped,
}

impl Loss {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their counts.
    pub(crate) const ALL: [Self; 5] =
        [Self::RingFull, Self::QueueFull, Self::Refused, Self::Unavailable, Self::Stopped];

    /// As in the label `reason`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Stopped => "stopped",
        }
    }
}
