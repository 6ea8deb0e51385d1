//! [`Engine`]: plans and runs statements on threads of its own, so that a heavy query neither holds
//! up acks nor overflows their stacks.

use std::{path::PathBuf, sync::Arc, time::Duration};

use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
        SchemaProvider,
    },
    common::{DataFusionError, ParamValues},
    execution::{
        SessionStateBuilder, context::SessionContext, memory_pool::FairSpillPool, object_store::ObjectStoreUrl,
        runtime_env::RuntimeEnvBuilder, session_state::SessionState,
    },
    optimizer::{Analyzer, AnalyzerRule},
    prelude::SessionConfig,
    sql::sqlparser::ast::Statement,
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;
use weir_schema::Table;

use super::{
    bounded, checked_sum, dialect, expansion,
    footers::Footers,
    functions,
    give_way::GiveWay,
    guard, hot_keys,
    inspection::Inspection,
    meaning::Meaning,
    newest_first::NewestFirst,
    postgres::Postgres,
    provider::TableOfView,
    repeated::ShortWindows,
    rewrite::{self, Hot},
    rows::{Rows, SqlAnswer, broken},
    scratch::Scratch,
    statement::{Answer, Described, Head, Job},
    turns::{Asker, Turns},
    watch::{self, Watch},
};
use crate::{
    committer::{self, Order},
    config::{Config, SqlConfig},
    disk::{Disk, DiskStore},
    error::{SqlError, StoreError},
    view::{View, Views},
    wal::Replay,
};

/// Stack of a query thread: plans recurse.
pub(super) const STACK_BYTES: usize = 32 << 20;

/// Batches of an answer that wait for their reader.
const ANSWER_QUEUE: usize = 4;

/// The name of the catalogue in error messages and `SHOW TABLES`.
pub(super) const CATALOGUE: &str = "weir";

/// Runs statements.
pub(crate) struct Engine {
    runtime: Option<Runtime>,
    base: SessionState,
    postgres: Postgres,
    turns: Turns,
    limits: SqlConfig,
    tables_dir: PathBuf,
    footers: Arc<Footers>,
    scratch: Scratch,
    parts: EngineParts,
}

/// What an engine reads, and whom it tells.
pub(crate) struct EngineParts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) views: Arc<Views>,
    /// Until it is over, answers lack rows.
    pub(crate) replay: Arc<Replay>,
    /// Damaged files are the committer's to set aside.
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) committer: Arc<committer::Shared>,
}

impl Engine {
    pub(crate) fn new(config: &Config, parts: EngineParts) -> Result<Self, StoreError> {
        let (limits, tables_dir) = (config.sql.clone(), config.tables_dir());
        let io = |source| StoreError::Io { path: tables_dir.clone(), source };
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("weir-sql")
            .worker_threads(threads)
            .thread_stack_size(STACK_BYTES)
            // a step of a statement is long beside a look at timers and cancellations
            .event_interval(5)
            .global_queue_interval(3)
            .enable_all()
            .build()
            .map_err(io)?;
        let scratch = Scratch::new(config, parts.disk.clone());
        let scratch = scratch.map_err(|source| StoreError::Io { path: config.scratch_dir(), source })?;
        let failed = |e: DataFusionError| io(std::io::Error::other(e.to_string()));
        let base = base_state(&limits, threads, &scratch).map_err(failed)?;
        let files = Arc::new(DiskStore::new(parts.disk.clone()));
        base.runtime_env().register_object_store(ObjectStoreUrl::local_filesystem().as_ref(), files);
        let postgres = Postgres::new(base.clone()).map_err(failed)?;
        let turns = Turns::new(limits.concurrency);
        let footers = Arc::new(Footers::new(parts.disk.clone()));
        let runtime = Some(runtime);
        Ok(Self { runtime, base, postgres, turns, limits, tables_dir, footers, scratch, parts })
    }

    /// Starts a statement over what there is now.
    pub(crate) async fn run(&self, text: &str, asker: Asker, limits: Option<SqlConfig>) -> Result<SqlAnswer, SqlError> {
        let limits = limits.unwrap_or_else(|| self.limits.clone());
        let statement = guard::parse(text, &limits)?;
        let session = |view: &View, inspection: &_| self.session(view, inspection);
        let job = self.job(statement, None, limits, session)?;
        self.start(job, asker).await
    }

