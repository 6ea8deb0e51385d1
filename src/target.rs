//! [`Target`]: the store a command talks to: a data folder opened here, or a running server.
//!
//! A data folder has one writer. When `--data` names the folder of a live server, the command
//! talks to that server instead, so people need not know which of the two they have.

use std::path::{Path, PathBuf};

use anyhow::Context;
use arrow::{buffer::Buffer, datatypes::SchemaRef, ipc::reader::StreamDecoder, record_batch::RecordBatch};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use serde::{Deserialize, Serialize};
use tracing::warn;
use weir_store::{SqlConfig, Store};

use crate::{cli::TargetArgs, config::DEFAULT_DATA, exit::Unreachable};

/// A store, near or far.
pub(crate) enum Target {
    /// Opened in this process.
    Local(Store),
    /// Served by another one.
    Remote(Server),
}

/// A running server: where its doors are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Server {
    /// Web UI and HTTP API.
    pub(crate) web: String,
    /// OTLP/HTTP, when known.
    pub(crate) otlp_http: Option<String>,
    /// OTLP/gRPC, when known.
    pub(crate) otlp_grpc: Option<String>,
}

/// Rows of an answer.
pub(crate) struct Answer {
    /// Their columns.
    pub(crate) schema: SchemaRef,
    /// The rows, batch by batch.
    pub(crate) batches: BoxStream<'static, Result<RecordBatch, anyhow::Error>>,
}

impl Target {
    /// Finds the store that the flags name, opening it or finding its server.
    pub(crate) async fn open(target: &TargetArgs) -> Result<Self, anyhow::Error> {
        if let Some(url) = &target.url {
            let web = url.trim_end_matches('/').to_owned();
            return Ok(Self::Remote(Server { web, otlp_http: None, otlp_grpc: None }));
        }
        let dir = target.data.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA));
        if let Some(server) = Server::of_folder(&dir)? {
            return Ok(Self::Remote(server));
        }
        Ok(Self::Local(open_folder(&dir).await?))
    }

    /// As [`Target::open`], but a folder that holds no store is an error, not a new store.
    pub(crate) async fn open_existing(target: &TargetArgs) -> Result<Self, anyhow::Error> {
        Self::open_holding(target, &["tables", "wal"]).await
    }

    /// As [`Target::open_existing`], but backups put into an empty folder are enough: they become its store.
    pub(crate) async fn open_with_backups(target: &TargetArgs) -> Result<Self, anyhow::Error> {
        Self::open_holding(target, &["backups", "tables", "wal"]).await
    }

    async fn open_holding(target: &TargetArgs, one_of: &[&str]) -> Result<Self, anyhow::Error> {
        if target.url.is_none() {
            let dir = target.data.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA));
            if !one_of.iter().any(|name| dir.join(name).is_dir()) {
                let why = format!(
                    "no store in {}: give --data DIR or --url URL, or fill it with `weir import`",
                    dir.display()
                );
                return Err(Unreachable(why).into());
            }
        }
        Self::open(target).await
    }

    /// Runs one statement.
    pub(crate) async fn query(&self, statement: &str) -> Result<Answer, anyhow::Error> {
        self.query_within(statement, None).await
    }

    /// Runs one statement; these limits hold for a folder that was opened here, a server has its own.
    pub(crate) async fn query_within(
        &self,
        statement: &str,
        limits: Option<SqlConfig>,
    ) -> Result<Answer, anyhow::Error> {
        match self {
            Self::Local(store) => {
                let answer = store.sql(statement, limits).await?;
                answer.warnings.iter().for_each(|warning| warn!("{warning}"));
                let batches = answer.stream.map(|batch| batch.map_err(Into::into)).boxed();
                Ok(Answer { schema: answer.schema, batches })
            }
            Self::Remote(server) => server.query(statement).await,
        }
    }

    /// Closes what was opened.
    pub(crate) async fn close(self) -> Result<(), anyhow::Error> {
        match self {
            Self::Local(store) => store.close().await.context("closing the store"),
            Self::Remote(_) => Ok(()),
        }
    }
}

impl Answer {
    /// All rows in memory: for commands whose statement is bounded.
    pub(crate) async fn collect(mut self) -> Result<Vec<RecordBatch>, anyhow::Error> {
        let mut batches = Vec::new();
        while let Some(batch) = self.batches.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }
}

impl Server {
    /// The server that holds a folder's lock, if one does.
    pub(crate) fn of_folder(dir: &Path) -> Result<Option<Self>, anyhow::Error> {
        let Some(holder) = Store::locked_by(dir) else { return Ok(None) };
        let Some(web) = holder.url else {
            let why = format!(
                "{} is in use by process {}, which serves no API: wait until it ends",
                dir.display(),
                holder.pid
            );
            return Err(Unreachable(why).into());
        };
        let doors: Option<Self> = std::fs::read(dir.join(DOORS)).ok().and_then(|b| serde_json::from_slice(&b).ok());
        Ok(Some(doors.filter(|d| d.web == web).unwrap_or(Self { web, otlp_http: None, otlp_grpc: None })))
    }

