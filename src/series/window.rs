//! Medians and quantiles of the last values of a series, kept up to date value by value.

/// The last `N` values, oldest first, and the same in ascending order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Recent<const N: usize> {
    ring: [f64; N],
    /// What is not filled yet is infinite.
    sorted: [f64; N],
    /// Where the oldest value stands once the ring is full.
    oldest: usize,
    len: usize,
}

impl<const N: usize> Default for Recent<N> {
    fn default() -> Self {
        Self { ring: [0.0; N], sorted: [f64::INFINITY; N], oldest: 0, len: 0 }
    }
}

impl<const N: usize> Recent<N> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes in a finite value, and forgets the oldest if there are `N`.
    #[inline]
    pub(super) fn push(&mut self, value: f64) {
        if self.len == N {
            let old = std::mem::replace(&mut self.ring[self.oldest], value);
            self.oldest = if self.oldest + 1 == N { 0 } else { self.oldest + 1 };
            for i in 0..N - 1 {
                let (here, next) = (self.sorted[i], self.sorted[i + 1]);
                self.sorted[i] = if here < old { here } else { next };
            }
        } else {
            self.ring[self.len] = value;
            self.len += 1;
        }
        // Each place holds the middle one of the value and its two neighbours-to-be. Without
        // a branch: where the value belongs is anyone's guess.
        let mut below = f64::NEG_INFINITY;
        for i in 0..N - 1 {
            let here = self.sorted[i];
            let lower = if value < here { value } else { here };
            self.sorted[i] = if lower > below { lower } else { below };
            below = here;
        }
        self.sorted[N - 1] = if value > below { value } else { below };
    }

    /// The median; of no value, infinite.
    #[inline]
    pub(super) fn median(&self) -> f64 {
        let n = self.len.max(1);
        f64::midpoint(self.sorted[(n - 1) / 2], self.sorted[n / 2])
    }

    /// The lowest and the highest value; of no value, infinite.
    #[inline]
    pub(super) fn range(&self) -> (f64, f64) {
        (self.sorted[0], self.sorted[self.len.max(1) - 1])
    }

    /// The values, oldest first.
    pub(super) fn values(&self) -> impl DoubleEndedIterator<Item = f64> + '_ {
        self.ring[self.oldest..self.len].iter().chain(&self.ring[..self.oldest]).copied()
    }
}

/// Bins to the octave, as a power of two: 16 make a quantile right to 3 %.
const OCTAVE_BITS: u32 = 4;
/// Octaves below 1 that are told apart; smaller values share the first bin.
const OCTAVES_BELOW_ONE: u64 = 64;
const BINS: usize = 2048;
const FIRST: u64 = (1023 - OCTAVES_BELOW_ONE) << OCTAVE_BITS;
const SHIFT: u32 = 52 - OCTAVE_BITS;

/// The bin of a magnitude: the leading bits of a positive number are its logarithm, nearly.
#[inline]
pub(super) fn bin_of(value: f64) -> u16 {
    if value > 0.0 {
        (value.to_bits() >> SHIFT).saturating_sub(FIRST).min(BINS as u64 - 1) as u16
    } else {
        0
    }
}

/// The middle of a bin; the first bin is zero.
#[inline]
fn middle_of(bin: usize) -> f64 {
    if bin == 0 {
        return 0.0;
    }
    f64::from_bits(((bin as u64 + FIRST) << SHIFT) | (1 << (SHIFT - 1)))
}

/// A quantile of the last values, in logarithmic bins.
///
/// The bin of the quantile and the number of values above it are kept and put right after each
/// value, as in the running median of Huang, Yang and Tang (1979); a bit for each bin that holds
/// something leads from one to the next. Where the quantile stands depends on the values alone
/// and not on the way there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantile {
    capacity: usize,
    /// Share of the values above the quantile.
    upper: f64,
    /// The bins of the values; once full, the oldest stands at `oldest`.
    ring: Vec<u16>,
    oldest: usize,
    /// Values that are to stand above the quantile.
    wanted: usize,
    counts: Vec<u8>,
    filled: [u64; BINS / 64],
    cursor: usize,
    above: usize,
}

impl Quantile {
    /// Of at most 255 values.
    pub(super) fn new(capacity: u8, upper: f64) -> Self {
        Self {
            capacity: usize::from(capacity),
            upper,
            ring: Vec::with_capacity(usize::from(capacity)),
            oldest: 0,
            wanted: 0,
            counts: vec![0; BINS],
            filled: [0; BINS / 64],
            cursor: 0,
            above: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.capacity as u8, self.upper);
    }

