//! The Python extension module `gyrostat._core`: convert, release the GIL, call. No arithmetic here.

mod array;
mod arrow;
mod clip;
mod codes;
mod column;
mod contamination;
mod curve;
mod dlpack;
mod image;
mod intake;
mod leak;
mod memory;
mod pair;
mod series;
mod state;
mod tensor;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::Error;
use crate::parallel;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Type { .. } => PyTypeError::new_err(error.to_string()),
            Error::Value { .. } | Error::State(_) => PyValueError::new_err(error.to_string()),
        }
    }
}

/// What was built and what this process uses: version, profile, CPU, threads.
#[pyfunction]
fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    info.set_item("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS))?;
    info.set_item("kernel", crate::tensor::current_kernel().name())?;
    info.set_item("threads", parallel::current_threads())?;
    Ok(info)
}

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::array::{ArraySketcher, find_array_leaks, find_token_leaks};
    #[pymodule_export]
    use super::arrow::{ArrowColumn, read_arrow};
    #[pymodule_export]
    use super::build_info;
    #[pymodule_export]
    use super::clip::clip;
    #[pymodule_export]
    use super::codes::{
        ColumnCodes, column_codes, connected, entity_candidates, entity_levels, random_pairs,
    };
    #[pymodule_export]
    use super::contamination::{Benchmark, Contamination};
    #[pymodule_export]
    use super::curve::{Blocks, Window, trend};
    #[pymodule_export]
    use super::image::{ImageSketcher, find_image_leaks};
    #[pymodule_export]
    use super::leak::{
        Clusters, Leaks, find_leaks, fingerprint, shared_groups, sketches, time_disorder,
    };
    #[pymodule_export]
    use super::pair::compare_all;
    #[pymodule_export]
    use super::series::{SpikeDetector, find_spikes};
    #[pymodule_export]
    use super::tensor::{Records, TensorStats, statistics, summarize, summarize_all, total_norm};

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Said at import, not in the middle of a run.
        crate::parallel::configured_threads()?;
        crate::tensor::configured_kernel()?;
        Ok(())
    }
}
