//! Saved states: dictionaries of plain values that strict JSON can hold.

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyDictMethods, PyString};

use crate::error::Error;

/// One field of a saved state.
pub(super) fn field<'py, T>(d: &Bound<'py, PyDict>, key: &str) -> PyResult<T>
where
    T: FromPyObjectOwned<'py>,
{
    let missing = || Error::State(format!("lacks {key}"));
    let value = d.get_item(key)?.ok_or_else(missing)?;
    value.extract::<T>().map_err(|error: T::Error| {
        let error: PyErr = error.into();
        Error::State(format!("{key}: {error}")).into()
    })
}

/// A float that [`plain_float`] wrote.
pub(super) fn float(d: &Bound<'_, PyDict>, key: &str) -> PyResult<f64> {
    let value = field::<Bound<'_, PyAny>>(d, key)?;
    if let Ok(text) = value.cast::<PyString>() {
        let wrong = || Error::State(format!("{key}: expected a number, got {text:?}"));
        return match text.to_str() {
            Ok("nan") => Ok(f64::NAN),
            Ok("inf") => Ok(f64::INFINITY),
            Ok("-inf") => Ok(f64::NEG_INFINITY),
            _ => Err(wrong().into()),
        };
    }
    field(d, key)
}

/// A float, or its name where JSON has no number for it.
pub(super) fn plain_float(py: Python<'_>, value: f64) -> PyResult<Bound<'_, PyAny>> {
    if value.is_finite() {
        value.into_bound_py_any(py)
    } else if value.is_nan() {
        "nan".into_bound_py_any(py)
    } else {
        (if value > 0.0 { "inf" } else { "-inf" }).into_bound_py_any(py)
    }
}

/// Refuses states of another version.
pub(super) fn check_version(d: &Bound<'_, PyDict>, expected: u32) -> PyResult<()> {
    let version: u32 = field(d, "version")?;
    if version == expected {
        return Ok(());
    }
    Err(Error::State(format!("expected version {expected}, got {version}")).into())
}
