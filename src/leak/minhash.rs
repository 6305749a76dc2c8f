//! `MinHash`: for each of k hash functions the least hash over a set. Two sets agree in a slot with
//! a probability equal to their Jaccard similarity (Broder, "On the resemblance and containment of
//! documents", 1997).

use crate::leak::hash;

/// k hash functions `h -> a h + b mod 2^32` with odd `a`, over shingles mixed down to 32 bits.
#[derive(Debug, Clone)]
pub struct MinHash {
    factors: Vec<u32>,
    offsets: Vec<u32>,
}

impl MinHash {
    /// `slots` hash functions, the same on every machine and in every run.
    pub fn new(slots: usize) -> Self {
        let draws = (0..slots as u64).map(|i| hash::mix(hash::mix(i).wrapping_add(SEED)));
        let (factors, offsets) = draws.map(|d| ((d >> 32) as u32 | 1, d as u32)).unzip();
        Self { factors, offsets }
    }

    /// Number of slots of a sketch.
    pub fn slots(&self) -> usize {
        self.factors.len()
    }

    /// Replaces `sketch` by the sketch of a set; that of the empty set is all ones.
    pub fn sketch_into(&self, shingles: &[u64], sketch: &mut Vec<u32>) {
        sketch.clear();
        sketch.resize(self.slots(), u32::MAX);
        for &shingle in shingles {
            let h = hash::mix(shingle) as u32;
            for ((slot, a), b) in sketch.iter_mut().zip(&self.factors).zip(&self.offsets) {
                *slot = (*slot).min(a.wrapping_mul(h).wrapping_add(*b));
            }
        }
    }
}

const SEED: u64 = 0x6779_726f_7374_6174; // "gyrostat"

#[cfg(test)]
mod tests {
    use super::*;

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
}
