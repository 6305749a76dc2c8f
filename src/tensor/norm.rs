//! The global Euclidean norm, for gradient clipping.

use super::dtype::Float;
use super::power::{ldexp, scale};
use super::summarize::{map_chunks, merge_tree};
use super::view::{TensorView, with_values};

/// Values whose largest magnitude is found before they are squared; they stay in cache meanwhile.
const BLOCK: usize = 4096;

/// Accumulators side by side, so that the compiler can keep them in vector registers.
const LANES: usize = 8;

/// The Euclidean norm of all values of all tensors together.
///
/// As IEEE arithmetic has it: NaN if any value is NaN, else infinite if any value is. The squares
/// are summed in f64 and scaled where they would leave its range, so the norm overflows only if it
/// exceeds the largest f64 itself.
pub fn total_norm(tensors: &[TensorView<'_>]) -> f64 {
    let squares = map_chunks(
        tensors,
        |tensor, range| with_values!(tensor, F, values => chunk_squares::<F>(&values.range(range))),
    );
    let n = squares.len();
    merge_tree(&mut squares.into_iter(), n, Squares::merge).map_or(0.0, |squares| squares.norm())
}

/// A sum of squares, in units of 2^(2 scale(absmax)).
#[derive(Debug, Clone, Copy)]
struct Squares {
    absmax: f64,
    sum: f64,
}

impl Squares {
    const NOTHING: Self = Self { absmax: 0.0, sum: 0.0 };

    fn of(values: &[f64]) -> Self {
        let absmax = fold_lanes(values, |max, x| if x.abs() > max { x.abs() } else { max })
            .into_iter()
            .fold(0.0, f64::max);
        let sum = match scale(absmax) {
            0 => fold_lanes(values, |sum, x| sum + x * x),
            k => fold_lanes(values, |sum, x| {
                let x = ldexp(x, -k);
                sum + x * x
            }),
        };
        Self { absmax, sum: sum.iter().sum() }
    }

    fn merge(&self, other: &Self) -> Self {
        let absmax = self.absmax.max(other.absmax);
        let unit = scale(absmax);
        let [a, b] = [self, other].map(|s| ldexp(s.sum, 2 * (scale(s.absmax) - unit)));
        Self { absmax, sum: a + b }
    }

    fn norm(&self) -> f64 {
        ldexp(self.sum.sqrt(), scale(self.absmax))
    }
}

fn chunk_squares<F: Float>(values: &[F::Raw]) -> Squares {
    let mut decoded = Vec::with_capacity(BLOCK.min(values.len()));
    values.chunks(BLOCK).fold(Squares::NOTHING, |squares, block| {
        decoded.clear();
        decoded.extend(block.iter().map(|&raw| F::decode(raw)));
        squares.merge(&Squares::of(&decoded))
    })
}

fn fold_lanes(values: &[f64], f: impl Fn(f64, f64) -> f64) -> [f64; LANES] {
    let mut lanes = [0.0; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane = f(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = f(*lane, x);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm(values: &[f64]) -> f64 {
        total_norm(&[TensorView::from(values)])
    }

    #[test]
    fn neither_large_nor_small_values_leave_the_range() {
        for unit in [1.0, 1e200, 1e-200, f64::from_bits(1), 2e307] {
            assert_eq!(norm(&[3.0 * unit, 0.0, -4.0 * unit]), 5.0 * unit, "{unit:e}");
        }
        assert_eq!(norm(&[f64::MAX, f64::MAX]), f64::INFINITY);
        let large = [1e25_f32; 4];
        assert_eq!(total_norm(&[TensorView::from(&large[..])]), 2.0 * f64::from(1e25_f32));
        let apart = [TensorView::from(&[3e-300_f64][..]), TensorView::from(&[1e300_f64][..])];
        assert_eq!(total_norm(&apart), 1e300);
    }

    #[test]
    fn nan_outranks_infinity_wherever_it_stands() {
        for values in [[f64::NAN, f64::INFINITY, 1e300], [1e-300, f64::NEG_INFINITY, f64::NAN]] {
            assert!(norm(&values).is_nan());
        }
        assert_eq!(norm(&[1e300, f64::NEG_INFINITY, 1e-300]), f64::INFINITY);
        let mut long = vec![1e300; 100_000];
        long[77_777] = f64::NAN;
        assert!(norm(&long).is_nan());
        long[77_777] = f64::INFINITY;
        assert_eq!(norm(&long), f64::INFINITY);
    }

    #[test]
    fn the_norm_of_nothing_is_zero() {
        assert_eq!(total_norm(&[]), 0.0);
        assert_eq!(norm(&[]), 0.0);
    }
}
