//! The C exchange API of `DLPack` 1.3: where the memory of a tensor lies, without a copy and without
//! a Python object per tensor.
//!
//! The structures are those of `dlpack.h`; the layout is fixed for all versions 1.x.
#![allow(unsafe_code, reason = "the API is a table of C functions")]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::slice;

use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyType};

use super::memory::Held;
use crate::tensor::DType;

const MAJOR: u32 = 1;
const CPU: i32 = 1;

#[repr(C)]
struct Version {
    major: u32,
    minor: u32,
}

#[repr(C)]
struct Device {
    kind: i32,
    id: i32,
}

#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// `DLTensor`. Strides are in values, not bytes; the producer owns all that the pointers lead to.
#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: Device,
    axes: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLPackExchangeAPIHeader`. A producer of a later version may chain the tables of earlier ones.
#[repr(C)]
struct Header {
    version: Version,
    previous: *const Header,
}

/// Fills in the second argument; 0, or -1 with a Python exception set.
type Borrow = unsafe extern "C" fn(*mut PyObject, *mut Tensor) -> c_int;

/// `DLPackExchangeAPI`.
#[repr(C)]
struct Table {
    header: Header,
    managed_tensor_allocator: *const c_void,
    managed_tensor_from_py_object_no_sync: *const c_void,
    managed_tensor_to_py_object_no_sync: *const c_void,
    dltensor_from_py_object_no_sync: Option<Borrow>,
    current_work_stream: *const c_void,
}

const _: () = assert!(size_of::<Tensor>() == 32 + 2 * size_of::<*const c_void>());
const _: () = assert!(size_of::<Table>() == 8 + 6 * size_of::<*const c_void>());

/// How the tensors of one class are borrowed.
pub(super) struct ExchangeApi<'py> {
    class: Bound<'py, PyType>,
    borrow: Borrow,
}

impl<'py> ExchangeApi<'py> {
    /// From the attribute `__dlpack_c_exchange_api__` of the class; `None` if it offers nothing that
    /// is known here.
    pub(super) fn of_class(class: &Bound<'py, PyType>) -> Option<Self> {
        let capsule = class.getattr(pyo3::intern!(class.py(), "__dlpack_c_exchange_api__")).ok()?;
        let capsule = capsule.cast::<PyCapsule>().ok()?;
        let pointer = capsule.pointer_checked(Some(c"dlpack_exchange_api")).ok()?;
        let mut header: *const Header = pointer.as_ptr().cast();
        // SAFETY: by the protocol a capsule of this name holds a table, tables begin with a header
        // in every version, and none of them is ever freed.
        while let Some(known) = unsafe { header.as_ref() } {
            if known.version.major == MAJOR {
                // SAFETY: a header of this version is the beginning of a `Table`.
                let table = unsafe { &*header.cast::<Table>() };
                let borrow = table.dltensor_from_py_object_no_sync?;
                return Some(Self { class: class.clone(), borrow });
            }
            header = known.previous;
        }
        None
    }

    /// Whether the tensor is of the class, and of no subclass.
    pub(super) fn is_for(&self, tensor: &Bound<'py, PyAny>) -> bool {
        tensor.get_type_ptr() == self.class.as_type_ptr()
    }

    /// Borrows a tensor of the class; `None` if its memory cannot be read from here: on a device, of
    /// another dtype, sparse, without storage.
    pub(super) fn borrow(&self, object: &Bound<'py, PyAny>) -> Option<Held<'py>> {
        if !self.is_for(object) {
            return None;
        }
        let mut tensor = MaybeUninit::uninit();
        // SAFETY: the object is of the right class, and the thread is attached to the interpreter.
        if unsafe { (self.borrow)(object.as_ptr(), tensor.as_mut_ptr()) } != 0 {
            drop(PyErr::take(object.py()));
            return None;
        }
        // SAFETY: the call has filled it in.
        let tensor: Tensor = unsafe { tensor.assume_init() };
        if tensor.device.kind != CPU {
            return None;
        }
        let dtype = tensor.dtype.known()?;
        let width = isize::from(tensor.dtype.bits / 8);
        let axes = usize::try_from(tensor.axes).ok()?;
        let (shape, strides): (&[i64], &[i64]) = if axes == 0 {
            (&[], &[])
        } else if tensor.shape.is_null() || tensor.strides.is_null() {
            return None;
        } else {
            // SAFETY: both have one entry an axis, and stay as they are until control goes back to
            // the interpreter.
            unsafe {
                (
                    slice::from_raw_parts(tensor.shape, axes),
                    slice::from_raw_parts(tensor.strides, axes),
                )
            }
        };
        let axes = shape.iter().zip(strides);
        let axes = axes.map(|(&len, &stride)| (len as usize, stride as isize * width));
        let data = if tensor.data.is_null() {
            std::ptr::null_mut()
        } else {
            tensor.data.cast::<u8>().wrapping_add(tensor.byte_offset as usize)
        };
        // SAFETY: shape and strides describe the memory at `data`, which may be written since
        // nothing in the API says otherwise, and which the object keeps.
        unsafe { Held::new(object.clone(), dtype, data, axes, true) }
    }
}

impl DataType {
    /// One of the types that the core reads.
    fn known(&self) -> Option<DType> {
        match (self.code, self.bits, self.lanes) {
            (2, 64, 1) => Some(DType::Float64),
            (2, 32, 1) => Some(DType::Float32),
            (2, 16, 1) => Some(DType::Float16),
            (4, 16, 1) => Some(DType::BFloat16),
            (10, 8, 1) => Some(DType::Float8E4M3),
            (12, 8, 1) => Some(DType::Float8E5M2),
            _ => None,
        }
    }
}
