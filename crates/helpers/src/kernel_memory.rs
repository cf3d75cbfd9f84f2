//! Memory that programs reach by kernel means: per-CPU variables of the kernel, kernel pointers in values, branch records.
//!
//! Variables of the kernel that a program names are zeros here, one copy a CPU where BTF says per CPU. [`variable`] gives their places; all per-CPU
//! ones lie in one area, so that a CPU's copy is found by its distance alone:
//!
//! ```text
//! bpf_per_cpu_ptr(p, cpu) = p + cpu * UNIT_BYTES
//! ```
//! Objects that programs allocate per CPU lie elsewhere and know the distance of their copies (`kfunc::object`).

use std::collections::{BTreeMap, btree_map::Entry};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ring3_os::cpu::possible_cpus;
use ring3_os::map::{Prot, Region};
use ring3_spec::kinds::{
    AnyBtf, ExchangedBtf, KptrDest, MemOrBtf, OrNull, PercpuVar, Released, Value,
};
use ring3_sync::rcu;
use ring3_uapi::Errno;

use crate::bind::{FromValue, IntoValue, implement};
use crate::kfunc::object::percpu_copy;

/// Bytes of one CPU's copies.
const UNIT_BYTES: usize = 4 << 20;
/// Bytes of variables that are not per CPU.
const SHARED_BYTES: usize = 16 << 20;
/// Variables begin at multiples of it.
const ALIGN_BYTES: usize = 64;

/// Where a variable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Once.
    Shared,
    /// Once a CPU.
    PerCpu,
}

/// The memory of one kind of place, and which variables have which part of it.
struct Area {
    region: Region,
    capacity: usize,
    used: usize,
    variables: BTreeMap<String, (u64, usize)>,
}

impl Area {
    fn new(place: Place) -> Result<Area, Errno> {
        let (capacity, copies) = match place {
            Place::Shared => (SHARED_BYTES, 1),
            Place::PerCpu => (UNIT_BYTES, possible_cpus()),
        };
        Ok(Area {
            region: Region::anonymous(capacity * copies, Prot::ReadWrite)?,
            capacity,
            used: 0,
            variables: BTreeMap::new(),
        })
    }

    fn variable(&mut self, name: &str, bytes: usize) -> Result<u64, Errno> {
        if let Some(&(address, known_bytes)) = self.variables.get(name)
            && bytes <= known_bytes
        {
            return Ok(address);
        }
        let end = self.used.checked_add(bytes.max(1)).ok_or(Errno::ENOMEM)?;
        if end > self.capacity {
            return Err(Errno::ENOMEM);
        }
        let address = self.region.as_ptr().expose_provenance() as u64 + self.used as u64;
        self.used = end.next_multiple_of(ALIGN_BYTES);
        self.variables.insert(name.to_owned(), (address, bytes));
        Ok(address)
    }
}

/// The address of a variable of the kernel, the first CPU's copy of one that is per CPU. The same name is the same memory for all programs of the
/// process.
///
/// # Errors
/// ENOMEM: no room for another variable of this size.
pub fn variable(name: &str, bytes: usize, place: Place) -> Result<u64, Errno> {
    static AREAS: OnceLock<Mutex<BTreeMap<Place, Area>>> = OnceLock::new();
    let mut areas = AREAS.get_or_init(Mutex::default).lock();
    let area = match areas.entry(place) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(empty) => {
            let area = Area::new(place)?;
            if place == Place::PerCpu {
                let start = area.region.as_ptr().expose_provenance() as u64;
                PERCPU_START.store(start, Ordering::Release);
            }
            empty.insert(area)
        }
    };
    area.variable(name, bytes)
}

/// Where the first copies of per-CPU variables begin, 0 before there is one.
static PERCPU_START: AtomicU64 = AtomicU64::new(0);

/// The copy of a CPU; 0 for one that there is not.
///
/// # Safety
/// `variable` came from [`variable`], or is a per-CPU object.
unsafe fn copy_of(variable: u64, cpu: u64) -> u64 {
    if cpu >= possible_cpus() as u64 {
        return 0;
    }
    let start = PERCPU_START.load(Ordering::Acquire);
    if start != 0 && (start..start + UNIT_BYTES as u64).contains(&variable) {
        return variable + cpu * UNIT_BYTES as u64;
    }
    // SAFETY: 1. the caller's promise.
    unsafe { percpu_copy(variable, cpu as u32) }
}

