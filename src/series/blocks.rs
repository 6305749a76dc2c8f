//! The whole of a series in bounded memory: medians of blocks that double as it grows.

use super::trend::middle;
use crate::error::{Error, Result};

/// Points whose median is the smallest block: two outliers among them do not move it.
pub const CHUNK: usize = 5;
/// Larger magnitudes are taken for this one, so that no difference overflows.
pub(super) const LARGEST: f64 = 1e150;

/// Everything that a [`Blocks`] remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct BlocksState {
    /// Blocks at most.
    pub capacity: usize,
    /// Chunks that make a block.
    pub chunks: usize,
    /// The points of the chunk that is not full yet.
    pub pending: Vec<f64>,
    /// Chunks in the block that is not full yet.
    pub filled: usize,
    /// Its level so far.
    pub level: f64,
    /// Its spread so far.
    pub spread: f64,
    /// The levels of the full blocks.
    pub levels: Vec<f64>,
    /// The spreads of the full blocks.
    pub spreads: Vec<f64>,
    /// The step of the last point of each.
    pub ends: Vec<f64>,
}

/// The history of a series in at most `capacity` blocks of equal size.
///
/// The level of a block is the mean of the medians of its chunks of [`CHUNK`] points. Its spread is
/// the mean of the distances between the second and the fourth of each five, which for normal noise
/// is 0.99 of a standard deviation. When the blocks are full, neighbours are joined and the next
/// ones become twice as long. Values that are not finite are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks(BlocksState);

impl Blocks {
    /// An empty history.
    ///
    /// # Errors
    /// [`Error::Value`] if `capacity` is odd, below 4 or above 1,024.
    pub fn new(capacity: usize) -> Result<Self> {
        if !(4..=1024).contains(&capacity) || !capacity.is_multiple_of(2) {
            return Err(Error::value("capacity", "an even number from 4 to 1024", capacity));
        }
        Ok(Self(BlocksState {
            capacity,
            chunks: 1,
            pending: Vec::new(),
            filled: 0,
            level: 0.0,
            spread: 0.0,
            levels: Vec::new(),
            spreads: Vec::new(),
            ends: Vec::new(),
        }))
    }

    /// Takes in the next point; true if it completes a block.
    pub fn push(&mut self, value: f64, step: f64) -> bool {
        if !value.is_finite() {
            return false;
        }
        let s = &mut self.0;
        s.pending.push(value.clamp(-LARGEST, LARGEST));
        if s.pending.len() < CHUNK {
            return false;
        }
        s.pending.sort_unstable_by(f64::total_cmp);
        s.filled += 1;
        let share = 1.0 / s.filled as f64;
        s.level += (s.pending[CHUNK / 2] - s.level) * share;
        s.spread += (s.pending[CHUNK - 2] - s.pending[1] - s.spread) * share;
        s.pending.clear();
        if s.filled < s.chunks {
            return false;
        }
        s.levels.push(s.level);
        s.spreads.push(s.spread);
        s.ends.push(if step.is_finite() { step } else { 0.0 });
        (s.filled, s.level, s.spread) = (0, 0.0, 0.0);
        if s.levels.len() == s.capacity {
            s.chunks = s.chunks.saturating_mul(2);
            for list in [&mut s.levels, &mut s.spreads] {
                *list = list.chunks_exact(2).map(|pair| f64::midpoint(pair[0], pair[1])).collect();
            }
            s.ends = s.ends.chunks_exact(2).map(|pair| pair[1]).collect();
        }
        true
    }

    /// Levels of the full blocks, oldest first.
    pub fn levels(&self) -> &[f64] {
        &self.0.levels
    }

    /// The step of the last point of each full block.
    pub fn ends(&self) -> &[f64] {
        &self.0.ends
    }

    /// Points in a block.
    pub fn block_len(&self) -> usize {
        self.0.chunks.saturating_mul(CHUNK)
    }

    /// The noise of one point over the last `count` blocks: the median of their spreads.
    pub fn noise(&self, count: usize) -> f64 {
        let mut spreads = newest(&self.0.spreads, count).to_vec();
        spreads.sort_unstable_by(f64::total_cmp);
        middle(&spreads)
    }

    /// Everything that is remembered.
    pub fn state(&self) -> &BlocksState {
        &self.0
    }

    /// Blocks that go on exactly where those that gave `state` stood.
    ///
    /// # Errors
    /// [`Error::State`] if no blocks can have given this state.
    pub fn from_state(state: BlocksState) -> Result<Self> {
        let full = state.levels.len();
        let fits = Self::new(state.capacity).is_ok()
            && full < state.capacity
            && state.spreads.len() == full
            && state.ends.len() == full
            && state.pending.len() < CHUNK
            && state.chunks >= 1
            && state.filled < state.chunks;
        let numbers = [&state.pending, &state.levels, &state.spreads];
        let sound = [state.level, state.spread]
            .iter()
            .chain(numbers.into_iter().flatten())
            .all(|v| v.abs() <= 2.0 * LARGEST)
            && state.ends.iter().all(|end| end.is_finite());
        if fits && sound {
            return Ok(Self(state));
        }
        Err(Error::State("not a state of blocks".into()))
    }
}

/// The last `count` values, or all if there are fewer.
pub(super) fn newest(values: &[f64], count: usize) -> &[f64] {
    &values[values.len().saturating_sub(count)..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_double_and_hold_the_whole_series() {
        let mut blocks = Blocks::new(4).unwrap();
        let completed: Vec<i32> =
            (0..45).filter(|&i| blocks.push(f64::from(i), f64::from(i))).collect();
        assert_eq!(completed, [4, 9, 14, 19, 29, 39]);
        assert_eq!(blocks.levels(), [9.5, 29.5]);
        assert_eq!(blocks.ends(), [19.0, 39.0]);
        assert_eq!(blocks.block_len(), 20);
        assert_eq!(blocks.noise(2), 2.0);
    }

    #[test]
    fn outliers_and_what_is_not_finite_do_not_move_a_block() {
        let mut blocks = Blocks::new(4).unwrap();
        for value in [1.0, f64::NAN, 2.0, 1e300, f64::INFINITY, 3.0, -1e300] {
            blocks.push(value, 0.0);
        }
        assert_eq!(blocks.levels(), [2.0]);
    }

    #[test]
    fn a_capacity_out_of_range_is_named() {
        for capacity in [0, 3, 5, 2048] {
            assert!(Blocks::new(capacity).unwrap_err().to_string().starts_with("capacity: "));
        }
    }

    proptest! {
        #[test]
        fn resumed_blocks_are_the_same(
            values in prop::collection::vec(proptest::num::f64::ANY, 0..300), cut in 0..300_usize
        ) {
            let cut = cut.min(values.len());
            let mut whole = Blocks::new(8).unwrap();
            for &v in &values[..cut] {
                whole.push(v, v);
            }
            let mut resumed = Blocks::from_state(whole.state().clone()).unwrap();
            for &v in &values[cut..] {
                prop_assert_eq!(whole.push(v, v), resumed.push(v, v));
            }
            prop_assert_eq!(whole, resumed);
        }
    }
}
