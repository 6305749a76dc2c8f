//! Data-leakage hashing.
#![allow(clippy::needless_pass_by_value)] // PyO3 hands arguments over

use std::collections::{BTreeMap, HashSet};

use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1,
    PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use super::arrow::write_stream;
use super::column::{hold, hold_all};
use crate::leak::band::Banding;
use crate::leak::clusters::{Cluster, clusters};
use crate::leak::column::Column;
use crate::leak::hash::Fingerprint;
use crate::leak::minhash::MinHash;
use crate::leak::table::{Count, clusters_to_arrow, counts, to_arrow};
use crate::leak::{self, Accepted, Options, TextOptions, Unit, cells, overlap, shingle, time};

/// Characters that are shown of a row.
const SHOWN: usize = 240;

/// All pairs that were found.
#[pyclass(frozen, module = "gyrostat._core")]
pub(super) struct Leaks {
    found: leak::Leaks,
    names: Vec<String>,
    counts: Vec<Count>,
    /// What people see of the pairs that the counts name, left and right.
    shown: BTreeMap<usize, (String, String)>,
}

impl Leaks {
    /// `show` makes a row, given by split and number, readable.
    pub(super) fn new(
        found: leak::Leaks,
        names: Vec<String>,
        examples: usize,
        show: impl Fn((usize, usize)) -> String,
    ) -> Self {
        let counts = counts(&found, examples);
        let named =
            counts.iter().flat_map(|count| count.first.iter().chain(&count.first_conflicts));
        let shown = named
            .filter_map(|&index| found.get(index).map(|leak| (index, leak)))
            .map(|(index, leak)| (index, (show(leak.left), show(leak.right))))
            .collect();
        Self { found, names, counts, shown }
    }
}

#[pymethods]
impl Leaks {
    fn __len__(&self) -> usize {
        self.found.len()
    }

    /// Left split and row, right split and row, kind, similarity, label conflict.
    #[allow(clippy::type_complexity)] // the columns of the table
    fn pair(
        &self,
        index: usize,
    ) -> PyResult<(&str, usize, &str, usize, &'static str, f64, Option<bool>)> {
        let leak = self.found.get(index).ok_or_else(|| PyIndexError::new_err("pair: no such"))?;
        let name = |split: usize| self.names.get(split).map_or("", String::as_str);
        let ((left, right), kind) = ((leak.left, leak.right), leak.kind.name());
        let (a, b) = (name(left.0), name(right.0));
        Ok((a, left.1, b, right.1, kind, leak.similarity, leak.label_conflict))
    }

