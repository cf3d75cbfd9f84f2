//! Sites: where a nop of five bytes becomes a jump, and back, while threads run through it.
//!
//! ```text
//! store    0f 1f 44 00 xx in one aligned quadword, on CPUs that permit it         one store of the quadword         here
//! trap     0f 1f 44 00 xx anywhere                                              int3, rest, first byte             trap
//! byte     90 90 90 90 90, as gcc writes it, anywhere                           e9 90 90 90 90: one byte           byte
//! ```
//!
//! Who patches one nop of five bytes needs no thread to have left it. Five nops of one byte are five instructions: a thread may stand between
//! them, so the bytes behind the first never change.

mod byte;
mod trap;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring3_jit_x86_64::Compiled;
use ring3_uapi::Errno;

use self::byte::ByteSite;
use self::trap::TrapSite;

/// The nop, as gcc, clang 19 and we write it for one instruction.
pub const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
const CLANG_NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x08];
const NOPS: [u8; 5] = [0x90; 5];
const LOW5: u64 = 0xff_ffff_ffff;

/// Why a site cannot be patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchError {
    /// No nop.
    NoSite,
    /// Somebody else changed the site.
    Changed,
    /// The target of the jump is more than 2 GiB away.
    TooFar,
    /// The entry is five nops of one byte each, and the place where a jump over them leads is taken.
    NoRoom,
    /// The process was forked without the C library, or without memory for text of its own: it shares its parent's.
    Forked,
    /// The host refuses.
    Host(Errno),
}

impl std::fmt::Display for PatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PatchError::NoSite => {
                f.write_str("the function does not begin with nops of five bytes")
            }
            PatchError::Changed => f.write_str("the function's entry was changed by somebody else"),
            PatchError::TooFar => f.write_str("the function is out of reach of generated code"),
            PatchError::NoRoom => f.write_str(
                "the function begins with five one-byte nops, and the address 1.87 GB below it is taken",
            ),
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
            PatchError::TooFar | PatchError::NoRoom | PatchError::Forked => Errno::ENOTSUPP,
            PatchError::Host(errno) => *errno,
        }
    }
}

/// How a site of the host is patched, where there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patching {
    /// One store where the nop and the CPU permit it, else the int3 sequence.
    Fastest,
    /// The int3 sequence.
    Trap,
}

