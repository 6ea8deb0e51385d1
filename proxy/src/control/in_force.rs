//! [`InForce`]: the configuration in force and what was opened for it beside the traffic; each reload replaces it whole.

use std::{io, path::Path, sync::Arc};

use tokio_util::task::TaskTracker;

use crate::{
    config::{Config, Secret},
    control::StateFile,
    counters::Tally,
    proxy::StartError,
    telemetry::LogWriter,
};

/// What the control thread obeys.
#[derive(Clone)]
pub(crate) struct InForce {
    pub(crate) config: Arc<Config>,
    /// What a caller at the admin address has to know; nothing when absent.
    pub(crate) token: Option<Secret>,
    pub(crate) access_log: Option<Arc<LogWriter>>,
    /// The access logs that are not written to their end, those of configurations before among them.
    pub(crate) unfinished_logs: TaskTracker,
    /// Where the last good policy is kept.
    pub(crate) state: Option<StateFile>,
}

impl InForce {
    /// Opens what `config` names; what stays as it was `before` goes on.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(crate) fn open(config: Arc<Config>, before: Option<&Self>, tally: &Arc<Tally>) -> Result<Self, StartError> {
        let (token, state) = (admin_token(&config)?, state_file(&config)?);
        let unfinished_logs = before.map(|before| before.unfinished_logs.clone()).unwrap_or_default();
        let access_log = match before.filter(|before| logs_alike(&before.config, &config)) {
            Some(before) => before.access_log.clone(),
            None => open_access_log(&config, tally, &unfinished_logs)?.map(Arc::new),
        };
        Ok(Self { config, token, access_log, unfinished_logs, state })
    }
}

/// Whether both write their access logs to the same place in the same form.
fn logs_alike(a: &Config, b: &Config) -> bool {
    let (a, b) = (&a.telemetry, &b.telemetry);
    (&a.access_log_file, a.access_log_format) == (&b.access_log_file, b.access_log_format)
}

fn admin_token(config: &Config) -> Result<Option<Secret>, StartError> {
    let Some(path) = &config.admin_token_file else { return Ok(config.admin_token.clone()) };
    let key = "admin_token_file";
    let text = std::fs::read_to_string(path).map_err(file_error(key, path))?;
    let token = Secret::new(&text);
    if token.is_empty() {
        return Err(file_error(key, path)(io::Error::other("it is empty: anybody would know the token")));
    }
    Ok(Some(token))
}

fn open_access_log(
    config: &Config,
    tally: &Arc<Tally>,
    unfinished: &TaskTracker,
) -> Result<Option<LogWriter>, StartError> {
    let Some(path) = &config.telemetry.access_log_file else { return Ok(None) };
    let opened = LogWriter::open(path, config.telemetry.access_log_format, tally.clone(), unfinished.token());
    opened.map(Some).map_err(file_error("telemetry.access_log_file", path))
}

fn state_file(config: &Config) -> Result<Option<StateFile>, StartError> {
    let Some(folder) = config.policy.as_ref().and_then(|p| p.state_dir.as_ref()) else { return Ok(None) };
    let file = StateFile::new(folder, &config.service);
    file.map(Some).map_err(|source| StartError::StateDir { folder: folder.display().to_string(), source })
}

fn file_error(key: &'static str, path: &Path) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::File { key, path: path.display().to_string(), source }
}