    /// The pairs by kind and splits, as dicts.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let dict = |count: &Count| {
            let dict = PyDict::new(py);
            dict.set_item("left", self.names.get(count.left))?;
            dict.set_item("right", self.names.get(count.right))?;
            dict.set_item("kind", count.kind.name())?;
            dict.set_item("pairs", count.pairs)?;
            dict.set_item("left_rows", count.left_rows)?;
            dict.set_item("right_rows", count.right_rows)?;
            dict.set_item("conflicts", count.conflicts)?;
            dict.set_item("first", &count.first)?;
            dict.set_item("first_conflicts", &count.first_conflicts)?;
            Ok(dict)
        };
        self.counts.iter().map(dict).collect()
    }

    /// Both rows of a pair that the counts name, as people read them.
    fn shown(&self, index: usize) -> PyResult<(&str, &str)> {
        let shown = self.shown.get(&index).ok_or_else(|| PyIndexError::new_err("pair: not shown"));
        shown.map(|(left, right)| (left.as_str(), right.as_str()))
    }

    /// Left split and row, right split and row of all pairs, int64 each.
    #[allow(clippy::type_complexity)] // four columns
    fn rows<'py>(
        &self,
        py: Python<'py>,
    ) -> (
        Bound<'py, PyArray1<i64>>,
        Bound<'py, PyArray1<i64>>,
        Bound<'py, PyArray1<i64>>,
        Bound<'py, PyArray1<i64>>,
    ) {
        let column = |of: fn(leak::Leak) -> usize| -> Bound<'py, PyArray1<i64>> {
            let all = (0..self.found.len()).filter_map(|index| self.found.get(index));
            all.map(|leak| of(leak) as i64).collect::<Vec<_>>().into_pyarray(py)
        };
        (
            column(|leak| leak.left.0),
            column(|leak| leak.left.1),
            column(|leak| leak.right.0),
            column(|leak| leak.right.1),
        )
    }

    /// The pair by its content: two identities of 16 hexadecimal digits, and whether labels differ.
    fn identity(&self, index: usize) -> PyResult<(String, String, bool)> {
        let pair = self.found.identity(index);
        let (left, right, conflict) = pair.ok_or_else(|| PyIndexError::new_err("pair: no such"))?;
        Ok((format!("{left:016x}"), format!("{right:016x}"), conflict))
    }

    /// How the search went.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let statistics = self.found.statistics();
        let dict = PyDict::new(py);
        dict.set_item("rows", statistics.rows)?;
        dict.set_item("missing", statistics.missing)?;
        dict.set_item("distinct", statistics.distinct)?;
        dict.set_item("bands", statistics.bands)?;
        dict.set_item("recall", statistics.recall)?;
        dict.set_item("sampled", statistics.sampled)?;
        dict.set_item("sampled_pairs", statistics.sampled_pairs)?;
        dict.set_item("sampled_found", statistics.sampled_found)?;
        dict.set_item("compared", statistics.compared)?;
        dict.set_item("cut_buckets", statistics.cut_buckets)?;
        dict.set_item("cut_groups", statistics.cut_groups)?;
        dict.set_item("accepted", statistics.accepted)?;
        dict.set_item("chance", statistics.chance)?;
        Ok(dict)
    }

    /// The clusters of the pairs.
    fn clusters(&self, py: Python<'_>) -> Clusters {
        let found = py.detach(|| clusters(&self.found));
        Clusters { found, names: self.names.clone() }
    }

    /// The rows to keep of the split at `index`.
    fn kept<'py>(&self, py: Python<'py>, index: usize) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let rows = self.found.kept(index).ok_or_else(|| PyIndexError::new_err("split: no such"))?;
        Ok(rows.iter().map(|&row| row as i64).collect::<Vec<_>>().into_pyarray(py))
    }

    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // The protocol lets a producer give its own types whatever is asked for.
        let _ = requested_schema;
        let batch = py.detach(|| to_arrow(&self.found, &self.names));
        write_stream(py, batch.map_err(|error| PyValueError::new_err(error.to_string()))?)
    }
}

/// Clusters of pairs.
#[pyclass(frozen, module = "gyrostat._core")]
pub(super) struct Clusters {
    found: Vec<Cluster>,
    names: Vec<String>,
}

#[pymethods]
impl Clusters {
    fn __len__(&self) -> usize {
        self.found.len()
    }

    /// Split and row of each member, number of pairs, least similarity.
    #[allow(clippy::type_complexity)] // spelled out in the doc comment
    fn cluster(&self, index: usize) -> PyResult<(Vec<(&str, usize)>, usize, f64)> {
        let found = self.found.get(index);
        let cluster = found.ok_or_else(|| PyIndexError::new_err("cluster: no such"))?;
        let name = |split: usize| self.names.get(split).map_or("", String::as_str);
        let rows = cluster.rows.iter().map(|&(split, row)| (name(split), row)).collect();
        Ok((rows, cluster.pairs, cluster.similarity))
    }

    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // As for the pairs.
        let _ = requested_schema;
        let batch = py.detach(|| clusters_to_arrow(&self.found, &self.names));
        write_stream(py, batch.map_err(|error| PyValueError::new_err(error.to_string()))?)
    }
}

type Named<'py> = Vec<(String, Bound<'py, PyAny>)>;

/// Unit, n-gram, NFKC, case folding: the fields of `TextOptions`.
type TextFields = (String, usize, bool, bool);

fn text_options((unit, ngram, nfkc, fold_case): TextFields) -> PyResult<TextOptions> {
    let known = Unit::ALL.into_iter().find(|known| known.name() == unit);
    let unit = known.ok_or_else(|| PyValueError::new_err(format!("unit: no such: {unit}")))?;
    Ok(TextOptions { unit, ngram, nfkc, fold_case })
}

