//! What lies between a client's socket and hyper: which protocol it speaks, whether its bytes may be
//! read at all, and the bytes that pass without being read.
//!
//! hyper reads requests kindly and hands them on normalised, so what it was lax about cannot be seen
//! any more. [`Guard`] therefore reads the bytes first, in place and without keeping them.

mod detect;
mod frames;
mod guard;
mod head;
mod http1;
mod splice;
mod verdict;
mod violation;

pub(crate) use detect::{Detected, detect};
pub(crate) use guard::{Guard, Patience};
pub(crate) use head::is_authority;
pub(crate) use splice::{Ended, splice};
pub(crate) use verdict::Verdict;
pub(crate) use violation::Violation;
