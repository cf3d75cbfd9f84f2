//! Prog arrays: the targets of tail calls.
//!
//! What running programs read is a flat table of entry addresses, one word a slot; an empty slot holds the address of a stub that the caller
//! supplies (it falls through). Beside it, under a lock, lie the objects that keep the targets alive; they are released a grace period after
//! they left the table. The first program that uses the array or is stored in it becomes its owner; others must be of the same kind.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use ring3_runtime::{InArray, ProgRef, TailCallHub};
use ring3_sync::interleave::point;
use ring3_sync::rcu;
use ring3_uapi::flags::map_elem;
use ring3_uapi::{AttachType, Errno, ProgType};

use crate::array::{check_fd_array, index_mask, index_of, next_index};
use crate::attr::{MapAttr, MapError};
use crate::fd::FdTable;
use crate::ops::MapOps;

/// What programs of one prog array have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerKey {
    /// The program type.
    pub prog_type: ProgType,
    /// Compiled or interpreted: their calling conventions differ.
    pub jited: bool,
    /// Judged only for types whose programs' return values depend on it.
    pub expected_attach_type: Option<AttachType>,
    /// XDP programs that take packets in fragments.
    pub xdp_has_frags: bool,
    /// Address or id of the attached function's prototype, for tracing, LSM, extension and struct_ops programs.
    pub attach_func_proto: u64,
    /// Cgroup storage maps that the program uses: shared and per-CPU (0: none).
    pub storage_cookies: [u64; 2],
}

impl OwnerKey {
    /// The key of a plain program of a type.
    pub fn new(prog_type: ProgType, jited: bool) -> Self {
        OwnerKey {
            prog_type,
            jited,
            expected_attach_type: None,
            xdp_has_frags: false,
            attach_func_proto: 0,
            storage_cookies: [0; 2],
        }
    }

    /// Whether a program of this key may use, or be stored in, an array owned by `owner`.
    ///
    /// # Source
    /// Probed on Linux 6.18: type, JITed, expected attach type and XDP fragments must be equal; a program that uses cgroup storage must use the owner's
    /// maps; for types that attach to functions, the prototypes must be equal.
    pub fn is_compatible_with(&self, owner: &OwnerKey) -> bool {
        let shape = self.prog_type == owner.prog_type
            && self.jited == owner.jited
            && self.xdp_has_frags == owner.xdp_has_frags
            && self.expected_attach_type == owner.expected_attach_type;
        let cookies =
            self.storage_cookies
                .iter()
                .zip(&owner.storage_cookies)
                .all(|(mine, theirs)| {
                    // A program without storage may join any array.
                    *mine == *theirs || *mine == 0
                });
        let by_function = matches!(
            self.prog_type,
            ProgType::Tracing | ProgType::Lsm | ProgType::Ext | ProgType::StructOps
        );
        shape && cookies && (!by_function || self.attach_func_proto == owner.attach_func_proto)
    }
}

/// A program as a prog array stores it.
#[derive(Clone)]
pub struct ProgSlot {
    /// Where a tail call jumps to.
    pub entry: usize,
    /// Its id: what a lookup would show.
    pub id: u32,
    /// What it must have in common with the array's owner.
    pub owner_key: OwnerKey,
    /// The program: kept alive, and told of every array that takes or drops it.
    pub keep: ProgRef,
}

impl fmt::Debug for ProgSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgSlot")
            .field("id", &self.id)
            .field("owner_key", &self.owner_key)
            .finish_non_exhaustive()
    }
}

/// `BPF_MAP_TYPE_PROG_ARRAY`.
pub struct ProgArray {
    table: Box<[AtomicUsize]>,
    state: Mutex<State>,
    /// Jumps in compiled code that follow a slot.
    hub: Arc<TailCallHub>,
}

struct State {
    slots: hashbrown::HashMap<u32, ProgSlot>,
    owner: Option<OwnerKey>,
    stub: usize,
}

impl fmt::Debug for ProgArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        let mut slots: Vec<_> = state
            .slots
            .iter()
            .map(|(index, slot)| (*index, slot.id))
            .collect();
        slots.sort_unstable();
        f.debug_struct("ProgArray")
            .field("owner", &state.owner)
            .field("slots", &slots)
            .finish()
    }
}

