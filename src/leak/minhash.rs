//! `MinHash`: for each of k hash functions the least hash over a set. Two sets agree in a slot with
//! a probability equal to their Jaccard similarity (Broder, "On the resemblance and containment of
//! documents", 1997).

use crate::leak::hash;
use crate::leak::isa::{Kernel, for_every_kernel};

/// Slots whose minima stay in registers while the set goes by.
const LANES: usize = 32;
/// Hashes that are mixed at once, on the stack.
const BLOCK: usize = 256;

/// k hash functions `h -> a h + b mod 2^32` with odd `a`, over shingles mixed down to 32 bits.
#[derive(Debug, Clone)]
pub struct MinHash {
    slots: usize,
    /// Padded to whole runs of [`LANES`].
    factors: Vec<u32>,
    offsets: Vec<u32>,
}

impl MinHash {
    /// `slots` hash functions, the same on every machine and in every run.
    pub fn new(slots: usize) -> Self {
        let padded = slots.next_multiple_of(LANES) as u64;
        let draws = (0..padded).map(|i| hash::mix(hash::mix(i).wrapping_add(SEED)));
        let (factors, offsets) = draws.map(|d| ((d >> 32) as u32 | 1, d as u32)).unzip();
        Self { slots, factors, offsets }
    }

    /// Number of slots of a sketch.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Replaces `sketch` by the sketch of a set; that of the empty set is all ones.
    pub fn sketch_into(&self, shingles: &[u64], sketch: &mut Vec<u32>) {
        self.sketch_with(Kernel::best(), shingles, sketch);
    }

    fn sketch_with(&self, kernel: Kernel, shingles: &[u64], sketch: &mut Vec<u32>) {
        sketch.clear();
        sketch.resize(self.factors.len(), u32::MAX);
        let mut mixed = [0; BLOCK];
        for block in shingles.chunks(BLOCK) {
            let mixed = &mut mixed[..block.len()];
            for (m, &shingle) in mixed.iter_mut().zip(block) {
                *m = hash::mix(shingle) as u32;
            }
            minima(kernel, mixed, &self.factors, &self.offsets, sketch);
        }
        sketch.truncate(self.slots);
    }
}

for_every_kernel! {
    fn minima(mixed: &[u32], factors: &[u32], offsets: &[u32], sketch: &mut [u32]) {
        let functions = factors.as_chunks::<LANES>().0.iter().zip(offsets.as_chunks::<LANES>().0);
        for (least, (a, b)) in sketch.as_chunks_mut::<LANES>().0.iter_mut().zip(functions) {
            let mut lanes = *least;
            for &h in mixed {
                for lane in 0..LANES {
                    lanes[lane] = lanes[lane].min(a[lane].wrapping_mul(h).wrapping_add(b[lane]));
                }
            }
            *least = lanes;
        }
    }
}

const SEED: u64 = 0x6779_726f_7374_6174; // "gyrostat"

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sketch(set: &[u64], slots: usize) -> Vec<u32> {
        let mut out = Vec::new();
        MinHash::new(slots).sketch_into(set, &mut out);
        out
    }

    #[test]
    fn the_order_of_a_set_does_not_matter() {
        assert_eq!(sketch(&[1, 2, 3], 128), sketch(&[3, 1, 2], 128));
        assert_eq!(sketch(&[], 4), [u32::MAX; 4]);
    }

    #[test]
    fn agreement_estimates_jaccard() {
        for shared in [200_u64, 500, 800, 950] {
            let a: Vec<u64> = (0..1000).collect();
            let b: Vec<u64> = (1000 - shared..2000 - shared).collect();
            let truth = shared as f64 / (2000 - shared) as f64;
            let (a, b) = (sketch(&a, 4096), sketch(&b, 4096));
            let agree = a.iter().zip(&b).filter(|(x, y)| x == y).count() as f64 / 4096.0;
            let deviation = (truth * (1.0 - truth) / 4096.0).sqrt();
            assert!((agree - truth).abs() < 4.0 * deviation, "{agree} {truth}");
        }
    }

    proptest! {
        #[test]
        fn every_kernel_gives_the_minima(set in prop::collection::vec(any::<u64>(), 0..600), slots in 0_usize..140) {
            let minhash = MinHash::new(slots);
            let least = |slot: usize| {
                let hash = |&h: &u64| {
                    let h = hash::mix(h) as u32;
                    minhash.factors[slot].wrapping_mul(h).wrapping_add(minhash.offsets[slot])
                };
                set.iter().map(hash).min().unwrap_or(u32::MAX)
            };
            let expected: Vec<u32> = (0..slots).map(least).collect();
            for kernel in Kernel::available() {
                let mut out = Vec::new();
                minhash.sketch_with(kernel, &set, &mut out);
                prop_assert_eq!(&out, &expected, "{:?}", kernel);
            }
        }
    }
}
