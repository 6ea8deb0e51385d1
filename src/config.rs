//! [`Config`]: the one configuration, composed of the crates' own, read from a YAML file and the
//! environment. Precedence: flag > `WEIR_*` > file > default. Unknown keys are errors that suggest
//! the nearest known one.
//!
//! File → validated `Config` → running parts; nothing reads the environment later.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    providers::{Env, Serialized},
};
use serde::{Deserialize, Serialize};
use weir_proxy::suggest;
use weir_schema::InvalidSetting;

use crate::{
    cli::{ConfigAction, ConfigArgs, ListenArgs, TargetArgs},
    exit::{ConfigError, Exit},
    memory, output,
};

/// The data folder when none is named.
pub const DEFAULT_DATA: &str = "weir-data";

/// Everything `weir serve` can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The data folder.
    pub data: PathBuf,
    /// Where to listen.
    pub listen: Listen,
    /// Allows listening beyond loopback although there is no authentication.
    pub insecure: bool,
    /// OTLP in, policy out.
    pub collector: weir_collector::Config,
    /// Log, memory, files, queries. `dir` is the data folder.
    pub store: weir_store::Config,
    /// Windows, estimates, findings, control.
    pub analyzer: weir_analyzer::Config,
    /// Pages, API, webhooks.
    pub web: weir_web::Config,
}

/// Where to listen. All default to loopback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// OTLP/gRPC and the policy stream.
    pub otlp_grpc: SocketAddr,
    /// OTLP/HTTP.
    pub otlp_http: SocketAddr,
    /// Web UI and HTTP API.
    pub web: SocketAddr,
    /// PostgreSQL wire protocol, read-only.
    pub pg: SocketAddr,
}

impl TargetArgs {
    /// The store of the flags, else the data folder of the configuration.
    #[must_use]
    pub(crate) fn or_data_of(&self, config: &Config) -> Self {
        let data = self.data.clone().or_else(|| self.url.is_none().then(|| config.data.clone()));
        Self { data, url: self.url.clone() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: DEFAULT_DATA.into(),
            listen: Listen::default(),
            insecure: false,
            collector: Default::default(),
            store: Default::default(),
            analyzer: Default::default(),
            web: Default::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { otlp_grpc: loopback(4317), otlp_http: loopback(4318), web: loopback(7070), pg: loopback(5433) }
    }
}

impl Config {
    /// Reads the file, if one is named, then the environment, makes the memory bounds that are in neither fit, and checks the result.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the key.
    pub fn load(file: Option<&Path>) -> Result<Self, anyhow::Error> {
        let mut given = Figment::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|e| ConfigError(format!("{}: {e}", path.display())))?;
            let file = check_file(&text).map_err(|why| ConfigError(format!("{}: {why}", path.display())))?;
            given = given.merge(Serialized::defaults(file));
        }
        // WEIR_CONFIG and WEIR_LOG are read elsewhere; WEIR_STORE__FLUSH_ROWS is store.flush_rows
        let environment = Env::prefixed("WEIR_").ignore(&["config", "log"]).split("__");
        let given = given.merge(environment);
        let figment = Figment::from(Serialized::defaults(Self::default())).merge(&given);
        let mut config: Self = figment.extract().map_err(|e| ConfigError(suggest(&e.to_string())))?;
        memory::fit(&mut config, |key| given.contains(key), weir_proxy::given_bytes());
        config.validate()?;
        Ok(config)
    }

    /// Puts the flags on top.
    ///
    /// # Errors
    /// An address that cannot be read, or one beyond loopback without `insecure`.
    pub fn with_flags(mut self, data: Option<PathBuf>, listen: &ListenArgs) -> Result<Self, anyhow::Error> {
        if let Some(data) = data {
            self.data = data;
        }
        let flags = [
            ("--otlp-grpc", &listen.otlp_grpc, &mut self.listen.otlp_grpc),
            ("--otlp-http", &listen.otlp_http, &mut self.listen.otlp_http),
            ("--web", &listen.web, &mut self.listen.web),
            ("--pg", &listen.pg, &mut self.listen.pg),
        ];
        for (flag, given, address) in flags {
            if let Some(text) = given {
                *address = text.parse().map_err(|_| ConfigError(format!("{flag} {text:?} is not ADDRESS:PORT")))?;
            }
        }
        self.validate()?;
        self.can_serve()?;
        Ok(self)
    }

    /// The store's part, in the data folder.
    #[must_use]
    pub fn store(&self) -> weir_store::Config {
        weir_store::Config { dir: self.data.clone(), ..self.store.clone() }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let Listen { otlp_grpc, otlp_http, web, pg } = &self.listen;
        let doors = [("otlp_grpc", otlp_grpc), ("otlp_http", otlp_http), ("web", web), ("pg", pg)];
        for (key, address) in doors {
            if !address.ip().is_loopback() && !self.insecure {
                let why = "is reachable from other machines and there is no authentication: set `insecure: true` to accept that";
                return Err(ConfigError(format!("listen.{key}: {address} {why}")));
            }
        }
        let within = |section| move |invalid: InvalidSetting| ConfigError(invalid.within(section).to_string());
        self.collector.validate().map_err(within("collector"))?;
        self.store.validate().map_err(within("store"))?;
        self.analyzer.validate().map_err(within("analyzer"))?;
        self.web.validate().map_err(within("web"))
    }

    /// What a server needs, when flags have had their say.
    fn can_serve(&self) -> Result<(), ConfigError> {
        if self.data.as_os_str().is_empty() {
            return Err(ConfigError("data: must name a folder".into()));
        }
        let Listen { otlp_grpc, otlp_http, web, pg } = &self.listen;
        let doors = [("otlp_grpc", otlp_grpc), ("otlp_http", otlp_http), ("web", web), ("pg", pg)];
        for (place, (key, address)) in doors.iter().enumerate() {
            if let Some((other, _)) = doors[..place].iter().find(|(_, other)| other == address && other.port() > 0) {
                let why = format!("listen.{key}: {address} is that of listen.{other}: each needs one of its own");
                return Err(ConfigError(why));
            }
        }
        Ok(())
    }
}

