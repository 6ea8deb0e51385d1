//! [`watch_files`]: reads the configuration again when one of its files changes or on SIGHUP, which also asks for a new
//! access log where the old one was moved away.
//!
//! The texts are compared, not the times of files, because mounted configuration is swapped by
//! symbolic links. A change must be seen twice the same before it counts: editors write in pieces. What is refused although
//! nothing is wrong with the texts (a port that is taken, a certificate that is not there yet) is tried again.

use std::{io, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::{config_files::ConfigFiles, proxy::Proxy};

/// A second between two looks: soon for a person, nothing for a disk.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// 10 s until what was refused for a passing reason is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// What is known of the files.
struct Watch {
    /// What was taken, or refused, last.
    told: ConfigFiles,
    /// What the last look found.
    seen: ConfigFiles,
    /// When to try again what was refused for a passing reason.
    again: Option<Instant>,
}

/// Follows the files until dropped; what cannot be used is logged, told by `/config` and counted, and changes nothing.
/// `in_force` is what the proxy was started with.
///
/// # Errors
/// No handler for SIGHUP can be had.
pub async fn watch_files(proxy: &Proxy, in_force: ConfigFiles) -> io::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut watch = Watch::new(in_force);
    loop {
        let asked = tokio::select! {
            _ = hang_up.recv() => {
                proxy.reopen_access_log();
                true
            }
            () = tokio::time::sleep(LOOK_EVERY) => watch.again.is_some_and(|at| at <= Instant::now()),
        };
        watch.look(proxy, asked).await;
    }
}

impl Watch {
    fn new(in_force: ConfigFiles) -> Self {
        Self { told: in_force.clone(), seen: in_force, again: None }
    }

    /// Takes what is there if it has changed and settled, or if that is `asked` for.
    async fn look(&mut self, proxy: &Proxy, asked: bool) {
        let last = self.seen.clone();
        let files =
            tokio::task::spawn_blocking(move || last.again()).await.unwrap_or_else(|e| Err(io::Error::other(e)));
        let files = match files {
            Ok(files) => files,
            Err(error) if asked => {
                self.again = None;
                return proxy.refuse_config(&format!("{}: {error}", self.told.path.display()));
            }
            // on its way to be replaced
            Err(_) => return,
        };
        let settled = files == self.seen && files != self.told;
        self.seen = files;
        if asked || settled {
            self.told = self.seen.clone();
            self.again = take(proxy, &self.told).await;
        }
    }
}

/// Puts files in force, or says when to try them again, if ever; the proxy itself notes why they were refused.
async fn take(proxy: &Proxy, files: &ConfigFiles) -> Option<Instant> {
    let config = match files.config() {
        Ok(config) => config,
        Err(error) => {
            proxy.refuse_config(&format!("{}: {error}", files.path.display()));
            return None;
        }
    };
    let passes = proxy.reload(config).await.err().is_some_and(|error| error.may_pass());
    passes.then(|| Instant::now() + TRY_AGAIN)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    /// A port that was taken, or a certificate that came a moment later, needed an edit or a signal.
    #[tokio::test]
    async fn what_is_refused_for_a_passing_reason_is_tried_again() {
        let listener =
            |address: &str| format!("{{ address: '{address}', direction: inbound, routes: [{{ upstream: app }}] }}");
        let text = |listeners: &str| {
            let upstreams = "upstreams: [{ name: app, endpoints: ['127.0.0.1:9001'] }]";
            format!("service: app\nthreads: 1\nlisteners: [{listeners}]\n{upstreams}")
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.yaml");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            ConfigFiles::read(&path).unwrap()
        };
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, second) = (listener("127.0.0.1:0"), listener(&holder.local_addr().unwrap().to_string()));
        let proxy = Proxy::start(read(&text(&first)).config().unwrap()).unwrap();
        let both = text(&format!("{first}, {second}"));
        for (text, again) in
            [("service: [", false), (&*text(&first).replace("service: app", "service: other"), false), (&*both, true)]
        {
            assert_eq!(take(&proxy, &read(text)).await.is_some(), again, "{text}");
        }
        drop(holder);
        assert_eq!(take(&proxy, &read(&both)).await, None);
        assert_eq!(proxy.addresses().len(), 2);
        proxy.drain().await;
    }

    /// A `VirtualService` whose rule is called `name`.
    fn virtual_service(name: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: app }}\n\
             spec: {{ hosts: [app], http: [{{ name: {name}, route: [{{ destination: {{ host: app }} }}] }}] }}\n"
        )
    }

    /// As the kubelet replaces a mounted `ConfigMap`: a new folder, then the link `..data` is renamed over.
    fn mount(folder: &Path, version: &str, istio: Option<&str>) {
        let data = folder.join(format!("..{version}"));
        fs::create_dir(&data).unwrap();
        if let Some(text) = istio {
            fs::write(data.join("routes.yaml"), text).unwrap();
        }
        symlink(&data, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    }

    /// Once only `proxy.yaml` itself was looked at, and a change of the routes it names waited for a restart.
    #[tokio::test]
    async fn istio_s_files_are_followed_through_the_links_of_a_mount() {
        let folder = tempfile::tempdir().unwrap();
        let (path, routes) = (folder.path().join("proxy.yaml"), folder.path().join("routes.yaml"));
        mount(folder.path(), "1", Some(&virtual_service("first")));
        symlink("..data/routes.yaml", &routes).unwrap();
        let text = format!(
            "service: app\nthreads: 1\nlisteners: [{{ address: '127.0.0.1:0', direction: outbound, istio: [{routes:?}] }}]\n\
             upstreams: [{{ name: app, endpoints: ['127.0.0.1:9001'] }}]"
        );
        fs::write(&path, text).unwrap();
        let files = ConfigFiles::read(&path).unwrap();
        let proxy = Proxy::start(files.config().unwrap()).unwrap();
        let mut watch = Watch::new(files);
        let state = || {
            let route = proxy.config().listeners[0].routes[0].name.clone().unwrap();
            let (counters, refused) = (proxy.counters(), proxy.refused_config().is_some());
            (route, counters.configs_applied, counters.configs_refused, refused)
        };
        for (version, istio, after) in [
            ("2", Some(virtual_service("second")), ("second", 1, 0, false)),
            ("3", Some(virtual_service("third").replace("hosts", "hoists")), ("second", 1, 1, true)),
            ("4", None, ("second", 1, 2, true)),
            ("5", Some(virtual_service("fifth")), ("fifth", 2, 2, false)),
        ] {
            let before = state();
            mount(folder.path(), version, istio.as_deref());
            watch.look(&proxy, false).await;
            assert_eq!(state(), before, "{version}: it may be half written");
            for _ in 0..2 {
                watch.look(&proxy, false).await;
                assert_eq!(state(), (after.0.to_owned(), after.1, after.2, after.3), "{version}");
            }
        }
        proxy.drain().await;
    }
}
