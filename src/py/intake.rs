//! From Python objects to memory that the kernels read, and in one case write.
//!
//! The arrays of `NumPy` and the dense tensors of `PyTorch` are understood here, at some 50 ns each.
//! Whatever else there is goes through `gyrostat._intake.readable`, which makes an array of it that
//! shares its memory, or finds the words for what is wrong with it.

use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyType};

use super::dlpack::ExchangeApi;
use super::memory::{Held, Order, are_disjoint};
use crate::error::Error;
use crate::tensor::{DType, TensorView, TensorViewMut};

const MODULE: &str = "gyrostat._intake";

/// Holds one tensor, which messages call `x`. With a `dtype`, unsigned integers are taken for the
/// bits of such values.
pub(super) fn hold_one<'py>(
    object: &Bound<'py, PyAny>,
    dtype: Option<&str>,
) -> PyResult<Held<'py>> {
    if dtype.is_some() {
        return hold_readable(object, None, dtype);
    }
    let mut intake = Intake::default();
    match intake.direct(object)? {
        Some(held) if !intake.is_torch(object) || !is_negated(object)? => Ok(held),
        _ => hold_readable(object, None, None),
    }
}

/// Holds several tensors, which messages call by the names beside them.
pub(super) fn hold<'py>(
    objects: &Bound<'py, PyList>,
    names: &Bound<'py, PyAny>,
) -> PyResult<Vec<Held<'py>>> {
    let mut intake = Intake::default();
    let mut all = intake.hold(objects, names)?;
    if intake.any_negated(objects)? {
        for (i, object) in objects.iter().enumerate() {
            if intake.is_torch(&object) && is_negated(&object)? {
                all[i] = hold_readable(&object, Some(names.get_item(i)?), None)?;
            }
        }
    }
    Ok(all)
}

/// Holds several tensors, for what does not depend on the sign of their values.
pub(super) fn hold_magnitudes<'py>(
    objects: &Bound<'py, PyList>,
    names: &Bound<'py, PyAny>,
) -> PyResult<Vec<Held<'py>>> {
    Intake::default().hold(objects, names)
}

/// The values of tensors that are held, in the order of memory.
pub(super) fn views<'a>(tensors: &'a [Held<'_>]) -> PyResult<Vec<TensorView<'a>>> {
    let mut views = Vec::with_capacity(tensors.len());
    for held in tensors {
        views.push(held.view(Order::Memory)?);
    }
    Ok(views)
}

/// Holds several tensors, for what does not depend on the sign of their values. No two of them share
/// memory; `None` if that is not so, or if one of them can only be reached through `readable`.
pub(super) fn hold_apart<'py>(objects: &Bound<'py, PyList>) -> PyResult<Option<Vec<Held<'py>>>> {
    let mut intake = Intake::default();
    let mut all = Vec::with_capacity(objects.len());
    for object in objects.iter() {
        match intake.direct(&object)? {
            Some(held) => all.push(held),
            None => return Ok(None),
        }
    }
    Ok(are_disjoint(&all).then_some(all))
}

