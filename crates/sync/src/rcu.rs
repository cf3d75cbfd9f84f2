//! Read-copy-update for memory that programs see.
//!
//! ```text
//! G       a global counter, only ever incremented, by writers
//! c.s     the state of thread c: (value of G when the outermost section began) << 16 | nesting depth
//!
//! enter   depth(c.s) == 0 ?  c.s = G << 16 | 1   :  c.s += 1          plain stores, then a compiler fence
//! exit    c.s -= 1                                                    release store
//!
//! synchronize   G += 1; let g = G; membarrier; for every c: wait until depth(c.s) == 0 or epoch(c.s) >= g
//! ```
//!
//! Why it is right: memory is unlinked before `G += 1`. A reader whose store to `c.s` the writer does not see after the
//! membarrier executes its loads after that barrier, so it cannot find the unlinked memory. A reader whose store is seen
//! with an epoch of at least `g` began after `G` had become `g`, so the same holds. Everyone else is waited for, and the release
//! store of `exit` orders their last access before the writer's freeing. A stale epoch in `c.s` (the thread read `G` and was
//! delayed) only makes a writer wait for longer.
//!
//! Where the host has no membarrier(2), readers pay with a full fence instead: [`needs_fence`].
//!
//! Key types: [`ThreadCell`] (what engines touch), [`Guard`], [`Cookie`].

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence, fence};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::random;

/// Bits of [`ThreadCell::state`] that count nested sections.
const DEPTH_BITS: u32 = 16;
const DEPTH_MASK: u64 = (1 << DEPTH_BITS) - 1;
/// Deferred calls that may wait before a caller outside of a section has to help.
const BACKLOG_MAX: usize = 4096;

/// The part of a thread that read sections store to. It is never freed: a thread that ends leaves it to the next one.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct ThreadCell {
    /// Epoch of the outermost section and nesting depth. At offset 0, for code generators.
    state: AtomicU64,
    /// Dense index of the cell, from 1; identifies the thread in lock words and per-thread tables.
    slot: u32,
    /// The task that programs of this thread see.
    task_ids: AtomicU64,
    /// State of [`ThreadCell::next_random`].
    random: AtomicU64,
}

impl ThreadCell {
    /// Dense index of the thread, from 1. A thread started after this one ended may get the same.
    #[inline]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Process id << 32 | thread id of the task that programs of the thread see: the thread itself, unless a hook has set another.
    #[inline]
    pub fn task_ids(&self) -> u64 {
        self.task_ids.load(Ordering::Relaxed)
    }

    /// Sets what [`ThreadCell::task_ids`] says; the value before.
    pub fn replace_task_ids(&self, ids: u64) -> u64 {
        let before = self.task_ids();
        self.task_ids.store(ids, Ordering::Relaxed);
        before
    }

    /// The next number of the thread's sequence ([`crate::random`]).
    #[inline]
    pub fn next_random(&self) -> u32 {
        let state = self
            .random
            .load(Ordering::Relaxed)
            .wrapping_add(random::STEP);
        self.random.store(state, Ordering::Relaxed);
        random::mix(state)
    }

    /// Sets where the thread's sequence goes on, for tests that compare sequences.
    pub fn set_random_state(&self, state: u64) {
        self.random.store(state, Ordering::Relaxed);
    }

    /// Nested read sections of the thread now.
    #[inline]
    pub fn depth(&self) -> u64 {
        self.state.load(Ordering::Relaxed) & DEPTH_MASK
    }

