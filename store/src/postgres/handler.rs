//! What the server answers to each message: start, simple queries, prepared statements, cancel.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
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
    cursors::{self, Asked, Declared},
    flat,
    names::Names,
    params, session,
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
        for mut statement in self.store.parse_postgres(query).map_err(|e| failed(&e))? {
            if let Some(response) = self.about_session(client, &statement, None).await? {
                responses.push(response);
                continue;
            }
            let names = Names::take(&mut statement);
            let answer = self.run(client, statement, None).await?;
            let rows = respond(answer, &names, &Format::UnifiedText, connection(client))?;
            responses.push(Response::Query(rows));
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
        let Prepared { statement, names, described } = &portal.statement.statement;
        let values = params::values(portal, &described.parameters)?;
        let values = (!values.is_empty()).then(|| ParamValues::from(values));
        if let Some(response) = self.about_session(client, statement, values.clone()).await? {
            return Ok(response);
        }
        let answer = self.run(client, statement.clone(), values).await?;
        respond(answer, names, &portal.result_column_format, connection(client)).map(Response::Query)
    }
}

impl Queries {
    /// Answers a statement about the session or its cursors; `None` when it is a query.
    async fn about_session<C>(
        &self,
        client: &mut C,
        statement: &Statement,
        values: Option<ParamValues>,
    ) -> PgWireResult<Option<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match cursors::asked(statement)? {
            Some(Asked::Declare(declared)) => self.declare(client, &declared, values).await.map(Some),
            Some(Asked::Fetch { name, rows }) => {
                let fields = |of: &Prepared| fields(&of.described.schema, &of.names, &Format::UnifiedText);
                cursors::fetch(client, name, rows, fields).map(Some)
            }
            Some(Asked::Close(name)) => cursors::close(client, name).map(Some),
            None => {
                match statement {
                    Statement::Commit { .. } | Statement::Rollback { .. } => cursors::end_transaction(client)?,
                    Statement::Discard { .. } => drop(cursors::close(client, None)?),
                    _ => {}
                }
                session::answer(client, statement, self.store.sql_timeout_ms())
            }
        }
    }

    async fn declare<C>(
        &self,
        client: &mut C,
        declared: &Declared<'_>,
        values: Option<ParamValues>,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        cursors::has_room(client, declared)?;
        let mut statement = declared.statement();
        let names = Names::take(&mut statement);
        let answer = self.run(client, statement.clone(), values).await?;
        let described = Arc::new(Described { schema: answer.schema.clone(), parameters: Vec::new() });
        // each FETCH listens for a cancel by itself
        let rows = respond(answer, &names, &Format::UnifiedText, None)?;
        cursors::declare(client, declared, Prepared { statement, names, described }, rows).await
    }

    async fn run<C>(&self, client: &mut C, statement: Statement, values: Option<ParamValues>) -> PgWireResult<SqlAnswer>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let timeout_ms = session::timeout_ms(client, self.store.sql_timeout_ms());
        let answer = self.store.run_postgres(statement, values, timeout_ms).await.map_err(|e| failed(&e))?;
        warn(client, &answer.warnings).await?;
        Ok(answer)
    }
}

/// A statement that a client prepared: planned once for its types, planned anew over the rows of
/// the moment each time it runs.
#[derive(Clone)]
pub(super) struct Prepared {
    statement: Statement,
    names: Names,
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
        let Some(mut statement) = statements.pop() else { return Ok(None) };
        let names = Names::take(&mut statement);
        let described = match (session::schema(&statement), cursors::asked(&statement)?) {
            (_, Some(Asked::Fetch { .. })) => {
                return Err(refused("0A000", "FETCH is taken as a simple query, not as a prepared statement"));
            }
            (_, Some(Asked::Declare(declared))) => {
                let mut query = declared.statement();
                // its columns may have one name
                Names::take(&mut query);
                let described = self.store.describe_postgres(query).await.map_err(|e| failed(&e))?;
                Described { schema: Arc::new(Schema::empty()), ..described }
            }
            (Some(schema), _) => Described { schema, parameters: Vec::new() },
            (None, _) => self.store.describe_postgres(statement.clone()).await.map_err(|e| failed(&e))?,
        };
        debug_assert!(types.len() <= described.parameters.len() || described.parameters.is_empty());
        Ok(Some(Prepared { statement, names, described: Arc::new(described) }))
    }

    fn get_parameter_types(&self, prepared: &Self::Statement) -> PgWireResult<Vec<Type>> {
        Ok(prepared.described.parameters.iter().map(params::wire_type).collect())
    }

    fn get_result_schema(&self, prepared: &Self::Statement, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        fields(&prepared.described.schema, &prepared.names, format.unwrap_or(&Format::UnifiedText))
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

fn fields(schema: &SchemaRef, names: &Names, format: &Format) -> PgWireResult<Vec<FieldInfo>> {
    arrow_schema_to_pg_fields(&names.give(&flat::schema(schema)), format, None)
}

fn respond(
    answer: SqlAnswer,
    names: &Names,
    format: &Format,
    connection: Option<Arc<ConnectionHandle>>,
) -> PgWireResult<QueryResponse> {
    let fields = Arc::new(fields(&answer.schema, names, format)?);
    let columns = fields.clone();
    let rows = answer.stream.flat_map(move |batch| {
        let flat = batch.and_then(|batch| flat::rows(&batch));
        match flat {
            Ok(rows) => stream::iter(encode_recordbatch(columns.clone(), rows)).left_stream(),
            Err(error) => stream::once(std::future::ready(Err(failed(&error)))).right_stream(),
        }
    });
    Ok(QueryResponse::new(fields, cancellable(rows, connection)))
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