    /// The bins of the values, oldest first.
    pub(super) fn bins(&self) -> impl Iterator<Item = u16> + '_ {
        self.ring[self.oldest..].iter().chain(&self.ring[..self.oldest]).copied()
    }

    /// Takes in a bin, and forgets the oldest if the window is full.
    #[inline]
    pub(super) fn push(&mut self, bin: u16) {
        let bin = usize::from(bin).min(BINS - 1);
        if self.ring.len() == self.capacity {
            let old = usize::from(std::mem::replace(&mut self.ring[self.oldest], bin as u16));
            self.oldest = if self.oldest + 1 == self.capacity { 0 } else { self.oldest + 1 };
            self.counts[old] -= 1;
            self.filled[old / 64] &= !(u64::from(self.counts[old] == 0) << (old % 64));
            self.above -= usize::from(old > self.cursor);
        } else {
            self.ring.push(bin as u16);
            self.wanted = (self.ring.len() as f64 * self.upper) as usize;
        }
        self.counts[bin] += 1;
        self.filled[bin / 64] |= 1 << (bin % 64);
        self.above += usize::from(bin > self.cursor);
        while self.above > self.wanted {
            self.cursor = self.next_filled(self.cursor);
            self.above -= usize::from(self.counts[self.cursor]);
        }
        while self.above + usize::from(self.counts[self.cursor]) <= self.wanted {
            self.above += usize::from(self.counts[self.cursor]);
            self.cursor = self.last_filled(self.cursor);
        }
    }

    /// The next bin above that holds something; there is one while values stand above.
    #[inline]
    fn next_filled(&self, bin: usize) -> usize {
        let mut word = bin / 64;
        let mut bits = self.filled[word] & (!1 << (bin % 64));
        while bits == 0 && word + 1 < self.filled.len() {
            word += 1;
            bits = self.filled[word];
        }
        (word * 64 + bits.trailing_zeros() as usize).min(BINS - 1)
    }

    /// The next bin below that holds something; there is one while too few values stand above.
    #[inline]
    fn last_filled(&self, bin: usize) -> usize {
        let mut word = bin / 64;
        let mut bits = self.filled[word] & !(!0 << (bin % 64));
        while bits == 0 && word > 0 {
            word -= 1;
            bits = self.filled[word];
        }
        word * 64 + bits.checked_ilog2().unwrap_or(0) as usize
    }

    /// The quantile, to the width of its bin; of no value, zero.
    #[inline]
    pub(super) fn get(&self) -> f64 {
        middle_of(self.cursor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_is_that_of_the_last_values(values in prop::collection::vec(-3.0..3.0_f64, 1..60)) {
            let mut recent = Recent::<7>::default();
            for (i, &value) in values.iter().enumerate() {
                recent.push(value);
                let mut last = values[(i + 1).saturating_sub(7)..=i].to_vec();
                prop_assert_eq!(recent.values().collect::<Vec<_>>(), last.clone());
                last.sort_unstable_by(f64::total_cmp);
                prop_assert_eq!(&recent.sorted[..recent.len()], &last[..]);
                let n = last.len();
                prop_assert_eq!(recent.median(), f64::midpoint(last[(n - 1) / 2], last[n / 2]));
                prop_assert_eq!(recent.range(), (last[0], last[n - 1]));
            }
        }

        #[test]
        fn the_quantile_is_that_of_the_bins(
            values in prop::collection::vec(prop_oneof![0.0..1.0_f64, Just(-1.0), 1e-9..1e9_f64], 1..300),
            upper in prop_oneof![Just(0.1), Just(0.5)],
        ) {
            let mut quantile = Quantile::new(50, upper);
            for (i, &value) in values.iter().enumerate() {
                quantile.push(bin_of(value));
                let mut last: Vec<u16> =
                    values[(i + 1).saturating_sub(50)..=i].iter().map(|&v| bin_of(v)).collect();
                prop_assert_eq!(quantile.bins().collect::<Vec<_>>(), last.clone());
                last.sort_unstable();
                let n = last.len();
                let at = n - 1 - (n as f64 * upper) as usize;
                prop_assert_eq!(quantile.get(), middle_of(usize::from(last[at])));
            }
        }

        #[test]
        fn a_bin_is_narrow(value in 1e-15..1e15_f64) {
            let middle = middle_of(usize::from(bin_of(value)));
            prop_assert!((middle / value - 1.0).abs() < 0.035);
        }
    }

    #[test]
    fn what_has_no_bin_of_its_own_has_the_first_or_the_last() {
        for small in [0.0, -1.0, 1e-300, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(bin_of(small), 0);
        }
        for large in [1e300, f64::INFINITY] {
            assert_eq!(usize::from(bin_of(large)), BINS - 1);
        }
    }
}
