//! Instructions whose meaning the engines leave to the verifier: divisions by what may be zero, clamps of pointer
//! arithmetic, tail calls, calls that become a few instructions.
//!
//! Kernel counterpart: `do_misc_fixups`. What the kernel also replaces and we do not, because our engines do it: legacy packet
//! loads, `may_goto`, look-ups in maps and other helpers that it inlines with kernel addresses.

// DIVERGES: legacy packet loads, `may_goto`, look-ups in maps and the other helpers that the kernel inlines stay one instruction in rewritten
// programs; the engines expand them.

use ring3_btf::{Btf, TypeId};
use ring3_isa::RawInsn;
use ring3_spec::LoadRequest;
use ring3_uapi::{AttachType, Errno, FuncId, ProgType};

use super::patch::build::*;
use super::patch::{Draft, DraftSlot, Patch};
use crate::aux::{AuxTable, CallAux, InsnAux, MapArg, ObjectArg};
use crate::check::sanitize::{
    ALU_IMMEDIATE, ALU_NEG_VALUE, ALU_NON_POINTER, ALU_SANITIZE_DST, ALU_SANITIZE_SRC,
};
use crate::error::{Check, Violation, reject};
use crate::state::BtfIdx;
use crate::subprogs::{is_helper_call, is_kfunc_call};

const DIV: u8 = 0x30;
const MOD: u8 = 0x90;
/// Opcode of a tail call after acceptance.
pub(super) const CODE_TAIL_CALL: u8 = 0xf5;
/// Offset of a move that casts between address spaces.
const OFF_ADDR_SPACE_CAST: i16 = 1;
/// `map_flags`: addresses of the arena are never the user's.
const NO_USER_CONV: u32 = 1 << 18;
/// Source: `GFP_ATOMIC`, `GFP_KERNEL`.
const GFP_ATOMIC: i32 = 0x820;
const GFP_KERNEL: i32 = 0xcc0;

/// What the pass needs.
pub(super) struct MiscInput<'a> {
    pub(super) req: &'a LoadRequest,
    /// One per slot of the program as loaded.
    pub(super) aux: &'a AuxTable,
    /// As judged: an extension's are its target's.
    pub(super) prog_type: ProgType,
    pub(super) attach_type: u32,
    pub(super) sleepable: bool,
    /// The program has an arena of these flags.
    pub(super) arena_flags: Option<u32>,
    /// The types of `CallAux::object`, without repetition, and their sizes.
    pub(super) object_types: &'a [(BtfIdx, TypeId, u32)],
}

/// Rewrites instructions one by one.
///
/// # Errors
/// EINVAL: a call of a kernel function that does not exist was not dead; a tail call without privilege through more than
/// one map.
pub(super) fn do_misc_fixups(draft: &mut Draft, input: &MiscInput<'_>) -> Check {
    let default = InsnAux::default();
    let mut after_ld_imm64 = false;
    draft.rewrite(|_, slot, patch| {
        let is_second_half = core::mem::replace(&mut after_ld_imm64, slot.insn.is_ld_imm64());
        if is_second_half {
            patch.keep(slot);
            return Ok(());
        }
        let aux = if slot.is_primary {
            input.aux.get(slot.orig).unwrap_or(&default)
        } else {
            &default
        };
        let insn = slot.insn;
        match insn.class() {
            ALU | ALU64 => fix_alu(input, slot, aux, patch),
            JMP if insn.code == 0x85 => {
                let aux = if slot.is_primary {
                    input.aux.call(slot.orig)
                } else {
                    CallAux::default()
                };
                return fix_call(input, slot, aux, patch);
            }
            _ => patch.keep(slot),
        }
        Ok(())
    })
}

fn fix_alu(input: &MiscInput<'_>, slot: DraftSlot, aux: &InsnAux, patch: &mut Patch) {
    let insn = slot.insn;
    if insn.code == ALU64 | MOV | X && insn.off == OFF_ADDR_SPACE_CAST && insn.imm != 0 {
        let clears_half = insn.imm == 1
            || input
                .arena_flags
                .is_some_and(|flags| flags & NO_USER_CONV != 0);
        let cast = if clears_half {
            alu_reg(ALU, MOV, insn.dst(), insn.src())
        } else {
            insn
        };
        patch.keep_as(slot, cast);
        return;
    }
    let insn = if aux.needs_zext {
        RawInsn {
            code: (insn.code & !7) | ALU,
            ..insn
        }
    } else {
        insn
    };
    let slot = DraftSlot { insn, ..slot };
    let operation = insn.code & 0xf0;
    if operation == DIV || operation == MOD {
        fix_division(slot, patch);
    } else if insn.class() == ALU64 && matches!(operation, ADD | SUB) && insn.code & X != 0 {
        fix_pointer_arithmetic(slot, aux, patch);
    } else {
        patch.keep(slot);
    }
}

