//! Gates: a target's immortal code. Every thread that calls the traced function runs it; lists of programs come and go behind two words.
//!
//! ```text
//! before:   frame; arguments to the array; enter section
//!           jmp [before list]                ends at `pass` or `call`, or, when fmod_ret skips the function, at `skip`
//! pass:     leave section; arguments back, frame gone, jmp f behind its nop        the function runs in our place
//! call:     leave section; arguments back
//!   .go:    call f behind its nop; results to the frame; enter section
//! skip:     jmp [after list]                 ends at `finish`
//! finish:   leave section; results back, frame gone; ret
//! after:    frame; arguments to the array; jmp .go                                 there is no list before
//! ```
//!
//! What is jumped to stands at multiples of 32: a cycle or two per call on the CPUs measured.
//!
//! Lists run inside read sections only, and are found only by loads inside these sections: a list that no word leads to any more is freed after
//! a grace period, nobody is counted, and a call that blocks, unwinds, or never returns keeps nothing alive. Gates themselves are never
//! freed (their return addresses are on stacks, and a thread may stand at their first instruction for any time), except those of compiled
//! programs, which are entered inside sections of their callers. A gate of a function that is traced no more serves the function's next target.

#![expect(
    clippy::useless_conversion,
    reason = "dynasm's register operands expand to `u8::from(u8)`"
)]

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};
use ring3_jit_x86_64::pack::{Class, Text};
use ring3_uapi::Errno;

use crate::frame::{ARG_REGS, Frame, Layout, Place};
use crate::section::{self, Ops, Tails};
use crate::site::Site;
use crate::thread;

/// Addresses in a gate's code.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    after: usize,
    pass: usize,
    call: usize,
    skip: usize,
    finish: usize,
    /// Offsets of the words.
    before_word: usize,
    after_word: usize,
}

/// A gate of one function.
#[derive(Debug)]
pub(crate) struct Gate {
    text: ManuallyDrop<Text>,
    at: Addresses,
    key: Key,
}

/// What a gate's code depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    function: usize,
    /// Where it goes on behind its nop.
    body: usize,
    frame: Frame,
    is_immortal: bool,
}

/// Gates of functions that no target has now.
fn unused() -> MutexGuard<'static, HashMap<Key, Gate>> {
    static UNUSED: OnceLock<Mutex<HashMap<Key, Gate>>> = OnceLock::new();
    UNUSED
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// A gate for the function at `site`.
    ///
    /// # Errors
    /// `ENOTSUPP`: thread-local storage is not at a fixed offset, or the function is out of reach of generated code. `ENOMEM`.
    pub(crate) fn new(site: &Site, frame: &Frame) -> Result<Gate, Errno> {
        let key = Key {
            function: site.address(),
            body: site.body(),
            frame: frame.clone(),
            is_immortal: !site.is_program(),
        };
        if let Some(gate) = unused().remove(&key) {
            return Ok(gate);
        }
        let rows = thread::rows_tls_offset().ok_or(Errno::ENOTSUPP)?;
        // Once to know the size, at an address aligned as texts are, once in place.
        let bound = generate(&key, rows, site.address() & !63)?.0.len();
        let text = Text::allocate_near(bound, site.address(), Class::Framed)?;
        let (code, at) = generate(&key, rows, text.address())?;
        if code.len() > text.len_bytes() {
            return Err(Errno::E2BIG);
        }
        text.write(0, &code);
        let gate = Gate {
            text: ManuallyDrop::new(text),
            at,
            key,
        };
        gate.set_before(gate.at.pass);
        gate.set_after(gate.at.finish);
        Ok(gate)
    }

    /// Gives the gate of a target that is no more back.
    pub(crate) fn retire(self) {
        if self.key.is_immortal {
            unused().insert(self.key.clone(), self);
        } else {
            // Freed after a grace period.
            drop(ManuallyDrop::into_inner(self.text));
        }
    }

    /// Where the site jumps to if there is a list before.
    pub(crate) fn before(&self) -> usize {
        self.text.address()
    }

    /// Where the site jumps to if there is only a list after.
    pub(crate) fn after(&self) -> usize {
        self.at.after
    }

    /// End of a list before, if there is none after.
    pub(crate) fn pass(&self) -> usize {
        self.at.pass
    }

    /// End of a list before, if there is one after.
    pub(crate) fn call(&self) -> usize {
        self.at.call
    }

    /// Where a list before goes to skip the function.
    pub(crate) fn skip(&self) -> usize {
        self.at.skip
    }

    /// End of a list after.
    pub(crate) fn finish(&self) -> usize {
        self.at.finish
    }

    /// Sends threads through the list at `address` before the function.
    pub(crate) fn set_before(&self, address: usize) {
        self.set(self.at.before_word, address);
    }

    /// Sends threads through the list at `address` after the function.
    pub(crate) fn set_after(&self, address: usize) {
        self.set(self.at.after_word, address);
    }

    fn set(&self, word: usize, address: usize) {
        let old = self.text.quadword(word);
        // Only the target's lock holder writes it, so the exchange cannot fail.
        let _ = self.text.patch_quadword(word, old, address as u64);
    }
}

