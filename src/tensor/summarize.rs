//! From tensors to records: fixed chunks, merged in a fixed order.

use std::ops::Range;

use super::chunks::fold_chunks;
use super::dtype::{BFloat16, Float8E4M3, Float8E5M2, Float16, Float32, Float64};
use super::float8;
use super::isa::{Kernel, current_kernel};
use super::kernel::summarize_chunk;
use super::level::Level;
use super::record::TensorStats;
use super::view::TensorView;

/// The record of one tensor.
pub fn summarize(tensor: &TensorView<'_>, level: Level) -> TensorStats {
    summarize_with(current_kernel(), std::slice::from_ref(tensor), level)
        .pop()
        .unwrap_or_else(|| TensorStats::empty(Some(tensor.dtype()), level))
}

/// The records of several tensors, parallel over the chunks of all of them.
pub fn summarize_all(tensors: &[TensorView<'_>], level: Level) -> Vec<TensorStats> {
    summarize_with(current_kernel(), tensors, level)
}

pub(super) fn summarize_with(
    kernel: Kernel,
    tensors: &[TensorView<'_>],
    level: Level,
) -> Vec<TensorStats> {
    let bytes = tensors.iter().map(TensorView::bytes).fold(0, usize::saturating_add);
    let record = |tensor: &_, range| chunk_record(kernel, tensor, range, level);
    let records = fold_chunks(tensors, TensorView::len, bytes, record, TensorStats::add);
    let empty = |tensor: &TensorView<'_>| TensorStats::empty(Some(tensor.dtype()), level);
    let records = records.into_iter().zip(tensors);
    records.map(|(record, tensor)| record.unwrap_or_else(|| empty(tensor))).collect()
}

fn chunk_record(
    kernel: Kernel,
    tensor: &TensorView<'_>,
    range: Range<usize>,
    level: Level,
) -> TensorStats {
    match tensor {
        TensorView::Float64(x) => summarize_chunk::<Float64>(kernel, &x.range(range), level),
        TensorView::Float32(x) => summarize_chunk::<Float32>(kernel, &x.range(range), level),
        TensorView::Float16(x) => summarize_chunk::<Float16>(kernel, &x.range(range), level),
        TensorView::BFloat16(x) => summarize_chunk::<BFloat16>(kernel, &x.range(range), level),
        TensorView::Float8E4M3(x) => float8::summarize_chunk::<Float8E4M3>(&x.range(range), level),
        TensorView::Float8E5M2(x) => float8::summarize_chunk::<Float8E5M2>(&x.range(range), level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::chunks::CHUNK;

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.37).sin() * 1e-3).collect()
    }

    #[test]
    fn shards_merged_in_any_grouping_are_the_whole() {
        let data: Vec<f32> = wave(5 * CHUNK + 99).iter().map(|x| x + 0.3).collect();
        let whole = summarize(&TensorView::from(&data[..]), Level::Full);
        let part = |range: Range<usize>| {
            let end = data.len().min(range.end * CHUNK);
            summarize(&TensorView::from(&data[range.start * CHUNK..end]), Level::Full)
        };
        let [a, b, c] = [part(0..1), part(1..4), part(4..6)];
        for merged in [a.merge(&b).merge(&c), a.merge(&b.merge(&c)), c.merge(&a).merge(&b)] {
            assert_eq!(merged, whole);
            assert_eq!(merged.to_bytes(), whole.to_bytes());
        }
        let empty = summarize(&TensorView::from(&[0.0_f32; 0][..]), Level::Full);
        assert_eq!(empty.merge(&whole).merge(&empty), whole);
    }

    #[test]
    fn a_list_gives_what_each_tensor_gives_alone() {
        let data: Vec<_> = [0, 1, CHUNK, 3 * CHUNK + 17, 64].map(wave).into();
        let views: Vec<_> = data.iter().map(|x| TensorView::from(&x[..])).collect();
        let together = summarize_all(&views, Level::Full);
        assert_eq!(
            together,
            views.iter().map(|view| summarize(view, Level::Full)).collect::<Vec<_>>()
        );
        let counts: Vec<_> = together.iter().map(TensorStats::count).collect();
        assert_eq!(counts, data.iter().map(|x| x.len() as u64).collect::<Vec<_>>());
        assert!(together.iter().all(|record| record.dtype().is_some()));
    }
}
