//! Exit codes, and the one place where an error becomes one.

use std::process::ExitCode;

/// What a command says when it ends. Usage errors (2) come from the argument parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// It could not.
    Failure = 1,
    /// The configuration is wrong.
    Config = 3,
    /// The server or store cannot be reached.
    Unreachable = 4,
    /// A check failed.
    Check = 5,
}

/// A configuration that cannot be used: the exit code is 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// A server or store that cannot be reached: the exit code is 4.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Prints an error with its causes and chooses the code.
#[must_use]
pub fn of_error(error: &anyhow::Error) -> Exit {
    crate::output::note(&format!("error: {error:#}"));
    if error.chain().any(|cause| cause.is::<ConfigError>()) {
        Exit::Config
    } else if error.chain().any(|cause| cause.is::<Unreachable>()) {
        Exit::Unreachable
    } else {
        Exit::Failure
    }
}
