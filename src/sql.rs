//! `weir sql`: one statement against a folder or a running server, printed as it comes; without a
//! statement, a prompt.

mod print;
mod prompt;
mod statements;

use std::io::{IsTerminal, Read};

use crate::{
    cli::{Format, SqlArgs},
    exit::Exit,
    target::Target,
};

/// Runs `weir sql`.
///
/// # Errors
/// A store that cannot be reached, or a statement that is refused or fails.
pub async fn run(args: SqlArgs) -> Result<Exit, anyhow::Error> {
    let target = Target::open_existing(&args.target).await?;
    let default = if std::io::stdout().is_terminal() { Format::Table } else { Format::Csv };
    let format = args.format.unwrap_or(default);
    let ended = match args.statement {
        Some(statement) => once(&target, &statement, format).await,
        None if std::io::stdin().is_terminal() => prompt::run(&target, format).await,
        None => {
            let mut statement = String::new();
            std::io::stdin().read_to_string(&mut statement)?;
            once(&target, &statement, format).await
        }
    };
    target.close().await?;
    ended.map(|()| Exit::Ok)
}

async fn once(target: &Target, statement: &str, format: Format) -> Result<(), anyhow::Error> {
    tokio::select! {
        printed = print::run(target, statement, format) => printed,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("cancelled")),
    }
}
