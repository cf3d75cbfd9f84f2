//! Where a function's arguments are, and where its gate keeps them.
//!
//! ```text
//! rbp + 16 ...      arguments that the caller passed in memory
//! rbp +  8          return address into the caller
//! rbp               caller's rbp
//! rbp -  8          caller's rbx
//! ctx + 8 * slots   return value
//! ctx ...           one u64 per eight bytes of argument: what programs see
//! ctx -  8          number of slots          bpf_get_func_arg_cnt
//! ctx - 16          address of the function  bpf_get_func_ip
//! ctx - 24          cookie of the program    bpf_get_attach_cookie
//! below             what else must survive: registers without a slot, rdx, vector registers; a run's begin and result while it is timed
//! rsp               copies of arguments in memory, for the call of the function
//! ```
//!
//! # Source
//! System V ABI for x86-64, section 3.2.3: integers and pointers take rdi, rsi, rdx, rcx, r8, r9 in order, then memory; a struct of up to 16
//! bytes takes one or two registers if that many are left, else memory, and later arguments may still take the registers. A 16-byte integer does the
//! same, but lies at a multiple of 16 in memory.

use ring3_btf::FuncModel;

/// Argument registers in order, by encoding: rdi, rsi, rdx, rcx, r8, r9.
pub(crate) const ARG_REGS: [u8; 6] = [7, 6, 2, 1, 8, 9];

/// How far a function's model can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The code follows the model.
    Certain,
    /// BTF and code may disagree: every argument is treated as a u64, and everything that may carry one is preserved.
    Uncertain,
}

/// Where eight bytes of argument come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// An argument register, as index into [`ARG_REGS`].
    Reg(u8),
    /// The n-th eight bytes of arguments in memory.
    Memory(u32),
}

/// What a gate does with arguments and results.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Frame {
    /// Source of each slot of the array.
    pub(crate) slots: Vec<Place>,
    /// Argument registers to preserve that have no slot.
    pub(crate) extra_regs: Vec<u8>,
    /// Eight-byte words of arguments in memory to copy for the call.
    pub(crate) memory_words: u32,
    /// Preserve rax (number of vector arguments of variadic calls), r10 and xmm0 to xmm7.
    pub(crate) preserve_all: bool,
    /// Results may be in rdx, xmm0 and xmm1 as well as in rax.
    pub(crate) wide_result: bool,
}

/// Number of u64 slots that programs see of a function's arguments.
pub fn arg_slots(model: &FuncModel) -> usize {
    model
        .args
        .iter()
        .map(|arg| usize::from(arg.size).div_ceil(8))
        .sum()
}

impl Frame {
    /// The frame of a compiled BPF function, which takes up to five registers whatever its model says.
    pub(crate) fn of_bpf(model: &FuncModel, is_main: bool) -> Frame {
        const BPF_ARGS: usize = 5;
        let is_plain = model.args.len() <= BPF_ARGS && model.args.iter().all(|arg| arg.size <= 8);
        let args = match is_plain {
            true => model.args.len(),
            false => BPF_ARGS,
        };
        // The main program takes its context alone, or what the function takes that it replaces.
        let taken = if is_main { args.max(1) } else { BPF_ARGS };
        Frame {
            slots: (0..args as u8).map(Place::Reg).collect(),
            extra_regs: (args as u8..taken as u8).collect(),
            memory_words: 0,
            preserve_all: false,
            wide_result: false,
        }
    }

    pub(crate) fn of(model: &FuncModel, certainty: Certainty) -> Frame {
        let mut slots = Vec::with_capacity(arg_slots(model));
        let mut next_reg = 0u8;
        let mut memory_words = 0u32;
        for arg in &model.args {
            let words = arg.size.div_ceil(8);
            if next_reg + words <= 6 {
                for _ in 0..words {
                    slots.push(Place::Reg(next_reg));
                    next_reg += 1;
                }
            } else {
                if words == 2 && !arg.is_struct {
                    memory_words = memory_words.next_multiple_of(2);
                }
                for _ in 0..words {
                    slots.push(Place::Memory(memory_words));
                    memory_words += 1;
                }
            }
        }
        let is_uncertain = certainty == Certainty::Uncertain;
        let has_slot = |reg: u8| slots.contains(&Place::Reg(reg));
        let extra_regs = if is_uncertain {
            (0..6).filter(|&reg| !has_slot(reg)).collect()
        } else {
            Vec::new()
        };
        Frame {
            extra_regs,
            // Twelve arguments at most: six registers and, for plain values, six words.
            memory_words: if is_uncertain {
                memory_words.max(6)
            } else {
                memory_words
            },
            preserve_all: is_uncertain,
            wide_result: is_uncertain || model.ret.is_struct || model.ret.size > 8,
            slots,
        }
    }
}

