//! The statements of the hostile suite, by what they would do.

/// How a statement must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Refused because it is not read-only, or reaches for what is not a table.
    Refused,
    /// Whatever the limits make of it, as long as it ends.
    Ends,
}

/// All of them.
pub(super) fn statements() -> Vec<(String, End)> {
    let refused = [changes(), reaches()].concat().into_iter().map(|s| (s, End::Refused));
    let ends = [deep(), long(), bombs(), grown(), owned(&WIDE), owned(&SLOW), odd()]
        .concat()
        .into_iter()
        .map(|s| (s, End::Ends));
    refused.chain(ends).collect()
}

fn owned(statements: &[&str]) -> Vec<String> {
    statements.iter().map(|s| (*s).to_owned()).collect()
}

/// Statements that would change something.
fn changes() -> Vec<String> {
    let mut all = owned(&[
        "INSERT INTO spans VALUES (1)",
        "INSERT INTO spans SELECT * FROM spans",
        "UPDATE spans SET service = 'x'",
        "DELETE FROM spans",
        "MERGE INTO spans USING logs ON true WHEN MATCHED THEN DELETE",
        "CREATE VIEW v AS SELECT 1",
        "CREATE OR REPLACE VIEW spans AS SELECT 1",
        "CREATE SCHEMA s",
        "CREATE DATABASE d",
        "CREATE INDEX i ON spans (service)",
        "CREATE ROLE r",
        "CREATE SEQUENCE s",
        "CREATE TYPE t AS ENUM ('a')",
        "CREATE EXTENSION x",
        "CREATE FUNCTION f() RETURNS INT LANGUAGE SQL AS 'SELECT 1'",
        "CREATE FUNCTION f(DOUBLE) RETURNS DOUBLE RETURN $1 + 1",
        "DROP FUNCTION hex",
        "SET datafusion.execution.batch_size = 1",
        "SET datafusion.runtime.memory_limit = '100G'",
        "SET TIME ZONE 'UTC'",
        "SET ROLE admin",
        "RESET ALL",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DEALLOCATE p",
        "DECLARE c CURSOR FOR SELECT 1",
        "FETCH 1 FROM c",
        "CLOSE c",
        "GRANT ALL ON spans TO x",
        "REVOKE ALL ON spans FROM x",
        "ANALYZE spans",
        "VACUUM spans",
        "LOCK TABLE spans",
        "CALL f()",
        "DO $$ BEGIN END $$",
        "LISTEN c",
        "NOTIFY c",
        "COMMENT ON TABLE spans IS 'x'",
        "TRUNCATE TABLE spans",
        "SELECT 1; DROP TABLE spans",
        "SELECT 1; SELECT 2",
        "SELECT * INTO stolen FROM spans",
        "EXPLAIN DELETE FROM spans",
        "EXPLAIN ANALYZE INSERT INTO spans SELECT * FROM spans",
        "WITH d AS (DELETE FROM spans RETURNING *) SELECT * FROM d",
        "WITH i AS (INSERT INTO spans VALUES (1) RETURNING *) SELECT * FROM i",
        "(DELETE FROM spans)",
    ]);
    for table in ["spans", "logs", "operations", "public.spans", "weir.public.spans", "information_schema.tables"] {
        all.push(format!("DROP TABLE {table}"));
        all.push(format!("DROP TABLE IF EXISTS {table} CASCADE"));
        all.push(format!("ALTER TABLE {table} ADD COLUMN x INT"));
        all.push(format!("CREATE TABLE {table} AS SELECT 1"));
    }
    all
}

/// Statements that reach for files, addresses or settings.
fn reaches() -> Vec<String> {
    let mut all = owned(&[
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM 'file:///etc/passwd'",
        "SELECT * FROM 'http://127.0.0.1/x.csv'",
        "SELECT * FROM 's3://bucket/x.parquet'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_parquet('tables/spans/x.parquet')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT load_extension('x')",
        "SELECT * FROM pg_ls_dir('/')",
        "SELECT * FROM other.public.spans",
        "SELECT * FROM weir.secret.spans",
        "SELECT * FROM information_schema.df_settings",
        "SELECT value FROM weir.information_schema.DF_SETTINGS",
        "SELECT count(*) FROM spans WHERE EXISTS (SELECT 1 FROM information_schema.\"df_settings\")",
        "EXPLAIN SELECT * FROM information_schema.df_settings",
        "SHOW ALL",
        "SHOW datafusion.execution.batch_size",
        "COPY spans TO 'stolen'",
        "COPY spans TO '/tmp/stolen.csv' STORED AS CSV",
        "COPY (SELECT * FROM spans) TO 'stolen.parquet'",
        "COPY spans FROM '/etc/passwd'",
        "COPY spans TO PROGRAM 'sh'",
        "LOAD DATA INPATH '/etc/passwd' INTO TABLE spans",
        "ATTACH DATABASE 'x' AS y",
        "INSTALL httpfs",
        "LOAD 'x'",
        "PRAGMA version",
        "USE other",
        "KILL 1",
        "SHUTDOWN",
    ]);
    for (format, place) in [
        ("CSV", "/etc/passwd"),
        ("PARQUET", "stolen"),
        ("JSON", "http://127.0.0.1/"),
        ("ARROW", "s3://b/x"),
        ("AVRO", "file:///etc"),
    ] {
        all.push(format!("CREATE EXTERNAL TABLE t STORED AS {format} LOCATION '{place}'"));
        all.push(format!("CREATE UNBOUNDED EXTERNAL TABLE t (a INT) STORED AS {format} LOCATION '{place}'"));
    }
    all
}

