//! What a session's settings are: those of a PostgreSQL of defaults. None can be changed.

/// The value of a setting as `SHOW` and `current_setting` give it; `None` when it has none.
pub(crate) fn setting(name: &str) -> Option<&'static str> {
    Some(match name {
        "server_version" => "16.6",
        "server_version_num" => "160006",
        "server_encoding" | "client_encoding" => "UTF8",
        "timezone" | "time_zone" => "UTC",
        "transaction_isolation" | "transaction_isolation_level" | "default_transaction_isolation" => "read committed",
        "transaction_read_only" | "default_transaction_read_only" | "standard_conforming_strings" => "on",
        "search_path" => "public",
        "datestyle" => "ISO, MDY",
        "intervalstyle" => "postgres",
        "max_identifier_length" => "63",
        _ => return None,
    })
}