/// Code for a gate at `base`.
fn generate(key: &Key, rows: i32, base: usize) -> Result<(Vec<u8>, Addresses), Errno> {
    let frame = &key.frame;
    let layout = &Layout::of(frame);
    let body = key.body;
    let mut ops: Ops = VecAssembler::new(base);
    let mut tails = Tails::default();
    let before_list = ops.new_dynamic_label();
    let after_list = ops.new_dynamic_label();
    let go = ops.new_dynamic_label();

    prologue(&mut ops, frame, layout, key.function);
    section::begin(&mut ops, rows, &mut tails);
    dynasm!(ops ; .arch x64 ; jmp QWORD [=>before_list] ; .align 32);

    let pass = ops.offset().0;
    section::end(&mut ops);
    restore_arguments(&mut ops, frame, layout);
    dynasm!(ops ; .arch x64 ; mov rbx, [rbp - 8] ; leave ; jmp extern body ; .align 32);

    let call = ops.offset().0;
    section::end(&mut ops);
    restore_arguments(&mut ops, frame, layout);
    dynasm!(ops ; .arch x64 ; =>go);
    call_function(&mut ops, frame, layout, body);
    section::begin(&mut ops, rows, &mut tails);
    let skip = ops.offset().0;
    dynasm!(ops ; .arch x64 ; jmp QWORD [=>after_list] ; .align 32);

    let finish = ops.offset().0;
    section::end(&mut ops);
    dynasm!(ops ; .arch x64 ; mov rax, [rbp + layout.ret]);
    if frame.wide_result {
        dynasm!(ops
            ; .arch x64
            ; mov rdx, [rbp + layout.saved_rdx]
            ; movups xmm0, [rbp + layout.result_vectors]
            ; movups xmm1, [rbp + layout.result_vectors + 16]
        );
    }
    dynasm!(ops ; .arch x64 ; mov rbx, [rbp - 8] ; leave ; ret ; .align 32);

    let after = ops.offset().0;
    prologue(&mut ops, frame, layout, key.function);
    dynasm!(ops ; .arch x64 ; jmp =>go);

    tails.write(&mut ops, rows);
    dynasm!(ops ; .arch x64 ; .align 8);
    let before_word = ops.offset().0;
    dynasm!(ops ; .arch x64 ; =>before_list ; .u64 0 ; =>after_list ; .u64 0);
    // Out of reach: the site could not jump here either.
    let code = ops.finalize().map_err(|_| Errno::ENOTSUPP)?;
    let at = Addresses {
        after: base + after,
        pass: base + pass,
        call: base + call,
        skip: base + skip,
        finish: base + finish,
        before_word,
        after_word: before_word + 8,
    };
    Ok((code, at))
}

/// `[rbp + disp] = argument register` by index.
fn store_arg(ops: &mut Ops, reg: u8, disp: i32) {
    dynasm!(ops ; .arch x64 ; mov [rbp + disp], Rq(ARG_REGS[reg as usize]));
}

fn load_arg(ops: &mut Ops, reg: u8, disp: i32) {
    dynasm!(ops ; .arch x64 ; mov Rq(ARG_REGS[reg as usize]), [rbp + disp]);
}

fn prologue(ops: &mut Ops, frame: &Frame, layout: &Layout, function: usize) {
    dynasm!(ops
        ; .arch x64
        ; push rbp
        ; mov rbp, rsp
        ; sub rsp, layout.frame_bytes
        ; mov [rbp - 8], rbx
    );
    for (at, place) in frame.slots.iter().enumerate() {
        let disp = layout.ctx + 8 * at as i32;
        match *place {
            Place::Reg(reg) => store_arg(ops, reg, disp),
            Place::Memory(word) => {
                dynasm!(ops ; .arch x64 ; mov r11, [rbp + 16 + 8 * word as i32] ; mov [rbp + disp], r11);
            }
        }
    }
    for (at, &reg) in frame.extra_regs.iter().enumerate() {
        store_arg(ops, reg, layout.extra + 8 * at as i32);
    }
    if frame.preserve_all {
        dynasm!(ops ; .arch x64 ; mov [rbp + layout.saved_rax], rax ; mov [rbp + layout.saved_r10], r10);
        for vector in 0..8u8 {
            dynasm!(ops ; .arch x64 ; movups [rbp + layout.arg_vectors + 16 * i32::from(vector)], Rx(vector));
        }
    }
    dynasm!(ops
        ; .arch x64
        ; mov QWORD [rbp + layout.ctx - 8], frame.slots.len() as i32
        ; mov r11, QWORD function as i64
        ; mov [rbp + layout.ctx - 16], r11
    );
}

fn restore_arguments(ops: &mut Ops, frame: &Frame, layout: &Layout) {
    for (at, place) in frame.slots.iter().enumerate() {
        if let Place::Reg(reg) = *place {
            load_arg(ops, reg, layout.ctx + 8 * at as i32);
        }
    }
    for (at, &reg) in frame.extra_regs.iter().enumerate() {
        load_arg(ops, reg, layout.extra + 8 * at as i32);
    }
    if frame.preserve_all {
        for vector in 0..8u8 {
            dynasm!(ops ; .arch x64 ; movups Rx(vector), [rbp + layout.arg_vectors + 16 * i32::from(vector)]);
        }
        dynasm!(ops ; .arch x64 ; mov rax, [rbp + layout.saved_rax] ; mov r10, [rbp + layout.saved_r10]);
    }
}

/// Calls the function behind its nop with copies of its arguments in memory; stores all that it may return.
fn call_function(ops: &mut Ops, frame: &Frame, layout: &Layout, body: usize) {
    for word in 0..frame.memory_words as i32 {
        dynasm!(ops ; .arch x64 ; mov r11, [rbp + 16 + 8 * word] ; mov [rsp + 8 * word], r11);
    }
    dynasm!(ops ; .arch x64 ; call extern body ; mov [rbp + layout.ret], rax);
    if frame.wide_result {
        dynasm!(ops
            ; .arch x64
            ; mov [rbp + layout.saved_rdx], rdx
            ; movups [rbp + layout.result_vectors], xmm0
            ; movups [rbp + layout.result_vectors + 16], xmm1
        );
    }
}
