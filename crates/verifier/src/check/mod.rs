//! One file per kind of instruction or pointer. A check rejects ([`crate::error::Violation`]) or changes the current state.

pub(crate) mod alu;
pub(crate) mod atomic;
pub(crate) mod call;
pub(crate) mod ctx;
pub(crate) mod ctx_btf;
pub(crate) mod dynptr;
pub(crate) mod exit;
pub(crate) mod jmp;
pub(crate) mod ld_abs;
pub(crate) mod linked;
pub(crate) mod lock;
pub(crate) mod map_field;
pub(crate) mod map_value;
pub(crate) mod mem;
pub(crate) mod nullness;
pub(crate) mod packet;
pub(crate) mod pkt_cmp;
pub(crate) mod ptr_arith;
pub(crate) mod refs;
pub(crate) mod regs;
pub(crate) mod sanitize;
pub(crate) mod stack;

use alloc::boxed::Box;

use ring3_isa::{DecodeError, DecodeErrorKind, RawInsn, reserved_fields_text};
use ring3_uapi::Errno;

use crate::error::Violation;

/// What the kernel says of an encoding that the decoder refuses, once a path reaches it.
#[cold]
pub(crate) fn bad_encoding(raw: RawInsn, error: &DecodeError) -> Box<Violation> {
    if let DecodeErrorKind::BadRegister { number, .. } = error.kind {
        return Violation::new(Errno::EINVAL, alloc::format!("R{number} is invalid"));
    }
    match reserved_fields_text(raw.code) {
        Some(text) => Violation::new(Errno::EINVAL, text.into()),
        None => Violation::new(Errno::EINVAL, alloc::format!("unknown opcode {:02x}", raw.code)),
    }
}
