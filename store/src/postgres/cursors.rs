//! Cursors: `DECLARE c CURSOR FOR SELECT …`, `FETCH 1000 FROM c`, `CLOSE c`. Each is a portal of its connection,
//! whose rows go on where the last FETCH ended, and only forward.
//!
//! A statement that waits for its reader gives its turn back, and it ends with its time: a cursor that idles
//! holds nobody up, and not for long.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use datafusion::sql::sqlparser::ast::{
    CloseCursor, Declare, DeclareType, FetchDirection, Ident, Query, Statement, Value, ValueWithSpan,
};
use datafusion_postgres::pgwire::{
    api::{
        ClientInfo, ClientPortalStore,
        portal::{Portal, PortalExecutionState},
        results::{FieldInfo, QueryResponse, Response, Tag},
        stmt::StoredStatement,
        store::{Entry, MemPortalStore, PortalStore},
    },
    error::PgWireResult,
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use super::{
    cancel::{cancellable, connection},
    handler::{Prepared, refused},
};

/// Cursors that a connection may have open.
const OPEN: usize = 8;

/// What a statement asks of a cursor.
pub(super) enum Asked<'a> {
    Declare(Declared<'a>),
    Fetch {
        name: &'a str,
        /// How many rows; `None` for all.
        rows: Option<u64>,
    },
    /// One, or all.
    Close(Option<&'a str>),
}

/// A cursor to be.
pub(super) struct Declared<'a> {
    pub(super) name: &'a str,
    query: &'a Query,
    /// Whether it stays when the transaction ends.
    hold: bool,
}

impl Declared<'_> {
    /// What its rows are.
    pub(super) fn statement(&self) -> Statement {
        Statement::Query(Box::new(self.query.clone()))
    }
}

/// What a statement asks of a cursor; `None` when it is about something else.
pub(super) fn asked(statement: &Statement) -> PgWireResult<Option<Asked<'_>>> {
    Ok(match statement {
        Statement::Declare { stmts } => match stmts.as_slice() {
            [declare] => declared(declare)?.map(Asked::Declare),
            _ => None,
        },
        Statement::Fetch { name, direction, into: None, .. } => {
            Some(Asked::Fetch { name: &name.value, rows: rows(direction)? })
        }
        Statement::Close { cursor: CloseCursor::All } => Some(Asked::Close(None)),
        Statement::Close { cursor: CloseCursor::Specific { name } } => Some(Asked::Close(Some(&name.value))),
        _ => None,
    })
}

fn declared(declare: &Declare) -> PgWireResult<Option<Declared<'_>>> {
    let Declare { names, declare_type: Some(DeclareType::Cursor), for_query: Some(query), .. } = declare else {
        return Ok(None);
    };
    let [Ident { value: name, .. }] = names.as_slice() else { return Ok(None) };
    if declare.scroll == Some(true) || declare.binary == Some(true) {
        return Err(refused("0A000", "a cursor goes forward and has its rows as text"));
    }
    Ok(Some(Declared { name, query, hold: declare.hold == Some(true) }))
}

fn rows(direction: &FetchDirection) -> PgWireResult<Option<u64>> {
    let count = |limit: &ValueWithSpan| match &limit.value {
        Value::Number(number, _) => number.to_string().parse().ok(),
        _ => None,
    };
    let count = match direction {
        FetchDirection::Next | FetchDirection::Forward { limit: None } => Some(1),
        FetchDirection::All | FetchDirection::ForwardAll => return Ok(None),
        FetchDirection::Count { limit } | FetchDirection::Forward { limit: Some(limit) } => count(limit),
        _ => None,
    };
    count.map(Some).ok_or_else(|| refused("55000", "a cursor goes forward by so many rows, or by ALL"))
}

/// A cursor that is open.
struct Cursor {
    name: String,
    /// Whether it stays when the transaction ends.
    hold: bool,
    /// Its rows ended in an error: that there are no more would be untrue.
    failed: Arc<AtomicBool>,
}

/// The cursors of a connection.
#[derive(Default)]
struct Open(Mutex<Vec<Cursor>>);

fn open<C: ClientInfo>(client: &C) -> Arc<Open> {
    client.session_extensions().get_or_insert_with(Open::default)
}

fn portals<C: ClientPortalStore>(client: &C) -> PgWireResult<&MemPortalStore<Prepared>>
where
    C::PortalStore: PortalStore,
{
    let portals = client.portal_store().as_any().downcast_ref();
    portals.ok_or_else(|| refused("XX000", "the portals of the connection are of another kind"))
}

