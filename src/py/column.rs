//! Columns of Python objects, NumPy arrays and Arrow data, as the core reads them.

use numpy::datetime::{Datetime, Timedelta, units};
use numpy::{Element, PyReadonlyArray1};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyList, PyString};

use super::arrow::ArrowColumn;
use crate::leak::column::{Cell, Chunked, Column, Kind, Strided};
use crate::leak::{arrow, time};

/// What keeps the data of a column alive.
pub(super) trait Held {
    /// The column, which no longer needs the GIL.
    fn column(&self) -> Box<dyn Column + '_>;
}

/// Takes hold of one column. `place` says which, for messages; with `text` nothing else will do.
pub(super) fn hold<'py>(
    data: &Bound<'py, PyAny>,
    place: &str,
    text: bool,
) -> PyResult<Box<dyn Held + 'py>> {
    if let Ok(column) = data.cast::<ArrowColumn>() {
        return Ok(Box::new(arrow::column(place, &column.get().chunks)?));
    }
    if let Ok(list) = data.cast::<PyList>() {
        let objects = list.iter().enumerate().map(|(row, item)| object(&item, place, row, text));
        return Ok(Box::new(Objects::new(objects.collect::<PyResult<_>>()?)));
    }
    array(data).ok_or_else(|| {
        let dtype = data.getattr("dtype").unwrap_or_else(|_| data.get_type().into_any());
        PyTypeError::new_err(format!(
            "splits: expected numbers, text, bytes or times in {place}, got {dtype}"
        ))
    })
}

/// Takes hold of one column a split, of any kind.
pub(super) fn hold_all<'py>(
    data: &[Bound<'py, PyAny>],
    place: &str,
) -> PyResult<Vec<Box<dyn Held + 'py>>> {
    data.iter().map(|data| hold(data, place, false)).collect()
}

impl Held for Chunked {
    fn column(&self) -> Box<dyn Column + '_> {
        Box::new(self)
    }
}

/// Python objects; text and bytes are read where they lie.
struct Objects {
    cells: Vec<Object>,
    kind: Kind,
}

enum Object {
    Plain(Cell<'static>),
    Text(PyBackedStr),
    Bytes(PyBackedBytes),
}

impl Objects {
    fn new(cells: Vec<Object>) -> Self {
        let text = |cell: &Object| matches!(cell, Object::Text(_) | Object::Plain(Cell::Missing));
        let kind = if cells.iter().all(text) { Kind::Text } else { Kind::Other("object") };
        Self { cells, kind }
    }
}

impl Held for Objects {
    fn column(&self) -> Box<dyn Column + '_> {
        Box::new(self)
    }
}

impl Column for Objects {
    fn len(&self) -> usize {
        self.cells.len()
    }

    fn cell(&self, row: usize) -> Cell<'_> {
        match self.cells.get(row) {
            None => Cell::Missing,
            Some(Object::Plain(cell)) => *cell,
            Some(Object::Text(text)) => Cell::Text(text),
            Some(Object::Bytes(bytes)) => Cell::Bytes(bytes),
        }
    }

    fn kind(&self) -> Kind {
        self.kind
    }
}

fn object(item: &Bound<'_, PyAny>, place: &str, row: usize, text: bool) -> PyResult<Object> {
    if item.is_none() {
        return Ok(Object::Plain(Cell::Missing));
    }
    if let Ok(string) = item.cast::<PyString>() {
        return PyBackedStr::try_from(string.clone()).map(Object::Text).map_err(|error| {
            PyValueError::new_err(format!(
                "splits: expected text that UTF-8 can hold, got {place}, row {row}: {error}"
            ))
        });
    }
    // What pandas writes where nothing is.
    if item.cast::<PyFloat>().is_ok_and(|number| number.value().is_nan()) {
        return Ok(Object::Plain(Cell::Missing));
    }
    let refused = |expected: &str| {
        let got = item.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
        PyTypeError::new_err(format!(
            "splits: expected {expected} in {place}, got {got} in row {row}"
        ))
    };
    if text {
        return Err(refused("str or None"));
    }
    let cell = if let Ok(truth) = item.cast::<PyBool>() {
        Cell::Int(truth.is_true().into())
    } else if let Ok(bytes) = item.cast::<PyBytes>() {
        return Ok(Object::Bytes(bytes.clone().into()));
    } else if item.cast::<PyInt>().is_ok() || item.hasattr("__index__")? {
        Cell::Int(item.extract().map_err(|_| refused("integers below 2^127"))?)
    } else if item.hasattr("isoformat")? {
        let iso: PyBackedStr = item.call_method0("isoformat")?.extract()?;
        Cell::Instant(time::parse_iso(&iso).ok_or_else(|| refused("dates and times"))?)
    } else {
        let number: f64 = item.extract().map_err(|_| refused("numbers, text, bytes or times"))?;
        Cell::Float(number)
    };
    Ok(Object::Plain(cell))
}

