//! What runs beside the traffic, on a thread of its own: the policy stream, its copy on disk, and the
//! admin address.

mod admin;
mod endpoints;
mod follow;
mod hold;
mod in_force;
mod metrics;
mod reach;
mod state;
mod statuses;
mod thread;

pub(crate) use admin::{Admin, serve as serve_admin};
pub(crate) use follow::{Follower, Remembered};
pub(crate) use in_force::InForce;
pub(crate) use reach::Reach;
pub(crate) use state::{Keeper, StateFile};
pub(crate) use thread::Control;
