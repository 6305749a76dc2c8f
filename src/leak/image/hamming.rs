//! Hamming distances of the hashes: every pair, or those that share a slice of a hash.

#![allow(
    unsafe_code,
    reason = "the distances use the processor's own instructions where it has them"
)]

use crate::leak::hash::HashedMap;
use crate::leak::image::VARIANTS;
use crate::leak::image::hashes::Hashes;

/// The largest distances at which two hashes make a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Radii {
    /// Of 256 bits.
    pub pdq: u32,
    /// Of 64 bits, for `pHash` and `dHash` alike.
    pub small: u32,
}

impl Radii {
    /// Where every pair of hashes is looked at. Of the pairs of CIFAR-10 that people call near
    /// duplicates these let 94 % through, and 2 of 1,000 others.
    pub const WIDE: Self = Self { pdq: 100, small: 16 };
    /// Where there are too many pairs for that: the radius that PDQ's authors recommend, and what
    /// [`Slices`] can find without a miss.
    pub const NARROW: Self = Self { pdq: 31, small: 7 };

    /// From the widest on, each smaller than the one before.
    pub fn shrinking() -> impl Iterator<Item = Self> {
        (4..=Self::WIDE.small).rev().map(|small| Self { pdq: Self::WIDE.pdq * small / 16, small })
    }
}

/// The hashes of an image as it is: PDQ, `pHash`, `dHash`.
pub type Plain = [u64; 6];

/// The plain hashes of an image.
pub fn plain(hashes: &Hashes) -> Plain {
    let [a, b, c, d] = hashes.pdq[0];
    [a, b, c, d, hashes.phash[0], hashes.dhash[0]]
}

/// The hashes of all variants, those of one kind and word side by side.
pub struct Query([[u64; VARIANTS]; 6]);

impl Query {
    /// Of one image.
    pub fn new(hashes: &Hashes) -> Self {
        let pdq = |word: usize| std::array::from_fn(|variant| hashes.pdq[variant][word]);
        Self([pdq(0), pdq(1), pdq(2), pdq(3), hashes.phash, hashes.dhash])
    }

    /// One bit a variant: whether it is near `other`.
    #[inline(always)]
    pub fn near(&self, other: &Plain, radii: Radii) -> u8 {
        let mut pdq = [0_u64; VARIANTS];
        for word in 0..4 {
            for variant in 0..VARIANTS {
                pdq[variant] += u64::from((self.0[word][variant] ^ other[word]).count_ones());
            }
        }
        let mut near = 0;
        for variant in 0..VARIANTS {
            let small = |word: usize| (self.0[word][variant] ^ other[word]).count_ones();
            let found = (pdq[variant] <= u64::from(radii.pdq))
                | (small(4) <= radii.small)
                | (small(5) <= radii.small);
            near |= u8::from(found) << variant;
        }
        near
    }

    #[inline(always)]
    fn scan(&self, others: &[Plain], radii: Radii, mut found: impl FnMut(usize, u8)) {
        for (i, other) in others.iter().enumerate() {
            let near = self.near(other, radii);
            if near != 0 {
                found(i, near);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,popcnt")]
    fn scan_avx2(&self, others: &[Plain], radii: Radii, found: impl FnMut(usize, u8)) {
        self.scan(others, radii, found);
    }

    /// Calls `found` with the place of each near one of `others`, and which variants are near.
    pub fn each(&self, others: &[Plain], radii: Radii, found: impl FnMut(usize, u8)) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { self.scan_avx2(others, radii, found) };
        }
        self.scan(others, radii, found);
    }
}

/// Hashes by slices of 16 bits: multi-index hashing (Norouzi, Punjani and Fleet, "Fast Search in
/// Hamming Space with Multi-Index Hashing", 2012).
///
/// Two hashes of s slices at a distance below 2 s have a slice at a distance of at most 1: 17 keys
/// a slice find every such pair. That covers [`Radii::NARROW`].
pub struct Slices {
    /// Images by slice and its value.
    images: HashedMap<u64, Vec<u32>>,
}

impl Slices {
    /// Of the images that `searched` names.
    pub fn new(hashes: &[Plain], searched: impl Iterator<Item = u32>) -> Self {
        let mut images: HashedMap<u64, Vec<u32>> = HashedMap::default();
        for image in searched {
            for slice in slices(&hashes[image as usize]) {
                images.entry(slice).or_default().push(image);
            }
        }
        Self { images }
    }

    /// Images that share a slice but for one bit with any variant of the query, ascending.
    pub fn candidates(&self, query: &Query) -> Vec<u32> {
        let mut out = Vec::new();
        for variant in 0..VARIANTS {
            for slice in slices(&std::array::from_fn(|word| query.0[word][variant])) {
                let keys = (0..16).map(|bit| slice ^ 1 << bit).chain([slice]);
                out.extend(keys.filter_map(|key| self.images.get(&key)).flatten());
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }
}

/// The 24 slices of the hashes, each with its place above its 16 bits.
fn slices(hashes: &Plain) -> impl Iterator<Item = u64> {
    (0..24_u64)
        .map(|place| place << 16 | (hashes[(place / 4) as usize] >> (place % 4 * 16) & 0xffff))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hashes() -> impl Strategy<Value = Hashes> {
        any::<([[u64; 4]; VARIANTS], [u64; VARIANTS], [u64; VARIANTS])>()
            .prop_map(|(pdq, phash, dhash)| Hashes { pdq, phash, dhash })
    }

    /// `hashes` with some bits of one of them turned.
    fn turned(hashes: &Plain, word: usize, bits: &[u8]) -> Plain {
        let mut out = *hashes;
        for &bit in bits {
            let (word, bit) =
                if word < 4 { (usize::from(bit) / 64, bit % 64) } else { (word, bit % 64) };
            out[word] ^= 1 << bit;
        }
        out
    }

    proptest! {
        #[test]
        fn the_paths_agree(query in hashes(), others in prop::collection::vec(any::<Plain>(), 0..40), pdq in 90_u32..140, small in 20_u32..36) {
            let (query, radii) = (Query::new(&query), Radii { pdq, small });
            let (mut a, mut b) = (Vec::new(), Vec::new());
            query.each(&others, radii, |i, near| a.push((i, near)));
            query.scan(&others, radii, |i, near| b.push((i, near)));
            prop_assert_eq!(a, b);
        }

        #[test]
        fn slices_miss_nothing_within_the_narrow_radii(query in hashes(), word in 0_usize..6, mut bits in prop::collection::btree_set(any::<u8>(), 0..32)) {
            if word >= 4 {
                bits = bits.into_iter().map(|bit| bit % 64).take(7).collect();
            }
            let bits: Vec<u8> = bits.into_iter().collect();
            let mut plain = turned(&plain(&query), word, &bits);
            for (other, bits) in plain.iter_mut().enumerate() {
                if (word < 4) != (other < 4) || (word >= 4 && other != word) {
                    *bits = !*bits;
                }
            }
            let query = Query::new(&query);
            prop_assert!(query.near(&plain, Radii::NARROW) & 1 == 1);
            prop_assert_eq!(Slices::new(&[plain], 0..1).candidates(&query), [0]);
        }
    }
}
