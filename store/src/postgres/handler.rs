//! What the server answers to each message: start, simple queries, prepared statements, cancel.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{arrow::datatypes::DataType, common::ParamValues, sql::sqlparser::ast::Statement};
use datafusion_postgres::{
    arrow_pg::datatypes::{arrow_schema_to_pg_fields, encode_recordbatch},
    pgwire::{
        api::{
            ClientInfo, ClientPortalStore, ConnectionHandle, ConnectionManager, PgWireServerHandlers, Type,
            auth::{StartupHandler, noop::NoopStartupHandler},
            cancel::{CancelHandler, DefaultCancelHandler},
            portal::{Format, Portal},
            query::{ExtendedQueryHandler, SimpleQueryHandler},
            results::{FieldInfo, QueryResponse, Response},
            stmt::QueryParser,
            store::PortalStore,
        },
        error::{ErrorInfo, PgWireError, PgWireResult},
        messages::{PgWireBackendMessage, response::NoticeResponse},
    },
};
use futures::{Sink, SinkExt, StreamExt, stream};

use super::{
    cancel::{cancellable, connection},
    flat, params, session,
};
use crate::{Name, SqlAnswer, SqlError, Store, query::Described};

/// The handlers of all connections.
pub(super) struct Handlers {
    queries: Arc<Queries>,
    startup: Arc<Startup>,
    cancel: Arc<DefaultCancelHandler>,
}

impl Handlers {
    pub(super) fn new(store: Store) -> Self {
        let connections = Arc::new(ConnectionManager::new());
        Self {
            queries: Arc::new(Queries { parser: Arc::new(Parser { store: store.clone() }), store }),
            startup: Arc::new(Startup { connections: connections.clone() }),
            cancel: Arc::new(DefaultCancelHandler::new(connections)),
        }
    }
}

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        self.queries.clone()
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        self.queries.clone()
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        self.startup.clone()
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        self.cancel.clone()
    }
}

/// Anybody who reaches the port may read: it listens on loopback unless the configuration accepts more.
struct Startup {
    connections: Arc<ConnectionManager>,
}

impl NoopStartupHandler for Startup {
    fn connection_manager(&self) -> Option<Arc<ConnectionManager>> {
        Some(self.connections.clone())
    }
}

struct Queries {
    store: Store,
    parser: Arc<Parser>,
}

#[async_trait]
impl SimpleQueryHandler for Queries {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut responses = Vec::new();
        for statement in self.store.parse_postgres(query).map_err(|e| failed(&e))? {
            if let Some(response) = session::answer(client, &statement)? {
                responses.push(response);
                continue;
            }
            let answer = self.store.run_postgres(statement, None).await.map_err(|e| failed(&e))?;
            warn(client, &answer.warnings).await?;
            responses.push(respond(answer, &Format::UnifiedText, connection(client))?);
        }
        if responses.is_empty() {
            responses.push(Response::EmptyQuery);
        }
        Ok(responses)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Queries {
    type Statement = Prepared;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Self::QueryParser> {
        self.parser.clone()
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Self::Statement>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let Prepared { statement, described } = &portal.statement.statement;
        if let Some(response) = session::answer(client, statement)? {
            return Ok(response);
        }
        let values = params::values(portal, &described.parameters)?;
        let values = (!values.is_empty()).then(|| ParamValues::from(values));
        let answer = self.store.run_postgres(statement.clone(), values).await.map_err(|e| failed(&e))?;
        warn(client, &answer.warnings).await?;
        respond(answer, &portal.result_column_format, connection(client))
    }
}

/// A statement that a client prepared: planned once for its types, planned anew over the rows of
/// the moment each time it runs.
#[derive(Clone)]
pub(super) struct Prepared {
    statement: Statement,
    described: Arc<Described>,
}

struct Parser {
    store: Store,
}

#[async_trait]
impl QueryParser for Parser {
    type Statement = Prepared;

    async fn parse_sql<C>(
        &self,
        _client: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Self::Statement>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let mut statements = self.store.parse_postgres(sql).map_err(|e| failed(&e))?;
        if statements.len() > 1 {
            return Err(refused("42601", "a prepared statement holds one statement"));
        }
        let Some(statement) = statements.pop() else { return Ok(None) };
        let described = match session::schema(&statement) {
            Some(schema) => Described { schema, parameters: Vec::new() },
            None => self.store.describe_postgres(statement.clone()).await.map_err(|e| failed(&e))?,
        };
        debug_assert!(types.len() <= described.parameters.len() || described.parameters.is_empty());
        Ok(Some(Prepared { statement, described: Arc::new(described) }))
    }

    fn get_parameter_types(&self, prepared: &Self::Statement) -> PgWireResult<Vec<Type>> {
        Ok(prepared.described.parameters.iter().map(params::wire_type).collect())
    }

    fn get_result_schema(&self, prepared: &Self::Statement, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        fields(&prepared.described.schema, format.unwrap_or(&Format::UnifiedText))
    }
}

/// What an answer leaves out, as notices before it.
async fn warn<C>(client: &mut C, warnings: &[String]) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    for warning in warnings {
        let notice = ErrorInfo::new("WARNING".to_owned(), "01000".to_owned(), warning.clone());
        client.feed(PgWireBackendMessage::NoticeResponse(NoticeResponse::from(notice))).await?;
    }
    Ok(())
}

fn fields(schema: &SchemaRef, format: &Format) -> PgWireResult<Vec<FieldInfo>> {
    arrow_schema_to_pg_fields(&flat::schema(schema), format, None)
}

fn respond(answer: SqlAnswer, format: &Format, connection: Option<Arc<ConnectionHandle>>) -> PgWireResult<Response> {
    let fields = Arc::new(fields(&answer.schema, format)?);
    let columns = fields.clone();
    let rows = answer.stream.flat_map(move |batch| {
        let flat = batch.and_then(|batch| flat::rows(&batch));
        match flat {
            Ok(rows) => stream::iter(encode_recordbatch(columns.clone(), rows)).left_stream(),
            Err(error) => stream::once(std::future::ready(Err(failed(&error)))).right_stream(),
        }
    });
    Ok(Response::Query(QueryResponse::new(fields, cancellable(rows, connection))))
}

/// The SQLSTATE of an error: drivers and dashboards decide by it.
fn failed(error: &SqlError) -> PgWireError {
    let state = match error {
        SqlError::Syntax(_) => "42601",
        SqlError::Unknown(Name::Table, _) => "42P01",
        SqlError::Unknown(Name::Column, _) => "42703",
        SqlError::Unknown(Name::Function, _) => "42883",
        SqlError::NotReadOnly(_) => "25006",
        SqlError::TooLong { .. }
        | SqlError::TooManyTokens { .. }
        | SqlError::TooDeep { .. }
        | SqlError::TooComplex { .. } => "54001",
        SqlError::Unread { .. } => "53000",
        SqlError::TooManyRows { .. } => "54000",
        SqlError::Memory(_) => "53200",
        SqlError::Timeout { .. } => "57014",
        SqlError::Execution(_) => "XX000",
    };
    refused(state, &error.to_string())
}

pub(super) fn refused(state: &str, message: &str) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".to_owned(), state.to_owned(), message.to_owned())))
}

/// A type that a parameter can have.
pub(super) type ParameterType = Option<DataType>;
