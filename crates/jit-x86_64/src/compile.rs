//! `compile`: plan, emit, place, publish. `Compiled` owns what results.

use std::any::Any;
use std::sync::{Arc, OnceLock, Weak};

use ring3_runtime::extable::{self, Registration};
use ring3_runtime::{Callback, CallbackCode, Entry, EntryCode, Follower, Linked};

use crate::emit::{Code, Emitter, FunctionPlace, JitError, Jumps, Options};
use crate::frame::Mode;
use crate::listing::{Listing, cut};
use crate::observe::gdb::Registered;
use crate::pack::Text;
use crate::plan;
use crate::scratch::{self, Scratch};

/// A compiled program. Dropping it frees the code after a grace period.
#[derive(Debug)]
pub struct Compiled {
    // Field order is drop order: faults are forgotten, and tail calls no longer patched, before the text can be reused (which waits for a
    // grace period anyway).
    debug_entry: OnceLock<Registered>,
    _faults: Option<Registration>,
    _followers: Vec<Follower>,
    text: Arc<Text>,
    callbacks: Arc<[Callback]>,
    slot_offsets: Vec<u32>,
    functions: Vec<FunctionPlace>,
    tail_entry: u32,
    rule_hits: [u32; crate::fuse::RULES],
}

/// Compiles an accepted program.
///
/// # Errors
/// [`JitError`].
///
/// Making code is safe; running it is not ([`ring3_runtime::run`]), and whoever runs it vouches that the program was accepted by the verifier
/// (or is as harmless: it ends, and touches no memory that it may not), that its sites name what the instructions mean, and that what they point to
/// (maps, helpers, tables) outlives every run.
pub fn compile(linked: &Linked, options: &Options) -> Result<Compiled, JitError> {
    scratch::with(|scratch| {
        let mut code = emit(linked, options, Mode::Native, scratch)?;
        let text = place(&mut code)?;
        publish(text, code, scratch)
    })
}

/// Writes code to its place.
fn publish(text: Text, mut code: Code, scratch: &mut Scratch) -> Result<Compiled, JitError> {
    let base = text.address();
    let callbacks: Arc<[Callback]> = code
        .functions
        .iter()
        .map(|function| {
            let address = (base + function.offset as usize) as *const ();
            // SAFETY: 1. the function at this offset takes its arguments as the C ABI passes them and keeps what it must keep; a sixth
            // argument is in a register that it may overwrite.
            let code = unsafe { std::mem::transmute::<*const (), CallbackCode>(address) };
            Callback::new(code)
        })
        .collect();
    for &(patch, function) in &code.callbacks {
        let record: *const Callback = &callbacks[function as usize];
        code.asm.set64(patch, record.expose_provenance() as u64);
    }
    text.write(0, code.asm.code());
    scratch.code = code.asm.into_buffer();
    let faults = if code.faults.is_empty() {
        None
    } else {
        let registered = extable::register(base, text.len_bytes(), code.faults);
        Some(registered.map_err(JitError::Memory)?)
    };
    let text = Arc::new(text);
    Ok(Compiled {
        debug_entry: OnceLock::new(),
        _faults: faults,
        _followers: crate::tail_call::follow(&text, &code.direct),
        text,
        callbacks,
        slot_offsets: code.slot_offsets,
        functions: code.functions,
        tail_entry: code.tail_entry,
        rule_hits: code.rule_hits,
    })
}

/// Both passes.
pub(crate) fn emit(
    linked: &Linked,
    options: &Options,
    mode: Mode,
    scratch: &mut Scratch,
) -> Result<Code, JitError> {
    if linked.stops.is_some() && ring3_runtime::stop_layout().is_none() {
        return Err(JitError::Unsupported {
            slot: 0,
            what: "a limit of runs where thread-local words have no fixed place",
        });
    }
    let is_optimised = mode == Mode::Native && options.blinding_seed.is_none();
    let depth = if is_optimised {
        plan::Depth::Full
    } else {
        plan::Depth::Basic
    };
    plan::make(&mut scratch.plan, linked, depth, options.keeps_calls)?;
    let mut program = |jumps| Emitter::new(linked, &mut *scratch, options, mode, jumps).program();
    match program(Jumps::Estimated)? {
        Ok(code) => Ok(code),
        Err(_too_far) => match program(Jumps::Near)? {
            Ok(code) => Ok(code),
            Err(_) => Err(JitError::Unsupported {
                slot: 0,
                what: "a program of this size",
            }),
        },
    }
}

