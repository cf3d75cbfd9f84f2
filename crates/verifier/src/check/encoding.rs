//! Instructions that the decoder refuses, judged when a path reaches them: reserved fields, variants that do not exist,
//! registers that do not exist, in the order in which the kernel looks at them.
//!
//! Most instructions are asked for their fields first and for their operands second; conditional jumps read their first
//! operand before. Neighbours: ring3-isa's decoder, `regs` (operands).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use ring3_isa::{RawInsn, Reg};
use ring3_uapi::{Errno, MapType};

use super::regs::{RegArg, check_reg_arg};
use crate::env::Env;
use crate::error::{Check, Violation, reject};

const JA: u8 = 0x00;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
const JCOND: u8 = 0xe0;
const MOV: u8 = 0xb0;
const NEG: u8 = 0x80;
const END: u8 = 0xd0;

/// What the kernel says of an encoding that the decoder refuses.
#[cold]
pub(crate) fn bad_encoding(env: &mut Env<'_>, raw: RawInsn) -> Box<Violation> {
    match check_encoding(env, raw) {
        Err(violation) => violation,
        Ok(()) => Violation::bug(format_args!(
            "no fault found in the encoding of opcode {:02x}",
            raw.code
        )),
    }
}

fn check_encoding(env: &mut Env<'_>, raw: RawInsn) -> Check {
    match raw.class() {
        0 => check_ld(env, raw),
        1 => check_operands(
            env,
            &[(raw.src(), RegArg::Src), (raw.dst(), RegArg::DstNoMark)],
        ),
        2 => {
            if raw.src() != 0 {
                reject!(EINVAL, "BPF_ST uses reserved fields");
            }
            check_operands(env, &[(raw.dst(), RegArg::Src)])
        }
        3 => check_stx(env, raw),
        4 | 7 => check_alu(env, raw),
        _ => check_jmp(env, raw),
    }
}

fn check_operands(env: &mut Env<'_>, operands: &[(u8, RegArg)]) -> Check {
    for &(number, arg) in operands {
        match Reg::new(number) {
            Some(reg) => check_reg_arg(env, reg, arg)?,
            None => reject!(EINVAL, "R{number} is invalid"),
        }
    }
    Ok(())
}

fn check_ld(env: &mut Env<'_>, raw: RawInsn) -> Check {
    if raw.is_ld_imm64() {
        if raw.off != 0 {
            reject!(EINVAL, "BPF_LD_IMM64 uses reserved fields");
        }
        return check_operands(env, &[(raw.dst(), RegArg::DstNoMark)]);
    }
    if !env.registry.prog_type(env.facts.attach.prog_type).ld_abs {
        reject!(
            EINVAL,
            "BPF_LD_[ABS|IND] instructions not allowed for this program type"
        );
    }
    let is_abs = raw.code & 0xe0 == 0x20;
    if raw.dst() != 0 || raw.off != 0 || raw.code & 0x18 == 0x18 || (is_abs && raw.src() != 0) {
        reject!(EINVAL, "BPF_LD_[ABS|IND] uses reserved fields");
    }
    check_operands(
        env,
        &[(Reg::R6.number(), RegArg::Src), (raw.src(), RegArg::Src)],
    )
}

fn check_stx(env: &mut Env<'_>, raw: RawInsn) -> Check {
    const LOAD_ACQUIRE: i32 = 0x100;
    const STORE_RELEASE: i32 = 0x110;
    let both = [(raw.src(), RegArg::Src), (raw.dst(), RegArg::Src)];
    if raw.code & 0xe0 == 0xc0 {
        return match raw.imm {
            0x00 | 0x01 | 0x40 | 0x41 | 0x50 | 0x51 | 0xa0 | 0xa1 | 0xe1 | 0xf1 => {
                if !matches!(raw.code & 0x18, 0x00 | 0x18) {
                    reject!(EINVAL, "invalid atomic operand size");
                }
                check_operands(env, &both)
            }
            LOAD_ACQUIRE => check_operands(
                env,
                &[(raw.src(), RegArg::Src), (raw.dst(), RegArg::DstNoMark)],
            ),
            STORE_RELEASE => check_operands(env, &both),
            imm => reject!(EINVAL, "BPF_ATOMIC uses invalid atomic opcode {imm:02x}"),
        };
    }
    if raw.imm != 0 {
        reject!(EINVAL, "BPF_STX uses reserved fields");
    }
    check_operands(env, &both)
}

fn check_alu(env: &mut Env<'_>, raw: RawInsn) -> Check {
    let is_wide = raw.class() == 7;
    let is_reg = raw.code & 0x08 != 0;
    let (dst, src) = (raw.dst(), raw.src());
    match raw.code & 0xf0 {
        NEG => {
            if is_reg || src != 0 || raw.off != 0 || raw.imm != 0 {
                reject!(EINVAL, "BPF_NEG uses reserved fields");
            }
            check_operands(env, &[(dst, RegArg::Src), (dst, RegArg::Dst)])
        }
        END => {
            if src != 0 || raw.off != 0 || !matches!(raw.imm, 16 | 32 | 64) || (is_wide && is_reg) {
                reject!(EINVAL, "BPF_END uses reserved fields");
            }
            check_operands(env, &[(dst, RegArg::Src), (dst, RegArg::Dst)])
        }
        MOV if is_reg => {
            if let Some(text) = bad_move(env, raw, is_wide) {
                return Err(Violation::new(Errno::EINVAL, text));
            }
            check_operands(env, &[(src, RegArg::Src), (dst, RegArg::DstNoMark)])
        }
        MOV => {
            if src != 0 || raw.off != 0 {
                reject!(EINVAL, "BPF_MOV uses reserved fields");
            }
            check_operands(env, &[(dst, RegArg::DstNoMark)])
        }
        operation => {
            let is_division = matches!(operation, 0x30 | 0x90);
            let bad_off = raw.off != 0 && !(raw.off == 1 && is_division);
            let bad_operand = if is_reg { raw.imm != 0 } else { src != 0 };
            if bad_operand || bad_off {
                reject!(EINVAL, "BPF_ALU uses reserved fields");
            }
            if is_reg {
                check_operands(env, &[(src, RegArg::Src)])?;
            }
            check_operands(env, &[(dst, RegArg::Src), (dst, RegArg::DstNoMark)])
        }
    }
}

