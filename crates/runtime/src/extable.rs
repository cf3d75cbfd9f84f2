//! The fault table: loads that may fault and read 0 then.
//!
//! Tracing programs follow pointers that nothing proves valid. Such a load is one plain instruction; if it faults, the process's
//! SIGSEGV handler finds the instruction's address here, sets the destination register to 0 and goes on behind the instruction. A load
//! that does not fault costs nothing extra (measured: a fault 2.7 us).
//!
//! ```text
//! published snapshot  ->  [ (text start, text end, entries of that program) ... ]   ascending by start, immutable
//! program entries     ->  [ (offset of the load, offset behind it, register to clear) ... ]   ascending
//! ```
//!
//! The handler takes no lock: it counts itself in, reads the snapshot, counts itself out; a writer replaces the snapshot as a whole and
//! frees the old one when nobody is counted in. (RCU would do for faults in programs, but a stranger's fault reaches the handler too, and
//! registering its thread would allocate in a signal handler.) Faults elsewhere go to the handler that was installed before.
//!
//! The interpreter and helpers use [`probe_load`] and [`probe_copy`], whose few instructions stand in the same table.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use ring3_isa::MemSize;
use ring3_os::signal::FaultContext;
pub use ring3_os::signal::Register;
use ring3_uapi::Errno;

/// What to do when an instruction faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultEntry {
    /// Offset of the instruction in the text, in bytes.
    pub insn_offset: u32,
    /// Offset where execution goes on.
    pub resume_offset: u32,
    /// Register to clear; none for stores.
    pub clear: Option<Register>,
}

#[derive(Clone)]
struct Text {
    start: usize,
    end: usize,
    entries: Arc<[FaultEntry]>,
}

type Snapshot = Vec<Text>;

static PUBLISHED: AtomicPtr<Snapshot> = AtomicPtr::new(std::ptr::null_mut());
/// Handlers between loading `PUBLISHED` and their last access to the snapshot.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static WRITER: Mutex<()> = Mutex::new(());

/// The entries of one program's text, until dropped.
#[derive(Debug)]
pub struct Registration {
    start: usize,
}

impl Drop for Registration {
    fn drop(&mut self) {
        edit(|snapshot| snapshot.retain(|text| text.start != self.start));
    }
}

/// Makes faults in `len_bytes` of text at `start` known. The text is not yet running.
///
/// # Errors
/// The errno of sigaction(2) if the handler cannot be installed; `EINVAL`: entries unsorted, outside the text, or text registered already.
pub fn register(
    start: usize,
    len_bytes: usize,
    mut entries: Vec<FaultEntry>,
) -> Result<Registration, Errno> {
    install_handler()?;
    entries.sort_unstable_by_key(|entry| entry.insn_offset);
    let sane = |entry: &FaultEntry| {
        (entry.insn_offset as usize) < len_bytes && (entry.resume_offset as usize) <= len_bytes
    };
    let end = start.checked_add(len_bytes).ok_or(Errno::EINVAL)?;
    if !entries.iter().all(sane) {
        return Err(Errno::EINVAL);
    }
    let text = Text {
        start,
        end,
        entries: entries.into(),
    };
    let mut is_free = false;
    edit(|snapshot| {
        let at = snapshot.partition_point(|other| other.start < start);
        is_free = snapshot.get(at).is_none_or(|next| next.start >= end)
            && (at == 0 || snapshot[at - 1].end <= start);
        if is_free {
            snapshot.insert(at, text);
        }
    });
    if is_free {
        Ok(Registration { start })
    } else {
        Err(Errno::EINVAL)
    }
}

/// Copies the snapshot, edits the copy, publishes it, frees the old one.
fn edit(change: impl FnOnce(&mut Snapshot)) {
    let _writer = WRITER
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let old = PUBLISHED.load(Ordering::Acquire);
    // SAFETY: 1. snapshots are replaced only under the writer lock, which we hold, so `old` is live.
    let mut next = unsafe { old.as_ref() }.cloned().unwrap_or_default();
    change(&mut next);
    PUBLISHED.store(Box::into_raw(Box::new(next)), Ordering::SeqCst);
    if old.is_null() {
        return;
    }
    // A handler is inside for the time of two binary searches.
    while INSIDE.load(Ordering::SeqCst) != 0 {
        std::hint::spin_loop();
    }
    // SAFETY: 1. made by Box::into_raw above; 2. a handler that counted itself in after our store loads the new snapshot (both are
    // sequentially consistent), and of those before none is left.
    drop(unsafe { Box::from_raw(old) });
}