    /// The statements of a PostgreSQL client's text. Those about its session are the caller's.
    pub(crate) fn parse_postgres(&self, text: &str) -> Result<Vec<Statement>, SqlError> {
        guard::check_tokens(text, &self.limits)?;
        self.postgres.parse(text)
    }

    /// Starts a statement of a PostgreSQL client.
    pub(crate) async fn run_postgres(
        &self,
        statement: Statement,
        parameters: Option<ParamValues>,
        timeout_ms: u64,
    ) -> Result<SqlAnswer, SqlError> {
        self.start(self.job_postgres(statement, parameters, timeout_ms)?, Asker::Reader).await
    }

    /// How long a statement may take, in milliseconds.
    pub(crate) fn timeout_ms(&self) -> u64 {
        self.limits.timeout_ms
    }

    /// What a statement of a PostgreSQL client would answer.
    pub(crate) async fn describe_postgres(&self, statement: Statement) -> Result<Described, SqlError> {
        let job = self.job_postgres(statement, None, self.limits.timeout_ms)?;
        let gone = CancellationToken::new();
        let _gone = gone.clone().drop_guard();
        let (limit, turns) = (Duration::from_millis(job.limits.timeout_ms), self.turns.clone());
        let described = self.runtime()?.spawn(within(limit, gone, async move {
            let _turn = turns.take(Asker::Reader).await;
            job.describe().await
        }));
        described.await.unwrap_or_else(|error| Err(broken(&error)))
    }

    fn job_postgres(
        &self,
        statement: Statement,
        parameters: Option<ParamValues>,
        timeout_ms: u64,
    ) -> Result<Job, SqlError> {
        let limits = SqlConfig { timeout_ms, ..self.limits.clone() };
        let session = |view: &View, inspection: &_| self.postgres.session(Arc::new(self.tables(view, inspection)));
        self.job(statement, parameters, limits, session)
    }

    /// Checks a statement and pins what it reads.
    fn job(
        &self,
        mut statement: Statement,
        parameters: Option<ParamValues>,
        limits: SqlConfig,
        session: impl FnOnce(&View, &Arc<Inspection>) -> SessionContext,
    ) -> Result<Job, SqlError> {
        guard::allowed(&statement)?;
        dialect::with_patterns(&mut statement)?;
        expansion::check(&statement)?;
        // asked before the view is pinned: what is over then is in it
        let inspection = self.inspection();
        let view = self.parts.views.current();
        rewrite::rewrite(&mut statement, hot(&view), parameters.as_ref())?;
        let session = session(&view, &inspection);
        Ok(Job { statement, session, parameters, limits, inspection })
    }

    async fn start(&self, job: Job, asker: Asker) -> Result<SqlAnswer, SqlError> {
        let (head_out, head_in) = oneshot::channel();
        let (batches_out, batches) = mpsc::channel(ANSWER_QUEUE);
        let (turns, gone) = (self.turns.clone(), CancellationToken::new());
        let watched = gone.clone();
        self.scratch.bound(&self.base.runtime_env().disk_manager);
        let task = self.runtime()?.spawn(async move {
            let limit = Duration::from_millis(job.limits.timeout_ms);
            let answer = Answer { head: head_out, batches: batches_out.clone() };
            let ended = within(limit, watched, async {
                let turn = turns.take(asker).await;
                job.run(answer, turn).await
            });
            let ended = ended.await;
            if let Err(error) = &ended {
                // a reader that went away wants no error either
                let _ = batches_out.send(Err(error.clone())).await;
            }
            ended
        });
        let mut rows = Rows { batches, task: Some(task), _gone: gone.drop_guard() };
        if let Ok(Head { schema, warnings, lacks_files }) = head_in.await {
            return Ok(SqlAnswer { schema, warnings, lacks_files, stream: rows });
        }
        let none = || Err(SqlError::Execution("the statement ended without an answer".into()));
        let Some(task) = rows.task.take() else { return none() };
        match task.await {
            Ok(Ok(())) => none(),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(broken(&error)),
        }
    }

    fn runtime(&self) -> Result<&Runtime, SqlError> {
        self.runtime.as_ref().ok_or_else(|| SqlError::Execution("the store is closed".into()))
    }