fn bad_move(env: &Env<'_>, raw: RawInsn, is_wide: bool) -> Option<String> {
    const CAST: i16 = 1;
    if is_wide && raw.off == CAST {
        let has_arena = env
            .facts
            .used_maps
            .iter()
            .any(|&map| env.facts.map(map).map_type == MapType::Arena);
        return if !has_arena {
            Some(
                "addr_space_cast insn can only be used in a program that has an associated arena"
                    .into(),
            )
        } else if raw.imm != 1 && raw.imm != 1 << 16 {
            Some("addr_space_cast insn can only convert between address space 1 and 0".into())
        } else {
            None
        };
    }
    let known = matches!(raw.off, 0 | 8 | 16) || (is_wide && raw.off == 32);
    if known && raw.imm == 0 {
        None
    } else {
        Some("BPF_MOV uses reserved fields".into())
    }
}

fn check_jmp(env: &mut Env<'_>, raw: RawInsn) -> Check {
    match raw.code & 0xf0 {
        CALL => reject!(EINVAL, "BPF_CALL uses reserved fields"),
        JA => reject!(EINVAL, "BPF_JA uses reserved fields"),
        EXIT => reject!(EINVAL, "BPF_EXIT uses reserved fields"),
        JCOND => {
            return Err(Violation::new(
                Errno::EINVAL,
                format!("invalid may_goto imm {}", raw.imm),
            ));
        }
        _ => {}
    }
    check_operands(env, &[(raw.dst(), RegArg::Src)])?;
    let is_reg = raw.code & 0x08 != 0;
    if (is_reg && raw.imm != 0) || (!is_reg && raw.src() != 0) {
        reject!(EINVAL, "BPF_JMP/JMP32 uses reserved fields");
    }
    check_operands(env, &[(raw.src(), RegArg::Src)])
}

/// The slot as the decoder takes it: fields that the kernel never looks at are cleared.
pub(crate) fn without_ignored_fields(raw: RawInsn) -> RawInsn {
    match raw.code {
        // `exit` with any offset
        0x95 => RawInsn { off: 0, ..raw },
        _ => raw,
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;

    use ring3_isa::RawInsn;
    use ring3_spec::{LoadRequest, Registry};
    use ring3_uapi::ProgType;

    use crate::{Log, verify};

    const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);
    const R0: RawInsn = RawInsn::new(0xb7, 0, 0, 0, 0);

    fn message(insns: Vec<RawInsn>) -> Option<String> {
        let req = LoadRequest::new(ProgType::Xdp, insns);
        verify(&req, &Registry::linux_6_18(), &mut Log::off())
            .err()
            .map(|error| error.message)
    }

    #[test]
    fn fields_are_looked_at_in_the_kernel_s_order() {
        let insn = RawInsn::new;
        for (bad, wanted) in [
            (insn(0x0f, 0, 12, 0, 1), "BPF_ALU uses reserved fields"),
            (insn(0x0f, 0, 12, 0, 0), "R12 is invalid"),
            (insn(0x0f, 12, 2, 0, 0), "R2 !read_ok"),
            (insn(0x1d, 2, 0, 0, 1), "R2 !read_ok"),
            (insn(0x1d, 0, 0, 0, 1), "BPF_JMP/JMP32 uses reserved fields"),
            (insn(0xe5, 0, 0, 0, -7), "invalid may_goto imm -7"),
            (
                insn(0xdb, 10, 0, -8, 0x33),
                "BPF_ATOMIC uses invalid atomic opcode 33",
            ),
            (insn(0xcb, 10, 0, -8, 0), "invalid atomic operand size"),
            (insn(0x7b, 10, 0, -8, 1), "BPF_STX uses reserved fields"),
            (
                insn(0x30, 0, 1, 0, 0),
                "BPF_LD_[ABS|IND] instructions not allowed for this program type",
            ),
            (insn(0xd4, 0, 0, 0, 24), "BPF_END uses reserved fields"),
            (insn(0xbf, 0, 1, 7, 0), "BPF_MOV uses reserved fields"),
            (
                insn(0xbf, 0, 1, 1, 1),
                "addr_space_cast insn can only be used in a program that has an associated arena",
            ),
        ] {
            assert_eq!(
                message(vec![R0, bad, EXIT]).as_deref(),
                Some(wanted),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn an_exit_has_any_offset() {
        assert_eq!(message(vec![R0, RawInsn { off: 7, ..EXIT }]), None);
    }
}
