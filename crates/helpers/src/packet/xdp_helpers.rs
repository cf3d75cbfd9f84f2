//! Helpers of XDP programs.
//!
//! # Source
//! bpf-helpers(7); errnos as BPF_PROG_TEST_RUN of Linux 6.18 returns them.

use ring3_uapi::Errno;

use super::{
    fib,
    redirect::{Redirect, redirect_map, set_redirect},
    xdp::XdpBuff,
};
use crate::bind::{bytes, bytes_mut, implement};

/// `XDP_ABORTED`
const XDP_ABORTED: u64 = 0;
/// `XDP_REDIRECT`
const XDP_REDIRECT: u64 = 4;

/// Where an access through a helper begins.
///
/// # Errors
/// EFAULT: offset or length above 65535; EINVAL: beyond the packet.
fn start(xdp: &XdpBuff, offset: u32, len: u32) -> Result<usize, Errno> {
    if offset > 0xffff || len > 0xffff {
        return Err(Errno::EFAULT);
    }
    if (offset + len) as usize > xdp.len_bytes() {
        Err(Errno::EINVAL)
    } else {
        Ok(offset as usize)
    }
}

implement! { ROWS:
    XdpAdjustHead(xdp: &mut XdpBuff, delta: i32) { xdp.adjust_head(delta) }
    XdpAdjustTail(xdp: &mut XdpBuff, delta: i32) { xdp.adjust_tail(delta) }
    XdpAdjustMeta(xdp: &mut XdpBuff, delta: i32) { xdp.adjust_meta(delta) }
    XdpGetBuffLen(xdp: &mut XdpBuff) { xdp.len_bytes() as u64 }
    XdpLoadBytes(xdp: &mut XdpBuff, offset: u32, buf: *mut u8, len: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        let out = unsafe { bytes_mut(buf, len) };
        start(xdp, offset, len).map(|start| xdp.load(start, out))
    }
    RedirectMap(map: &ring3_maps::Map, key: u64, flags: u64) { redirect_map(map, key, flags) }
    XdpStoreBytes(xdp: &mut XdpBuff, offset: u32, buf: *const u8, len: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        let bytes = unsafe { bytes(buf, len) };
        start(xdp, offset, len).map(|start| xdp.store(start, bytes))
    }
}

implement! { VARIANTS:
    FibLookup(_xdp: &mut XdpBuff, params: *mut u8, size: u32, flags: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM, written, with its size.
        let params = unsafe { bytes_mut(params, size) };
        fib::lookup(params, flags, None)
    }
    CheckMtu(xdp: &mut XdpBuff, ifindex: u32, mtu_len: *mut u8, diff: i32, flags: u64) {
        // SAFETY: 1. four bytes, written, by the prototype.
        let out = unsafe { bytes_mut(mtu_len, 4) };
        let mut len = u32::from_ne_bytes([out[0], out[1], out[2], out[3]]);
        let result = match flags {
            0 => fib::check_mtu(xdp.device(), ifindex, xdp.data().len(), &mut len, diff),
            _ => Err(Errno::EINVAL),
        };
        out.copy_from_slice(&len.to_ne_bytes());
        result
    }
    Redirect(ifindex: u32, flags: u64) {
        if flags != 0 {
            XDP_ABORTED
        } else {
            set_redirect(Redirect::Device { ifindex, ingress: false });
            XDP_REDIRECT
        }
    }
}
