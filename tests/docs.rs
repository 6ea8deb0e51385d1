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

/// What `docs/sql.md` says before its functions, examples and tables.
const SQL_HEAD: &str = include_str!("sql_head.md");

#[test]
fn sql_md_is_fresh() {
    let mut text = SQL_HEAD.to_owned();
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