/// Finds a place and fills in what depends on it; the code is not yet written there.
pub(crate) fn place(code: &mut Code) -> Result<Text, JitError> {
    let mut text = Text::allocate(code.asm.pos()).map_err(JitError::Memory)?;
    if !all_reach(code, text.address()) {
        add_veneers(code);
        text = Text::allocate(code.asm.pos()).map_err(JitError::Memory)?;
    }
    let base = text.address() as u64;
    for &(patch, target) in &code.far {
        let next = base + u64::from(patch.0) + 4;
        code.asm
            .set32(patch.0 as usize, target.wrapping_sub(next) as u32);
    }
    if let Some(patch) = code.shared_end {
        let next = base + u64::from(patch.0) + 4;
        code.asm.set32(
            patch.0 as usize,
            (text.shared_end() as u64).wrapping_sub(next) as u32,
        );
    }
    for &(patch, offset) in &code.addresses {
        code.asm.set64(patch, base + u64::from(offset));
    }
    Ok(text)
}

/// Whether every rel32 reaches from a text at `base`.
fn all_reach(code: &Code, base: usize) -> bool {
    code.far.iter().all(|&(patch, target)| {
        let next = base as i64 + i64::from(patch.0) + 4;
        i32::try_from((target as i64).wrapping_sub(next)).is_ok()
    })
}

/// Sends every call through a jump at the end of the text that reaches anywhere, one per target.
fn add_veneers(code: &mut Code) {
    let mut targets: Vec<u64> = code.far.iter().map(|&(_, target)| target).collect();
    targets.sort_unstable();
    targets.dedup();
    let veneers: Vec<usize> = targets
        .iter()
        .map(|&target| {
            let here = code.asm.pos();
            code.asm.far_jump(target);
            here
        })
        .collect();
    for (patch, target) in std::mem::take(&mut code.far) {
        if let Ok(at) = targets.binary_search(&target) {
            code.asm.bind32(patch, veneers[at]);
        }
    }
}

impl Compiled {
    /// Says who keeps the program alive, for callbacks that run after the program's run.
    pub fn set_owner(&self, owner: &Weak<dyn Any + Send + Sync>) {
        for record in self.callbacks.iter() {
            record.set_owner(owner);
        }
    }

    /// Keeps what a debugger was told as long as the code; what it is told twice stays as it was first.
    pub(crate) fn set_debug_entry(&self, entry: impl FnOnce() -> Registered) {
        self.debug_entry.get_or_init(entry);
    }

    /// How to call the main program.
    pub fn entry(&self) -> Entry {
        let code = self.function_address(0) as *const ();
        // SAFETY: 1. the main program is a C function of one argument; a second is in a register that it may overwrite.
        let code = unsafe { std::mem::transmute::<*const (), EntryCode>(code) };
        Entry {
            code,
            data: std::ptr::null(),
        }
    }

    /// The word that prog arrays of compiled programs hold for this program.
    pub fn tail_target(&self) -> usize {
        self.text.address() + self.tail_entry as usize
    }

    /// Address of a function's five-byte nop, which lies in one aligned quadword.
    ///
    /// # Panics
    /// If there is no such function.
    pub fn function_address(&self, function: usize) -> usize {
        self.text.address() + self.functions[function].offset as usize
    }

    /// Whether calls of this function were replaced by its instructions: what watches its entry sees none of them.
    pub fn is_inlined(&self, function: usize) -> bool {
        self.functions
            .get(function)
            .is_some_and(|function| function.is_inlined)
    }

    /// Number of functions.
    pub fn function_count(&self) -> usize {
        self.functions.len()
    }

    /// Bytes of machine code.
    pub fn len_bytes(&self) -> usize {
        self.text.len_bytes()
    }

    /// The text, for live patching of function entries.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// Offset in the text of each slot's code.
    pub fn slot_offsets(&self) -> &[u32] {
        &self.slot_offsets
    }

    /// The callback record of a function, for helpers that take one before the program runs.
    pub fn callback(&self, function: usize) -> Option<&Callback> {
        self.callbacks.get(function)
    }

    /// The code cut at its instructions.
    pub fn listing(&self) -> Listing {
        cut(
            self.text.address() as u64,
            &self.text.bytes(),
            &self.slot_offsets,
            &self.functions,
        )
    }

    /// How often each rule of `fuse` was applied, by its name.
    pub fn rule_hits(&self) -> Vec<(&'static str, u32)> {
        crate::fuse::NAMES
            .iter()
            .copied()
            .zip(self.rule_hits)
            .collect()
    }
}
