//! `docs/sql.md` and `docs/config.md` are made from the code; they must not be older than it.
//! `TEST_WRITE_DOCS=1 cargo test docs` writes them.

use std::{fmt::Write, fs, path::Path};

use weir_schema::{Table, columns};

use crate::sql_examples::{EXAMPLES, functions};

/// Where each part of the configuration is described: heading, file, and where it stands in the YAML.
const CONFIGS: [(&str, &str); 19] = [
    ("weir.yaml", "src/config.rs"),
    ("collector:", "collector/src/config.rs"),
    ("store:", "store/src/config.rs"),
    ("analyzer:", "analyzer/src/config.rs"),
    ("web:", "web/src/config.rs"),
    ("proxy.yaml", "proxy/src/config.rs"),
    ("proxy.yaml, listeners[]:", "proxy/src/config/listener.rs"),
    ("proxy.yaml, listeners[].routes[]:", "proxy/src/config/route.rs"),
    ("proxy.yaml, listeners[].routes[].match:", "proxy/src/config/matching.rs"),
    ("proxy.yaml, upstreams[]:", "proxy/src/config/upstream.rs"),
    ("proxy.yaml, upstreams[].endpoints[]:", "proxy/src/config/endpoint.rs"),
    ("proxy.yaml, upstreams[].discover:", "proxy/src/config/discovery.rs"),
    ("proxy.yaml, limits:", "proxy/src/config/limits.rs"),
    ("proxy.yaml, timeouts:", "proxy/src/config/timeouts.rs"),
    ("proxy.yaml, telemetry:", "proxy/src/config/telemetry.rs"),
    ("proxy.yaml, http:", "proxy/src/config/http.rs"),
    ("proxy.yaml: tls", "proxy/src/config/tls.rs"),
    ("proxy.yaml: jwt", "proxy/src/config/jwt.rs"),
    ("proxy.yaml: authorization", "proxy/src/config/authorization.rs"),
];

/// How statements are asked by HTTP.
const HTTP: &str = "
## By HTTP, by command, by driver

`POST /api/v1/sql` takes `{\"query\": \"SELECT …\"}` or the bare text, and answers JSON, CSV (`Accept: text/csv`) or an Arrow
stream (`Accept: application/vnd.apache.arrow.stream`); `GET /api/v1/sql?query=…&format=json|csv|arrow` is the same for links.
Rows are sent as they come, so an answer may be larger than memory. What is wrong before the first rows is an error with its
status. What goes wrong later (a bound that is met, a file that cannot be read) ends the connection without the end of the
body: a client sees a transport error, and the JSON does not parse. A client that goes away stops its statement.

In JSON a row is an object, so give columns of one name different ones (`p.service AS caller`). Numbers of every type are numbers;
a decimal that is not a whole number of 64 bits is the nearest double, and NaN and the infinities, which JSON has not, are null.
`SELECT attributes` gives an object of typed values, but for a `UNION`, a `DISTINCT` or a group, where all values are text.
In CSV null is nothing and an empty text is `\"\"`, NaN and the infinities are `NaN`, `inf` and `-inf`, and a text that a spreadsheet
would run as a formula (`=`, `@`, a tab; `+` and `-` before what is no number) gets a `'` in front.

`weir sql 'SELECT …' --format table|json|csv|arrow|parquet` prints the same; without a statement it is a prompt. Exit codes:
0 answered, 1 the statement was refused or failed, 2 usage, 4 no store or server there.

Drivers speak PostgreSQL on port 5433. Parameters are numbers, booleans, text, `numeric`, `timestamp`, `timestamptz`, `date`, `bytea`
and arrays of all of these but the numerics and bytes (`trace_id = ANY($1)`); a time may be bound as a timestamp or as text, an id as hex or as `bytea`. Ids come
as hex and maps as JSON. Errors have their SQLSTATE: 42601 for what cannot be parsed or planned, 42P01, 42703 and 42883 for a
table, column or function that is not there, 25006 for what would write, 53200, 54000 and 57014 for the bounds.

What a statement says is what it says in PostgreSQL: two columns may have one name, and one without a name has that of its
function (`count`) or `?column?`. `SET statement_timeout = '5s'` bounds the statements of a session, below the configured limit
(0 is that one). Times are in UTC: another `SET TIME ZONE` is refused (22023), and `ts(start_unix_nano) AT TIME ZONE 'Europe/Berlin'` shows one.

`DECLARE c CURSOR FOR SELECT …`, `FETCH 1000 FROM c` and `CLOSE c` read an answer in parts, as `psycopg` does with named cursors and SQLAlchemy
with `stream_results`: forward, as text, eight at once on a connection, each for as long as a statement may run.
";

