//! Bindings of tensors read by pairs.

use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::intake;
use super::memory::Order;
use crate::error::Error;
use crate::tensor::{self, Pair, PairStats};

type Column = (&'static str, fn(&PairStats) -> f64);

const COLUMNS: [Column; 7] = [
    ("dot", PairStats::dot),
    ("cosine", PairStats::cosine),
    ("l2_left", PairStats::l2_left),
    ("l2_right", PairStats::l2_right),
    ("l2_difference", PairStats::l2_difference),
    ("ratio", PairStats::ratio),
    ("relative_difference", PairStats::relative_difference),
];

/// What each pair has to do with each other, by column, and what all pairs together have.
#[pyfunction]
pub(super) fn compare_all<'py>(
    py: Python<'py>,
    left: &Bound<'py, PyList>,
    right: &Bound<'py, PyList>,
    names: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>)> {
    let (held_left, held_right) = (intake::hold(left, names)?, intake::hold(right, names)?);
    let mut pairs = Vec::with_capacity(held_left.len());
    for (i, (left, right)) in held_left.iter().zip(&held_right).enumerate() {
        let order = if left.lies_like(right) { Order::Memory } else { Order::Logical };
        let (left, right) = (left.view(order)?, right.view(order)?);
        let lengths = [left.len(), right.len()];
        let pair = Pair::new(left, right);
        pairs.push(pair.ok_or_else(|| {
            let name = names.get_item(i).map_or_else(|_| String::new(), |name| name.to_string());
            let got = format!("{lengths:?} values of {name:?}");
            Error::value("left", "as many values as in right", got)
        })?);
    }
    let (stats, total) = py.detach(|| {
        let stats = tensor::compare_all(&pairs);
        let total = PairStats::merge_all(&stats);
        (stats, total)
    });
    let (columns, totals) = (PyDict::new(py), PyDict::new(py));
    for (name, value) in COLUMNS {
        columns.set_item(name, stats.iter().map(value).collect::<Vec<_>>().into_pyarray(py))?;
        totals.set_item(name, value(&total))?;
    }
    let counts: Vec<_> = stats.iter().map(|stats| stats.nonfinite_count() as i64).collect();
    columns.set_item("nonfinite_count", counts.into_pyarray(py))?;
    totals.set_item("nonfinite_count", total.nonfinite_count())?;
    Ok((columns, totals))
}
