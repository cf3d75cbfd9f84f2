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

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, DynamicLabel, VecAssembler, dynasm};
use ring3_jit_x86_64::pack::Text;
use ring3_runtime::{Entry, ProgRef};
use ring3_sync::rcu;
use ring3_uapi::Errno;

use crate::frame::{ARG_REGS, Frame, Place};
use crate::gate::{Gate, load_counters};
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
    pub(crate) fn generate(frame: &Frame, function: usize, gate: &Gate, progs: Vec<ImageProg>) -> Result<Image, Errno> {
        let bound = 1024 + 128 * progs.len() + 32 * frame.slots.len();
        let text = Text::allocate(bound)?;
        let mut ops: Ops = VecAssembler::new(text.address());
        let layout = Layout::of(frame);
        let has_exits = progs.iter().any(|prog| prog.kind != ProgKind::Fentry);
        let exits = ops.new_dynamic_label();
        let exits_in_section = ops.new_dynamic_label();
        let mut slots = Vec::with_capacity(progs.len());

        prologue(&mut ops, frame, &layout, function)?;
        let (before, after): (Vec<_>, Vec<_>) = progs.into_iter().partition(|prog| prog.kind != ProgKind::Fexit);
        if !before.is_empty() {
            call_host(&mut ops, enter_section);
            let mut has_return_value = false;
            for prog in before {
                if prog.kind == ProgKind::FmodRet && !has_return_value {
                    has_return_value = true;
                    dynasm!(ops ; .arch x64 ; mov QWORD [rbp + layout.ret], 0);
                }
                slots.push(program(&mut ops, &layout, prog, exits_in_section));
            }
            call_host(&mut ops, leave_section);
        }
        restore_arguments(&mut ops, frame, &layout);
        if has_exits {
            call_function(&mut ops, frame, &layout, function + 5);
            dynasm!(ops ; .arch x64 ; =>exits);
            call_host(&mut ops, enter_section);
            dynasm!(ops ; .arch x64 ; =>exits_in_section);
            for prog in after {
                slots.push(program(&mut ops, &layout, prog, exits));
            }
            call_host(&mut ops, leave_section);
            dynasm!(ops
                ; .arch x64
                ; mov rax, [rbp + layout.ret]
                ; mov rdx, [rbp + layout.saved_rdx]
                ; movups xmm0, [rbp + layout.result_vectors]
                ; movups xmm1, [rbp + layout.result_vectors + 16]
                ; mov rbx, [rbp - 8]
                ; leave
                ; jmp extern gate.leave()
            );
        } else {
            dynasm!(ops
                ; .arch x64
                ; =>exits
                ; =>exits_in_section
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
        let (start, end, prog) =
            self.slots.iter_mut().find(|(_, _, prog)| prog.as_ref().is_some_and(|prog| prog.key == key))?;
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

/// `[rbp + disp] = argument register` by index.
fn store_arg(ops: &mut Ops, reg: u8, disp: i32) {
    dynasm!(ops ; .arch x64 ; mov [rbp + disp], Rq(ARG_REGS[reg as usize]));
}

fn load_arg(ops: &mut Ops, reg: u8, disp: i32) {
    dynasm!(ops ; .arch x64 ; mov Rq(ARG_REGS[reg as usize]), [rbp + disp]);
}

fn prologue(ops: &mut Ops, frame: &Frame, layout: &Layout, function: usize) -> Result<(), Errno> {
    let counters = load_counters(thread::tls_offset().ok_or(Errno::ENOTSUPP)?);
    dynasm!(ops
        ; .arch x64
        ; push rbp
        ; mov rbp, rsp
        ; sub rsp, layout.frame_bytes
        ; mov [rbp - 8], rbx
        ; .bytes counters.iter()
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
    Ok(())
}

/// Calls a program unless it already runs on this thread; returns the offsets of its slot's begin and end, and the program.
fn program(ops: &mut Ops, layout: &Layout, prog: ImageProg, skip: DynamicLabel) -> (usize, usize, Option<ImageProg>) {
    let next = ops.new_dynamic_label();
    let Entry { code, data } = prog.prog.entry();
    let row = thread::offset(prog.row);
    // Code between slots runs into the padding: nops.
    dynasm!(ops ; .arch x64 ; .align 8);
    let start = ops.offset().0;
    dynasm!(ops
        ; .arch x64
        ; .bytes NOP5.iter()
        ; cmp DWORD [rbx + row], 0
        ; jne =>next
        ; inc DWORD [rbx + row]
    );
    if let Ok(cookie) = i32::try_from(prog.cookie) {
        dynasm!(ops ; .arch x64 ; mov QWORD [rbp + layout.ctx - 24], cookie);
    } else {
        dynasm!(ops ; .arch x64 ; mov r11, QWORD prog.cookie as i64 ; mov [rbp + layout.ctx - 24], r11);
    }
    dynasm!(ops ; .arch x64 ; lea rdi, [rbp + layout.ctx]);
    if !data.is_null() {
        dynasm!(ops ; .arch x64 ; mov rsi, QWORD data as i64);
    }
    dynasm!(ops ; .arch x64 ; call extern code as *const () as usize ; dec DWORD [rbx + row]);
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