/// The values of tensors that are held apart, to be written; `None` if one of them cannot be.
pub(super) fn views_mut<'a>(tensors: &'a mut [Held<'_>]) -> Option<Vec<TensorViewMut<'a>>> {
    let mut views = Vec::with_capacity(tensors.len());
    for held in tensors {
        views.push(held.view_mut()?);
    }
    Some(views)
}

/// What one call has learnt about classes and dtypes. There are few of either.
#[derive(Default)]
struct Intake<'py> {
    exchange: Vec<ExchangeApi<'py>>,
    /// Classes whose instances go through `readable`.
    indirect: Vec<Bound<'py, PyType>>,
    dtypes: Vec<(Bound<'py, PyAny>, Option<DType>)>,
}

impl<'py> Intake<'py> {
    fn hold(
        &mut self,
        objects: &Bound<'py, PyList>,
        names: &Bound<'py, PyAny>,
    ) -> PyResult<Vec<Held<'py>>> {
        let mut all = Vec::with_capacity(objects.len());
        for (i, object) in objects.iter().enumerate() {
            all.push(match self.direct(&object)? {
                Some(held) => held,
                None => hold_readable(&object, Some(names.get_item(i)?), None)?,
            });
        }
        Ok(all)
    }

    fn is_torch(&self, object: &Bound<'py, PyAny>) -> bool {
        self.exchange.iter().any(|api| api.is_for(object))
    }

    /// Whether one of the tensors of `PyTorch` holds its values with the sign turned, as a view of
    /// conjugated complex numbers may. Nothing of that shows in the memory.
    fn any_negated(&self, objects: &Bound<'py, PyList>) -> PyResult<bool> {
        static ANY_NEGATED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

        if self.exchange.is_empty() {
            return Ok(false);
        }
        let py = objects.py();
        let any = ANY_NEGATED.import(py, MODULE, "any_negated")?;
        if objects.iter().all(|object| self.is_torch(&object)) {
            return any.call1((objects,))?.extract();
        }
        let torch: Vec<_> = objects.iter().filter(|object| self.is_torch(object)).collect();
        any.call1((torch,))?.extract()
    }

    /// Holds a tensor whose memory can be reached without more than its class and dtype, whatever
    /// the sign of its values.
    fn direct(&mut self, object: &Bound<'py, PyAny>) -> PyResult<Option<Held<'py>>> {
        if let Some(api) = self.exchange.iter().find(|api| api.is_for(object)) {
            return Ok(api.borrow(object));
        }
        if let Ok(array) = object.cast_exact::<PyUntypedArray>() {
            let dtype = self.dtype(array.dtype().into_any())?;
            return Ok(dtype.and_then(|dtype| Held::from_numpy(array, dtype)));
        }
        let class = object.get_type();
        if self.indirect.iter().any(|known| known.is(&class)) {
            return Ok(None);
        }
        match exchange_api(&class)? {
            Some(api) => self.exchange.push(api),
            None => self.indirect.push(class),
        }
        self.direct(object)
    }

    fn dtype(&mut self, dtype: Bound<'py, PyAny>) -> PyResult<Option<DType>> {
        static DTYPE_NAME: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

        if let Some((_, known)) = self.dtypes.iter().find(|(d, _)| d.is(&dtype)) {
            return Ok(*known);
        }
        let name = DTYPE_NAME.import(dtype.py(), MODULE, "dtype_name")?.call1((&dtype,))?;
        let found = name.extract::<Option<String>>()?.and_then(|name| DType::from_name(&name));
        self.dtypes.push((dtype, found));
        Ok(found)
    }
}

/// The way to tensors of a class of `PyTorch` that are what their memory holds.
fn exchange_api<'py>(class: &Bound<'py, PyType>) -> PyResult<Option<ExchangeApi<'py>>> {
    static IS_PLAIN_TORCH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

    let is_plain = IS_PLAIN_TORCH.import(class.py(), MODULE, "is_plain_torch")?;
    let is_plain: bool = is_plain.call1((class,))?.extract()?;
    Ok(if is_plain { ExchangeApi::of_class(class) } else { None })
}

fn is_negated(tensor: &Bound<'_, PyAny>) -> PyResult<bool> {
    tensor.call_method0(pyo3::intern!(tensor.py(), "is_neg"))?.extract()
}

fn hold_readable<'py>(
    object: &Bound<'py, PyAny>,
    name: Option<Bound<'py, PyAny>>,
    dtype: Option<&str>,
) -> PyResult<Held<'py>> {
    static READABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

    let readable =
        READABLE.import(object.py(), MODULE, "readable")?.call1((object, name, dtype))?;
    let (array, dtype): (Bound<'py, PyUntypedArray>, String) = readable.extract()?;
    let held = DType::from_name(&dtype).and_then(|dtype| Held::from_numpy(&array, dtype));
    let expected = "memory that holds floating-point values";
    held.ok_or_else(|| Error::type_("tensor", expected, dtype).into())
}
