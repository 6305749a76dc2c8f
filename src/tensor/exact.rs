//! Sums that no rounding touches, so that the order and the grouping of what is added do not show.

use std::fmt::Write;

use super::power::ldexp;

const BITS: i32 = 64;

/// A product of floating-point numbers and integers, exactly.
#[derive(Debug, Clone, Default)]
pub(super) struct Product {
    negative: bool,
    /// The magnitude in units of 2^exponent, least significant word first.
    words: Vec<u64>,
    exponent: i32,
}

impl Product {
    /// The finite number `x`.
    pub(super) fn of(x: f64) -> Self {
        Self { negative: false, words: vec![1], exponent: 0 }.times(x)
    }

    /// Times the finite number `x`.
    #[must_use]
    pub(super) fn times(mut self, x: f64) -> Self {
        let (mantissa, unit) = integer_and_unit(x);
        if mantissa == 0 {
            self.words.clear();
            return self;
        }
        self.negative ^= x.is_sign_negative();
        self.exponent += unit;
        self.times_integer(mantissa)
    }

    /// Times `n`.
    #[must_use]
    pub(super) fn times_integer(mut self, n: u64) -> Self {
        let mut carry = 0_u64;
        for word in &mut self.words {
            let product = u128::from(*word) * u128::from(n) + u128::from(carry);
            (*word, carry) = (product as u64, (product >> BITS) as u64);
        }
        if carry > 0 {
            self.words.push(carry);
        }
        self
    }

    /// Times 2^k.
    #[must_use]
    pub(super) fn times_two_to(mut self, k: i32) -> Self {
        self.exponent += k;
        self
    }

    /// The same with the other sign.
    #[must_use]
    pub(super) fn negated(mut self) -> Self {
        self.negative = !self.negative;
        self
    }
}

/// `(m, k)` such that the magnitude of the finite number `x` is m * 2^k. From its bits: a subnormal
/// number stays what it is whatever the processor was told.
fn integer_and_unit(x: f64) -> (u64, i32) {
    const MANTISSA_BITS: i32 = 52;
    let field = x.to_bits() >> MANTISSA_BITS & 0x7ff;
    let mantissa = x.to_bits() & ((1 << MANTISSA_BITS) - 1);
    let mantissa = mantissa | u64::from(field > 0) << MANTISSA_BITS;
    (mantissa, (field as i32).max(1) - 1023 - MANTISSA_BITS)
}

/// A sum of [`Product`]s, exactly.
#[derive(Debug, Clone, Default)]
pub(super) struct ExactSum {
    /// The position of the first word: it is in units of 2^(64 first).
    first: i32,
    /// Two's complement, least significant word first. The last word holds nothing but the sign.
    words: Vec<u64>,
}

impl ExactSum {
    /// Adds `product`.
    pub(super) fn add(&mut self, product: &Product) {
        self.add_words(product.negative, &product.words, product.exponent);
    }

    /// Adds the finite number `x` times 2^k.
    pub(super) fn add_f64(&mut self, x: f64, k: i32) {
        let (mantissa, unit) = integer_and_unit(x);
        if mantissa > 0 {
            self.add_words(x.is_sign_negative(), &[mantissa], unit + k);
        }
    }

    /// Adds what the fields of a [`Product`] say.
    fn add_words(&mut self, negative: bool, words: &[u64], exponent: i32) {
        let position = exponent.div_euclid(BITS);
        let shift = exponent.rem_euclid(BITS) as u32;
        self.make_room(position, words.len() + 1);
        let start = (position - self.first) as usize;
        let shifted = |i: usize| {
            let word = |i: usize| words.get(i).copied().map_or(0, u128::from);
            let below = if i == 0 { 0 } else { word(i - 1) };
            ((word(i) << BITS | below) << shift >> BITS) as u64
        };
        let mut carry = negative; // -x is !x + 1
        for (i, word) in self.words[start..].iter_mut().enumerate() {
            let added = if i <= words.len() { shifted(i) } else { 0 };
            (*word, carry) = add(*word, if negative { !added } else { added }, carry);
        }
        self.separate_sign();
    }

    /// Adds another sum.
    pub(super) fn add_sum(&mut self, other: &Self) {
        if !other.words.is_empty() {
            self.add(&other.product());
        }
    }

    /// The sum as a product of one.
    pub(super) fn product(&self) -> Product {
        let negative = self.is_negative();
        let mut words = self.words.clone();
        if negative {
            let mut carry = true;
            for word in &mut words {
                (*word, carry) = add(!*word, 0, carry);
            }
        }
        let used = words.iter().rposition(|&word| word > 0).map_or(0, |last| last + 1);
        words.truncate(used);
        Product { negative, words, exponent: self.first * BITS }
    }

