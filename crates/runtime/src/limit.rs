//! Limits of runs: a number of jumps back, or a time after which a watchdog stops the run at its next jump back.
//!
//! ```text
//! Words     of a thread, at a fixed distance from its thread pointer: compiled code takes 1 from `budget` before each jump back
//! run       budget = a portion of the limit, armed = number of the run
//! code      sub budget, 1; js -> confirm: the next portion, or release what is held, stopped = 1, leave
//! watchdog  every TICK: a run that is armed for longer than its limit: expired = number of the run, budget = far below 0
//! ```
//!
//! The watchdog's store to the budget is lost where it falls into a subtraction, as 19 of 20 do in a short loop; such a loop soon asks for its next
//! portion, and is told then. In a long loop the store comes through. It may come when the next run has begun: `confirm` asks whether it is
//! this run that has expired. Runs nest; the outermost that has a time counts for those inside.
//!
//! Key types: [`Limit`], [`LimitedEntry`]. Neighbours: the compiler emits the checks where [`crate::Linked::stops`] is set.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use ring3_uapi::Errno;

use crate::{Entry, HelperFn};
use ring3_spec::HeldPlace;

/// How long a run may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Jumps back, and calls of callbacks, that a run may make.
    pub jumps_back: Option<u64>,
    /// Time after which a run is stopped, to within a millisecond and what lies between two jumps back.
    pub time: Option<Duration>,
}

impl Limit {
    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.jumps_back.is_some() || self.time.is_some()
    }
}

/// Where a run may be stopped, with what is released there; ascending by `orig_idx`.
#[derive(Clone, Debug, Default)]
pub struct Stops(pub Vec<StopSite>);

/// A stop point with the addresses of what releases.
#[derive(Clone, Debug)]
pub struct StopSite {
    /// Slot in the program as loaded.
    pub orig_idx: u32,
    /// The callee is a callback that a helper calls.
    pub calls_back: bool,
    /// Places and what takes their addresses, in the order of release.
    pub held: Vec<(HeldPlace, HelperFn)>,
}

impl Stops {
    /// The point at an instruction.
    pub fn at(&self, orig_idx: u32) -> Option<&StopSite> {
        let at = self
            .0
            .binary_search_by_key(&orig_idx, |site| site.orig_idx)
            .ok()?;
        Some(&self.0[at])
    }

    /// Whether anything is held at any point.
    pub fn hold_anything(&self) -> bool {
        self.0.iter().any(|site| !site.held.is_empty())
    }
}

const TICK: Duration = Duration::from_micros(200);
/// Ticks without an armed run after which the watchdog sleeps.
const IDLE_TICKS: u32 = 50;
/// Jumps back between two questions whether the time is over.
const PORTION: i64 = 8192;
/// What the watchdog leaves in a budget; no run counts down to it.
const EXPIRED: i64 = i64::MIN / 2;

#[derive(Debug)]
struct Words {
    budget: AtomicI64,
    stopped: AtomicU64,
    /// Number of the run that has a time; 0 for none.
    armed: AtomicU64,
    limit_ns: AtomicU64,
    /// Number of the run whose time is over.
    expired: AtomicU64,
    /// The portion that the innermost run's budget was at first, and what comes after it.
    portion: AtomicI64,
    left: AtomicI64,
    /// Last number given out.
    runs: AtomicU64,
}

impl Words {
    /// Puts a portion of the jumps that are left into the budget.
    fn begin_portion(&self, left: i64) {
        let portion = left.min(PORTION);
        self.left.store(left - portion, Ordering::Relaxed);
        self.portion.store(portion, Ordering::Relaxed);
        self.budget.store(portion, Ordering::Relaxed);
    }
}

thread_local! {
    static WORDS: Words = const {
        Words {
            budget: AtomicI64::new(i64::MAX),
            stopped: AtomicU64::new(0),
            armed: AtomicU64::new(0),
            limit_ns: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            portion: AtomicI64::new(i64::MAX),
            left: AtomicI64::new(0),
            runs: AtomicU64::new(0),
        }
    };
    static WATCHED: Watched = Watched::begin();
    static LAST_WAS_STOPPED: Cell<bool> = const { Cell::new(false) };
}

