//! What a request must look like for a route to take it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a request must look like; what is absent matches everything, and all that is there must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// The whole path. Paths, here and in the request, are read as in the rules of `authorization`: escapes decoded, `//` merged,
    /// `.` and `..` resolved; `%2F` separates nothing. What is passed on stays as it came.
    pub path: Option<String>,
    /// Whole segments: `/api` matches `/api` and `/api/x`, not `/apix`. A `/` at the end matches what follows it.
    pub path_prefix: Option<String>,
    /// Characters, not segments: `/api` matches `/apix` too; what Envoy and Istio call a prefix.
    pub path_starts_with: Option<String>,
    /// A regular expression over the whole path as it is read, so with a space in place of `%20`.
    pub path_regex: Option<String>,
    /// Whether `/A` and `/a` are the same path.
    pub ignore_path_case: bool,
    /// The `Host` or `:authority` without its port, case ignored; `*.example` matches every host below `example`.
    pub host: Option<String>,
    /// One of these, each as in `host`.
    pub hosts: Vec<String>,
    /// The port in the `Host` or `:authority`; 80 when it names none.
    pub port: Option<u16>,
    /// The `Host` or `:authority` as it stands, with its port.
    pub authority: Option<ValueMatch>,
    /// One of these methods.
    pub methods: Vec<String>,
    /// Fields, by name, each of which is `exact`, `prefix`, `regex` or `present`.
    pub headers: BTreeMap<String, ValueMatch>,
    /// Fields, by name, of which none may match.
    pub without_headers: BTreeMap<String, ValueMatch>,
    /// Query parameters, by name, as they stand in the URI.
    pub query: BTreeMap<String, ValueMatch>,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueMatch {
    /// This.
    Exact(String),
    /// Something that begins so.
    Prefix(String),
    /// Something that this regular expression matches whole.
    Regex(String),
    /// There, whatever it is; or not there.
    Present(bool),
}
