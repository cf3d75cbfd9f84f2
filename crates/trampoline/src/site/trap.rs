//! Patching by int3, as CPUs promise it for code that other threads run: a breakpoint over the first byte, the other bytes, the first byte,
//! each visible to every core before the next.
//!
//! A thread that runs into the breakpoint gets SIGTRAP; the handler sends it where the site leads from now on. A thread whose handler comes
//! late, when the breakpoint is gone, runs the instruction again. The handler finds sites in a list that only grows.

use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use ring3_os::signal::FaultContext;
use ring3_uapi::Errno;

use super::{PatchError, jump_to};

const INT3: u8 = 0xcc;

/// A site that is patched by int3. Never freed.
#[derive(Debug)]
pub(super) struct TrapSite {
    nop: usize,
    idle: [u8; 5],
    /// The bytes' writable places.
    bytes: [*mut u8; 5],
    /// Where threads that run into the breakpoint go on.
    resume: AtomicUsize,
    next: *const TrapSite,
}

// SAFETY: 1. the pointers are to memory that lives for ever and is accessed atomically.
unsafe impl Sync for TrapSite {}

/// The last site made; the others follow.
static SITES: AtomicPtr<TrapSite> = AtomicPtr::new(std::ptr::null_mut());
/// Held while a site is made or patched.
static PATCHING: Mutex<()> = Mutex::new(());

fn find(nop: usize) -> Option<&'static TrapSite> {
    let mut at: *const TrapSite = SITES.load(Ordering::Acquire);
    // SAFETY: 1. sites are leaked and published complete.
    while let Some(site) = unsafe { at.as_ref() } {
        if site.nop == nop {
            return Some(site);
        }
        at = site.next;
    }
    None
}

/// The signal handler: no lock, no allocation.
fn on_trap(context: &mut FaultContext<'_>) -> bool {
    let Some(breakpoint) = context.instruction_pointer().checked_sub(1) else {
        return false;
    };
    let Some(site) = find(breakpoint) else {
        return false;
    };
    let resume = if site.byte(0).load(Ordering::SeqCst) == INT3 {
        site.resume.load(Ordering::SeqCst)
    } else {
        site.nop
    };
    context.set_instruction_pointer(resume);
    true
}

/// Barriers and the handler, once.
fn prepare() -> Result<(), Errno> {
    static PREPARED: OnceLock<Result<(), Errno>> = OnceLock::new();
    *PREPARED.get_or_init(|| {
        ring3_os::membarrier::register_sync_core()?;
        // SAFETY: 1. the handler reads atomics and sets a register.
        unsafe { ring3_os::signal::install_trap_handler(on_trap) }
    })
}

impl TrapSite {
    /// # Safety
    /// As `Site::of_function`; the bytes at `nop` are one instruction, `idle`.
    pub(super) unsafe fn at(nop: usize, idle: [u8; 5]) -> Result<&'static TrapSite, PatchError> {
        prepare().map_err(PatchError::Host)?;
        let _patching = PATCHING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = find(nop) {
            return Ok(site);
        }
        let mut bytes = [std::ptr::null_mut(); 5];
        for (at, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: 1. the caller's contract.
            *byte = unsafe { ring3_os::patch::writable(nop + at) }.map_err(PatchError::Host)?;
        }
        let site = Box::leak(Box::new(TrapSite {
            nop,
            idle,
            bytes,
            resume: AtomicUsize::new(nop + 5),
            next: SITES.load(Ordering::Acquire),
        }));
        SITES.store(site, Ordering::Release);
        Ok(site)
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        // SAFETY: 1. writable and alive for ever (`ring3_os::patch`).
        unsafe { AtomicU8::from_ptr(self.bytes[at]) }
    }

    fn bytes_for(&self, jump: Option<usize>) -> Result<[u8; 5], PatchError> {
        let Some(target) = jump else {
            return Ok(self.idle);
        };
        let [a, b, c, d, e, ..] = jump_to(self.nop, target)?.to_le_bytes();
        Ok([a, b, c, d, e])
    }

    pub(super) fn patch(&self, from: Option<usize>, to: Option<usize>) -> Result<(), PatchError> {
        let (old, new) = (self.bytes_for(from)?, self.bytes_for(to)?);
        let _patching = PATCHING.lock().unwrap_or_else(PoisonError::into_inner);
        if (0..5).any(|at| self.byte(at).load(Ordering::SeqCst) != old[at]) {
            return Err(PatchError::Changed);
        }
        self.resume
            .store(to.unwrap_or(self.nop + 5), Ordering::SeqCst);
        self.byte(0).store(INT3, Ordering::SeqCst);
        serialise();
        for (at, byte) in new.into_iter().enumerate().skip(1) {
            self.byte(at).store(byte, Ordering::SeqCst);
        }
        serialise();
        self.byte(0).store(new[0], Ordering::SeqCst);
        serialise();
        Ok(())
    }
}

/// Every core has forgotten what it fetched ahead. Registered processes are never refused.
fn serialise() {
    let _ = ring3_os::membarrier::sync_core();
}
