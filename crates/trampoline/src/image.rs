//! Images: the code between a function's entry and its body that runs programs.
//!
//! ```text
//!           frame; arguments to the array; count, address
//!           enter section
//!   slot:   nop5 | jmp next        one aligned quadword: detaching a program is one store
//!           already running on this thread? next
//!           call program(ctx)      fmod_ret: result to the array; not zero: to `exits`
//!   next:   ...
//!           leave section
//!           fentry only: arguments back, frame gone, to the gate's `pass`: the function runs in our place
//!           else: arguments back, call the function behind its nop, results to the frame
//!   exits:  enter section; fexit programs; leave section
//!           results back, frame gone, to the gate's `leave`
//! ```

#![expect(
    clippy::useless_conversion,
    reason = "dynasm's register operands expand to `u8::from(u8)`"
)]

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, VecAssembler, dynasm};
use ring3_jit_x86_64::pack::Text;
use ring3_runtime::{Entry, ProgRef};
use ring3_sync::rcu;
use ring3_uapi::Errno;

use crate::frame::{ARG_REGS, Frame, Place};
use crate::gate::Gate;
use crate::site::NOP5;
use crate::target::ProgKind;
use crate::thread;

/// What an image runs.
#[derive(Clone)]
pub(crate) struct ImageProg {
    pub(crate) prog: ProgRef,
    pub(crate) kind: ProgKind,
    pub(crate) cookie: u64,
    /// Row of counters that marks the program as running.
    pub(crate) row: u32,
    /// Attachment that this slot stands for.
    pub(crate) key: u64,
}

/// Generated code and what it calls.
pub(crate) struct Image {
    text: Text,
    /// In the order of execution, with the offset of each slot's quadword; `None` once detached.
    pub(crate) slots: Vec<(usize, usize, Option<ImageProg>)>,
}

extern "C" fn enter_section() {
    // SAFETY: 1. the cell is this thread's; 2. the image calls `leave_section` on every path.
    unsafe { rcu::thread().enter() }
}

extern "C" fn leave_section() {
    // SAFETY: 1. entered by `enter_section` on this thread.
    unsafe { rcu::thread().exit() }
}

type Ops = VecAssembler<X64Relocation>;

/// Offsets from rbp.
struct Layout {
    ctx: i32,
    ret: i32,
    extra: i32,
    saved_rdx: i32,
    saved_rax: i32,
    saved_r10: i32,
    result_vectors: i32,
    arg_vectors: i32,
    frame_bytes: i32,
}

impl Layout {
    fn of(frame: &Frame) -> Layout {
        let slots = frame.slots.len() as i32;
        // rbx at -8, then the array with the return value, then count, address, cookie.
        let ctx = -8 - 8 * (slots + 1);
        let extra = ctx - 24 - 8 * frame.extra_regs.len() as i32;
        let saved_rdx = extra - 8;
        let saved_rax = saved_rdx - 8;
        let saved_r10 = saved_rax - 8;
        let result_vectors = saved_r10 - 32;
        let arg_vectors = result_vectors - if frame.preserve_all { 128 } else { 0 };
        let used = -arg_vectors + 8 * frame.memory_words as i32;
        Layout {
            ctx,
            ret: ctx + 8 * slots,
            extra,
            saved_rdx,
            saved_rax,
            saved_r10,
            result_vectors,
            arg_vectors,
            frame_bytes: (used + 15) & !15,
        }
    }
}

