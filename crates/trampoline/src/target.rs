//! Targets: functions that can be traced, and the programs on them.
//!
//! Attaching generates a whole new image, opens a gate to it, and moves the site from the old gate to the new one by one store: every call runs
//! either the old list or the new one. Detaching edits the running image: one store, and a second one at the site for the last program. What
//! is left over (images, references) is released by a background thread once nobody can be inside; all room for leftovers is reserved by
//! `attach`, so that detaching does not allocate.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, Weak};
use std::time::Duration;

use ring3_btf::FuncModel;
use ring3_runtime::ProgRef;
use ring3_sync::rcu;
use ring3_uapi::Errno;

use crate::frame::{Certainty, Frame};
use crate::gate::{Gate, barrier_all_threads};
use crate::image::{Image, ImageProg};
use crate::site::{PatchError, Site};
use crate::thread;

/// Most programs on one target, of all kinds together. Linux 6.18 has 38.
// DIVERGES: 64 programs per target and kind instead of 38 in all; nothing here is bound to a page.
pub const PROGS_PER_TARGET: usize = 192;
/// Retired images that may wait before an attachment waits for them.
const RETIRED_MAX: usize = 8;
const REAP_EVERY: Duration = Duration::from_millis(10);

/// When a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProgKind {
    /// Before the function.
    Fentry,
    /// Before the function, which is skipped if the program returns something other than 0.
    FmodRet,
    /// After the function; sees its return value.
    Fexit,
}

/// Why a program was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The program is attached to this target already.
    AlreadyAttached,
    /// The function is replaced, or, for a replacement, traced or replaced.
    Occupied,
    /// [`PROGS_PER_TARGET`] programs are.
    TooMany,
    /// The site.
    Patch(PatchError),
    /// The host.
    Host(Errno),
}

impl AttachError {
    /// The errno of the link that fails by this.
    pub fn errno(&self) -> Errno {
        match self {
            AttachError::AlreadyAttached | AttachError::Occupied => Errno::EBUSY,
            AttachError::TooMany => Errno::E2BIG,
            AttachError::Patch(cause) => cause.errno(),
            AttachError::Host(errno) => *errno,
        }
    }
}

impl std::fmt::Display for AttachError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AttachError::AlreadyAttached => {
                f.write_str("the program is attached to this function already")
            }
            AttachError::Occupied => f.write_str("the function is replaced or traced already"),
            AttachError::TooMany => {
                write!(f, "the function has {PROGS_PER_TARGET} programs already")
            }
            AttachError::Patch(cause) => cause.fmt(f),
            AttachError::Host(errno) => write!(f, "generating the image: {errno}"),
        }
    }
}

impl std::error::Error for AttachError {}

/// A published image and the gate that leads to it.
struct Live {
    gate: Gate,
    image: Image,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// Closed and drained.
    idle_gates: Vec<Gate>,
    /// Closed, perhaps with threads inside.
    retired: Vec<Live>,
    /// Detached programs that a thread may still be about to call.
    detached: Vec<ImageProg>,
    /// Attachments that exist.
    attached: usize,
    /// Entry of the program that replaces the function.
    replaced_by: Option<usize>,
}

/// A function that can be traced.
pub struct Target {
    site: Site,
    frame: Frame,
    state: Mutex<State>,
    /// There is something to release.
    is_dirty: AtomicBool,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("site", &self.site)
            .field("frame", &self.frame)
            .finish_non_exhaustive()
    }
}

impl Target {
    /// The function behind `site`, whose arguments are as `model` says.
    ///
    /// # Safety
    /// With [`Certainty::Certain`], the function's code follows the model: programs see, and images preserve, what it names.
    pub unsafe fn new(site: Site, model: &FuncModel, certainty: Certainty) -> Arc<Target> {
        let target = Arc::new(Target {
            site,
            frame: Frame::of(model, certainty),
            state: Mutex::default(),
            is_dirty: AtomicBool::new(false),
        });
        reaper().push(Arc::downgrade(&target));
        start_reaper();
        target
    }

    /// Address of the function.
    pub fn address(&self) -> usize {
        self.site.address()
    }

    /// Number of u64 slots of arguments that programs see.
    pub fn arg_slots(&self) -> usize {
        self.frame.slots.len()
    }

