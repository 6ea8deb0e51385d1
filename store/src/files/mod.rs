//! Files of tables: Parquet written by us, listed by a Delta log that other readers understand.

mod delta;
mod fsync;
mod parquet_file;

pub(crate) use delta::DeltaTable;
