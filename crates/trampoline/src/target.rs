//! Targets: functions that can be traced, and the programs on them.
//!
//! Attaching generates a whole new list, lets the gate's word point to it, and lets the site jump to the gate: every call runs either the old
//! list or the new one. Detaching edits the running list: one store, and up to three more for the last program of a list. What is left over
//! (lists, references) is released after a grace period by a background thread; all room for leftovers is reserved by `attach`, so that detaching
//! does not allocate.
//!
//! Programs that run after the function are those of the moment when it returns: a call that began before an attachment runs its fexit program too.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring3_btf::FuncModel;
use ring3_jit_x86_64::Compiled;
use ring3_runtime::ProgRef;
use ring3_sync::rcu;
use ring3_uapi::Errno;

use crate::attachment::{AttachError, Attachment, Replacement};
use crate::frame::{Certainty, Frame, Layout};
use crate::gate::Gate;
use crate::list::{Attached, Exits, List};
use crate::reaper;
use crate::rows::rows;
use crate::site::{PatchError, Site};

/// Most programs on one target, of all kinds together. Linux 6.18 has 38.
// DIVERGES: 64 programs per target and kind instead of 38 in all; nothing here is bound to a page.
pub const PROGS_PER_TARGET: usize = 192;

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

/// Code and references that were taken out, until nobody can be using them.
#[derive(Default)]
pub(crate) struct Leftovers {
    lists: Vec<List>,
    progs: Vec<Attached>,
}

impl Leftovers {
    fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.progs.is_empty()
    }

    /// Room for everything that detaching `attached` programs leaves behind.
    fn reserve(&mut self, attached: usize) {
        self.lists.reserve(2);
        self.progs.reserve(attached);
    }

    /// Ends everything. A grace period is over.
    pub(crate) fn release(self) {
        let mut rows = rows();
        let listed = self.lists.iter().flat_map(List::live);
        for prog in self.progs.iter().chain(listed) {
            rows.release(&*prog.prog);
        }
    }
}

#[derive(Default)]
struct State {
    before: Option<List>,
    after: Option<List>,
    /// Where the site jumps to.
    jump: Option<usize>,
    leftovers: Leftovers,
    /// Entry of the program that replaces the function.
    replaced_by: Option<usize>,
}

impl State {
    fn lists(&self) -> impl Iterator<Item = &List> {
        [&self.before, &self.after].into_iter().flatten()
    }

    fn attached(&self) -> usize {
        self.lists().map(List::len).sum()
    }
}

