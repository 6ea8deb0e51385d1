//! The recorded day: distinct spans in the order in which they ended, with kinds read off who calls whom.

use std::{collections::HashMap, fs::File, path::Path};

use arrow::{array::AsArray, datatypes::Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The recorded day: each span once, in the order in which they ended.
pub(crate) struct Recording {
    pub(crate) spans: Vec<Recorded>,
    pub(crate) pods: Vec<String>,
    pub(crate) operations: Vec<String>,
}

pub(crate) struct Recorded {
    pub(crate) trace: u32,
    /// Its place among the distinct spans: what its id is made from.
    pub(crate) ordinal: u32,
    pub(crate) parent: Parent,
    pub(crate) pod: usize,
    pub(crate) operation: usize,
    pub(crate) start_unix_nano: i64,
    pub(crate) duration_ns: i64,
    pub(crate) kind: Kind,
    /// The service that a client span calls.
    pub(crate) callee: Option<usize>,
}

#[derive(Clone, Copy)]
pub(crate) enum Parent {
    Root,
    Recorded(u32),
    /// The parent's id was recorded, the parent was not.
    Missing(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

impl Recording {
    pub(crate) fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| {
            eprintln!(
                "{}: {error}\nthe recorded spans are not part of the project: see compare/store/README.md",
                path.display()
            );
            std::process::exit(3);
        });
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let mut recording = Self { spans: Vec::new(), pods: Vec::new(), operations: Vec::new() };
        let (mut traces, mut seen, mut parent_ids) = (Names::default(), HashMap::new(), Vec::new());
        let (mut pods, mut operations) = (Names::default(), Names::default());
        for batch in reader {
            let batch = batch.unwrap();
            let text = |name| batch.column_by_name(name).unwrap().as_string::<i32>();
            let number = |name| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>();
            let (trace_ids, span_ids, parents) = (text("trace_id"), text("span_id"), text("parent_id"));
            let (pod_names, operation_names) = (text("pod"), text("operation"));
            let (starts, ends) = (number("start_unix_nano"), number("end_unix_nano"));
            for row in 0..batch.num_rows() {
                let trace = traces.place(trace_ids.value(row)) as u32;
                let span = xxh3_64_with_seed(span_ids.value(row).as_bytes(), 0);
                let ordinal = recording.spans.len() as u32;
                if seen.contains_key(&(trace, span)) {
                    continue; // overlapping recordings repeat rows exactly
                }
                seen.insert((trace, span), ordinal);
                parent_ids.push(parents.value(row).to_owned());
                recording.spans.push(Recorded {
                    trace,
                    ordinal,
                    parent: Parent::Root,
                    pod: pods.place(pod_names.value(row)),
                    operation: operations.place(operation_names.value(row)),
                    start_unix_nano: starts.value(row),
                    duration_ns: (ends.value(row) - starts.value(row)).max(0),
                    kind: Kind::Internal,
                    callee: None,
                });
            }
        }
        (recording.pods, recording.operations) = (pods.names, operations.names);
        recording.link(&parent_ids, &seen);
        recording.spans.sort_by_key(|span| (span.start_unix_nano + span.duration_ns, span.ordinal));
        recording
    }

    /// Parents by place, and from them the kinds: a span with its parent in another pod serves, that parent calls.
    fn link(&mut self, parent_ids: &[String], seen: &HashMap<(u32, u64), u32>) {
        for (place, parent_id) in parent_ids.iter().enumerate() {
            if parent_id == "root" {
                self.spans[place].kind = Kind::Server;
                continue;
            }
            let parent = xxh3_64_with_seed(parent_id.as_bytes(), 0);
            let Some(&found) = seen.get(&(self.spans[place].trace, parent)) else {
                self.spans[place].parent = Parent::Missing(parent);
                self.spans[place].kind = Kind::Server;
                continue;
            };
            self.spans[place].parent = Parent::Recorded(found);
            let pod = self.spans[place].pod;
            if self.spans[found as usize].pod != pod {
                self.spans[place].kind = Kind::Server;
                self.spans[found as usize].callee = Some(pod);
            }
        }
        for span in &mut self.spans {
            if span.callee.is_some() && span.kind == Kind::Internal {
                span.kind = Kind::Client;
            }
        }
    }
}

/// Strings in the order in which they were first seen.
#[derive(Default)]
struct Names {
    names: Vec<String>,
    places: HashMap<String, usize>,
}

impl Names {
    fn place(&mut self, name: &str) -> usize {
        if let Some(&place) = self.places.get(name) {
            return place;
        }
        self.names.push(name.to_owned());
        self.places.insert(name.to_owned(), self.names.len() - 1);
        self.names.len() - 1
    }
}

/// A pod's service is its name without the two parts that are hashes.
pub(crate) fn service(pod: &str) -> &str {
    pod.rsplitn(3, '-').last().unwrap_or(pod)
}
