//! `weir backup` and `weir restore`: a copy of all tables while requests are taken, and its rows added
//! to a store that is in use. A copy is a data folder of its own: `weir serve --data` opens it too.

use anyhow::Context;
use serde_json::{Value, json};

use crate::{
    cli::{BackupArgs, RestoreArgs},
    exit::{Exit, Unreachable},
    output,
    server::complete_backup,
    target::{Target, client},
};

/// Runs `weir backup`.
///
/// # Errors
/// A name that is taken, a store that cannot be reached, or a disk that fails.
pub async fn run(args: BackupArgs) -> Result<Exit, anyhow::Error> {
    let target = Target::open_existing(&args.target).await?;
    let made = match &target {
        Target::Local(store) => {
            let path = store.backup(&args.name).await.context("making the backup")?;
            json!({ "name": args.name, "path": path })
        }
        Target::Remote(server) => post(&format!("{}/api/v1/backups", server.web), json!({ "name": args.name })).await?,
    };
    target.close().await?;
    output::line(&made.to_string())?;
    Ok(Exit::Ok)
}

/// Runs `weir restore`.
///
/// # Errors
/// A name that is no whole backup, a store that cannot be reached, or a disk that fails.
pub async fn restore(args: RestoreArgs) -> Result<Exit, anyhow::Error> {
    let target = Target::open_with_backups(&args.target).await?;
    let restored = match &target {
        Target::Local(store) => {
            let restored = store.restore(&args.name).await.context("restoring the backup")?;
            // rates and edges of the minutes that were open when it was made
            if restored.files > 0 {
                complete_backup(store, &args.name).await.context("counting what was restored")?;
            }
            json!(restored)
        }
        Target::Remote(server) => {
            post(&format!("{}/api/v1/backups/{}/restore", server.web, args.name), json!({})).await?
        }
    };
    target.close().await?;
    output::line(&restored.to_string())?;
    Ok(Exit::Ok)
}

async fn post(url: &str, body: Value) -> Result<Value, anyhow::Error> {
    let sent = client()?.post(url).json(&body).send().await;
    let response = sent.map_err(|error| Unreachable(format!("{url} does not answer: {error}")))?;
    let status = response.status();
    let answer: Value = response.json().await.unwrap_or_default();
    anyhow::ensure!(
        status.is_success(),
        "{url} answered {status}: {}",
        answer["error"]["message"].as_str().unwrap_or_default()
    );
    Ok(answer)
}
