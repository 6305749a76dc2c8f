//! Which instructions the kernels are compiled for, and which of them this processor has.
//!
//! A loop is written once, over arrays of lanes, and compiled for every set of instructions. It
//! names the order of every addition and every fused multiplication, so all give the same bits.
#![allow(unsafe_code)] // code for instructions that not every processor has

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use super::block::Block;
use super::count;
use super::dtype::Float;
use crate::error::{Error, Result};

/// Environment variable that names the instruction set to use instead of the best one.
pub const FORCE_KERNEL_VARIABLE: &str = "GYROSTAT_FORCE_KERNEL";

/// The instruction sets that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    /// What every processor of the architecture has: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2, FMA and POPCNT.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, CD, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with VBMI, VBMI2, BITALG and GFNI too, for what is done by bytes and words.
    #[cfg(target_arch = "x86_64")]
    Avx512Vbmi,
}

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Set);

impl Kernel {
    /// The one that runs everywhere.
    pub const PORTABLE: Self = Self(Set::Portable);

    /// Every one that this processor can run, the best one last.
    #[cfg(target_arch = "x86_64")]
    pub fn available() -> Vec<Self> {
        macro_rules! has {
            ($($feature:tt),*) => { true $(&& is_x86_feature_detected!($feature))* };
        }
        let avx2 = has!("avx2", "fma", "popcnt");
        let avx512 = avx2 && has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
        let vbmi = avx512 && has!("avx512vbmi", "avx512vbmi2", "avx512bitalg", "gfni");
        let sets = [(true, Set::Portable), (avx2, Set::Avx2), (avx512, Set::Avx512)];
        let sets = sets.into_iter().chain([(vbmi, Set::Avx512Vbmi)]);
        sets.filter(|(available, _)| *available).map(|(_, set)| Self(set)).collect()
    }

    /// Every one that this processor can run, the best one last.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available() -> Vec<Self> {
        vec![Self::PORTABLE]
    }

    pub(super) fn set(self) -> Set {
        self.0
    }

    /// The name in `GYROSTAT_FORCE_KERNEL`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vbmi => "avx512-vbmi",
        }
    }

    /// Adds to `counts[i]` how many exponent fields are `base + first - i`, where `first` is at most
    /// 63 and `counts` has at most `first` entries. `codes` has room for one byte a value.
    pub(super) fn count_fields<F: Block>(
        self,
        values: &[F::Raw],
        base: i32,
        first: u8,
        counts: &mut [u32],
        codes: &mut [u8],
    ) {
        let rest = &values[count_vectors::<F>(self, values, base, first, counts)..];
        if !rest.is_empty() {
            let codes = &mut codes[..rest.len()];
            write_codes::<F>(self, rest, base, codes);
            self.count_codes(codes, first, counts);
        }
    }

    /// Adds to `counts[i]` how many of `codes` are `first - i`. Codes are at most [`count::OUTSIDE`], and
    /// `first` is at most 63.
    pub(super) fn count_codes(self, codes: &[u8], first: u8, counts: &mut [u32]) {
        let done = match self.0 {
            Set::Portable => 0,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vbmi => {
                count_vectors::<super::dtype::Float8E4M3>(self, codes, 0, first, counts)
            }
            // SAFETY: a kernel is only made of what `available` has asked the processor for.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 | Set::Avx512 => unsafe { count::avx2(codes, first, counts) },
        };
        count_rest(self, &codes[done..], first, counts);
    }
}

/// Counts what it can by vectors, and tells how many of the first values that is.
#[cfg(target_arch = "x86_64")]
fn count_vectors<F: Float>(
    kernel: Kernel,
    values: &[F::Raw],
    base: i32,
    first: u8,
    counts: &mut [u32],
) -> usize {
    if kernel.0 != Set::Avx512Vbmi || size_of::<F::Raw>() > 4 {
        return 0;
    }
    // SAFETY: a kernel is only made of what `available` has asked the processor for.
    unsafe { count::avx512_vbmi::<F>(values, base, first, counts) };
    values.len() - values.len() % count::PADDING
}

