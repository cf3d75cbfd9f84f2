//! One file per kind of instruction or pointer. A check rejects ([`crate::error::Violation`]) or changes the current state.

pub(crate) mod alu;
pub(crate) mod atomic;
pub(crate) mod btf_ptr;
pub(crate) mod call;
pub(crate) mod ctx;
pub(crate) mod ctx_btf;
pub(crate) mod dynptr;
pub(crate) mod encoding;
pub(crate) mod exit;
pub(crate) mod iter;
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