impl ProgArray {
    pub(crate) fn create(attr: &MapAttr) -> Result<Self, MapError> {
        check_fd_array(attr)?;
        let bytes = u64::from(attr.max_entries) * 8;
        let oom = || attr.error(Errno::ENOMEM, format_args!("{} slots", attr.max_entries));
        if bytes >= crate::mem::host_memory_bytes() {
            return Err(oom());
        }
        let mut table = Vec::new();
        table
            .try_reserve_exact(attr.max_entries as usize)
            .map_err(|_| oom())?;
        table.resize_with(attr.max_entries as usize, AtomicUsize::default);
        let state = State {
            slots: hashbrown::HashMap::new(),
            owner: None,
            stub: 0,
        };
        Ok(ProgArray {
            table: table.into_boxed_slice(),
            state: Mutex::new(state),
            hub: Arc::default(),
        })
    }

    /// The entry addresses that compiled code reads: [`ProgArray::table_len`] words, valid as long as the map.
    pub fn table_ptr(&self) -> *const AtomicUsize {
        self.table.as_ptr()
    }

    /// What compiled tail calls with a constant index follow.
    pub fn hub(&self) -> &Arc<TailCallHub> {
        &self.hub
    }

    /// Slots.
    pub fn table_len(&self) -> usize {
        self.table.len()
    }

    /// One less than the next power of two of the number of slots.
    pub fn index_mask(&self) -> u32 {
        index_mask(self.table.len() as u32)
    }

    /// The entry of a slot: a program's, or the stub (0 before [`ProgArray::set_stub`]).
    #[inline]
    pub fn entry(&self, index: u32) -> usize {
        self.table
            .get(index as usize)
            .map_or(0, |slot| slot.load(Ordering::Acquire))
    }

    /// The program in a slot, for engines without entry addresses.
    pub fn slot(&self, index: u32) -> Option<ProgSlot> {
        self.state.lock().slots.get(&index).cloned()
    }

    /// Sets the entry address of empty slots. Engines do so before the first program that uses the array runs; the first stub stays.
    pub fn set_stub(&self, stub: usize) {
        let mut state = self.state.lock();
        if state.stub != 0 {
            return;
        }
        state.stub = stub;
        for (index, slot) in self.table.iter().enumerate() {
            if !state.slots.contains_key(&(index as u32)) {
                slot.store(stub, Ordering::Release);
            }
        }
    }

    /// Claims the array for programs of `key`, or checks against its owner: a program that uses the array.
    ///
    /// # Errors
    /// `EINVAL`: owned by programs of another kind.
    pub fn claim(&self, key: &OwnerKey) -> Result<(), Errno> {
        claim(&mut self.state.lock(), key)
    }

    /// The kind of programs that own the array.
    pub fn owner(&self) -> Option<OwnerKey> {
        self.state.lock().owner.clone()
    }

    /// Puts a program into a slot; the one before is released after a grace period.
    ///
    /// # Errors
    /// `E2BIG`: beyond the end. `EINVAL`: a program of another kind. `EBUSY`: one that is extended.
    pub fn set(&self, index: u32, slot: ProgSlot) -> Result<(), Errno> {
        let entry = self.table.get(index as usize).ok_or(Errno::E2BIG)?;
        let old = {
            let mut state = self.state.lock();
            claim(&mut state, &slot.owner_key)?;
            slot.keep.in_array(InArray::Added)?;
            entry.store(slot.entry, Ordering::SeqCst);
            self.hub.changed(index, entry);
            state.slots.insert(index, slot)
        };
        point();
        release(old);
        Ok(())
    }

    /// Empties a slot.
    ///
    /// # Errors
    /// `E2BIG`: beyond the end. `ENOENT`: empty.
    pub fn clear(&self, index: u32) -> Result<(), Errno> {
        let entry = self.table.get(index as usize).ok_or(Errno::E2BIG)?;
        let old = {
            let mut state = self.state.lock();
            entry.store(state.stub, Ordering::SeqCst);
            self.hub.changed(index, entry);
            state.slots.remove(&index)
        };
        if old.is_none() {
            return Err(Errno::ENOENT);
        }
        release(old);
        Ok(())
    }

    /// Empties all slots.
    pub fn clear_all(&self) {
        let old: Vec<ProgSlot> = {
            let mut state = self.state.lock();
            let stub = state.stub;
            let indices: Vec<u32> = state.slots.keys().copied().collect();
            for index in indices {
                if let Some(entry) = self.table.get(index as usize) {
                    entry.store(stub, Ordering::SeqCst);
                    self.hub.changed(index, entry);
                }
            }
            state.slots.drain().map(|(_, slot)| slot).collect()
        };
        if !old.is_empty() {
            old.iter().for_each(leave);
            rcu::drop_rcu(old);
        }
    }
}