/// Statements that nest.
fn deep() -> Vec<String> {
    let nest = |open: &str, core: &str, close: &str, times: usize| {
        format!("SELECT {}{core}{}", open.repeat(times), close.repeat(times))
    };
    let mut all = Vec::new();
    for times in [14, 99, 1_000, 10_000] {
        all.push(nest("(", "1", ")", times));
        all.push(nest("abs(", "1", ")", times));
        all.push(nest("NOT ", "true", "", times));
        all.push(nest("- ", "1", "", times));
        all.push(nest("CASE WHEN true THEN ", "1", " END", times));
        all.push(nest("[", "1", "]", times));
        all.push(nest("CAST(", "1", " AS BIGINT)", times));
        all.push(format!("SELECT * FROM {}spans{}", "(SELECT * FROM ".repeat(times), ") t".repeat(times)));
        all.push(format!("SELECT 1 WHERE {}true{}", "EXISTS (SELECT 1 WHERE ".repeat(times), ")".repeat(times)));
        all.push(format!("SELECT {}1{}", "(SELECT ".repeat(times), ")".repeat(times)));
    }
    all
}

/// Statements that go on and on.
fn long() -> Vec<String> {
    let mut all = Vec::new();
    for times in [200, 3_000, 20_000] {
        all.push(format!("SELECT 1{}", " + 1".repeat(times)));
        all.push(format!("SELECT 'a'{}", " || 'a'".repeat(times)));
        all.push(format!("SELECT 1 WHERE true{}", " AND true".repeat(times)));
        all.push(format!("SELECT 1 WHERE false{}", " OR service = 'x'".repeat(times)));
        all.push(format!("SELECT count(*) FROM spans WHERE duration_ns = 1{}", " OR duration_ns = 2".repeat(times)));
        all.push(format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(times)));
        all.push(format!("SELECT 1{}", " UNION SELECT 1".repeat(times)));
        all.push(format!("SELECT 1{}", " EXCEPT SELECT 1".repeat(times)));
        all.push(format!("SELECT 1{}", ", 1".repeat(times)));
        all.push(format!("SELECT 1 IN (1{})", ", 1".repeat(times)));
        all.push(format!("VALUES (1){}", ", (1)".repeat(times)));
        all.push(format!("SELECT count(*) FROM spans{}", " NATURAL JOIN spans".repeat(times)));
        all.push(format!("SELECT 1{}", "::BIGINT".repeat(times)));
        all.push(format!("SELECT attributes{} FROM spans", "['a']".repeat(times)));
        all.push(format!("SELECT 1 AS {}", "a".repeat(times)));
        all.push(format!("SELECT 1 ORDER BY 1{}", ", 1".repeat(times)));
    }
    all
}

