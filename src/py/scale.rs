//! Bindings of the norm and the scaling of tensors that are about to be written, for clipping.

use pyo3::prelude::*;
use pyo3::types::PyList;

use super::intake;
use crate::tensor;

#[pyfunction]
pub(super) fn writable_norm(py: Python<'_>, tensors: &Bound<'_, PyList>) -> PyResult<Option<f64>> {
    let Some(held) = intake::hold_writable(tensors)? else { return Ok(None) };
    let views = held.views()?;
    Ok(Some(py.detach(|| tensor::total_norm(&views))))
}

#[pyfunction]
pub(super) fn scale(py: Python<'_>, tensors: &Bound<'_, PyList>, factor: f64) -> PyResult<bool> {
    let Some(mut held) = intake::hold_writable(tensors)? else { return Ok(false) };
    let Some(views) = held.views_mut() else { return Ok(false) };
    py.detach(|| tensor::scale(views, factor));
    Ok(true)
}
