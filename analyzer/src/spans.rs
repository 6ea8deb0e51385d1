//! [`Span`]: one span, as small as the analysis needs it.

mod columns;
mod maybe;
mod name_column;
mod said;
mod whole;

use std::num::NonZeroU16;

pub use columns::SPAN_COLUMNS;
pub(crate) use columns::SpanColumns;
pub(crate) use maybe::MaybeNs;
use weir_schema::UnixNanos;

pub(crate) use crate::names::{Name, Names};

/// What side of a call a span saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Server,
    Client,
    Internal,
    #[default]
    Unspecified,
}

/// One span, as small as the analysis needs it: 128 bytes, up to which a copy is no call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) trace: u128,
    pub(crate) id: u64,
    /// 0 for a root.
    pub(crate) parent: u64,
    pub(crate) start: UnixNanos,
    pub(crate) duration_ns: i64,
    pub(crate) service: Name,
    pub(crate) operation: Name,
    pub(crate) kind: Name,
    pub(crate) side: Side,
    pub(crate) error: bool,
    /// Whether its caller left before the answer: no fault of this service's.
    pub(crate) abandoned: bool,
    /// The other end, where the span names one: who is called, or of a server span who calls.
    pub(crate) peer: Option<Name>,
    pub(crate) peer_kind: crate::snapshot::NodeKind,
    pub(crate) instance: Option<Name>,
    /// How many requests the replica works on at once, as its sidecar says.
    pub(crate) servers: Option<NonZeroU16>,
    pub(crate) queue_wait_ns: MaybeNs,
    /// Whether the proxy turned it away.
    pub(crate) shed: bool,
    /// Whether it did so for want of room: a limit on who may be there was reached.
    pub(crate) refused: bool,
    /// Attempts that failed before the one it tells of: a proxy makes one span of all of them.
    pub(crate) repeats: u16,
    /// Whether it is an attempt after one that failed, by its own word: who instruments code makes a span of each.
    pub(crate) is_repeat: bool,
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) first_token_ns: MaybeNs,
    /// How many spans it stands for, see `spans/whole.rs`.
    pub(crate) weight: u32,
    /// Whether others like it were left out: 4/3 as a whole number is 1 for two traces of three, and they are sampled.
    pub(crate) sampled: bool,
}

impl Default for Span {
    fn default() -> Self {
        Self {
            trace: 0,
            id: 0,
            parent: 0,
            start: 0,
            duration_ns: 0,
            service: 0,
            operation: 0,
            kind: 0,
            side: Side::default(),
            error: false,
            abandoned: false,
            peer: None,
            peer_kind: crate::snapshot::NodeKind::Service,
            instance: None,
            servers: None,
            queue_wait_ns: MaybeNs::default(),
            shed: false,
            refused: false,
            repeats: 0,
            is_repeat: false,
            input_tokens: 0,
            output_tokens: 0,
            first_token_ns: MaybeNs::default(),
            weight: 1,
            sampled: false,
        }
    }
}

impl Span {
    pub(crate) fn end(&self) -> UnixNanos {
        self.start.saturating_add(self.duration_ns)
    }

    pub(crate) fn key(&self) -> (u128, u64) {
        (self.trace, self.id)
    }
}
