//! Benchmark contamination.
#![allow(clippy::needless_pass_by_value)] // PyO3 hands arguments over

use std::sync::Arc;

use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict};

use super::arrow::write_stream;
use super::column::hold;
use crate::leak::contamination::pack::{self, Label};
use crate::leak::contamination::{Index, Match, RULES, Rules, Survey};

/// A benchmark, from its text or from a pack.
#[pyclass(frozen, module = "gyrostat._core")]
pub(super) struct Benchmark(Arc<Index>);

#[pymethods]
impl Benchmark {
    #[new]
    fn new(
        py: Python<'_>,
        questions: Bound<'_, PyAny>,
        answers: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let questions = hold(&questions, "the questions", true)?;
        let answers = answers.map(|answers| hold(&answers, "the answers", true)).transpose()?;
        let (questions, answers) = (questions.column(), answers.as_ref().map(|a| a.column()));
        let index = py.detach(|| Index::new(&*questions, answers.as_deref()))?;
        Ok(Self(Arc::new(index)))
    }

    /// A benchmark from the bytes of a pack, with its name and the names of its rows.
    #[staticmethod]
    fn unpack(py: Python<'_>, data: &[u8]) -> PyResult<(Self, String, Vec<String>)> {
        let (index, label) = py.detach(|| pack::read(data))?;
        Ok((Self(Arc::new(index)), label.name, label.ids))
    }

    /// The bytes of a pack.
    fn pack<'py>(
        &self,
        py: Python<'py>,
        name: String,
        ids: Vec<String>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = py.detach(|| pack::write(&self.0, Label { name, ids }))?;
        Ok(PyBytes::new(py, &data))
    }

    fn __len__(&self) -> usize {
        self.0.rows()
    }
}

/// A search for the questions of a benchmark.
#[pyclass(module = "gyrostat._core")]
pub(super) struct Contamination {
    survey: Survey,
    /// Places of the matches that count.
    matches: Vec<usize>,
}

#[pymethods]
impl Contamination {
    /// Names of the rules.
    #[classattr]
    const RULES: [&'static str; RULES.len()] = RULES;

    #[new]
    fn new(benchmark: &Benchmark, deciding: usize, threshold: f64) -> Self {
        let rules = Rules { deciding, threshold };
        Self { survey: Survey::new(Arc::clone(&benchmark.0), rules), matches: Vec::new() }
    }

    /// Reads one column of texts; `progress` is told how many of them are done.
    fn read(
        &mut self,
        py: Python<'_>,
        texts: Bound<'_, PyAny>,
        progress: Py<PyAny>,
    ) -> PyResult<()> {
        let texts = hold(&texts, "the corpus", true)?;
        let texts = texts.column();
        py.detach(|| {
            let mut report =
                |done: usize| Python::attach(|py| progress.call1(py, (done,)).map(drop));
            let result = self.survey.read(&*texts, &mut report);
            self.matches = self.survey.places().collect();
            result
        })
    }

    fn __len__(&self) -> usize {
        self.matches.len()
    }

    /// The columns of one match in the order of the table, without those of the rules.
    #[allow(clippy::type_complexity)] // the columns of the table
    fn get(
        &self,
        index: usize,
    ) -> PyResult<(
        (u64, usize, &'static str, f64, f64, usize, usize, usize),
        (u64, u64),
        Option<(u32, u32)>,
        Option<bool>,
    )> {
        let found = self.found(index)?;
        let m = &found.measures;
        let (row, part) = (self.survey.row(found), self.survey.part(found).name());
        let score = Rules::score(m);
        let head = (found.text, row, part, score, m.containment(), m.words, m.edits, m.longest_run);
        Ok((head, found.place, self.survey.place(found), found.with_answer))
    }

    /// The piece of text of one of the first few matches, for people.
    fn shown(&self, index: usize) -> PyResult<&str> {
        self.found(index).map(|found| found.shown.as_str())
    }

    /// How the search went.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("texts", self.survey.texts())?;
        dict.set_item("missing", self.survey.missing())?;
        dict.set_item("bytes", self.survey.bytes())?;
        dict.set_item("texts_by_rule", self.survey.texts_by_rule().to_vec())?;
        dict.set_item("questions_by_rule", self.survey.rows_by_rule().to_vec())?;
        dict.set_item("uncheckable", self.survey.uncheckable())?;
        dict.set_item("answers_alone", self.survey.answers_alone())?;
        Ok(dict)
    }

    fn clean_texts<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        self.survey.clean_texts().into_pyarray(py)
    }

    fn clean_rows<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        self.survey.clean_rows().into_pyarray(py)
    }

    /// The matches as an Arrow stream.
    fn matches<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let batch = py.detach(|| self.survey.matches_table());
        write_stream(py, batch.map_err(|error| PyValueError::new_err(error.to_string()))?)
    }

    /// One line a row of the benchmark as an Arrow stream.
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let batch = py.detach(|| self.survey.rows_table());
        write_stream(py, batch.map_err(|error| PyValueError::new_err(error.to_string()))?)
    }
}

impl Contamination {
    fn found(&self, index: usize) -> PyResult<&Match> {
        let place = self.matches.get(index);
        let found = place.and_then(|&place| self.survey.get(place));
        found.ok_or_else(|| PyIndexError::new_err("match: no such"))
    }
}
