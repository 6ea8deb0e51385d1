//! [`ApiError`]: `{"error":{"code","message"}}` with the right status, mapped in one place.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;
use weir_store::{SqlError, StoreError};

/// An answer that is not 200.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }
}

impl From<SqlError> for ApiError {
    fn from(error: SqlError) -> Self {
        let (status, code) = match &error {
            SqlError::Syntax(_) | SqlError::Unknown(..) => (StatusCode::BAD_REQUEST, "syntax"),
            SqlError::NotReadOnly(_) => (StatusCode::FORBIDDEN, "not_read_only"),
            SqlError::TooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_long"),
            SqlError::TooManyTokens { .. } | SqlError::TooDeep { .. } | SqlError::TooComplex { .. } => {
                (StatusCode::BAD_REQUEST, "too_complex")
            }
            SqlError::Unread { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "unread"),
            SqlError::Memory(_) => (StatusCode::UNPROCESSABLE_ENTITY, "memory_limit"),
            SqlError::Timeout { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "time_limit"),
            SqlError::TooManyRows { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "row_limit"),
            SqlError::Execution(_) => (StatusCode::UNPROCESSABLE_ENTITY, "failed"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Io { source, .. } => Some(source.kind()),
            _ => None,
        };
        let (status, code) = match kind {
            Some(std::io::ErrorKind::InvalidInput) => (StatusCode::BAD_REQUEST, "bad_request"),
            Some(std::io::ErrorKind::NotFound) => (StatusCode::NOT_FOUND, "not_found"),
            Some(std::io::ErrorKind::AlreadyExists) => (StatusCode::CONFLICT, "exists"),
            Some(std::io::ErrorKind::InvalidData) => (StatusCode::UNPROCESSABLE_ENTITY, "damaged"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "store"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": {"code": self.code, "message": self.message}}))).into_response()
    }
}
