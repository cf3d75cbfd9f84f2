//! Packs: where machine code lives.
//!
//! ```text
//! pack    2 MiB of memory mapped twice, read-write and read-execute; no page is ever writable and executable in one mapping
//! step    64 bytes; a text takes whole steps, found first-fit after the last place; the first holds the end of the shared frame (`frame`)
//! ```
//!
//! The first packs are placed within reach of a rel32 call from this library's own code, where helpers are. A text is freed through RCU, filled
//! with traps, and its steps are used again only after every core has serialised its instruction stream, once for many texts.
//!
//! Code of [`Class::Framed`] lies in packs of its own, which the unwinder knows: panics of what such code calls pass through it.
//!
//! Key types: [`Text`] (an allocation), the process-wide `Space`. Neighbours: `compile` fills texts, `trampoline` patches and allocates them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ring3_os::map::TwinRegion;
use ring3_sync::rcu;
use ring3_uapi::Errno;

use crate::asm::Asm;
use crate::frame::Frame;

const PACK_BYTES: usize = 2 << 20;
const STEP_BYTES: usize = 64;
const STEPS: usize = PACK_BYTES / STEP_BYTES;
const WORDS: usize = STEPS / 64;
/// rel32 reaches 2 GiB; helpers lie around the anchor, so texts stay within half of that.
const REACH_BYTES: usize = 1 << 30;
const TRAP: u8 = 0xcc;

/// What the unwinder may assume of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing: nobody unwinds through it.
    Plain,
    /// At every call `rbp` points to the caller's `rbp`, with the return address above it and the caller's `rbx` below it.
    Framed,
}

/// One pack and the steps in use.
#[derive(Debug)]
struct Pack {
    region: Arc<TwinRegion>,
    class: Class,
    /// What it was to be placed around.
    wanted: usize,
    /// Bit set: step in use.
    used: Box<[u64; WORDS]>,
    /// Where the next search begins.
    next: usize,
    used_steps: usize,
}

/// All packs of the process.
#[derive(Debug, Default)]
struct Space {
    packs: Vec<Pack>,
    /// Steps that no thread is inside any more, but that a core may have fetched.
    released: Vec<Released>,
    /// Number of those for which cores are being made to serialise.
    leaving_steps: usize,
}

/// Steps of a text that is no more.
#[derive(Debug)]
struct Released {
    region: Arc<TwinRegion>,
    first: usize,
    steps: usize,
}

/// Texts for whose steps cores are made to serialise at once: it interrupts every thread of the process.
const RELEASED_AT_ONCE: usize = 64;

impl Space {
    fn find(
        &mut self,
        steps: usize,
        near: usize,
        class: Class,
    ) -> Option<(usize, Arc<TwinRegion>)> {
        self.packs
            .iter_mut()
            .rev()
            .filter(|pack| pack.class == class && pack.serves(near))
            .find_map(|pack| Some((pack.take(steps)?, pack.region.clone())))
    }

    /// Lets released steps be used again.
    fn reuse(&mut self) {
        if !self.released.is_empty() {
            let released = self.take_released();
            serialise_cores();
            self.give(released);
        }
    }

    fn take_released(&mut self) -> Vec<Released> {
        let released = std::mem::take(&mut self.released);
        self.leaving_steps += Released::steps(&released);
        released
    }

    /// Frees what [`Space::take_released`] gave, after cores have serialised.
    fn give(&mut self, released: Vec<Released>) {
        self.leaving_steps -= Released::steps(&released);
        for Released {
            region,
            first,
            steps,
        } in released
        {
            let is_here = |pack: &&mut Pack| Arc::ptr_eq(&pack.region, &region);
            if let Some(pack) = self.packs.iter_mut().find(is_here) {
                pack.give(first, steps);
            }
        }
    }
}

impl Released {
    fn steps(released: &[Released]) -> usize {
        released.iter().map(|released| released.steps).sum()
    }
}

fn lock() -> MutexGuard<'static, Space> {
    static SPACE: OnceLock<Mutex<Space>> = OnceLock::new();
    let space = SPACE.get_or_init(Mutex::default);
    space.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Executable memory with code in it; freed after a grace period when dropped.