impl Image {
    /// Generates the image of `progs` (in order of execution within each kind) for the function at `function`, whose body is behind its nop.
    ///
    /// # Errors
    /// `ENOMEM`: no memory for text. `ENOTSUPP`: out of reach, or thread-local storage is not at a fixed offset.
    pub(crate) fn generate(
        frame: &Frame,
        function: usize,
        gate: &Gate,
        progs: Vec<ImageProg>,
    ) -> Result<Image, Errno> {
        let bound = 1536 + 128 * progs.len() + 32 * frame.slots.len();
        let text = Text::allocate(bound)?;
        let mut ops: Ops = VecAssembler::new(text.address());
        let layout = Layout::of(frame);
        let has_exits = progs.iter().any(|prog| prog.kind != ProgKind::Fentry);
        let exits = ops.new_dynamic_label();
        let exits_in_section = ops.new_dynamic_label();
        let mut slots = Vec::with_capacity(progs.len());

        prologue(&mut ops, frame, &layout, function);
        let cookie = Cookie::of(&progs);
        if let Cookie::OfAll(value) = cookie {
            store_cookie(&mut ops, &layout, value);
        }
        let (before, after): (Vec<_>, Vec<_>) = progs
            .into_iter()
            .partition(|prog| prog.kind != ProgKind::Fexit);
        if !before.is_empty() {
            begin_section(&mut ops);
            let mut has_return_value = false;
            for prog in before {
                if prog.kind == ProgKind::FmodRet && !has_return_value {
                    has_return_value = true;
                    dynasm!(ops ; .arch x64 ; mov QWORD [rbp + layout.ret], 0);
                }
                slots.push(program(&mut ops, &layout, prog, cookie, exits_in_section));
            }
            end_section(&mut ops);
        }
        restore_arguments(&mut ops, frame, &layout);
        if has_exits {
            call_function(&mut ops, frame, &layout, function + 5);
            dynasm!(ops ; .arch x64 ; =>exits);
            begin_section(&mut ops);
            dynasm!(ops ; .arch x64 ; =>exits_in_section);
            for prog in after {
                slots.push(program(&mut ops, &layout, prog, cookie, exits));
            }
            end_section(&mut ops);
            dynasm!(ops
                ; .arch x64
                ; mov rax, [rbp + layout.ret]
                ; mov rdx, [rbp + layout.saved_rdx]
                ; movups xmm0, [rbp + layout.result_vectors]
                ; movups xmm1, [rbp + layout.result_vectors + 16]
                ; mov r11, rbx
                ; mov rbx, [rbp - 8]
                ; leave
                ; jmp extern gate.leave()
            );
        } else {
            dynasm!(ops
                ; .arch x64
                ; =>exits
                ; =>exits_in_section
                ; mov r11, rbx
                ; mov rbx, [rbp - 8]
                ; leave
                ; jmp extern gate.pass()
            );
        }
        let code = ops.finalize().map_err(|_| Errno::ENOTSUPP)?;
        if code.len() > text.len_bytes() {
            return Err(Errno::E2BIG);
        }
        text.write(0, &code);
        Ok(Image { text, slots })
    }

    pub(crate) fn address(&self) -> usize {
        self.text.address()
    }

    /// Takes the program of an attachment out: one store. The reference is the caller's to drop after a grace period.
    pub(crate) fn disable(&mut self, key: u64) -> Option<ImageProg> {
        let (start, end, prog) = self
            .slots
            .iter_mut()
            .find(|(_, _, prog)| prog.as_ref().is_some_and(|prog| prog.key == key))?;
        let old = self.text.quadword(*start);
        let distance = (*end - (*start + 5)) as u64;
        let new = old & !0xff_ffff_ffff | 0xe9 | distance << 8;
        // Only the target's lock holder patches its image, so the quadword is what was just read.
        let _ = self.text.patch_quadword(*start, old, new);
        prog.take()
    }

    /// Programs that still run.
    pub(crate) fn live(&self) -> impl Iterator<Item = &ImageProg> {
        self.slots.iter().filter_map(|(_, _, prog)| prog.as_ref())
    }
}

fn call_host(ops: &mut Ops, function: extern "C" fn()) {
    dynasm!(ops ; .arch x64 ; call extern function as *const () as usize);
}

/// Enters a read section, in place where the host allows ([`rcu::section_layout`]). rbx holds the thread's counters. Scratch: rax, r11.
fn begin_section(ops: &mut Ops) {
    let Some(cpu) = section_in_place() else {
        return call_host(ops, enter_section);
    };
    let layout = rcu::section_layout();
    let (state, cell_cpu) = (layout.state_offset as i32, layout.cpu_offset as i32);
    // mov eax, fs:[cpu]
    let [a, b, c, d] = cpu.to_le_bytes();
    let load_cpu = [0x64, 0x8b, 0x04, 0x25, a, b, c, d];
    let nested = ops.new_dynamic_label();
    let slow = ops.new_dynamic_label();
    let done = ops.new_dynamic_label();
    dynasm!(ops
        ; .arch x64
        ; mov r11, [rbx]
        ; cmp WORD [r11 + state], 0
        ; jne =>nested
        ; .bytes load_cpu.iter()
        ; cmp eax, 0x10000
        ; jae =>slow
        ; mov [r11 + cell_cpu], eax
        ; mov rax, QWORD layout.epoch as i64
        ; mov rax, [rax]
        ; shl rax, layout.depth_bits as i8
        ; inc rax
        ; mov [r11 + state], rax
        ; jmp =>done
        ; =>slow
        ; call extern enter_section as *const () as usize
        ; jmp =>done
        ; =>nested
        ; inc QWORD [r11 + state]
        ; =>done
    );
}

