//! [`watch_file`]: reads the configuration again when its file changes or on SIGHUP.
//!
//! The text is compared, not the time of the file, because mounted configuration is swapped by
//! symbolic links. A change must be seen twice the same before it counts: editors write in pieces.

use std::{path::Path, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use crate::{config::Config, proxy::Proxy};

/// A second between two looks: soon for a person, nothing for a disk.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Follows the file until dropped; what cannot be used is logged, told by `/config`, and changes nothing.
///
/// # Errors
/// No handler for SIGHUP can be had.
pub async fn watch_file(proxy: &Proxy, path: &Path, mut in_force: String) -> std::io::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut seen = in_force.clone();
    loop {
        let asked = tokio::select! {
            _ = hang_up.recv() => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        let text = match tokio::fs::read_to_string(path).await {
            Ok(text) => text,
            Err(error) if asked => {
                proxy.refuse_config(&format!("{}: {error}", path.display()));
                continue;
            }
            // on its way to be replaced
            Err(_) => continue,
        };
        let settled = text == seen && text != in_force;
        seen.clone_from(&text);
        if asked || settled {
            in_force = text;
            match Config::from_yaml(&in_force) {
                // refusals are noted by the proxy itself
                Ok(config) => drop(proxy.reload(config).await),
                Err(error) => proxy.refuse_config(&format!("{}: {error}", path.display())),
            }
        }
    }
}
