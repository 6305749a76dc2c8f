//! Borrowed memory of a tensor, and the views of it that the kernels take.
#![allow(unsafe_code, reason = "the memory belongs to another library")]

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ops::Range;
use std::slice;

use ndarray::{Axis, IxDyn, RawArrayViewMut, ShapeBuilder};
use numpy::{
    PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::error::Error;
use crate::tensor::{DType, Float, TensorView, TensorViewMut, Values, ValuesMut};

/// A tensor that is kept while its memory is used. Its values may change meanwhile if another thread
/// writes them, as they may under `NumPy`; they must not be freed or resized.
pub(super) struct Held<'py> {
    _owner: Bound<'py, PyAny>,
    dtype: DType,
    /// The first value in logical order; null only if there is none.
    data: *mut u8,
    len: usize,
    /// Length and stride in bytes of as few axes as possible, none of length 1, the outermost first;
    /// `None` if the values lie one after the other.
    axes: Option<Vec<(usize, isize)>>,
    writable: bool,
}

/// Length and stride in bytes of each axis, the outermost first.
type Axes = [(usize, isize)];

/// In which order values are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As the tensor has them.
    Logical,
    /// As they lie in memory, which for a transposed tensor is many times faster.
    Memory,
}

impl<'py> Held<'py> {
    /// From the length and the stride in bytes of each axis, the outermost first. `None` if there is
    /// no memory for the values, or more of it than can be.
    ///
    /// # Safety
    /// What the axes lead to from `data` holds values of `dtype` for as long as `owner` lives. It may
    /// be written if `writable`.
    pub(super) unsafe fn new(
        owner: Bound<'py, PyAny>,
        dtype: DType,
        data: *mut u8,
        axes: impl DoubleEndedIterator<Item = (usize, isize)> + Clone,
        writable: bool,
    ) -> Option<Self> {
        let width = width(dtype)?;
        let len = axes.clone().try_fold(1_usize, |len, (n, _)| len.checked_mul(n))?;
        isize::try_from(len.checked_mul(width)?).ok()?;
        if data.is_null() && len > 0 {
            return None;
        }
        let mut next = width as isize;
        let contiguous = len == 0
            || axes.clone().rev().filter(|&(n, _)| n != 1).all(|(n, stride)| {
                let in_place = stride == next;
                next = next.wrapping_mul(n as isize);
                in_place
            });
        let axes = (!contiguous).then(|| merge(axes));
        Some(Self { _owner: owner, dtype, data, len, axes, writable })
    }

    /// An array whose values are of `dtype`, whatever the array takes them for. `None` if they are
    /// not of the same width.
    pub(super) fn from_numpy(array: &Bound<'py, PyUntypedArray>, dtype: DType) -> Option<Self> {
        if Some(array.dtype().itemsize()) != width(dtype) {
            return None;
        }
        let axes = array.shape().iter().copied().zip(array.strides().iter().copied());
        // SAFETY: only the pointer is asked for, which does not depend on the type.
        let data = unsafe { array.cast_unchecked::<PyArrayDyn<u8>>() }.data();
        // SAFETY: shape and strides describe the memory at `data`, which the array keeps.
        unsafe { Self::new(array.clone().into_any(), dtype, data, axes, false) }
    }

    /// Whether this is what a part of an array of complex numbers would look like: with more than
    /// one value, these do not lie one after the other.
    pub(super) fn may_be_part_of_complex(&self) -> bool {
        self.axes.is_some() || self.len == 1
    }

    /// Whether the values at the same places of both lie in the same order.
    pub(super) fn lies_like(&self, other: &Self) -> bool {
        let steps = |held: &Self| {
            let width = width(held.dtype)? as isize;
            let axes = held.axes.as_deref().unwrap_or_default().iter();
            axes.map(|&(n, stride)| (stride % width == 0).then_some((n, stride / width)))
                .collect::<Option<Vec<_>>>()
        };
        let steps = [self, other].map(steps);
        steps[0].is_some() && steps[0] == steps[1]
    }

