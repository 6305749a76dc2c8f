//! Images of a split.

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray3};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use super::leak::{Leaks, run};
use crate::leak::image::{Images, Sketcher};
use crate::leak::{self, Options};

/// What is kept of the images of one split.
#[pyclass(module = "gyrostat._core")]
#[derive(Default)]
pub(super) struct ImageSketcher {
    images: Sketcher,
    titles: Vec<Option<String>>,
}

impl ImageSketcher {
    /// An image as people read it.
    fn show(&self, row: usize) -> String {
        let size =
            self.images.size(row).map(|(rows, columns)| format!("{columns} x {rows} pixels"));
        match self.titles.get(row).and_then(Option::as_deref) {
            Some(title) => title.to_owned(),
            None => size.unwrap_or_else(|| "(missing)".into()),
        }
    }
}

/// PDQ as one row of four words a variant, `pHash`, `dHash`.
type HashArrays<'py> =
    (Bound<'py, PyArray2<u64>>, Bound<'py, PyArray1<u64>>, Bound<'py, PyArray1<u64>>);

#[pymethods]
impl ImageSketcher {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Takes in images of shape (height, width, 1 or 3), None where one is missing; `raw` are the
    /// bytes that they were made of, `titles` what people see of them.
    #[pyo3(signature = (images, raw = None, titles = None))]
    fn add(
        &mut self,
        py: Python<'_>,
        images: Vec<Option<PyReadonlyArray3<'_, u8>>>,
        raw: Option<Vec<PyReadonlyArray1<'_, u8>>>,
        titles: Option<Vec<Option<String>>>,
    ) -> PyResult<()> {
        let views: Vec<_> = images.iter().map(|i| i.as_ref().map(|i| i.as_array())).collect();
        let raw = raw.as_ref().map(|raw| raw.iter().map(|raw| raw.as_slice()).collect());
        let raw: Option<Vec<&[u8]>> = raw.transpose()?;
        py.detach(|| self.images.push(&views, raw.as_deref()))?;
        self.titles.extend(titles.unwrap_or_default());
        self.titles.resize(self.images.len(), None);
        Ok(())
    }

    fn __len__(&self) -> usize {
        self.images.len()
    }

    /// The hashes of the eight variants of an image.
    fn hashes<'py>(&self, py: Python<'py>, index: usize) -> PyResult<HashArrays<'py>> {
        let hashes = self.images.hashes(index);
        let hashes = hashes.ok_or_else(|| PyIndexError::new_err("index: no such image"))?;
        let pdq = hashes.pdq.concat().into_pyarray(py).reshape((hashes.pdq.len(), 4))?;
        Ok((pdq, hashes.phash.to_vec().into_pyarray(py), hashes.dhash.to_vec().into_pyarray(py)))
    }
}

/// Finds the pairs of images. `progress` is called as by `find_leaks`.
#[pyfunction]
#[pyo3(signature = (splits, *, labels, near, within, examples, progress))]
pub(super) fn find_image_leaks(
    py: Python<'_>,
    splits: Vec<(String, PyRef<'_, ImageSketcher>)>,
    labels: Option<Vec<Bound<'_, PyAny>>>,
    near: Option<f64>,
    within: bool,
    examples: usize,
    progress: Py<PyAny>,
) -> PyResult<Leaks> {
    let options = Options::new(near, within, false)?;
    let names = splits.iter().map(|(name, _)| name.clone()).collect();
    let splits: Vec<&ImageSketcher> = splits.iter().map(|(_, split)| &**split).collect();
    run(py, labels, progress, |labels, report| {
        let images = Images::new(splits.iter().map(|split| &split.images).collect());
        let found = leak::Leaks::in_images(&images, labels, options, report)?;
        Ok(Leaks::new(found, names, examples, |(split, row)| splits[split].show(row)))
    })
}
