//! Asking for memory before it is needed.
#![allow(unsafe_code)] // one instruction, which is a hint

/// How far ahead memory is asked for, in bytes: two blocks.
const AHEAD: usize = 16 << 10;

/// Asks for a line of 64 bytes of the block that comes after the next one, if there is any.
///
/// Loops that go over a block several times leave the prefetcher of the processor behind. They share
/// the lines of a block in proportion to the time that each takes, so that memory is never idle.
#[inline(always)]
pub(super) fn prefetch<T>(block: &[T], line: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let ahead = block.as_ptr().cast::<i8>().wrapping_add(AHEAD).wrapping_add(line << 6);
        // SAFETY: a hint: it reads nothing and cannot fault, whatever the address is.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (block, line, AHEAD);
}