/// Statements that would use all memory or time.
fn bombs() -> Vec<String> {
    owned(&[
        "SELECT * FROM spans a, spans b",
        "SELECT * FROM spans a, spans b, spans c",
        "SELECT count(*) FROM spans a, spans b, spans c",
        "SELECT sum(a.duration_ns * b.duration_ns * c.duration_ns) FROM spans a CROSS JOIN spans b CROSS JOIN spans c",
        "SELECT * FROM spans a CROSS JOIN spans b ORDER BY a.duration_ns, b.duration_ns",
        "SELECT DISTINCT a.span_id, b.span_id FROM spans a CROSS JOIN spans b",
        "SELECT a.span_id, b.span_id, count(*) FROM spans a, spans b GROUP BY 1, 2",
        "SELECT * FROM spans a LEFT JOIN spans b ON a.duration_ns < b.start_unix_nano",
        "SELECT * FROM spans a FULL JOIN spans b ON a.duration_ns <> b.start_unix_nano",
        "SELECT count(*) FROM generate_series(1, 9223372036854775807)",
        "SELECT * FROM generate_series(1, 1000000000000)",
        "SELECT sum(value) FROM generate_series(1, 100000000000)",
        "SELECT count(*) FROM generate_series(1, 10000000) a CROSS JOIN generate_series(1, 10000000) b",
        "SELECT max(a.value * b.value) FROM generate_series(1, 10000000) a, generate_series(1, 10000000) b",
        "SELECT * FROM range(1, 1000000000000) ORDER BY 1 DESC",
        "SELECT range(1, 1000000000000)",
        "SELECT array_length(generate_series(1, 1000000000), 1)",
        "SELECT unnest(generate_series(1, 1000000000))",
        "SELECT unnest(range(100000000)) FROM spans",
        "SELECT array_agg(a.value) FROM generate_series(1, 100000000) a",
        "SELECT string_agg(a.value::VARCHAR, ',') FROM generate_series(1, 100000000) a",
        "SELECT array_agg(array_agg(span_id)) OVER () FROM spans GROUP BY service",
        "SELECT repeat('x', 2147483647)",
        "SELECT repeat(repeat('x', 100000), 100000)",
        "SELECT repeat(operation, 1000000) FROM spans",
        "SELECT length(repeat('x', 1000000000))",
        "SELECT lpad('x', 2147483647, 'y')",
        "SELECT rpad('x', 2147483647, 'y') FROM spans",
        "SELECT replace(repeat('a', 1000000), 'a', repeat('b', 1000000))",
        "SELECT translate(repeat('a', 100000000), 'a', 'b')",
        "SELECT concat(repeat('a', 1000000000), repeat('b', 1000000000))",
        "SELECT array_repeat('x', 1000000000)",
        "SELECT array_repeat(array_repeat(1, 100000), 100000)",
        "SELECT array_resize([1], 1000000000, 1)",
        "SELECT regexp_like(repeat('a', 100000), '(a+)+$')",
        "SELECT regexp_like(repeat('a', 1000000) || 'b', '^(a|a)*$')",
        "SELECT regexp_replace(repeat('a', 1000000), 'a', repeat('b', 10000), 'g')",
        "SELECT regexp_like('a', '(((a{1,100}){1,100}){1,100}){1,100}')",
        "SELECT count(*) FROM spans WHERE operation SIMILAR TO '%(a|b)*%'",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT a.n FROM r a, r b) SELECT count(*) FROM r",
        "WITH RECURSIVE r AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM r) SELECT max(length(s)) FROM r",
        "WITH a AS (SELECT * FROM spans, logs), b AS (SELECT x.* FROM a x, a y) SELECT count(*) FROM b x, b y",
        "SELECT count(*) OVER (ORDER BY a.duration_ns, b.duration_ns) FROM spans a, spans b",
        "SELECT sum(a.duration_ns) OVER (ORDER BY b.span_id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) FROM spans a, spans b",
        "SELECT percentile(a.duration_ns * b.duration_ns, 0.5) FROM spans a, spans b, spans c",
        "SELECT (SELECT count(*) FROM spans b, spans c WHERE b.duration_ns > a.duration_ns) FROM spans a",
        "SELECT * FROM spans a WHERE EXISTS (SELECT 1 FROM spans b, spans c WHERE b.duration_ns + c.duration_ns = a.start_unix_nano)",
        "EXPLAIN ANALYZE SELECT count(*) FROM spans a, spans b, spans c",
        "SELECT grouping(service) FROM spans GROUP BY CUBE (service, operation, kind, status, instance, scope_name, scope_version, http_route, url_path, rpc_system, rpc_service, rpc_method)",
        "SELECT digest(repeat('x', 1000000000), 'sha512')",
        "SELECT factorial(100000)",
        "SELECT power(10, 308) * power(10, 308)",
    ])
}

