//! The PostgreSQL wire protocol, used by clients that we did not write: psql, a driver, and the
//! library that dashboards and notebooks build on.

use std::process::{Command, Stdio};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use tokio_postgres::{
    Client, NoTls, SimpleQueryMessage,
    error::SqlState,
    types::{ToSql, Type},
};
use weir::server::Server;

use crate::support::{client, request, send, server, span};

const TRACE: &str = "0000000000000000000000000000002a";

async fn filled(dir: &std::path::Path) -> Server {
    let weir = server(dir).await;
    let spans =
        (0..20).map(|n| span(42, n + 1, n, if n % 2 == 0 { "GET /cart" } else { "SELECT" }, 1_000 + n, 500 + n));
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    assert!(send(&client(), &otlp, &request("cart", spans.collect())).await);
    weir
}

async fn connect(weir: &Server) -> Client {
    let (host, port) = (weir.addresses.pg.ip(), weir.addresses.pg.port());
    let options = format!("host={host} port={port} user=reader dbname=weir application_name=test");
    let (client, connection) = tokio_postgres::connect(&options, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_asks_with_parameters_and_gets_typed_rows() {
    let dir = tempfile::tempdir().unwrap();
    let weir = filled(dir.path()).await;
    let pg = connect(&weir).await;
    let statement = "SELECT trace_id, operation, duration_ns, parent_span_id, duration_ns / 2.0 AS half, resource_attributes \
        FROM spans WHERE trace_id = $1 AND duration_ns >= $2 AND operation LIKE $3 ORDER BY duration_ns LIMIT 3";
    let rows = pg.query(statement, &[&TRACE, &502_i64, &"GET%"]).await.unwrap();
    assert_eq!(rows.len(), 3);
    let row = &rows[0];
    assert_eq!(row.get::<_, &str>("trace_id"), TRACE);
    assert_eq!((row.get::<_, i64>("duration_ns"), row.get::<_, f64>("half")), (502, 251.0));
    assert_eq!(row.get::<_, Option<&str>>("parent_span_id"), Some("0000000000000002"));
    assert_eq!(row.get::<_, &str>("resource_attributes"), r#"{"service.name":"cart"}"#);
    // a prepared statement sees what was stored since
    let count = pg.prepare("SELECT count(*) FROM spans").await.unwrap();
    assert_eq!(pg.query_one(&count, &[]).await.unwrap().get::<_, i64>(0), 20);
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    assert!(send(&client(), &otlp, &request("cart", vec![span(43, 1, 0, "late", 1, 1)])).await);
    assert_eq!(pg.query_one(&count, &[]).await.unwrap().get::<_, i64>(0), 21);
    // a map has values of their types, and the column of its letters is nobody's to see
    let mut typed = span(44, 1, 0, "typed", 1, 1);
    let three = AnyValue { value: Some(Value::IntValue(3)) };
    typed.attributes = vec![KeyValue { key: "n".into(), value: Some(three), ..KeyValue::default() }];
    assert!(send(&client(), &otlp, &request("cart", vec![typed])).await);
    let row = pg.query_one("SELECT attributes, service FROM spans WHERE attributes['n'] = 3", &[]).await.unwrap();
    assert_eq!((row.len(), row.get::<_, &str>(0), row.get::<_, &str>(1)), (2, r#"{"n":3}"#, "cart"));
    weir.stop().await.unwrap();
}

/// What drivers bind: times of their own type or as text, lists, ids as bytes.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_every_type_that_drivers_bind_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let weir = filled(dir.path()).await;
    let pg = connect(&weir).await;
    let epoch = std::time::UNIX_EPOCH;
    let (texts, longs, operations) = (vec![TRACE, "00"], vec![1_i64, 1_001], vec!["SELECT", "no such"]);
    let bytes = hex::decode(TRACE).unwrap();
    let cases: Vec<(&str, Type, &(dyn ToSql + Sync), i64)> = vec![
        ("start_unix_nano > $1", Type::TIMESTAMPTZ, &epoch, 20),
        ("start_unix_nano < $1", Type::TIMESTAMP, &epoch, 0),
        ("ts(start_unix_nano) >= $1", Type::TIMESTAMPTZ, &epoch, 20),
        ("start_unix_nano >= $1", Type::TEXT, &"1970-01-01T00:00:00.00000101Z", 10),
        ("start_unix_nano >= $1", Type::INT8, &1_010_i64, 10),
        ("trace_id = ANY($1)", Type::TEXT_ARRAY, &texts, 20),
        ("start_unix_nano = ANY($1)", Type::INT8_ARRAY, &longs, 1),
        ("operation = ANY($1)", Type::VARCHAR_ARRAY, &operations, 10),
        ("trace_id = $1", Type::BYTEA, &bytes, 20),
    ];
    for (filter, wire, value, expect) in cases {
        let statement = format!("SELECT count(*) FROM spans WHERE {filter}");
        let statement = pg.prepare_typed(&statement, &[wire]).await.unwrap();
        let count: i64 = pg.query_one(&statement, &[value]).await.unwrap_or_else(|e| panic!("{filter}: {e:?}")).get(0);
        assert_eq!(count, expect, "{filter}");
    }
    // where the client names no type, it is told that of what the parameter stands beside
    let row = pg.query_one("SELECT count(*) FROM spans WHERE trace_id = ANY($1)", &[&texts]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 20);
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_sqlstate_and_the_session_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let weir = filled(dir.path()).await;
    let pg = connect(&weir).await;
    let long = format!("SELECT 1{}", " + 1".repeat(5_000));
    let cases = [
        ("SELECT nothing FROM spans", "42703"),
        ("SELECT 1 FROM nothing", "42P01"),
        ("SELECT nothing(1)", "42883"),
        ("SELEC 1", "42601"),
        ("DROP TABLE spans", "25006"),
        ("INSERT INTO spans VALUES (1)", "25006"),
        ("COPY spans TO '/tmp/x'", "25006"),
        (long.as_str(), "54001"),
        ("SELECT * FROM spans WHERE trace_id = 'zz'", "42601"),
    ];
    for (statement, state) in cases {
        let error = pg.simple_query(statement).await.unwrap_err();
        assert_eq!(error.code().map(SqlState::code), Some(state), "{statement}: {error:?}");
        assert_eq!(pg.query_one("SELECT count(*) FROM spans", &[]).await.unwrap().get::<_, i64>(0), 20);
    }
    // a statement that is only described is planned as well
    let steps: Vec<_> =
        (1..=18).map(|n| format!("a{n} AS (SELECT * FROM a{0} UNION ALL SELECT * FROM a{0})", n - 1)).collect();
    let doubling = format!("WITH a0 AS (SELECT 1 AS n), {} SELECT count(*) FROM a18", steps.join(", "));
    let error = pg.prepare(&doubling).await.unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("54001"), "{error:?}");
    let session = "BEGIN; SET search_path = public; SHOW server_version; SELECT 7; COMMIT";
    let messages = pg.simple_query(session).await.unwrap();
    let rows: Vec<_> =
        messages.iter().filter_map(|m| if let SimpleQueryMessage::Row(row) = m { row.get(0) } else { None }).collect();
    assert_eq!(rows, ["16.6", "7"]);
    weir.stop().await.unwrap();
}

/// The first two answered null: the wire crate's parser took every subquery that it could not plan for one
/// of the catalogue.
#[tokio::test(flavor = "multi_thread")]
async fn statements_mean_what_they_mean_in_postgresql() {
    let dir = tempfile::tempdir().unwrap();
    let weir = filled(dir.path()).await;
    let pg = connect(&weir).await;
    let correlated = "SELECT o.operation, (SELECT max(s.duration_ns) FROM spans s WHERE s.operation = o.operation) AS most \
        FROM spans o GROUP BY o.operation ORDER BY 1";
    let rows = pg.query(correlated, &[]).await.unwrap();
    let rows: Vec<(&str, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, [("GET /cart", 518), ("SELECT", 519)]);
    let bound = "SELECT (SELECT count(*) FROM spans WHERE duration_ns >= $1)";
    assert_eq!(pg.query_one(bound, &[&510_i64]).await.unwrap().get::<_, i64>(0), 10);
    let cases: [(&str, &[&str]); 6] = [
        ("SELECT count(*), count(*) FROM spans", &["count", "count"]),
        ("SELECT 1, 1, 'x' AS x, 'y' AS x", &["?column?", "?column?", "x", "x"]),
        ("SELECT service, * FROM services", &["service"]),
        ("SELECT service, service, max(duration_ns)::text FROM spans GROUP BY service", &["service", "service", "max"]),
        ("SELECT DISTINCT upper(service), upper(operation) FROM spans ORDER BY 1, 2", &["upper", "upper"]),
        ("SELECT attributes['http.route'], version() FROM spans", &["http.route", "version"]),
    ];
    for (statement, expect) in cases {
        let prepared = pg.prepare(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        let names: Vec<_> = prepared.columns().iter().map(tokio_postgres::Column::name).collect();
        assert_eq!(names[..expect.len()], *expect, "{statement}");
        pg.query(&prepared, &[]).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        let messages = pg.simple_query(statement).await.unwrap();
        let Some(SimpleQueryMessage::RowDescription(columns)) = messages.first() else { panic!("{messages:?}") };
        let names: Vec<_> = columns.iter().map(tokio_postgres::SimpleColumn::name).collect();
        assert_eq!(names[..expect.len()], *expect, "{statement}");
    }
    let escaped = "SELECT count(*) FROM spans WHERE operation LIKE '%/%t' AND operation NOT LIKE '%!/c%' ESCAPE '!'";
    assert_eq!(pg.query_one(escaped, &[]).await.unwrap().get::<_, i64>(0), 0);
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_bounds_its_statements_and_is_in_utc() {
    let dir = tempfile::tempdir().unwrap();
    let weir = filled(dir.path()).await;
    let pg = connect(&weir).await;
    let show = async || {
        let messages = pg.simple_query("SHOW statement_timeout").await.unwrap();
        let row = messages.iter().find_map(|m| if let SimpleQueryMessage::Row(row) = m { row.get(0) } else { None });
        row.unwrap().to_owned()
    };
    let endless = "SELECT count(*) FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 10000000) b WHERE a.value + b.value < 0";
    assert_eq!(show().await, "30s");
    for (set, shown) in [
        ("SET statement_timeout = '1min'", "30s"),
        ("SET statement_timeout TO '5s'", "5s"),
        ("SET statement_timeout = 0", "30s"),
        ("SET statement_timeout = 200", "200ms"),
    ] {
        pg.simple_query(set).await.unwrap();
        assert_eq!(show().await, shown, "{set}");
    }
    let error = pg.simple_query(endless).await.unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("57014"), "{error:?}");
    assert!(error.as_db_error().unwrap().message().contains("200"), "{error:?}");
    assert!(pg.query(endless, &[]).await.is_err());
    pg.simple_query("RESET statement_timeout").await.unwrap();
    pg.simple_query("BEGIN").await.unwrap();
    pg.simple_query("SET LOCAL statement_timeout = '2s'").await.unwrap();
    assert_eq!(show().await, "2s");
    pg.simple_query("COMMIT").await.unwrap();
    assert_eq!(show().await, "30s");
    for (set, state) in [
        ("SET TIME ZONE 'UTC'", None),
        ("SET timezone TO 'Etc/UTC'", None),
        ("SET TIME ZONE 'Europe/Berlin'", Some("22023")),
        ("SET SESSION timezone TO '+02'", Some("22023")),
        ("SET statement_timeout = 'soon'", Some("22023")),
    ] {
        let answered = pg.simple_query(set).await.map(drop);
        assert_eq!(answered.err().and_then(|e| e.code().map(|c| c.code().to_owned())).as_deref(), state, "{set}");
    }
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let weir = filled(dir.path()).await;
    let pg = connect(&weir).await;
    let fetch = async |statement: &str| {
        let messages = pg.simple_query(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        let text = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        messages.iter().filter_map(text).collect::<Vec<_>>()
    };
    let refused = async |statement: &str| {
        let error = pg.simple_query(statement).await.err().unwrap_or_else(|| panic!("{statement} was not refused"));
        error.code().map(|code| code.code().to_owned()).unwrap_or_default()
    };
    fetch("BEGIN").await;
    fetch("DECLARE c NO SCROLL CURSOR FOR SELECT duration_ns FROM spans ORDER BY 1").await;
    assert_eq!(fetch("FETCH FORWARD 2 FROM c").await, ["500", "501"]);
    assert_eq!(fetch("FETCH 1 FROM c").await, ["502"]);
    assert_eq!(fetch("FETCH NEXT IN c").await, ["503"]);
    assert_eq!(refused("DECLARE c CURSOR FOR SELECT 1").await, "42P03");
    assert_eq!(refused("FETCH PRIOR FROM c").await, "55000");
    assert_eq!(fetch("FETCH ALL FROM c").await.len(), 16);
    assert_eq!(fetch("FETCH 5 FROM c").await.len(), 0);
    fetch("CLOSE c").await;
    assert_eq!(refused("FETCH 1 FROM c").await, "34000");
    // one that idles leaves its turn to others, though it is far from read
    for n in 0..8 {
        fetch(&format!("DECLARE c{n} CURSOR WITH HOLD FOR SELECT value FROM generate_series(1, 900000)")).await;
        assert_eq!(fetch(&format!("FETCH 2 FROM c{n}")).await, ["1", "2"]);
    }
    assert_eq!(refused("DECLARE c8 CURSOR FOR SELECT 1").await, "53000");
    fetch("CLOSE c0").await;
    fetch("DECLARE c8 CURSOR FOR SELECT 1").await;
    fetch("COMMIT").await;
    assert_eq!(refused("FETCH 1 FROM c8").await, "34000", "it ended with its transaction");
    assert_eq!(fetch("FETCH 1 FROM c7").await, ["3"], "it stays");
    fetch("CLOSE ALL").await;
    fetch("SET statement_timeout = 50").await;
    fetch("DECLARE late CURSOR WITH HOLD FOR SELECT value FROM generate_series(1, 900000)").await;
    // so long takes one that is ended by the same time
    assert_eq!(refused("SELECT count(value) FROM generate_series(1, 900000000000)").await, "57014");
    assert_eq!(refused("FETCH ALL FROM late").await, "57014");
    assert_eq!(refused("FETCH 1 FROM late").await, "55000", "that there are no more would be untrue");
    fetch("DISCARD ALL").await;
    assert_eq!(refused("FETCH 1 FROM late").await, "34000");
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_stops_the_statement() {
    let dir = tempfile::tempdir().unwrap();
    let weir = filled(dir.path()).await;
    let pg = connect(&weir).await;
    let cancel = pg.cancel_token();
    let statement = "SELECT count(*) FROM generate_series(1, 100000) a CROSS JOIN generate_series(1, 10000000) b WHERE a.value + b.value < 0";
    let started = std::time::Instant::now();
    let asked = tokio::spawn(async move { pg.simple_query(statement).await.map(drop) });
    let mut tries = 0;
    while !asked.is_finished() {
        // until the statement runs there is nothing to cancel; the first is sent when it surely does
        tokio::time::sleep(std::time::Duration::from_millis(if tries == 0 { 1_000 } else { 20 })).await;
        tries += 1;
        cancel.cancel_query(NoTls).await.unwrap();
    }
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("57014"), "{error:?} after {tries} cancels");
    assert!(started.elapsed().as_secs() < 20, "it was cancelled, it did not time out");
    weir.stop().await.unwrap();
}

/// Runs a command and gives its stdout.
async fn run(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_lists_describes_and_asks() {
    if Command::new("psql").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: psql is not installed; ./tests/run installs it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let weir = filled(dir.path()).await;
    let (host, port) = (weir.addresses.pg.ip().to_string(), weir.addresses.pg.port().to_string());
    let psql = |words: &str| {
        let mut command = Command::new("psql");
        command.args(["-h", &host, "-p", &port, "-U", "reader", "-d", "weir", "-X", "-A", "-t", "-c", words]);
        command
    };
    let tables = run(psql("\\dt")).await;
    assert!(tables.contains("spans") && tables.contains("operations"), "{tables}");
    let columns = run(psql("\\d spans")).await;
    assert!(columns.contains("duration_ns|bigint") && columns.contains("trace_id|"), "{columns}");
    // each lists what there is, or that there is nothing
    for described in ["\\d+", "\\dt+", "\\d+ spans", "\\df", "\\du", "\\l+", "\\dn+", "\\dT", "\\dv", "\\di"] {
        run(psql(described)).await;
    }
    let found = run(psql("SELECT trace_id, count(*), max(duration_ns) FROM spans GROUP BY trace_id")).await;
    assert_eq!(found.trim(), format!("{TRACE}|20|519"));
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlalchemy_reflects_and_asks() {
    let python = std::env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut check = Command::new(&python);
    if !check.args(["-c", "import psycopg, sqlalchemy"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
        println!("skipped: {python} has no psycopg and SQLAlchemy; ./tests/run installs them");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let weir = filled(dir.path()).await;
    let mut command = Command::new(python);
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/dashboard.py");
    command.arg(script).arg(format!("postgresql+psycopg://reader@{}/weir", weir.addresses.pg));
    let said = run(command).await;
    assert_eq!(said.trim(), "GET /cart 10 509.0\nSELECT 10 510.0\n20");
    weir.stop().await.unwrap();
}
