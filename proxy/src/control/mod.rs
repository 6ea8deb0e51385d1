//! What runs beside the traffic, on a thread of its own: the policy stream, its copy on disk, and the
//! admin address.

mod admin;
mod follow;
mod state;

pub(crate) use admin::{Admin, serve as serve_admin};
pub(crate) use follow::Follower;
pub(crate) use state::StateFile;
