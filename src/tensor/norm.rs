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

/// A sum of squares, in units of 2^(2 scale).
#[derive(Debug, Clone, Copy)]
struct Squares {
    scale: i32,
    sum: f64,
}

impl Squares {
    const NOTHING: Self = Self { scale: 0, sum: 0.0 };

    fn of<F: Float>(values: &[F::Raw]) -> Self {
        let square = |sum, x| sum + x * x;
        if F::NARROW {
            return Self { scale: 0, sum: fold_lanes::<F>(values, square).iter().sum() };
        }
        let larger = |max, x: f64| if x.abs() > max { x.abs() } else { max };
        let absmax = fold_lanes::<F>(values, larger).into_iter().fold(0.0, f64::max);
        let scale = scale(absmax);
        let sum = match scale {
            0 => fold_lanes::<F>(values, square),
            k => fold_lanes::<F>(values, |sum, x| square(sum, ldexp(x, -k))),
        };
        Self { scale, sum: sum.iter().sum() }
    }

    fn merge(&self, other: &Self) -> Self {
        if self.sum == 0.0 {
            return *other;
        }
        if other.sum == 0.0 {
            return *self;
        }
        let scale = self.scale.max(other.scale);
        let [a, b] = [self, other].map(|s| ldexp(s.sum, 2 * (s.scale - scale)));
        Self { scale, sum: a + b }
    }

    fn norm(&self) -> f64 {
        ldexp(self.sum.sqrt(), self.scale)
    }
}

fn chunk_squares<F: Float>(values: &[F::Raw]) -> Squares {
    values
        .chunks(BLOCK)
        .fold(Squares::NOTHING, |squares, block| squares.merge(&Squares::of::<F>(block)))
}

fn fold_lanes<F: Float>(values: &[F::Raw], f: impl Fn(f64, f64) -> f64) -> [f64; LANES] {
    let mut lanes = [0.0; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, &raw) in lanes.iter_mut().zip(group) {
            *lane = f(*lane, F::decode(raw));
        }
    }
    for &raw in rest {
        lanes[0] = f(lanes[0], F::decode(raw));
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
        let mixed = [TensorView::from(&[1.0_f32][..]), TensorView::from(&[1e-300_f64][..])];
        assert_eq!(total_norm(&mixed), 1.0);
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