/// Runs `weir config`.
///
/// # Errors
/// A configuration that cannot be used.
pub fn run(args: ConfigArgs) -> Result<Exit, anyhow::Error> {
    match args.action {
        ConfigAction::Show { config } => {
            let config = Config::load(config.as_deref())?;
            output::bytes(serde_saphyr::to_string(&config)?.as_bytes())?;
        }
        ConfigAction::Check { config } => {
            Config::load(Some(&config))?.can_serve()?;
            output::note(&format!("{}: ok", config.display()));
        }
    }
    Ok(Exit::Ok)
}

/// Reads a file twice: as a `Config`, so that an error has its line, and as it stands, so that keys
/// it leaves out do not hide the environment.
fn check_file(text: &str) -> Result<serde_json::Value, String> {
    if text.trim().is_empty() {
        return Ok(serde_json::json!({}));
    }
    serde_saphyr::from_str::<Config>(text).map_err(|error| suggest(&error.to_string()))?;
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_with_a_suggestion() {
        let why = check_file("dta: /var/lib/weir\n").unwrap_err();
        assert!(why.contains("unknown field `dta`"), "{why}");
        assert!(why.ends_with("did you mean `data`?"), "{why}");
        let why = check_file("store:\n  flush_row: 5\n").unwrap_err();
        assert!(why.ends_with("did you mean `flush_rows`?"), "{why}");
    }

    #[test]
    fn listening_beyond_loopback_needs_insecure() {
        let listen = ListenArgs { web: Some("0.0.0.0:7070".into()), ..ListenArgs::default() };
        let refused = Config::default().with_flags(None, &listen).unwrap_err().to_string();
        assert!(refused.starts_with("listen.web: 0.0.0.0:7070"), "{refused}");
        let insecure = Config { insecure: true, ..Config::default() };
        assert!(insecure.with_flags(None, &listen).is_ok());
    }

    #[test]
    fn what_cannot_serve_is_named() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().and_then(|()| config.can_serve()).unwrap_err().to_string()
        };
        let same = refused(|config| config.listen.pg = config.listen.web);
        assert!(same.starts_with("listen.pg: 127.0.0.1:7070 is that of listen.web"), "{same}");
        assert!(refused(|config| config.data = PathBuf::new()).starts_with("data: "));
        assert!(refused(|config| config.store.sql.max_rows = 0).starts_with("store.sql.max_rows: "));
        assert!(
            refused(|config| config.collector.max_in_flight_bytes = 100).starts_with("collector.max_in_flight_bytes: ")
        );
        assert!(refused(|config| config.collector.max_body_bytes = 50).starts_with("collector.max_body_bytes: "));
    }

    #[test]
    fn what_may_be_in_flight_bounds_the_largest_request_unless_the_file_says_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weir.yaml");
        std::fs::write(&file, "collector:\n  max_in_flight_bytes: 16777216\n").unwrap();
        let config = Config::load(Some(&file)).unwrap();
        assert_eq!((config.collector.max_in_flight_bytes, config.collector.max_body_bytes), (16 << 20, 8 << 20));
        std::fs::write(&file, "collector:\n  max_in_flight_bytes: 16777216\n  max_body_bytes: 16777216\n").unwrap();
        let refused = Config::load(Some(&file)).unwrap_err().to_string();
        assert!(refused.contains("collector.max_in_flight_bytes"), "{refused}");
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let shown = serde_saphyr::to_string(&Config::default()).unwrap();
        check_file(&shown).unwrap_or_else(|why| panic!("{why}\n{shown}"));
    }
}
