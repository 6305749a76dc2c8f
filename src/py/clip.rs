//! Bindings of gradient clipping.

use pyo3::prelude::*;
use pyo3::types::PyList;

use super::intake;
use crate::tensor;

/// Norm and whether the tensors were scaled; `None` if they cannot be written from here.
#[pyfunction]
pub(super) fn clip(
    py: Python<'_>,
    tensors: &Bound<'_, PyList>,
    max_norm: f64,
    finite_only: bool,
) -> PyResult<Option<(f64, bool)>> {
    let Some(mut held) = intake::hold_apart(tensors)? else { return Ok(None) };
    let Some(views) = intake::views_mut(&mut held) else { return Ok(None) };
    let clipped = py.detach(|| tensor::clip(views, max_norm, finite_only));
    Ok(Some((clipped.norm, clipped.scaled)))
}
