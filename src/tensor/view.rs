//! Tensors as the kernels see them: typed memory, in the logical order of its values.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewD, ArrayViewMut1, Axis, Ix2, Slice};

use super::dtype::{BFloat16, DType, Float, Float8E4M3, Float8E5M2, Float16, Float32, Float64};

/// The values of one tensor, wherever they lie. Nothing here owns or copies them.
#[derive(Debug)]
pub enum Values<'a, F: Float> {
    /// One after the other.
    Contiguous(&'a [F::Raw]),
    /// Apart, backwards, repeated or in another order of the axes.
    Strided(ArrayViewD<'a, F::Raw>),
    /// At odd addresses. The last axis holds the bytes of each value, in the order of this machine.
    Bytes(ArrayViewD<'a, u8>),
}

impl<F: Float> Values<'_, F> {
    /// The number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Contiguous(values) => values.len(),
            Self::Strided(view) => view.len(),
            Self::Bytes(view) => view.len() / size_of::<F::Raw>(),
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values at these positions in logical (C) order, copied only if they lie apart.
    pub(super) fn range(&self, range: Range<usize>) -> Cow<'_, [F::Raw]> {
        match self {
            Self::Contiguous(values) => Cow::Borrowed(&values[range]),
            Self::Strided(view) => {
                let mut values = Vec::with_capacity(range.len());
                gather(merge_axes(view.view()), range, &mut values);
                Cow::Owned(values)
            }
            Self::Bytes(view) => {
                let width = size_of::<F::Raw>();
                let mut bytes = Vec::with_capacity(range.len() * width);
                gather(merge_axes(view.view()), range.start * width..range.end * width, &mut bytes);
                Cow::Owned(bytes.chunks_exact(width).filter_map(F::from_bytes).collect())
            }
        }
    }
}

