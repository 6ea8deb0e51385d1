//! [`OpenConnections`]: the connections open on one data thread, of all its listeners, and whose they are.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
};

use crate::workload::Workload;

/// How many are open, altogether and by client.
#[derive(Debug, Default)]
pub(crate) struct OpenConnections {
    all: Cell<usize>,
    by_client: RefCell<HashMap<IpAddr, usize, foldhash::fast::RandomState>>,
}

/// Counts as an open connection until it is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    among: Rc<OpenConnections>,
    client: IpAddr,
}

impl OpenConnections {
    /// One more of `client`; `None` when there are as many as may be.
    pub(crate) fn enter(self: &Rc<Self>, client: IpAddr, workload: &Workload) -> Option<Open> {
        let all = self.all.get();
        let mut by_client = self.by_client.borrow_mut();
        let of_client = by_client.get(&client).copied().unwrap_or_default();
        if all >= workload.max_connections || of_client >= workload.connections_of(client) {
            return None;
        }
        self.all.set(all + 1);
        by_client.insert(client, of_client + 1);
        Some(Open { among: self.clone(), client })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Self { among, client } = self;
        among.all.set(among.all.get() - 1);
        let mut by_client = among.by_client.borrow_mut();
        // the last one takes the entry with it, or clients that come and go would fill the map
        match by_client.get_mut(client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(by_client.remove(client)),
        }
    }
}
