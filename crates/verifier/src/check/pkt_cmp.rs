//! Comparisons of packet pointers with the packet's end: how many bytes may be read.
//!
//! `data + 14 <= data_end` says that all pointers with the id of the left one have 14 bytes behind their origin. The other
//! way says that the pointer is at or beyond the end, which decides later comparisons.
//!
//! Kernel counterpart: `try_match_pkt_pointers`, `find_good_pkt_pointers`. Neighbours: `jmp`, `packet` (accesses).

use ring3_isa::{JmpOp, Operand, Reg, Width};

use super::jmp::Jump;
use crate::domain::CondOp;
use crate::domain::Taken;
use crate::state::{AT_PKT_END, BEYOND_PKT_END, Extra, RegBase, RegState, RegType, VerifierState};

/// Largest offset into a packet. Source: `MAX_PACKET_OFF`.
const PACKET_OFF_MAX: u64 = 0xffff;

/// Whether the end itself is excluded: after `pointer < end` one more byte may be read than after `pointer <= end`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RangeEnd {
    Open,
    Closed,
}

/// What a comparison of a packet pointer with the end teaches. Returns whether it was one.
pub(crate) fn try_match_pkt_pointers(
    jump: &Jump,
    dst: &RegState,
    falls: &mut VerifierState,
    jumps: &mut VerifierState,
) -> bool {
    let Operand::Reg(src_reg) = jump.src else {
        return false;
    };
    if jump.width == Width::W32 {
        return false;
    }
    let src = *falls.reg(src_reg);
    let (pkt_reg, pkt, op) = if is_pair(dst, &src) {
        (jump.dst, *dst, CondOp::from(jump.op))
    } else if is_pair(&src, dst) {
        (src_reg, src, CondOp::from(jump.op).flip())
    } else {
        return false;
    };
    // The way on which the pointer lies before the end, and whether the end is excluded there.
    let (inside, outside, end) = match op {
        CondOp::Gt => (falls, jumps, RangeEnd::Closed),
        CondOp::Ge => (falls, jumps, RangeEnd::Open),
        CondOp::Lt => (jumps, falls, RangeEnd::Open),
        CondOp::Le => (jumps, falls, RangeEnd::Closed),
        CondOp::Eq
        | CondOp::Ne
        | CondOp::Set
        | CondOp::Clear
        | CondOp::Sgt
        | CondOp::Sge
        | CondOp::Slt
        | CondOp::Sle => return false,
    };
    find_good_pkt_pointers(inside, &pkt, end);
    mark_pkt_end(outside, pkt_reg, end);
    true
}

/// A packet pointer and the packet's end, or a metadata pointer and the packet's begin.
fn is_pair(pkt: &RegState, end: &RegState) -> bool {
    pkt.ty == RegType::PACKET && end.ty == RegType::PACKET_END
        || pkt.ty == RegType::PACKET_META && is_packet_begin(end)
}

fn is_packet_begin(reg: &RegState) -> bool {
    reg.ty == RegType::PACKET && reg.id == 0 && reg.off == 0 && reg.scalar.var_off.equals_const(0)
}

fn find_good_pkt_pointers(state: &mut VerifierState, pkt: &RegState, end: RangeEnd) {
    if pkt.off < 0 || pkt.off == 0 && end == RangeEnd::Open {
        return;
    }
    // The sum might wrap: `pointer + 2^63 < end` may hold because it lies before the packet.
    if pkt.scalar.umax > PACKET_OFF_MAX
        || pkt.scalar.umax.wrapping_add(pkt.off as u64) > PACKET_OFF_MAX
    {
        return;
    }
    let readable = match end {
        RangeEnd::Open => pkt.off + 1,
        RangeEnd::Closed => pkt.off,
    };
    state.change_regs(
        |reg| reg.ty == pkt.ty && reg.id == pkt.id && reg.range() < readable,
        |reg| reg.extra = Extra::Range(readable),
    );
}

/// On this way the pointer is at (`Open`: `pointer >= end`) or beyond the end.
fn mark_pkt_end(state: &mut VerifierState, reg: Reg, end: RangeEnd) {
    if state.reg(reg).ty != RegType::PACKET {
        return;
    }
    let range = match end {
        RangeEnd::Closed => BEYOND_PKT_END,
        RangeEnd::Open => AT_PKT_END,
    };
    state.reg_mut(reg).extra = Extra::Range(range);
}

/// Which way a comparison with the end goes for a pointer that already is at or beyond it.
pub(crate) fn pkt_branch_taken(dst: &RegState, src: &RegState, op: JmpOp) -> Taken {
    let op = CondOp::from(op);
    let (pkt, op) = if src.ty.base == RegBase::PtrToPacketEnd {
        (dst, op)
    } else if dst.ty.base == RegBase::PtrToPacketEnd {
        (src, op.flip())
    } else {
        return Taken::Unknown;
    };
    let range = pkt.range();
    let is_at_end = range == BEYOND_PKT_END || range == AT_PKT_END;
    let decides = match op {
        CondOp::Gt | CondOp::Le => range == BEYOND_PKT_END,
        CondOp::Ge | CondOp::Lt => is_at_end,
        CondOp::Eq
        | CondOp::Ne
        | CondOp::Set
        | CondOp::Clear
        | CondOp::Sgt
        | CondOp::Sge
        | CondOp::Slt
        | CondOp::Sle => false,
    };
    if !decides {
        Taken::Unknown
    } else if matches!(op, CondOp::Gt | CondOp::Ge) {
        Taken::Always
    } else {
        Taken::Never
    }
}
