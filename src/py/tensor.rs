//! Bindings of `tensor`.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyDictMethods, PyList};

use super::intake;
use super::state::{check_version, field, float, plain_float};
use crate::error::Error;
use crate::tensor::{self, DType, State};

const VERSION: u32 = 1;

#[pyfunction]
#[pyo3(signature = (x, dtype=None))]
pub(super) fn summarize(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    dtype: Option<&str>,
) -> PyResult<TensorStats> {
    let held = intake::hold_one(x, dtype)?;
    let view = held.view()?;
    Ok(TensorStats(py.detach(|| tensor::summarize(&view))))
}

#[pyfunction]
pub(super) fn summarize_all(
    py: Python<'_>,
    tensors: &Bound<'_, PyList>,
    names: &Bound<'_, PyAny>,
) -> PyResult<Vec<TensorStats>> {
    let held = intake::hold(tensors, names)?;
    let views = intake::views(&held)?;
    let records = py.detach(|| tensor::summarize_all(&views));
    Ok(records.into_iter().map(TensorStats).collect())
}

#[pyfunction]
pub(super) fn total_norm(
    py: Python<'_>,
    tensors: &Bound<'_, PyList>,
    names: &Bound<'_, PyAny>,
) -> PyResult<f64> {
    let held = intake::hold(tensors, names)?;
    let views = intake::views(&held)?;
    Ok(py.detach(|| tensor::total_norm(&views)))
}

/// The record of one tensor; documented in the stub.
#[pyclass(module = "gyrostat", frozen, eq)]
#[derive(PartialEq)]
pub(super) struct TensorStats(tensor::TensorStats);

#[pymethods]
impl TensorStats {
    #[getter]
    fn dtype(&self) -> Option<&'static str> {
        self.0.dtype().map(DType::name)
    }

    #[getter]
    fn count(&self) -> u64 {
        self.0.count()
    }

    #[getter]
    fn nan_count(&self) -> u64 {
        self.0.nan_count()
    }

    #[getter]
    fn posinf_count(&self) -> u64 {
        self.0.posinf_count()
    }

    #[getter]
    fn neginf_count(&self) -> u64 {
        self.0.neginf_count()
    }

    #[getter]
    fn nonfinite_count(&self) -> u64 {
        self.0.nonfinite_count()
    }

    #[getter]
    fn zero_count(&self) -> u64 {
        self.0.zero_count()
    }

    #[getter]
    fn subnormal_count(&self) -> u64 {
        self.0.subnormal_count()
    }

    #[getter]
    fn min(&self) -> f64 {
        self.0.min()
    }

    #[getter]
    fn max(&self) -> f64 {
        self.0.max()
    }

    #[getter]
    fn absmax(&self) -> f64 {
        self.0.absmax()
    }

    #[getter]
    fn sum(&self) -> f64 {
        self.0.sum()
    }

    #[getter]
    fn mean(&self) -> f64 {
        self.0.mean()
    }

    #[getter]
    fn var(&self) -> f64 {
        self.0.var()
    }

    #[getter]
    fn std(&self) -> f64 {
        self.0.std()
    }

    #[getter]
    fn l1(&self) -> f64 {
        self.0.l1()
    }

    #[getter]
    fn l2(&self) -> f64 {
        self.0.l2()
    }

    #[getter]
    fn skewness(&self) -> f64 {
        self.0.skewness()
    }

    #[getter]
    fn kurtosis(&self) -> f64 {
        self.0.kurtosis()
    }

    #[getter]
    fn exponent_histogram<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        let counts = self.0.exponent_histogram().counts();
        counts.iter().map(|&count| count as i64).collect::<Vec<_>>().into_pyarray(py)
    }

    #[getter]
    fn exponents<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        let bins = self.0.exponent_histogram().bins();
        bins.map(|(exponent, _)| i64::from(exponent)).collect::<Vec<_>>().into_pyarray(py)
    }

    fn abs_quantile(&self, q: f64) -> PyResult<f64> {
        Ok(self.0.abs_quantile(q)?)
    }

    fn underflow_fraction(&self, fmt: &str) -> PyResult<f64> {
        Ok(self.0.underflow_fraction(fmt.parse()?))
    }

    fn overflow_fraction(&self, fmt: &str) -> PyResult<f64> {
        Ok(self.0.overflow_fraction(fmt.parse()?))
    }

    fn merge(&self, other: &Self) -> Self {
        Self(self.0.merge(&other.0))
    }

    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.0.state();
        let d = PyDict::new(py);
        d.set_item("version", VERSION)?;
        d.set_item("dtype", state.dtype.map(DType::name))?;
        d.set_item("count", state.count)?;
        d.set_item("nan_count", state.nan_count)?;
        d.set_item("posinf_count", state.posinf_count)?;
        d.set_item("neginf_count", state.neginf_count)?;
        d.set_item("zero_count", state.zero_count)?;
        d.set_item("subnormal_count", state.subnormal_count)?;
        d.set_item("min", plain_float(py, state.min)?)?;
        d.set_item("max", plain_float(py, state.max)?)?;
        d.set_item("scale", state.scale)?;
        d.set_item("sum", plain_float(py, state.sum)?)?;
        d.set_item("l1", plain_float(py, state.l1)?)?;
        d.set_item("m2", plain_float(py, state.m2)?)?;
        d.set_item("m3", plain_float(py, state.m3)?)?;
        d.set_item("m4", plain_float(py, state.m4)?)?;
        d.set_item("first_exponent", state.first_exponent)?;
        d.set_item("exponent_counts", state.exponent_counts)?;
        Ok(d)
    }

    #[staticmethod]
    fn from_dict(d: &Bound<'_, PyDict>) -> PyResult<Self> {
        check_version(d, VERSION)?;
        let dtype: Option<String> = field(d, "dtype")?;
        let dtype = match dtype {
            Some(name) => {
                let unknown = || Error::State(format!("dtype: unknown {name:?}"));
                Some(DType::from_name(&name).ok_or_else(unknown)?)
            }
            None => None,
        };
        let state = State {
            dtype,
            count: field(d, "count")?,
            nan_count: field(d, "nan_count")?,
            posinf_count: field(d, "posinf_count")?,
            neginf_count: field(d, "neginf_count")?,
            zero_count: field(d, "zero_count")?,
            subnormal_count: field(d, "subnormal_count")?,
            min: float(d, "min")?,
            max: float(d, "max")?,
            scale: field(d, "scale")?,
            sum: float(d, "sum")?,
            l1: float(d, "l1")?,
            m2: float(d, "m2")?,
            m3: float(d, "m3")?,
            m4: float(d, "m4")?,
            first_exponent: field(d, "first_exponent")?,
            exponent_counts: field(d, "exponent_counts")?,
        };
        Ok(Self(tensor::TensorStats::from_state(&state)?))
    }

    fn __reduce__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyDict>,))> {
        let from_dict = py.get_type::<Self>().getattr("from_dict")?;
        Ok((from_dict, (self.to_dict(py)?,)))
    }

    fn __repr__(&self) -> String {
        let r = &self.0;
        format!(
            "TensorStats({}, count={}, mean={:.4e}, std={:.4e}, absmax={:.4e}, nonfinite={})",
            r.dtype().map_or("empty", DType::name),
            r.count(),
            r.mean(),
            r.std(),
            r.absmax(),
            r.nonfinite_count()
        )
    }
}

/// The merge of records in their order.
#[pyfunction]
pub(super) fn merge_all(records: Vec<PyRef<'_, TensorStats>>) -> TensorStats {
    TensorStats(tensor::TensorStats::merge_all(records.iter().map(|record| &record.0)))
}
