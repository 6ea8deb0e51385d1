//! The command line: every subcommand and its flags. Precedence is flag > `WEIR_*` > file > default.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures and regulates a service mesh.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole loop on this machine: a mesh, a fault, its finding, and the policy that answers it
    Demo(DemoArgs),
    /// Collect, store, analyze and regulate
    Serve(ServeArgs),
    /// Ask the stored traces a question in SQL
    Sql(SqlArgs),
    /// Bring recorded spans into a store
    Import(ImportArgs),
    /// Analyze stored spans of a time range, after an incident
    ///
    /// Memory is bounded whatever the length of the range: some 300 MB of requests, and what a server's analyzer takes. Of more requests than fit
    /// (one to two million spans and their log lines, of range and baseline together) root causes rest on a half, a quarter, …, whole requests
    /// chosen by trace id; medians of services are over every second, fourth, … window of more than 512. The report says so.
    Analyze(AnalyzeArgs),
    /// Ask what would happen if one service had more arrivals, other servers or another service time
    #[command(name = "whatif")]
    WhatIf(WhatIfArgs),
    /// Show one trace as a waterfall
    Trace(TraceArgs),
    /// Copy all tables, while requests are taken
    Backup(BackupArgs),
    /// Add the rows of a backup to a store, once
    Restore(RestoreArgs),
    /// Certify workloads for mutual TLS, where there is no other authority
    Ca(CaArgs),
    /// Check this machine: ports, disk, clock, OTLP round trip
    Doctor(DoctorArgs),
    /// Show or check the configuration
    Config(ConfigArgs),
}

/// Where servers listen.
#[derive(Clone, Debug, Default, Args)]
pub struct ListenArgs {
    /// OTLP/gRPC and the policy stream [default: 127.0.0.1:4317]
    #[arg(long, value_name = "ADDR")]
    pub otlp_grpc: Option<String>,
    /// OTLP/HTTP [default: 127.0.0.1:4318]
    #[arg(long, value_name = "ADDR")]
    pub otlp_http: Option<String>,
    /// Web UI and HTTP API [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    pub web: Option<String>,
    /// PostgreSQL wire protocol, read-only [default: 127.0.0.1:5433]
    #[arg(long, value_name = "ADDR")]
    pub pg: Option<String>,
}

/// `weir demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Length of the whole script, at least 20 s
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub duration: std::time::Duration,
    /// Seed of arrivals and service times
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Keep the store here instead of in a temporary folder
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Recorded arrivals: CSV with TIMESTAMP,ContextTokens,GeneratedTokens; their pattern is kept, scaled to the demo's rate
    #[arg(long, value_name = "FILE")]
    pub arrivals: Option<PathBuf>,
    /// No live progress line; end after the summary
    #[arg(long)]
    pub headless: bool,
    /// Print the summary as one JSON object on the last line of stdout, then end
    #[arg(long)]
    pub json: bool,
    /// Where to listen.
    #[command(flatten)]
    pub listen: ListenArgs,
}

/// `weir serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub config: Option<PathBuf>,
    /// The data folder [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to listen.
    #[command(flatten)]
    pub listen: ListenArgs,
}

/// Which store a command talks to.
#[derive(Clone, Debug, Args)]
#[group(multiple = false)]
pub struct TargetArgs {
    /// The data folder [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// A running server, e.g. http://127.0.0.1:7070
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

/// How `weir sql` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people
    Table,
    /// One JSON object a row
    Json,
    /// Comma-separated with a header
    Csv,
    /// Arrow IPC stream
    Arrow,
    /// A Parquet file
    Parquet,
}

/// `weir sql`.
#[derive(Clone, Debug, Args)]
pub struct SqlArgs {
    /// The statement: one SELECT; without it, a prompt
    pub statement: Option<String>,
    /// Which store.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Output format [default: table on a terminal, else csv]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
}

