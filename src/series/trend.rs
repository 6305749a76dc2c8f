//! Trend tests that ask nothing of the distribution of the noise.

/// What is known of the trend of a short series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// The Mann-Kendall statistic in standard deviations of its null; negative where values fall.
    pub z: f64,
    /// The Theil-Sen slope: the median of the slopes between all pairs, by the place in the series.
    pub slope: f64,
    /// Two-sided confidence limits of the slope.
    pub low: f64,
    /// See `low`.
    pub high: f64,
}

/// The Mann-Kendall test and the Theil-Sen slope (Sen, 1968) of finite values in order.
///
/// `confidence` is the half width of the slope's interval in standard deviations of the statistic.
/// `None` with fewer than three values.
pub fn trend(values: &[f64], confidence: f64) -> Option<Trend> {
    let n = values.len();
    if n < 3 {
        return None;
    }
    let mut slopes = Vec::with_capacity(n * (n - 1) / 2);
    let mut balance = 0_i64;
    for (i, &earlier) in values.iter().enumerate() {
        for (gap, &later) in values[i + 1..].iter().enumerate() {
            balance += i64::from(later > earlier) - i64::from(later < earlier);
            slopes.push((later - earlier) / (gap + 1) as f64);
        }
    }
    let variance = null_variance(values);
    // The statistic moves in steps of two: one is taken off so that the normal tail fits.
    let z =
        if variance > 0.0 { (balance - balance.signum()) as f64 / variance.sqrt() } else { 0.0 };
    slopes.sort_unstable_by(f64::total_cmp);
    let pairs = slopes.len() as f64;
    let reach = confidence.max(0.0) * variance.sqrt();
    let at = |rank: f64| slopes[(rank.max(0.0) as usize).min(slopes.len() - 1)];
    Some(Trend {
        z,
        slope: middle(&slopes),
        low: at(((pairs - reach) * 0.5).floor() - 1.0),
        high: at(((pairs + reach) * 0.5).ceil()),
    })
}

/// Variance of the statistic if no order of the values is likelier than another; ties lower it.
fn null_variance(values: &[f64]) -> f64 {
    let term = |t: usize| {
        let t = t as f64;
        t * (t - 1.0) * (2.0 * t + 5.0)
    };
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    // By `==`: zeros of either sign are tied.
    let tied: f64 = sorted.chunk_by(|a, b| a == b).map(|run| term(run.len())).sum();
    (term(values.len()) - tied) / 18.0
}

/// The median of values in ascending order.
pub(super) fn middle(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n == 0 {
        return f64::NAN;
    }
    f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_largest_statistic_and_its_slope() {
        let values: Vec<f64> = (0..10).map(|i| 3.0 - 0.5 * f64::from(i)).collect();
        let found = trend(&values, 1.96).unwrap();
        assert_eq!((found.slope, found.low, found.high), (-0.5, -0.5, -0.5));
        assert!((found.z - -44.0 / 125.0_f64.sqrt()).abs() < 1e-12); // 10 * 9 * 25 / 18 = 125
    }

    #[test]
    fn equal_values_have_no_trend() {
        let found = trend(&[1.0, 1.0, 1.0, 1.0], 2.0).unwrap();
        assert_eq!(found, Trend { z: 0.0, slope: 0.0, low: 0.0, high: 0.0 });
        assert!(trend(&[1.0, 2.0], 2.0).is_none());
    }
}