    /// Programs attached.
    pub fn attached(&self) -> usize {
        self.state().attached
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches a program: all or nothing. It runs before the programs of its kind that are there.
    ///
    /// # Errors
    /// [`AttachError`]; nothing has changed then.
    pub fn attach(
        self: &Arc<Self>,
        kind: ProgKind,
        prog: ProgRef,
        cookie: u64,
    ) -> Result<Attachment, AttachError> {
        let mut state = self.state();
        if state.replaced_by.is_some() {
            return Err(AttachError::Occupied);
        }
        if state.retired.len() >= RETIRED_MAX {
            free_drained(&mut state);
        }
        let others: Vec<ImageProg> = state
            .live
            .iter()
            .flat_map(|live| live.image.live().cloned())
            .collect();
        if others
            .iter()
            .any(|other| other.prog.id() == prog.id() && other.kind == kind)
        {
            return Err(AttachError::AlreadyAttached);
        }
        if others.len() >= PROGS_PER_TARGET {
            return Err(AttachError::TooMany);
        }
        let key = next_key();
        let row = rows()
            .acquire(prog.id())
            .ok_or(AttachError::Host(Errno::ENOSPC))?;
        let first = ImageProg {
            prog,
            kind,
            cookie,
            row,
            key,
        };
        let prog_id = first.prog.id();
        let undo = |error| {
            rows().release(prog_id);
            error
        };
        // Newest first, and the kinds in the order in which they run.
        let mut progs: Vec<ImageProg> = std::iter::once(first).chain(others).collect();
        progs.sort_by_key(|prog| prog.kind);
        let gate = match state.idle_gates.pop() {
            Some(gate) => gate,
            None => Gate::new(self.site.body()).map_err(|errno| undo(AttachError::Host(errno)))?,
        };
        // Room for everything that this and later steps leave behind.
        state.retired.reserve(2);
        state.idle_gates.reserve(2);
        let detached = progs.len();
        state.detached.reserve(detached + 1);
        let image = match Image::generate(&self.frame, self.site.address(), &gate, progs) {
            Ok(image) => image,
            Err(errno) => {
                state.idle_gates.push(gate);
                return Err(undo(AttachError::Host(errno)));
            }
        };
        gate.open(image.address());
        let from = state.live.as_ref().map(|live| live.gate.enter());
        if let Err(cause) = self.site.patch(from, Some(gate.enter())) {
            // Nobody has seen the gate's image: the site never led there.
            gate.close();
            state.retired.push(Live { gate, image });
            self.is_dirty.store(true, Ordering::Release);
            return Err(undo(AttachError::Patch(cause)));
        }
        if let Some(old) = state.live.replace(Live { gate, image }) {
            old.gate.close();
            state.retired.push(old);
            self.is_dirty.store(true, Ordering::Release);
        }
        state.attached += 1;
        Ok(Attachment {
            target: self.clone(),
            key,
        })
    }

    /// Replaces the function by a compiled program of the same prototype (freplace): its entry becomes a jump.
    ///
    /// # Errors
    /// [`AttachError::Occupied`]: something is attached, or the function is replaced already (`EBUSY`, as in Linux).
    pub fn replace(self: &Arc<Self>, prog: ProgRef) -> Result<Replacement, AttachError> {
        let mut state = self.state();
        if state.attached != 0 || state.replaced_by.is_some() {
            return Err(AttachError::Occupied);
        }
        let entry = prog.entry().code as *const () as usize;
        self.site
            .patch(None, Some(entry))
            .map_err(AttachError::Patch)?;
        state.replaced_by = Some(entry);
        // Room for what the end of the replacement leaves behind.
        state.detached.reserve(1);
        let row = rows().acquire(prog.id()).unwrap_or(0);
        let prog = ImageProg {
            prog,
            kind: ProgKind::Fentry,
            cookie: 0,
            row,
            key: 0,
        };
        Ok(Replacement {
            target: self.clone(),
            prog: Some(prog),
        })
    }

    /// Ends a replacement. Does not fail, does not allocate.
    fn restore(&self, prog: ImageProg) {
        let mut state = self.state();
        if let Some(entry) = state.replaced_by.take() {
            // As in `detach`.
            let _ = self.site.patch(Some(entry), None);
        }
        state.detached.push(prog);
        self.is_dirty.store(true, Ordering::Release);
    }

    /// Takes a program out. Does not fail, does not allocate.
    fn detach(&self, key: u64) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(live) = &mut state.live else { return };
        let Some(prog) = live.image.disable(key) else {
            return;
        };
        // Reserved by `attach`.
        state.detached.push(prog);
        state.attached -= 1;
        if state.attached == 0
            && let Some(live) = state.live.take()
        {
            // A child process leaves its parent's text alone; the gate, shared too, then passes everybody by.
            let _ = self.site.patch(Some(live.gate.enter()), None);
            live.gate.close();
            state.retired.push(live);
        }
        self.is_dirty.store(true, Ordering::Release);
    }

