//! Lists: generated code that runs programs one after the other, between two points of a gate.
//!
//! ```text
//!   slot:   nop5 | jmp next        one aligned quadword: detaching a program is one store
//!           already running on this thread? count a miss; next
//!           call program(ctx)      fmod_ret: result to the array; not zero: to the gate's `skip`
//!   next:   ...
//!           jmp to the gate's `pass`, `call` or `finish`
//! ```
//!
//! A list runs inside a read section that its gate has entered; rbx holds the thread's rows, rbp the gate's frame.

use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};
use ring3_jit_x86_64::pack::Text;
use ring3_runtime::{Entry, ProgRef, RunStats};
use ring3_uapi::Errno;

use crate::frame::Layout;
use crate::section::{self, Ops, Tails};
use crate::site::NOP5;
use crate::target::ProgKind;
use crate::thread;

/// A program on a target.
#[derive(Clone)]
pub(crate) struct Attached {
    pub(crate) prog: ProgRef,
    pub(crate) kind: ProgKind,
    pub(crate) cookie: u64,
    /// Row of words that marks the program as running.
    pub(crate) row: u32,
    /// Attachment that this slot stands for.
    pub(crate) key: u64,
}

/// Where a list leads.
#[derive(Clone, Copy)]
pub(crate) struct Exits {
    pub(crate) end: usize,
    pub(crate) skip: usize,
}

impl Attached {
    fn is_timed(&self) -> bool {
        self.prog.run_stats().is_some_and(RunStats::is_counting)
    }
}

struct Slot {
    /// Offsets of the quadword and of the next slot.
    begin: u32,
    next: u32,
    /// `None` once detached.
    attached: Option<Attached>,
}

/// Generated code and what it calls.
pub(crate) struct List {
    text: Text,
    /// In the order of execution.
    slots: Vec<Slot>,
    live: usize,
    pub(crate) end: usize,
}

/// Upper bounds of what is generated, in bytes: for any program, for a cookie of its own, for fmod_ret, for timed runs, and around them all.
const PROGRAM_BYTES: usize = 104;
const COOKIE_BYTES: usize = 20;
const FMOD_RET_BYTES: usize = 44;
const TIMED_BYTES: usize = 72;
const END_BYTES: usize = 32;

impl List {
    /// Generates code for programs in order of execution.
    ///
    /// # Errors
    /// `ENOMEM`: no memory for text.
    pub(crate) fn generate(
        layout: &Layout,
        progs: Vec<Attached>,
        exits: Exits,
    ) -> Result<List, Errno> {
        let cookie = Cookie::of(&progs);
        // Asked once: others may begin or end to count meanwhile.
        let timed: Vec<bool> = progs.iter().map(Attached::is_timed).collect();
        let text = Text::allocate(bound(&progs, &timed, cookie))?;
        let here = text.address();
        let mut ops: Ops = VecAssembler::new(here);
        let mut tails = Tails::default();
        let live = progs.len();
        let mut slots = Vec::with_capacity(live);
        if let Cookie::OfAll(value) = cookie {
            store_cookie(&mut ops, layout, value);
        }
        if progs.iter().any(|prog| prog.kind == ProgKind::FmodRet) {
            dynasm!(ops ; .arch x64 ; mov QWORD [rbp + layout.ret], 0);
        }
        let how = How {
            layout,
            cookie,
            here,
            skip: exits.skip,
        };
        for (attached, is_timed) in progs.into_iter().zip(timed) {
            align_with_one_nop(&mut ops);
            let begin = ops.offset().0 as u32;
            program(&mut ops, &mut tails, &how, &attached, is_timed);
            slots.push(Slot {
                begin,
                next: ops.offset().0 as u32,
                attached: Some(attached),
            });
        }
        section::jump_from(&mut ops, here, exits.end);
        tails.write(&mut ops, 0);
        let code = ops.finalize().map_err(|_| Errno::ENOTSUPP)?;
        if code.len() > text.len_bytes() {
            return Err(Errno::E2BIG);
        }
        text.write(0, &code);
        Ok(List {
            text,
            slots,
            live,
            end: exits.end,
        })
    }

    pub(crate) fn address(&self) -> usize {
        self.text.address()
    }

