//! The stack of runs on one thread: BPF frames of 512 bytes and, apart from them, what calls save. Runs nest (a callback, a program that
//! a helper runs); an inner run's frames lie below the outer's, so that all live frames are one range of addresses. Its content is what
//! earlier runs left, never uninitialised memory. Neighbours: `run` and `step`, the only users.

use std::cell::Cell;
use std::rc::Rc;

use crate::op::Step;
use crate::program::Inner;

/// Bytes of one frame.
pub(crate) const FRAME_BYTES: u64 = ring3_runtime::MAX_STACK_BYTES as u64;

/// Frames of one run: eight of the first program, and seven more for each program that a tail call enters in a subprogram's frame.
pub(crate) const RUN_FRAMES: usize = ring3_runtime::MAX_CALL_FRAMES
    + (ring3_runtime::MAX_CALL_FRAMES - 1) * ring3_runtime::MAX_TAIL_CALLS as usize;

/// Frames of one thread's stack; a run that finds less than [`RUN_FRAMES`] left gets a stack of its own.
const THREAD_FRAMES: usize = 4 * RUN_FRAMES;

/// What a call of a subprogram saves.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Saved {
    /// Where to go on.
    pub(crate) pc: *const Step,
    /// The program it belongs to (a tail call may have changed it).
    pub(crate) program: *const Inner,
    /// r6 to r9, if `restores`.
    pub(crate) callee_saved: [u64; 4],
    /// Whether the function may have changed r6 to r9.
    pub(crate) restores: bool,
    pub(crate) may_goto_left: u32,
}

impl Saved {
    const EMPTY: Saved = Saved {
        pc: std::ptr::null(),
        program: std::ptr::null(),
        callee_saved: [0; 4],
        restores: false,
        may_goto_left: 0,
    };
}

/// Memory for frames. Frame `n` is the `n`-th from the top.
pub(crate) struct Stack {
    /// Made by `Box::into_raw`; `words` of them. Programs access it through addresses, this module only while no program runs in it.
    bytes: *mut u64,
    words: usize,
    saved: *mut Saved,
    frames: usize,
    used: Cell<usize>,
}

impl Stack {
    fn new(frames: usize) -> Rc<Stack> {
        let words = frames * FRAME_BYTES as usize / size_of::<u64>();
        Rc::new(Stack {
            // Zero pages of the host: a page costs nothing until a frame reaches it.
            bytes: Box::into_raw(vec![0u64; words].into_boxed_slice()).cast(),
            words,
            saved: Box::into_raw(vec![Saved::EMPTY; frames].into_boxed_slice()).cast(),
            frames,
            used: Cell::new(0),
        })
    }

    /// The value of r10 in frame `at`: the address after the frame's last byte.
    fn frame_pointer(&self, at: usize) -> u64 {
        let top = self.bytes.expose_provenance() as u64 + (self.words * size_of::<u64>()) as u64;
        top - at as u64 * FRAME_BYTES
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let slice = std::ptr::slice_from_raw_parts_mut(self.bytes, self.words);
        // SAFETY: 1. `new` made the box with this length; 2. runs hold the stack by `Rc`, so none is left.
        drop(unsafe { Box::from_raw(slice) });
        let slice = std::ptr::slice_from_raw_parts_mut(self.saved, self.frames);
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(slice) });
    }
}

thread_local! {
    static STACK: Rc<Stack> = Stack::new(THREAD_FRAMES);
}

/// The part of a stack that one run uses, from frame `base` on. Dropping it frees the frames.
pub(crate) struct RunFrames {
    stack: Rc<Stack>,
    base: usize,
    /// Frame pointer at depth 0.
    top: u64,
    /// What calls save, by depth.
    saved: *mut Saved,
}

impl RunFrames {
    pub(crate) fn take() -> RunFrames {
        let shared = STACK.try_with(Rc::clone).ok();
        let stack = match shared {
            Some(stack) if THREAD_FRAMES - stack.used.get() >= RUN_FRAMES => stack,
            // Deeply nested, or the thread is ending.
            _ => Stack::new(RUN_FRAMES),
        };
        let base = stack.used.get();
        stack.used.set(base + 1);
        let top = stack.frame_pointer(base);
        let saved = stack.saved.wrapping_add(base);
        RunFrames {
            stack,
            base,
            top,
            saved,
        }
    }

    /// Sets the number of frames in use: those of outer runs, and `depth` calls.
    #[inline(always)]
    pub(crate) fn set_depth(&self, depth: usize) {
        self.stack.used.set(self.base + depth + 1);
    }

    /// The value of r10 at a depth.
    #[inline(always)]
    pub(crate) fn frame_pointer(&self, depth: usize) -> u64 {
        self.top - depth as u64 * FRAME_BYTES
    }

    /// What the call that opened the frame at `depth` saved.
    ///
    /// # Safety
    /// `depth` is below [`RUN_FRAMES`].
    #[inline(always)]
    pub(crate) unsafe fn saved(&mut self, depth: usize) -> &mut Saved {
        // SAFETY: 1. `take` left room for RUN_FRAMES frames, all initialised; 2. outer runs use those before `base`, inner ones those
        // after this run's, and this borrow is the only one of this run.
        unsafe { &mut *self.saved.add(depth) }
    }

    /// Fills a frame with zeros, so that what a checked run reads does not depend on earlier runs.
    pub(crate) fn clear(&self, depth: usize) {
        let bottom = self.frame_pointer(depth) - FRAME_BYTES;
        let bottom = std::ptr::with_exposed_provenance_mut::<u8>(bottom as usize);
        // SAFETY: 1. frame `base + depth` lies inside the stack: `take` left room for RUN_FRAMES and `step` stays below; 2. no program
        // runs in a frame that is being opened.
        unsafe { bottom.write_bytes(0, FRAME_BYTES as usize) };
    }
}

impl Drop for RunFrames {
    fn drop(&mut self) {
        self.stack.used.set(self.base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_runs_lie_below_and_deep_ones_get_their_own() {
        let outer = RunFrames::take();
        outer.set_depth(2);
        let inner = RunFrames::take();
        assert_eq!(inner.frame_pointer(0), outer.frame_pointer(3));
        inner.set_depth(THREAD_FRAMES - RUN_FRAMES);
        let own = RunFrames::take();
        assert_eq!(own.base, 0);
        assert!(!Rc::ptr_eq(&own.stack, &outer.stack));
        drop(own);
        drop(inner);
        drop(outer);
        assert_eq!(RunFrames::take().base, 0);
    }
}