    /// The addresses from the first to the last byte.
    fn extent(&self) -> Range<usize> {
        let start = self.data.addr();
        match &self.axes {
            None => start..start.wrapping_add(self.len * width(self.dtype).unwrap_or(0)),
            Some(axes) => {
                let reach = |&(n, stride): &(usize, isize)| stride.wrapping_mul(n as isize - 1);
                let (mut low, mut high) = (start, start + width(self.dtype).unwrap_or(0));
                for offset in axes.iter().map(reach) {
                    if offset < 0 {
                        low = low.wrapping_add_signed(offset);
                    } else {
                        high = high.wrapping_add_signed(offset);
                    }
                }
                low..high
            }
        }
    }

    /// What the kernels read.
    pub(super) fn view(&self, order: Order) -> PyResult<TensorView<'_>> {
        Ok(match self.dtype {
            DType::Float64 => TensorView::Float64(self.values(order)),
            DType::Float32 => TensorView::Float32(self.values(order)),
            DType::Float16 => TensorView::Float16(self.values(order)),
            DType::BFloat16 => TensorView::BFloat16(self.values(order)),
            DType::Float8E4M3 => TensorView::Float8E4M3(self.values(order)),
            DType::Float8E5M2 => TensorView::Float8E5M2(self.values(order)),
            DType::Mixed => {
                return Err(Error::type_("tensor", "values of one dtype", self.dtype).into());
            }
        })
    }

    /// What a kernel writes; `None` if that cannot be: the memory is read only, several values share
    /// it, or values of the type cannot be computed with.
    pub(super) fn view_mut(&mut self) -> Option<TensorViewMut<'_>> {
        match self.dtype {
            DType::Float64 => self.values_mut().map(TensorViewMut::Float64),
            DType::Float32 => self.values_mut().map(TensorViewMut::Float32),
            DType::Float16 => self.values_mut().map(TensorViewMut::Float16),
            DType::BFloat16 => self.values_mut().map(TensorViewMut::BFloat16),
            DType::Float8E4M3 | DType::Float8E5M2 | DType::Mixed => None,
        }
    }

    /// Where the values begin, and along which axes they lie; `None` if one after the other.
    fn layout(&self, order: Order) -> (*mut u8, Option<Cow<'_, Axes>>) {
        let Some(axes) = &self.axes else { return (self.data, None) };
        if order == Order::Logical {
            return (self.data, Some(Cow::Borrowed(axes)));
        }
        let mut lowest = self.data;
        let mut upward = axes.clone();
        for (n, stride) in &mut upward {
            if *stride < 0 {
                // The last entry along the axis.
                lowest = lowest.wrapping_offset(*stride * (*n as isize - 1));
                *stride = -*stride;
            }
        }
        // The long steps outside; what is repeated is repeated as a whole.
        upward.sort_by_key(|&(_, stride)| (stride != 0, Reverse(stride)));
        let merged = merge(upward.into_iter());
        let width = width(self.dtype).unwrap_or(0) as isize;
        let contiguous = matches!(*merged, [(_, stride)] if stride == width);
        (lowest, (!contiguous).then_some(Cow::Owned(merged)))
    }

    fn values<F: Float>(&self, order: Order) -> Values<'_, F> {
        if self.len == 0 {
            return Values::Contiguous(&[]);
        }
        let (start, axes) = self.layout(order);
        let data = start.cast::<F::Raw>();
        match &axes {
            None if data.is_aligned() => {
                // SAFETY: `new` was given this many values, and they are aligned.
                Values::Contiguous(unsafe { slice::from_raw_parts(data, self.len) })
            }
            Some(axes) if is_aligned(data, axes) => {
                // SAFETY: `new` was given these axes, if in another order, and every value is
                // aligned.
                Values::Strided(unsafe { strided(data, axes).deref_into_view() })
            }
            axes => {
                let width = size_of::<F::Raw>();
                let whole = [(self.len, width as isize)];
                let mut bytes = axes.as_deref().unwrap_or(&whole).to_vec();
                bytes.push((width, 1));
                // SAFETY: as above; bytes are always aligned.
                Values::Bytes(unsafe { strided(start, &bytes).deref_into_view() })
            }
        }
    }

    fn values_mut<F: Float>(&mut self) -> Option<ValuesMut<'_, F>> {
        if !self.writable {
            return None;
        }
        if self.len == 0 {
            return Some(ValuesMut::Contiguous(&mut []));
        }
        let (start, axes) = self.layout(Order::Memory);
        let data = start.cast::<F::Raw>();
        match &axes {
            None if data.is_aligned() => {
                // SAFETY: `new` was given this many values, they are aligned and may be written;
                // the exclusive borrow of `self` keeps other views of them away.
                Some(ValuesMut::Contiguous(unsafe { slice::from_raw_parts_mut(data, self.len) }))
            }
            Some(axes) if is_aligned(data, axes) && are_apart::<F::Raw>(axes) => {
                // SAFETY: as above, and no two values share memory.
                Some(ValuesMut::Strided(unsafe { strided(data, axes).deref_into_view_mut() }))
            }
            _ => None,
        }
    }
}