/// Offsets from the thread pointer of the words that compiled code uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopLayout {
    /// The `i64` that each jump back takes 1 from; negative: ask [`confirm_stop`].
    pub budget: i32,
    /// The `u32` that is not 0 once the run is stopped: callers of what was stopped stop too.
    pub stopped: i32,
}

/// Where the words are; `None` where that is not the same in every thread.
pub fn stop_layout() -> Option<StopLayout> {
    static LAYOUT: OnceLock<Option<StopLayout>> = OnceLock::new();
    *LAYOUT.get_or_init(|| {
        let words = || WORDS.with(ring3_sync::rcu::thread_distance);
        let here = words()?;
        let elsewhere = std::thread::spawn(words).join().ok()??;
        let at = |offset: usize| i32::try_from(here + offset as isize).ok();
        let layout = StopLayout {
            budget: at(std::mem::offset_of!(Words, budget))?,
            stopped: at(std::mem::offset_of!(Words, stopped))?,
        };
        (here == elsewhere).then_some(layout)
    })
}

/// C function that compiled code calls when its budget is negative: 1 if this run is to be stopped, 0 if it goes on.
///
/// # Safety
/// Always safe; `unsafe` because compiled code calls it by address.
pub unsafe extern "C" fn confirm_stop() -> u64 {
    WORDS.with(|words| {
        let armed = words.armed.load(Ordering::Relaxed);
        let is_over = armed != 0 && words.expired.load(Ordering::Acquire) == armed;
        if !is_over && words.budget.load(Ordering::Relaxed) < EXPIRED / 2 {
            // Meant for the run before. How much was left of the portion is lost; it begins again.
            let portion = words.portion.load(Ordering::Relaxed);
            words.budget.store(portion, Ordering::Relaxed);
            return 0;
        }
        let left = words.left.load(Ordering::Relaxed);
        if !is_over && left > 0 {
            // The jump that asked is the portion's first.
            words.begin_portion(left);
            words.budget.fetch_sub(1, Ordering::Relaxed);
            return 0;
        }
        words.stopped.store(1, Ordering::Relaxed);
        1
    })
}

/// An entry whose runs are limited.
#[derive(Debug)]
pub struct LimitedEntry {
    inner: Entry,
    budget: i64,
    limit_ns: u64,
    stopped_runs: AtomicU64,
}

impl LimitedEntry {
    /// Limits the runs of `inner`, which was compiled with stop points.
    ///
    /// # Errors
    /// The host gives no thread for the watchdog.
    pub fn new(inner: Entry, limit: Limit) -> Result<Box<LimitedEntry>, Errno> {
        if limit.time.is_some() {
            watchdog()?;
        }
        let budget = limit
            .jumps_back
            .map_or(i64::MAX, |most| i64::try_from(most).unwrap_or(i64::MAX));
        let limit_ns = limit.time.map_or(0, |time| {
            u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
        });
        Ok(Box::new(LimitedEntry {
            inner,
            budget,
            limit_ns,
            stopped_runs: AtomicU64::new(0),
        }))
    }

    /// How to call it; `self` outlives every call.
    pub fn entry(&self) -> Entry {
        Entry {
            code: run_limited,
            data: std::ptr::from_ref(self).cast(),
        }
    }

    /// Runs that were stopped; each returned 0.
    pub fn stopped_runs(&self) -> u64 {
        self.stopped_runs.load(Ordering::Relaxed)
    }
}

/// Whether a run on this thread was stopped since this was asked last.
pub fn take_stopped() -> bool {
    LAST_WAS_STOPPED.replace(false)
}