/// Division by zero gives 0, the remainder of one leaves the dividend; the most negative number by -1 must not trap.
fn fix_division(slot: DraftSlot, patch: &mut Patch) {
    let insn = slot.insn;
    let is_signed = insn.off == 1;
    let is_64 = insn.class() == ALU64;
    let (alu, jmp) = if is_64 { (ALU64, JMP) } else { (ALU, JMP32) };
    let is_div = insn.code & 0xf0 == DIV;
    let (dst, src) = (insn.dst(), insn.src());
    let checked = DraftSlot {
        divisor_nonzero: true,
        ..slot
    };
    // 64-bit remainders need nothing where the dividend stays; 32-bit ones lose its upper half.
    let keep_dividend = |patch: &mut Patch| {
        if !is_64 {
            patch.push_all(&[ja(1), alu_reg(ALU, MOV, dst, dst)]);
        }
    };
    if insn.code & X == 0 {
        if is_signed && insn.imm == -1 {
            let replacement = if is_div {
                alu_imm(alu, NEG, dst, 0)
            } else {
                alu_imm(ALU, MOV, dst, 0)
            };
            patch.keep_as(
                slot,
                RawInsn {
                    off: 0,
                    ..replacement
                },
            );
        } else {
            patch.keep(slot);
        }
        return;
    }
    match (is_signed, is_div) {
        (false, true) => {
            patch.push_all(&[
                jmp_imm(jmp, JNE, src, 0, 2),
                alu_reg(ALU, XOR, dst, dst),
                ja(1),
            ]);
            patch.keep(checked);
        }
        (false, false) => {
            patch.push(jmp_imm(jmp, JEQ, src, 0, if is_64 { 1 } else { 2 }));
            patch.keep(checked);
            keep_dividend(patch);
        }
        (true, true) => {
            patch.push_all(&[
                alu_reg(ALU64, MOV, AX, src),
                alu_imm(alu, ADD, AX, 1),
                jmp_imm(jmp, JGT, AX, 1, 4),
                jmp_imm(jmp, JEQ, AX, 0, 1),
                alu_imm(alu, MOV, dst, 0),
                alu_imm(alu, NEG, dst, 0),
                ja(1),
            ]);
            // -1 went another way.
            patch.keep(checked);
        }
        (true, false) => {
            patch.push_all(&[
                alu_reg(ALU64, MOV, AX, src),
                alu_imm(alu, ADD, AX, 1),
                jmp_imm(jmp, JGT, AX, 1, 3),
                jmp_imm(jmp, JEQ, AX, 1, if is_64 { 3 } else { 4 }),
                alu_imm(ALU, MOV, dst, 0),
                ja(1),
            ]);
            patch.keep(checked);
            keep_dividend(patch);
        }
    }
}

/// What is added to a pointer is cut to 0 where the processor may have speculated past its bounds.
fn fix_pointer_arithmetic(slot: DraftSlot, aux: &InsnAux, patch: &mut Patch) {
    let insn = slot.insn;
    let clamp = aux.clamp();
    if clamp.state == 0 || clamp.state == ALU_NON_POINTER {
        patch.keep(slot);
        return;
    }
    let is_negative = clamp.state & ALU_NEG_VALUE != 0;
    let is_imm = clamp.state & ALU_IMMEDIATE != 0;
    let off_is_src = clamp.state & (ALU_SANITIZE_SRC | ALU_SANITIZE_DST) == ALU_SANITIZE_SRC;
    let off = if off_is_src { insn.src() } else { insn.dst() };
    let limit = alu_imm(ALU, MOV, AX, clamp.limit as i32);
    if is_imm {
        patch.push(limit);
    } else {
        if is_negative {
            patch.push(alu_imm(ALU64, MUL, off, -1));
        }
        patch.push_all(&[
            limit,
            alu_reg(ALU64, SUB, AX, off),
            alu_reg(ALU64, OR, AX, off),
            alu_imm(ALU64, NEG, AX, 0),
            alu_imm(ALU64, ARSH, AX, 63),
            alu_reg(ALU64, AND, AX, off),
        ]);
    }
    if !off_is_src {
        patch.push(alu_reg(ALU64, MOV, insn.dst(), insn.src()));
    }
    let operation = if is_negative {
        insn.code ^ ADD ^ SUB
    } else {
        insn.code
    };
    patch.keep_as(
        slot,
        RawInsn::new(operation, insn.dst(), AX, insn.off, insn.imm),
    );
    if off_is_src && is_negative && !is_imm {
        patch.push(alu_imm(ALU64, MUL, off, -1));
    }
}