/// `weir backup`.
#[derive(Clone, Debug, Args)]
pub struct BackupArgs {
    /// Its name: it becomes the folder `backups/NAME` in the data folder
    pub name: String,
    /// Which store.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `weir restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// The backup's name: the folder `backups/NAME` in the data folder
    pub name: String,
    /// Which store.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `weir import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// OTLP JSON/JSONL/protobuf, Jaeger JSON, Zipkin v2 JSON or Parquet
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Which store.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// `weir analyze`.
#[derive(Clone, Debug, Args)]
pub struct AnalyzeArgs {
    /// Start of the incident, RFC 3339
    #[arg(long, value_name = "T", value_parser = timestamp)]
    pub from: i64,
    /// End of the incident, RFC 3339
    #[arg(long, value_name = "T", value_parser = timestamp)]
    pub to: i64,
    /// Start of a time to compare with [default: the hour before --from]
    #[arg(long, value_name = "T", value_parser = timestamp, requires = "baseline_to")]
    pub baseline_from: Option<i64>,
    /// End of that time
    #[arg(long, value_name = "T", value_parser = timestamp, requires = "baseline_from")]
    pub baseline_to: Option<i64>,
    /// Configuration file of the server: its `analyzer` part holds here too
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub config: Option<PathBuf>,
    /// Which store.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print JSON instead of a report
    #[arg(long)]
    pub json: bool,
}

/// `weir whatif`.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["arrivals", "servers", "service_time"]))]
pub struct WhatIfArgs {
    /// The service that changes
    #[arg(long, value_name = "S")]
    pub service: String,
    /// Only this operation of it: its arrivals, its service time
    #[arg(long, value_name = "NAME")]
    pub operation: Option<String>,
    /// Its arrivals times this, e.g. ×1.5; the calls it makes grow with them
    #[arg(long, value_name = "×F", value_parser = factor)]
    pub arrivals: Option<f64>,
    /// Servers more or fewer, e.g. +2
    #[arg(long, value_name = "+N", allow_hyphen_values = true)]
    pub servers: Option<i64>,
    /// Its service time times this, e.g. ×0.5
    #[arg(long, value_name = "×F", value_parser = factor)]
    pub service_time: Option<f64>,
    /// Start of stored spans to look at instead of what a server sees now, RFC 3339
    #[arg(long, value_name = "T", value_parser = timestamp, requires = "to")]
    pub from: Option<i64>,
    /// Their end; the last whole window before it is taken
    #[arg(long, value_name = "T", value_parser = timestamp, requires = "from")]
    pub to: Option<i64>,
    /// Configuration file of the server: its `analyzer` part holds for stored spans; a running server has its own
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub config: Option<PathBuf>,
    /// Which store.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

/// `weir trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// The trace id, 32 hex digits
    pub id: String,
    /// Which store.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print JSON instead of a waterfall
    #[arg(long)]
    pub json: bool,
}

/// `weir ca`.
#[derive(Clone, Debug, Args)]
pub struct CaArgs {
    /// What to do
    #[command(subcommand)]
    pub action: CaAction,
}

/// `weir ca init`, `issue`, `renew` and `inspect`.
#[derive(Clone, Debug, Subcommand)]
pub enum CaAction {
    /// Make a root; one that is there is never overwritten
    Init {
        /// The folder of the root
        #[arg(long, value_name = "DIR", default_value = "weir-ca")]
        ca: PathBuf,
        /// Whom it vouches for: the ids spiffe://TRUST_DOMAIN/…
        #[arg(long, value_name = "TRUST_DOMAIN", default_value = "cluster.local")]
        trust_domain: String,
        /// How long it lives, e.g. 87600h
        #[arg(long, default_value = "87600h", value_parser = duration)]
        lifetime: std::time::Duration,
    },
    /// Certify a workload: tls.crt, tls.key and ca.crt in a folder of its own
    Issue {
        /// The folder of the root
        #[arg(long, value_name = "DIR", default_value = "weir-ca")]
        ca: PathBuf,
        /// The workload, e.g. spiffe://cluster.local/ns/shop/sa/tagger
        #[arg(value_name = "SPIFFE_ID")]
        id: String,
        /// A host name for clients that know no SPIFFE; may be given several times
        #[arg(long = "dns", value_name = "NAME")]
        dns_names: Vec<String>,
        /// The folder of the workload
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long the certificate lives, e.g. 24h
        #[arg(long, default_value = "24h", value_parser = duration)]
        lifetime: std::time::Duration,
    },
    /// Certify a workload anew: the same names, a new key; its proxy takes it without a restart
    Renew {
        /// The folder of the root
        #[arg(long, value_name = "DIR", default_value = "weir-ca")]
        ca: PathBuf,
        /// The folder of the workload
        #[arg(value_name = "DIR")]
        out: PathBuf,
        /// How long the certificate lives, e.g. 24h
        #[arg(long, default_value = "24h", value_parser = duration)]
        lifetime: std::time::Duration,
    },
    /// Say what is in a certificate
    Inspect {
        /// A PEM file with one certificate or more
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// `weir doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub config: Option<PathBuf>,
    /// The data folder [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print JSON instead of a list
    #[arg(long)]
    pub json: bool,
}

/// `weir config`.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// What to do with it
    #[command(subcommand)]
    pub action: ConfigAction,
}

/// `weir config show` and `weir config check`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigAction {
    /// Print the effective configuration as YAML
    Show {
        /// Configuration file
        #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Check a configuration file and say what is wrong with it
    Check {
        /// Configuration file
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
}

/// RFC 3339 to nanoseconds since the Unix epoch.
fn timestamp(text: &str) -> Result<i64, String> {
    let time: jiff::Timestamp =
        text.parse().map_err(|error| format!("{text:?} is not RFC 3339 such as 2022-08-23T12:00:00Z: {error}"))?;
    i64::try_from(time.as_nanosecond()).map_err(|_| format!("{text:?} is out of range"))
}

/// `×1.5`, `x1.5` or `1.5`.
fn factor(text: &str) -> Result<f64, String> {
    let digits = text.trim_start_matches(['×', 'x', '*']);
    let value = digits.parse::<f64>().ok().filter(|value| *value > 0.0 && value.is_finite());
    value.ok_or_else(|| format!("{text:?} is not a factor above 0 such as ×1.5"))
}

/// `60s`, `5m`, `1500ms`, `1h`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let expected = || format!("{text:?} is not a duration such as 60s, 5m or 1500ms");
    let span: jiff::SignedDuration = text.parse().map_err(|_| expected())?;
    std::time::Duration::try_from(span).map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_or_refused() {
        assert_eq!(duration("1500ms"), Ok(std::time::Duration::from_millis(1_500)));
        assert!(duration("-1s").is_err() && duration("soon").is_err());
        assert_eq!(timestamp("1970-01-01T00:00:01Z"), Ok(1_000_000_000));
        assert!(timestamp("yesterday").is_err());
        assert_eq!([factor("×1.5"), factor("x1.5"), factor("1.5")], [Ok(1.5), Ok(1.5), Ok(1.5)]);
        assert!(factor("-1").is_err() && factor("much").is_err());
    }
}