#[derive(Debug)]
pub struct Text {
    region: Arc<TwinRegion>,
    /// Offset in the pack, a multiple of 64.
    offset: usize,
    len_bytes: usize,
}

impl Text {
    /// Room for `len_bytes` of code, at a multiple of 64; the rest of the last step is traps.
    ///
    /// # Errors
    /// `E2BIG`: more than a pack. `ENOTSUPP`: text is shared with the parent process. `ENOMEM`, `EMFILE`, `EACCES`: the host gives no executable memory.
    pub fn allocate(len_bytes: usize) -> Result<Text, Errno> {
        Text::allocate_near(len_bytes, Pack::create as *const () as usize, Class::Plain)
    }

    /// As [`Text::allocate`], in reach of rel32 calls and jumps from and to what lies around `near`, as far as the host has room there.
    ///
    /// # Errors
    /// As [`Text::allocate`].
    pub fn allocate_near(len_bytes: usize, near: usize, class: Class) -> Result<Text, Errno> {
        if ring3_os::fork::is_text_shared() {
            return Err(Errno::ENOTSUPP);
        }
        let steps = len_bytes.div_ceil(STEP_BYTES).max(1);
        if steps > STEPS {
            return Err(Errno::E2BIG);
        }
        let mut space = lock();
        let mut found = space.find(steps, near, class);
        if found.is_none() {
            space.reuse();
            found = space.find(steps, near, class);
        }
        let (first, region) = match found {
            Some(found) => found,
            None => {
                let mut pack = Pack::create(near, class)?;
                let first = pack.take(steps).ok_or(Errno::E2BIG)?;
                let region = pack.region.clone();
                space.packs.push(pack);
                (first, region)
            }
        };
        drop(space);
        let text = Text {
            region,
            offset: first * STEP_BYTES,
            len_bytes,
        };
        text.fill(len_bytes, steps * STEP_BYTES - len_bytes);
        Ok(text)
    }

    /// Address of the first byte as executed.
    pub fn address(&self) -> usize {
        self.region.exec_view().as_ptr().expose_provenance() + self.offset
    }

    /// Address of code in the same pack that ends the shared frame of tail calls and returns.
    pub(crate) fn shared_end(&self) -> usize {
        self.region.exec_view().as_ptr().expose_provenance()
    }

    /// Bytes of code.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    fn writable(&self, offset: usize) -> *mut u8 {
        self.region
            .write_view()
            .as_ptr()
            .wrapping_add(self.offset + offset)
    }

    fn fill(&self, offset: usize, len_bytes: usize) {
        // SAFETY: 1. the steps are ours until drop and lie inside the writable view; 2. nobody executes them: they hold no code yet, or none
        // any more.
        unsafe { self.writable(offset).write_bytes(TRAP, len_bytes) };
    }

    /// Writes code that no thread executes yet.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn write(&self, offset: usize, code: &[u8]) {
        assert!(
            offset + code.len() <= self.len_bytes,
            "code of {} bytes at {offset} in a text of {}",
            code.len(),
            self.len_bytes
        );
        // SAFETY: 1. inside the text by the assertion; 2. the caller runs it only afterwards.
        unsafe {
            self.writable(offset)
                .copy_from_nonoverlapping(code.as_ptr(), code.len())
        };
    }

    /// The code as it is now.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len_bytes];
        // SAFETY: 1. the text is readable through the writable view for its length.
        unsafe {
            self.writable(0)
                .copy_to_nonoverlapping(bytes.as_mut_ptr(), self.len_bytes)
        };
        bytes
    }

    /// Replaces the aligned quadword at `offset` if it is `old`, in one store, while threads may execute it.
    ///
    /// # Errors
    /// The quadword found, if it is not `old`, or if text is shared with the parent process.
    ///
    /// # Panics
    /// If `offset` is not a multiple of 8 inside the text's steps.
    pub fn patch_quadword(&self, offset: usize, old: u64, new: u64) -> Result<(), u64> {
        let room = self.len_bytes.next_multiple_of(STEP_BYTES);
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= room,
            "patch at {offset} of {room}"
        );
        if ring3_os::fork::is_text_shared() {
            return Err(self.quadword(offset));
        }
        // SAFETY: 1. aligned and inside our steps by the assertion; 2. the view is writable and the memory lives as long as `self`.
        let word = unsafe { AtomicU64::from_ptr(self.writable(offset).cast()) };
        word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .map(drop)
    }

    /// The aligned quadword at `offset`.
    ///
    /// # Panics
    /// As [`Text::patch_quadword`].
    pub fn quadword(&self, offset: usize) -> u64 {
        let room = self.len_bytes.next_multiple_of(STEP_BYTES);
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= room,
            "read at {offset} of {room}"
        );
        // SAFETY: as `patch_quadword`.
        unsafe { AtomicU64::from_ptr(self.writable(offset).cast()) }.load(Ordering::SeqCst)
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        let region = self.region.clone();
        let (offset, steps) = (self.offset, self.len_bytes.div_ceil(STEP_BYTES).max(1));
        rcu::call_rcu(move || release(&region, offset, steps));
    }
}

