//! Packet data: how far behind `data` (or `data_meta`) comparisons with the end have proved it readable.

use ring3_isa::Reg;

use super::mem::{ZeroSize, check_fixed_region};
use crate::env::Env;
use crate::error::{Check, Violation, reject};
use crate::state::RegState;

/// `size` bytes at `off` (fixed part) behind a packet pointer: `check_packet_access`.
pub(crate) fn check_packet_access(
    env: &mut Env<'_>,
    reg: &RegState,
    base: Reg,
    off: i32,
    size: i32,
    zero: ZeroSize,
) -> Check {
    let number = base.number();
    if reg.scalar.smin < 0 {
        reject!(
            EACCES,
            "R{number} min value is negative, either use unsigned index or do a if (index >=0) check."
        );
    }
    let range = reg.range();
    let inside = if range < 0 {
        Err(Violation::silent(ring3_uapi::Errno::EINVAL))
    } else {
        check_fixed_region(reg, base, i64::from(off), size, range as u32, zero)
    };
    inside.map_err(|v| v.and_line(format_args!("R{number} offset is outside of the packet")))?;
    let end = (off as u32)
        .wrapping_add(reg.scalar.umax as u32)
        .wrapping_add(size as u32)
        .wrapping_sub(1);
    env.max_pkt_offset = env.max_pkt_offset.max(end);
    Ok(())
}

/// Whether programs of this type may write packet data directly: `may_access_direct_pkt_data` for a write.
pub(crate) fn may_write_directly(env: &mut Env<'_>) -> bool {
    super::ctx::may_write_packet(env)
}
