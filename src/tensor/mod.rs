//! The record of one tensor, made in one pass.
//!
//! A [`TensorView`] names memory; [`summarize`] reads it once and gives [`TensorStats`], which
//! [`TensorStats::merge`] combines across chunks, tensors, shards and ranks. [`total_norm`] is the
//! Euclidean norm alone. [`compare_all`] reads tensors by pairs.

mod block;
mod chunks;
mod count;
mod dtype;
mod exact;
mod exponents;
mod float8;
mod format;
mod histogram;
mod isa;
mod kernel;
mod lanes;
mod level;
mod moments;
mod norm;
mod pair;
mod pair_kernel;
mod power;
mod prefetch;
mod record;
mod room;
mod rows;
mod scale;
mod state;
mod summarize;
mod view;

pub use dtype::{BFloat16, DType, Float, Float8E4M3, Float8E5M2, Float16, Float32, Float64};
pub use format::Format;
pub use histogram::ExponentHistogram;
pub use isa::{FORCE_KERNEL_VARIABLE, Kernel, configured_kernel, current_kernel};
pub use level::Level;
pub use norm::total_norm;
pub use pair::{Pair, PairStats, compare_all};
pub use record::{MomentStats, TensorStats};
pub use rows::{ChunkRow, Counts};
pub use scale::{Clipped, TensorViewMut, ValuesMut, clip, scale};
pub use state::{State, Sums};
pub use summarize::{summarize, summarize_all};
pub use view::{TensorView, Values};