/// A one-dimensional NumPy array of any strides.
struct Numbers<'py, T: Element> {
    values: PyReadonlyArray1<'py, T>,
    kind: &'static str,
    cell: fn(T) -> Cell<'static>,
}

impl<T: Element + Copy + Send + Sync> Held for Numbers<'_, T> {
    fn column(&self) -> Box<dyn Column + '_> {
        Box::new(Strided::new(self.values.as_array(), self.kind, self.cell))
    }
}

fn numbers<'py, T: Element + Copy + Send + Sync + 'py>(
    data: &Bound<'py, PyAny>,
    kind: &'static str,
    cell: fn(T) -> Cell<'static>,
) -> Option<Box<dyn Held + 'py>> {
    let values: PyReadonlyArray1<'py, T> = data.extract().ok()?;
    Some(Box::new(Numbers { values, kind, cell }))
}

fn array<'py>(data: &Bound<'py, PyAny>) -> Option<Box<dyn Held + 'py>> {
    numbers::<f64>(data, "float", Cell::Float)
        .or_else(|| numbers::<f32>(data, "float", |v| Cell::Float(v.into())))
        .or_else(|| numbers::<i64>(data, "integer", |v| Cell::Int(v.into())))
        .or_else(|| numbers::<i32>(data, "integer", |v| Cell::Int(v.into())))
        .or_else(|| numbers::<i16>(data, "integer", |v| Cell::Int(v.into())))
        .or_else(|| numbers::<i8>(data, "integer", |v| Cell::Int(v.into())))
        .or_else(|| numbers::<u64>(data, "integer", |v| Cell::Int(v.into())))
        .or_else(|| numbers::<u32>(data, "integer", |v| Cell::Int(v.into())))
        .or_else(|| numbers::<u16>(data, "integer", |v| Cell::Int(v.into())))
        .or_else(|| numbers::<u8>(data, "integer", |v| Cell::Int(v.into())))
        .or_else(|| numbers::<bool>(data, "boolean", |v| Cell::Int(v.into())))
        .or_else(|| {
            numbers::<Datetime<units::Seconds>>(data, "time stamp", |v| instant(v, 1_000_000_000))
        })
        .or_else(|| {
            numbers::<Datetime<units::Milliseconds>>(data, "time stamp", |v| instant(v, 1_000_000))
        })
        .or_else(|| {
            numbers::<Datetime<units::Microseconds>>(data, "time stamp", |v| instant(v, 1_000))
        })
        .or_else(|| numbers::<Datetime<units::Nanoseconds>>(data, "time stamp", |v| instant(v, 1)))
        .or_else(|| {
            numbers::<Timedelta<units::Seconds>>(data, "duration", |v| span(v, 1_000_000_000))
        })
        .or_else(|| {
            numbers::<Timedelta<units::Milliseconds>>(data, "duration", |v| span(v, 1_000_000))
        })
        .or_else(|| numbers::<Timedelta<units::Microseconds>>(data, "duration", |v| span(v, 1_000)))
        .or_else(|| numbers::<Timedelta<units::Nanoseconds>>(data, "duration", |v| span(v, 1)))
}

fn instant(value: impl Into<i64>, nanoseconds: i128) -> Cell<'static> {
    Cell::instant(value.into(), nanoseconds)
}

fn span(value: impl Into<i64>, nanoseconds: i128) -> Cell<'static> {
    Cell::span(value.into(), nanoseconds)
}