fn claim(state: &mut State, key: &OwnerKey) -> Result<(), Errno> {
    match &state.owner {
        None => {
            state.owner = Some(key.clone());
            Ok(())
        }
        Some(owner) if key.is_compatible_with(owner) => Ok(()),
        Some(_) => Err(Errno::EINVAL),
    }
}

/// Tells a program that one slot less holds it.
fn leave(slot: &ProgSlot) {
    // Fails on entering only.
    let _ = slot.keep.in_array(InArray::Removed);
}

/// A tail call may be jumping to the program right now.
fn release(old: Option<ProgSlot>) {
    if let Some(old) = old {
        leave(&old);
        rcu::drop_rcu(old);
    }
}

impl MapOps for ProgArray {
    fn sys_lookup(&self, key: &[u8], value: &mut [u8], _flags: u64) -> Result<(), Errno> {
        let slot = self.slot(index_of(key)).ok_or(Errno::ENOENT)?;
        value.copy_from_slice(&slot.id.to_ne_bytes());
        Ok(())
    }

    fn sys_update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        fds: &dyn FdTable,
    ) -> Result<(), Errno> {
        if flags != map_elem::ANY {
            return Err(Errno::EINVAL);
        }
        let index = index_of(key);
        if index as usize >= self.table.len() {
            return Err(Errno::E2BIG);
        }
        let slot = fds.prog(index_of(value))?;
        self.set(index, slot)
    }

    fn sys_delete(&self, key: &[u8], _fds: &dyn FdTable) -> Result<(), Errno> {
        self.clear(index_of(key))
    }

    fn sys_next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        next_index(self.table.len() as u32, key, next)
    }

    fn mem_usage(&self) -> u64 {
        self.table.len() as u64 * 8
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn release_user_refs(&self) {
        self.clear_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Map, MapAttr};
    use ring3_uapi::MapType;
    use std::sync::Arc;

    struct TestProg;

    impl ring3_runtime::ProgObject for TestProg {
        fn id(&self) -> u32 {
            0
        }
        fn entry(&self) -> ring3_runtime::Entry {
            unreachable!("tests do not run it")
        }
        fn tail_target(&self) -> usize {
            0
        }
        fn prog_type(&self) -> ProgType {
            ProgType::Xdp
        }
        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    fn prog(id: u32, key: OwnerKey, keep: &Arc<TestProg>) -> ProgSlot {
        ProgSlot {
            entry: 0x1000 + id as usize,
            id,
            owner_key: key,
            keep: keep.clone(),
        }
    }

    #[test]
    fn slots_hold_entries_and_the_stub() {
        let map = Map::create(&MapAttr::new(MapType::ProgArray, 4, 4, 3)).unwrap();
        let array = map.downcast::<ProgArray>().unwrap();
        let keep = Arc::new(TestProg);
        let key = OwnerKey::new(ProgType::Xdp, true);
        array.set(1, prog(1, key.clone(), &keep)).unwrap();
        array.set_stub(77);
        assert_eq!(
            [0, 1, 2, 3].map(|index| array.entry(index)),
            [77, 0x1001, 77, 0]
        );
        assert_eq!(array.set(3, prog(2, key.clone(), &keep)), Err(Errno::E2BIG));
        let other = OwnerKey::new(ProgType::SchedCls, true);
        assert_eq!(array.set(0, prog(3, other, &keep)), Err(Errno::EINVAL));
        assert_eq!(array.clear(0), Err(Errno::ENOENT));
        assert_eq!(array.clear(1), Ok(()));
        assert_eq!(array.entry(1), 77);
        rcu::barrier().unwrap();
        assert_eq!(Arc::strong_count(&keep), 1);
    }

    #[test]
    fn the_last_user_reference_empties_the_array() {
        let map = Map::create(&MapAttr::new(MapType::ProgArray, 4, 4, 3)).unwrap();
        let array = map.downcast::<ProgArray>().unwrap();
        let keep = Arc::new(TestProg);
        map.user_ref_get();
        map.user_ref_get();
        array
            .set(2, prog(1, OwnerKey::new(ProgType::Xdp, true), &keep))
            .unwrap();
        map.user_ref_put();
        assert!(array.slot(2).is_some());
        map.user_ref_put();
        assert!(array.slot(2).is_none());
        rcu::barrier().unwrap();
        assert_eq!(Arc::strong_count(&keep), 1);
    }
}
