//! [`Engine`]: plans and runs statements on threads of its own, so that a heavy query neither holds
//! up acks nor overflows their stacks.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arrow::{
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
        SchemaProvider,
    },
    common::{DataFusionError, ParamValues, SchemaError},
    execution::{
        SessionStateBuilder,
        context::{SQLOptions, SessionContext},
        memory_pool::FairSpillPool,
        object_store::ObjectStoreUrl,
        runtime_env::RuntimeEnvBuilder,
        session_state::SessionState,
    },
    logical_expr::LogicalPlan,
    optimizer::{Analyzer, AnalyzerRule},
    physical_plan::{SendableRecordBatchStream, execute_stream},
    prelude::SessionConfig,
    sql::{parser::Statement as DfStatement, sqlparser::ast::Statement},
};
use futures::{Stream, StreamExt};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, mpsc, oneshot},
    task::AbortHandle,
};
use weir_schema::Table;

use super::{
    bounded, checked_sum,
    footers::Footers,
    functions, guard, hot_keys,
    inspection::Inspection,
    meaning::{self, Meaning},
    newest_first::NewestFirst,
    postgres::Postgres,
    provider::TableOfView,
    rewrite::{self, Hot},
    text_views, typed_maps,
};
use crate::{
    committer::{self, Order},
    config::{Config, SqlConfig},
    disk::{Disk, DiskStore},
    error::{Name, SqlError, StoreError},
    view::View,
};

/// Stack of a query thread: plans recurse.
const STACK_BYTES: usize = 32 << 20;

/// Batches of an answer that wait for their reader.
const ANSWER_QUEUE: usize = 4;

/// The name of the catalogue in error messages and `SHOW TABLES`.
pub(super) const CATALOGUE: &str = "weir";

/// Runs statements.
pub(crate) struct Engine {
    runtime: Option<Runtime>,
    base: SessionState,
    postgres: Postgres,
    running: Arc<Semaphore>,
    limits: SqlConfig,
    tables_dir: PathBuf,
    footers: Arc<Footers>,
    disk: Arc<dyn Disk>,
    /// Damaged files are the committer's to set aside.
    orders: mpsc::Sender<Order>,
    committer: Arc<committer::Shared>,
}

/// An answer: its columns, and its rows as they come. Dropping it stops the statement.
pub struct SqlAnswer {
    /// The columns.
    pub schema: SchemaRef,
    /// What the answer leaves out: files that are damaged.
    pub warnings: Vec<String>,
    /// The rows.
    pub stream: Rows,
}

/// The rows of an answer.
pub struct Rows {
    batches: mpsc::Receiver<Result<RecordBatch, SqlError>>,
    task: AbortHandle,
}

/// What a statement would answer, and the types of its parameters `$1`, `$2`, … where they are known.
pub(crate) struct Described {
    pub(crate) schema: SchemaRef,
    pub(crate) parameters: Vec<Option<DataType>>,
}

/// A statement that was checked, and what it runs with.
struct Job {
    statement: Statement,
    session: SessionContext,
    parameters: Option<ParamValues>,
    limits: SqlConfig,
    inspection: Arc<Inspection>,
}