impl FromValue<PercpuVar> for u64 {
    unsafe fn from_value(value: Value<PercpuVar>) -> Self {
        value.raw
    }
}

impl IntoValue<OrNull<MemOrBtf>> for u64 {
    fn into_value(self) -> Value<OrNull<MemOrBtf>> {
        Value::new(self)
    }
}

impl IntoValue<MemOrBtf> for u64 {
    fn into_value(self) -> Value<MemOrBtf> {
        Value::new(self)
    }
}

impl FromValue<KptrDest> for *mut u64 {
    unsafe fn from_value(value: Value<KptrDest>) -> Self {
        std::ptr::with_exposed_provenance_mut(value.raw as usize)
    }
}

impl FromValue<Released<OrNull<AnyBtf>>> for u64 {
    unsafe fn from_value(value: Value<Released<OrNull<AnyBtf>>>) -> Self {
        value.raw
    }
}

impl IntoValue<OrNull<ExchangedBtf>> for u64 {
    fn into_value(self) -> Value<OrNull<ExchangedBtf>> {
        Value::new(self)
    }
}

implement! { ROWS:
    PerCpuPtr(variable: u64, cpu: u32) {
        // SAFETY: 1. ARG_PTR_TO_PERCPU_BTF_ID: one of the two.
        unsafe { copy_of(variable, cpu.into()) }
    }
    ThisCpuPtr(variable: u64) {
        // SAFETY: as above.
        unsafe { copy_of(variable, rcu::section_cpu().into()) }
    }
    KptrXchg(place: *mut u64, object: u64) {
        // SAFETY: 1. ARG_KPTR_XCHG_DEST: an aligned pointer field of a live value; 2. all accesses to such fields are atomic.
        let place = unsafe { AtomicU64::from_ptr(place) };
        place.swap(object, Ordering::AcqRel)
    }
    /// The answer of a processor without branch records.
    GetBranchSnapshot[regs](_buf: *mut u8, _size: u32) {
        let flags = regs[2];
        Err::<(), _>(if flags == 0 { Errno::ENOENT } else { Errno::EINVAL })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::FuncId;

    #[test]
    fn variables_keep_their_places_and_every_cpu_has_its_copy() {
        let first = variable("first", 100, Place::PerCpu).unwrap();
        let second = variable("second", 8, Place::PerCpu).unwrap();
        assert!(second >= first + 100);
        assert_eq!(variable("first", 100, Place::PerCpu), Ok(first));
        assert_ne!(variable("first", 100, Place::Shared), Ok(first));
        assert_eq!(
            variable("huge", UNIT_BYTES + 1, Place::PerCpu),
            Err(Errno::ENOMEM)
        );
        let [per_cpu, this_cpu] =
            [FuncId::PerCpuPtr, FuncId::ThisCpuPtr].map(|id| crate::find(id).unwrap());
        let _section = rcu::read();
        // SAFETY: these only calculate.
        unsafe {
            assert_eq!(per_cpu(first, 0, 0, 0, 0), first);
            assert_eq!(per_cpu(first, possible_cpus() as u64, 0, 0, 0), 0);
            assert_eq!(per_cpu(first, u64::MAX, 0, 0, 0), 0);
            let own = this_cpu(first, 0, 0, 0, 0);
            assert_eq!(own, per_cpu(first, rcu::section_cpu().into(), 0, 0, 0));
            let word = std::ptr::with_exposed_provenance::<u64>(own as usize);
            assert_eq!(*word, 0);
        }
    }

    #[test]
    fn an_exchange_gives_what_was_there() {
        let xchg = crate::find(FuncId::KptrXchg).unwrap();
        let mut field = 0x1000u64;
        let place = (&raw mut field).expose_provenance() as u64;
        // SAFETY: the field lives.
        unsafe {
            assert_eq!(xchg(place, 0x2000, 0, 0, 0), 0x1000);
            assert_eq!(xchg(place, 0, 0, 0, 0), 0x2000);
            assert_eq!(xchg(place, 0, 0, 0, 0), 0);
        }
    }

    #[test]
    fn there_are_no_branch_records() {
        let get = crate::find(FuncId::GetBranchSnapshot).unwrap();
        // SAFETY: no memory is touched.
        unsafe {
            assert_eq!(get(0, 0, 0, 0, 0) as i64, Errno::ENOENT.negated());
            assert_eq!(get(0, 0, 1, 0, 0) as i64, Errno::EINVAL.negated());
        }
    }
}
