//! [`Inspection`]: looks at data files before a statement reads them. A damaged one is left out, the
//! committer is told to set it aside, and the answer says so.

use std::{
    collections::HashMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use weir_schema::Table;

use crate::{committer::Order, disk::Disk, view::DataFile};

/// So many files that were set aside are named.
const NAMED: usize = 3;

/// The inspection of one statement's files.
#[derive(Debug)]
pub(super) struct Inspection {
    disk: Arc<dyn Disk>,
    orders: mpsc::Sender<Order>,
    /// Files that were set aside, `table/name`.
    quarantined: Vec<String>,
    warnings: Mutex<Vec<String>>,
    lacks_files: AtomicBool,
    /// What the statement reads.
    passed: Mutex<HashMap<PathBuf, (Table, Arc<DataFile>)>>,
}

/// What a statement reads of a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// What says whether it can have a row that is wanted.
    Tail,
    /// Rows.
    Rows,
}

impl Inspection {
    /// `recovering` is what is said of a log that is still being replayed.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        orders: mpsc::Sender<Order>,
        quarantined: Vec<String>,
        recovering: Option<String>,
    ) -> Self {
        let warnings = Mutex::new(recovering.into_iter().collect());
        let (lacks_files, passed) = (AtomicBool::new(false), Mutex::default());
        Self { disk, orders, quarantined, warnings, lacks_files, passed }
    }

    /// A statement reads this table: what was set aside of it is said, and of the log, whose rows may have been of any table.
    pub(super) fn reads(&self, table: Table) {
        let of_table = self.quarantined.iter().filter(|name| name.split('/').next() == Some(table.name()));
        self.left_out(of_table, ["file is", "files are"], "their rows are left out");
        let of_log = self.quarantined.iter().filter(|name| !name.contains('/'));
        self.left_out(
            of_log,
            ["piece of the log is", "pieces of the log are"],
            "rows of this table may be among theirs",
        );
    }

    fn left_out<'a>(&self, names: impl Iterator<Item = &'a String>, what: [&str; 2], so: &str) {
        let names: Vec<&str> = names.map(String::as_str).collect();
        if !names.is_empty() {
            let (count, more) = (names.len(), if names.len() > NAMED { ", ..." } else { "" });
            let (named, what) = (names[..count.min(NAMED)].join(", "), what[usize::from(count > 1)]);
            self.warn(format!("{count} damaged {what} under quarantine/, {so}: {named}{more}"));
        }
    }

    fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Whether a part of a file may be read.
    pub(super) fn passes(&self, table: Table, file: &Arc<DataFile>, path: &Path, part: Part) -> bool {
        if self.disk.entry(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            // it stays in the table: what took it away may bring it back
            self.lacks_files.store(true, Relaxed);
            self.warn(format!("{}/{} is missing: its {} rows are left out", table.name(), file.name, file.rows));
            return false;
        }
        let intact = match part {
            Part::Tail => file.is_tail_intact(self.disk.as_ref(), path),
            Part::Rows => file.is_intact(self.disk.as_ref(), path),
        };
        if intact {
            self.passed.lock().insert(path.to_owned(), (table, file.clone()));
        } else {
            let rows = file.rows;
            self.warn(format!("{}/{} is damaged: its {rows} rows are left out", table.name(), file.name));
            self.set_aside(table, file);
        }
        intact
    }

    /// After a statement failed: files that were intact and are damaged now, by name.
    pub(super) fn look_again(&self) -> Vec<String> {
        let passed = std::mem::take(&mut *self.passed.lock());
        let damaged = passed.into_iter().filter(|(path, (_, file))| !file.look(self.disk.as_ref(), path));
        let named = damaged.map(|(_, (table, file))| {
            self.set_aside(table, &file);
            format!("{}/{}", table.name(), file.name)
        });
        named.collect()
    }

    fn set_aside(&self, table: Table, file: &DataFile) {
        // a committer that is busy is told by the next statement
        let _ = self.orders.try_send(Order::Quarantine(table, file.name.clone()));
    }

    /// Whether a file is missing.
    pub(super) fn lacks_files(&self) -> bool {
        self.lacks_files.load(Relaxed)
    }

    /// What was left out so far.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }
}