impl Stream for Rows {
    type Item = Result<RecordBatch, SqlError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_recv(context)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Engine {
    pub(crate) fn new(
        config: &Config,
        disk: Arc<dyn Disk>,
        orders: mpsc::Sender<Order>,
        committer: Arc<committer::Shared>,
    ) -> Result<Self, StoreError> {
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
        let failed = |e: DataFusionError| io(std::io::Error::other(e.to_string()));
        let base = base_state(&limits, threads).map_err(failed)?;
        let files = Arc::new(DiskStore::new(disk.clone()));
        base.runtime_env().register_object_store(ObjectStoreUrl::local_filesystem().as_ref(), files);
        let postgres = Postgres::new(base.clone()).map_err(failed)?;
        let running = Arc::new(Semaphore::new(limits.concurrency));
        let footers = Arc::new(Footers::new(disk.clone()));
        let runtime = Some(runtime);
        Ok(Self { runtime, base, postgres, running, limits, tables_dir, footers, disk, orders, committer })
    }

    /// Starts a statement over a view.
    pub(crate) async fn run(
        &self,
        text: &str,
        view: Arc<View>,
        limits: Option<SqlConfig>,
    ) -> Result<SqlAnswer, SqlError> {
        let limits = limits.unwrap_or_else(|| self.limits.clone());
        let mut statement = guard::parse(text, &limits)?;
        rewrite::rewrite(&mut statement, hot(&view));
        let inspection = self.inspection();
        let session = self.session(&view, &inspection);
        self.start(Job { statement, session, parameters: None, limits, inspection }).await
    }

    /// The statements of a PostgreSQL client's text. Those about its session are the caller's.
    pub(crate) fn parse_postgres(&self, text: &str) -> Result<Vec<Statement>, SqlError> {
        guard::check_tokens(text, &self.limits)?;
        self.postgres.parse(text)
    }

    /// Starts a statement of a PostgreSQL client.
    pub(crate) async fn run_postgres(
        &self,
        mut statement: Statement,
        parameters: Option<ParamValues>,
        view: Arc<View>,
    ) -> Result<SqlAnswer, SqlError> {
        guard::read_only(&statement)?;
        rewrite::rewrite(&mut statement, hot(&view));
        let inspection = self.inspection();
        let session = self.postgres.session(Arc::new(self.tables(&view, &inspection)));
        self.start(Job { statement, session, parameters, limits: self.limits.clone(), inspection }).await
    }

    /// What a statement of a PostgreSQL client would answer.
    pub(crate) async fn describe_postgres(
        &self,
        mut statement: Statement,
        view: Arc<View>,
    ) -> Result<Described, SqlError> {
        guard::read_only(&statement)?;
        rewrite::rewrite(&mut statement, hot(&view));
        let inspection = self.inspection();
        let session = self.postgres.session(Arc::new(self.tables(&view, &inspection)));
        let Some(runtime) = &self.runtime else { return Err(SqlError::Execution("the store is closed".into())) };
        let described = runtime.spawn(async move { describe(&session, statement).await });
        described.await.unwrap_or_else(|_| Err(SqlError::Execution("the statement failed inside the engine".into())))
    }

    async fn start(&self, job: Job) -> Result<SqlAnswer, SqlError> {
        let (schema_out, schema_in) = oneshot::channel();
        let (batches_out, batches) = mpsc::channel(ANSWER_QUEUE);
        let running = self.running.clone();
        let Some(runtime) = &self.runtime else { return Err(SqlError::Execution("the store is closed".into())) };
        let task = runtime.spawn(async move {
            let limit = Duration::from_millis(job.limits.timeout_ms);
            let limit_ms = job.limits.timeout_ms;
            let answer = Answer { schema: schema_out, batches: batches_out.clone(), max_rows: job.limits.max_rows };
            let inspection = job.inspection.clone();
            let work = async {
                // the semaphore is never closed
                let _turn = running.acquire().await;
                match answer.run(job).await {
                    Err(Failed { error, of_a_file: true }) => Err(explained(error, inspection).await),
                    ended => ended.map_err(|failed| failed.error),
                }
            };
            let ended = tokio::time::timeout(limit, work).await;
            let ended = ended.unwrap_or(Err(SqlError::Timeout { limit_ms }));
            if let Err(error) = &ended {
                // a reader that went away wants no error either
                let _ = batches_out.send(Err(error.clone())).await;
            }
            ended
        });
        let rows = Rows { batches, task: task.abort_handle() };
        match schema_in.await {
            Ok((schema, warnings)) => Ok(SqlAnswer { schema, warnings, stream: rows }),
            Err(_) => match task.await {
                Ok(Err(error)) => Err(error),
                Ok(Ok(())) => Err(SqlError::Execution("the statement ended without an answer".into())),
                Err(_) => Err(SqlError::Execution("the statement failed inside the engine".into())),
            },
        }
    }

    fn inspection(&self) -> Arc<Inspection> {
        let quarantined = self.committer.quarantined.lock().clone();
        Arc::new(Inspection::new(self.disk.clone(), self.orders.clone(), quarantined))
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
        session_over(self.base.clone(), catalogue)
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
pub(super) fn session_over(base: SessionState, catalogue: MemoryCatalogProvider) -> SessionContext {
    let catalogues = MemoryCatalogProviderList::new();
    catalogues.register_catalog(CATALOGUE.to_owned(), Arc::new(catalogue));
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

/// Where an answer goes.
struct Answer {
    /// The columns, and what is left out.
    schema: oneshot::Sender<(SchemaRef, Vec<String>)>,
    batches: mpsc::Sender<Result<RecordBatch, SqlError>>,
    max_rows: usize,
}

impl Answer {
    async fn run(self, job: Job) -> Result<(), Failed> {
        let inspection = job.inspection.clone();
        let mut stream = start(job).await?;
        let schema = text_views::plain(&stream.schema());
        if self.schema.send((schema.clone(), inspection.warnings())).is_err() {
            return Ok(()); // nobody waits any more
        }
        let mut rows = 0;
        while let Some(batch) = stream.next().await {
            let batch = text_views::retyped(&batch?, &schema).map_err(|e| SqlError::Execution(e.to_string()))?;
            rows += batch.num_rows();
            if rows > self.max_rows {
                return Err(SqlError::TooManyRows { limit: self.max_rows }.into());
            }
            if self.batches.send(Ok(batch)).await.is_err() {
                return Ok(()); // nobody reads any more
            }
        }
        Ok(())
    }
}

/// How a statement failed.
struct Failed {
    error: SqlError,
    /// Whether a file that it read may be the cause.
    of_a_file: bool,
}

impl From<SqlError> for Failed {
    fn from(error: SqlError) -> Self {
        Self { error, of_a_file: false }
    }
}

impl From<DataFusionError> for Failed {
    fn from(error: DataFusionError) -> Self {
        let of_a_file = match error.find_root() {
            DataFusionError::ParquetError(_) | DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => true,
            DataFusionError::ArrowError(error, _) => matches!(
                error.as_ref(),
                ArrowError::ParquetError(_) | ArrowError::ExternalError(_) | ArrowError::IoError(..)
            ),
            DataFusionError::External(_) => true,
            _ => false,
        };
        Self { error: sql_error(&error), of_a_file }
    }
}

/// A statement may fail because a file was damaged since it was looked at last.
async fn explained(error: SqlError, inspection: Arc<Inspection>) -> SqlError {
    let SqlError::Execution(message) = error else { return error };
    let looked = tokio::task::spawn_blocking(move || inspection.look_again()).await;
    let damaged = looked.unwrap_or_default();
    if damaged.is_empty() {
        return SqlError::Execution(message);
    }
    let files = damaged.join(", ");
    SqlError::Execution(format!("{files} is damaged and is set aside; ask again for the rest: {message}"))
}

async fn start(job: Job) -> Result<SendableRecordBatchStream, Failed> {
    let Job { statement, session, parameters, .. } = job;
    let mut plan = plan(&session, statement).await?;
    if let Some(parameters) = parameters {
        plan = plan.with_param_values(parameters)?;
    }
    let frame = session.execute_logical_plan(plan).await?;
    let plan = frame.create_physical_plan().await?;
    Ok(execute_stream(plan, session.task_ctx())?)
}

async fn plan(session: &SessionContext, statement: Statement) -> Result<LogicalPlan, SqlError> {
    let state = session.state();
    let plan = state.statement_to_plan(DfStatement::Statement(Box::new(statement))).await.map_err(|e| sql_error(&e))?;
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    read_only.verify_plan(&plan).map_err(|e| SqlError::NotReadOnly(e.strip_backtrace()))?;
    typed_maps::with_types(plan).and_then(meaning::typed_parameters).map_err(|e| sql_error(&e))
}

async fn describe(session: &SessionContext, statement: Statement) -> Result<Described, SqlError> {
    let plan = plan(session, statement).await?;
    let types = plan.get_parameter_types().map_err(|e| sql_error(&e))?;
    let place = |name: &str| name.trim_start_matches('$').parse::<usize>().ok().filter(|place| *place > 0);
    let count = types.keys().filter_map(|name| place(name)).max().unwrap_or(0);
    let mut parameters = vec![None; count];
    for (name, data_type) in types {
        if let Some(place) = place(&name) {
            parameters[place - 1] = data_type;
        }
    }
    let plan = session.state().optimize(&plan).map_err(|e| sql_error(&e))?;
    Ok(Described { schema: text_views::plain(plan.schema().as_arrow()), parameters })
}

fn base_state(limits: &SqlConfig, threads: usize) -> Result<SessionState, DataFusionError> {
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
    // what does not fit into memory may go to a temporary file, within the same order of size
    let runtime = runtime.with_max_temp_directory_size(2 * limits.memory_bytes as u64).build_arc()?;
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        // before the engine's own, so that a comparison has one type when they look at it
        .with_expr_planners(vec![Arc::new(Meaning)])
        .with_analyzer_rules(analyzer_rules())
        .with_default_features()
        .with_physical_optimizer_rule(Arc::new(NewestFirst))
        .with_physical_optimizer_rule(Arc::new(bounded::GiveWay))
        .build();
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
    rules
}

pub(super) fn sql_error(error: &DataFusionError) -> SqlError {
    let root = error.find_root();
    let text = root.strip_backtrace();
    match root {
        DataFusionError::ResourcesExhausted(_) => SqlError::Memory(text),
        DataFusionError::SchemaError(error, _) if matches!(error.as_ref(), SchemaError::FieldNotFound { .. }) => {
            SqlError::Unknown(Name::Column, text)
        }
        DataFusionError::Plan(what) if what.starts_with("table ") && what.ends_with(" not found") => {
            SqlError::Unknown(Name::Table, text)
        }
        DataFusionError::Plan(what) if what.starts_with("Invalid function") => SqlError::Unknown(Name::Function, text),
        DataFusionError::SQL(..) | DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => {
            SqlError::Syntax(meaning::explained(text))
        }
        _ => SqlError::Execution(text),
    }
}
