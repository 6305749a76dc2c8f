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
    match dtype {
        None => Intake::default().hold(object, || Ok(None)),
        Some(_) => hold_readable(object, None, dtype),
    }
}

/// Holds several tensors, which messages call by the names beside them.
pub(super) fn hold<'py>(
    objects: &Bound<'py, PyList>,
    names: &Bound<'py, PyAny>,
) -> PyResult<Vec<Held<'py>>> {
    let mut intake = Intake::default();
    let mut all = Vec::with_capacity(objects.len());
    for (i, object) in objects.iter().enumerate() {
        all.push(intake.hold(&object, || names.get_item(i).map(Some))?);
    }
    Ok(all)
}

/// The values of tensors that are held, in the order of memory.
pub(super) fn views<'a>(tensors: &'a [Held<'_>]) -> PyResult<Vec<TensorView<'a>>> {
    let mut views = Vec::with_capacity(tensors.len());
    for held in tensors {
        views.push(held.view(Order::Memory)?);
    }
    Ok(views)
}

/// Holds several tensors, no two of which share memory; `None` if that is not so, or if one of them
/// can only be reached through `readable`.
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
        object: &Bound<'py, PyAny>,
        name: impl FnOnce() -> PyResult<Option<Bound<'py, PyAny>>>,
    ) -> PyResult<Held<'py>> {
        match self.direct(object)? {
            Some(held) => Ok(held),
            None => hold_readable(object, name()?, None),
        }
    }

    /// Holds a tensor whose memory can be reached without more than its class and dtype.
    fn direct(&mut self, object: &Bound<'py, PyAny>) -> PyResult<Option<Held<'py>>> {
        if let Some(api) = self.exchange.iter().find(|api| api.is_for(object)) {
            let held = api.borrow(object);
            // A view of conjugated complex numbers may hold its values with the sign turned. No bit
            // of that shows in the memory.
            return match held {
                Some(held) if held.may_be_part_of_complex() && is_negated(object)? => Ok(None),
                held => Ok(held),
            };
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
