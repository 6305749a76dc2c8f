//! Banding: sketches that agree in all slots of a band become candidates (Indyk and Motwani's
//! locality-sensitive hashing, as in Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets",
//! section 3.4).

use crate::leak::hash;

/// Least probability with which a pair right at the threshold becomes a candidate.
pub const RECALL: f64 = 0.9999;
/// Slots that a sketch should not exceed, as long as the recall can be had with that many.
const SLOTS: usize = 128;
/// Bands at most, whatever the threshold.
const MOST_BANDS: usize = 1024;

/// `bands` bands of `rows` slots each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Banding {
    /// Number of bands.
    pub bands: usize,
    /// Slots in a band.
    pub rows: usize,
}

impl Banding {
    /// The bands with the most rows, hence the fewest false candidates, that find a pair at the
    /// threshold with probability [`RECALL`] within 128 slots.
    ///
    /// Below a threshold of about 0.07 single slots need more than 128 of them, and below 0.009 more
    /// than the 1024 that are used at most: [`Banding::recall`] says what is left.
    pub fn for_threshold(near: f64) -> Self {
        for rows in (1..=SLOTS).rev() {
            let banding = Self { bands: SLOTS / rows, rows };
            if banding.recall(near) >= RECALL {
                return banding;
            }
        }
        let needed = ((1.0 - RECALL).ln() / (-near).ln_1p()).ceil();
        Self { bands: (needed.max(1.0) as usize).min(MOST_BANDS), rows: 1 }
    }

    /// Slots in all.
    pub fn slots(&self) -> usize {
        self.bands * self.rows
    }

    /// Probability that a pair of the given similarity becomes a candidate: `1 - (1 - s^r)^b`.
    pub fn recall(&self, similarity: f64) -> f64 {
        let agree = similarity.powi(self.rows as i32);
        1.0 - (1.0 - agree).powi(self.bands as i32)
    }

    /// Appends one key a band. 32 bits suffice: a chance collision costs one comparison.
    pub fn keys_into(&self, sketch: &[u32], keys: &mut Vec<u32>) {
        let bands = sketch.chunks_exact(self.rows).take(self.bands);
        keys.extend(bands.map(|slots| hash::sequence(slots.iter().map(|&s| s.into())) as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_threshold_gives_25_bands_of_5() {
        let banding = Banding::for_threshold(0.8);
        assert_eq!(banding, Banding { bands: 25, rows: 5 });
        assert!((banding.recall(0.8) - 0.999_95).abs() < 1e-5);
    }

    #[test]
    fn one_key_a_band() {
        let banding = Banding { bands: 3, rows: 2 };
        let mut keys = Vec::new();
        banding.keys_into(&[1, 2, 3, 4, 1, 2], &mut keys);
        assert_eq!(keys.len(), 3);
        assert_eq!(keys[0], keys[2]);
        assert_ne!(keys[0], keys[1]);
    }

    proptest! {
        #[test]
        fn recall_is_reached_wherever_it_can_be(near in 0.01_f64..1.0) {
            let banding = Banding::for_threshold(near);
            prop_assert!(banding.recall(near) >= RECALL, "{:?}", banding);
            prop_assert!(banding.slots() <= 128 || banding.rows == 1);
        }
    }
}
