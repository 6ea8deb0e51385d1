//! [`Verdict`]: what the bytes behind an upgrade are: a tunnel's, or the next request's.
//!
//! Only the answer tells, so the guard holds them back until the answer is known.

use std::{
    sync::atomic::{AtomicU8, Ordering::Relaxed},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

/// What became of an upgrade that a request asked for; the answer decides it.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    state: AtomicU8,
    reader: AtomicWaker,
}

const NONE: u8 = 0;
const HELD: u8 = 1;
const HTTP: u8 = 2;
const TUNNEL: u8 = 3;

impl Verdict {
    /// Whether bytes wait for it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.state.load(Relaxed) == HELD
    }

    /// Holds what comes now.
    pub(super) fn hold(&self) {
        self.state.store(HELD, Relaxed);
    }

    /// Lets the bytes go on, as a tunnel or as the next request.
    pub(crate) fn settle(&self, tunnel: bool) {
        self.state.store(if tunnel { TUNNEL } else { HTTP }, Relaxed);
        self.reader.wake();
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
