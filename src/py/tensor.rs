//! Bindings of `tensor`.

use ndarray::ArrayView1;
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::exceptions::{PyAttributeError, PyIndexError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyDictMethods, PyList};

use super::intake;
use super::memory::Order;
use super::state::{check_version, field, float, plain_float};
use crate::error::Error;
use crate::tensor::{self, ChunkRow, Counts, DType, Level, MomentStats, State, Sums};

const VERSION: u32 = 2;

#[pyfunction]
#[pyo3(signature = (x, dtype, level))]
pub(super) fn summarize(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    dtype: Option<&str>,
    level: &str,
) -> PyResult<TensorStats> {
    let level = level.parse()?;
    let held = intake::hold_one(x, dtype)?;
    let view = held.view(Order::Memory)?;
    Ok(TensorStats(py.detach(|| tensor::summarize(&view, level))))
}

#[pyfunction]
pub(super) fn summarize_all(
    py: Python<'_>,
    tensors: &Bound<'_, PyList>,
    names: &Bound<'_, PyAny>,
    level: &str,
) -> PyResult<Records> {
    let level = level.parse()?;
    let held = intake::hold(tensors, names)?;
    let views = intake::views(&held)?;
    Ok(Records(py.detach(|| tensor::summarize_all(&views, level))))
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

/// The records of several tensors, by column.
#[pyclass(module = "gyrostat._core", frozen)]
pub(super) struct Records(Vec<tensor::TensorStats>);

#[pymethods]
impl Records {
    #[new]
    fn new(records: Vec<PyRef<'_, TensorStats>>) -> Self {
        Self(records.iter().map(|record| record.0.clone()).collect())
    }

    /// The records of tensors whose chunks were summed on a device.
    #[staticmethod]
    fn from_rows(
        dtypes: Vec<String>,
        sums: PyReadonlyArray2<'_, f64>,
        counts: PyReadonlyArray2<'_, i64>,
        owner: PyReadonlyArray1<'_, i64>,
    ) -> PyResult<Self> {
        let wrong = |what: &str| Error::State(format!("rows: {what}"));
        let (sums, counts, owner) = (sums.as_array(), counts.as_array(), owner.as_array());
        let mut rows = vec![Vec::new(); dtypes.len()];
        for (row, &tensor) in sums.rows().into_iter().zip(&owner) {
            let row: Vec<f64> = row.iter().copied().collect();
            let &[count, min, max, center, d1, d2, d3, d4, l1] = row.as_slice() else {
                return Err(wrong("expected 9 sums a chunk").into());
            };
            let rows = usize::try_from(tensor).ok().and_then(|tensor| rows.get_mut(tensor));
            let powers = [d1, d2, d3, d4];
            rows.ok_or_else(|| wrong("a chunk of no tensor"))?.push(ChunkRow {
                count: count as u64,
                min,
                max,
                center,
                powers,
                l1,
            });
        }
        let record = |(name, (rows, counts)): (&String, (&Vec<ChunkRow>, ArrayView1<'_, i64>))| {
            let dtype = DType::from_name(name).ok_or_else(|| wrong("unknown dtype"))?;
            let counts = counts.iter().map(|&n| u64::try_from(n).ok()).collect::<Option<Vec<_>>>();
            let counts = counts.ok_or_else(|| wrong("a count below zero"))?;
            let [zero, nan, posinf, neginf, exponents @ ..] = counts.as_slice() else {
                return Err(wrong("expected 4 counts and those of the exponents"));
            };
            let (zero, nan, posinf, neginf) = (*zero, *nan, *posinf, *neginf);
            let counts = Counts { zero, nan, posinf, neginf, exponents };
            tensor::TensorStats::from_rows(dtype, rows, &counts)
        };
        let records = dtypes.iter().zip(rows.iter().zip(counts.rows())).map(record);
        Ok(Self(records.collect::<Result<_, Error>>()?))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __getitem__(&self, index: usize) -> PyResult<TensorStats> {
        let record = self.0.get(index).ok_or_else(|| PyIndexError::new_err(index))?;
        Ok(TensorStats(record.clone()))
    }

    /// The level that all of them have.
    #[getter]
    fn level(&self) -> &'static str {
        self.lowest().name()
    }

    /// The record of all values together.
    fn total(&self) -> TensorStats {
        TensorStats(tensor::TensorStats::merge_all(&self.0))
    }

    /// One statistic of all tensors, by its name.
    fn column<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let statistic = Statistic::named(name)?;
        statistic.check(self.lowest())?;
        Ok(match statistic.value {
            Value::Count(f) => {
                let counts: Vec<_> = self.0.iter().map(|record| f(record) as i64).collect();
                counts.into_pyarray(py).into_any()
            }
            Value::Float(f) => self.0.iter().map(f).collect::<Vec<_>>().into_pyarray(py).into_any(),
            Value::Moment(f) => {
                let moments = self.0.iter().map(|record| f(&record.moments()));
                moments.collect::<Vec<_>>().into_pyarray(py).into_any()
            }
        })
    }
}

impl Records {
    fn lowest(&self) -> Level {
        self.0.iter().map(tensor::TensorStats::level).min().unwrap_or(Level::Full)
    }
}

/// A scalar statistic of a record.
struct Statistic {
    name: &'static str,
    /// The lowest level that tells it.
    level: Level,
    value: Value,
}

enum Value {
    Count(fn(&tensor::TensorStats) -> u64),
    Float(fn(&tensor::TensorStats) -> f64),
    Moment(fn(&MomentStats) -> f64),
}

impl Statistic {
    const ALL: [Self; 18] = [
        Self::count("count", Level::Norm, tensor::TensorStats::count),
        Self::count("nan_count", Level::Norm, tensor::TensorStats::nan_count),
        Self::count("posinf_count", Level::Norm, tensor::TensorStats::posinf_count),
        Self::count("neginf_count", Level::Norm, tensor::TensorStats::neginf_count),
        Self::count("nonfinite_count", Level::Norm, tensor::TensorStats::nonfinite_count),
        Self::count("zero_count", Level::Full, tensor::TensorStats::zero_count),
        Self::count("subnormal_count", Level::Full, tensor::TensorStats::subnormal_count),
        Self::float("min", Level::Moments, tensor::TensorStats::min),
        Self::float("max", Level::Moments, tensor::TensorStats::max),
        Self::float("absmax", Level::Moments, tensor::TensorStats::absmax),
        Self::moment("sum", |moments| moments.sum),
        Self::moment("mean", |moments| moments.mean),
        Self::moment("var", |moments| moments.var),
        Self::moment("std", |moments| moments.std),
        Self::moment("l1", |moments| moments.l1),
        Self::float("l2", Level::Norm, tensor::TensorStats::l2),
        Self::moment("skewness", |moments| moments.skewness),
        Self::moment("kurtosis", |moments| moments.kurtosis),
    ];

    const fn count(name: &'static str, level: Level, f: fn(&tensor::TensorStats) -> u64) -> Self {
        Self { name, level, value: Value::Count(f) }
    }

    const fn float(name: &'static str, level: Level, f: fn(&tensor::TensorStats) -> f64) -> Self {
        Self { name, level, value: Value::Float(f) }
    }

    const fn moment(name: &'static str, f: fn(&MomentStats) -> f64) -> Self {
        Self { name, level: Level::Moments, value: Value::Moment(f) }
    }

    fn named(name: &str) -> PyResult<&'static Self> {
        const ALL: &[Statistic] = &Statistic::ALL;
        let found = ALL.iter().find(|statistic| statistic.name == name);
        found.ok_or_else(|| PyAttributeError::new_err(format!("no statistic is called {name:?}")))
    }

    fn check(&self, level: Level) -> PyResult<()> {
        check_level(self.name, self.level, level)
    }
}

