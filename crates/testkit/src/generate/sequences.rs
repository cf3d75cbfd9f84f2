//! Helpers that come in sequences: records between reserving and giving back, dynptrs, locks, timers, looked-up sockets, exchanged pointers.

use std::sync::OnceLock;

use ring3_btf::{Kind, Notation, TypeId, show_value};
use ring3_isa::{AluOp, CallTarget, Insn, MemSize, Operand, Reg, Width};
use ring3_uapi::FuncId;

use super::helpers::{BUFFER_BYTES, LOCKED, MASK_OFFSET, POINTED, TIMED, kernel_types};
use super::insns::{alu, mov, mov_imm};
use super::{Builder, PROG_ARRAY, RINGBUF, Subprog};

impl Builder<'_> {
    /// A record between reserving and giving back.
    fn record(&mut self, end: FuncId) {
        self.load_map(Reg::R1, RINGBUF);
        let bytes = 8 * (1 + self.rng.below(6) as i32);
        self.push(mov_imm(Reg::R2, bytes));
        self.push(mov_imm(Reg::R3, 0));
        self.helper(FuncId::RingbufReserve);
        let full = self.jump_if_zero(Reg::R0);
        self.push(Insn::Store {
            size: MemSize::Dw,
            dst: Reg::R0,
            off: 0,
            src: Operand::Reg(Reg::R7),
        });
        self.push(mov(Reg::R1, Reg::R0));
        // BPF_RB_NO_WAKEUP or BPF_RB_FORCE_WAKEUP
        let flags = self.rng.below(3) as i32;
        self.push(mov_imm(Reg::R2, flags));
        self.helper(end);
        self.land_here(full);
    }

    /// A dynptr over a record or a map's value, what is done with it, and its end.
    fn dynptr(&mut self, id: FuncId) {
        let place = Self::buffer(2);
        let is_record = matches!(
            id,
            FuncId::RingbufReserveDynptr
                | FuncId::RingbufSubmitDynptr
                | FuncId::RingbufDiscardDynptr
        );
        let none = (!is_record).then(|| self.first_value(super::VALUES));
        if is_record {
            self.load_map(Reg::R1, RINGBUF);
            self.push(mov_imm(Reg::R2, 32));
        } else {
            self.push(mov(Reg::R1, Reg::R9));
            self.push(mov_imm(Reg::R2, 48));
        }
        self.push(mov_imm(Reg::R3, 0));
        self.pointer_to_scratch(Reg::R4, place);
        self.helper(if is_record {
            FuncId::RingbufReserveDynptr
        } else {
            FuncId::DynptrFromMem
        });
        let (offset, len) = (self.rng.below(60) as i32, 1 + self.rng.below(24) as i32);
        match self.rng.below(3) {
            _ if id == FuncId::DynptrData => {
                self.pointer_to_scratch(Reg::R1, place);
                self.push(mov_imm(Reg::R2, offset));
                self.push(mov_imm(Reg::R3, 8));
                self.helper(FuncId::DynptrData);
                let outside = self.jump_if_zero(Reg::R0);
                self.load_word(Reg::R0, Reg::R0, 0);
                self.keep_answer(id);
                self.land_here(outside);
            }
            0 | 1 if id != FuncId::DynptrWrite => {
                self.pointer_to_scratch(Reg::R1, Self::buffer(0));
                self.push(mov_imm(Reg::R2, len));
                self.pointer_to_scratch(Reg::R3, place);
                self.push(mov_imm(Reg::R4, offset));
                self.flag(Reg::R5);
                self.helper(FuncId::DynptrRead);
                // A record is read before anything is written.
                let read = if is_record { FuncId::KtimeGetNs } else { id };
                self.keep_answer(read);
            }
            _ => {
                self.pointer_to_scratch(Reg::R1, place);
                self.push(mov_imm(Reg::R2, offset));
                self.pointer_to_scratch(Reg::R3, Self::buffer(0));
                self.push(mov_imm(Reg::R4, len));
                self.flag(Reg::R5);
                self.helper(FuncId::DynptrWrite);
                self.keep_answer(id);
            }
        }
        if is_record {
            self.pointer_to_scratch(Reg::R1, place);
            self.push(mov_imm(Reg::R2, 0));
            let end = match id {
                FuncId::RingbufSubmitDynptr => id,
                FuncId::RingbufDiscardDynptr => id,
                _ => self
                    .rng
                    .pick(&[FuncId::RingbufSubmitDynptr, FuncId::RingbufDiscardDynptr]),
            };
            self.helper(end);
        }
        for number in 0..3 {
            for slot in 0..BUFFER_BYTES / 8 {
                self.store_scratch(MemSize::Dw, Self::buffer(number) + 8 * slot, 7);
            }
        }
        if let Some(none) = none {
            self.land_here(none);
        }
    }

    /// A function of the kernel, by its name.
    fn kfunc(&mut self, name: &str) {
        let id = kernel_types().btf.find_by_name_kind(name, Kind::Func);
        let id = id.map_or(0, |id| id.0 as i32);
        self.push(Insn::Call(CallTarget::Kfunc { id, btf_idx: 0 }));
    }

    /// A CPU mask, or nothing, goes into a value; what was there is let go.
    fn exchange(&mut self) {
        let no_value = self.first_value(POINTED);
        let mut ends = vec![no_value];
        if self.rng.one_in(3) {
            self.push(mov_imm(Reg::R2, 0));
        } else {
            self.kfunc("bpf_cpumask_create");
            ends.push(self.jump_if_zero(Reg::R0));
            self.push(mov(Reg::R2, Reg::R0));
        }
        self.push(mov(Reg::R1, Reg::R9));
        self.push(alu(
            Width::W64,
            AluOp::Add,
            Reg::R1,
            Operand::Imm(MASK_OFFSET),
        ));
        self.helper(FuncId::KptrXchg);
        ends.push(self.jump_if_zero(Reg::R0));
        self.push(mov(Reg::R1, Reg::R0));
        self.kfunc("bpf_cpumask_release");
        // That something was there is part of the result.
        self.push(alu(Width::W64, AluOp::Xor, Reg::R7, Operand::Imm(1)));
        for end in ends {
            self.land_here(end);
        }
    }

    /// A buffer as a value of some type, its text into another.
    fn show(&mut self) {
        let (value, text, names) = (Self::buffer(0), Self::buffer(1), Self::buffer(2));
        self.pointer_to_scratch(Reg::R1, value);
        self.push(Insn::Store {
            size: MemSize::Dw,
            dst: Reg::FP,
            off: names,
            src: Operand::Reg(Reg::R1),
        });
        let types = shown_types();
        let ty = match self.rng.one_in(16) {
            true => self.rng.imm(),
            false => types[self.rng.below(types.len())].0 as i32,
        };
        self.store_scratch(MemSize::W, names + 8, ty);
        self.store_scratch(MemSize::W, names + 12, 0);
        self.pointer_to_scratch(Reg::R1, text);
        let len = 1 + self.rng.below(BUFFER_BYTES as usize) as i32;
        self.push(mov_imm(Reg::R2, len));
        self.pointer_to_scratch(Reg::R3, names);
        self.push(mov_imm(Reg::R4, 16));
        let flags = self.rng.below(17) as i32;
        self.push(mov_imm(Reg::R5, flags));
        self.helper(FuncId::SnprintfBtf);
        // The address is another in each engine.
        self.store_scratch(MemSize::Dw, names, 1);
        self.keep_answer(FuncId::SnprintfBtf);
        self.keep_buffers(FuncId::SnprintfBtf);
    }

    /// Helpers that come in sequences; false where the prototype is enough.
    pub(super) fn sequence(&mut self, id: FuncId) -> bool {
        match id {
            FuncId::RingbufReserve => {
                let end = self
                    .rng
                    .pick(&[FuncId::RingbufSubmit, FuncId::RingbufDiscard]);
                self.record(end);
            }
            FuncId::RingbufSubmit | FuncId::RingbufDiscard => self.record(id),
            FuncId::RingbufReserveDynptr
            | FuncId::RingbufSubmitDynptr
            | FuncId::RingbufDiscardDynptr
            | FuncId::DynptrFromMem
            | FuncId::DynptrRead
            | FuncId::DynptrWrite
            | FuncId::DynptrData => self.dynptr(id),
            FuncId::SpinLock | FuncId::SpinUnlock => {
                let none = self.first_value(LOCKED);
                self.push(mov(Reg::R1, Reg::R9));
                self.helper(FuncId::SpinLock);
                self.push(Insn::Store {
                    size: MemSize::Dw,
                    dst: Reg::R9,
                    off: 8,
                    src: Operand::Reg(Reg::R7),
                });
                self.push(mov(Reg::R1, Reg::R9));
                self.helper(FuncId::SpinUnlock);
                self.land_here(none);
            }
            FuncId::TimerInit
            | FuncId::TimerSetCallback
            | FuncId::TimerStart
            | FuncId::TimerCancel => {
                let none = self.first_value(TIMED);
                self.push(mov(Reg::R1, Reg::R9));
                self.load_map(Reg::R2, TIMED);
                let clock = self.rng.pick(&[0, 1, 7, 1, 3]);
                self.push(mov_imm(Reg::R3, clock));
                self.helper(FuncId::TimerInit);
                self.push(mov(Reg::R1, Reg::R9));
                self.callback(Reg::R2, Subprog::Nothing);
                self.helper(FuncId::TimerSetCallback);
                self.push(mov(Reg::R1, Reg::R9));
                // Long after the test, or at once.
                let nsecs = self.rng.pick(&[i32::MAX, 1]);
                self.push(mov_imm(Reg::R2, nsecs));
                self.flag(Reg::R3);
                self.helper(FuncId::TimerStart);
                self.push(mov(Reg::R1, Reg::R9));
                self.helper(FuncId::TimerCancel);
                self.land_here(none);
            }
            FuncId::SkLookupTcp
            | FuncId::SkLookupUdp
            | FuncId::SkcLookupTcp
            | FuncId::SkRelease => {
                let look_up = if id == FuncId::SkRelease {
                    FuncId::SkLookupTcp
                } else {
                    id
                };
                self.push(mov(Reg::R1, Reg::R6));
                self.pointer_to_scratch(Reg::R2, Self::buffer(0));
                let len = self.rng.pick(&[12, 36, 13]);
                self.push(mov_imm(Reg::R3, len));
                self.push(mov_imm(Reg::R4, -1));
                self.flag(Reg::R5);
                self.helper(look_up);
                let none = self.jump_if_zero(Reg::R0);
                self.push(mov(Reg::R1, Reg::R0));
                self.helper(FuncId::SkRelease);
                self.land_here(none);
            }
            FuncId::KptrXchg => self.exchange(),
            FuncId::SnprintfBtf => self.show(),
            FuncId::TailCall => {
                self.push(mov(Reg::R1, Reg::R6));
                self.load_map(Reg::R2, PROG_ARRAY);
                let slot = self.rng.below(3) as i32;
                self.push(mov_imm(Reg::R3, slot));
                self.helper(id);
            }
            _ => return false,
        }
        true
    }
}

/// Types of the kernel that fit a buffer and hold no address.
fn shown_types() -> &'static [TypeId] {
    static TYPES: OnceLock<Vec<TypeId>> = OnceLock::new();
    TYPES.get_or_init(|| {
        let btf = &kernel_types().btf;
        let holds_none = |id: TypeId| {
            let mut text = String::new();
            let bytes = [1; BUFFER_BYTES as usize];
            let shown = show_value(btf, id, &bytes[..], Notation::ZEROS, &mut text);
            // A qualifier hides what is behind it.
            shown.is_ok() && !text.contains("*)") && !text.contains("()") && !text.contains("*[")
        };
        let ids = btf.types().map(|ty| ty.id());
        ids.filter(|&id| holds_none(id)).collect()
    })
}
