//! Run statistics of programs: how often and how long they ran on traced functions, and how often they did not because they already ran.
//!
//! Runs are counted while somebody holds [`StatsEnabled`]; the lists of programs are then generated with a clock read before and after each
//! program, so statistics cost nothing while nobody asks for them. Recursion misses are always counted, in the path that skips the program.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use ring3_runtime::{ProgObject, ProgRef};

use crate::target;
use crate::thread::{self, Counts};

/// What a program did on traced functions, summed over all targets and threads, since it was first attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Runs while statistics were enabled (`run_cnt`).
    pub runs: u64,
    /// Nanoseconds of these runs (`run_time_ns`).
    pub run_ns: u64,
    /// Runs skipped because the program was running on the thread already (`recursion_misses`).
    pub recursion_misses: u64,
}

/// Counts and times runs while it lives (`BPF_ENABLE_STATS`).
#[derive(Debug)]
pub struct StatsEnabled(());

static HOLDERS: AtomicUsize = AtomicUsize::new(0);

/// Begins to count and to time runs.
pub fn enable_run_stats() -> StatsEnabled {
    if HOLDERS.fetch_add(1, Ordering::SeqCst) == 0 {
        target::regenerate_all();
    }
    StatsEnabled(())
}

impl Drop for StatsEnabled {
    fn drop(&mut self) {
        if HOLDERS.fetch_sub(1, Ordering::SeqCst) == 1 {
            target::regenerate_all();
        }
    }
}

pub(crate) fn are_enabled() -> bool {
    HOLDERS.load(Ordering::SeqCst) != 0
}

/// C function for lists: monotonic nanoseconds.
pub(crate) extern "C" fn now() -> u64 {
    ring3_os::time::monotonic_ns()
}

/// Statistics of a program; zeros if it was never attached to a function.
pub fn run_stats(prog: &dyn ProgObject) -> RunStats {
    let rows = rows();
    let Some(row) = rows.by_prog.get(&key(prog)) else {
        return RunStats::default();
    };
    let Counts {
        misses,
        runs,
        run_ns,
    } = thread::sums(row.id);
    RunStats {
        runs: runs.wrapping_sub(row.before.runs),
        run_ns: run_ns.wrapping_sub(row.before.run_ns),
        recursion_misses: misses.wrapping_sub(row.before.misses).into(),
    }
}

/// What tells programs apart. Ids do not: each system of a process has its own.
fn key(prog: &dyn ProgObject) -> usize {
    std::ptr::from_ref(prog).addr()
}

/// A program's row, one for all targets, so that it is protected against itself everywhere. Kept as long as the program, for its counts.
struct Row {
    id: u32,
    /// Slots that use it.
    users: usize,
    /// While this is here no other program has the address.
    prog: Weak<dyn ProgObject>,
    /// Counts that a previous owner of the row left.
    before: Counts,
}

#[derive(Default)]
pub(crate) struct Rows {
    by_prog: HashMap<usize, Row>,
    /// Rows at which those of programs that are gone are given back.
    sweep_at: usize,
}

pub(crate) fn rows() -> MutexGuard<'static, Rows> {
    static ROWS: OnceLock<Mutex<Rows>> = OnceLock::new();
    ROWS.get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

impl Rows {
    /// The row of a program, for one slot more; `None`: there are none left.
    pub(crate) fn acquire(&mut self, prog: &ProgRef) -> Option<u32> {
        if let Some(row) = self.by_prog.get_mut(&key(&**prog)) {
            row.users += 1;
            return Some(row.id);
        }
        if self.by_prog.len() >= self.sweep_at {
            self.by_prog.retain(|_, row| {
                let is_used = row.users != 0 || row.prog.strong_count() != 0;
                if !is_used {
                    thread::free_id(row.id);
                }
                is_used
            });
            self.sweep_at = 2 * self.by_prog.len() + 64;
        }
        let id = thread::allocate_id()?;
        let row = Row {
            id,
            users: 1,
            prog: Arc::downgrade(prog),
            before: thread::sums(id),
        };
        self.by_prog.insert(key(&**prog), row);
        Some(id)
    }

    /// A slot less; nobody runs it any more.
    pub(crate) fn release(&mut self, prog: &dyn ProgObject) {
        if let Some(row) = self.by_prog.get_mut(&key(prog)) {
            row.users -= 1;
        }
    }
}
