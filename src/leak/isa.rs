//! Which instructions the loops over text and hashes are compiled for, and which of them this
//! processor has. A loop is written once, in integers alone, so all give the same bits.
#![allow(unsafe_code)] // code for instructions that not every processor has

use std::sync::OnceLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel(Set);

impl Kernel {
    /// The one that runs everywhere.
    pub(crate) const PORTABLE: Self = Self(Set::Portable);

    /// Every one that this processor can run, the best one last.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn available() -> Vec<Self> {
        macro_rules! has {
            ($($feature:tt),*) => { true $(&& is_x86_feature_detected!($feature))* };
        }
        let avx2 = has!("avx2", "bmi1", "bmi2", "lzcnt", "popcnt");
        let avx512 = avx2 && has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
        let sets = [(true, Set::Portable), (avx2, Set::Avx2), (avx512, Set::Avx512)];
        sets.into_iter().filter(|(available, _)| *available).map(|(_, set)| Self(set)).collect()
    }

    /// Every one that this processor can run, the best one last.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn available() -> Vec<Self> {
        vec![Self::PORTABLE]
    }

    /// The best one that this processor can run.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Kernel> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::PORTABLE))
    }

    pub(crate) fn set(self) -> Set {
        self.0
    }
}

/// Compiles a loop for every set of instructions. The function gets one more argument, the first,
/// which is the [`Kernel`] to use.
///
/// What the loop calls has to be `#[inline(always)]`: only what is inlined is compiled for each.
macro_rules! for_every_kernel {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident (
            $($argument:ident: $Type:ty),* $(,)?
        ) $(-> $Output:ty)? $body:block
    ) => {
        $(#[$attribute])*
        #[allow(unsafe_code)] // code for instructions that not every processor has
        $visibility fn $name(
            kernel: $crate::leak::isa::Kernel, $($argument: $Type),*
        ) $(-> $Output)? {
            #[inline(always)]
            fn portable($($argument: $Type),*) $(-> $Output)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
            fn avx2($($argument: $Type),*) $(-> $Output)? {
                portable($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(
                enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,bmi1,bmi2,lzcnt,popcnt"
            )]
            fn avx512($($argument: $Type),*) $(-> $Output)? {
                portable($($argument),*)
            }

            match kernel.set() {
                $crate::leak::isa::Set::Portable => portable($($argument),*),
                // SAFETY: a kernel is only made of what the processor was asked for.
                #[cfg(target_arch = "x86_64")]
                $crate::leak::isa::Set::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::leak::isa::Set::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}
pub(crate) use for_every_kernel;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portable_kernel_is_always_there() {
        assert_eq!(Kernel::available().first(), Some(&Kernel::PORTABLE));
        assert!(Kernel::available().contains(&Kernel::best()));
    }
}