    /// Enters a read section of the thread that owns this cell.
    ///
    /// # Safety
    /// The calling thread got this cell from [`thread`] and has not ended; [`ThreadCell::exit`] follows on the same thread.
    #[inline]
    pub unsafe fn enter(&self) {
        let state = self.state.load(Ordering::Relaxed);
        if state & DEPTH_MASK == 0 {
            WORDS.with(|words| words.cpu.set(entered_on()));
            self.state
                .store(GLOBAL.entered.load(Ordering::Relaxed), Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            if GLOBAL.readers_fence.load(Ordering::Relaxed) {
                fence(Ordering::SeqCst);
            }
        } else {
            debug_assert!(
                state & DEPTH_MASK != DEPTH_MASK,
                "rcu sections nested too deep"
            );
            self.state.store(state + 1, Ordering::Relaxed);
        }
    }

    /// Leaves the innermost read section of the thread that owns this cell.
    ///
    /// # Safety
    /// The calling thread is inside a section that it entered on this cell, and keeps no pointer from it once the outermost
    /// section is left.
    #[inline]
    pub unsafe fn exit(&self) {
        let state = self.state.load(Ordering::Relaxed);
        debug_assert!(state & DEPTH_MASK != 0, "rcu section left but not entered");
        compiler_fence(Ordering::SeqCst);
        self.state.store(state - 1, Ordering::Release);
    }
}

/// What all threads share. The epoch has a line of its own: every section reads it.
#[repr(align(128))]
struct Global {
    /// The epoch as sections store it: `G << 16 | 1`.
    entered: AtomicU64,
    readers_fence: AtomicBool,
}

static GLOBAL: Global = Global {
    entered: AtomicU64::new(1 << DEPTH_BITS | 1),
    readers_fence: AtomicBool::new(true),
};

/// Cells of all threads that ever registered, and those without an owner.
struct Registry {
    cells: Vec<&'static ThreadCell>,
    unowned: Vec<&'static ThreadCell>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    cells: Vec::new(),
    unowned: Vec::new(),
});

/// What generated code reads beside the thread pointer.
#[repr(C)]
struct Words {
    cell: Cell<*const ThreadCell>,
    /// The CPU this thread is accounted to for the length of the outermost section.
    cpu: Cell<u32>,
}

thread_local! {
    static WORDS: Words = const {
        Words {
            cell: Cell::new(std::ptr::null()),
            cpu: Cell::new(0),
        }
    };
    static REGISTRATION: Registration = const { Registration };
}

/// Gives the cell back when the thread ends.
struct Registration;

impl Drop for Registration {
    fn drop(&mut self) {
        let cell = WORDS.with(|words| words.cell.replace(std::ptr::null()));
        if cell.is_null() {
            return;
        }
        // SAFETY: 1. cells are leaked boxes: valid forever.
        let cell = unsafe { &*cell };
        // A thread that ends inside a section (a leaked guard) would block writers for ever: its section ends here.
        cell.state.store(0, Ordering::Release);
        REGISTRY.lock().unowned.push(cell);
    }
}

/// Chooses who pays for ordering, once per process.
fn init_barrier() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let works = ring3_os::membarrier::register_private_expedited().is_ok()
            && ring3_os::membarrier::private_expedited().is_ok();
        GLOBAL.readers_fence.store(!works, Ordering::SeqCst);
        // Without room for it, writers in children wait for sections of threads that are not there.
        // SAFETY: 1. it tries its lock, and allocates nothing.
        let _ = unsafe { ring3_os::fork::in_child(end_sections_of_others) };
    });
}

/// The calling thread, as [`ThreadCell::task_ids`] has it.
fn own_task_ids() -> u64 {
    let (thread, process) = ring3_os::task::ids_now();
    u64::from(process) << 32 | u64::from(thread)
}

/// In a child of fork(2): the other threads, and with them their sections, are not there, and this one has other ids.
fn end_sections_of_others() {
    let own = own_cell();
    // SAFETY: 1. cells are leaked boxes: valid forever.
    if let Some(own) = unsafe { own.as_ref() } {
        own.replace_task_ids(own_task_ids());
        own.set_random_state(ring3_os::random::seed());
    }
    // Held by a thread of the parent, it stays held, and the child cannot wait for readers at all.
    let Some(registry) = REGISTRY.try_lock() else {
        return;
    };
    for cell in &registry.cells {
        if !std::ptr::eq(*cell, own) {
            cell.state.store(0, Ordering::Release);
        }
    }
}

/// Whether read sections must execute a full fence because the host has no membarrier(2). A code generator that inlines
/// sections asks this after the first [`thread`] call.
pub fn needs_fence() -> bool {
    init_barrier();
    GLOBAL.readers_fence.load(Ordering::Relaxed)
}

/// What a code generator needs to write read sections in place of calls. It must not where [`needs_fence`] is true.
///
/// ```text
/// enter:  s = cell[state]; s & 0xffff == 0 ? { cpu word = CPU of this thread; cell[state] = *entered } : cell[state] = s + 1
/// exit:   cell[state] -= 1
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SectionLayout {
    /// Address of the state that an outermost section begins with, a u64: the global epoch and a depth of one.
    pub entered: *const u64,
    /// Offset of the state in a [`ThreadCell`], a u64.
    pub state_offset: usize,
    /// Offset of [`ThreadCell::task_ids`], a u64.
    pub task_ids_offset: usize,
    /// Offset of the state of [`ThreadCell::next_random`], a u64.
    pub random_offset: usize,
    /// Bits of the state below the epoch.
    pub depth_bits: u32,
}

