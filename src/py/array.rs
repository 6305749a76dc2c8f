//! Arrays and token ids of a split.

use numpy::{PyReadonlyArray1, PyReadonlyArray2};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::arrow::ArrowColumn;
use super::leak::{Leaks, run};
use crate::leak::arrays::{self, Arrays};
use crate::leak::sequences::{Lists, Ragged, Sequences, Tokens};
use crate::leak::{self, Options};

/// Characters that are shown of a sequence.
const SHOWN: usize = 240;

/// What is kept of the rows of one split.
#[pyclass(module = "gyrostat._core")]
#[derive(Default)]
pub(super) struct ArraySketcher {
    rows: arrays::ArraySketcher,
}

#[pymethods]
impl ArraySketcher {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Takes in rows of float64, int64 or uint64.
    fn add(&mut self, py: Python<'_>, rows: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(rows) = rows.extract::<PyReadonlyArray2<'_, f64>>() {
            let rows = rows.as_array();
            Ok(py.detach(|| self.rows.push(rows))?)
        } else if let Ok(rows) = rows.extract::<PyReadonlyArray2<'_, i64>>() {
            let rows = rows.as_array();
            Ok(py.detach(|| self.rows.push(rows))?)
        } else if let Ok(rows) = rows.extract::<PyReadonlyArray2<'_, u64>>() {
            let rows = rows.as_array();
            Ok(py.detach(|| self.rows.push(rows))?)
        } else {
            Err(PyTypeError::new_err("rows: expected two dimensions of float64, int64 or uint64"))
        }
    }

    fn __len__(&self) -> usize {
        self.rows.len()
    }
}

/// Finds the pairs of arrays. `progress` is called as by `find_leaks`.
#[pyfunction]
#[pyo3(signature = (splits, *, labels, near, within, examples, progress))]
pub(super) fn find_array_leaks(
    py: Python<'_>,
    splits: Vec<(String, PyRef<'_, ArraySketcher>)>,
    labels: Option<Vec<Bound<'_, PyAny>>>,
    near: Option<f64>,
    within: bool,
    examples: usize,
    progress: Py<PyAny>,
) -> PyResult<Leaks> {
    let options = Options::new(near, within, false)?;
    let names: Vec<String> = splits.iter().map(|(name, _)| name.clone()).collect();
    let splits: Vec<&ArraySketcher> = splits.iter().map(|(_, split)| &**split).collect();
    run(py, labels, progress, |labels, report| {
        let source = Arrays::new(splits.iter().map(|split| &split.rows).collect())?;
        let found = leak::Leaks::in_arrays(&source, labels, options, report)?;
        Ok(Leaks::new(found, names, examples, |(_, row)| format!("array {row}")))
    })
}

/// Ids and where each sequence starts among them.
type Parts<'py> = (PyReadonlyArray1<'py, i64>, PyReadonlyArray1<'py, i64>);

/// Finds the pairs of token sequences: each split an Arrow column of lists, or the ids of all
/// sequences and where each starts (int64, one more than there are sequences). The ids in `pads`
/// are as if they were not there. `progress` is called as by `find_leaks`.
#[pyfunction]
#[pyo3(signature = (splits, *, pads, labels, near, within, exact, examples, progress))]
#[allow(clippy::too_many_arguments)] // keywords in Python
pub(super) fn find_token_leaks(
    py: Python<'_>,
    splits: Vec<(String, Bound<'_, PyAny>)>,
    pads: Vec<i64>,
    labels: Option<Vec<Bound<'_, PyAny>>>,
    near: Option<f64>,
    within: bool,
    exact: bool,
    examples: usize,
    progress: Py<PyAny>,
) -> PyResult<Leaks> {
    let options = Options::new(near, within, exact)?;
    let names: Vec<String> = splits.iter().map(|(name, _)| name.clone()).collect();
    let parts = splits.iter().map(|(_, data)| data.extract::<Parts<'_>>().ok());
    let parts: Vec<Option<Parts<'_>>> = parts.collect();
    let mut sequences: Vec<Box<dyn Sequences + '_>> = Vec::with_capacity(splits.len());
    for ((name, data), parts) in splits.iter().zip(&parts) {
        sequences.push(if let Some((ids, starts)) = parts {
            Box::new(Ragged::new(ids.as_array(), starts.as_array())?)
        } else {
            let column = data.cast::<ArrowColumn>()?;
            Box::new(Lists::new(&format!("split '{name}'"), &column.get().chunks)?)
        });
    }
    run(py, labels, progress, |labels, report| {
        let sequences = sequences.iter().map(AsRef::as_ref).collect();
        let source = Tokens::new(sequences, &pads, near.is_some());
        let found = leak::Leaks::in_tokens(&source, labels, options, report)?;
        Ok(Leaks::new(found, names, examples, |(split, row)| source.show(split, row, SHOWN)))
    })
}
