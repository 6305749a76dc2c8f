//! How alike unrelated images are.
//!
//! Photographs of garments on white are far more alike than holiday photographs. So pairs of images
//! are drawn at random and compared. Above their top 2 % the tail of Fisher's z = atanh(similarity)
//! is taken for exponential (the peaks-over-threshold method of extreme-value statistics), and
//! continued to the similarity that an image reaches by chance with one in a hundred.

/// Pairs that are drawn.
pub const DRAWN: usize = 8192;
/// Pairs below which none are: of fewer, too large a share may be copies.
pub const LEAST_PAIRS: usize = 1 << 17;
/// Share of them that the tail is fitted to.
const TAIL: f64 = 0.02;
/// Images that one image may be alike by chance.
const EXPECTED: f64 = 0.01;
/// Nothing above this is taken for chance.
const MOST: f64 = 0.98;

/// The similarity above which an image is expected to meet 0.01 others by chance, where it is
/// compared with `others`; `None` if too few pairs were drawn to say.
pub fn level(mut similarities: Vec<f32>, others: f64) -> Option<f64> {
    let tail = (similarities.len() as f64 * TAIL) as usize;
    if tail < 20 {
        return None;
    }
    similarities.sort_unstable_by(|a, b| b.total_cmp(a));
    let z = |similarity: f32| f64::from(similarity).clamp(0.0, 1.0 - 1e-6).atanh();
    let start = z(similarities[tail]);
    // The median, since copies may be among the drawn: a few would spoil the mean.
    let excess = (z(similarities[tail / 2]) - start) / std::f64::consts::LN_2;
    let rarer = (TAIL * others / EXPECTED).ln().max(0.0);
    Some((start + excess * rarer).tanh().min(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exponential_tail_is_continued() {
        // z is exponential with mean 0.1.
        let n = 10_000;
        let draw = |i: usize| (-0.1 * ((i as f64 + 0.5) / f64::from(n)).ln()).tanh() as f32;
        let got = level((0..n as usize).map(draw).collect(), 1000.0).unwrap();
        let wanted = (0.1 * (1000.0_f64 / EXPECTED).ln()).tanh();
        assert!((got - wanted).abs() < 0.02, "{got} {wanted}");
    }

    #[test]
    fn copies_among_the_drawn_do_little_harm() {
        let draw = |i: usize| (-0.1 * ((i as f64 + 0.5) / 8000.0).ln()).tanh() as f32;
        let clean: Vec<f32> = (0..8000).map(draw).collect();
        let without = level(clean.clone(), 1e3).unwrap();
        let with = level([clean, vec![1.0; 20]].concat(), 1e3).unwrap();
        assert!((without..without + 0.1).contains(&with), "{without} {with}");
        assert_eq!(level(vec![0.5; 100], 1e4), None);
        assert_eq!(level(vec![1.0; 5000], 1e4), Some(MOST));
    }
}
