//! The last points of a series: whether its level has shifted, and whether it repeats itself.

use std::collections::VecDeque;

use super::blocks::LARGEST;
use super::trend::middle;
use crate::error::{Error, Result};

/// Turns a median absolute deviation into the standard deviation of normal noise.
const NORMAL_MAD: f64 = 1.4826;
/// Residuals are cut off at this many standard deviations, so that no outlier is all there is.
const CUT: f64 = 3.0;
/// Least noise that is believed, as a share of the level: logs round.
const FLOOR: f64 = 0.002;

/// See [`memory`].
const CHANCE: f64 = 1.5;
/// See [`memory`]: the mean of twelve points that move as one grows by no more.
const MOST_MEMORY: f64 = 3.5;

/// The level before and after a place in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// The level before it.
    pub before: f64,
    /// The least rise above what was expected of either half of the points after it, in units of
    /// the noise of the points before it; negative for a fall, 0 where the halves disagree.
    pub rise: f64,
    /// How much of the way the second half stands beyond the first: 0 at a level that stays.
    pub drift: f64,
    /// The level after it: the median of the second half.
    pub after: f64,
    /// Standard deviation of one point before it, more where neighbouring points are alike.
    pub noise: f64,
    /// Whether nine tenths of the points after it lie beyond nine tenths of those before.
    pub separate: bool,
}

/// The last finite values of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    capacity: usize,
    values: VecDeque<f64>,
}

impl Window {
    /// An empty window.
    ///
    /// # Errors
    /// [`Error::Value`] if `capacity` is below 8 or above 4,096.
    pub fn new(capacity: usize) -> Result<Self> {
        if !(8..=4096).contains(&capacity) {
            return Err(Error::value("capacity", "a number from 8 to 4096", capacity));
        }
        Ok(Self { capacity, values: VecDeque::new() })
    }

    /// Takes in the next value, if it is finite; the number of values now held.
    pub fn push(&mut self, value: f64) -> usize {
        if value.is_finite() {
            if self.values.len() == self.capacity {
                self.values.pop_front();
            }
            self.values.push_back(value.clamp(-LARGEST, LARGEST));
        }
        self.values.len()
    }

    /// Compares the last `after` values with those before.
    ///
    /// Before, the level is that of the second half, and the trend the line through the medians of
    /// both halves. What is expected lies between that level and the trend gone on, so that neither
    /// a descent nor its end is a shift. `None` if fewer than eight values stand on either side.
    pub fn shift(&self, after: usize) -> Option<Shift> {
        let values: Vec<f64> = self.values.iter().copied().collect();
        let cut = values.len().checked_sub(after).filter(|&cut| cut >= 8 && after >= 8)?;
        let (old, new) = values.split_at(cut);
        let (first, second) = (median(&old[..cut / 2]), median(&old[cut / 2..]));
        let slope = (second - first) / (cut as f64 / 2.0);
        let ahead = second + slope * (cut as f64 / 4.0 + after as f64 / 2.0);
        let residuals: Vec<f64> = old
            .iter()
            .enumerate()
            .map(|(i, v)| (v - if i < cut / 2 { first } else { second }).abs())
            .collect();
        let noise = (NORMAL_MAD * median(&residuals) * memory(&old[cut / 2..]))
            .max(FLOOR * second.abs())
            .max(f64::MIN_POSITIVE);
        let (high, low) = (second.max(ahead), second.min(ahead));
        let beyond = |v: f64| (v - v.clamp(low, high)) / noise;
        let (early, late) = (median(&new[..after / 2]), median(&new[after / 2..]));
        let (a, b) = (beyond(early), beyond(late));
        let rise = if a > 0.0 && b > 0.0 {
            a.min(b)
        } else if a < 0.0 && b < 0.0 {
            a.max(b)
        } else {
            0.0
        };
        let (old, new) = (sorted(old), sorted(new));
        let at = |list: &[f64], q: f64| list[((list.len() - 1) as f64 * q).round() as usize];
        let separate =
            if rise > 0.0 { at(&new, 0.1) > at(&old, 0.9) } else { at(&new, 0.9) < at(&old, 0.1) };
        let way = early - second;
        let drift = if way == 0.0 { 0.0 } else { (late - early) / way };
        Some(Shift { before: second, rise, drift, after: late, noise, separate })
    }