    /// floor(log2 of the magnitude); `None` if it is zero.
    pub(super) fn exponent(&self) -> Option<i32> {
        let Product { words, exponent, .. } = self.product();
        let last = words.last()?.ilog2() as i32;
        Some(exponent + (words.len() as i32 - 1) * BITS + last)
    }

    /// The sum in units of 2^unit, to the nearest f64, ties to even.
    pub(super) fn to_f64(&self, unit: i32) -> f64 {
        let Product { negative, words, exponent } = self.product();
        // The highest 64 bits, of which the lowest tells whether there is anything below.
        let Some((&last, below)) = words.split_last() else { return 0.0 };
        let shift = last.leading_zeros();
        let next = below.last().copied().unwrap_or(0);
        let high = ((u128::from(last) << BITS | u128::from(next)) << shift >> BITS) as u64;
        let lost = next << shift > 0 || below.iter().rev().skip(1).any(|&word| word > 0);
        let magnitude = (high | u64::from(lost)) as f64;
        let k = exponent + below.len() as i32 * BITS - shift as i32 - unit;
        ldexp(if negative { -magnitude } else { magnitude }, k)
    }

    /// `(m, k)` such that the sum is m * 4^k, for a sum above zero with m from 1 to 4.
    pub(super) fn by_fours(&self) -> (f64, i32) {
        let k = self.exponent().map_or(0, |exponent| exponent.div_euclid(2));
        (self.to_f64(2 * k), k)
    }

    /// The square root, also where that of the nearest f64 would be zero or infinite.
    pub(super) fn sqrt(&self) -> f64 {
        let (m, k) = self.by_fours();
        ldexp(m.sqrt(), k)
    }

    /// As a hexadecimal floating-point number with all of its digits, `-0x1f3p-64`.
    pub(super) fn to_hex(&self) -> String {
        let Product { negative, words, exponent } = self.product();
        let skipped = words.iter().take_while(|&&word| word == 0).count();
        let mut text = String::from(if negative { "-0x" } else { "0x" });
        match words[skipped..].split_last() {
            None => return "0x0p0".into(),
            Some((last, rest)) => {
                // Writing to a string cannot fail.
                let _ = write!(text, "{last:x}");
                for word in rest.iter().rev() {
                    let _ = write!(text, "{word:016x}");
                }
            }
        }
        let _ = write!(text, "p{}", exponent + skipped as i32 * BITS);
        text
    }

    /// The inverse of [`ExactSum::to_hex`]; `None` for anything else, and for exponents that are not
    /// those of a sum of fourth powers.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        const MOST: i32 = 5000;
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (digits, exponent) = rest.strip_prefix("0x")?.split_once('p')?;
        let exponent: i32 = exponent.parse().ok()?;
        let short = digits.len() <= 2 * MOST as usize / 4 && !digits.is_empty();
        if !short || exponent.abs() > MOST || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let words = digits
            .as_bytes()
            .rchunks(16)
            .map(|digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        let mut sum = Self::default();
        sum.add(&Product { negative, words: words.collect::<Option<_>>()?, exponent });
        Some(sum)
    }

    fn is_negative(&self) -> bool {
        self.words.last().is_some_and(|&sign| sign > 0)
    }

    /// Makes sure that `n` words from `position` on are there, and one for the sign.
    fn make_room(&mut self, position: i32, n: usize) {
        if self.words.is_empty() {
            self.first = position;
        }
        if position < self.first {
            let missing = (self.first - position) as usize;
            self.words.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = position;
        }
        let needed = (position - self.first) as usize + n + 1;
        if needed > self.words.len() {
            let sign = self.words.last().copied().unwrap_or(0);
            self.words.resize(needed, sign);
        }
    }

    /// Gives the sign a word of its own again after a carry into the last one.
    fn separate_sign(&mut self) {
        if let Some(&last) = self.words.last()
            && last != 0
            && last != u64::MAX
        {
            self.words.push(if last >> 63 > 0 { u64::MAX } else { 0 });
        }
    }
}

fn add(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    (sum as u64, sum >> BITS > 0)
}

/// Equal numbers, whatever room was made for them.
impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        let mut difference = self.clone();
        difference.add(&other.product().negated());
        difference.words.iter().all(|&word| word == 0)
    }
}

impl Eq for ExactSum {}

