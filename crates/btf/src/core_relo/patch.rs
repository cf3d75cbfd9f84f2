//! Writes an answer to an instruction.

use super::value::Answer;
use super::{POISON_IMM, inval};
use crate::BtfError;
use alloc::format;
use ring3_isa::RawInsn;
use ring3_uapi::Errno;

/// `call` of a helper.
const CALL: u8 = 0x85;

/// Adjusts the instruction at `at`.
pub(super) fn patch(insns: &mut [RawInsn], at: usize, answer: &Answer) -> Result<(), BtfError> {
    let count = insns.len();
    let (insn, next) = match insns.get_mut(at..) {
        Some([insn, rest @ ..]) => (insn, rest.first_mut()),
        _ => return Err(inval(format!("instruction {at} of {count}"))),
    };
    if answer.is_poison {
        poison(insn, next);
        return Ok(());
    }
    match insn.class() {
        // ALU, ALU64
        0x4 | 0x7 => {
            if insn.code & 0x08 != 0 {
                return Err(inval(format!("opcode {:#x} has no immediate", insn.code)));
            }
            expect(answer, i64::from(insn.imm) as u64)?;
            insn.imm = answer.new as i32;
        }
        // LDX, ST, STX
        0x1..=0x3 => {
            expect(answer, i64::from(insn.off) as u64)?;
            let Some(off) = i16::try_from(answer.new).ok() else {
                return Err(BtfError::new(
                    Errno::ERANGE,
                    format!("offset {} is too big", answer.new),
                ));
            };
            if answer.is_bad_resize {
                poison(insn, next);
                return Ok(());
            }
            insn.off = off;
            if answer.new_bytes != answer.orig_bytes {
                resize(insn, answer)?;
            }
        }
        // LD
        0x0 => {
            let is_plain = insn.is_ld_imm64() && insn.src() == 0 && insn.off == 0;
            let next =
                next.filter(|next| is_plain && next.code == 0 && next.regs == 0 && next.off == 0);
            let Some(next) = next else {
                return Err(inval(format!(
                    "opcode {:#x} is no plain 64-bit load",
                    insn.code
                )));
            };
            expect(
                answer,
                u64::from(next.imm as u32) << 32 | u64::from(insn.imm as u32),
            )?;
            insn.imm = answer.new as i32;
            next.imm = (answer.new >> 32) as i32;
        }
        _ => {
            return Err(inval(format!(
                "opcode {:#x} cannot be relocated",
                insn.code
            )));
        }
    }
    Ok(())
}

fn expect(answer: &Answer, found: u64) -> Result<(), BtfError> {
    if answer.validate && found != answer.orig {
        return Err(inval(format!(
            "instruction holds {found}, expected {} -> {}",
            answer.orig, answer.new
        )));
    }
    Ok(())
}

fn poison(insn: &mut RawInsn, next: Option<&mut RawInsn>) {
    let poisoned = RawInsn::new(CALL, 0, 0, 0, POISON_IMM);
    if let (true, Some(next)) = (insn.is_ld_imm64(), next) {
        *next = poisoned;
    }
    *insn = poisoned;
}

/// Loads and stores of a field whose size differs in the target.
fn resize(insn: &mut RawInsn, answer: &Answer) -> Result<(), BtfError> {
    let size_bits = |bytes: u32| match bytes {
        1 => Some(0x10),
        2 => Some(0x08),
        4 => Some(0x00),
        8 => Some(0x18),
        _ => None,
    };
    if size_bits(answer.orig_bytes) != Some(insn.code & 0x18) {
        return Err(inval(format!(
            "opcode {:#x} for a field of {} bytes",
            insn.code, answer.orig_bytes
        )));
    }
    let Some(bits) = size_bits(answer.new_bytes) else {
        return Err(inval(format!(
            "field of {} bytes in the target",
            answer.new_bytes
        )));
    };
    insn.code = insn.code & !0x18 | bits;
    Ok(())
}
