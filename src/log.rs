//! The log of weir itself: lines on stderr, `WEIR_LOG` chooses what. Without it a server says what it
//! does (`info`), and a command only what is wrong (`warn`), because its output is for a person.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A process that runs until it is stopped.
    Server,
    /// A command that ends by itself.
    Command,
}

/// Starts logging; a second call does nothing.
pub fn start(speaker: Speaker) {
    let default = match speaker {
        Speaker::Server => "warn,weir=info,weir_store=info,weir_collector=info,weir_analyzer=info,weir_web=info",
        Speaker::Command => "warn",
    };
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let started =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).try_init();
    drop(started); // an embedding test has its own subscriber
}
