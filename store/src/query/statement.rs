//! [`Job`]: a statement that was checked, from its plan to its last row.

use std::sync::Arc;

use arrow::{
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use datafusion::{
    common::{DataFusionError, ParamValues, SchemaError},
    execution::{
        SessionStateBuilder,
        context::{SQLOptions, SessionContext},
    },
    logical_expr::LogicalPlan,
    physical_plan::{SendableRecordBatchStream, execute_stream},
    sql::{parser::Statement as DfStatement, sqlparser::ast::Statement},
};
use futures::StreamExt;
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::{
    complexity,
    inspection::Inspection,
    meaning, repeated, rewrite, text_views,
    turns::{ASIDE, Turn},
    typed_maps,
};
use crate::{
    config::SqlConfig,
    error::{Name, SqlError},
};

/// A statement that was checked, and what it runs with.
pub(super) struct Job {
    pub(super) statement: Statement,
    pub(super) session: SessionContext,
    pub(super) parameters: Option<ParamValues>,
    pub(super) limits: SqlConfig,
    pub(super) inspection: Arc<Inspection>,
}

/// What a statement would answer, and the types of its parameters `$1`, `$2`, … where they are known.
pub(crate) struct Described {
    pub(crate) schema: SchemaRef,
    pub(crate) parameters: Vec<Option<DataType>>,
}

/// Where an answer goes.
pub(super) struct Answer {
    pub(super) head: oneshot::Sender<Head>,
    pub(super) batches: mpsc::Sender<Result<RecordBatch, SqlError>>,
}

/// What is known before the first row.
pub(super) struct Head {
    pub(super) schema: SchemaRef,
    /// What is left out.
    pub(super) warnings: Vec<String>,
    /// Files that are missing are among that.
    pub(super) lacks_files: bool,
}

impl Job {
    /// Runs it to its end.
    pub(super) async fn run(self, answer: Answer, turn: Turn) -> Result<(), SqlError> {
        let inspection = self.inspection.clone();
        match self.rows(answer, turn).await {
            Err(Failed { error, of_a_file: true }) => Err(explained(error, inspection).await),
            ended => ended.map_err(|failed| failed.error),
        }
    }

    async fn rows(self, answer: Answer, mut turn: Turn) -> Result<(), Failed> {
        let (inspection, max_rows) = (self.inspection.clone(), self.limits.max_rows);
        let mut stream = self.start().await?;
        let schema = text_views::plain(&stream.schema());
        let (warnings, lacks_files) = (inspection.warnings(), inspection.lacks_files());
        if answer.head.send(Head { schema: schema.clone(), warnings, lacks_files }).is_err() {
            return Ok(()); // nobody waits any more
        }
        let mut rows = 0;
        while let Some(batch) = stream.next().await {
            let batch = text_views::retyped(&batch?, &schema).map_err(|e| SqlError::Execution(e.to_string()))?;
            rows += batch.num_rows();
            if rows > max_rows {
                return Err(SqlError::TooManyRows { limit: max_rows }.into());
            }
            if !hand_on(&answer.batches, batch, &mut turn).await? {
                return Ok(()); // nobody reads any more
            }
        }
        Ok(())
    }

    async fn start(self) -> Result<SendableRecordBatchStream, Failed> {
        let Self { statement, session, parameters, .. } = self;
        let mut plan = plan(&session, statement).await?;
        if let Some(parameters) = parameters {
            plan = plan.with_param_values(parameters)?;
        }
        let mut state = session.state();
        if repeated::repeats_long_values(&plan)? {
            let config = state.config().clone().with_batch_size(repeated::FEW_ROWS);
            state = SessionStateBuilder::new_from_existing(state).with_config(config).build();
        }
        let plan = state.optimize(&plan)?;
        repeated::check_constants(&plan)?;
        let plan = state.query_planner().create_physical_plan(&plan, &state).await?;
        Ok(execute_stream(plan, state.task_ctx())?)
    }

    /// What it would answer.
    pub(super) async fn describe(self) -> Result<Described, SqlError> {
        let plan = plan(&self.session, self.statement).await?;
        let types = plan.get_parameter_types().map_err(|e| sql_error(&e))?;
        let place = |name: &str| name.trim_start_matches('$').parse::<usize>().ok().filter(|place| *place > 0);
        let count = types.keys().filter_map(|name| place(name)).max().unwrap_or(0);
        let mut parameters = vec![None; count];
        for (name, data_type) in types {
            if let Some(place) = place(&name) {
                parameters[place - 1] = data_type;
            }
        }
        let plan = self.session.state().optimize(&plan).map_err(|e| sql_error(&e))?;
        Ok(Described { schema: text_views::plain(plan.schema().as_arrow()), parameters })
    }
}

/// Puts rows into the queue of their reader, who may be slow; `false` when nobody reads any more.
async fn hand_on(
    batches: &mpsc::Sender<Result<RecordBatch, SqlError>>,
    batch: RecordBatch,
    turn: &mut Turn,
) -> Result<bool, SqlError> {
    match batches.try_send(Ok(batch)) {
        Ok(()) => Ok(true),
        Err(TrySendError::Closed(_)) => Ok(false),
        Err(TrySendError::Full(batch)) => {
            let sent = turn.aside(batches.send(batch)).await;
            sent.map(|sent| sent.is_ok()).ok_or(SqlError::Unread { limit: ASIDE })
        }
    }
}

async fn plan(session: &SessionContext, statement: Statement) -> Result<LogicalPlan, SqlError> {
    let state = session.state();
    let plan = state.statement_to_plan(DfStatement::Statement(Box::new(statement))).await.map_err(|e| sql_error(&e))?;
    complexity::check(&plan)?;
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    read_only.verify_plan(&plan).map_err(|e| SqlError::NotReadOnly(e.strip_backtrace()))?;
    typed_maps::with_types(plan).and_then(meaning::typed_parameters).map_err(|e| sql_error(&e))
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

/// What the engine says where memory or temporary files met their bound and it has no error of its own.
const OUT_OF_ROOM: [&str; 2] = ["during the spilling process has exceeded", "produced no data to spill"];

pub(super) fn sql_error(error: &DataFusionError) -> SqlError {
    let root = error.find_root();
    let text = root.strip_backtrace();
    match root {
        DataFusionError::ResourcesExhausted(_) => SqlError::Memory(text),
        DataFusionError::SchemaError(error, _) if matches!(error.as_ref(), SchemaError::FieldNotFound { .. }) => {
            let SchemaError::FieldNotFound { field, .. } = error.as_ref() else { return SqlError::Execution(text) };
            SqlError::Unknown(Name::Column, rewrite::explained(&field.name, text))
        }
        DataFusionError::Plan(what) if what.starts_with("table ") && what.ends_with(" not found") => {
            SqlError::Unknown(Name::Table, text)
        }
        DataFusionError::Plan(what) if what.starts_with("Invalid function") => SqlError::Unknown(Name::Function, text),
        DataFusionError::SQL(..) | DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => {
            SqlError::Syntax(meaning::explained(text))
        }
        _ if OUT_OF_ROOM.iter().any(|said| text.contains(said)) => SqlError::Memory(text),
        _ => SqlError::Execution(text),
    }
}