/// Refuses what a record of a lower level does not tell.
fn check_level(name: &str, needed: Level, level: Level) -> PyResult<()> {
    if level >= needed {
        return Ok(());
    }
    let (needed, level) = (needed.name(), level.name());
    let message = format!("{name} is told at level {needed:?}; the record has level {level:?}");
    Err(PyAttributeError::new_err(message))
}

/// The names of the scalar statistics that records of a level tell.
#[pyfunction]
pub(super) fn statistics(level: &str) -> PyResult<Vec<&'static str>> {
    let level: Level = level.parse()?;
    let told = Statistic::ALL.into_iter().filter(|statistic| statistic.level <= level);
    Ok(told.map(|statistic| statistic.name).collect())
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
    fn level(&self) -> &'static str {
        self.0.level().name()
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
    fn zero_count(&self) -> PyResult<u64> {
        self.told("zero_count", Level::Full, || self.0.zero_count())
    }

    #[getter]
    fn subnormal_count(&self) -> PyResult<u64> {
        self.told("subnormal_count", Level::Full, || self.0.subnormal_count())
    }

    #[getter]
    fn min(&self) -> PyResult<f64> {
        self.told("min", Level::Moments, || self.0.min())
    }

    #[getter]
    fn max(&self) -> PyResult<f64> {
        self.told("max", Level::Moments, || self.0.max())
    }

    #[getter]
    fn absmax(&self) -> PyResult<f64> {
        self.told("absmax", Level::Moments, || self.0.absmax())
    }

    #[getter]
    fn sum(&self) -> PyResult<f64> {
        self.told("sum", Level::Moments, || self.0.moments().sum)
    }

    #[getter]
    fn mean(&self) -> PyResult<f64> {
        self.told("mean", Level::Moments, || self.0.moments().mean)
    }

    #[getter]
    fn var(&self) -> PyResult<f64> {
        self.told("var", Level::Moments, || self.0.moments().var)
    }

    #[getter]
    fn std(&self) -> PyResult<f64> {
        self.told("std", Level::Moments, || self.0.moments().std)
    }

    #[getter]
    fn l1(&self) -> PyResult<f64> {
        self.told("l1", Level::Moments, || self.0.moments().l1)
    }

    #[getter]
    fn l2(&self) -> f64 {
        self.0.l2()
    }

    #[getter]
    fn skewness(&self) -> PyResult<f64> {
        self.told("skewness", Level::Moments, || self.0.moments().skewness)
    }

    #[getter]
    fn kurtosis(&self) -> PyResult<f64> {
        self.told("kurtosis", Level::Moments, || self.0.moments().kurtosis)
    }

    #[getter]
    fn exponent_histogram<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        self.told("exponent_histogram", Level::Full, || {
            let counts = self.0.exponent_histogram().counts();
            counts.iter().map(|&count| count as i64).collect::<Vec<_>>().into_pyarray(py)
        })
    }

    #[getter]
    fn exponents<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        self.told("exponents", Level::Full, || {
            let bins = self.0.exponent_histogram().bins();
            bins.map(|(exponent, _)| i64::from(exponent)).collect::<Vec<_>>().into_pyarray(py)
        })
    }

    fn abs_quantile(&self, q: f64) -> PyResult<f64> {
        check_level("abs_quantile", Level::Full, self.0.level())?;
        Ok(self.0.abs_quantile(q)?)
    }

    #[pyo3(signature = (fmt, scale=1.0))]
    fn underflow_fraction(&self, fmt: &str, scale: f64) -> PyResult<f64> {
        check_level("underflow_fraction", Level::Full, self.0.level())?;
        Ok(self.0.underflow_fraction(fmt.parse()?, scale)?)
    }

    #[pyo3(signature = (fmt, scale=1.0))]
    fn overflow_fraction(&self, fmt: &str, scale: f64) -> PyResult<f64> {
        check_level("overflow_fraction", Level::Full, self.0.level())?;
        Ok(self.0.overflow_fraction(fmt.parse()?, scale)?)
    }

    fn merge(&self, other: &Self) -> Self {
        Self(self.0.merge(&other.0))
    }

    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.0.state();
        let d = PyDict::new(py);
        d.set_item("version", VERSION)?;
        d.set_item("dtype", state.dtype.map(DType::name))?;
        d.set_item("level", state.level.name())?;
        d.set_item("count", state.count)?;
        d.set_item("nan_count", state.nan_count)?;
        d.set_item("posinf_count", state.posinf_count)?;
        d.set_item("neginf_count", state.neginf_count)?;
        d.set_item("zero_count", state.zero_count)?;
        d.set_item("subnormal_count", state.subnormal_count)?;
        d.set_item("min", plain_float(py, state.min)?)?;
        d.set_item("max", plain_float(py, state.max)?)?;
        match state.sums {
            Sums::Chunk { unit, center, powers, l1 } => {
                d.set_item("unit", unit)?;
                d.set_item("center", center)?;
                d.set_item("powers", powers)?;
                d.set_item("l1", l1)?;
            }
            Sums::Exact(sums) => d.set_item("sums", sums)?,
        }
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
        let level: String = field(d, "level")?;
        let state = State {
            dtype,
            level: level.parse().map_err(|error: Error| Error::State(error.to_string()))?,
            count: field(d, "count")?,
            nan_count: field(d, "nan_count")?,
            posinf_count: field(d, "posinf_count")?,
            neginf_count: field(d, "neginf_count")?,
            zero_count: field(d, "zero_count")?,
            subnormal_count: field(d, "subnormal_count")?,
            min: float(d, "min")?,
            max: float(d, "max")?,
            sums: if d.contains("sums")? {
                Sums::Exact(field(d, "sums")?)
            } else {
                Sums::Chunk {
                    unit: field(d, "unit")?,
                    center: field(d, "center")?,
                    powers: field(d, "powers")?,
                    l1: field(d, "l1")?,
                }
            },
            first_exponent: field(d, "first_exponent")?,
            exponent_counts: field(d, "exponent_counts")?,
        };
        Ok(Self(tensor::TensorStats::from_state(&state)?))
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    #[staticmethod]
    fn from_bytes(data: &[u8]) -> PyResult<Self> {
        Ok(Self(tensor::TensorStats::from_bytes(data)?))
    }

    fn __reduce__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let from_bytes = py.get_type::<Self>().getattr("from_bytes")?;
        Ok((from_bytes, (self.to_bytes(py),)))
    }

    fn __repr__(&self) -> String {
        let r = &self.0;
        let (dtype, count) = (r.dtype().map_or("empty", DType::name), r.count());
        let middle = if r.level() < Level::Moments {
            format!("l2={:.4e}", r.l2())
        } else {
            let moments = r.moments();
            format!("mean={:.4e}, std={:.4e}, absmax={:.4e}", moments.mean, moments.std, r.absmax())
        };
        let nonfinite = r.nonfinite_count();
        format!("TensorStats({dtype}, count={count}, {middle}, nonfinite={nonfinite})")
    }
}

impl TensorStats {
    fn told<T>(&self, name: &str, level: Level, value: impl FnOnce() -> T) -> PyResult<T> {
        check_level(name, level, self.0.level())?;
        Ok(value())
    }
}