/// Short texts that would come to much: each step takes the one before it twice or more.
fn grown() -> Vec<String> {
    let cases = [
        ("SELECT * FROM @ UNION ALL SELECT * FROM @", 18),
        ("SELECT * FROM @ UNION ALL SELECT * FROM @", 50),
        ("SELECT x.s FROM @ x JOIN @ y ON x.s = y.s", 17),
        ("SELECT x.s FROM @ x, @ y, @ z", 100),
        ("SELECT s FROM @ WHERE s IN (SELECT s FROM @)", 30),
        ("SELECT (SELECT max(s) FROM @) AS s FROM @", 30),
        ("SELECT s || s AS s FROM @", 28),
        ("SELECT s || s AS s FROM @ WHERE s <> s || s", 28),
        ("SELECT struct(s, s) AS s FROM @", 20),
        ("SELECT struct(s, s) AS s FROM @", 40),
        ("SELECT s FROM (SELECT {'a': s, 'b': s} AS s FROM @) x", 40),
        ("SELECT [s, s] AS s FROM @", 20),
    ];
    let mut all: Vec<_> =
        cases.iter().map(|(step, times)| format!("{} SELECT count(s) FROM last", chain(step, *times))).collect();
    all.push(format!("EXPLAIN {} SELECT * FROM last", chain(cases[0].0, 18)));
    all.push(format!("EXPLAIN ANALYZE {} SELECT * FROM last", chain(cases[2].0, 17)));
    all.push(format!("{} SELECT * FROM last WHERE s = 'x'", chain("SELECT s || s AS s FROM @", 28)));
    all.push(format!(
        "{} SELECT * FROM last ORDER BY s",
        chain("SELECT CASE WHEN s > 'a' THEN s ELSE s || s END AS s FROM @", 40)
    ));
    for made in DOUBLING {
        all.push(format!("{} SELECT * FROM last", chain(&format!("SELECT {made} AS s FROM @"), 28)));
        all.push(format!(
            "{} SELECT * FROM last",
            chain_of("SELECT 'weir' AS s", &format!("SELECT {made} AS s FROM @"), 28)
        ));
    }
    let sets = |by: &str, times: usize| format!("SELECT 1 FROM spans GROUP BY {}", vec![by; times].join(", "));
    all.extend([sets("CUBE (service, kind)", 12), sets("ROLLUP (service, kind)", 12)]);
    all.push(format!("SELECT 1 FROM spans GROUP BY CUBE (service{})", ", kind".repeat(40)));
    all
}

/// Statements in which something long would stand in every row.
pub(super) const WIDE: [&str; 15] = [
    "SELECT service, repeat('z', 200000) FROM spans",
    "SELECT service, make_array(repeat('z', 200000)) FROM spans",
    "SELECT service, upper(repeat('z', 20000)), lower(repeat('Z', 20000)) FROM spans",
    "SELECT upper(operation || repeat('z', 7000)), lower(operation || repeat('z', 7000)), reverse(operation || repeat('z', 7000)) FROM spans",
    "SELECT CASE WHEN service = 'x' THEN repeat('z', 200000) ELSE service END FROM spans",
    "SELECT coalesce(nullif(service, 'cart'), repeat('z', 200000)) FROM spans",
    "SELECT to_char(ts(start_unix_nano), repeat('%Y', 3000)) FROM spans",
    "SELECT count(*) FROM spans, (SELECT array_agg(value) AS x FROM generate_series(1, 50000)) y WHERE array_length(x) > duration_ns",
    "SELECT service, (SELECT repeat('z', 200000)) AS x FROM spans WHERE length((SELECT repeat('y', 200000))) > duration_ns LIMIT 20",
    "SELECT count(*) FROM spans WHERE array_length((SELECT array_agg(value) FROM generate_series(1, 50000))) > duration_ns",
    "SELECT count(*) FROM spans, (SELECT repeat('z', 200000) AS x) y WHERE length(x) > duration_ns",
    "SELECT string_agg(operation, ',') OVER (ORDER BY start_unix_nano) FROM spans",
    "SELECT array_agg(operation) OVER (ORDER BY start_unix_nano) FROM spans",
    "SELECT array_agg(operation) OVER () FROM spans",
    "SELECT * FROM spans a, spans b WHERE a.duration_ns * b.duration_ns = 7",
];

/// Statements with a call that would take long before anybody looks at the clock.
pub(super) const SLOW: [&str; 10] = [
    "SELECT levenshtein(repeat('a', 400000), repeat('b', 400000))",
    "SELECT count(*) FROM spans WHERE levenshtein(repeat('a', 20000), operation) > 0",
    "SELECT strpos(repeat('a', 3000000), repeat('a', 1500000) || 'b')",
    "SELECT btrim(repeat('a', 3000000), repeat('b', 3000000) || 'a')",
    "SELECT array_has_all(x, x) FROM (SELECT array_agg(value) AS x FROM generate_series(1, 100000)) y",
    "SELECT count(*) FROM spans WHERE regexp_like(operation || repeat('a', 7000), '(a|aa|aaa){1,200}(x|y){1,100}z')",
    "SELECT count(*) FROM spans WHERE operation || repeat('a', 7000) ~ '(a|aa|aaa){1,200}(x|y){1,100}z'",
    "SELECT count(*) FROM spans WHERE operation || repeat('a', 7000) SIMILAR TO '(a|aa|aaa){1,200}(x|y){1,100}z'",
    "SELECT count(*) FROM spans, (VALUES ('(a|aa|aaa){1,200}(x|y){1,100}z')) v(p) WHERE operation || repeat('a', 7000) ~ p",
    "SELECT count(to_char(ts(start_unix_nano), repeat('%Y', 300))) FROM spans, generate_series(1, 1000)",
];