    /// Autocorrelation of the values about their trend, from lag 1 to `lags`.
    ///
    /// The trend is the line through the medians of both halves; what stands further off it than
    /// three robust standard deviations is cut off there. Empty if there are not more than `lags`
    /// values, or if they do not vary.
    pub fn autocorrelation(&self, lags: usize) -> Vec<f64> {
        let n = self.values.len();
        if n <= lags || n < 8 {
            return Vec::new();
        }
        let values: Vec<f64> = self.values.iter().copied().collect();
        let (first, second) = (median(&values[..n / 2]), median(&values[n / 2..]));
        let slope = (second - first) / (n as f64 / 2.0);
        let centre = (n as f64 - 1.0) / 2.0;
        let mut residuals: Vec<f64> = values
            .iter()
            .enumerate()
            .map(|(i, v)| v - f64::midpoint(first, second) - slope * (i as f64 - centre))
            .collect();
        let size: Vec<f64> = residuals.iter().map(|r| r.abs()).collect();
        let scale = NORMAL_MAD * median(&size);
        if scale <= 0.0 {
            return Vec::new();
        }
        for r in &mut residuals {
            *r = (*r / scale).clamp(-CUT, CUT);
        }
        let mean = residuals.iter().sum::<f64>() / n as f64;
        for r in &mut residuals {
            *r -= mean;
        }
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let power = dot(&residuals, &residuals);
        if power <= 0.0 {
            return Vec::new();
        }
        (1..=lags).map(|lag| dot(&residuals[lag..], &residuals[..n - lag]) / power).collect()
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.values.clear();
    }

    /// The values held, oldest first.
    pub fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().copied()
    }

    /// How many values are held at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// A window that goes on exactly where the one that held `values` stood.
    ///
    /// # Errors
    /// [`Error::State`] if no window can have held these values.
    pub fn from_state(capacity: usize, values: &[f64]) -> Result<Self> {
        let sound = values.len() <= capacity && values.iter().all(|v| v.abs() <= LARGEST);
        let Ok(mut window) = Self::new(capacity) else {
            return Err(Error::State("capacity is out of range".into()));
        };
        if !sound {
            return Err(Error::State("not a state of a window".into()));
        }
        window.values.extend(values);
        Ok(window)
    }
}

/// By how much more the median of a few points moves than in independent noise, at least 1.
///
/// The squared ratio of the differences between neighbours to the residuals from the trend tells the
/// correlation of neighbours (von Neumann, 1941), here by medians. Of a mean, the deviation grows by
/// `sqrt((1 + c) / (1 - c))`; what the ratio of 28 independent points can show by chance, a growth
/// by [`CHANCE`], is taken off.
fn memory(values: &[f64]) -> f64 {
    let half = values.len() / 2;
    let slope = (median(&values[half..]) - median(&values[..half])) / (values.len() as f64 / 2.0);
    let straight: Vec<f64> = values.iter().enumerate().map(|(i, v)| v - slope * i as f64).collect();
    let middle = median(&straight);
    let residuals: Vec<f64> = straight.iter().map(|v| (v - middle).abs()).collect();
    let steps: Vec<f64> = values.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
    let ratio = (median(&steps) / median(&residuals)).powi(2) / 2.0;
    let growth = ((2.0 - ratio) / ratio).sqrt() / CHANCE;
    if growth.is_finite() { growth.clamp(1.0, MOST_MEMORY) } else { 1.0 }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

fn median(values: &[f64]) -> f64 {
    middle(&sorted(values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(values: impl IntoIterator<Item = f64>) -> Window {
        let mut window = Window::new(256).unwrap();
        for value in values {
            window.push(value);
        }
        window
    }

    /// Noise between -0.1 and 0.1 that repeats on no machine differently.
    fn noise(i: u32) -> f64 {
        f64::from(i.wrapping_mul(2_654_435_761) >> 8) / f64::from(1_u32 << 24) * 0.2 - 0.1
    }

    #[test]
    fn a_step_is_a_shift_and_a_descent_is_none() {
        let step = filled((0..80).map(|i| noise(i) + if i < 56 { 2.0 } else { 3.0 }));
        let found = step.shift(24).unwrap();
        assert!(found.rise > 5.0 && found.separate && found.drift.abs() < 0.2, "{found:?}");
        let descent = filled((0..80).map(|i| 5.0 - 0.05 * f64::from(i) + noise(i)));
        assert!(descent.shift(24).unwrap().rise.abs() < 1.0);
        assert!(filled([1.0; 12]).shift(8).is_none());
    }

    #[test]
    fn a_wave_correlates_with_itself_one_period_later() {
        let wave = filled((0..200).map(|i| (f64::from(i) * std::f64::consts::TAU / 20.0).sin()));
        let found = wave.autocorrelation(40);
        assert!(found[19] > 0.8 && found[9] < -0.8, "{found:?}");
        assert!(filled([1.0; 100]).autocorrelation(20).is_empty());
    }

    #[test]
    fn a_capacity_out_of_range_is_named() {
        for capacity in [0, 7, 5000] {
            assert!(Window::new(capacity).unwrap_err().to_string().starts_with("capacity: "));
        }
    }

    proptest! {
        #[test]
        fn any_values_give_numbers(values in prop::collection::vec(proptest::num::f64::ANY, 0..300)) {
            let window = filled(values);
            if let Some(found) = window.shift(24) {
                prop_assert!(found.noise > 0.0 && !found.rise.is_nan() && !found.drift.is_nan());
            }
            prop_assert!(window.autocorrelation(32).iter().all(|r| r.abs() <= 1.0 + 1e-9));
            let held: Vec<f64> = window.values().collect();
            prop_assert_eq!(Window::from_state(256, &held).unwrap(), window);
        }
    }
}