/// Whether a cursor can be opened.
pub(super) fn has_room<C: ClientInfo>(client: &C, declared: &Declared<'_>) -> PgWireResult<()> {
    let open = open(client);
    let open = open.0.lock();
    match open.iter().any(|cursor| cursor.name == declared.name) {
        true => Err(refused("42P03", &format!("cursor \"{}\" already exists", declared.name))),
        false if open.len() >= OPEN => Err(refused("53000", &format!("{OPEN} cursors are open: CLOSE one"))),
        false => Ok(()),
    }
}

/// Opens a cursor over rows that were asked for.
pub(super) async fn declare<C>(
    client: &C,
    declared: &Declared<'_>,
    prepared: Prepared,
    rows: QueryResponse,
) -> PgWireResult<Response>
where
    C: ClientInfo + ClientPortalStore,
    C::PortalStore: PortalStore,
{
    let statement = Arc::new(StoredStatement::new(String::new(), prepared, Vec::new()));
    let portal = Portal::new_cursor(declared.name.to_owned(), statement);
    portal.start(rows).await;
    portals(client)?.put_portal(Arc::new(portal));
    let cursor = Cursor { name: declared.name.to_owned(), hold: declared.hold, failed: Arc::default() };
    open(client).0.lock().push(cursor);
    Ok(Response::Execution(Tag::new("DECLARE CURSOR")))
}

/// The next rows of a cursor.
pub(super) fn fetch<C>(
    client: &C,
    name: &str,
    rows: Option<u64>,
    fields: impl Fn(&Prepared) -> PgWireResult<Vec<FieldInfo>>,
) -> PgWireResult<Response>
where
    C: ClientInfo + ClientPortalStore,
    C::PortalStore: PortalStore,
{
    let failed = open(client).0.lock().iter().find(|cursor| cursor.name == name).map(|cursor| cursor.failed.clone());
    let failed = failed.ok_or_else(|| unknown(name))?;
    if failed.load(Relaxed) {
        return Err(refused("55000", &format!("cursor \"{name}\" ended in an error: CLOSE it")));
    }
    let Some(Entry::Value(portal)) = portals(client)?.get_portal(name) else { return Err(unknown(name)) };
    let fields = Arc::new(fields(&portal.statement.statement)?);
    let next = stream::unfold((portal.state(), rows, failed), |(state, left, failed)| async move {
        if left == Some(0) {
            return None;
        }
        let mut rows = state.lock().await;
        let PortalExecutionState::Suspended(response) = &mut *rows else { return None };
        let row = response.data_rows().next().await;
        if !matches!(row, Some(Ok(_))) {
            *rows = PortalExecutionState::Finished;
            failed.store(row.is_some(), Relaxed);
        }
        drop(rows);
        Some((row?, (state, left.map(|left| left - 1), failed)))
    });
    let mut response = QueryResponse::new(fields, cancellable(next, connection(client)));
    response.set_command_tag("FETCH");
    Ok(Response::Query(response))
}

/// Closes a cursor, or all.
pub(super) fn close<C>(client: &C, name: Option<&str>) -> PgWireResult<Response>
where
    C: ClientInfo + ClientPortalStore,
    C::PortalStore: PortalStore,
{
    let closed = close_where(client, |other, _| name.is_none_or(|name| name == other))?;
    match name {
        Some(name) if closed == 0 => Err(unknown(name)),
        _ => Ok(Response::Execution(Tag::new("CLOSE CURSOR"))),
    }
}

/// Closes those that do not outlive the transaction.
pub(super) fn end_transaction<C>(client: &C) -> PgWireResult<()>
where
    C: ClientInfo + ClientPortalStore,
    C::PortalStore: PortalStore,
{
    close_where(client, |_, hold| !hold).map(drop)
}

fn close_where<C>(client: &C, closes: impl Fn(&str, bool) -> bool) -> PgWireResult<usize>
where
    C: ClientInfo + ClientPortalStore,
    C::PortalStore: PortalStore,
{
    let portals = portals(client)?;
    let open = open(client);
    let mut open = open.0.lock();
    let before = open.len();
    open.retain(|cursor| {
        let stays = !closes(&cursor.name, cursor.hold);
        if !stays {
            portals.rm_portal(&cursor.name);
        }
        stays
    });
    Ok(before - open.len())
}

fn unknown(name: &str) -> datafusion_postgres::pgwire::error::PgWireError {
    refused("34000", &format!("cursor \"{name}\" does not exist"))
}
