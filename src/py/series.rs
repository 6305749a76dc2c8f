//! Bindings of `series`.

use numpy::ndarray::{ArrayView1, ArrayView2, Axis};
use numpy::{IntoPyArray, PyReadonlyArray2};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::error::{Error, Result};
use crate::series::{self, Event, Series, SpikeState};

/// A verdict as Python sees it: code, expected value, threshold, score, duration; position of the
/// point, of the start of its event and its highest loss.
type PlainVerdict = (&'static str, f64, f64, f64, usize, u64, u64, f64);

/// An event as Python sees it: code, start, peak, end, first alarm, findings, expected loss, highest
/// loss, score, whether confirmed, whether over.
type PlainEvent = (
    &'static str,
    u64,
    u64,
    u64,
    Option<u64>,
    u64,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    bool,
    bool,
);

fn plain(event: &Event, over: bool) -> PlainEvent {
    let Event {
        kind, start, peak, end, alarm, findings, expected, highest, score, confirmed, ..
    } = *event;
    (kind.code(), start, peak, end, alarm, findings, expected, highest, score, confirmed, over)
}

#[pyclass(module = "gyrostat._core")]
pub(super) struct SpikeDetector(series::SpikeDetector);

#[pymethods]
impl SpikeDetector {
    #[new]
    fn new(false_alarms_per_10k: f64) -> PyResult<Self> {
        Ok(Self(series::SpikeDetector::new(false_alarms_per_10k)?))
    }

    #[pyo3(signature = (loss, grad_norm=None, step=None, update_rms=None))]
    fn update(
        &mut self,
        loss: f64,
        grad_norm: Option<f64>,
        step: Option<f64>,
        update_rms: Option<f64>,
    ) -> Option<PlainVerdict> {
        let v = self.0.update(loss, grad_norm, step, update_rms)?;
        let position = self.0.seen() - 1;
        // A finding belongs to the event under way, or has just ended one.
        let event = self.0.event().or(self.0.closed());
        let start = event.map_or(position, |event| event.start);
        let highest = event.and_then(|event| event.highest).unwrap_or(loss);
        Some((
            v.kind.code(),
            v.expected,
            v.threshold,
            v.score,
            v.duration,
            position,
            start,
            highest,
        ))
    }

    #[getter]
    fn seen(&self) -> u64 {
        self.0.seen()
    }

    #[getter]
    fn event(&self) -> Option<PlainEvent> {
        self.0.event().map(|event| plain(event, false))
    }

    fn state_json(&self) -> PyResult<String> {
        let text = serde_json::to_string(&self.0.state());
        Ok(text.map_err(|error| Error::State(error.to_string()))?)
    }

    fn load_state_json(&mut self, text: &str) -> PyResult<()> {
        let state: SpikeState =
            serde_json::from_str(text).map_err(|error| Error::State(error.to_string()))?;
        self.0 = series::SpikeDetector::from_state(&state)?;
        Ok(())
    }
}

/// Floats of either width, one series in a row.
#[derive(FromPyObject)]
pub(super) enum Table<'py> {
    Double(PyReadonlyArray2<'py, f64>),
    Single(PyReadonlyArray2<'py, f32>),
}

enum Rows<'a> {
    Double(ArrayView2<'a, f64>),
    Single(ArrayView2<'a, f32>),
}

enum Row<'a> {
    Double(ArrayView1<'a, f64>),
    Single(ArrayView1<'a, f32>),
}

impl Table<'_> {
    fn rows(&self) -> Rows<'_> {
        match self {
            Self::Double(array) => Rows::Double(array.as_array()),
            Self::Single(array) => Rows::Single(array.as_array()),
        }
    }
}

impl<'a> Rows<'a> {
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Double(view) => view.dim().into(),
            Self::Single(view) => view.dim().into(),
        }
    }

    fn row(&self, i: usize) -> Row<'a> {
        match self {
            Self::Double(view) => Row::Double(view.index_axis_move(Axis(0), i)),
            Self::Single(view) => Row::Single(view.index_axis_move(Axis(0), i)),
        }
    }
}

impl Row<'_> {
    #[inline]
    fn get(&self, i: usize) -> f64 {
        match self {
            Self::Double(view) => view[i],
            Self::Single(view) => f64::from(view[i]),
        }
    }
}

struct Columns<'a> {
    len: usize,
    loss: Row<'a>,
    grad_norm: Option<Row<'a>>,
    step: Option<Row<'a>>,
    update_rms: Option<Row<'a>>,
}

impl Series for Columns<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn loss(&self, i: usize) -> f64 {
        self.loss.get(i)
    }

    fn grad_norm(&self, i: usize) -> Option<f64> {
        self.grad_norm.as_ref().map(|row| row.get(i))
    }

    fn step(&self, i: usize) -> Option<f64> {
        self.step.as_ref().map(|row| row.get(i))
    }

    fn update_rms(&self, i: usize) -> Option<f64> {
        self.update_rms.as_ref().map(|row| row.get(i))
    }
}

/// The optional columns have the shape of the loss.
fn same_shape<'a>(
    parameter: &'static str,
    table: Option<&'a Table<'_>>,
    shape: [usize; 2],
) -> Result<Option<Rows<'a>>> {
    let Some(rows) = table.map(Table::rows) else { return Ok(None) };
    if rows.shape() != shape {
        let expected = format!("the shape of loss, {shape:?}");
        return Err(Error::value(parameter, expected, format!("{:?}", rows.shape())));
    }
    Ok(Some(rows))
}

#[pyfunction]
#[pyo3(signature = (loss, grad_norm, step, update_rms, false_alarms_per_10k, events))]
pub(super) fn find_spikes<'py>(
    py: Python<'py>,
    loss: Table<'py>,
    grad_norm: Option<Table<'py>>,
    step: Option<Table<'py>>,
    update_rms: Option<Table<'py>>,
    false_alarms_per_10k: f64,
    events: bool,
) -> PyResult<Bound<'py, PyList>> {
    let loss = loss.rows();
    let shape @ [count, len] = loss.shape();
    let grad_norm = same_shape("grad_norm", grad_norm.as_ref(), shape)?;
    let step = same_shape("step", step.as_ref(), shape)?;
    let update_rms = same_shape("update_rms", update_rms.as_ref(), shape)?;
    let series: Vec<Columns<'_>> = (0..count)
        .map(|i| Columns {
            len,
            loss: loss.row(i),
            grad_norm: grad_norm.as_ref().map(|rows| rows.row(i)),
            step: step.as_ref().map(|rows| rows.row(i)),
            update_rms: update_rms.as_ref().map(|rows| rows.row(i)),
        })
        .collect();
    let found = py.detach(|| series::find_spikes_in_each(&series, false_alarms_per_10k))?;
    let results = found
        .into_iter()
        .map(|found| {
            if events {
                let last = found.events.len() - usize::from(found.under_way);
                let plain = found.events.iter().enumerate().map(|(i, e)| plain(e, i < last));
                return plain.collect::<Vec<_>>().into_bound_py_any(py);
            }
            let alarms: Vec<i64> = found.alarms.into_iter().map(|i| i as i64).collect();
            alarms.into_pyarray(py).into_bound_py_any(py)
        })
        .collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, results)
}
