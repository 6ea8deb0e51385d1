//! SQL that shows what a cause rests on beside spans: rows of `logs`, `metrics` and events on spans, as `docs/sql.md` has them.

use std::ops::Range;

use weir_schema::UnixNanos;

use super::templates::WILDCARD;
use crate::literal::{text, within};

/// Records of a template, second by second, and one of the traces that have it.
pub(super) fn lines(service: &str, template: &str, time: &Range<UnixNanos>) -> String {
    format!(
        "SELECT time_bucket('1 second', time_unix_nano) AS second, count(*) AS records, \
         count(DISTINCT trace_id) AS requests, min(hex(trace_id)) AS trace FROM logs \
         WHERE service = {} AND trace_id IS NOT NULL AND body LIKE {} AND {} GROUP BY second ORDER BY second",
        text(service),
        text(&pattern(template)),
        within("time_unix_nano", time)
    )
}

/// Spans that hold an exception, second by second.
pub(super) fn exceptions(service: &str, time: &Range<UnixNanos>) -> String {
    format!(
        "SELECT second, operation, count(*) AS exceptions FROM (SELECT time_bucket('1 second', start_unix_nano) AS second, \
         operation, unnest(events) AS event FROM spans WHERE service = {} AND {}) \
         WHERE event['name'] = 'exception' GROUP BY second, operation ORDER BY second",
        text(service),
        within("start_unix_nano", time)
    )
}

/// Metrics of a service whose name has this word, minute by minute and series by series.
pub(super) fn readings(service: &str, word: &str, time: &Range<UnixNanos>) -> String {
    let workload = text(service);
    let pods = text(&format!("{}-%", service.replace(['%', '\\'], "_")));
    format!(
        "SELECT time_bucket('1 minute', time_unix_nano) AS minute, name, instance, resource_attributes['k8s.pod.name'] AS pod, \
         min(value) AS lowest, max(value) AS highest FROM metrics \
         WHERE lower(name) LIKE '%{word}%' AND {} AND (service = {workload} OR \
         resource_attributes['k8s.deployment.name'] = {workload} OR resource_attributes['k8s.pod.name'] LIKE {pods}) \
         GROUP BY minute, name, instance, pod ORDER BY minute, name, instance",
        within("time_unix_nano", time)
    )
}

/// What a body of the template looks like. The level may be the severity's and not the text's, and a letter that LIKE
/// would read otherwise may be any.
fn pattern(template: &str) -> String {
    let words = template.strip_prefix("ERROR ").unwrap_or(template).split(' ').filter(|word| *word != WILDCARD);
    let quoted = words.map(|word| word.strip_suffix(WILDCARD).unwrap_or(word).replace(['%', '\\'], "_"));
    format!("%{}%", quoted.collect::<Vec<_>>().join("%"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::literal::unknown_words;

    #[test]
    fn a_template_is_a_pattern_of_its_bodies() {
        let cases = [
            ("cannot read word *", "%cannot%read%word%"),
            ("ERROR cannot read", "%cannot%read%"),
            ("user=* logged in", "%user=%logged%in%"),
            ("50% of C:\\ is o'hara's", "%50_%of%C:_%is%o'hara's%"),
        ];
        for (template, expect) in cases {
            assert_eq!(pattern(template), expect, "{template}");
        }
        let sql = lines("o'hara", "it's *", &(5..9));
        assert!(sql.contains("service = 'o''hara' AND trace_id IS NOT NULL AND body LIKE '%it''s%'"), "{sql}");
    }

    #[test]
    fn statements_name_only_what_the_tables_have() {
        let all = [
            lines("cart", "cannot read *", &(5..9)),
            exceptions("cart", &(5..9)),
            readings("cart", "cpu", &(5..9)),
            readings("cart", "network", &(5..9)),
        ];
        let functions = ["time_bucket", "count", "min", "max", "hex", "lower", "unnest"];
        for sql in all {
            assert_eq!(unknown_words(&sql, &functions), [""; 0], "{sql}");
        }
    }
}
