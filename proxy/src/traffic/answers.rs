//! [`Answers`]: the answers under way on one HTTP/2 connection, and which of them wait for their client.
//!
//! A client that gives no window is waited for by hyper, which then asks a body for nothing more: no timer inside the
//! body would ever ring. So the connection looks from outside, now and then, and takes the places and the upstream's
//! connection from answers that were not asked on for too long. The socket of such a client is fine, and so is the
//! rest of its connection.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use crate::traffic::body::Observed;

/// Those that have handed on a part and not all.
#[derive(Default)]
pub(crate) struct Answers {
    under_way: RefCell<HashMap<u64, Weak<RefCell<Observed>>, foldhash::fast::RandomState>>,
    next: Cell<u64>,
}

/// One of them; no longer one when dropped.
pub(crate) struct UnderWay {
    among: Rc<Answers>,
    number: u64,
}

impl Answers {
    pub(crate) fn enter(self: &Rc<Self>, answer: &Rc<RefCell<Observed>>) -> UnderWay {
        let number = self.next.replace(self.next.get() + 1);
        self.under_way.borrow_mut().insert(number, Rc::downgrade(answer));
        UnderWay { among: self.clone(), number }
    }

    /// Ends those whose client has taken nothing for `patience`, and says how many.
    pub(crate) fn end_unread(&self, patience: Duration, now: Instant) -> usize {
        // beforehand, because one that ends leaves the map
        let all: Vec<_> = self.under_way.borrow().values().filter_map(Weak::upgrade).collect();
        all.iter().filter(|answer| answer.borrow_mut().end_if_unread(patience, now)).count()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.among.under_way.borrow_mut().remove(&self.number);
    }
}
