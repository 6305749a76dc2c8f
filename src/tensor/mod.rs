//! The record of one tensor, made in one pass.
//!
//! A [`TensorView`] names memory; [`summarize`] reads it once and gives [`TensorStats`], which
//! [`TensorStats::merge`] combines across chunks, tensors, shards and ranks. [`total_norm`] is the
//! Euclidean norm alone.

mod dtype;
mod float8;
mod format;
mod histogram;
mod kernel;
mod moments;
mod norm;
mod power;
mod record;
mod scale;
mod state;
mod summarize;
mod view;

pub use dtype::{BFloat16, DType, Float, Float8E4M3, Float8E5M2, Float16, Float32, Float64};
pub use format::Format;
pub use histogram::ExponentHistogram;
pub use norm::total_norm;
pub use record::TensorStats;
pub use scale::{Clipped, TensorViewMut, ValuesMut, clip, scale};
pub use state::State;
pub use summarize::{summarize, summarize_all};
pub use view::{TensorView, Values};
