//! Bindings of the slow side of `series`: blocks, trends, shifts and repetition.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyDictMethods};

use super::state::{check_version, field};
use crate::series::{self, BlocksState};

const VERSION: u32 = 1;

#[pyclass(module = "gyrostat._core")]
pub(super) struct Blocks(series::Blocks);

#[pymethods]
impl Blocks {
    #[new]
    fn new(capacity: usize) -> PyResult<Self> {
        Ok(Self(series::Blocks::new(capacity)?))
    }

    fn __len__(&self) -> usize {
        self.0.levels().len()
    }

    fn push(&mut self, value: f64, step: f64) -> bool {
        self.0.push(value, step)
    }

    #[getter]
    fn levels(&self) -> Vec<f64> {
        self.0.levels().to_vec()
    }

    #[getter]
    fn ends(&self) -> Vec<f64> {
        self.0.ends().to_vec()
    }

    #[getter]
    fn block_len(&self) -> usize {
        self.0.block_len()
    }

    fn noise(&self, count: usize) -> f64 {
        self.0.noise(count)
    }

    fn trend(&self, count: usize, confidence: f64) -> Option<(f64, f64, f64, f64)> {
        let levels = self.0.levels();
        plain_trend(&levels[levels.len().saturating_sub(count)..], confidence)
    }

    fn state_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.0.state().clone();
        let d = PyDict::new(py);
        d.set_item("version", VERSION)?;
        d.set_item("capacity", state.capacity)?;
        d.set_item("chunks", state.chunks)?;
        d.set_item("pending", state.pending)?;
        d.set_item("filled", state.filled)?;
        d.set_item("level", state.level)?;
        d.set_item("spread", state.spread)?;
        d.set_item("levels", state.levels)?;
        d.set_item("spreads", state.spreads)?;
        d.set_item("ends", state.ends)?;
        Ok(d)
    }

    fn load_state_dict(&mut self, d: &Bound<'_, PyDict>) -> PyResult<()> {
        check_version(d, VERSION)?;
        self.0 = series::Blocks::from_state(BlocksState {
            capacity: field(d, "capacity")?,
            chunks: field(d, "chunks")?,
            pending: field(d, "pending")?,
            filled: field(d, "filled")?,
            level: field(d, "level")?,
            spread: field(d, "spread")?,
            levels: field(d, "levels")?,
            spreads: field(d, "spreads")?,
            ends: field(d, "ends")?,
        })?;
        Ok(())
    }
}

#[pyclass(module = "gyrostat._core")]
pub(super) struct Window(series::Window);

#[pymethods]
impl Window {
    #[new]
    fn new(capacity: usize) -> PyResult<Self> {
        Ok(Self(series::Window::new(capacity)?))
    }

    fn push(&mut self, value: f64) -> usize {
        self.0.push(value)
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    #[getter]
    fn values(&self) -> Vec<f64> {
        self.0.values().collect()
    }

    fn shift(&self, after: usize) -> Option<(f64, f64, f64, f64, f64, bool)> {
        let s = self.0.shift(after)?;
        Some((s.before, s.rise, s.drift, s.after, s.noise, s.separate))
    }

    fn autocorrelation(&self, lags: usize) -> Vec<f64> {
        self.0.autocorrelation(lags)
    }

    fn state_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let d = PyDict::new(py);
        d.set_item("version", VERSION)?;
        d.set_item("capacity", self.0.capacity())?;
        d.set_item("values", self.values())?;
        Ok(d)
    }

    fn load_state_dict(&mut self, d: &Bound<'_, PyDict>) -> PyResult<()> {
        check_version(d, VERSION)?;
        let values: Vec<f64> = field(d, "values")?;
        self.0 = series::Window::from_state(field(d, "capacity")?, &values)?;
        Ok(())
    }
}

#[pyfunction]
pub(super) fn trend(values: Vec<f64>, confidence: f64) -> Option<(f64, f64, f64, f64)> {
    plain_trend(&values, confidence)
}

fn plain_trend(values: &[f64], confidence: f64) -> Option<(f64, f64, f64, f64)> {
    let t = series::trend(values, confidence)?;
    Some((t.z, t.slope, t.low, t.high))
}