/// What makes of a text or a list one that is twice as long.
pub(super) const DOUBLING: [&str; 8] = [
    "s || s",
    "concat(s, s)",
    "concat_ws(s, s, s)",
    "replace(s, 'r', 'rr')",
    "encode(s::BYTEA, 'hex')",
    "overlay(s PLACING s FROM 1 FOR 0)",
    "array_to_string([s, s], ',')",
    "array_to_string(array_concat([s], [s]), s)",
];

/// A WITH of steps over services; each takes the one before for `@`, the last is `last`.
pub(super) fn chain(step: &str, times: usize) -> String {
    chain_of("SELECT service AS s FROM spans", step, times)
}

fn chain_of(first: &str, step: &str, times: usize) -> String {
    let steps = (1..=times).map(|n| format!("a{n} AS ({})", step.replace('@', &format!("a{}", n - 1))));
    let steps = steps.collect::<Vec<_>>().join(", ");
    format!("WITH a0 AS ({first}), {steps}, last AS (SELECT * FROM a{times})")
}

/// Statements that are strange.
fn odd() -> Vec<String> {
    let mut all = owned(&[
        "",
        ";",
        ";;;;",
        "--",
        "/*",
        "/* /* */",
        "SELECT",
        "SELECT * FROM",
        "SELECT '",
        "SELECT \"",
        "SELECT $$",
        "SELECT $1",
        "SELECT ?",
        "SELECT \u{0}",
        "SELECT '\u{0}'",
        "SELECT '\u{202e}\u{1f4a9}'",
        "SÉLÉCT 1",
        "SELECT 1/0",
        "SELECT 1 % 0",
        "SELECT 9223372036854775807 + 1",
        "SELECT -9223372036854775808 / -1",
        "SELECT abs(-9223372036854775808)",
        "SELECT CAST('x' AS BIGINT)",
        "SELECT CAST(1e400 AS BIGINT)",
        "SELECT 1e99999",
        "SELECT 0x",
        "SELECT X'0'",
        "SELECT INTERVAL '999999999999 years'",
        "SELECT TIMESTAMP '999999-01-01'",
        "SELECT to_timestamp_nanos(9223372036854775807) + INTERVAL '1 year'",
        "SELECT date_bin(INTERVAL '0 seconds', now())",
        "SELECT time_bucket('0 seconds', start_unix_nano) FROM spans",
        "SELECT time_bucket('9223372036854775807 days', start_unix_nano) FROM spans",
        "SELECT time_bucket(operation, start_unix_nano) FROM spans",
        "SELECT hex(operation) FROM spans",
        "SELECT attr(operation, 'x') FROM spans",
        "SELECT attr(attributes, operation) FROM spans",
        "SELECT percentile(duration_ns, 5) FROM spans",
        "SELECT percentile(operation, 0.5) FROM spans",
        "SELECT attributes['x']['y'] FROM spans",
        "SELECT attributes[NULL] FROM spans",
        "SELECT substr('abc', -9223372036854775808, 9223372036854775807)",
        "SELECT chr(-1)",
        "SELECT chr(1114112)",
        "SELECT nothing() FROM spans",
        "SELECT * FROM spans LIMIT -1",
        "SELECT * FROM spans LIMIT 9223372036854775807 OFFSET 9223372036854775807",
        "SELECT * FROM spans TABLESAMPLE BERNOULLI (50)",
        "SELECT * FROM spans FOR UPDATE",
        "SELECT * FROM spans GROUP BY 1",
        "SELECT sum(sum(duration_ns)) FROM spans",
        "SELECT count(*) FROM spans HAVING count(*) > count(*)",
        "SHOW FUNCTIONS",
        "SHOW CREATE TABLE spans",
        "DESCRIBE nothing",
        "TABLE spans",
        "EXPLAIN EXPLAIN SELECT 1",
    ]);
    all.push("\u{feff}SELECT 1".to_owned());
    all.push("\n".repeat(60_000));
    all.push(format!("SELECT '{}'", "'".repeat(30_000)));
    all.push(format!("SELECT {}", "1.".repeat(20_000)));
    all.push(format!("/*{}*/ SELECT 1", "/*".repeat(20_000)));
    all
}
