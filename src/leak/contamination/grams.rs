//! Hashes of runs of words, and the compact table that they are looked up in.

/// Words in one seed.
pub(super) const WORDS: usize = 8;

/// Odd multiplier of the polynomial over the hashes of words (2^64 divided by the golden ratio).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

const fn power(n: usize) -> u64 {
    let (mut product, mut i) = (1_u64, 0);
    while i < n {
        product = product.wrapping_mul(STEP);
        i += 1;
    }
    product
}

const OLDEST: u64 = power(WORDS - 1);

/// The hash of a run of words, made of the hashes of its words. Packs on disk depend on it.
pub(super) fn gram(words: &[u64]) -> u64 {
    finish(words.iter().fold(0, |h: u64, &word| h.wrapping_mul(STEP).wrapping_add(word)))
}

/// Spreads the polynomial over all bits.
fn finish(h: u64) -> u64 {
    let h = (h ^ (h >> 32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 32)
}

/// Calls `f` with each run of [`WORDS`] words of a text: its first word and its hash. `words` are
/// the hashes of the words.
#[inline(always)]
pub(super) fn each(words: &[u64], mut f: impl FnMut(usize, u64)) {
    if words.len() < WORDS {
        return;
    }
    let append = |sum: u64, word: u64| sum.wrapping_mul(STEP).wrapping_add(word);
    let mut sum = words[..WORDS - 1].iter().fold(0, |sum, &word| append(sum, word));
    for (start, (&last, &first)) in words[WORDS - 1..].iter().zip(words).enumerate() {
        sum = append(sum, last);
        f(start, finish(sum));
        sum = sum.wrapping_sub(first.wrapping_mul(OLDEST));
    }
}

/// A set of hashes, numbered in ascending order.
///
/// Most lookups are of hashes that it does not hold: two bits in one word of a bit map, 16 bits of
/// map for each hash, turn nearly all of those away with one read of memory.
#[derive(Default)]
pub(super) struct Table {
    hashes: Vec<u64>,
    bits: Vec<u64>,
    /// Where the hashes with each leading bits begin.
    starts: Vec<u32>,
    shift: u32,
}

impl Table {
    /// The table of `hashes`, each once.
    pub(super) fn new(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        let buckets = hashes.len().next_power_of_two().max(2);
        let shift = 64 - buckets.trailing_zeros();
        let mut starts = vec![0_u32; buckets + 1];
        for &hash in &hashes {
            starts[(hash >> shift) as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut bits = vec![0; (hashes.len() / 4).next_power_of_two().max(2)];
        for &hash in &hashes {
            let (at, mask) = place(hash, bits.len());
            bits[at] |= mask;
        }
        Self { hashes, bits, starts, shift }
    }

    /// Number of hashes.
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether the bit map has `hash`: always if the table holds it, seldom if not.
    #[inline(always)]
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let (at, mask) = place(hash, self.bits.len());
        self.bits.get(at).is_some_and(|bits| bits & mask == mask)
    }

    /// The number of `hash`.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64) -> Option<u32> {
        if self.may_hold(hash) { self.search(hash) } else { None }
    }

    fn search(&self, hash: u64) -> Option<u32> {
        let bucket = (hash >> self.shift) as usize;
        let (start, end) = (self.starts[bucket], self.starts[bucket + 1]);
        let inside = self.hashes[start as usize..end as usize].binary_search(&hash).ok()?;
        Some(start + inside as u32)
    }
}

/// The word of a bit map of `len` words, a power of two, and the two bits in there.
#[inline(always)]
fn place(hash: u64, len: usize) -> (usize, u64) {
    let at = (hash >> 12) as usize & (len - 1);
    (at, 1 << (hash & 63) | 1 << (hash >> 6 & 63))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_run_has_the_hash_of_its_words(words in prop::collection::vec(any::<u64>(), 0..40)) {
            let mut found = Vec::new();
            each(&words, |start, hash| found.push((start, hash)));
            let expected: Vec<(usize, u64)> = words.windows(WORDS).map(gram).enumerate().collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_table_finds_what_it_holds(
            hashes in prop::collection::vec(any::<u64>(), 0..200),
            others in prop::collection::vec(any::<u64>(), 0..50),
        ) {
            let table = Table::new(hashes.clone());
            let mut sorted = hashes.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(table.len(), sorted.len());
            for hash in hashes.iter().chain(&others) {
                let expected = sorted.binary_search(hash).ok().map(|at| at as u32);
                prop_assert_eq!(table.find(*hash), expected);
            }
        }
    }

    #[test]
    fn the_hash_of_a_run_is_for_good() {
        assert_eq!(
            gram(&[1, 2, 3]),
            finish(STEP.wrapping_mul(STEP).wrapping_add(STEP.wrapping_mul(2)).wrapping_add(3))
        );
        assert_ne!(gram(&[1, 2]), gram(&[2, 1]));
    }
}
