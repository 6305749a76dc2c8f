//! The thread pool: deterministic, and safe under `fork`.
//!
//! Work is cut into chunks whose bounds depend on the input alone, and results come back in index
//! order, so the same input gives the same bits on any number of threads.
//!
//! The threads of a pool do not survive `fork` (PyTorch's `DataLoader` forks its workers on Linux):
//! a child that handed work to its parent's pool would wait for ever. The pool remembers the process
//! that built it; in any other process the work runs on the calling thread. That is also what
//! a worker process wants, since its siblings already use the other cores.

use std::sync::OnceLock;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::error::{Error, Result};

/// Environment variable that sets the number of threads, read when the first parallel work runs.
pub const NUM_THREADS_VARIABLE: &str = "GYROSTAT_NUM_THREADS";

/// Work of fewer bytes than this runs on the calling thread: waking the pool costs some 5 us,
/// in which one core reads about this much.
pub const INLINE_BYTES: usize = 1 << 17;

struct Pool {
    process: u32,
    /// `None` where one thread is all there is.
    threads: Option<rayon::ThreadPool>,
}

static POOL: OnceLock<Pool> = OnceLock::new();

/// The number of threads that parallel work may use.
///
/// # Errors
/// [`Error::Value`] if `GYROSTAT_NUM_THREADS` is set to anything but a positive integer.
pub fn configured_threads() -> Result<usize> {
    match std::env::var(NUM_THREADS_VARIABLE) {
        Ok(text) => match text.trim().parse() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(Error::value(NUM_THREADS_VARIABLE, "a positive integer", format!("{text:?}"))),
        },
        Err(_) => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

fn build() -> Pool {
    // The bindings reject a malformed variable at import; a Rust caller that skipped that check
    // gets one thread.
    let n = configured_threads().unwrap_or(1);
    let threads = (n > 1)
        .then(|| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(n)
                .thread_name(|i| format!("gyrostat-{i}"))
                .build()
                .ok() // no threads to be had: the work runs inline
        })
        .flatten();
    Pool { process: std::process::id(), threads }
}

/// The pool, if this process may use one.
fn pool() -> Option<&'static rayon::ThreadPool> {
    let pool = if let Some(pool) = POOL.get() {
        pool
    } else {
        // Built outside of the cell, so that no thread ever holds it while it works: a fork at that
        // moment would leave the child a cell that nobody finishes.
        let built = build();
        POOL.get_or_init(|| built)
    };
    pool.threads.as_ref().filter(|_| pool.process == std::process::id())
}

/// The number of threads that the next parallel call will use: 1 in a forked child.
pub fn current_threads() -> usize {
    pool().map_or(1, rayon::ThreadPool::current_num_threads)
}

/// Computes `f(0), f(1), ..., f(n - 1)` and returns the results in that order.
///
/// `bytes` is about how much memory all the calls read together; small work runs inline.
pub fn map_indexed<R, F>(n: usize, bytes: usize, f: F) -> Vec<R>
where
    R: Send,
    F: Fn(usize) -> R + Send + Sync,
{
    let inline = n < 2 || bytes < INLINE_BYTES;
    match (!inline).then(pool).flatten() {
        Some(pool) => pool.install(|| (0..n).into_par_iter().map(&f).collect()),
        None => (0..n).map(f).collect(),
    }
}

/// Runs `f` where the parallel iterators of rayon use this module's pool, or one after the other.
///
/// For algorithms such as a parallel sort that rayon offers ready-made. `f` learns whether it may
/// use them: in a forked child it may not.
pub fn install<R, F>(f: F) -> R
where
    R: Send,
    F: FnOnce(bool) -> R + Send,
{
    match pool() {
        Some(pool) => pool.install(|| f(true)),
        None => f(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_index_order() {
        let got = map_indexed(1000, usize::MAX, |i| i * i);
        assert_eq!(got, (0..1000).map(|i| i * i).collect::<Vec<_>>());
    }

    #[test]
    fn small_work_stays_on_the_calling_thread() {
        let here = std::thread::current().id();
        let ids = map_indexed(8, 64, |_| std::thread::current().id());
        assert!(ids.iter().all(|&id| id == here));
    }

    #[test]
    fn nothing_to_do_gives_nothing() {
        assert!(map_indexed(0, usize::MAX, |i| i).is_empty());
    }
}
