//! [`Inspection`]: looks at data files before a statement reads them. A damaged one is left out, the
//! committer is told to set it aside, and the answer says so.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use weir_schema::Table;

use crate::{committer::Order, disk::Disk, view::DataFile};

/// The inspection of one statement's files.
#[derive(Debug)]
pub(super) struct Inspection {
    disk: Arc<dyn Disk>,
    orders: mpsc::Sender<Order>,
    warnings: Mutex<Vec<String>>,
}

impl Inspection {
    pub(super) fn new(disk: Arc<dyn Disk>, orders: mpsc::Sender<Order>) -> Self {
        Self { disk, orders, warnings: Mutex::default() }
    }

    /// Whether a file may be read.
    pub(super) fn passes(&self, table: Table, file: &DataFile, path: &Path) -> bool {
        let intact = file.is_intact(self.disk.as_ref(), path);
        if !intact {
            let rows = file.rows;
            let warning = format!("{}/{} is damaged: its {rows} rows are left out", table.name(), file.name);
            self.warnings.lock().push(warning);
            // a committer that is busy is told by the next statement
            let _ = self.orders.try_send(Order::Quarantine(table, file.name.clone()));
        }
        intact
    }

    /// What was left out so far.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }
}
