//! From tensors to pieces of parallel work and back.

use std::ops::Range;

use crate::parallel;

/// The number of values that one piece of parallel work reads. It is part of what fixes the bits of
/// a result, so it depends on nothing.
pub(super) const CHUNK: usize = 1 << 16;

/// Calls `f` with every chunk of every item, and puts together what comes of those of one item, in
/// their order; `None` for an item without values.
///
/// `len` is the number of values of an item; `bytes` is about how much memory all of them take.
pub(super) fn fold_chunks<T, R>(
    items: &[T],
    len: fn(&T) -> usize,
    bytes: usize,
    f: impl Fn(&T, Range<usize>) -> R + Send + Sync,
    add: fn(&mut R, &R),
) -> Vec<Option<R>>
where
    T: Sync,
    R: Send,
{
    if items.iter().all(|item| len(item) <= CHUNK) {
        // Nothing to put together.
        return parallel::map_indexed(items.len(), bytes, |i| {
            let n = len(&items[i]);
            (n > 0).then(|| f(&items[i], 0..n))
        });
    }
    let chunks: Vec<_> = items
        .iter()
        .flat_map(|item| (0..len(item)).step_by(CHUNK).map(move |start| (item, start)))
        .collect();
    let mut results = parallel::map_indexed(chunks.len(), bytes, |i| {
        let (item, start) = chunks[i];
        f(item, start..len(item).min(start + CHUNK))
    })
    .into_iter();
    let fold = |item: &T| {
        let mut chunks = results.by_ref().take(len(item).div_ceil(CHUNK));
        let mut whole = chunks.next()?;
        chunks.for_each(|chunk| add(&mut whole, &chunk));
        Some(whole)
    };
    items.iter().map(fold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_an_item_stay_together_in_their_order() {
        let lens = [0, 1, 2 * CHUNK, CHUNK + 1];
        let f = |&n: &usize, range: Range<usize>| format!("{n}:{}-{} ", range.start, range.end);
        let got = fold_chunks(&lens, |&n| n, usize::MAX, f, |a, b| a.push_str(b));
        let expected = [
            None,
            Some("1:0-1 ".to_owned()),
            Some(format!("{n}:0-{CHUNK} {n}:{CHUNK}-{n} ", n = 2 * CHUNK)),
            Some(format!("{n}:0-{CHUNK} {n}:{CHUNK}-{n} ", n = CHUNK + 1)),
        ];
        assert_eq!(got, expected);
    }
}
