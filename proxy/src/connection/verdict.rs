//! [`Verdict`]: what the bytes behind an upgrade are: a tunnel's, or the next request's.
//!
//! Only the answer tells, so the guard holds them back until the answer is known. Requests that came before it on the same
//! connection may be answered meanwhile, so it is known by its number.

use std::{
    sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

/// What became of an upgrade that a request asked for; the answer decides it.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    state: AtomicU8,
    /// Which request of the connection asked, the first being 1.
    asked: AtomicU64,
    reader: AtomicWaker,
}

const NONE: u8 = 0;
const HELD: u8 = 1;
const HTTP: u8 = 2;
const TUNNEL: u8 = 3;

impl Verdict {
    /// Holds what comes behind the request `number`.
    pub(super) fn hold(&self, number: u64) {
        self.asked.store(number, Relaxed);
        self.state.store(HELD, Relaxed);
    }

    /// The request `number` is answered. If it was the one that asked, the bytes behind it go on, as a tunnel or as the next
    /// request.
    pub(crate) fn settle(&self, number: u64, tunnel: bool) {
        if self.state.load(Relaxed) == HELD && self.asked.load(Relaxed) == number {
            self.state.store(if tunnel { TUNNEL } else { HTTP }, Relaxed);
            self.reader.wake();
        }
    }

    /// Whether they are a tunnel's, once it is known.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<bool> {
        self.reader.register(cx.waker());
        match self.state.load(Relaxed) {
            HELD => Poll::Pending,
            state => {
                self.state.store(NONE, Relaxed);
                Poll::Ready(state == TUNNEL)
            }
        }
    }
}