/// The same elements in the same order along as few axes, and so in as long rows, as possible.
fn merge_axes<T>(mut view: ArrayViewD<'_, T>) -> ArrayViewD<'_, T> {
    for axis in (1..view.ndim()).rev() {
        if view.merge_axes(Axis(axis - 1), Axis(axis)) {
            view = view.index_axis_move(Axis(axis - 1), 0);
        }
    }
    if view.ndim() == 0 { view.insert_axis(Axis(0)) } else { view }
}

/// Appends the elements at these positions in logical (C) order.
fn gather<T: Copy + Default>(view: ArrayViewD<'_, T>, range: Range<usize>, out: &mut Vec<T>) {
    if range.is_empty() {
        return;
    }
    if range.len() == view.len() {
        return append(view, out);
    }
    // Along the first axis: the entry that the range begins inside of, whole entries, and the one
    // that it ends inside of.
    let entry = view.len() / view.len_of(Axis(0));
    let (first, last) = (range.start.div_ceil(entry), range.end / entry);
    if first > last {
        let within = range.start - last * entry..range.end - last * entry;
        return gather(view.index_axis_move(Axis(0), last), within, out);
    }
    let (head, tail) = (first * entry - range.start, range.end - last * entry);
    if head > 0 {
        gather(view.index_axis(Axis(0), first - 1), entry - head..entry, out);
    }
    if first < last {
        append(view.slice_axis(Axis(0), Slice::from(first..last)), out);
    }
    if tail > 0 {
        gather(view.index_axis_move(Axis(0), last), 0..tail, out);
    }
}

/// Appends all elements in logical (C) order.
fn append<T: Copy + Default>(view: ArrayViewD<'_, T>, out: &mut Vec<T>) {
    let row_len = view.shape().last().map_or(1, |&n| n.max(1));
    if view.strides().last() == Some(&1) {
        for row in view.rows() {
            match row.as_slice() {
                Some(row) => out.extend_from_slice(row),
                None => out.extend(row),
            }
        }
        return;
    }
    if let [.., row_step, step] = *view.strides()
        && row_step.abs() < step.abs()
    {
        match view.view().into_dimensionality::<Ix2>() {
            Ok(matrix) => append_transposed(matrix, out),
            Err(_) => view.outer_iter().for_each(|part| append(part, out)),
        }
        return;
    }
    let out = extend(out, view.len());
    for (row, out) in view.rows().into_iter().zip(out.chunks_exact_mut(row_len)) {
        ArrayViewMut1::from(out).assign(&row);
    }
}

/// Appends a matrix whose columns are what lies close together: a few rows at a time, so that what
/// the cache gets with the first of them is there for the others.
fn append_transposed<T: Copy + Default>(matrix: ArrayView2<'_, T>, out: &mut Vec<T>) {
    const ROWS: usize = 16;

    let (rows, columns) = matrix.dim();
    let out = extend(out, rows * columns);
    for (i, some) in matrix.axis_chunks_iter(Axis(0), ROWS).enumerate() {
        let out = &mut out[i * ROWS * columns..];
        for (j, column) in some.columns().into_iter().enumerate() {
            for (out, &value) in out[j..].iter_mut().step_by(columns).zip(column) {
                *out = value;
            }
        }
    }
}

/// Room for `n` more elements.
fn extend<T: Copy + Default>(out: &mut Vec<T>, n: usize) -> &mut [T] {
    let start = out.len();
    out.resize(start + n, T::default());
    &mut out[start..]
}

/// A tensor of one of the supported types.
#[derive(Debug)]
pub enum TensorView<'a> {
    /// Values of f64.
    Float64(Values<'a, Float64>),
    /// Values of f32.
    Float32(Values<'a, Float32>),
    /// IEEE binary16, as bits.
    Float16(Values<'a, Float16>),
    /// The upper halves of f32, as bits.
    BFloat16(Values<'a, BFloat16>),
    /// The format without infinities, as bits.
    Float8E4M3(Values<'a, Float8E4M3>),
    /// The format with infinities, as bits.
    Float8E5M2(Values<'a, Float8E5M2>),
}

/// Binds `$values` to the values of `$view` and `$F` to their type in `$body`.
macro_rules! with_values {
    ($view:expr, $F:ident, $values:ident => $body:expr) => {
        match $view {
            $crate::tensor::view::TensorView::Float64($values) => {
                type $F = $crate::tensor::dtype::Float64;
                $body
            }
            $crate::tensor::view::TensorView::Float32($values) => {
                type $F = $crate::tensor::dtype::Float32;
                $body
            }
            $crate::tensor::view::TensorView::Float16($values) => {
                type $F = $crate::tensor::dtype::Float16;
                $body
            }
            $crate::tensor::view::TensorView::BFloat16($values) => {
                type $F = $crate::tensor::dtype::BFloat16;
                $body
            }
            $crate::tensor::view::TensorView::Float8E4M3($values) => {
                type $F = $crate::tensor::dtype::Float8E4M3;
                $body
            }
            $crate::tensor::view::TensorView::Float8E5M2($values) => {
                type $F = $crate::tensor::dtype::Float8E5M2;
                $body
            }
        }
    };
}
pub(super) use with_values;

impl TensorView<'_> {
    /// The number of values.
    pub fn len(&self) -> usize {
        with_values!(self, F, values => Values::<F>::len(values))
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the values.
    pub fn dtype(&self) -> DType {
        with_values!(self, F, _values => F::DTYPE)
    }

    /// How much memory the values take.
    pub(super) fn bytes(&self) -> usize {
        with_values!(self, F, values => values.len() * size_of::<<F as Float>::Raw>())
    }
}

impl<'a> From<&'a [f64]> for TensorView<'a> {
    fn from(values: &'a [f64]) -> Self {
        Self::Float64(Values::Contiguous(values))
    }
}

impl<'a> From<&'a [f32]> for TensorView<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::Float32(Values::Contiguous(values))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array, IxDyn, ShapeBuilder};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_of_any_view_is_that_of_its_copy(
            shape in prop::collection::vec(1..5_usize, 0..5),
            fortran: bool,
            reversed in prop::collection::vec(any::<bool>(), 5),
            steps in prop::collection::vec(1..3_isize, 5),
            ends in (0.0..=1.0, 0.0..=1.0),
        ) {
            let n: usize = shape.iter().product();
            let shape = IxDyn(&shape).set_f(fortran);
            let array = Array::from_shape_vec(shape, (0..n).map(|i| i as f32).collect()).unwrap();
            let mut view = array.view();
            view.slice_each_axis_inplace(|axis| {
                let k = axis.axis.index();
                Slice::new(0, None, if reversed[k] { -steps[k] } else { steps[k] })
            });
            let copy: Vec<f32> = view.iter().copied().collect();
            let (a, b): (f64, f64) = ends;
            let (a, b) = ((a * copy.len() as f64) as usize, (b * copy.len() as f64) as usize);
            let range = a.min(b)..a.max(b);
            let values = Values::<Float32>::Strided(view);
            prop_assert_eq!(&*values.range(range.clone()), &copy[range]);
        }
    }
}
