//! From tensors to records: fixed chunks, merged in a fixed order.

use std::ops::Range;

use super::dtype::{BFloat16, Float8E4M3, Float8E5M2, Float16, Float32, Float64};
use super::float8;
use super::kernel::summarize_chunk;
use super::record::TensorStats;
use super::view::TensorView;
use crate::parallel;

/// The number of values that one piece of parallel work reads. It is part of what fixes the bits of
/// a result, so it depends on nothing.
const CHUNK: usize = 1 << 16;

/// The record of one tensor.
pub fn summarize(tensor: &TensorView<'_>) -> TensorStats {
    let records = map_chunks(std::slice::from_ref(tensor), chunk_record);
    let n = records.len();
    merge_tree(&mut records.into_iter(), n, TensorStats::merge)
        .unwrap_or_else(|| TensorStats::empty(Some(tensor.dtype())))
}

/// The records of several tensors, parallel over the chunks of all of them.
pub fn summarize_all(tensors: &[TensorView<'_>]) -> Vec<TensorStats> {
    let mut records = map_chunks(tensors, chunk_record).into_iter();
    let record = |tensor: &TensorView<'_>| {
        merge_tree(&mut records, tensor.len().div_ceil(CHUNK), TensorStats::merge)
            .unwrap_or_else(|| TensorStats::empty(Some(tensor.dtype())))
    };
    tensors.iter().map(record).collect()
}

fn chunk_record(tensor: &TensorView<'_>, range: Range<usize>) -> TensorStats {
    match tensor {
        TensorView::Float64(values) => summarize_chunk::<Float64>(&values.range(range)),
        TensorView::Float32(values) => summarize_chunk::<Float32>(&values.range(range)),
        TensorView::Float16(values) => summarize_chunk::<Float16>(&values.range(range)),
        TensorView::BFloat16(values) => summarize_chunk::<BFloat16>(&values.range(range)),
        TensorView::Float8E4M3(values) => {
            float8::summarize_chunk::<Float8E4M3>(&values.range(range))
        }
        TensorView::Float8E5M2(values) => {
            float8::summarize_chunk::<Float8E5M2>(&values.range(range))
        }
    }
}

/// Calls `f` with every chunk of every tensor and returns the results in that order.
pub(super) fn map_chunks<R, F>(tensors: &[TensorView<'_>], f: F) -> Vec<R>
where
    R: Send,
    F: Fn(&TensorView<'_>, Range<usize>) -> R + Send + Sync,
{
    let chunks: Vec<_> = tensors
        .iter()
        .flat_map(|tensor| (0..tensor.len()).step_by(CHUNK).map(move |start| (tensor, start)))
        .collect();
    let bytes = tensors.iter().map(TensorView::bytes).fold(0, usize::saturating_add);
    parallel::map_indexed(chunks.len(), bytes, |i| {
        let (tensor, start) = chunks[i];
        f(tensor, start..tensor.len().min(start + CHUNK))
    })
}

/// Merges the next `n` results, neighbours first, then what came of them and so on, so that rounding
/// errors grow with the logarithm of `n`. The left half is always a full tree.
pub(super) fn merge_tree<T>(
    results: &mut impl Iterator<Item = T>,
    n: usize,
    merge: fn(&T, &T) -> T,
) -> Option<T> {
    if n < 2 {
        return if n == 1 { results.next() } else { None };
    }
    let half = n.next_power_of_two() / 2;
    let left = merge_tree(results, half, merge)?;
    let right = merge_tree(results, n - half, merge)?;
    Some(merge(&left, &right))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.37).sin() * 1e-3).collect()
    }

    #[test]
    fn a_list_gives_what_each_tensor_gives_alone() {
        let data: Vec<_> = [0, 1, CHUNK, 3 * CHUNK + 17, 64].map(wave).into();
        let views: Vec<_> = data.iter().map(|x| TensorView::from(&x[..])).collect();
        let together = summarize_all(&views);
        assert_eq!(together, views.iter().map(summarize).collect::<Vec<_>>());
        let counts: Vec<_> = together.iter().map(TensorStats::count).collect();
        assert_eq!(counts, data.iter().map(|x| x.len() as u64).collect::<Vec<_>>());
        assert!(together.iter().all(|record| record.dtype().is_some()));
    }

    #[test]
    fn neighbours_merge_first() {
        let merge = |a: &String, b: &String| format!("({a}{b})");
        let tree =
            |n: usize| merge_tree(&mut (0..n).map(|i| i.to_string()), n, merge).unwrap_or_default();
        assert_eq!([0, 1, 3, 5].map(tree), ["", "0", "((01)2)", "(((01)(23))4)"]);
    }
}