#[cfg(test)]
mod tests {
    use num_bigint::BigInt;
    use proptest::prelude::*;

    use super::*;

    /// The product of numbers in units of 2^-6000.
    fn product(factors: &[f64]) -> BigInt {
        let mut exponent = 6000;
        let mut value = BigInt::from(1);
        for &x in factors {
            let unit = crate::tensor::power::exponent(x).max(-1022) - 52;
            let bits = x.to_bits();
            let mantissa = bits & ((1 << 52) - 1) | u64::from(bits >> 52 & 0x7ff > 0) << 52;
            value *= BigInt::from(mantissa) * if x < 0.0 { -1 } else { 1 };
            exponent += unit;
        }
        if value == BigInt::from(0) { value } else { value << exponent }
    }

    fn big(sum: &ExactSum) -> BigInt {
        let Product { negative, words, exponent } = sum.product();
        let words: Vec<u32> = words.iter().flat_map(|&w| [w as u32, (w >> 32) as u32]).collect();
        let value = BigInt::from(num_bigint::BigUint::new(words)) << (exponent + 6000);
        if negative { -value } else { value }
    }

    fn factors() -> impl Strategy<Value = Vec<f64>> {
        let finite = any::<f64>().prop_filter("finite", |x| x.is_finite());
        prop::collection::vec(prop_oneof![finite, -4.0..4.0, Just(0.0)], 1..5)
    }

    fn exact(terms: &[Vec<f64>]) -> ExactSum {
        let mut sum = ExactSum::default();
        for term in terms {
            sum.add(&term.iter().fold(Product::of(1.0), |p, &x| p.times(x)));
        }
        sum
    }

    proptest! {
        #[test]
        fn sums_are_those_of_integers(terms in prop::collection::vec(factors(), 0..12)) {
            let expected: BigInt = terms.iter().map(|term| product(term)).sum();
            let sum = exact(&terms);
            prop_assert_eq!(big(&sum), expected);
            prop_assert_eq!(&ExactSum::from_hex(&sum.to_hex()).unwrap(), &sum);
        }

        #[test]
        fn order_and_grouping_do_not_show(
            terms in prop::collection::vec(factors(), 0..12), cut in 0..12_usize,
        ) {
            let whole = exact(&terms);
            let (a, b) = terms.split_at(cut.min(terms.len()));
            let mut merged = exact(b);
            merged.add_sum(&exact(a));
            prop_assert_eq!(&merged, &whole);
            prop_assert_eq!(merged.to_hex(), whole.to_hex());
            prop_assert_eq!(merged.to_f64(0).to_bits(), whole.to_f64(0).to_bits());
            merged.add(&whole.product().negated());
            prop_assert_eq!((merged.to_f64(0), merged.exponent()), (0.0, None));
        }

        #[test]
        fn one_number_comes_back(x in any::<f64>().prop_filter("finite", |x| x.is_finite())) {
            let sum = exact(&[vec![x]]);
            prop_assert_eq!(sum.to_f64(0), x);
            if x != 0.0 {
                prop_assert_eq!(sum.exponent(), Some(crate::tensor::power::exponent(x)));
            }
        }
    }

    #[test]
    fn halves_round_to_even() {
        let f64_of =
            |terms: &[f64]| exact(&terms.iter().map(|&x| vec![x]).collect::<Vec<_>>()).to_f64(0);
        let tie = f64::EPSILON / 2.0;
        assert_eq!(f64_of(&[1.0, tie]), 1.0);
        assert_eq!(f64_of(&[1.0, tie, 1e-300]), 1.0 + f64::EPSILON);
        assert_eq!(f64_of(&[1.0 + f64::EPSILON, tie]), 1.0 + 2.0 * f64::EPSILON);
        assert_eq!(f64_of(&[-1.0, -tie, -1e-300]), -1.0 - f64::EPSILON);
    }

    #[test]
    fn what_is_no_sum_is_refused() {
        for text in
            ["", "0x", "0xp0", "1p0", "0x1", "0x1p", "0xgp0", "0x1p9999", "--0x1p0", "0x1p0 "]
        {
            assert_eq!(ExactSum::from_hex(text), None, "{text}");
        }
        assert_eq!(ExactSum::from_hex("0x0p0"), Some(ExactSum::default()));
        assert_eq!(ExactSum::from_hex("-0x0p5"), Some(ExactSum::default()));
        assert_eq!(ExactSum::from_hex("-0x18p-4").map(|sum| sum.to_f64(0)), Some(-1.5));
    }
}
