//! `RunStats`: how often a program ran and how long, counted while somebody holds a [`StatsUser`] of its system.
//!
//! Nobody does as a rule, so a run asks one word of the process ([`is_anyone_counting`]) before it asks its program; generated code that has no
//! word to ask is made anew when a system begins or ends to count ([`on_switch`]).

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Users of all switches.
static USERS: AtomicU32 = AtomicU32::new(0);

/// What is told of switches.
static ON_SWITCH: OnceLock<fn()> = OnceLock::new();

/// Whether runs of any system are counted.
#[inline]
pub fn is_anyone_counting() -> bool {
    USERS.load(Ordering::Relaxed) != 0
}

/// Calls `listener` whenever a system has begun or ended to count. There is one listener, the first.
pub fn on_switch(listener: fn()) {
    let _ = ON_SWITCH.set(listener);
}

fn has_switched() {
    if let Some(listener) = ON_SWITCH.get() {
        listener();
    }
}

/// Says for the programs of one system whether their runs are counted.
#[derive(Debug, Default)]
pub struct StatsSwitch(AtomicU32);

/// Runs are counted as long as this lives.
#[derive(Debug)]
pub struct StatsUser(Arc<StatsSwitch>);

impl StatsUser {
    /// Counts the runs of a system's programs from now on.
    pub fn new(switch: &Arc<StatsSwitch>) -> StatsUser {
        USERS.fetch_add(1, Ordering::Relaxed);
        if switch.0.fetch_add(1, Ordering::AcqRel) == 0 {
            has_switched();
        }
        StatsUser(Arc::clone(switch))
    }
}

impl Drop for StatsUser {
    fn drop(&mut self) {
        if self.0.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            has_switched();
        }
        USERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What was counted of one program.
#[derive(Debug)]
pub struct RunStats {
    switch: Arc<StatsSwitch>,
    count: AtomicU64,
    time_ns: AtomicU64,
    recursion_misses: AtomicU64,
}

impl RunStats {
    /// Nothing yet.
    pub fn new(switch: &Arc<StatsSwitch>) -> RunStats {
        RunStats {
            switch: Arc::clone(switch),
            count: AtomicU64::new(0),
            time_ns: AtomicU64::new(0),
            recursion_misses: AtomicU64::new(0),
        }
    }

    /// Whether the program's system counts.
    pub fn is_counting(&self) -> bool {
        self.switch.0.load(Ordering::Acquire) != 0
    }

    /// Runs `body`, and counts it if the program's system counts.
    pub fn measure<R>(&self, body: impl FnOnce() -> R) -> R {
        if !self.is_counting() {
            return body();
        }
        let begin = ring3_os::time::monotonic_ns();
        let result = body();
        self.record_since(begin);
        result
    }

    /// Counts a run that began at `begin_ns` of the monotonic clock and ends now.
    pub fn record_since(&self, begin_ns: u64) {
        let spent = ring3_os::time::monotonic_ns().saturating_sub(begin_ns);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.time_ns.fetch_add(spent, Ordering::Relaxed);
    }

    /// Runs so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Time of all of them, in nanoseconds.
    pub fn time_ns(&self) -> u64 {
        self.time_ns.load(Ordering::Relaxed)
    }

    /// Runs that were skipped, as the program was running on the thread already; always counted.
    pub fn recursion_misses(&self) -> u64 {
        self.recursion_misses.load(Ordering::Relaxed)
    }

    /// The word of [`RunStats::recursion_misses`], for generated code that counts with an atomic addition.
    pub fn recursion_misses_word(&self) -> *mut u64 {
        self.recursion_misses.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_count_while_somebody_wants_them() {
        static SWITCHES: AtomicU32 = AtomicU32::new(0);
        on_switch(|| {
            SWITCHES.fetch_add(1, Ordering::Relaxed);
        });
        let switch = Arc::new(StatsSwitch::default());
        let stats = RunStats::new(&switch);
        assert_eq!(stats.measure(|| 7), 7);
        assert_eq!((stats.count(), stats.time_ns()), (0, 0));
        let users = [StatsUser::new(&switch), StatsUser::new(&switch)];
        let pause = || std::thread::sleep(std::time::Duration::from_millis(1));
        stats.measure(pause);
        let [first, second] = users;
        drop(first);
        stats.measure(pause);
        assert_eq!(SWITCHES.load(Ordering::Relaxed), 1);
        drop(second);
        stats.measure(pause);
        assert_eq!(stats.count(), 2);
        assert!(stats.time_ns() >= 2_000_000);
        assert_eq!(SWITCHES.load(Ordering::Relaxed), 2);
    }
}
