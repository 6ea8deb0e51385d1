//! What the `\d` commands of psql ask for beside tables: functions that describe objects of kinds this
//! store has not, and forms of statements that are not planned here and have one answer.

use std::sync::{Arc, LazyLock};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, StringArray},
        datatypes::{DataType, Int64Type},
    },
    common::{DataFusionError, ScalarValue, exec_err},
    execution::context::SessionContext,
    logical_expr::{ColumnarValue, ScalarUDF, Signature, SimpleScalarUDF, TypeSignature, Volatility, create_udf},
};
use regex::{NoExpand, Regex};

use super::dialect::LIKE_ESCAPE;

/// Each byte of a pattern may become two: a batch of them is 64 MiB at most.
const MAX_PATTERN_BYTES: usize = 4 << 10;

/// Parts of psql's statements, and what says the same of this store.
const PARTS: [(&str, &str); 4] = [
    // options of a table's storage, which none has
    (
        "pg_catalog.array_to_string(c.reloptions || array(select 'toast.' || x from \
         pg_catalog.unnest(tc.reloptions) x), ', ')",
        "''",
    ),
    // roles that a role is in
    (
        "ARRAY(SELECT b.rolname FROM pg_catalog.pg_auth_members m \
         JOIN pg_catalog.pg_roles b ON (m.roleid = b.oid) WHERE m.member = r.oid)",
        "'{}'",
    ),
    // rights, which are not given one by one
    (r"pg_catalog.array_to_string(n.nspacl, E'\n')", "NULL"),
    // types made of columns that are no table's
    ("OR (SELECT c.relkind = 'c' FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid)", ""),
];

static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let pattern = |part: &str| part.split_whitespace().map(regex::escape).collect::<Vec<_>>().join(r"\s+");
    PARTS.iter().map(|(part, same)| (Regex::new(&pattern(part)).expect("escaped text is a pattern"), *same)).collect()
});

/// A statement without the parts that are not planned here.
pub(super) fn plain(statement: &str) -> String {
    let mut plain = statement.to_owned();
    if statement.contains("pg_catalog.") {
        for (part, same) in PATTERNS.iter() {
            plain = part.replace_all(&plain, NoExpand(same)).into_owned();
        }
    }
    plain
}

/// Adds the functions.
pub(super) fn register(session: &SessionContext) {
    for name in ["pg_function_is_visible", "pg_type_is_visible", "pg_operator_is_visible", "pg_collation_is_visible"] {
        session.register_udf(always(name, ScalarValue::Boolean(Some(true))));
    }
    for name in ["pg_get_function_result", "pg_get_function_arguments"] {
        session.register_udf(always(name, ScalarValue::Utf8(None)));
    }
    // files hold many rows of a table at several ages: `GET /api/v1/status` tells their sizes
    for name in ["pg_table_size", "pg_database_size"] {
        session.register_udf(always(name, ScalarValue::Int64(None)));
    }
    session.register_udf(size_pretty());
    // of what there is none: indexes, and numbers that count up by themselves
    session.register_udf(always_of("pg_get_indexdef", &[1, 3], ScalarValue::Utf8(None)));
    session.register_udf(always_of("pg_get_serial_sequence", &[2], ScalarValue::Utf8(None)));
    session.register_udf(like_escape());
}

/// A function of one argument that has one answer.
fn always(name: &str, answer: ScalarValue) -> ScalarUDF {
    always_of(name, &[1], answer)
}

/// A function of so many arguments that has one answer.
fn always_of(name: &str, arguments: &[usize], answer: ScalarValue) -> ScalarUDF {
    let of = answer.data_type();
    let give = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(answer.clone()));
    let signatures = arguments.iter().map(|count| TypeSignature::Any(*count)).collect();
    let signature = Signature::one_of(signatures, Volatility::Immutable);
    SimpleScalarUDF::new_with_signature(name, signature, of, Arc::new(give)).into()
}

/// `like_escape(pattern, escape)`: a pattern whose escape is a backslash, as PostgreSQL has it.
fn like_escape() -> ScalarUDF {
    let answer = |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let (patterns, escapes) = (arrays[0].as_string::<i32>(), arrays[1].as_string::<i32>());
        let escaped = |(pattern, escape): (Option<&str>, Option<&str>)| match (pattern, escape) {
            (Some(pattern), Some(escape)) => with_backslashes(pattern, escape).map(Some),
            _ => Ok(None),
        };
        let texts = patterns.iter().zip(escapes).map(escaped).collect::<Result<StringArray, DataFusionError>>()?;
        Ok::<_, DataFusionError>(ColumnarValue::Array(Arc::new(texts) as ArrayRef))
    };
    let of = vec![DataType::Utf8, DataType::Utf8];
    create_udf(LIKE_ESCAPE, of, DataType::Utf8, Volatility::Immutable, Arc::new(answer))
}

fn with_backslashes(pattern: &str, escape: &str) -> Result<String, DataFusionError> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return exec_err!("a pattern of LIKE may have {MAX_PATTERN_BYTES} bytes");
    }
    let mut letters = escape.chars();
    let (escape, None) = (letters.next(), letters.next()) else { return exec_err!("an ESCAPE has one letter") };
    let (mut same, mut letters) = (String::new(), pattern.chars());
    while let Some(letter) = letters.next() {
        match letter {
            _ if Some(letter) == escape => {
                same.push('\\');
                same.extend(letters.next());
            }
            '\\' => same.push_str("\\\\"),
            other => same.push(other),
        }
    }
    Ok(same)
}

/// `pg_size_pretty(bytes)`: a size with its unit, as PostgreSQL writes it.
fn size_pretty() -> ScalarUDF {
    let answer = |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let sizes = arrays[0].as_primitive::<Int64Type>();
        let texts: StringArray = sizes.iter().map(|size| size.map(pretty)).collect();
        Ok::<_, DataFusionError>(ColumnarValue::Array(Arc::new(texts) as ArrayRef))
    };
    create_udf("pg_size_pretty", vec![DataType::Int64], DataType::Utf8, Volatility::Immutable, Arc::new(answer))
}

/// Below ten thousand of a unit it is given in that unit; the next one is rounded.
fn pretty(bytes: i64) -> String {
    let mut size = bytes as f64;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if size.abs() < 10_240.0 {
            return format!("{} {unit}", size.round());
        }
        size /= 1_024.0;
    }
    format!("{} TB", size.round())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_postgresql_writes_them() {
        let written = [0, 10_239, 10_240, 1_000_000, 20 << 30, 30 << 40].map(pretty);
        assert_eq!(written, ["0 bytes", "10239 bytes", "10 kB", "977 kB", "20 GB", "30 TB"]);
    }

    #[test]
    fn patterns_keep_what_they_match() {
        for (pattern, escape, same) in [
            ("pg/_%", "/", r"pg\_%"),
            ("a//b", "/", r"a\/b"),
            (r"a\b", "!", r"a\\b"),
            ("a_/", "/", r"a_\"),
            ("a%", "", "a%"),
        ] {
            assert_eq!(with_backslashes(pattern, escape).unwrap(), same);
        }
        assert!(with_backslashes("a", "ab").is_err());
    }

    #[test]
    fn parts_are_found_however_they_are_laid_out_and_nothing_else_is_touched() {
        let asked = "SELECT pg_catalog.array_to_string(c.reloptions || array(select 'toast.' ||\n  x from pg_catalog.unnest(tc.reloptions) x), ', ')";
        assert_eq!(plain(asked), "SELECT ''");
        let other = "SELECT array(select 1) FROM pg_catalog.pg_class";
        assert_eq!(plain(other), other);
    }
}
