//! What an address asks of [`what_if`]: the last window with one service changed. For `/api/v1/whatif` and the page.

use weir_analyzer::{
    Snapshot,
    whatif::{Change, Prediction, WhatIfError, what_if},
};

use crate::{error::ApiError, fields::Fields};

/// The fields that are a change.
pub(crate) const FIELDS: [&str; 5] = ["service", "operation", "arrivals", "servers", "service_time"];

/// Solves the mesh with what the address asks for.
pub(crate) fn of(fields: &Fields, snapshot: &Snapshot) -> Result<Prediction, ApiError> {
    fields.only(&FIELDS)?;
    let change = Change {
        service: fields.required("service")?.to_owned(),
        operation: fields.get("operation").map(str::to_owned),
        arrivals: fields.number("arrivals")?.unwrap_or(1.0),
        servers: whole(fields, "servers")?,
        service_time: fields.number("service_time")?.unwrap_or(1.0),
    };
    what_if(snapshot, &change).map_err(|error| match error {
        WhatIfError::NoSuchService(_) | WhatIfError::NoSuchOperation { .. } => ApiError::not_found(error.to_string()),
        _ => ApiError::bad_request(error.to_string()),
    })
}

/// A change in whole numbers, with its sign; 0 when it is not there. A `+` comes as a space when it was not escaped.
fn whole(fields: &Fields, name: &str) -> Result<i64, ApiError> {
    let Some(text) = fields.get(name) else { return Ok(0) };
    let parsed = text.strip_prefix('+').unwrap_or(text).parse();
    parsed.map_err(|_| ApiError::bad_request(format!("{name}={text:?} is not a whole number such as 2 or -1")))
}
