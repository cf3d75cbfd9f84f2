//! Points at which a test may switch threads.
//!
//! A scheduler that explores interleavings (shuttle) runs its threads as coroutines of one thread and switches only where it is called. Lock-free
//! algorithms over mapped memory cannot use its atomics, so they call [`point`] between the steps that others may see. Without the feature
//! `interleave`, and in release builds, a point is nothing.

/// What a test's scheduler provides.
#[cfg(all(feature = "interleave", debug_assertions))]
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// Switches threads, perhaps.
    pub point: fn(),
    /// Index of the scheduled thread from 0, `None` outside of the scheduler.
    pub thread: fn() -> Option<usize>,
}

#[cfg(all(feature = "interleave", debug_assertions))]
static HOOKS: std::sync::OnceLock<Hooks> = std::sync::OnceLock::new();

/// Installs the scheduler of this process; the first one stays.
#[cfg(all(feature = "interleave", debug_assertions))]
pub fn install(hooks: Hooks) {
    let _ = HOOKS.set(hooks);
}

/// The scheduled thread, if a scheduler runs this one.
#[cfg(all(feature = "interleave", debug_assertions))]
#[inline]
pub(crate) fn scheduled_thread() -> Option<usize> {
    (HOOKS.get()?.thread)()
}

/// Others may run here.
#[inline(always)]
pub fn point() {
    #[cfg(all(feature = "interleave", debug_assertions))]
    if let Some(hooks) = HOOKS.get()
        && (hooks.thread)().is_some()
    {
        (hooks.point)();
    }
}

/// Waits for others: `true` if a scheduler did it.
#[inline]
pub(crate) fn wait() -> bool {
    #[cfg(all(feature = "interleave", debug_assertions))]
    if scheduled_thread().is_some() {
        point();
        return true;
    }
    false
}
