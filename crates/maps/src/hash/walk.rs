//! What system calls need of the table: values that are not torn, and walks.
//!
//! A position of the walk is a bucket and a step in it: its places one by one, then its chain as a whole.

use std::sync::atomic::{Ordering, fence};

use ring3_sync::interleave::point;
use ring3_uapi::Errno;
use ring3_uapi::flags::map_elem;

use super::key::Key;
use super::pool::ElemIdx;
use super::state::State;
use super::table::{PLACES, RESTARTS_MAX, Table, Values};
use crate::mem;

/// Positions of the walk in one bucket: its places and its chain. A power of two keeps positions compact.
pub(crate) const WALK_STEPS: u64 = 16;

/// How copying a value went.
enum Copied {
    Whole,
    /// It was replaced or reused meanwhile.
    Changed,
    Deleted,
}

impl Table {
    /// Copies an element's value as system calls see it.
    ///
    /// # Safety
    /// The element is of the pool; `out` has the size of a value in system calls.
    pub(super) unsafe fn copy_value_out(
        &self,
        idx: ElemIdx,
        content: State,
        out: &mut [u8],
        flags: u64,
    ) {
        // SAFETY: 1. the element is of the pool; 2. callers pass buffers of the system call's value size.
        unsafe {
            match self.values {
                Values::Plain => {
                    let value = self.pool.value(idx, content.slot());
                    if flags & map_elem::LOCK != 0 {
                        self.copy.copy_out_locked(out.as_mut_ptr(), value);
                    } else {
                        self.copy.copy_out(out.as_mut_ptr(), value);
                    }
                }
                Values::Percpu => {
                    let stride = mem::round_up_8(self.copy.value_bytes);
                    for (cpu, chunk) in out.chunks_exact_mut(stride).enumerate() {
                        chunk.fill(0);
                        self.copy
                            .copy_out(chunk.as_mut_ptr(), self.pool.percpu_value(idx, cpu));
                    }
                }
            }
        }
    }

    /// `BPF_MAP_LOOKUP_ELEM`: a value that is not torn by replacements.
    pub(crate) fn sys_lookup<K: Key>(
        &self,
        key: &[u8],
        out: &mut [u8],
        flags: u64,
    ) -> Result<(), Errno> {
        // SAFETY: 1. the slice has the key's size and lives on; 2. the element is of the pool.
        unsafe {
            let (key, hash) = self.load::<K>(key.as_ptr());
            for _ in 0..RESTARTS_MAX {
                let idx = self.find::<K>(key, hash).ok_or(Errno::ENOENT)?;
                match self.copy_stable::<K>(idx, key, out, flags) {
                    Copied::Whole => return Ok(()),
                    // At some moment of this call the key was not there.
                    Copied::Deleted => return Err(Errno::ENOENT),
                    Copied::Changed => {}
                }
            }
        }
        Err(Errno::EBUSY)
    }

    /// Copies a value.
    ///
    /// # Safety
    /// The element is of the pool; the key is still readable.
    unsafe fn copy_stable<K: Key>(
        &self,
        idx: ElemIdx,
        key: K::Loaded,
        out: &mut [u8],
        flags: u64,
    ) -> Copied {
        let state = self.pool.state(idx);
        let content = state.load(Ordering::Acquire).content();
        // SAFETY: 1. the caller's promise.
        unsafe {
            if !K::eq(self.pool.key(idx), key) {
                return Copied::Changed;
            }
            if !content.is_live() {
                return Copied::Deleted;
            }
            point();
            self.copy_value_out(idx, content, out, flags);
            point();
            fence(Ordering::Acquire);
            let again = state.load(Ordering::Relaxed).content();
            if again == content && K::eq(self.pool.key(idx), key) {
                Copied::Whole
            } else {
                Copied::Changed
            }
        }
    }

    /// The elements at a position of the walk, and the next position: places one by one, then the chain as one.
    pub(crate) fn walk_step(&self, at: u64, found: &mut Vec<ElemIdx>) -> Option<u64> {
        found.clear();
        let bucket_index = at / WALK_STEPS;
        if bucket_index > self.mask {
            return None;
        }
        let bucket = self.bucket_at(bucket_index);
        let step = (at % WALK_STEPS) as usize;
        if step < PLACES {
            if bucket.tag(step) != 0 {
                found.push(ElemIdx(bucket.elems[step].load(Ordering::Acquire)));
            }
        } else {
            let seq = bucket.seq.load(Ordering::Acquire);
            let mut link = bucket.overflow.load(Ordering::Acquire);
            while let Some(idx) = ElemIdx::from_link(link) {
                // A chain that changes under us may be cut short, as a walk of the kernel's may miss elements.
                if bucket.seq.load(Ordering::Acquire) != seq
                    || found.len() >= self.pool.elements() as usize
                {
                    break;
                }
                found.push(idx);
                link = self.pool.next(idx).load(Ordering::Acquire);
            }
            return Some((bucket_index + 1) * WALK_STEPS);
        }
        Some(at + 1)
    }

    /// The position of a key's element in the walk and, in a chain, the element itself.
    fn walk_position<K: Key>(&self, key: &[u8]) -> Option<(u64, ElemIdx)> {
        // SAFETY: 1. the slice has the key's size.
        let (hash, idx) = unsafe {
            let (key, hash) = self.load::<K>(key.as_ptr());
            (hash, self.find::<K>(key, hash)?)
        };
        let bucket_index = hash & self.mask;
        let bucket = self.bucket_at(bucket_index);
        let place = (0..PLACES).find(|place| {
            bucket.tag(*place) != 0 && bucket.elems[*place].load(Ordering::Relaxed) == idx.0
        });
        Some((
            bucket_index * WALK_STEPS + place.unwrap_or(PLACES) as u64,
            idx,
        ))
    }

    /// `BPF_MAP_GET_NEXT_KEY`: the key after `key` in the walk, the first one if `key` is not there.
    pub(crate) fn next_key<K: Key>(
        &self,
        key: Option<&[u8]>,
        next: &mut [u8],
    ) -> Result<(), Errno> {
        let mut found = Vec::new();
        let mut at = 0;
        if let Some((position, idx)) = key.and_then(|key| self.walk_position::<K>(key)) {
            at = if position % WALK_STEPS == PLACES as u64 {
                (position / WALK_STEPS + 1) * WALK_STEPS
            } else {
                position + 1
            };
            if position % WALK_STEPS == PLACES as u64 {
                self.walk_step(position, &mut found);
                let after = found
                    .iter()
                    .position(|seen| *seen == idx)
                    .map(|seen| seen + 1);
                if let Some(following) = after.and_then(|after| found.get(after)) {
                    self.copy_key(*following, next);
                    return Ok(());
                }
            }
        }
        while let Some(then) = self.walk_step(at, &mut found) {
            if let Some(first) = found.first() {
                self.copy_key(*first, next);
                return Ok(());
            }
            at = then;
        }
        Err(Errno::ENOENT)
    }

    /// Copies an element's key.
    pub(crate) fn copy_key(&self, idx: ElemIdx, out: &mut [u8]) {
        // SAFETY: 1. the element is of the pool; 2. callers pass the key's size.
        unsafe {
            mem::copy_bytes(
                out.as_mut_ptr(),
                self.pool.key(idx),
                out.len().min(self.key_bytes),
            )
        };
    }

    /// Whether an element is in the table now.
    pub(crate) fn is_live(&self, idx: ElemIdx) -> bool {
        self.pool.state(idx).load(Ordering::Acquire).is_live()
    }
}