/// A function that can be traced.
pub struct Target {
    site: Site,
    slots: usize,
    layout: Layout,
    /// Taken on drop.
    gate: Result<ManuallyDrop<Gate>, Errno>,
    state: Mutex<State>,
    /// There is something to release.
    is_dirty: AtomicBool,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("site", &self.site)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl Target {
    /// The function behind `site`, whose arguments are as `model` says.
    ///
    /// # Safety
    /// With [`Certainty::Certain`], the function's code follows the model: programs see, and gates preserve, what it names.
    pub unsafe fn new(site: Site, model: &FuncModel, certainty: Certainty) -> Arc<Target> {
        Target::with_frame(site, &Frame::of(model, certainty))
    }

    /// A function of a compiled program; programs see as many arguments as `model` has.
    ///
    /// # Errors
    /// As [`Site::of_program`].
    pub fn of_program(
        program: Arc<Compiled>,
        function: usize,
        model: &FuncModel,
    ) -> Result<Arc<Target>, PatchError> {
        let site = Site::of_program(program, function)?;
        let frame = Frame::of_bpf(model, function == 0);
        Ok(Target::with_frame(site, &frame))
    }

    fn with_frame(site: Site, frame: &Frame) -> Arc<Target> {
        let target = Arc::new(Target {
            slots: frame.slots.len(),
            layout: Layout::of(frame),
            // Where there is none, attaching says why.
            gate: Gate::new(&site, frame).map(ManuallyDrop::new),
            site,
            state: Mutex::default(),
            is_dirty: AtomicBool::new(false),
        });
        reaper::register(target.clone());
        target
    }

    /// Address of the function.
    pub fn address(&self) -> usize {
        self.site.address()
    }

    /// Number of u64 slots of arguments that programs see.
    pub fn arg_slots(&self) -> usize {
        self.slots
    }

    /// Programs attached.
    pub fn attached(&self) -> usize {
        self.state().attached()
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
        let gate = self
            .gate
            .as_ref()
            .map_err(|errno| AttachError::Host(*errno))?;
        let mut state = self.state();
        if state.replaced_by.is_some() {
            return Err(AttachError::Occupied);
        }
        let is_same = |other: &Attached| Arc::ptr_eq(&other.prog, &prog) && other.kind == kind;
        if state.lists().any(|list| list.live().any(is_same)) {
            return Err(AttachError::AlreadyAttached);
        }
        let attached = state.attached();
        if attached >= PROGS_PER_TARGET {
            return Err(AttachError::TooMany);
        }
        let key = next_key();
        let row = rows()
            .acquire(&prog)
            .ok_or(AttachError::Host(Errno::ENOSPC))?;
        let first = Attached {
            prog: Arc::clone(&prog),
            kind,
            cookie,
            row,
            key,
        };
        // Room for everything that this and later steps leave behind.
        state.leftovers.reserve(attached + 1);
        let lists = match self.lists_with(gate, &state, first) {
            Ok(lists) => lists,
            Err(errno) => {
                rows().release(&*prog);
                return Err(AttachError::Host(errno));
            }
        };
        let old = self.publish(gate, &mut state, lists)?;
        drop(state);
        retire(old);
        reaper::stand_in();
        Ok(Attachment::new(self.clone(), key))
    }

    /// The lists that change by one program more.
    fn lists_with(&self, gate: &Gate, state: &State, first: Attached) -> Result<Lists, Errno> {
        let is_after = first.kind == ProgKind::Fexit;
        let mut lists = Lists::default();
        let others = |list: &Option<List>| -> Vec<Attached> {
            list.iter().flat_map(|list| list.live().cloned()).collect()
        };
        // Newest first, and the kinds in the order in which they run.
        let with_first = |list: &Option<List>| {
            let mut progs = vec![first.clone()];
            progs.extend(list.iter().flat_map(|list| list.live().cloned()));
            progs.sort_by_key(|prog| prog.kind);
            progs
        };
        if is_after {
            lists.after = Some(self.list_after(gate, with_first(&state.after))?);
            // A list before that lets the function run in its place has to call it from now on.
            if state
                .before
                .as_ref()
                .is_some_and(|before| before.end == gate.pass())
            {
                lists.before = Some(self.list_before(gate, others(&state.before), gate.call())?);
            }
        } else {
            let end = if state.after.is_some() {
                gate.call()
            } else {
                gate.pass()
            };
            lists.before = Some(self.list_before(gate, with_first(&state.before), end)?);
        }
        Ok(lists)
    }

    fn list_before(&self, gate: &Gate, progs: Vec<Attached>, end: usize) -> Result<List, Errno> {
        List::generate(
            &self.layout,
            progs,
            Exits {
                end,
                skip: gate.skip(),
            },
        )
    }

    fn list_after(&self, gate: &Gate, progs: Vec<Attached>) -> Result<List, Errno> {
        let exits = Exits {
            end: gate.finish(),
            skip: gate.finish(),
        };
        List::generate(&self.layout, progs, exits)
    }

    /// Puts lists in the place of those that are there, which it returns.
    fn publish(&self, gate: &Gate, state: &mut State, lists: Lists) -> Result<Lists, AttachError> {
        let has_before = lists.before.is_some() || state.before.is_some();
        let jump = Some(if has_before {
            gate.before()
        } else {
            gate.after()
        });
        // First what runs last: who finds the new list before may need the new one after.
        if let Some(after) = &lists.after {
            gate.set_after(after.address());
        }
        if let Some(before) = &lists.before {
            gate.set_before(before.address());
        }
        if jump != state.jump
            && let Err(cause) = self.site.patch(state.jump, jump)
        {
            // A thread that stood in the gate since an earlier time may have seen the new lists.
            let address_or =
                |list: &Option<List>, otherwise| list.as_ref().map_or(otherwise, List::address);
            gate.set_before(address_or(&state.before, gate.pass()));
            gate.set_after(address_or(&state.after, gate.finish()));
            state.leftovers.lists.extend(lists.into_iter());
            self.mark_dirty();
            return Err(AttachError::Patch(cause));
        }
        state.jump = jump;
        Ok(Lists {
            before: lists.before.and_then(|list| state.before.replace(list)),
            after: lists.after.and_then(|list| state.after.replace(list)),
        })
    }

    /// Generates the lists anew: what they are made of has changed.
    pub(crate) fn regenerate(&self) {
        let Ok(gate) = &self.gate else { return };
        let mut state = self.state();
        let lists = || -> Result<Lists, Errno> {
            let progs = |list: &List| list.live().cloned().collect();
            let before = state.before.as_ref();
            let after = state.after.as_ref();
            Ok(Lists {
                before: before
                    .map(|list| self.list_before(gate, progs(list), list.end))
                    .transpose()?,
                after: after
                    .map(|list| self.list_after(gate, progs(list)))
                    .transpose()?,
            })
        };
        // Without memory for new ones the old ones stay, and the site's jump does not change.
        if let Ok(lists) = lists()
            && let Ok(old) = self.publish(gate, &mut state, lists)
        {
            drop(state);
            retire(old);
        }
    }

    /// Replaces the function by a compiled program of the same prototype (freplace): its entry becomes a jump.
    ///
    /// # Errors
    /// [`AttachError::Occupied`]: something is attached, or the function is replaced already (`EBUSY`, as in Linux).
    pub fn replace(self: &Arc<Self>, prog: ProgRef) -> Result<Replacement, AttachError> {
        let mut state = self.state();
        if state.attached() != 0 || state.replaced_by.is_some() {
            return Err(AttachError::Occupied);
        }
        let entry = prog.entry().code as *const () as usize;
        let row = rows()
            .acquire(&prog)
            .ok_or(AttachError::Host(Errno::ENOSPC))?;
        if let Err(cause) = self.site.patch(None, Some(entry)) {
            rows().release(&*prog);
            return Err(AttachError::Patch(cause));
        }
        state.replaced_by = Some(entry);
        // Room for what the end of the replacement leaves behind.
        state.leftovers.reserve(1);
        let prog = Attached {
            prog,
            kind: ProgKind::Fentry,
            cookie: 0,
            row,
            key: 0,
        };
        Ok(Replacement::new(self.clone(), prog))
    }

    /// Ends a replacement. Does not fail, does not allocate.
    pub(crate) fn restore(&self, prog: Attached) {
        let mut state = self.state();
        if let Some(entry) = state.replaced_by.take() {
            // As in `detach`.
            let _ = self.site.patch(Some(entry), None);
        }
        state.leftovers.progs.push(prog);
        drop(state);
        self.mark_dirty();
    }

    /// Takes a program out. Does not fail, does not allocate: at most four stores to text.
    pub(crate) fn detach(&self, key: u64) {
        let Ok(gate) = &self.gate else { return };
        let mut state = self.state();
        let state = &mut *state;
        let take = |list: &mut Option<List>| list.as_mut().and_then(|list| list.disable(key));
        let Some(prog) = take(&mut state.before).or_else(|| take(&mut state.after)) else {
            return;
        };
        // Reserved by `attach`, like the room for lists below.
        state.leftovers.progs.push(prog);
        if let Some(list) = state.after.take_if(|list| list.len() == 0) {
            gate.set_after(gate.finish());
            state.leftovers.lists.push(list);
        }
        if let Some(list) = state.before.take_if(|list| list.len() == 0) {
            let jump = state.after.is_some().then(|| gate.after());
            self.repoint(state, jump);
            gate.set_before(if jump.is_some() {
                gate.call()
            } else {
                gate.pass()
            });
            state.leftovers.lists.push(list);
        } else if state.before.is_none() && state.after.is_none() {
            self.repoint(state, None);
        }
        self.mark_dirty();
    }

    /// Moves the site's jump. A site that somebody else has changed is left alone: the gate then lets everybody pass.
    fn repoint(&self, state: &mut State, jump: Option<usize>) {
        let _ = self.site.patch(state.jump, jump);
        state.jump = jump;
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.is_dirty.load(Ordering::Acquire)
    }

    fn mark_dirty(&self) {
        self.is_dirty.store(true, Ordering::Release);
        reaper::wake();
    }

    /// Releases what was taken out, after a grace period. In a read section, which is part of that period, it stays for the next time.
    pub fn reap(&self) {
        let Some(taken) = self.take_leftovers() else {
            return;
        };
        // Not under the lock: waiting for readers must not delay who attaches or detaches.
        if rcu::synchronize().is_ok() {
            taken.release();
        } else {
            self.give_back(taken);
        }
    }

    /// What was taken out, if anything. Room for what comes next stays: detaching meanwhile finds it.
    pub(crate) fn take_leftovers(&self) -> Option<Leftovers> {
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut taken = Leftovers::default();
        let mut state = self.state();
        let attached = state.attached();
        taken.reserve(attached + 1);
        std::mem::swap(&mut taken, &mut state.leftovers);
        Some(taken)
    }

    pub(crate) fn give_back(&self, mut taken: Leftovers) {
        let mut state = self.state();
        state.leftovers.lists.append(&mut taken.lists);
        state.leftovers.progs.append(&mut taken.progs);
        let attached = state.attached();
        state.leftovers.reserve(attached + 1);
        drop(state);
        self.mark_dirty();
    }

    /// Lists and programs that wait for their release; for tests.
    pub fn retired(&self) -> usize {
        let state = self.state();
        state.leftovers.lists.len() + state.leftovers.progs.len()
    }
}

/// New lists of a target, where they change.
#[derive(Default)]
struct Lists {
    before: Option<List>,
    after: Option<List>,
}

impl Lists {
    fn into_iter(self) -> impl Iterator<Item = List> {
        [self.before, self.after].into_iter().flatten()
    }
}

/// Frees lists after a grace period. Their programs are in new ones, with the same rows. Not under a target's lock: the caller may have to free
/// what others have left, which takes any lock.
fn retire(lists: Lists) {
    lists.into_iter().for_each(rcu::drop_rcu);
}

impl Drop for Target {
    fn drop(&mut self) {
        // Attachments keep the target, so nothing is attached.
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let leftovers = std::mem::take(&mut state.leftovers);
        if !leftovers.is_empty() {
            rcu::call_rcu(move || leftovers.release());
        }
        if let Ok(gate) = &mut self.gate {
            // SAFETY: 1. taken once, here.
            unsafe { ManuallyDrop::take(gate) }.retire();
        }
    }
}

fn next_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