    /// Takes the program of an attachment out: one store. The reference is the caller's to drop after a grace period.
    pub(crate) fn disable(&mut self, key: u64) -> Option<Attached> {
        let has_key = |attached: &Attached| attached.key == key;
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.attached.as_ref().is_some_and(has_key))?;
        let begin = slot.begin as usize;
        let old = self.text.quadword(begin);
        let distance = u64::from(slot.next - (slot.begin + 5));
        let new = old & !0xff_ffff_ffff | 0xe9 | distance << 8;
        // Only the target's lock holder patches its lists, so the quadword is what was just read.
        let _ = self.text.patch_quadword(begin, old, new);
        self.live -= 1;
        slot.attached.take()
    }

    /// Programs that still run.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Attached> {
        self.slots.iter().filter_map(|slot| slot.attached.as_ref())
    }

    /// How many still run.
    pub(crate) fn len(&self) -> usize {
        self.live
    }
}

/// C function for lists: monotonic nanoseconds.
extern "C" fn now() -> u64 {
    ring3_os::time::monotonic_ns()
}

/// C function for lists: counts a run that began at `begin_ns`.
extern "C" fn record(stats: *const RunStats, begin_ns: u64) {
    // SAFETY: 1. the list that calls this holds the program, and with it its statistics.
    unsafe { &*stats }.record_since(begin_ns);
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
    fn of(progs: &[Attached]) -> Cookie {
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

fn bound(progs: &[Attached], timed: &[bool], cookie: Cookie) -> usize {
    let optional = |is_there: bool, bytes: usize| if is_there { bytes } else { 0 };
    let each = |(prog, &is_timed): (&Attached, &bool)| {
        PROGRAM_BYTES
            + optional(cookie == Cookie::OfEach, COOKIE_BYTES)
            + optional(is_timed, TIMED_BYTES)
            + optional(prog.kind == ProgKind::FmodRet, FMOD_RET_BYTES)
    };
    END_BYTES + progs.iter().zip(timed).map(each).sum::<usize>()
}

/// What is the same for all programs of a list.
struct How<'a> {
    layout: &'a Layout,
    cookie: Cookie,
    /// Address of the list.
    here: usize,
    skip: usize,
}

/// Calls a program unless it already runs on this thread.
fn program(ops: &mut Ops, tails: &mut Tails, how: &How<'_>, attached: &Attached, is_timed: bool) {
    let How { layout, here, .. } = *how;
    let stats = attached.prog.run_stats();
    let timed = stats.filter(|_| is_timed);
    let next = ops.new_dynamic_label();
    let busy = ops.new_dynamic_label();
    let Entry { code, data } = attached.prog.entry();
    let row = thread::offset(attached.row);
    dynasm!(ops
        ; .arch x64
        ; .bytes NOP5.iter()
        ; cmp DWORD [rbx + row], 0
        ; jne =>busy
        ; mov DWORD [rbx + row], 1
    );
    tails.count_and_go(busy, stats.map(RunStats::recursion_misses_word), next);
    if how.cookie == Cookie::OfEach {
        store_cookie(ops, layout, attached.cookie);
    }
    if timed.is_some() {
        section::call(ops, now as *const () as usize);
        dynasm!(ops ; .arch x64 ; mov [rbp + layout.run_begin], rax);
    }
    dynasm!(ops ; .arch x64 ; lea rdi, [rbp + layout.ctx]);
    if data.is_null() {
        dynasm!(ops ; .arch x64 ; xor esi, esi);
    } else {
        dynasm!(ops ; .arch x64 ; mov rsi, QWORD data as i64);
    }
    section::call_from(ops, here, code as *const () as usize);
    if let Some(stats) = timed {
        let stats = std::ptr::from_ref(stats).expose_provenance();
        dynasm!(ops
            ; .arch x64
            ; mov [rbp + layout.run_result], rax
            ; mov rdi, QWORD stats as i64
            ; mov rsi, [rbp + layout.run_begin]
        );
        section::call(ops, record as *const () as usize);
        dynasm!(ops ; .arch x64 ; mov rax, [rbp + layout.run_result]);
    }
    dynasm!(ops ; .arch x64 ; mov DWORD [rbx + row], 0);
    if attached.kind == ProgKind::FmodRet {
        // An int is what such programs return; the array gets it as they left it.
        dynasm!(ops ; .arch x64 ; mov [rbp + layout.ret], rax ; test rax, rax ; jz =>next);
        section::jump_from(ops, here, how.skip);
    }
    dynasm!(ops ; .arch x64 ; =>next);
}