/// Offsets from rbp.
pub(crate) struct Layout {
    pub(crate) ctx: i32,
    pub(crate) ret: i32,
    pub(crate) extra: i32,
    pub(crate) saved_rdx: i32,
    pub(crate) saved_rax: i32,
    pub(crate) saved_r10: i32,
    /// When the program that runs began, and what it returned, while runs are timed.
    pub(crate) run_begin: i32,
    pub(crate) run_result: i32,
    pub(crate) result_vectors: i32,
    pub(crate) arg_vectors: i32,
    pub(crate) frame_bytes: i32,
}

impl Layout {
    pub(crate) fn of(frame: &Frame) -> Layout {
        let slots = frame.slots.len() as i32;
        // rbx at -8, then the array with the return value, then count, address, cookie.
        let ctx = -8 - 8 * (slots + 1);
        let extra = ctx - 24 - 8 * frame.extra_regs.len() as i32;
        let saved_rdx = extra - 8;
        let saved_rax = saved_rdx - 8;
        let saved_r10 = saved_rax - 8;
        let run_begin = saved_r10 - 8;
        let run_result = run_begin - 8;
        let result_vectors = run_result - if frame.wide_result { 32 } else { 0 };
        let arg_vectors = result_vectors - if frame.preserve_all { 128 } else { 0 };
        let used = -arg_vectors + 8 * frame.memory_words as i32;
        Layout {
            ctx,
            ret: ctx + 8 * slots,
            extra,
            saved_rdx,
            saved_rax,
            saved_r10,
            run_begin,
            run_result,
            result_vectors,
            arg_vectors,
            frame_bytes: (used + 15) & !15,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_btf::ArgModel;

    fn arg(size: u8) -> ArgModel {
        ArgModel {
            size,
            is_struct: size > 8,
            is_signed: false,
        }
    }

    #[test]
    fn structs_take_two_registers_or_none() {
        let model = FuncModel {
            args: [8, 8, 8, 8, 8, 16, 8, 4].map(arg).to_vec(),
            ret: arg(8),
        };
        let frame = Frame::of(&model, Certainty::Certain);
        let expected = [
            Place::Reg(0),
            Place::Reg(1),
            Place::Reg(2),
            Place::Reg(3),
            Place::Reg(4),
            Place::Memory(0),
            Place::Memory(1),
            Place::Reg(5),
            Place::Memory(2),
        ];
        assert_eq!(frame.slots, expected);
        assert_eq!((frame.memory_words, frame.extra_regs.len()), (3, 0));
    }

    #[test]
    fn bpf_functions_keep_five_registers() {
        let model = FuncModel {
            args: vec![arg(8), arg(4)],
            ret: arg(8),
        };
        let frame = Frame::of_bpf(&model, false);
        assert_eq!(frame.slots, [Place::Reg(0), Place::Reg(1)]);
        assert_eq!(frame.extra_regs, [2, 3, 4]);
        assert_eq!(Frame::of_bpf(&model, true).extra_regs, []);
        let nothing = FuncModel {
            args: vec![],
            ret: arg(8),
        };
        assert_eq!(Frame::of_bpf(&nothing, true).extra_regs, [0]);
        let odd = FuncModel {
            args: vec![arg(16)],
            ret: arg(8),
        };
        assert_eq!(Frame::of_bpf(&odd, false).slots.len(), 5);
    }

    #[test]
    fn what_is_not_known_is_preserved() {
        let frame = Frame::of(&FuncModel::untyped(), Certainty::Uncertain);
        assert_eq!(frame.extra_regs, [5]);
        assert_eq!(frame.memory_words, 6);
        assert!(frame.preserve_all);
    }
}