/// The layout of this process.
pub fn section_layout() -> SectionLayout {
    SectionLayout {
        entered: GLOBAL.entered.as_ptr(),
        state_offset: std::mem::offset_of!(ThreadCell, state),
        task_ids_offset: std::mem::offset_of!(ThreadCell, task_ids),
        random_offset: std::mem::offset_of!(ThreadCell, random),
        depth_bits: DEPTH_BITS,
    }
}

#[cold]
fn register() -> &'static ThreadCell {
    init_barrier();
    let mut registry = REGISTRY.lock();
    let cell = match registry.unowned.pop() {
        Some(cell) => cell,
        None => {
            let slot = registry.cells.len() as u32 + 1;
            let cell: &'static ThreadCell = Box::leak(Box::new(ThreadCell {
                state: AtomicU64::new(0),
                slot,
                task_ids: AtomicU64::new(0),
                random: AtomicU64::new(0),
            }));
            registry.cells.push(cell);
            cell
        }
    };
    drop(registry);
    cell.replace_task_ids(own_task_ids());
    // A cell that another thread left would go on as in the child of a fork that has it too.
    cell.set_random_state(ring3_os::random::seed());
    WORDS.with(|words| words.cell.set(cell));
    // In a destructor that runs after this one's, nobody gives the cell back: it is leaked, empty.
    let _ = REGISTRATION.try_with(|_| ());
    cell
}

/// Null until the thread is registered.
#[inline]
fn own_cell() -> *const ThreadCell {
    WORDS.with(|words| words.cell.get())
}

/// The CPU that a section which begins now is accounted to.
#[inline]
fn entered_on() -> u32 {
    // Threads of a test's scheduler are one thread: it may move from CPU to CPU, their sections may not.
    #[cfg(all(feature = "interleave", debug_assertions))]
    if crate::interleave::scheduled_thread().is_some() {
        return 0;
    }
    ring3_os::cpu::current_cpu() as u32
}

/// The CPU that this thread's section is accounted to; meaningful only inside a section.
#[inline]
pub fn section_cpu() -> u32 {
    WORDS.with(|words| words.cpu.get())
}

/// This thread's cell; registers the thread when first called.
#[inline]
pub fn thread() -> &'static ThreadCell {
    #[cfg(all(feature = "interleave", debug_assertions))]
    if let Some(index) = crate::interleave::scheduled_thread() {
        return scheduled_cell(index);
    }
    let cell = own_cell();
    if cell.is_null() {
        return register();
    }
    // SAFETY: 1. cells are leaked boxes: valid forever.
    unsafe { &*cell }
}

/// The cell of a thread that a test's scheduler runs: its threads share the real one.
#[cfg(all(feature = "interleave", debug_assertions))]
fn scheduled_cell(index: usize) -> &'static ThreadCell {
    static NEXT_SLOT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1_000_000);
    /// Reachable, for leak checkers, after their thread has ended.
    static SCHEDULED: Mutex<Vec<&'static ThreadCell>> = Mutex::new(Vec::new());
    thread_local! {
        static CELLS: std::cell::RefCell<Vec<&'static ThreadCell>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    CELLS.with_borrow_mut(|cells| {
        while cells.len() <= index {
            let slot = NEXT_SLOT.fetch_add(1, Ordering::Relaxed);
            let cell = ThreadCell {
                state: AtomicU64::new(0),
                slot,
                task_ids: AtomicU64::new(own_task_ids()),
                random: AtomicU64::new(0),
            };
            let cell: &'static ThreadCell = Box::leak(Box::new(cell));
            SCHEDULED.lock().push(cell);
            cells.push(cell);
        }
        cells[index]
    })
}

/// Offset from the thread pointer of the word that holds the address of a thread's cell, for code generators; `None` where it is not the same in
/// every thread (a library loaded later) or on other machines. The word is null until the thread's first section.
pub fn cell_tls_offset() -> Option<i32> {
    static OFFSET: std::sync::OnceLock<Option<i32>> = std::sync::OnceLock::new();
    *OFFSET.get_or_init(|| {
        let here = tls_distance()?;
        let elsewhere = std::thread::spawn(tls_distance).join().ok()??;
        (here == elsewhere)
            .then(|| i32::try_from(here).ok())
            .flatten()
    })
}

