//! How connections come in at the doors: within a [`Bound`], which several doors may share, and only
//! kept when they begin to speak in time ([`begins`]).

mod begins;
mod bound;
mod connections;

pub use begins::begins;
pub use bound::Bound;
pub use connections::Connections;