fn fix_call(input: &MiscInput<'_>, slot: DraftSlot, aux: CallAux, patch: &mut Patch) -> Check {
    let insn = slot.insn;
    if is_kfunc_call(insn) {
        if insn.imm == 0 {
            reject!(
                EINVAL,
                "invalid kernel function call not eliminated in verifier pass"
            );
        }
        let is_cast = insn.off == 0
            && input.req.kernel_btf.as_ref().is_some_and(|btf: &Btf| {
                matches!(
                    btf.name(TypeId(insn.imm as u32)),
                    "bpf_cast_to_kern_ctx" | "bpf_rdonly_cast"
                )
            });
        if is_cast {
            patch.push(alu_reg(ALU64, MOV, R0, R1));
            return Ok(());
        }
        if let Some(object) = aux.object {
            give_object_type(input, object, slot, patch)?;
        }
        patch.keep(slot);
        return Ok(());
    }
    if is_helper_call(insn)
        && let Some(id) = u32::try_from(insn.imm).ok().and_then(FuncId::from_raw)
    {
        fix_helper_call(input, slot, id, aux, patch)?;
    } else {
        patch.keep(slot);
    }
    Ok(())
}

/// Functions of allocated objects get what the verifier knows of them in registers that the program's prototype leaves to it.
fn give_object_type(
    input: &MiscInput<'_>,
    object: ObjectArg,
    slot: DraftSlot,
    patch: &mut Patch,
) -> Check {
    let kernel = input.req.kernel_btf.as_ref();
    let name = kernel.map_or("", |btf| btf.name(TypeId(slot.insn.imm as u32)));
    let types = input.object_types;
    let at = types
        .iter()
        .position(|(btf, id, _)| (*btf, *id) == (object.btf, object.id));
    let Some((at, bytes)) = at.map(|at| (at as u32, types[at].2)) else {
        return Err(Violation::bug("object type of a kernel function"));
    };
    match name {
        "bpf_obj_new_impl" | "bpf_percpu_obj_new_impl" => {
            patch.push(alu_imm(ALU64, MOV, R1, bytes as i32));
            patch.push_object_type(R2, at);
        }
        "bpf_list_push_front_impl" | "bpf_list_push_back_impl" => {
            patch.push_object_type(R3, at);
            patch.push(alu_imm(ALU64, MOV, R4, object.node_offset as i32));
        }
        "bpf_rbtree_add_impl" => {
            patch.push_object_type(R4, at);
            patch.push(alu_imm(ALU64, MOV, R5, object.node_offset as i32));
        }
        _ => patch.push_object_type(R2, at),
    }
    Ok(())
}