#[derive(Debug)]
enum Method {
    /// In text of this process, through a second view that lives for ever; with the quadword that holds the nop.
    Store {
        quadword: *mut u64,
        idle: u64,
    },
    /// In a compiled program, which the site keeps.
    Program {
        program: Arc<Compiled>,
        offset: usize,
        idle: u64,
    },
    Trap(&'static TrapSite),
    Byte(&'static ByteSite),
}

/// A function's patchable entry.
#[derive(Debug)]
pub struct Site {
    /// Address of the function.
    function: usize,
    /// Address of the nop.
    nop: usize,
    method: Method,
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

    /// The site of a function that begins with its nop, or nops, of five bytes.
    ///
    /// # Errors
    /// [`PatchError`].
    ///
    /// # Safety
    /// As [`Site::of_function`].
    pub unsafe fn at(address: usize) -> Result<Site, PatchError> {
        // SAFETY: 1. the caller's contract.
        unsafe { Site::of_function(address, address, Patching::Fastest) }
    }

    /// The site of the function at `function` whose nop, or nops, of five bytes are at `nop`, as `-fpatchable-function-entry=5` records it.
    ///
    /// # Errors
    /// [`PatchError`].
    ///
    /// # Safety
    /// `function` is where a function of this process begins, with nothing between there and `nop` but `endbr64`, and nothing jumps behind the
    /// nop; its text stays mapped for ever.
    pub unsafe fn of_function(
        function: usize,
        nop: usize,
        patching: Patching,
    ) -> Result<Site, PatchError> {
        let text: *const [u8; 5] = std::ptr::with_exposed_provenance(nop);
        // SAFETY: 1. text is readable.
        let bytes = unsafe { text.read_volatile() };
        let method = match bytes {
            NOP5 | CLANG_NOP5 => {
                let is_aligned = nop % 8 <= 3;
                if is_aligned && patching == Patching::Fastest && cpu_permits_stores() {
                    // SAFETY: 1. the caller's contract.
                    unsafe { store_method(nop)? }
                } else {
                    // SAFETY: 1. the caller's contract; the nop is one instruction.
                    Method::Trap(unsafe { TrapSite::at(nop, bytes)? })
                }
            }
            // SAFETY: 1. the caller's contract; the bytes are five nops.
            NOPS => Method::Byte(unsafe { ByteSite::at(nop)? }),
            _ => return Err(PatchError::NoSite),
        };
        Ok(Site {
            function,
            nop,
            method,
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
        let nop = program.function_address(function);
        let offset = (nop & !7) - program.text().address();
        let idle = program.text().quadword(offset);
        if !is_nop(idle, nop % 8) {
            return Err(PatchError::NoSite);
        }
        Ok(Site {
            function: nop,
            nop,
            method: Method::Program {
                program,
                offset,
                idle,
            },
        })
    }

    /// Address of the function.
    pub fn address(&self) -> usize {
        self.function
    }

    /// Where the function goes on behind its nop.
    pub(crate) fn body(&self) -> usize {
        self.nop + 5
    }

    /// Whether the function is a compiled program's, and entered inside read sections only.
    pub(crate) fn is_program(&self) -> bool {
        matches!(self.method, Method::Program { .. })
    }

    /// Lets the site jump to `to`, from whatever it does now (`from`: `None` for the nop).
    pub(crate) fn patch(&self, from: Option<usize>, to: Option<usize>) -> Result<(), PatchError> {
        if ring3_os::fork::is_text_shared() {
            return Err(PatchError::Forked);
        }
        let with_jump = |idle: u64, jump: Option<usize>| -> Result<u64, PatchError> {
            let Some(target) = jump else { return Ok(idle) };
            let shift = 8 * (self.nop % 8);
            Ok(idle & !(LOW5 << shift) | jump_to(self.nop, target)? << shift)
        };
        let exchanged = match &self.method {
            Method::Store { quadword, idle } => {
                let (old, new) = (with_jump(*idle, from)?, with_jump(*idle, to)?);
                // SAFETY: 1. aligned, writable and alive for ever (`writable_quadword`).
                let word = unsafe { AtomicU64::from_ptr(*quadword) };
                word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            }
            Method::Program {
                program,
                offset,
                idle,
            } => {
                let (old, new) = (with_jump(*idle, from)?, with_jump(*idle, to)?);
                program.text().patch_quadword(*offset, old, new).is_ok()
            }
            Method::Trap(site) => return site.patch(from, to),
            Method::Byte(site) => return site.patch(from, to),
        };
        if exchanged {
            Ok(())
        } else {
            Err(PatchError::Changed)
        }
    }
}

/// # Safety
/// As [`Site::of_function`]; `nop` lies in one quadword.
unsafe fn store_method(nop: usize) -> Result<Method, PatchError> {
    let aligned = nop & !7;
    // SAFETY: 1. the caller's contract.
    let quadword =
        unsafe { ring3_os::patch::writable_quadword(aligned) }.map_err(PatchError::Host)?;
    // SAFETY: 1. aligned, writable and alive for ever.
    let idle = unsafe { AtomicU64::from_ptr(quadword) }.load(Ordering::SeqCst);
    if !is_nop(idle, nop % 8) {
        return Err(PatchError::NoSite);
    }
    Ok(Method::Store { quadword, idle })
}

/// Whether threads may run through a quadword while one store changes an instruction in it. Vendors promise it of no more than one byte; it was
/// measured (docs/trampolines.md) on the CPUs named here.
fn cpu_permits_stores() -> bool {
    static PERMITS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *PERMITS.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid(0);
        let vendor = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
        [b"AuthenticAMD", b"GenuineIntel"]
            .contains(&vendor.as_flattened().first_chunk().unwrap_or(&[0; 12]))
    })
}

/// The five bytes of a jump from `nop`.
fn jump_to(nop: usize, target: usize) -> Result<u64, PatchError> {
    let distance = target as i64 - (nop as i64 + 5);
    let distance = i32::try_from(distance).map_err(|_| PatchError::TooFar)?;
    Ok(0xe9 | u64::from(distance as u32) << 8)
}

fn is_nop(quadword: u64, at: usize) -> bool {
    let bytes = quadword.to_le_bytes();
    bytes
        .get(at..at + 5)
        .is_some_and(|bytes| bytes == NOP5 || bytes == CLANG_NOP5)
}
