//! The log of weir itself: lines on stderr, `WEIR_LOG` chooses what (default: `info` for our own
//! crates, `warn` for libraries and for the demo's sidecars).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging; a second call does nothing.
pub fn start() {
    let default = "warn,weir=info,weir_store=info,weir_collector=info,weir_analyzer=info,weir_web=info,weir_proxy=warn";
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let started =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).try_init();
    drop(started); // an embedding test has its own subscriber
}