fn fix_helper_call(
    input: &MiscInput<'_>,
    slot: DraftSlot,
    id: FuncId,
    aux: CallAux,
    patch: &mut Patch,
) -> Check {
    match id {
        FuncId::TailCall => {
            match aux.map_arg {
                // The processor may speculate past the bound of the index; without privilege it is masked.
                MapArg::One { map, unpriv: true } => {
                    if let Some(map) = input.req.maps.get(map.0 as usize) {
                        let mask = map
                            .max_entries
                            .checked_next_power_of_two()
                            .unwrap_or(0)
                            .wrapping_sub(1);
                        patch.push_all(&[
                            jmp_imm(JMP, JGE, R3, map.max_entries as i32, 2),
                            alu_imm(ALU, AND, R3, mask as i32),
                        ]);
                    }
                }
                MapArg::Poison { unpriv: true } => reject!(EINVAL, "tail_call abusing map_ptr"),
                MapArg::Unseen
                | MapArg::One { unpriv: false, .. }
                | MapArg::Poison { unpriv: false } => {}
            }
            patch.keep_as(
                slot,
                RawInsn {
                    code: CODE_TAIL_CALL,
                    imm: 0,
                    ..slot.insn
                },
            );
        }
        FuncId::SkStorageGet
        | FuncId::InodeStorageGet
        | FuncId::TaskStorageGet
        | FuncId::CgrpStorageGet => {
            let gfp = if !input.sleepable || aux.storage_get_atomic {
                GFP_ATOMIC
            } else {
                GFP_KERNEL
            };
            patch.push(alu_imm(ALU64, MOV, R5, gfp));
            patch.keep(slot);
        }
        FuncId::KptrXchg => {
            patch.push_all(&[
                alu_reg(ALU64, MOV, R0, R2),
                RawInsn::new(0xdb, R1, R0, 0, 0xe1),
            ]);
        }
        FuncId::GetFuncArg if input.prog_type == ProgType::Tracing => patch.push_all(&[
            load64(R0, R1, -8),
            RawInsn {
                off: 6,
                ..alu_reg(JMP32, JGE, R2, R0)
            },
            alu_imm(ALU64, LSH, R2, 3),
            alu_reg(ALU64, ADD, R2, R1),
            load64(R0, R2, 0),
            store64(R3, R0, 0),
            alu_imm(ALU64, MOV, R0, 0),
            ja(1),
            alu_imm(ALU64, MOV, R0, -Errno::EINVAL.raw()),
        ]),
        FuncId::GetFuncRet if input.prog_type == ProgType::Tracing => {
            let has_ret = matches!(
                AttachType::from_raw(input.attach_type),
                Some(AttachType::TraceFexit | AttachType::ModifyReturn)
            );
            if has_ret {
                patch.push_all(&[
                    load64(R0, R1, -8),
                    alu_imm(ALU64, LSH, R0, 3),
                    alu_reg(ALU64, ADD, R0, R1),
                    load64(R3, R0, 0),
                    store64(R2, R3, 0),
                    alu_imm(ALU64, MOV, R0, 0),
                ]);
            } else {
                patch.push(alu_imm(ALU64, MOV, R0, -Errno::ENOTSUP.raw()));
            }
        }
        FuncId::GetFuncArgCnt if input.prog_type == ProgType::Tracing => {
            patch.push(load64(R0, R1, -8))
        }
        FuncId::GetFuncIp if input.prog_type == ProgType::Tracing => {
            patch.push(load64(R0, R1, -16))
        }
        _ => patch.keep(slot),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aux::Clamp;
    use crate::env::Subprog;
    use alloc::vec;
    use alloc::vec::Vec;
    use ring3_isa::{
        AluOp, Insn, JmpOp, Operand, decode_xlated, eval_alu32, eval_alu64, eval_jmp32, eval_jmp64,
    };

    fn fixed(insn: RawInsn) -> Vec<RawInsn> {
        fixed_with(insn, |_| ()).unwrap()
    }

    fn fixed_with(insn: RawInsn, note: impl FnOnce(&mut AuxTable)) -> Check<Vec<RawInsn>> {
        let mut aux = AuxTable::new(1);
        note(&mut aux);
        let req = LoadRequest::new(ProgType::Xdp, vec![]);
        let input = MiscInput {
            req: &req,
            aux: &aux,
            prog_type: ProgType::Xdp,
            attach_type: 0,
            sleepable: false,
            arena_flags: None,
            object_types: &[],
        };
        let mut draft = Draft::new(&[insn], &[Subprog::default()]);
        do_misc_fixups(&mut draft, &input)?;
        draft.encode()
    }

    /// Runs arithmetic and jumps; divisions trap where a processor's would.
    fn run(insns: &[RawInsn], regs: &mut [u64; 12]) {
        let mut at = 0;
        while at < insns.len() {
            let (insn, _) = decode_xlated(insns, at).unwrap();
            at += 1;
            let value = |src: Operand, regs: &[u64; 12]| match src {
                Operand::Reg(reg) => regs[reg.index()],
                Operand::Imm(imm) => i64::from(imm) as u64,
            };
            match insn {
                Insn::Alu {
                    width,
                    op,
                    dst,
                    src,
                } => {
                    let src = value(src, regs);
                    let old = regs[dst.index()];
                    let (is_wide, signed_min) = match width {
                        ring3_isa::Width::W64 => (true, old == 1 << 63 && src == u64::MAX),
                        ring3_isa::Width::W32 => {
                            (false, old as u32 == 1 << 31 && src as u32 == u32::MAX)
                        }
                    };
                    let divisor_is_zero = if is_wide { src == 0 } else { src as u32 == 0 };
                    match op {
                        AluOp::Div | AluOp::Mod => assert!(!divisor_is_zero),
                        AluOp::Sdiv | AluOp::Smod => assert!(!divisor_is_zero && !signed_min),
                        _ => {}
                    }
                    regs[dst.index()] = if is_wide {
                        eval_alu64(op, old, src)
                    } else {
                        u64::from(eval_alu32(op, old as u32, src as u32))
                    };
                }
                Insn::Neg { width, dst } => {
                    let old = regs[dst.index()];
                    regs[dst.index()] = match width {
                        ring3_isa::Width::W64 => old.wrapping_neg(),
                        ring3_isa::Width::W32 => u64::from((old as u32).wrapping_neg()),
                    };
                }
                Insn::Jmp {
                    width,
                    op,
                    dst,
                    src,
                    off,
                } => {
                    let (dst, src) = (regs[dst.index()], value(src, regs));
                    let op: JmpOp = op;
                    let taken = match width {
                        ring3_isa::Width::W64 => eval_jmp64(op, dst, src),
                        ring3_isa::Width::W32 => eval_jmp32(op, dst as u32, src as u32),
                    };
                    at = if taken {
                        (at as i64 + i64::from(off)) as usize
                    } else {
                        at
                    };
                }
                Insn::Ja { off } => at = (at as i64 + i64::from(off)) as usize,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn divisions_never_trap_and_mean_the_same() {
        const VALUES: [u64; 9] = [
            0,
            1,
            7,
            u64::MAX,
            1 << 63,
            1 << 31,
            0xffff_ffff,
            0xffff_ffff_8000_0000,
            0x1_0000_0000,
        ];
        for (class, op, off) in [ALU, ALU64].into_iter().flat_map(|class| {
            [(DIV, 0), (DIV, 1), (MOD, 0), (MOD, 1)].map(|(op, off)| (class, op, off))
        }) {
            let insn = RawInsn {
                off,
                ..alu_reg(class, op, R1, R2)
            };
            let (decoded, _) = decode_xlated(&[insn], 0).unwrap();
            let Insn::Alu { width, op, .. } = decoded else {
                panic!()
            };
            let replaced = fixed(insn);
            for (a, b) in VALUES.into_iter().flat_map(|a| VALUES.map(|b| (a, b))) {
                let mut regs = [0; 12];
                (regs[1], regs[2]) = (a, b);
                run(&replaced, &mut regs);
                let wanted = match width {
                    ring3_isa::Width::W64 => eval_alu64(op, a, b),
                    ring3_isa::Width::W32 => u64::from(eval_alu32(op, a as u32, b as u32)),
                };
                assert_eq!(regs[1], wanted, "{insn:?} {a:#x} {b:#x}");
                assert_eq!(regs[2], b);
            }
        }
    }

    #[test]
    fn clamped_offsets_are_zero_beyond_the_limit() {
        let clamp = Clamp {
            state: ALU_SANITIZE_SRC,
            limit: 8,
        };
        let add = alu_reg(ALU64, ADD, R1, R2);
        let replaced = fixed_with(add, |aux| aux[0].set_clamp(clamp)).unwrap();
        for (off, wanted) in [(0, 100), (8, 108), (9, 100), (u64::MAX, 100)] {
            let mut regs = [0; 12];
            (regs[1], regs[2]) = (100, off);
            run(&replaced, &mut regs);
            assert_eq!(regs[1], wanted, "offset {off}");
        }
    }

    #[test]
    fn tail_calls_have_an_opcode_of_their_own() {
        let call = RawInsn::new(0x85, 0, 0, 0, 12);
        assert_eq!(fixed(call), [RawInsn::new(CODE_TAIL_CALL, 0, 0, 0, 0)]);
    }

    #[test]
    fn tail_calls_without_privilege_know_their_map() {
        let call = RawInsn::new(0x85, 0, 0, 0, 12);
        let noted = |aux: &mut AuxTable| {
            aux.call_mut(0).map_arg = MapArg::Poison { unpriv: true };
        };
        assert_eq!(
            fixed_with(call, noted).unwrap_err().text,
            "tail_call abusing map_ptr"
        );
    }

    #[test]
    fn a_missing_kernel_function_must_be_dead() {
        let call = RawInsn::new(0x85, 0, 2, 0, 0);
        assert_eq!(
            fixed_with(call, |_| ()).unwrap_err().text,
            "invalid kernel function call not eliminated in verifier pass"
        );
    }
}