/// Offset from the thread pointer of the word that holds [`section_cpu`], a u32; as [`cell_tls_offset`].
pub fn cpu_tls_offset() -> Option<i32> {
    let from_cell = std::mem::offset_of!(Words, cpu) - std::mem::offset_of!(Words, cell);
    cell_tls_offset()?.checked_add(from_cell as i32)
}

/// Distance of this thread's word from its thread pointer.
fn tls_distance() -> Option<isize> {
    WORDS.with(|words| thread_distance(&words.cell))
}

/// Distance of an object of this thread from its thread pointer; `None` on other machines.
pub fn thread_distance<T>(object: &T) -> Option<isize> {
    #[cfg(target_arch = "x86_64")]
    {
        let thread_pointer: isize;
        // SAFETY: 1. the x86-64 ABI keeps the thread pointer in the first word of the thread control block.
        unsafe {
            std::arch::asm!("mov {}, fs:[0]", out(reg) thread_pointer, options(nostack, readonly, preserves_flags));
        }
        Some(std::ptr::from_ref(object) as isize - thread_pointer)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = object;
        None
    }
}

/// A read section: memory that was reachable when it began stays valid until it is dropped.
#[derive(Debug)]
pub struct Guard {
    cell: &'static ThreadCell,
    /// A section belongs to its thread.
    _not_send: std::marker::PhantomData<*const ()>,
}

/// Begins a read section; sections nest.
#[inline]
pub fn read() -> Guard {
    let cell = thread();
    // SAFETY: 1. the cell is this thread's; 2. the guard cannot leave the thread and exits on drop (a leaked one makes writers wait
    // until the thread ends, which is safe).
    unsafe { cell.enter() };
    Guard {
        cell,
        _not_send: std::marker::PhantomData,
    }
}

impl Guard {
    /// The CPU that this section is accounted to: per-CPU values of programs use it, and it does not change inside a section.
    #[inline]
    pub fn cpu(&self) -> usize {
        section_cpu() as usize
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: 1. entered in `read` on the same thread; 2. borrows from the guard have ended.
        unsafe { self.cell.exit() };
    }
}

/// The error of waiting for readers while being one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InReadSection;

impl std::fmt::Display for InReadSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot wait for a grace period inside a read section")
    }
}

impl std::error::Error for InReadSection {}

/// Whether this thread is inside a read section.
#[inline]
pub fn in_read_section() -> bool {
    thread().depth() != 0
}

/// Waits until every read section that was running has ended.
///
/// # Errors
/// [`InReadSection`]: the caller would wait for itself.
pub fn synchronize() -> Result<(), InReadSection> {
    if in_read_section() {
        return Err(InReadSection);
    }
    let goal = begin_grace_period();
    for spins in 0u32.. {
        if is_over(goal) {
            return Ok(());
        }
        match spins {
            0..64 => std::hint::spin_loop(),
            64..256 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(100)),
        }
    }
    Ok(())
}

/// Makes unlinking visible to all and returns the epoch that running sections must reach.
fn begin_grace_period() -> u64 {
    init_barrier();
    let before = GLOBAL.entered.fetch_add(1 << DEPTH_BITS, Ordering::SeqCst);
    let goal = (before >> DEPTH_BITS) + 1;
    if GLOBAL.readers_fence.load(Ordering::Relaxed)
        || ring3_os::membarrier::private_expedited().is_err()
    {
        // Registered processes are never refused; should it happen, readers fence from now on.
        fence(Ordering::SeqCst);
    }
    goal
}

/// Whether no section is older than `goal`.
fn is_over(goal: u64) -> bool {
    let registry = REGISTRY.lock();
    registry.cells.iter().all(|cell| {
        let state = cell.state.load(Ordering::Acquire);
        state & DEPTH_MASK == 0 || state >> DEPTH_BITS >= goal
    })
}

/// A point in time whose grace period can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cookie(u64);

/// Starts a grace period without waiting; costs one membarrier.
pub fn start_poll() -> Cookie {
    Cookie(begin_grace_period())
}

/// Whether every section that ran when `cookie` was made has ended. Allowed inside a section, which then counts.
pub fn poll(cookie: Cookie) -> bool {
    is_over(cookie.0)
}

type Deferred = Box<dyn FnOnce() + Send>;