/// Whether no byte belongs to two of them.
pub(super) fn are_disjoint(tensors: &[Held<'_>]) -> bool {
    let mut extents: Vec<_> =
        tensors.iter().filter(|held| held.len > 0).map(Held::extent).collect();
    extents.sort_unstable_by_key(|extent| extent.start);
    extents.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

/// How many bytes a value takes.
fn width(dtype: DType) -> Option<usize> {
    match dtype {
        DType::Float64 => Some(8),
        DType::Float32 => Some(4),
        DType::Float16 | DType::BFloat16 => Some(2),
        DType::Float8E4M3 | DType::Float8E5M2 => Some(1),
        DType::Mixed => None,
    }
}

/// The same values in the same order along as few axes as possible.
fn merge(axes: impl Iterator<Item = (usize, isize)>) -> Vec<(usize, isize)> {
    let mut merged: Vec<(usize, isize)> = Vec::new();
    for (n, stride) in axes.filter(|&(n, _)| n != 1) {
        match merged.last_mut() {
            Some(last) if last.1 == stride.wrapping_mul(n as isize) => *last = (last.0 * n, stride),
            _ => merged.push((n, stride)),
        }
    }
    merged
}

fn is_aligned<T>(data: *const T, axes: &[(usize, isize)]) -> bool {
    data.is_aligned() && axes.iter().all(|(_, stride)| stride % size_of::<T>() as isize == 0)
}

/// Whether each axis steps over all that the finer ones reach, so that no two values can meet.
fn are_apart<T>(axes: &[(usize, isize)]) -> bool {
    let mut axes: Vec<_> = axes.iter().map(|&(n, stride)| (stride.unsigned_abs(), n)).collect();
    axes.sort_unstable();
    let mut reach = size_of::<T>();
    axes.into_iter().all(|(step, n)| {
        let apart = step >= reach;
        reach = reach.saturating_add(step.saturating_mul(n - 1));
        apart
    })
}

/// A view along axes whose strides are in bytes. Whole values apart, so `T` divides each of them.
///
/// # Safety
/// What the axes lead to from `data` lies in one allocation.
unsafe fn strided<T>(data: *mut T, axes: &[(usize, isize)]) -> RawArrayViewMut<T, IxDyn> {
    let width = size_of::<T>() as isize;
    let mut lowest = data;
    for &(n, stride) in axes.iter().filter(|(_, stride)| *stride < 0) {
        // SAFETY: the last entry along an axis belongs to the tensor.
        lowest = unsafe { lowest.byte_offset(stride * (n as isize - 1)) };
    }
    let shape: Vec<_> = axes.iter().map(|&(n, _)| n).collect();
    let steps: Vec<_> = axes.iter().map(|(_, stride)| (stride / width).unsigned_abs()).collect();
    // SAFETY: from the lowest address on, steps of any size lead to the values and nowhere else.
    let mut view =
        unsafe { RawArrayViewMut::from_shape_ptr(IxDyn(&shape).strides(IxDyn(&steps)), lowest) };
    for (i, _) in axes.iter().enumerate().filter(|(_, (_, stride))| *stride < 0) {
        view.invert_axis(Axis(i));
    }
    view
}