    fn inspection(&self) -> Arc<Inspection> {
        let quarantined = self.parts.committer.quarantined.lock().clone();
        let (disk, orders) = (self.parts.disk.clone(), self.parts.orders.clone());
        Arc::new(Inspection::new(disk, orders, quarantined, self.parts.replay.warning()))
    }

    fn tables(&self, view: &View, inspection: &Arc<Inspection>) -> MemorySchemaProvider {
        let schema = MemorySchemaProvider::new();
        for table in Table::ALL {
            let dir = self.tables_dir.join(table.name());
            let provider =
                TableOfView::new(table, view.table(table).clone(), dir, self.footers.clone(), inspection.clone());
            // a fresh schema has no table of this name yet
            let _ = schema.register_table(table.name().to_owned(), Arc::new(provider));
        }
        schema
    }

    /// A session with nothing but the tables of this view.
    fn session(&self, view: &View, inspection: &Arc<Inspection>) -> SessionContext {
        let catalogue = MemoryCatalogProvider::new();
        // a fresh catalogue has no schema of this name yet
        let _ = catalogue.register_schema("public", Arc::new(self.tables(view, inspection)));
        session_over(self.base.clone(), Arc::new(catalogue))
    }
}

/// Does work within its time, planning included.
async fn within<T>(
    limit: Duration,
    gone: CancellationToken,
    work: impl Future<Output = Result<T, SqlError>>,
) -> Result<T, SqlError> {
    let watch = Watch::new(limit, gone);
    let late = SqlError::Timeout { limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) };
    match tokio::time::timeout(limit, watch.clone().over(work)).await {
        Ok(Err(_)) | Err(_) if watch.is_late() => Err(late),
        Ok(ended) => ended,
        Err(_) => Err(late),
    }
}

/// Whether a map in this view holds an attribute that has a column of its own.
fn hot(view: &View) -> Hot {
    let spans = view.table(Table::Spans);
    let in_files = spans.files.iter().any(|file| file.hot_in_map);
    let in_memory = || spans.memory().any(|held| *held.hot_in_map.get_or_init(|| hot_keys::any_in_map(&held.rows)));
    if in_files || in_memory() { Hot::MapsToo } else { Hot::Columns }
}

/// A session that knows this catalogue and no other.
pub(super) fn session_over(base: SessionState, catalogue: Arc<MemoryCatalogProvider>) -> SessionContext {
    let catalogues = MemoryCatalogProviderList::new();
    catalogues.register_catalog(CATALOGUE.to_owned(), catalogue);
    let state = SessionStateBuilder::new_from_existing(base).with_catalog_list(Arc::new(catalogues)).build();
    SessionContext::new_with_state(state)
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn base_state(limits: &SqlConfig, threads: usize, scratch: &Scratch) -> Result<SessionState, DataFusionError> {
    let mut config = SessionConfig::new()
        .with_target_partitions(threads)
        .with_information_schema(true)
        .with_default_catalog_and_schema(CATALOGUE, "public")
        .with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    options.execution.parquet.schema_force_view_types = false;
    options.execution.parquet.binary_as_string = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    // it drops rows that a sibling such as max(a + b) beside min(a) still needs (DataFusion 55)
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    options.sql_parser.dialect = datafusion::common::config::Dialect::PostgreSQL;
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(limits.memory_bytes)));
    let runtime = scratch.put_into(runtime).build_arc()?;
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        // before the engine's own, so that a comparison has one type when they look at it
        .with_expr_planners(vec![Arc::new(Meaning)])
        .with_analyzer_rules(analyzer_rules())
        .with_default_features()
        .with_physical_optimizer_rule(Arc::new(NewestFirst))
        .with_physical_optimizer_rule(Arc::new(GiveWay))
        .build();
    let mut state = watch::watched(state);
    bounded::bound_functions(&mut state)?;
    for function in functions::scalars() {
        datafusion::execution::FunctionRegistry::register_udf(&mut state, Arc::new(function))?;
    }
    for function in [functions::percentile(), checked_sum::sum()] {
        datafusion::execution::FunctionRegistry::register_udaf(&mut state, Arc::new(function))?;
    }
    Ok(state)
}

fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules = Analyzer::new().rules;
    rules.insert(0, Arc::new(Meaning));
    rules.push(Arc::new(ShortWindows));
    rules
}