fn accepted_pairs(given: &[(String, String, bool)]) -> PyResult<HashSet<Accepted>> {
    let identity = |text: &str| {
        let known = (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
        known.ok_or_else(|| {
            let expected = "expected identities of 16 hexadecimal digits";
            PyValueError::new_err(format!("baseline: {expected}, got '{text}'"))
        })
    };
    let pair = |(left, right, conflict): &(String, String, bool)| {
        let (left, right) = (identity(left)?, identity(right)?);
        Ok((left.min(right), left.max(right), *conflict))
    };
    given.iter().map(pair).collect()
}

/// Sketches of the texts of a column, one row each: the slots of as many bands as find pairs of the
/// similarity `near`.
#[pyfunction]
pub(super) fn sketches<'py>(
    py: Python<'py>,
    column: &Bound<'py, PyAny>,
    text: TextFields,
    near: f64,
) -> PyResult<Bound<'py, PyArray2<u32>>> {
    let options = text_options(text)?;
    Options::new(Some(near), true, false)?;
    let held = hold(column, "the column", true)?;
    let column = held.column();
    let slots = Banding::for_threshold(near).slots();
    let rows = column.len();
    let values = py.detach(|| shingle::sketches(&*column, options, &MinHash::new(slots)))?;
    values.into_pyarray(py).reshape([rows, slots])
}