struct Backlog {
    /// Waiting calls with their numbers.
    calls: VecDeque<(u64, Deferred)>,
    /// Calls ever queued: the number of the next one.
    queued: u64,
    /// The lowest number of each batch that a thread has taken and not finished. Batches end in any order.
    taken: Vec<u64>,
}

impl Backlog {
    /// The lowest number of a call that has not run.
    fn oldest(&self) -> Option<u64> {
        let waiting = self.calls.iter().map(|(number, _)| *number);
        waiting.chain(self.taken.iter().copied()).min()
    }

    fn give_back(&mut self, first: u64) {
        if let Some(at) = self.taken.iter().position(|taken| *taken == first) {
            self.taken.swap_remove(at);
        }
    }
}

struct Reclaimer {
    backlog: Mutex<Backlog>,
    work: Condvar,
    progress: Condvar,
}

/// The reclaimer and its thread, started with the first deferred call.
fn reclaimer() -> &'static Reclaimer {
    static RECLAIMER: Reclaimer = Reclaimer {
        backlog: Mutex::new(Backlog {
            calls: VecDeque::new(),
            queued: 0,
            taken: Vec::new(),
        }),
        work: Condvar::new(),
        progress: Condvar::new(),
    };
    static START: Once = Once::new();
    START.call_once(|| {
        // Should the host refuse a thread, barrier() and a full backlog still run the queue.
        let _ = std::thread::Builder::new()
            .name("ring3-rcu".to_owned())
            .spawn(|| {
                loop {
                    reclaim_one_batch(&RECLAIMER, WaitForWork::Yes);
                }
            });
    });
    &RECLAIMER
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitForWork {
    Yes,
    No,
}

/// Takes what is queued, waits for one grace period, runs it.
fn reclaim_one_batch(reclaimer: &Reclaimer, wait: WaitForWork) {
    let (first, batch) = {
        let mut backlog = reclaimer.backlog.lock();
        while backlog.calls.is_empty() {
            if wait == WaitForWork::No {
                return;
            }
            reclaimer.work.wait(&mut backlog);
        }
        let batch = std::mem::take(&mut backlog.calls);
        let numbers = batch.iter().map(|(number, _)| *number);
        let first = numbers.min().unwrap_or(u64::MAX);
        backlog.taken.push(first);
        (first, batch)
    };
    if synchronize().is_err() {
        // Only reached by a caller inside a section: put everything back, in order.
        let mut backlog = reclaimer.backlog.lock();
        for call in batch.into_iter().rev() {
            backlog.calls.push_front(call);
        }
        backlog.give_back(first);
        return;
    }
    for (_, call) in batch {
        // A panicking destructor must not end the reclaimer: the rest of the batch still runs.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    }
    reclaimer.backlog.lock().give_back(first);
    reclaimer.progress.notify_all();
}

/// Runs `call` after every section that is running now has ended.
///
/// The queue is bounded for callers outside of a section: beyond 4096 waiting calls they run a batch themselves, so they must not hold a
/// lock that a section may wait for. A caller inside a section cannot wait and only queues.
pub fn call_rcu(call: impl FnOnce() + Send + 'static) {
    let reclaimer = reclaimer();
    let waiting = {
        let mut backlog = reclaimer.backlog.lock();
        let number = backlog.queued;
        backlog.queued += 1;
        backlog.calls.push_back((number, Box::new(call)));
        reclaimer.work.notify_one();
        backlog.calls.len()
    };
    if waiting > BACKLOG_MAX && !in_read_section() {
        reclaim_one_batch(reclaimer, WaitForWork::No);
    }
}

/// Waits until every call queued before has run.
///
/// # Errors
/// [`InReadSection`]: the caller would wait for itself.
pub fn barrier() -> Result<(), InReadSection> {
    if in_read_section() {
        return Err(InReadSection);
    }
    let reclaimer = reclaimer();
    let goal = reclaimer.backlog.lock().queued;
    loop {
        reclaim_one_batch(reclaimer, WaitForWork::No);
        let mut backlog = reclaimer.backlog.lock();
        if backlog.oldest().is_none_or(|oldest| oldest >= goal) {
            return Ok(());
        }
        // A batch is in another thread's hands.
        if backlog.calls.is_empty() {
            reclaimer
                .progress
                .wait_for(&mut backlog, Duration::from_millis(10));
        }
    }
}

/// Drops `value` after every section that is running now has ended.
pub fn drop_rcu<T: Send + 'static>(value: T) {
    call_rcu(move || drop(value));
}

#[cfg(test)]
mod tests;