/// # Safety
/// `data` is a live [`LimitedEntry`]; the rest is the contract of its entry.
unsafe extern "C" fn run_limited(ctx: u64, data: *const ()) -> u64 {
    // SAFETY: 1. the caller's contract.
    let limited = unsafe { &*data.cast::<LimitedEntry>() };
    WORDS.with(|words| {
        let outer_budget = words.budget.load(Ordering::Relaxed);
        let outer_portion = words.portion.load(Ordering::Relaxed);
        let outer_left = words.left.load(Ordering::Relaxed);
        let outer_stopped = words.stopped.load(Ordering::Relaxed);
        words.stopped.store(0, Ordering::Relaxed);
        words.begin_portion(limited.budget);
        let arms = limited.limit_ns != 0 && words.armed.load(Ordering::Relaxed) == 0;
        if arms {
            WATCHED.with(|_| ());
            let run = words.runs.load(Ordering::Relaxed) + 1;
            words.runs.store(run, Ordering::Relaxed);
            words.limit_ns.store(limited.limit_ns, Ordering::Relaxed);
            words.armed.store(run, Ordering::SeqCst);
            wake();
        }
        // SAFETY: 1. the caller's contract is that of the code.
        let result = unsafe { (limited.inner.code)(ctx, limited.inner.data) };
        let was_stopped = words.stopped.load(Ordering::Relaxed) != 0;
        words.stopped.store(outer_stopped, Ordering::Relaxed);
        words.left.store(outer_left, Ordering::Relaxed);
        words.portion.store(outer_portion, Ordering::Relaxed);
        words.budget.store(outer_budget, Ordering::Relaxed);
        let armed = words.armed.load(Ordering::Relaxed);
        if arms {
            words.armed.store(0, Ordering::Release);
        } else if armed != 0 && words.expired.load(Ordering::Acquire) == armed {
            words.budget.store(EXPIRED, Ordering::Relaxed);
        }
        if !was_stopped {
            return result;
        }
        limited.stopped_runs.fetch_add(1, Ordering::Relaxed);
        LAST_WAS_STOPPED.set(true);
        0
    })
}

/// A thread's words as the watchdog sees them.
struct Seen {
    words: *const Words,
    run: u64,
    since: Instant,
}

// SAFETY: 1. the words are atomics; 2. they live while they are listed, see `Watched`.
unsafe impl Send for Seen {}

static THREADS: Mutex<Vec<Seen>> = Mutex::new(Vec::new());
static IS_ASLEEP: AtomicBool = AtomicBool::new(false);

/// While it exists, the watchdog looks at the thread's words. Its destructor runs before the thread's words go, which have none.
struct Watched(*const Words);

impl Watched {
    fn begin() -> Watched {
        let words = WORDS.with(std::ptr::from_ref);
        let seen = Seen {
            words,
            run: 0,
            since: Instant::now(),
        };
        let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(seen);
        Watched(words)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|seen| seen.words != self.0);
    }
}

/// The watchdog's thread, started at first use.
fn watchdog() -> Result<&'static Thread, Errno> {
    static WATCHDOG: OnceLock<Result<Thread, Errno>> = OnceLock::new();
    WATCHDOG
        .get_or_init(|| {
            std::thread::Builder::new()
                .name("ring3-watchdog".to_owned())
                .spawn(watch)
                .map(|handle| handle.thread().clone())
                .map_err(|_| Errno::EAGAIN)
        })
        .as_ref()
        .map_err(|errno| *errno)
}

/// Lets the watchdog look, if it sleeps. The run is armed already, and both sides are sequentially consistent: either it sees the run before it
/// sleeps, or we see that it sleeps.
fn wake() {
    if IS_ASLEEP.load(Ordering::SeqCst)
        && let Ok(watchdog) = watchdog()
    {
        watchdog.unpark();
    }
}

fn watch() {
    let mut idle = 0;
    loop {
        if look() {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle < IDLE_TICKS {
            std::thread::sleep(TICK);
            continue;
        }
        IS_ASLEEP.store(true, Ordering::SeqCst);
        if !look() {
            std::thread::park();
        }
        IS_ASLEEP.store(false, Ordering::SeqCst);
        idle = 0;
    }
}

/// Stops what has expired; whether any run is armed.
fn look() -> bool {
    let mut any = false;
    let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    for seen in threads.iter_mut() {
        // SAFETY: 1. a listed thread has not ended: see `Watched`.
        let words = unsafe { &*seen.words };
        let run = words.armed.load(Ordering::SeqCst);
        any |= run != 0;
        if run != seen.run {
            seen.run = run;
            seen.since = Instant::now();
        } else if run != 0
            && seen.since.elapsed().as_nanos() >= u128::from(words.limit_ns.load(Ordering::Relaxed))
        {
            words.expired.store(run, Ordering::Release);
            words.budget.store(EXPIRED, Ordering::Relaxed);
        }
    }
    any
}
