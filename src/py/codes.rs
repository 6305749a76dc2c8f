//! Columns as codes, and records of one entity.

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::column::{Held, hold};
use crate::leak::codes::Codes;
use crate::leak::column::Column;
use crate::leak::entities::{self, Field};
use crate::parallel;

/// One column of all splits, by codes.
#[pyclass(frozen, module = "gyrostat._core")]
pub(super) struct ColumnCodes {
    /// What the cells are.
    #[pyo3(get)]
    holds: &'static str,
    /// Whether all numbers are whole.
    #[pyo3(get)]
    whole: bool,
    /// Words of the distinct texts, on average.
    #[pyo3(get)]
    words: f64,
    /// int64 by row, -1 for missing.
    #[pyo3(get)]
    codes: Py<PyArray1<i64>>,
    /// float64 by row, or empty.
    #[pyo3(get)]
    values: Py<PyArray1<f64>>,
    /// Each code as people read it.
    texts: Vec<String>,
}

#[pymethods]
impl ColumnCodes {
    /// Number of distinct values.
    fn __len__(&self) -> usize {
        self.texts.len()
    }

    /// A value as people read it.
    fn text(&self, code: usize) -> PyResult<&str> {
        let text = self.texts.get(code).map(String::as_str);
        text.ok_or_else(|| PyValueError::new_err("code: no such"))
    }
}

/// Codes of columns, each given split by split, in at most so many rows of each split.
#[pyfunction]
pub(super) fn column_codes(
    py: Python<'_>,
    columns: Vec<(String, Vec<Bound<'_, PyAny>>)>,
    normalised: bool,
    most: usize,
) -> PyResult<Vec<ColumnCodes>> {
    let held: Vec<Vec<Box<dyn Held + '_>>> = columns
        .iter()
        .map(|(name, splits)| {
            splits.iter().map(|data| hold(data, &format!("column '{name}'"), false)).collect()
        })
        .collect::<PyResult<_>>()?;
    let borrowed: Vec<Vec<Box<dyn Column + '_>>> =
        held.iter().map(|splits| splits.iter().map(|held| held.column()).collect()).collect();
    let coded: Vec<(Codes, Vec<String>)> = py.detach(|| {
        let rows: usize =
            borrowed.first().map_or(0, |c| c.iter().map(|split| split.len().min(most)).sum());
        parallel::map_indexed(borrowed.len(), borrowed.len().saturating_mul(rows << 6), |i| {
            let splits: Vec<&dyn Column> = borrowed[i].iter().map(AsRef::as_ref).collect();
            let codes = Codes::new(&splits, normalised, most);
            let texts = codes.texts(&splits);
            (codes, texts)
        })
    });
    let out = coded.into_iter().map(|(codes, texts)| ColumnCodes {
        holds: codes.holds.name(),
        whole: codes.whole,
        words: codes.words,
        codes: codes.codes.into_pyarray(py).unbind(),
        values: codes.values.into_pyarray(py).unbind(),
        texts,
    });
    Ok(out.collect())
}

type Pairs = Vec<(u32, u32)>;
type PairArray<'py> = Bound<'py, PyArray2<u32>>;

fn fields(py: Python<'_>, columns: &[Py<ColumnCodes>]) -> PyResult<Vec<Field>> {
    let field = |column: &Py<ColumnCodes>| {
        let column = column.get();
        let codes = column.codes.bind(py).readonly().as_slice()?.to_vec();
        Ok(Field { codes, texts: column.texts.clone() })
    };
    columns.iter().map(field).collect()
}

fn to_array(py: Python<'_>, pairs: Pairs) -> PyResult<PairArray<'_>> {
    let n = pairs.len();
    let flat: Vec<u32> = pairs.into_iter().flat_map(|(a, b)| [a, b]).collect();
    flat.into_pyarray(py).reshape([n, 2])
}

fn from_array(left: &PyReadonlyArray1<'_, u32>, right: &PyReadonlyArray1<'_, u32>) -> Pairs {
    let (left, right) = (left.as_array(), right.as_array());
    left.iter().copied().zip(right.iter().copied()).collect()
}

/// Pairs of records that may be of one entity, shape (n, 2); the largest block; blocks left out.
#[pyfunction]
pub(super) fn entity_candidates(
    py: Python<'_>,
    columns: Vec<Py<ColumnCodes>>,
) -> PyResult<(PairArray<'_>, usize, usize)> {
    let fields = fields(py, &columns)?;
    let found = py.detach(|| entities::candidates(&fields));
    Ok((to_array(py, found.pairs)?, found.block, found.cut))
}

/// How far the fields of pairs of records agree: uint8 of shape (pairs, fields), from 0 (one is
/// missing) over 1 (different), 2 (similar) and 3 (close) to 4 (the same).
#[pyfunction]
pub(super) fn entity_levels<'py>(
    py: Python<'py>,
    columns: Vec<Py<ColumnCodes>>,
    left: PyReadonlyArray1<'_, u32>,
    right: PyReadonlyArray1<'_, u32>,
) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let fields = fields(py, &columns)?;
    let pairs = from_array(&left, &right);
    let rows = fields.first().map_or(0, |field| field.codes.len());
    if pairs.iter().any(|&(a, b)| a.max(b) as usize >= rows) {
        return Err(PyValueError::new_err("pairs: expected numbers of rows"));
    }
    let levels = py.detach(|| entities::levels(&fields, &pairs));
    levels.into_pyarray(py).reshape([pairs.len(), columns.len()])
}

/// Pairs of records at random, always the same, shape (n, 2).
#[pyfunction]
pub(super) fn random_pairs(
    py: Python<'_>,
    records: usize,
    draws: usize,
) -> PyResult<PairArray<'_>> {
    to_array(py, entities::random_pairs(records, draws))
}

/// By thing, the first member of its cluster.
#[pyfunction]
pub(super) fn connected<'py>(
    py: Python<'py>,
    n: usize,
    left: PyReadonlyArray1<'_, u32>,
    right: PyReadonlyArray1<'_, u32>,
) -> PyResult<Bound<'py, PyArray1<u32>>> {
    let edges = from_array(&left, &right);
    if edges.iter().any(|&(a, b)| a.max(b) as usize >= n) {
        return Err(PyValueError::new_err("edges: expected numbers below n"));
    }
    Ok(py.detach(|| entities::clusters(n, &edges)).into_pyarray(py))
}
