//! YAML in, `Config` out; an unknown key is an error that suggests the nearest known one.

use crate::config::{Config, ConfigError};

/// Below this likeness a suggestion would only mislead.
const LIKE_ENOUGH: f64 = 0.7;

pub(crate) fn parse(text: &str) -> Result<Config, ConfigError> {
    serde_saphyr::from_str(text).map_err(|error| ConfigError(suggest(&error.to_string())))
}

/// Adds "did you mean" to "unknown field `x`, expected one of a, b", with or without backticks.
#[must_use]
pub fn suggest(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let Some((_, rest)) = first.split_once("unknown field `") else { return message.to_owned() };
    let Some((unknown, expected)) = rest.split_once('`') else { return message.to_owned() };
    let nearest = expected
        .split([',', ' ', '`'])
        .filter(|word| !word.is_empty())
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .filter(|(likeness, _)| *likeness >= LIKE_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, known)) => format!("{message}\ndid you mean `{known}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    const SMALLEST: &str = "
service: tagger
servers: 4
admin: 127.0.0.1:15021
threads: 1
listeners:
  - address: 127.0.0.1:8080
    direction: inbound
    routes:
      - match: { path_prefix: / }
        upstream: tagger
upstreams:
  - name: tagger
    endpoints: [\"127.0.0.1:9001\", \"127.0.0.1:9002\"]
telemetry: { otlp: \"http://127.0.0.1:4317\", span_ratio: 1.0 }
policy: { from: \"http://127.0.0.1:4317\", state_dir: /var/lib/weir-proxy }
";

    #[test]
    fn the_documented_file_is_read() {
        let config = Config::from_yaml(SMALLEST).unwrap();
        assert_eq!((config.service.as_str(), config.servers), ("tagger", Some(4)));
        assert_eq!(config.upstreams[0].endpoints.len(), 2);
        assert_eq!(config.timeouts.connect_ms, 1_000);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (from, to, expected) in [
            ("service: tagger", "servce: tagger", "did you mean `service`?"),
            ("span_ratio: 1.0", "span_ratio: 1.5", "telemetry.span_ratio"),
            ("upstream: tagger", "upstream: parser", "listeners[0].routes[0].upstream"),
            ("127.0.0.1:9001", "nowhere", "upstreams[0].endpoints[0]"),
            ("threads: 1", "threads: 0", "threads"),
            ("admin: 127.0.0.1:15021", "admin: 0.0.0.0:15021", "insecure: true"),
            ("admin: 127.0.0.1:15021", "admin: 0.0.0.0:15021\nadmin_token: ''", "admin_token is empty"),
            ("admin: 127.0.0.1:15021", "admin: 0.0.0.0:1\nadmin_token: a\nadmin_token_file: b", "admin_token_file"),
            ("span_ratio: 1.0", "access_log_ratio: -1", "telemetry.access_log_ratio"),
            ("span_ratio: 1.0", "propagation: [b3, b3]", "telemetry.propagation[1]"),
            ("span_ratio: 1.0", "propagation: [jaeger]", "jaeger"),
            ("threads: 1", "timeouts: { connect_ms: 0 }", "timeouts.connect_ms is 0: from 1 ms to a year"),
            ("threads: 1", "timeouts: { drain_ms: 18446744073709551615 }", "timeouts.drain_ms"),
            ("threads: 1", "max_connections_per_client: 0", "max_connections_per_client is 0"),
            ("threads: 1", "http: { max_streams: 0 }", "http.max_streams is 0: at least 1"),
            ("threads: 1", "http: { max_header_bytes: 100 }", "http.max_header_bytes is 100: at least 8192"),
            (
                "direction: inbound",
                "direction: inbound\n    protocol: tcp",
                "listeners[0].routes: requests are not read",
            ),
            ("direction: inbound", "direction: inbound\n    protocol: detect", "listeners[0].upstream is missing"),
            ("direction: inbound", "direction: inbound\n    upstream: tagger", "listeners[0].upstream: only plain TCP"),
            ("direction: inbound", "direction: inbound\n    conect: refused", "did you mean `connect`?"),
            ("threads: 1", "limits: { rate_limit: { rate_per_s: -1, burst: 1 } }", "rate_limit.rate_per_s is -1"),
            ("threads: 1", "limits: { priority_header: 'x y' }", "limits.priority_header"),
            ("threads: 1", "limits: { local_limit: { queue_wait_ms: 0 } }", "limits.local_limit.queue_wait_ms"),
            (
                "upstream: tagger",
                "upstream: tagger\n        limits: { rate_limit: { rate_per_s: .nan, burst: 1 } }",
                "listeners[0].routes[0].limits.rate_limit.rate_per_s is NaN",
            ),
            (
                "upstream: tagger",
                "upstream: tagger\n        limits: { breaker: { error_ratio: 0.5, min_requests: 1, window_ms: 1 } }",
                "listeners[0].routes[0].limits.breaker",
            ),
            ("upstream: tagger", "upstream: tagger\n        limits: { priorty: low }", "did you mean `priority`?"),
        ] {
            let why = Config::from_yaml(&SMALLEST.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(why.contains(expected), "{to}: {why}");
        }
    }
}