/// Gives steps back; no thread is inside them any more.
fn release(region: &Arc<TwinRegion>, offset: usize, steps: usize) {
    if ring3_os::fork::is_text_shared() {
        // The parent may still run it.
        return;
    }
    // SAFETY: 1. the steps were a text's and nobody reuses them before the bits below are cleared; 2. the grace period is over.
    unsafe {
        region
            .write_view()
            .as_ptr()
            .add(offset)
            .write_bytes(TRAP, steps * STEP_BYTES)
    };
    let mut space = lock();
    space.released.push(Released {
        region: region.clone(),
        first: offset / STEP_BYTES,
        steps,
    });
    if space.released.len() >= RELEASED_AT_ONCE {
        let released = space.take_released();
        // Compilations do not wait for it: the first time it takes milliseconds.
        drop(space);
        serialise_cores();
        lock().give(released);
    }
}

/// Bytes of all [`Text`]s that live, in whole steps.
pub fn used_bytes() -> usize {
    let space = lock();
    // Without the step that each pack keeps for itself.
    let steps: usize = space.packs.iter().map(|pack| pack.used_steps - 1).sum();
    (steps - Released::steps(&space.released) - space.leaving_steps) * STEP_BYTES
}

/// Makes every core forget instructions it fetched ahead. Where the host cannot, x86's coherent instruction cache and the grace
/// period (each thread has executed a return since) are what remains.
fn serialise_cores() {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    if *REGISTERED.get_or_init(|| ring3_os::membarrier::register_sync_core().is_ok()) {
        let _ = ring3_os::membarrier::sync_core();
    }
}

impl Pack {
    fn create(near: usize, class: Class) -> Result<Pack, Errno> {
        let in_reach =
            TwinRegion::create_near("ring3-text", PACK_BYTES, PACK_BYTES, near, REACH_BYTES);
        let region = match in_reach {
            Ok(region) => region,
            // Out of reach: calls go through veneers.
            Err(_) => TwinRegion::create("ring3-text", PACK_BYTES, PACK_BYTES)?,
        };
        if class == Class::Framed {
            let start = region.exec_view().as_ptr().expose_provenance();
            ring3_os::unwind::describe_frame_pointer_code(start, PACK_BYTES);
        }
        let mut pack = Pack {
            region: Arc::new(region),
            class,
            wanted: near,
            used: Box::new([0; WORDS]),
            next: 0,
            used_steps: 0,
        };
        let mut asm = Asm::in_buffer(Vec::new(), STEP_BYTES);
        Frame::shared().epilogue(&mut asm);
        let end = asm.code();
        if pack.take(1) != Some(0) || end.len() > STEP_BYTES {
            return Err(Errno::E2BIG);
        }
        // SAFETY: 1. the first step is inside the view; 2. the pack is new, nobody executes it.
        unsafe {
            pack.region
                .write_view()
                .as_ptr()
                .copy_from_nonoverlapping(end.as_ptr(), end.len())
        };
        Ok(pack)
    }

