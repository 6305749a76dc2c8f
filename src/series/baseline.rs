//! What a healthy series is expected to do next, learnt from healthy values alone.

use std::collections::VecDeque;

/// Values whose median is the slow level.
pub(super) const SLOW: usize = 25;
/// Values whose median is the fast level, which keeps up with a steep descent.
const FAST: usize = 9;
/// Residuals that the threshold is learnt from.
pub(super) const WINDOW: usize = 200;
/// Share of the residuals that counts as the upper tail.
const TAIL_SHARE: f64 = 0.4;
/// Shape of the generalised Pareto tail: slightly heavier than exponential.
const SHAPE: f64 = 0.03;
/// Weight, in residuals, of the scale of the bulk in the estimate of the tail's mean excess.
const PRIOR_WEIGHT: f64 = 8.0;
/// Mean excess over the scale of the bulk, where the tail is not known: that of a normal tail.
const PRIOR_EXCESS: f64 = 0.5;

/// The level of a series and the tail of its one-step residuals, over its last healthy values.
///
/// The level is the lower of two running medians, so that a descent is followed at once and a rise
/// is not. The threshold is a peaks-over-threshold estimate (Pickands, 1975): the largest
/// [`TAIL_SHARE`] of the residuals is taken as a generalised Pareto tail whose scale follows from
/// its mean excess, and the quantile of the wanted probability is read from it. Series with
/// heavy-tailed or two-level noise so get the wider threshold that they need.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Baseline {
    /// The last healthy values, oldest first.
    values: VecDeque<f64>,
    /// The last residuals of healthy values, oldest first.
    residuals: VecDeque<f64>,
    /// The same residuals in ascending order.
    sorted: Vec<f64>,
}

/// A generalised Pareto tail.
pub(super) struct Tail {
    start: f64,
    mean_excess: f64,
    /// Probability of a residual above `start`.
    share: f64,
}

impl Tail {
    /// The rise above the level that a healthy value exceeds with probability `p`.
    pub(super) fn quantile(&self, p: f64) -> f64 {
        let reach = ((self.share / p.min(self.share)).powf(SHAPE) - 1.0) / SHAPE;
        // A generalised Pareto variable of mean m and shape c has the scale m (1 - c).
        self.start + self.mean_excess * (1.0 - SHAPE) * reach
    }
}

impl Baseline {
    pub(super) fn from_parts(values: &[f64], residuals: &[f64]) -> Self {
        let mut sorted = residuals.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Self {
            values: values.iter().copied().collect(),
            residuals: residuals.iter().copied().collect(),
            sorted,
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().copied()
    }

    pub(super) fn residuals(&self) -> impl Iterator<Item = f64> + '_ {
        self.residuals.iter().copied()
    }

    pub(super) fn residual_count(&self) -> usize {
        self.residuals.len()
    }

    /// What the next healthy value should be about, or `None` before the first value.
    pub(super) fn level(&self) -> Option<f64> {
        let mut recent = [0.0; SLOW];
        let n = self.values.len();
        if n == 0 {
            return None;
        }
        for (slot, &value) in recent.iter_mut().zip(self.values.iter().rev()) {
            *slot = value;
        }
        // The newest values stand first: the fast level before the array is put in order.
        let fast = median(&mut recent[..n.min(FAST)]);
        let slow = median(&mut recent[..n]);
        Some(slow.min(fast))
    }

    /// Lowest and highest of the values that the slow level is taken from.
    pub(super) fn range(&self) -> (f64, f64) {
        self.values()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    }

    /// The upper tail of the residuals, or `None` with fewer than two of them.
    ///
    /// `floor` is the least scale of the noise that is believed.
    pub(super) fn tail(&self, floor: f64) -> Option<Tail> {
        let n = self.sorted.len();
        if n < 2 {
            return None;
        }
        let k = ((n as f64 * TAIL_SHARE).ceil() as usize).clamp(1, n - 1);
        let start = self.sorted[n - k - 1];
        let excess: f64 = self.sorted[n - k..].iter().map(|r| r - start).sum();
        let quartiles = self.sorted[3 * n / 4] - self.sorted[n / 4];
        let scale = (quartiles / 1.349).max(floor);
        let mean_excess =
            (excess + PRIOR_WEIGHT * PRIOR_EXCESS * scale) / (k as f64 + PRIOR_WEIGHT);
        Some(Tail { start: start.max(0.0), mean_excess, share: k as f64 / n as f64 })
    }

    /// Takes in one healthy value, and its residual where it says something about the noise.
    pub(super) fn push(&mut self, value: f64, residual: Option<f64>) {
        if self.values.len() == SLOW {
            self.values.pop_front();
        }
        self.values.push_back(value);
        let Some(residual) = residual else { return };
        if self.residuals.len() == WINDOW
            && let Some(oldest) = self.residuals.pop_front()
        {
            let at = self.sorted.partition_point(|&r| r.total_cmp(&oldest).is_lt());
            self.sorted.remove(at);
        }
        self.residuals.push_back(residual);
        let at = self.sorted.partition_point(|&r| r.total_cmp(&residual).is_lt());
        self.sorted.insert(at, residual);
    }

    /// Forgets what is known of the noise, and keeps the level.
    pub(super) fn forget_noise(&mut self) {
        self.residuals.clear();
        self.sorted.clear();
    }

    /// Starts over at the level of `values`, keeping what is known of the noise.
    pub(super) fn move_to(&mut self, values: &[f64]) {
        let newest = &values[values.len().saturating_sub(SLOW)..];
        self.values = newest.iter().copied().collect();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len();
    f64::midpoint(values[(n - 1) / 2], values[n / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_follows_a_descent_and_not_a_rise() {
        let mut falling = Baseline::default();
        let mut rising = Baseline::default();
        for i in 0..40 {
            falling.push(-f64::from(i), None);
            rising.push(f64::from(i), None);
        }
        assert_eq!(falling.level(), Some(-35.0)); // median of the last 9
        assert_eq!(rising.level(), Some(27.0)); // median of the last 25
    }

    #[test]
    fn the_threshold_grows_as_the_probability_falls() {
        let mut b = Baseline::default();
        for i in 0..100_u32 {
            b.push(0.0, Some(f64::from(i.wrapping_mul(37) % 101) / 100.0 - 0.5));
        }
        let tail = b.tail(0.0).unwrap();
        let at = |p| tail.quantile(p);
        assert!(at(1e-6) > at(1e-4) && at(1e-4) > at(1e-2));
    }

    #[test]
    fn sorted_residuals_hold_what_the_window_holds() {
        let mut b = Baseline::default();
        for i in 0..1000_u32 {
            b.push(
                0.0,
                Some(f64::from(i.wrapping_mul(7919) % 13) * if i % 2 == 0 { -0.0 } else { 1.0 }),
            );
            let mut expected: Vec<f64> = b.residuals().collect();
            expected.sort_unstable_by(f64::total_cmp);
            assert_eq!(b.sorted, expected);
        }
        assert_eq!(b.sorted.len(), WINDOW);
    }
}
