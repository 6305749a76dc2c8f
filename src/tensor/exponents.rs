//! How many values of a chunk have each exponent.

use super::block::{Block, Extent};
use super::dtype::Float;
use super::histogram::ExponentHistogram;
use super::isa::{Kernel, for_every_kernel};
use super::power::{exponent, is_zero};
use super::room::room_for;

/// The number of exponents that codes tell apart.
const WINDOW: i32 = 63;

/// Up to this many values are counted one by one.
const FEW: usize = 256;

/// Counts of the exponents of finite values other than zero.
#[derive(Default)]
pub(super) struct ExponentCounts {
    /// From the smallest subnormal number on; once they are needed.
    counts: Vec<u32>,
    /// Of exponent fields, where they spread too wide for codes: those of every fourth value, since
    /// increments of the same counter wait for each other.
    tables: Option<Box<[Table; 4]>>,
    /// From blocks of few values.
    few: ExponentHistogram,
    /// Room for the exponents of one block as codes.
    codes: Vec<u8>,
}

/// How often each exponent field of 8 bits occurs.
struct Table([u32; 256]);

impl Default for Table {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl ExponentCounts {
    /// Adds one block of finite values.
    pub(super) fn add<F: Block>(&mut self, kernel: Kernel, block: &[F::Raw], extent: &Extent) {
        let absmax = extent.absmax();
        if is_zero(absmax) {
            return;
        }
        let bottom = (extent.least >> F::MANTISSA_BITS) as i32;
        let has_subnormals = bottom == 0;
        if block.len() <= FEW {
            let first = if has_subnormals { F::MIN_EXPONENT } else { bottom - F::BIAS };
            let mut few = count_few::<F>(block, first, exponent(absmax));
            few.add(&std::mem::take(&mut self.few));
            self.few = few;
            return;
        }
        self.counts.resize(F::EXPONENTS, 0);
        // From the field of the largest magnitude down to that of the smallest normal one.
        let (top, bottom) = (exponent(absmax) + F::BIAS, bottom.max(1));
        if top - bottom >= WINDOW && F::FIELDS <= 256 {
            count_in_tables::<F>(block, self.tables.get_or_insert_default());
        } else {
            self.add_windows::<F>(kernel, block, top, bottom);
        }
        if has_subnormals {
            let codes = room_for(&mut self.codes, block.len());
            let bins = &mut self.counts[..F::MANTISSA_BITS as usize];
            subnormal_codes::<F>(kernel, block, codes);
            bins.reverse(); // the largest code first
            kernel.count_codes(codes, F::MANTISSA_BITS as u8, bins);
            bins.reverse();
        }
    }

    /// Counts the exponent fields from `top`, which is the largest, down to `bottom`.
    fn add_windows<F: Block>(&mut self, kernel: Kernel, block: &[F::Raw], top: i32, bottom: i32) {
        let codes = room_for(&mut self.codes, block.len());
        let mut counts = [0; WINDOW as usize];
        let (largest, mut top) = (top, top);
        while top >= bottom {
            let base = if top == largest { top - WINDOW } else { (top - WINDOW).max(0) };
            let n = (top - base.max(0)).min(top - bottom + 1) as usize;
            let counts = &mut counts[..n];
            counts.fill(0);
            kernel.count_fields::<F>(block, base, (top - base) as u8, counts, codes);
            let end = top as usize + F::MANTISSA_BITS as usize;
            for (bin, &mut count) in self.counts[end - n..end].iter_mut().rev().zip(counts) {
                *bin = bin.wrapping_add(count); // a chunk is far too small for that
            }
            top -= n as i32;
        }
    }

    /// All that has been counted.
    pub(super) fn histogram<F: Block>(mut self) -> ExponentHistogram {
        for table in self.tables.take().into_iter().flat_map(|tables| *tables) {
            // The first field and the last are no exponent of a normal number.
            let normal = self.counts.iter_mut().skip(F::MANTISSA_BITS as usize);
            for (bin, count) in normal.zip(&table.0[1..F::FIELDS - 1]) {
                *bin = bin.wrapping_add(*count); // a chunk is far too small for that
            }
        }
        let Some(first) = self.counts.iter().position(|&n| n > 0) else { return self.few };
        let last = self.counts.iter().rposition(|&n| n > 0).unwrap_or(first);
        let counts = &self.counts[first..=last];
        let mut all = ExponentHistogram::new(F::MIN_EXPONENT + first as i32, counts);
        all.add(&self.few);
        all
    }
}

/// Counts one by one the exponents of values, which are from `first` to `last`.
fn count_few<F: Float>(block: &[F::Raw], first: i32, last: i32) -> ExponentHistogram {
    let mut counts = vec![0; (last - first) as usize + 1];
    let skipped = (first - F::MIN_EXPONENT) as usize;
    for &raw in block {
        let bin = match F::field(raw) {
            0 if F::mantissa(raw) == 0 => continue,
            0 => F::mantissa(raw).ilog2() as usize,
            field => field - 1 + F::MANTISSA_BITS as usize,
        };
        if let Some(count) = counts.get_mut(bin.wrapping_sub(skipped)) {
            *count = u64::wrapping_add(*count, 1); // a checked addition would cost a branch
        }
    }
    ExponentHistogram::of(first, counts)
}

/// Counts exponent fields, those of every fourth value in one table.
fn count_in_tables<F: Float>(block: &[F::Raw], tables: &mut [Table; 4]) {
    let count = |table: &mut Table, raw: F::Raw| {
        let count = &mut table.0[usize::from(F::field(raw) as u8)];
        *count = count.wrapping_add(1); // a chunk is far too small for that
    };
    let (groups, rest) = block.as_chunks::<4>();
    for group in groups {
        for (table, &raw) in tables.iter_mut().zip(group) {
            count(table, raw);
        }
    }
    for &raw in rest {
        count(&mut tables[0], raw);
    }
}

for_every_kernel! {
    fn subnormal_codes<F: Block>(block: &[F::Raw], codes: &mut [u8]) {
        F::subnormal_codes(block, codes);
    }
}
