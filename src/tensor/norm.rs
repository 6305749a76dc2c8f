//! The global Euclidean norm, for gradient clipping.

use super::level::Level;
use super::record::TensorStats;
use super::summarize::summarize_all;
use super::view::TensorView;

/// The Euclidean norm of all values of all tensors together.
///
/// As IEEE arithmetic has it: NaN if any value is NaN, else infinite if any value is. The squares
/// are summed in f64 and scaled where they would leave its range, so the norm overflows only if it
/// exceeds the largest f64 itself.
pub fn total_norm(tensors: &[TensorView<'_>]) -> f64 {
    let record = TensorStats::merge_all(&summarize_all(tensors, Level::Norm));
    if record.nan_count() > 0 {
        f64::NAN
    } else if record.nonfinite_count() > 0 {
        f64::INFINITY
    } else {
        record.l2()
    }
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
