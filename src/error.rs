//! The one error type of the core.

/// What went wrong, named by the parameter that caused it.
///
/// The bindings turn each variant into the Python exception that a user expects:
/// [`Error::Value`] and [`Error::State`] into `ValueError`, [`Error::Type`] into `TypeError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A parameter of the right type holds a value that cannot be used.
    #[error("{parameter}: expected {expected}, got {got}")]
    Value {
        /// Name of the parameter, as the user wrote it.
        parameter: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// A parameter has a type or dtype that is not supported.
    #[error("{parameter}: expected {expected}, got {got}")]
    Type {
        /// Name of the parameter, as the user wrote it.
        parameter: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// A saved state cannot be read back.
    #[error("state: {0}")]
    State(String),
}

impl Error {
    /// Shorthand for [`Error::Value`].
    pub fn value(
        parameter: &'static str,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) -> Self {
        Self::Value { parameter, expected: expected.into(), got: got.to_string() }
    }

    /// Shorthand for [`Error::Type`].
    pub fn type_(
        parameter: &'static str,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) -> Self {
        Self::Type { parameter, expected: expected.into(), got: got.to_string() }
    }
}

/// The result of every fallible function of the core.
pub type Result<T> = std::result::Result<T, Error>;