/// Runs a search without the GIL. `search` gets the labels, and whom to tell how much of it is done.
pub(super) fn run(
    py: Python<'_>,
    labels: Option<Vec<Bound<'_, PyAny>>>,
    progress: Py<PyAny>,
    search: impl Send
    + FnOnce(Option<&[&dyn Column]>, &mut leak::Progress<'_, PyErr>) -> PyResult<Leaks>,
) -> PyResult<Leaks> {
    let held = labels.map(|labels| hold_all(&labels, "the labels")).transpose()?;
    let labels: Option<Vec<Box<dyn Column + '_>>> =
        held.as_ref().map(|held| held.iter().map(|held| held.column()).collect());
    py.detach(|| {
        let labels: Option<Vec<&dyn Column>> =
            labels.as_ref().map(|labels| labels.iter().map(AsRef::as_ref).collect());
        search(labels.as_deref(), &mut |phase, done, total| {
            Python::attach(|py| progress.call1(py, (phase, done, total)).map(drop))
        })
    })
}

/// Finds the pairs: of texts if `text`, with one column a split, else of rows. `progress` is called
/// with a phase, how much of it is done, and how much there is.
#[pyfunction]
#[pyo3(signature = (splits, *, text, labels, near, within, exact, accepted, examples, progress, grids = vec![]))]
#[allow(clippy::too_many_arguments)] // keywords in Python
pub(super) fn find_leaks(
    py: Python<'_>,
    splits: Vec<(String, Named<'_>)>,
    text: Option<TextFields>,
    labels: Option<Vec<Bound<'_, PyAny>>>,
    near: Option<f64>,
    within: bool,
    exact: bool,
    accepted: Vec<(String, String, bool)>,
    examples: usize,
    progress: Py<PyAny>,
    grids: Vec<Option<f64>>,
) -> PyResult<Leaks> {
    let options = Options::new(near, within, exact)?;
    let accepted = accepted_pairs(&accepted)?;
    let text = text.map(text_options).transpose()?;
    let names: Vec<String> = splits.iter().map(|(name, _)| name.clone()).collect();
    let titles: Vec<String> = splits.first().map_or_else(Vec::new, |(_, columns)| {
        columns.iter().map(|(title, _)| title.clone()).collect()
    });
    let mut held = Vec::with_capacity(splits.len());
    for (name, columns) in &splits {
        let mut split = Vec::with_capacity(columns.len());
        for (title, data) in columns {
            let place = match title.as_str() {
                "" => format!("split '{name}'"),
                title => format!("column '{title}' of split '{name}'"),
            };
            split.push(hold(data, &place, text.is_some())?);
        }
        held.push(split);
    }
    let columns: Vec<Vec<Box<dyn Column + '_>>> =
        held.iter().map(|split| split.iter().map(|held| held.column()).collect()).collect();
    run(py, labels, progress, |labels, report| {
        let rows: Vec<Vec<&dyn Column>> =
            columns.iter().map(|split| split.iter().map(AsRef::as_ref).collect()).collect();
        let mut leaks = if let Some(text) = text {
            let texts: Vec<&dyn Column> = rows.iter().flatten().copied().collect();
            leak::Leaks::in_texts(&texts, text, labels, options, report)
        } else {
            leak::Leaks::in_rows(rows.clone(), grids, labels, options, report)
        }?;
        if !accepted.is_empty() {
            leaks.accept(&accepted);
        }
        Ok(Leaks::new(leaks, names, examples, |(split, row)| {
            let columns = rows.get(split).map_or(&[][..], Vec::as_slice);
            cells::show_row(&titles, columns, row, SHOWN)
        }))
    })
}

/// Groups with rows in two splits: indices of both splits, number of groups, their rows on both
/// sides, and the first few groups.
#[pyfunction]
#[allow(clippy::type_complexity)] // spelled out in the doc comment
pub(super) fn shared_groups(
    py: Python<'_>,
    groups: Vec<Bound<'_, PyAny>>,
    examples: usize,
) -> PyResult<Vec<(usize, usize, usize, usize, usize, Vec<String>)>> {
    let held = hold_all(&groups, "the groups")?;
    let columns: Vec<Box<dyn Column + '_>> = held.iter().map(|held| held.column()).collect();
    Ok(py.detach(|| {
        let columns: Vec<&dyn Column> = columns.iter().map(AsRef::as_ref).collect();
        let show = |split: usize, row: usize| cells::show(columns[split].cell(row));
        overlap::overlaps(&columns, examples)
            .into_iter()
            .map(|o| {
                let first = o.examples.iter().map(|&row| show(o.right, row)).collect();
                (o.left, o.right, o.groups, o.left_rows, o.right_rows, first)
            })
            .collect()
    }))
}

/// Splits that overlap in time: indices of the earlier and the later split, rows of the later one
/// that are older than the newest of the earlier one, that newest time, and the oldest of the
/// later one.
#[pyfunction]
#[allow(clippy::type_complexity)] // spelled out in the doc comment
pub(super) fn time_disorder(
    py: Python<'_>,
    times: Vec<Bound<'_, PyAny>>,
) -> PyResult<Vec<(usize, usize, usize, String, String)>> {
    let held = hold_all(&times, "the times")?;
    let columns: Vec<Box<dyn Column + '_>> = held.iter().map(|held| held.column()).collect();
    py.detach(|| {
        let columns: Vec<&dyn Column> = columns.iter().map(AsRef::as_ref).collect();
        let show = |split: usize, row: usize| cells::show(columns[split].cell(row));
        let found = time::disorder(&columns)?;
        Ok(found
            .into_iter()
            .map(|d| {
                let (newest, oldest) = (show(d.earlier, d.newest_row), show(d.later, d.oldest_row));
                (d.earlier, d.later, d.older_rows, newest, oldest)
            })
            .collect())
    })
}

/// Identity of a sequence of arrays: 32 hexadecimal digits of XXH3-128 over their types, shapes and
/// bytes.
#[pyfunction]
pub(super) fn fingerprint(py: Python<'_>, buffers: Vec<Bound<'_, PyAny>>) -> PyResult<String> {
    let mut parts: Vec<(String, Vec<usize>, PyReadonlyArray1<'_, u8>)> = Vec::new();
    for (i, buffer) in buffers.iter().enumerate() {
        let refused = |got: &str| {
            let expected = "a C-contiguous NumPy array without Python objects";
            PyTypeError::new_err(format!("buffers: expected {expected} at {i}, got {got}"))
        };
        let array = buffer.cast::<PyUntypedArray>().map_err(|_| {
            refused(&buffer.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string()))
        })?;
        if !array.is_c_contiguous() {
            return Err(refused("one with gaps (np.ascontiguousarray closes them)"));
        }
        if array.dtype().has_object() {
            return Err(refused("one of Python objects"));
        }
        let shape = array.shape().to_vec();
        let (dtype, bytes) = if let Ok(bytes) = buffer.extract() {
            ("uint8".to_owned(), bytes) // as text and tensors come, without asking NumPy
        } else if array.len() * array.dtype().itemsize() == 0 {
            (array.dtype().str()?.to_string(), PyArray1::zeros(py, 0, false).readonly())
        } else {
            let flat = buffer.call_method1("reshape", (-1,))?.call_method1("view", ("u1",))?;
            (array.dtype().str()?.to_string(), flat.extract()?)
        };
        parts.push((dtype, shape, bytes));
    }
    let slices = parts
        .iter()
        .map(|(dtype, shape, bytes)| Ok((dtype, shape, bytes.as_slice()?)))
        .collect::<Result<Vec<_>, numpy::AsSliceError>>()?;
    Ok(py.detach(|| {
        let mut all = Fingerprint::new();
        for (dtype, shape, bytes) in slices {
            all.push(dtype, shape, bytes);
        }
        all.hex()
    }))
}