fn install_handler() -> Result<(), Errno> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // SAFETY: 1. `on_fault` is async-signal-safe: it loads an atomic and searches immutable memory.
        unsafe { ring3_os::signal::install_fault_handler(on_fault) }
    })
}

/// Runs in signal context on the faulting thread: no lock, no allocation.
fn on_fault(context: &mut FaultContext<'_>) -> bool {
    let ip = context.instruction_pointer();
    INSIDE.fetch_add(1, Ordering::SeqCst);
    // SAFETY: 1. counted in before loading: the writer waits for us before it frees.
    let found = unsafe { lookup(PUBLISHED.load(Ordering::SeqCst), ip) };
    INSIDE.fetch_sub(1, Ordering::SeqCst);
    let Some((resume, clear)) = found else {
        return false;
    };
    if let Some(register) = clear {
        context.set_register(register, 0);
    }
    context.set_instruction_pointer(resume);
    true
}

/// # Safety
/// `snapshot` is null or live.
unsafe fn lookup(snapshot: *const Snapshot, ip: usize) -> Option<(usize, Option<Register>)> {
    // SAFETY: 1. the caller's contract.
    let snapshot = unsafe { snapshot.as_ref() }?;
    let at = snapshot
        .partition_point(|text| text.start <= ip)
        .checked_sub(1)?;
    let text = &snapshot[at];
    if ip >= text.end {
        return None;
    }
    let offset = (ip - text.start) as u32;
    let at = text
        .entries
        .binary_search_by_key(&offset, |entry| entry.insn_offset)
        .ok()?;
    let entry = text.entries[at];
    Some((text.start + entry.resume_offset as usize, entry.clear))
}

/// Registers the instructions below, once.
fn probes() -> Result<(), Errno> {
    const RAX: Option<Register> = Register::new(0);
    static PROBES: OnceLock<Result<Vec<Registration>, Errno>> = OnceLock::new();
    let registered = PROBES.get_or_init(|| {
        // Each function begins with the instruction that may fault; its length in bytes stands beside it.
        let first_insns = [
            (load_1 as *const (), 3, RAX),
            (load_2 as *const (), 3, RAX),
            (load_4 as *const (), 2, RAX),
            (load_8 as *const (), 3, RAX),
            (copy as *const (), 2, None),
        ];
        let register_one = |(code, insn_bytes, clear): (*const (), u32, Option<Register>)| {
            let entry = FaultEntry {
                insn_offset: 0,
                resume_offset: insn_bytes,
                clear,
            };
            register(code as usize, insn_bytes as usize, vec![entry])
        };
        first_insns.into_iter().map(register_one).collect()
    });
    registered.as_ref().map(|_| ()).map_err(|&errno| errno)
}

#[unsafe(naked)]
unsafe extern "C" fn load_1(address: usize) -> u64 {
    core::arch::naked_asm!("movzx eax, byte ptr [rdi]", "ret")
}

#[unsafe(naked)]
unsafe extern "C" fn load_2(address: usize) -> u64 {
    core::arch::naked_asm!("movzx eax, word ptr [rdi]", "ret")
}

#[unsafe(naked)]
unsafe extern "C" fn load_4(address: usize) -> u64 {
    core::arch::naked_asm!("mov eax, dword ptr [rdi]", "ret")
}

#[unsafe(naked)]
unsafe extern "C" fn load_8(address: usize) -> u64 {
    core::arch::naked_asm!("mov rax, qword ptr [rdi]", "ret")
}

/// Copies `rcx` (fourth argument) bytes; returns how many are left.
#[unsafe(naked)]
unsafe extern "C" fn copy(dst: *mut u8, src: usize, unused: usize, len_bytes: usize) -> usize {
    core::arch::naked_asm!("rep movsb", "mov rax, rcx", "ret")
}