#[test]
fn sql_md_is_fresh() {
    let mut text = String::from(
        "# Tables and columns\n\nMade from `schema/src/columns.rs`. Each table is a Delta table under `<data>/tables/<name>/`.\n\
         Times are nanoseconds since the Unix epoch. They are compared with texts (`start_unix_nano >= '2022-08-23T12:00:00Z'`, \
         `'2022-08-23 12:00:00'`, `'2022-08-23'`; UTC\nwhere no offset is said), with timestamps and dates (`start_unix_nano > now() - INTERVAL '1 hour'`), \
         and so is `ts(start_unix_nano)`; all of them prune alike.\n\
         Ids are compared with hex texts (`trace_id = '4bf9…'`), from wherever both come. `attributes['http.route']` reads an attribute \
         wherever it lives.\nA text beside a number is compared as a double, and one that is no number is null: `attributes['shop.items'] > 100`.\n\
         A `sum` of whole numbers that does not fit into 64 bits is an error; a product or a sum of two that does not fit wraps, so \
         multiply\nlarge ones as doubles (`duration_ns::double precision * duration_ns`).\n\n\
         A statement is one `SELECT`; it is bounded in text, depth, memory, time and rows, and an error says which bound it met.\n\
         Where each row would hold something long, a constant, a text that grows or what an aggregate collected, bytes are bounded too: write\n\
         `array_agg(…) OVER (…)` with a frame of `ROWS BETWEEN n PRECEDING AND m FOLLOWING`, or as a `GROUP BY`.\n\
         Every example on this page is run by a test.\n",
    );
    text.push_str(HTTP);
    text.push_str("\n## Functions\n\nBeside those of DataFusion (`SELECT * FROM information_schema.routines`):\n");
    for function in functions() {
        let _ =
            writeln!(text, "\n### `{}`\n\n{}\n\n```sql\n{}\n```", function.signature, function.doc, function.example);
    }
    text.push_str("\n## Examples\n");
    for (title, explanation, statement) in EXAMPLES {
        let _ = writeln!(text, "\n### {title}\n\n{explanation}\n\n```sql\n{statement}\n```");
    }
    for table in Table::ALL {
        let _ = writeln!(text, "\n## {}\n\n| column | type | what it holds |\n|---|---|---|", table.name());
        for column in columns::columns(table) {
            let from = column.attribute.map_or_else(String::new, |key| format!(" (`{key}`)"));
            let null = if column.nullable { "" } else { ", never null" };
            let _ = writeln!(
                text,
                "| `{}` | {}{null} | {}{from} |",
                column.name,
                kind(&column.data_type),
                column.doc.replace('|', "\\|")
            );
        }
    }
    fresh("docs/sql.md", &text);
}

#[test]
fn config_md_is_fresh() {
    let defaults = serde_saphyr::to_string(&weir::config::Config::default()).unwrap();
    let mut text = String::from(
        "# Configuration\n\nMade from the `Config` of each crate. Precedence: flag > `WEIR_*` > file > default;\n\
         `WEIR_STORE__FLUSH_ROWS=50000` is `store.flush_rows`. An unknown key is an error that names the nearest known one.\n\
         `weir config show` prints what is in effect, `weir config check FILE` checks a file, `weir-proxy --config FILE --check` too.\n",
    );
    let _ = writeln!(text, "\n## Defaults of `weir serve`\n\n```yaml\n{}\n```", defaults.trim_end());
    for (heading, file) in CONFIGS {
        let _ = writeln!(text, "\n## `{heading}`");
        for (name, doc, fields) in structs(&fs::read_to_string(root().join(file)).unwrap()) {
            let _ = writeln!(text, "\n### {name}\n\n{doc}\n\n| key | type | meaning |\n|---|---|---|");
            for (field, kind, doc) in fields {
                let _ = writeln!(text, "| `{field}` | `{}` | {} |", kind.replace('|', "\\|"), doc.replace('|', "\\|"));
            }
        }
    }
    fresh("docs/config.md", &text);
}

fn fresh(path: &str, text: &str) {
    let file = root().join(path);
    if std::env::var_os("TEST_WRITE_DOCS").is_some() {
        fs::write(&file, text).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == text, "{path} is stale: TEST_WRITE_DOCS=1 cargo test docs");
}

fn kind(data_type: &arrow::datatypes::DataType) -> String {
    use arrow::datatypes::DataType;
    match data_type {
        DataType::Utf8 => "text".into(),
        DataType::Binary => "bytes".into(),
        DataType::Int64 => "long".into(),
        DataType::Int32 => "int".into(),
        DataType::Float64 => "double".into(),
        DataType::Boolean => "boolean".into(),
        DataType::Map(..) => "map of text".into(),
        DataType::List(item) => format!("list of {}", kind(item.data_type())),
        DataType::Struct(fields) => {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            format!("({})", names.join(", "))
        }
        other => panic!("{other} has no name for people"),
    }
}

type Field = (String, String, String);

/// The public structs of a file that can be configured: name, sentence, and fields with theirs.
fn structs(source: &str) -> Vec<(String, String, Vec<Field>)> {
    let mut found: Vec<(String, String, Vec<Field>)> = Vec::new();
    let (mut doc, mut derives, mut inside) = (String::new(), false, false);
    for line in source.lines().map(str::trim) {
        if let Some(sentence) = line.strip_prefix("/// ") {
            doc = if doc.is_empty() { sentence.to_owned() } else { format!("{doc} {sentence}") };
            continue;
        }
        if line.starts_with("#[derive") {
            derives = line.contains("Deserialize");
        }
        if line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) {
            inside = derives;
            if inside {
                found.push((name.to_owned(), doc.clone(), Vec::new()));
            }
        } else if line == "}" {
            inside = false;
        } else if let Some((field, kind)) =
            line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")).filter(|_| inside)
        {
            let key = if field == "matches" { "match" } else { field };
            let kind = kind.trim_end_matches(',').to_owned();
            found.last_mut().unwrap().2.push((key.to_owned(), kind, doc.clone()));
        }
        doc.clear();
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
