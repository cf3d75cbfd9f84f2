//! Read sections and calls as generated code writes them.
//!
//! ```text
//! begin   rbx = this thread's rows (`thread`), r11 = its RCU cell; depth 0 ? CPU word = CPU, cell.state = *entered : cell.state += 1
//! end     cell.state -= 1
//! ```
//!
//! What is rare stands behind the code ([`Tails`]): a thread's first time, a section in a section, a thread whose CPU the host does not tell.

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, VecAssembler, dynasm};
use ring3_sync::rcu;

use crate::thread;

pub(crate) type Ops = VecAssembler<X64Relocation>;

/// Farthest that a rel32 of a short piece of code leads for certain.
const REACH_BYTES: usize = (1 << 31) - (1 << 20);

extern "C" fn enter_section() {
    // SAFETY: 1. the cell is this thread's; 2. the code calls `leave_section`, or does the same in place, on every path.
    unsafe { rcu::thread().enter() }
}

extern "C" fn leave_section() {
    // SAFETY: 1. entered by `enter_section` on this thread.
    unsafe { rcu::thread().exit() }
}

/// Offsets from the thread pointer, where sections can be written in place.
#[derive(Clone, Copy)]
struct InPlace {
    cell: i32,
    section_cpu: i32,
    real_cpu: i32,
}

/// In place: no fence, and the depth in the low 16 bits of the state.
fn in_place() -> Option<InPlace> {
    if rcu::needs_fence() || rcu::section_layout().depth_bits != 16 {
        return None;
    }
    Some(InPlace {
        cell: rcu::cell_tls_offset()?,
        section_cpu: rcu::cpu_tls_offset()?,
        real_cpu: ring3_os::cpu::rseq_cpu_id_offset()?,
    })
}

/// `mov rbx, fs:[offset]`
fn load_rbx(ops: &mut Ops, offset: i32) {
    dynasm!(ops ; .arch x64 ; .bytes [0x64u8, 0x48, 0x8b, 0x1c, 0x25].iter() ; .i32 offset);
}

/// `mov r11, fs:[offset]`
fn load_r11(ops: &mut Ops, offset: i32) {
    dynasm!(ops ; .arch x64 ; .bytes [0x64u8, 0x4c, 0x8b, 0x1c, 0x25].iter() ; .i32 offset);
}

/// `mov eax, fs:[offset]`
fn load_eax(ops: &mut Ops, offset: i32) {
    dynasm!(ops ; .arch x64 ; .bytes [0x64u8, 0x8b, 0x04, 0x25].iter() ; .i32 offset);
}

/// `mov fs:[offset], eax`
fn store_eax(ops: &mut Ops, offset: i32) {
    dynasm!(ops ; .arch x64 ; .bytes [0x64u8, 0x89, 0x04, 0x25].iter() ; .i32 offset);
}

/// Rare parts, written behind the code.
#[derive(Default)]
pub(crate) struct Tails {
    sections: Vec<Rare>,
    busy: Vec<(DynamicLabel, DynamicLabel, Option<*mut u64>)>,
}

struct Rare {
    rows: DynamicLabel,
    rows_done: DynamicLabel,
    slow: DynamicLabel,
    nested: DynamicLabel,
    done: DynamicLabel,
}

/// Enters a read section and loads rbx. Everything else that a C function may overwrite is free.
pub(crate) fn begin(ops: &mut Ops, rows_offset: i32, tails: &mut Tails) {
    let rare = Rare {
        rows: ops.new_dynamic_label(),
        rows_done: ops.new_dynamic_label(),
        slow: ops.new_dynamic_label(),
        nested: ops.new_dynamic_label(),
        done: ops.new_dynamic_label(),
    };
    load_rbx(ops, rows_offset);
    dynasm!(ops
        ; .arch x64
        ; test rbx, rbx
        ; jz =>rare.rows
        ; =>rare.rows_done
    );
    if let Some(place) = in_place() {
        let layout = rcu::section_layout();
        let state = layout.state_offset as i32;
        load_r11(ops, place.cell);
        dynasm!(ops
            ; .arch x64
            ; test r11, r11
            ; jz =>rare.slow
            ; cmp WORD [r11 + state], 0
            ; jne =>rare.nested
        );
        load_eax(ops, place.real_cpu);
        dynasm!(ops
            ; .arch x64
            ; cmp eax, 0x10000
            ; jae =>rare.slow
        );
        store_eax(ops, place.section_cpu);
        dynasm!(ops
            ; .arch x64
            ; mov rax, QWORD layout.entered as i64
            ; mov rax, [rax]
            ; mov [r11 + state], rax
            ; =>rare.done
        );
    } else {
        dynasm!(ops ; .arch x64 ; jmp =>rare.slow ; =>rare.done);
    }
    tails.sections.push(rare);
}

/// Leaves a read section; scratch: r11, and without sections in place whatever a C function may overwrite.
pub(crate) fn end(ops: &mut Ops) {
    let Some(InPlace { cell, .. }) = in_place() else {
        return call(ops, leave_section as *const () as usize);
    };
    let state = rcu::section_layout().state_offset as i32;
    load_r11(ops, cell);
    dynasm!(ops ; .arch x64 ; dec QWORD [r11 + state]);
}

impl Tails {
    /// At `label`: counts in a word, if there is one, and goes on at `next`; scratch: r11.
    pub(crate) fn count_and_go(
        &mut self,
        label: DynamicLabel,
        count: Option<*mut u64>,
        next: DynamicLabel,
    ) {
        self.busy.push((label, next, count));
    }

    pub(crate) fn write(self, ops: &mut Ops, rows_offset: i32) {
        let state = rcu::section_layout().state_offset as i32;
        for rare in self.sections {
            dynasm!(ops ; .arch x64 ; =>rare.rows);
            call(ops, thread::register as *const () as usize);
            load_rbx(ops, rows_offset);
            dynasm!(ops
                ; .arch x64
                ; jmp =>rare.rows_done
                ; =>rare.nested
                ; inc QWORD [r11 + state]
                ; jmp =>rare.done
                ; =>rare.slow
            );
            call(ops, enter_section as *const () as usize);
            dynasm!(ops ; .arch x64 ; jmp =>rare.done);
        }
        for (label, next, count) in self.busy {
            dynasm!(ops ; .arch x64 ; =>label);
            if let Some(count) = count {
                let count = count.expose_provenance();
                dynasm!(ops ; .arch x64 ; mov r11, QWORD count as i64 ; lock inc QWORD [r11]);
            }
            dynasm!(ops ; .arch x64 ; jmp =>next);
        }
    }
}

/// Calls code anywhere; scratch: rax.
pub(crate) fn call(ops: &mut Ops, function: usize) {
    dynasm!(ops ; .arch x64 ; mov rax, QWORD function as i64 ; call rax);
}

/// Calls code, directly if it is in reach of code at `here`; scratch: rax.
pub(crate) fn call_from(ops: &mut Ops, here: usize, function: usize) {
    if here.abs_diff(function) < REACH_BYTES {
        dynasm!(ops ; .arch x64 ; call extern function);
    } else {
        call(ops, function);
    }
}

/// As [`call_from`], with a jump.
pub(crate) fn jump_from(ops: &mut Ops, here: usize, to: usize) {
    if here.abs_diff(to) < REACH_BYTES {
        dynasm!(ops ; .arch x64 ; jmp extern to);
    } else {
        dynasm!(ops ; .arch x64 ; mov rax, QWORD to as i64 ; jmp rax);
    }
}
