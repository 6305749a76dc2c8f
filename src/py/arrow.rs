//! The Arrow C data interface, in and out: columns change hands without being copied.
#![allow(unsafe_code)] // capsules hold raw pointers; each block says why it may follow them

use std::ffi::CStr;

use arrow_array::cast::AsArray;
use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi};
use arrow_array::ffi_stream::{ArrayStreamReader, FFI_ArrowArrayStream};
use arrow_array::{ArrayRef, RecordBatch, RecordBatchIterator, make_array};
use arrow_schema::{ArrowError, DataType};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods};

const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";
const STREAM: &CStr = c"arrow_array_stream";

/// One column of an Arrow table, chunk by chunk.
#[pyclass(frozen, module = "gyrostat._core")]
pub(super) struct ArrowColumn {
    pub(super) chunks: Vec<ArrayRef>,
    data_type: DataType,
}

#[pymethods]
impl ArrowColumn {
    /// Whether it holds text, plain or as a dictionary.
    #[getter]
    fn is_text(&self) -> bool {
        let data_type = match &self.data_type {
            DataType::Dictionary(_, values) => values,
            other => other,
        };
        matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
    }

    fn __len__(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }
}

/// The columns of anything with `__arrow_c_stream__` or `__arrow_c_array__`, by name. What is not
/// a table is one column without a name.
#[pyfunction]
pub(super) fn read_arrow(data: &Bound<'_, PyAny>) -> PyResult<Vec<(String, ArrowColumn)>> {
    let (data_type, chunks) = if data.hasattr("__arrow_c_stream__")? {
        read_stream(&data.call_method0("__arrow_c_stream__")?)?
    } else if data.hasattr("__arrow_c_array__")? {
        read_array(&data.call_method0("__arrow_c_array__")?)?
    } else {
        return Err(PyTypeError::new_err("data: expected an object that speaks Arrow"));
    };
    let DataType::Struct(fields) = data_type else {
        return Ok(vec![(String::new(), ArrowColumn { chunks, data_type })]);
    };
    let columns = fields.iter().enumerate().map(|(i, field)| {
        let chunks = chunks.iter().map(|chunk| chunk.as_struct().column(i).clone()).collect();
        let data_type = field.data_type().clone();
        (field.name().clone(), ArrowColumn { chunks, data_type })
    });
    Ok(columns.collect())
}

fn read_stream(capsule: &Bound<'_, PyAny>) -> PyResult<(DataType, Vec<ArrayRef>)> {
    let pointer = capsule.cast::<PyCapsule>()?.pointer_checked(Some(STREAM))?;
    // SAFETY: a capsule of this name holds a valid stream, which the GIL keeps others from. It is
    // moved out, and an empty one left behind.
    let stream = unsafe { FFI_ArrowArrayStream::from_raw(pointer.cast().as_ptr()) };
    capsule
        .py()
        .detach(|| {
            let reader = ArrayStreamReader::try_new(stream)?;
            let data_type = arrow_array::ArrayReader::field(&reader).data_type().clone();
            Ok((data_type, reader.collect::<Result<Vec<_>, _>>()?))
        })
        .map_err(|error| broken(&error))
}

fn read_array(capsules: &Bound<'_, PyAny>) -> PyResult<(DataType, Vec<ArrayRef>)> {
    let (schema, array): (Bound<'_, PyCapsule>, Bound<'_, PyCapsule>) = capsules.extract()?;
    let schema = schema.pointer_checked(Some(SCHEMA))?.cast::<FFI_ArrowSchema>();
    let array = array.pointer_checked(Some(ARRAY))?.cast::<FFI_ArrowArray>();
    // SAFETY: capsules of these names hold a valid schema and array, and both capsules live on
    // during this call. The array is moved out, and an empty one left behind; `from_ffi` is told
    // by the schema what the array is, as the producer promised.
    let data = unsafe {
        let array = FFI_ArrowArray::from_raw(array.as_ptr());
        if array.is_released() {
            return Err(PyValueError::new_err("data: the Arrow array has been consumed already"));
        }
        from_ffi(array, schema.as_ref())
    };
    let array = make_array(data.map_err(|error| broken(&error))?);
    Ok((array.data_type().clone(), vec![array]))
}

fn broken(error: &ArrowError) -> PyErr {
    PyValueError::new_err(format!("data: expected a readable Arrow stream, got: {error}"))
}

/// A capsule that gives `batch` away as a stream.
pub(super) fn write_stream(py: Python<'_>, batch: RecordBatch) -> PyResult<Bound<'_, PyCapsule>> {
    let schema = batch.schema();
    let stream = FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new([Ok(batch)], schema)));
    PyCapsule::new_with_value(py, stream, STREAM)
}
