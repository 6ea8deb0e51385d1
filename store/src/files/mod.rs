//! Files of tables: Parquet written by us, listed by a Delta log that other readers understand.

mod delta;
mod hashed;
mod merge;
mod order;
mod origin;
mod parquet_file;
mod recompress;
mod row_group;
mod splice;

pub(crate) use delta::{Commit, DeltaTable};
pub(crate) use hashed::{Hasher, Tail, hash, hash_of, is_intact, is_tail_intact};
pub(crate) use merge::{Merge, SMALL_ROWS, plan as plan_merge};
pub(crate) use order::id_as_number;
pub(crate) use origin::Origin;
pub(crate) use parquet_file::{Encoding, Level, NewFile, RowsInOrder, read as read_rows, write};
pub(crate) use recompress::Recompression;
pub(crate) use splice::splice;
