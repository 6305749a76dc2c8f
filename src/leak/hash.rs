//! Hashes: of content, of words, and the mixers between them.
//!
//! Content is identified by XXH3-128: 128 bits, so that among 10^9 documents the odds of any chance
//! collision are below 10^-20. XXH3 is no defence against an adversary who builds collisions.

use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed, xxh3_128};

/// Odd multiplier of the polynomial over a sequence of hashes (2^64 divided by the golden ratio).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Identity of a piece of content.
pub fn content(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

/// Hash of one word: pieces of 16 bytes (the last one filled up with zeros), each multiplied into
/// the 128-bit product of two halves, whose halves are added without carry (as in wyhash). The same
/// on every machine.
pub fn word(bytes: &[u8]) -> u64 {
    let mut state = 0;
    for piece in bytes.chunks(PIECE) {
        let mut whole = [0; PIECE];
        whole[..piece.len()].copy_from_slice(piece);
        let (low, high) = halves(&whole);
        state = word_piece(state, low, high);
    }
    word_end(state, bytes.len())
}

/// Bytes of a word that are hashed at once.
pub(crate) const PIECE: usize = 16;

/// Both halves of a piece, in the order of little-endian machines.
#[inline(always)]
pub(crate) fn halves(piece: &[u8; PIECE]) -> (u64, u64) {
    let both = u128::from_le_bytes(*piece);
    (both as u64, (both >> 64) as u64)
}

/// The state of [`word`] after one more piece.
#[inline(always)]
pub(crate) fn word_piece(state: u64, low: u64, high: u64) -> u64 {
    fold(state ^ low ^ 0xa076_1d64_78bd_642f, high ^ 0xe703_7ed1_a0b4_28db)
}

/// The hash of a word of `len` bytes, from its last state.
#[inline(always)]
pub(crate) fn word_end(state: u64, len: usize) -> u64 {
    fold(state ^ len as u64, 0x8ebc_6af0_9c88_c6e3)
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Identity of a list of hashes; the order counts.
pub(crate) fn list(hashes: &[u64], scratch: &mut Vec<u8>) -> u128 {
    scratch.clear();
    scratch.extend(hashes.iter().flat_map(|hash| hash.to_le_bytes()));
    content(scratch)
}

/// Hash of one cell of the column `column`.
pub fn cell(column: usize, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, column as u64)
}

/// The finaliser of Murmur3: every bit of `h` reaches every bit of the result, one to one.
#[inline(always)]
pub const fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Hash of a short sequence of hashes; the order counts.
#[inline(always)]
pub fn sequence(values: impl IntoIterator<Item = u64>) -> u64 {
    let h = values.into_iter().fold(1, |h: u64, v| h.wrapping_mul(STEP).wrapping_add(v));
    mix(h)
}

/// Identity of a sequence of arrays: their types, shapes and bytes.
#[derive(Default)]
pub struct Fingerprint(Xxh3);

impl Fingerprint {
    /// The fingerprint of no array.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one array: `bytes` are its elements in C order.
    pub fn push(&mut self, dtype: &str, shape: &[usize], bytes: &[u8]) {
        // Lengths go first, so that no two sequences of arrays run together to the same bytes.
        self.0.update(&(dtype.len() as u64).to_le_bytes());
        self.0.update(dtype.as_bytes());
        self.0.update(&(shape.len() as u64).to_le_bytes());
        for &n in shape {
            self.0.update(&(n as u64).to_le_bytes());
        }
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// 32 hexadecimal digits.
    pub fn hex(&self) -> String {
        let mut out = String::with_capacity(32);
        // Writing to a String cannot fail.
        let _ = write!(out, "{:032x}", self.0.digest128());
        out
    }
}

/// A map whose keys are hashes already.
pub(crate) type HashedMap<K, V> =
    std::collections::HashMap<K, V, BuildHasherDefault<AlreadyHashed>>;

/// Passes the low 64 bits of a key through.
#[derive(Default)]
pub(crate) struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }

    fn write_u32(&mut self, i: u32) {
        self.write_u64(u64::from(i));
    }

    fn write_u64(&mut self, i: u64) {
        self.0 = mix(self.0 ^ i);
    }

    fn write_u128(&mut self, i: u128) {
        self.0 = i as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fingerprint(arrays: &[(&str, &[usize], &[u8])]) -> String {
        let mut all = Fingerprint::new();
        for (dtype, shape, bytes) in arrays {
            all.push(dtype, shape, bytes);
        }
        all.hex()
    }

    #[test]
    fn fingerprint_tells_type_shape_and_cut_apart() {
        let all = [
            fingerprint(&[]),
            fingerprint(&[("u1", &[0], b"")]),
            fingerprint(&[("u1", &[4], b"abcd")]),
            fingerprint(&[("i1", &[4], b"abcd")]),
            fingerprint(&[("u1", &[2, 2], b"abcd")]),
            fingerprint(&[("u1", &[2], b"ab"), ("u1", &[2], b"cd")]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert_eq!(a.len(), 32);
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn fingerprint_is_the_same_on_every_machine() {
        assert_eq!(fingerprint(&[("float32", &[1], &[0, 0, 128, 63])]), FINGERPRINT_OF_ONE);
    }

    /// XXH3-128 of the framed bytes, from the reference implementation (Python's xxhash).
    const FINGERPRINT_OF_ONE: &str = "50a65571347715410d5fc0e6b73bcd19";

    proptest! {
        #[test]
        fn sequences_are_ordered(a in any::<u64>(), b in any::<u64>()) {
            prop_assume!(a != b);
            prop_assert_ne!(sequence([a, b]), sequence([b, a]));
            prop_assert_ne!(sequence([a]), sequence([a, a]));
        }
    }
}
