//! Bindings of `series`.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyDictMethods};

use super::state::{check_version, field};
use crate::error::Error;
use crate::series::{self, SpikeState};

const VERSION: u32 = 1;

/// The verdict as Python sees it: code, expected loss, threshold, score, duration.
type PlainVerdict = (&'static str, f64, f64, f64, usize);

#[pyclass(module = "gyrostat._core")]
pub(super) struct SpikeDetector(series::SpikeDetector);

#[pymethods]
impl SpikeDetector {
    #[new]
    fn new(false_alarms_per_10k: f64) -> PyResult<Self> {
        Ok(Self(series::SpikeDetector::new(false_alarms_per_10k)?))
    }

    #[pyo3(signature = (loss, grad_norm=None, step=None))]
    fn update(
        &mut self,
        loss: f64,
        grad_norm: Option<f64>,
        step: Option<f64>,
    ) -> Option<PlainVerdict> {
        let v = self.0.update(loss, grad_norm, step)?;
        Some((v.kind.code(), v.expected, v.threshold, v.score, v.duration))
    }

    fn state_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.0.state();
        let d = PyDict::new(py);
        d.set_item("version", VERSION)?;
        d.set_item("false_alarms_per_10k", state.false_alarms_per_10k)?;
        d.set_item("linear", state.linear)?;
        d.set_item("values", state.values)?;
        d.set_item("residuals", state.residuals)?;
        d.set_item("event", state.event)?;
        d.set_item("cooldown", state.cooldown)?;
        d.set_item("was_high", state.was_high)?;
        d.set_item("last_step", state.last_step)?;
        d.set_item("usual_gap", state.usual_gap)?;
        d.set_item("gaps", state.gaps)?;
        Ok(d)
    }

    fn load_state_dict(&mut self, d: &Bound<'_, PyDict>) -> PyResult<()> {
        check_version(d, VERSION)?;
        let state = SpikeState {
            false_alarms_per_10k: field(d, "false_alarms_per_10k")?,
            linear: field(d, "linear")?,
            values: field(d, "values")?,
            residuals: field(d, "residuals")?,
            event: field(d, "event")?,
            cooldown: field(d, "cooldown")?,
            was_high: field(d, "was_high")?,
            last_step: field(d, "last_step")?,
            usual_gap: field(d, "usual_gap")?,
            gaps: field(d, "gaps")?,
        };
        self.0 = series::SpikeDetector::from_state(&state)?;
        Ok(())
    }
}

#[pyfunction]
#[pyo3(signature = (loss, grad_norm, step, false_alarms_per_10k))]
pub(super) fn find_spikes<'py>(
    py: Python<'py>,
    loss: PyReadonlyArray1<'py, f64>,
    grad_norm: Option<PyReadonlyArray1<'py, f64>>,
    step: Option<PyReadonlyArray1<'py, f64>>,
    false_alarms_per_10k: f64,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let loss = slice("loss", &loss)?;
    let grad_norm = grad_norm.as_ref().map(|norms| slice("grad_norm", norms)).transpose()?;
    let step = step.as_ref().map(|steps| slice("step", steps)).transpose()?;
    let found = py.detach(|| series::find_spikes(loss, grad_norm, step, false_alarms_per_10k))?;
    let found: Vec<i64> = found.into_iter().map(|i| i as i64).collect();
    Ok(found.into_pyarray(py))
}

fn slice<'a>(parameter: &'static str, array: &'a PyReadonlyArray1<'_, f64>) -> PyResult<&'a [f64]> {
    let strided = |_| Error::value(parameter, "a contiguous array", "a strided one").into();
    array.as_slice().map_err(strided)
}
