//! [`watch_file`]: reads the configuration again when its file changes or on SIGHUP, which also asks for a new access log
//! where the old one was moved away.
//!
//! The text is compared, not the time of the file, because mounted configuration is swapped by
//! symbolic links. A change must be seen twice the same before it counts: editors write in pieces. What is refused although
//! nothing is wrong with the text (a port that is taken, a certificate that is not there yet) is tried again.

use std::{path::Path, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::{config::Config, proxy::Proxy};

/// A second between two looks: soon for a person, nothing for a disk.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// 10 s until what was refused for a passing reason is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Follows the file until dropped; what cannot be used is logged, told by `/config`, and changes nothing.
///
/// # Errors
/// No handler for SIGHUP can be had.
pub async fn watch_file(proxy: &Proxy, path: &Path, mut in_force: String) -> std::io::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut seen = in_force.clone();
    let mut again: Option<Instant> = None;
    loop {
        let asked = tokio::select! {
            _ = hang_up.recv() => {
                proxy.reopen_access_log();
                true
            }
            () = tokio::time::sleep(LOOK_EVERY) => again.is_some_and(|at| at <= Instant::now()),
        };
        let text = match tokio::fs::read_to_string(path).await {
            Ok(text) => text,
            Err(error) if asked => {
                again = None;
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
            again = take(proxy, path, &in_force).await;
        }
    }
}

/// Puts a text in force, or says when to try it again, if ever; the proxy itself notes why it was refused.
async fn take(proxy: &Proxy, path: &Path, text: &str) -> Option<Instant> {
    let config = match Config::from_yaml(text) {
        Ok(config) => config,
        Err(error) => {
            proxy.refuse_config(&format!("{}: {error}", path.display()));
            return None;
        }
    };
    let passes = proxy.reload(config).await.err().is_some_and(|error| error.may_pass());
    passes.then(|| Instant::now() + TRY_AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found in a review: a port that was taken, or a certificate that came a moment later, needed an edit or a signal.
    #[tokio::test]
    async fn what_is_refused_for_a_passing_reason_is_tried_again() {
        let listener =
            |address: &str| format!("{{ address: '{address}', direction: inbound, routes: [{{ upstream: app }}] }}");
        let text = |listeners: &str| {
            let upstreams = "upstreams: [{ name: app, endpoints: ['127.0.0.1:9001'] }]";
            format!("service: app\nthreads: 1\nlisteners: [{listeners}]\n{upstreams}")
        };
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, second) = (listener("127.0.0.1:0"), listener(&holder.local_addr().unwrap().to_string()));
        let proxy = Proxy::start(Config::from_yaml(&text(&first)).unwrap()).unwrap();
        let (path, both) = (Path::new("proxy.yaml"), text(&format!("{first}, {second}")));
        for (text, again) in
            [("service: [", false), (&*text(&first).replace("service: app", "service: other"), false), (&*both, true)]
        {
            assert_eq!(take(&proxy, path, text).await.is_some(), again, "{text}");
        }
        drop(holder);
        assert_eq!(take(&proxy, path, &both).await, None);
        assert_eq!(proxy.addresses().len(), 2);
        proxy.drain().await;
    }
}