    /// Whether rel32 leads from here to `address` and its surroundings, or there was no room for a pack that it does from.
    fn serves(&self, address: usize) -> bool {
        let start = self.region.exec_view().as_ptr() as usize;
        [start, self.wanted]
            .iter()
            .any(|place| place.abs_diff(address) <= REACH_BYTES)
    }

    fn is_used(&self, step: usize) -> bool {
        self.used[step / 64] >> (step % 64) & 1 != 0
    }

    /// Takes `count` free steps in a row.
    fn take(&mut self, count: usize) -> Option<usize> {
        if STEPS - self.used_steps < count {
            return None;
        }
        let first = self
            .find(self.next, STEPS, count)
            .or_else(|| self.find(0, STEPS, count))?;
        for step in first..first + count {
            self.used[step / 64] |= 1 << (step % 64);
        }
        self.used_steps += count;
        self.next = first + count;
        Some(first)
    }

    fn find(&self, from: usize, to: usize, count: usize) -> Option<usize> {
        let mut first = from;
        let mut step = from;
        while step < to {
            if step.is_multiple_of(64) && self.used[step / 64] == u64::MAX {
                step += 64;
                first = step;
                continue;
            }
            if self.is_used(step) {
                first = step + 1;
            } else if step + 1 - first == count {
                return Some(first);
            }
            step += 1;
        }
        None
    }

    fn give(&mut self, first: usize, count: usize) {
        for step in first..first + count {
            self.used[step / 64] &= !(1 << (step % 64));
        }
        self.used_steps -= count;
        self.next = self.next.min(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_given_back_and_reused() {
        let mut pack = Pack::create(Pack::create as *const () as usize, Class::Plain).unwrap();
        let first = pack.take(3).unwrap();
        let second = pack.take(STEPS - 4).unwrap();
        assert_eq!((first, second), (1, 4));
        assert_eq!(pack.take(1), None);
        pack.give(first, 3);
        assert_eq!(pack.take(4), None);
        assert_eq!(pack.take(2), Some(1));
        assert_eq!(pack.take(1), Some(3));
    }

    #[test]
    fn released_steps_are_found_again_once_cores_have_serialised() {
        let near = Pack::create as *const () as usize;
        let mut pack = Pack::create(near, Class::Plain).unwrap();
        let first = pack.take(STEPS - 1).unwrap();
        let region = pack.region.clone();
        let mut space = Space {
            packs: vec![pack],
            released: vec![Released {
                region,
                first,
                steps: STEPS - 1,
            }],
            leaving_steps: 0,
        };
        assert!(space.find(1, near, Class::Plain).is_none());
        space.reuse();
        assert!(space.released.is_empty());
        let (found, _) = space.find(STEPS - 1, near, Class::Plain).unwrap();
        assert_eq!(found, first);
    }

    #[test]
    fn code_written_runs_and_quadwords_are_patched() {
        let text = Text::allocate(100).unwrap();
        // mov eax, 42; ret
        text.write(0, &[0xb8, 42, 0, 0, 0, 0xc3, 0xcc, 0xcc]);
        let code = text.address() as *const ();
        // SAFETY: the bytes are a function without arguments.
        let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(code) };
        assert_eq!(function(), 42);
        let old = text.quadword(0);
        let new = (old & !0xff00) | 43 << 8;
        assert_eq!(text.patch_quadword(0, 7, new), Err(old));
        assert_eq!(text.patch_quadword(0, old, new), Ok(()));
        assert_eq!(function(), 43);
        assert_eq!(text.address() % 64, 0);
    }

    #[test]
    fn text_is_in_reach_of_this_code() {
        let text = Text::allocate(1).unwrap();
        let here = Pack::create as *const () as usize;
        assert!(text.address().abs_diff(here) < 1 << 31);
    }

    #[test]
    fn a_text_larger_than_a_pack_is_refused() {
        assert_eq!(Text::allocate(PACK_BYTES + 1).unwrap_err(), Errno::E2BIG);
    }
}