    /// Releases what nobody can be using any more; what is still in use stays for the next time.
    pub fn reap(&self) {
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut state = self.state();
        free_drained(&mut state);
        let is_clean = state.retired.is_empty();
        let detached: Vec<ImageProg> = state.detached.drain(..).collect();
        drop(state);
        // Not under the lock: waiting for readers must not delay who attaches or detaches.
        let left = free_detached(detached);
        if !is_clean || !left.is_empty() {
            self.state().detached.extend(left);
            self.is_dirty.store(true, Ordering::Release);
        }
    }

    /// Images that wait until the threads inside have left; for tests.
    pub fn retired(&self) -> usize {
        self.state().retired.len()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Attachments keep the target, so nothing is live; threads may still be inside what is retired.
        let mut state =
            std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        loop {
            free_drained(&mut state);
            state.detached = free_detached(std::mem::take(&mut state.detached));
            if state.retired.is_empty() && state.detached.is_empty() {
                return;
            }
            if rcu::in_read_section() {
                // Waiting here could be waiting for ourselves: the images stay for ever, which is safe.
                std::mem::forget(state);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Frees retired images that nobody is in.
fn free_drained(state: &mut State) {
    if state.retired.is_empty() {
        return;
    }
    barrier_all_threads();
    let mut at = 0;
    while at < state.retired.len() {
        if state.retired[at].gate.is_drained() {
            let Live { gate, image } = state.retired.swap_remove(at);
            state.idle_gates.push(gate);
            drop(image);
        } else {
            at += 1;
        }
    }
}

/// Drops references to detached programs after a grace period: programs are called inside read sections that begin before their slot is looked
/// at. Gives them back if the caller is in a section itself.
fn free_detached(detached: Vec<ImageProg>) -> Vec<ImageProg> {
    if detached.is_empty() || rcu::synchronize().is_err() {
        return detached;
    }
    for prog in &detached {
        rows().release(prog.prog.id());
    }
    Vec::new()
}

/// A program on a target; dropping it detaches.
#[derive(Debug)]
pub struct Attachment {
    target: Arc<Target>,
    key: u64,
}

impl Attachment {
    /// The target.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.target.detach(self.key);
    }
}

/// A replaced function; dropping it brings the function back.
pub struct Replacement {
    target: Arc<Target>,
    /// Taken on drop.
    prog: Option<ImageProg>,
}

impl std::fmt::Debug for Replacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replacement")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(prog) = self.prog.take() {
            self.target.restore(prog);
        }
    }
}

fn next_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Counter rows by program, so that a program on several targets is protected against itself everywhere.
#[derive(Default)]
struct Rows {
    by_prog: HashMap<u32, (u32, usize)>,
}

fn rows() -> MutexGuard<'static, Rows> {
    static ROWS: OnceLock<Mutex<Rows>> = OnceLock::new();
    ROWS.get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

impl Rows {
    fn acquire(&mut self, prog: u32) -> Option<u32> {
        if let Some((row, count)) = self.by_prog.get_mut(&prog) {
            *count += 1;
            return Some(*row);
        }
        let row = thread::allocate_id()?;
        self.by_prog.insert(prog, (row, 1));
        Some(row)
    }

    fn release(&mut self, prog: u32) {
        let Some((row, count)) = self.by_prog.get_mut(&prog) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            let row = *row;
            self.by_prog.remove(&prog);
            thread::free_id(row);
        }
    }
}

fn reaper() -> MutexGuard<'static, Vec<Weak<Target>>> {
    static TARGETS: Mutex<Vec<Weak<Target>>> = Mutex::new(Vec::new());
    TARGETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread that looks at the targets a hundred times a second. A wakeup per detachment would cost more than the detachment.
fn start_reaper() {
    static START: Once = Once::new();
    START.call_once(|| {
        // Should the host refuse a thread, attachments and the target's end release instead.
        let _ = std::thread::Builder::new()
            .name("ring3-reaper".to_owned())
            .spawn(|| {
                loop {
                    std::thread::sleep(REAP_EVERY);
                    let targets: Vec<Arc<Target>> = {
                        let mut targets = reaper();
                        targets.retain(|target| target.strong_count() != 0);
                        let is_dirty =
                            |target: &Arc<Target>| target.is_dirty.load(Ordering::Acquire);
                        targets
                            .iter()
                            .filter_map(Weak::upgrade)
                            .filter(is_dirty)
                            .collect()
                    };
                    for target in targets {
                        target.reap();
                    }
                }
            });
    });
}
