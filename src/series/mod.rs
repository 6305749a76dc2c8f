//! One scalar over time: its baseline, what stands out from it, and where it goes.

mod baseline;
mod blocks;
mod pace;
mod spike;
mod trend;
mod window;

pub use blocks::{Blocks, BlocksState, CHUNK};
pub use spike::{SpikeDetector, SpikeState, Verdict, VerdictKind, find_spikes};
pub use trend::{Trend, trend};
pub use window::{Shift, Window};