#[cfg(not(target_arch = "x86_64"))]
fn count_vectors<F: Float>(_: Kernel, _: &[F::Raw], _: i32, _: u8, _: &mut [u32]) -> usize {
    0
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kernel {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let available = Self::available();
        available.iter().copied().find(|kernel| kernel.name() == name).ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|kernel| kernel.name()).collect();
            let expected = format!("one that this processor can run ({})", names.join(", "));
            Error::value(FORCE_KERNEL_VARIABLE, expected, format!("{name:?}"))
        })
    }
}

/// The kernel that the environment asks for, else the best one that this processor can run.
///
/// # Errors
/// [`Error::Value`] if `GYROSTAT_FORCE_KERNEL` names none that this processor can run.
pub fn configured_kernel() -> Result<Kernel> {
    match std::env::var(FORCE_KERNEL_VARIABLE) {
        Ok(name) => name.trim().parse(),
        Err(_) => Ok(Kernel::available().pop().unwrap_or(Kernel::PORTABLE)),
    }
}

/// The kernel in use. The bindings reject a malformed variable at import; a Rust caller that skipped
/// that check gets the portable one.
pub fn current_kernel() -> Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    *KERNEL.get_or_init(|| configured_kernel().unwrap_or(Kernel::PORTABLE))
}

/// Compiles a loop for every set of instructions. The function gets one more argument, the first,
/// which is the [`Kernel`] to use.
///
/// What the loop calls has to be `#[inline(always)]`: only what is inlined is compiled for each.
macro_rules! for_every_kernel {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident $(<$F:ident: $Bound:ident>)? (
            $($argument:ident: $Type:ty),* $(,)?
        ) $(-> $Output:ty)? $body:block
    ) => {
        $(#[$attribute])*
        #[allow(unsafe_code)] // code for instructions that not every processor has
        $visibility fn $name $(<$F: $Bound>)? (
            kernel: $crate::tensor::isa::Kernel, $($argument: $Type),*
        ) $(-> $Output)? {
            #[inline(always)]
            fn portable $(<$F: $Bound>)? ($($argument: $Type),*) $(-> $Output)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$F: $Bound>)? ($($argument: $Type),*) $(-> $Output)? {
                portable $(::<$F>)? ($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma")]
            fn avx512 $(<$F: $Bound>)? ($($argument: $Type),*) $(-> $Output)? {
                portable $(::<$F>)? ($($argument),*)
            }

            match kernel.set() {
                $crate::tensor::isa::Set::Portable => portable $(::<$F>)? ($($argument),*),
                // SAFETY: a kernel is only made of what the processor was asked for.
                #[cfg(target_arch = "x86_64")]
                $crate::tensor::isa::Set::Avx2 => unsafe { avx2 $(::<$F>)? ($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::tensor::isa::Set::Avx512 | $crate::tensor::isa::Set::Avx512Vbmi => unsafe {
                    avx512 $(::<$F>)? ($($argument),*)
                },
            }
        }
    };
}
pub(super) use for_every_kernel;

for_every_kernel! {
    fn count_rest(codes: &[u8], first: u8, counts: &mut [u32]) {
        count::portable(codes, first, counts);
    }
}

for_every_kernel! {
    fn write_codes<F: Block>(values: &[F::Raw], base: i32, codes: &mut [u8]) {
        F::codes(values, base, codes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_kernel_goes_by_its_name() {
        let available = Kernel::available();
        assert_eq!(available.first(), Some(&Kernel::PORTABLE));
        for kernel in available {
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        let message = "sse9".parse::<Kernel>().unwrap_err().to_string();
        assert!(message.contains(FORCE_KERNEL_VARIABLE) && message.contains("portable"));
    }
}