/// Leaves a read section.
fn end_section(ops: &mut Ops) {
    if section_in_place().is_none() {
        return call_host(ops, leave_section);
    }
    let state = rcu::section_layout().state_offset as i32;
    dynasm!(ops ; .arch x64 ; mov r11, [rbx] ; dec QWORD [r11 + state]);
}

/// Where this thread's CPU is found from the thread pointer, if sections can be written in place: no fence, and the depth in the low 16 bits.
fn section_in_place() -> Option<i32> {
    if rcu::needs_fence() || rcu::section_layout().depth_bits != 16 {
        return None;
    }
    ring3_os::cpu::rseq_cpu_id_offset()
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
        // The gate leaves the thread's counters in r11.
        ; mov rbx, r11
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

/// Where cookies are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cookie {
    /// Once: all programs have this one.
    OfAll(u64),
    /// Before each program: a program may be skipped, so no store can rely on another.
    OfEach,
}

impl Cookie {
    fn of(progs: &[ImageProg]) -> Cookie {
        let first = progs.first().map_or(0, |prog| prog.cookie);
        if progs.iter().all(|prog| prog.cookie == first) {
            Cookie::OfAll(first)
        } else {
            Cookie::OfEach
        }
    }
}

fn store_cookie(ops: &mut Ops, layout: &Layout, cookie: u64) {
    if let Ok(cookie) = i32::try_from(cookie) {
        dynasm!(ops ; .arch x64 ; mov QWORD [rbp + layout.ctx - 24], cookie);
    } else {
        dynasm!(ops ; .arch x64 ; mov r11, QWORD cookie as i64 ; mov [rbp + layout.ctx - 24], r11);
    }
}

/// Pads to a multiple of 8 with one instruction, which threads run through (Intel's recommended multi-byte nops).
fn align_with_one_nop(ops: &mut Ops) {
    const NOPS: [&[u8]; 8] = [
        &[],
        &[0x90],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x0f, 0x1f, 0x40, 0x00],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    ];
    let missing = ops.offset().0.wrapping_neg() % 8;
    dynasm!(ops ; .arch x64 ; .bytes NOPS[missing].iter());
}

/// Calls a program unless it already runs on this thread; returns the offsets of its slot's begin and end, and the program.
fn program(
    ops: &mut Ops,
    layout: &Layout,
    prog: ImageProg,
    cookie: Cookie,
    skip: DynamicLabel,
) -> (usize, usize, Option<ImageProg>) {
    let next = ops.new_dynamic_label();
    let Entry { code, data } = prog.prog.entry();
    let row = thread::offset(prog.row);
    align_with_one_nop(ops);
    let start = ops.offset().0;
    dynasm!(ops
        ; .arch x64
        ; .bytes NOP5.iter()
        ; cmp DWORD [rbx + row], 0
        ; jne =>next
        ; mov DWORD [rbx + row], 1
    );
    if cookie == Cookie::OfEach {
        store_cookie(ops, layout, prog.cookie);
    }
    dynasm!(ops ; .arch x64 ; lea rdi, [rbp + layout.ctx]);
    if data.is_null() {
        dynasm!(ops ; .arch x64 ; xor esi, esi);
    } else {
        dynasm!(ops ; .arch x64 ; mov rsi, QWORD data as i64);
    }
    dynasm!(ops ; .arch x64 ; call extern code as *const () as usize ; mov DWORD [rbx + row], 0);
    if prog.kind == ProgKind::FmodRet {
        // An int is what such programs return; the array gets it as they left it.
        dynasm!(ops ; .arch x64 ; mov [rbp + layout.ret], rax ; test rax, rax ; jnz =>skip);
    }
    dynasm!(ops ; .arch x64 ; =>next);
    (start, ops.offset().0, Some(prog))
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
    dynasm!(ops
        ; .arch x64
        ; call extern body
        ; mov [rbp + layout.ret], rax
        ; mov [rbp + layout.saved_rdx], rdx
        ; movups [rbp + layout.result_vectors], xmm0
        ; movups [rbp + layout.result_vectors + 16], xmm1
    );
}