/// Loads from any address; 0 where it cannot be read (or where the host lets no fault handler be installed).
pub fn probe_load(address: u64, size: MemSize) -> u64 {
    if probes().is_err() {
        return 0;
    }
    let address = address as usize;
    // SAFETY: 1. a fault of the load is repaired by the table; 2. nothing is written.
    unsafe {
        match size {
            MemSize::B => load_1(address),
            MemSize::H => load_2(address),
            MemSize::W => load_4(address),
            MemSize::Dw => load_8(address),
        }
    }
}

/// Copies from any address; false if some byte cannot be read, after a part may have been copied.
///
/// # Safety
/// `dst` is valid for writing `len_bytes` bytes.
pub unsafe fn probe_copy(dst: *mut u8, src: u64, len_bytes: usize) -> bool {
    if probes().is_err() {
        return false;
    }
    // SAFETY: 1. writes stay inside `dst` by the caller's contract; 2. a fault of a read is repaired by the table; 3. the direction flag
    // is clear by the C ABI.
    unsafe { copy(dst, src as usize, 0, len_bytes) == 0 }
}

/// Copies to any address; false if some byte cannot be written, after a part may have been.
///
/// # Safety
/// `src` is valid for reading `len_bytes` bytes, and overwriting what `dst` points to breaks nothing.
pub unsafe fn probe_store(dst: u64, src: *const u8, len_bytes: usize) -> bool {
    if probes().is_err() {
        return false;
    }
    // SAFETY: 1. reads stay inside `src`; 2. a fault of a write is repaired by the table; 3. the rest is the caller's contract.
    unsafe {
        copy(
            std::ptr::with_exposed_provenance_mut(dst as usize),
            src as usize,
            0,
            len_bytes,
        ) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_os::map::{Prot, Region};

    #[test]
    fn unreadable_addresses_read_zero() {
        let value = 0x1122_3344_5566_7788u64;
        let good = std::ptr::from_ref(&value).expose_provenance() as u64;
        assert_eq!(probe_load(good, MemSize::Dw), value);
        assert_eq!(probe_load(good, MemSize::B), 0x88);
        assert_eq!(probe_load(good, MemSize::H), 0x7788);
        assert_eq!(probe_load(good, MemSize::W), 0x5566_7788);
        for bad in [
            0,
            8,
            0x8000_0000_0000_0000,
            u64::MAX - 7,
            0xffff_8000_0000_0000,
        ] {
            for size in [MemSize::B, MemSize::H, MemSize::W, MemSize::Dw] {
                assert_eq!(probe_load(bad, size), 0, "{bad:#x}");
            }
        }
    }

    #[test]
    fn copies_end_at_the_first_unreadable_byte() {
        let page = ring3_os::cpu::page_bytes();
        let region = Region::anonymous(2 * page, Prot::ReadWrite).unwrap();
        region.protect(page, page, Prot::None).unwrap();
        let start = region.as_ptr().expose_provenance() as u64;
        let mut buffer = [1u8; 16];
        // SAFETY: the buffer has 16 bytes.
        unsafe {
            assert!(probe_copy(
                buffer.as_mut_ptr(),
                start + page as u64 - 16,
                16
            ));
            assert_eq!(buffer, [0; 16]);
            assert!(!probe_copy(
                buffer.as_mut_ptr(),
                start + page as u64 - 8,
                16
            ));
            assert!(!probe_store(start + page as u64 - 8, buffer.as_ptr(), 16));
            assert!(probe_store(start, buffer.as_ptr(), 16));
        }
    }

    #[test]
    fn overlapping_text_is_refused_and_leaves_the_first() {
        let first = register(0x1000, 64, Vec::new()).unwrap();
        assert_eq!(register(0x1020, 64, Vec::new()).unwrap_err(), Errno::EINVAL);
        drop(first);
        let again = register(0x1020, 64, Vec::new()).unwrap();
        drop(again);
        let outside = FaultEntry {
            insn_offset: 64,
            resume_offset: 64,
            clear: None,
        };
        assert_eq!(
            register(0x1020, 64, vec![outside]).unwrap_err(),
            Errno::EINVAL
        );
    }
}