    /// Leaves word of this server's doors in its folder.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), anyhow::Error> {
        std::fs::write(dir.join(DOORS), serde_json::to_vec(self)?)
            .with_context(|| format!("writing {}", dir.join(DOORS).display()))
    }

    /// Takes that word back when the server ends.
    pub(crate) fn forget(dir: &Path) {
        // a leftover is harmless: it is believed only while the lock names the same URL
        let _ = std::fs::remove_file(dir.join(DOORS));
    }

    /// Asks the HTTP API for JSON.
    pub(crate) async fn get<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        fields: &[(&str, String)],
    ) -> Result<T, anyhow::Error> {
        let response = client()?.get(format!("{}{path}", self.web)).query(fields).send().await;
        let response = response.map_err(|error| Unreachable(format!("{} does not answer: {error}", self.web)))?;
        let status = response.status();
        let body = response.bytes().await.context("reading the answer")?;
        anyhow::ensure!(status.is_success(), "{}", api_error(status.as_u16(), &body));
        serde_json::from_slice(&body).context("reading the answer")
    }

    async fn query(&self, statement: &str) -> Result<Answer, anyhow::Error> {
        // rows are rendered here, attributes with their types
        let accept = "application/vnd.apache.arrow.stream;letters=sent";
        let request = client()?.post(format!("{}/api/v1/sql", self.web)).header("accept", accept);
        let response = request.json(&serde_json::json!({ "query": statement })).send().await;
        let response = response.map_err(|error| Unreachable(format!("{} does not answer: {error}", self.web)))?;
        let status = response.status();
        if !status.is_success() {
            let body = response.bytes().await.context("reading the answer")?;
            anyhow::bail!("{}", api_error(status.as_u16(), &body));
        }
        for warning in response.headers().get_all("weir-warning") {
            warn!("{}", warning.to_str().unwrap_or("the answer is not whole"));
        }
        let mut batches = arrow_batches(response.bytes_stream());
        let schema = match batches.next().await {
            Some(Part::Schema(schema)) => schema,
            Some(Part::Batch(_)) | None => anyhow::bail!("{} answered no columns", self.web),
            Some(Part::Failed(error)) => return Err(error),
        };
        let batches = batches.filter_map(async |part| match part {
            Part::Schema(_) => None,
            Part::Batch(batch) => Some(Ok(batch)),
            Part::Failed(error) => Some(Err(error)),
        });
        Ok(Answer { schema, batches: batches.boxed() })
    }
}

/// What an Arrow stream holds.
enum Part {
    Schema(SchemaRef),
    Batch(RecordBatch),
    Failed(anyhow::Error),
}

/// Reads an Arrow stream as it comes: first the columns, then the rows.
fn arrow_batches(bytes: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static) -> BoxStream<'static, Part> {
    let mut decoder = StreamDecoder::new();
    let mut said_schema = false;
    let parts = bytes.map(Some).chain(futures::stream::once(async { None })).map(move |piece| {
        let mut parts = Vec::new();
        let read = match piece {
            Some(Ok(bytes)) => decode(&mut decoder, bytes, &mut parts),
            Some(Err(error)) => Err(anyhow::Error::new(error).context("the answer ended before it was whole")),
            None => decoder.finish().context("the answer ended before it was whole"),
        };
        if let (false, Some(schema)) = (said_schema, decoder.schema()) {
            said_schema = true;
            parts.insert(0, Part::Schema(schema));
        }
        if let Err(error) = read {
            parts.push(Part::Failed(error));
        }
        futures::stream::iter(parts)
    });
    parts.flatten().boxed()
}

fn decode(decoder: &mut StreamDecoder, bytes: Bytes, parts: &mut Vec<Part>) -> Result<(), anyhow::Error> {
    let mut buffer = Buffer::from(bytes);
    while !buffer.is_empty() {
        let Some(batch) = decoder.decode(&mut buffer).context("reading the Arrow stream")? else { break };
        parts.push(Part::Batch(batch));
    }
    Ok(())
}

/// Opens a folder that no server holds.
pub(crate) async fn open_folder(dir: &Path) -> Result<Store, anyhow::Error> {
    let config = crate::config::Config { data: dir.to_owned(), ..crate::config::Config::default() };
    let store = Store::open(config.store()).await.with_context(|| format!("opening {}", dir.display()))?;
    store.replayed().await;
    Ok(store)
}

/// An HTTP client without proxies: weir's servers are near.
pub(crate) fn client() -> Result<reqwest::Client, anyhow::Error> {
    reqwest::Client::builder().no_proxy().build().context("building the HTTP client")
}

/// The message of an API error, or the body as it is.
pub(crate) fn api_error(status: u16, body: &[u8]) -> String {
    let message = serde_json::from_slice::<serde_json::Value>(body).ok();
    let message = message.as_ref().and_then(|v| v.pointer("/error/message")).and_then(|m| m.as_str());
    message.map_or_else(|| format!("the server answered {status}: {}", String::from_utf8_lossy(body)), str::to_owned)
}

/// The file with the doors of a live server, beside its lock.
const DOORS: &str = "server.json";
