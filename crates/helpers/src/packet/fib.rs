//! `bpf_fib_lookup` and `bpf_check_mtu` over the routes and devices of the packet's world.
//!
//! # Source
//! bpf-helpers(7); `struct bpf_fib_lookup` and `BPF_FIB_LKUP_RET_*` of linux/bpf.h.

use std::sync::Arc;

use ring3_uapi::Errno;

use super::{
    NetDevice,
    world::{self, RouteAnswer, RouteHop, RouteQuery},
};

/// Bytes of `struct bpf_fib_lookup`.
pub(super) const PARAMS_BYTES: usize = 64;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Offsets in `struct bpf_fib_lookup`.
const TOT_LEN: usize = 6;
const IFINDEX: usize = 8;
const METRIC: usize = 12;
const SRC: usize = 16;
const DST: usize = 32;
const SMAC: usize = 52;
const DMAC: usize = 58;
/// Flags.
const DIRECT: u32 = 1;
const OUTPUT: u32 = 1 << 1;
const SKIP_NEIGH: u32 = 1 << 2;
const TBID: u32 = 1 << 3;
const SRC_FLAG: u32 = 1 << 4;
const MARK: u32 = 1 << 5;
const KNOWN: u32 = DIRECT | OUTPUT | SKIP_NEIGH | TBID | SRC_FLAG | MARK;
const RET_SUCCESS: u64 = 0;
const RET_NOT_FWDED: u64 = 4;
const RET_NO_NEIGH: u64 = 7;
const RET_FRAG_NEEDED: u64 = 8;

/// The lookup: a `BPF_FIB_LKUP_RET_*`, and what it found in `params`. `len` is the packet's, for the MTU check where none is given.
pub(super) fn lookup(params: &mut [u8], flags: u32, len: Option<usize>) -> Result<u64, Errno> {
    if params.len() < PARAMS_BYTES || flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let is_ipv6 = match params[0] {
        AF_INET => false,
        AF_INET6 => true,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let address = |at: usize| -> [u8; 16] {
        let bytes = if is_ipv6 { 16 } else { 4 };
        std::array::from_fn(|i| if i < bytes { params[at + i] } else { 0 })
    };
    let query = RouteQuery {
        is_ipv6,
        destination: address(DST),
        source: address(SRC),
        ifindex: u32::from_ne_bytes(std::array::from_fn(|i| params[IFINDEX + i])),
        wants_neighbour: flags & SKIP_NEIGH == 0,
    };
    let Some(world) = world::current() else {
        return Ok(RET_NOT_FWDED);
    };
    match world.route(&query) {
        RouteAnswer::NoDevice => Err(Errno::ENODEV),
        RouteAnswer::Stopped(code) => Ok(u64::from(code)),
        RouteAnswer::Forward(hop) => Ok(answer(params, &query, &hop, len)),
    }
}

fn answer(params: &mut [u8], query: &RouteQuery, hop: &RouteHop, len: Option<usize>) -> u64 {
    let given = u16::from_ne_bytes([params[TOT_LEN], params[TOT_LEN + 1]]);
    let too_long = match given {
        0 => len.is_some_and(|len| len > hop.mtu as usize + super::skb::ETH_HEADER_BYTES),
        given => u32::from(given) > hop.mtu,
    };
    let mtu = u16::try_from(hop.mtu).unwrap_or(u16::MAX).to_ne_bytes();
    if too_long {
        params[TOT_LEN..TOT_LEN + 2].copy_from_slice(&mtu);
        return RET_FRAG_NEEDED;
    }
    params[IFINDEX..IFINDEX + 4].copy_from_slice(&hop.ifindex.to_ne_bytes());
    params[METRIC..METRIC + 4].copy_from_slice(&hop.metric.to_ne_bytes());
    if let Some(gateway) = hop.gateway {
        let bytes = if query.is_ipv6 { 16 } else { 4 };
        params[DST..DST + bytes].copy_from_slice(&gateway[..bytes]);
    }
    if query.wants_neighbour {
        let Some((own, next)) = hop.link else {
            return RET_NO_NEIGH;
        };
        params[SMAC..DMAC].copy_from_slice(&own);
        params[DMAC..PARAMS_BYTES].copy_from_slice(&next);
    }
    // VLAN protocol and tag: the devices of the model have none.
    params[48..SMAC].fill(0);
    params[TOT_LEN..TOT_LEN + 2].copy_from_slice(&mtu);
    RET_SUCCESS
}

/// `bpf_check_mtu` for a packet of `len` bytes: 0 or 1 (too long), and the MTU in `mtu_len`.
pub(super) fn check_mtu(
    own: &Arc<NetDevice>,
    ifindex: u32,
    len: usize,
    mtu_len: &mut u32,
    diff: i32,
) -> Result<u64, Errno> {
    const FRAG_NEEDED: u64 = 1;
    const HEADER: i32 = super::skb::ETH_HEADER_BYTES as i32;
    let device = world::device(own, ifindex).ok_or(Errno::ENODEV)?;
    // Lengths are the reference kernel's ints: absurd ones wrap.
    let len = match *mtu_len {
        0 => len as i32,
        given => (given as i32).wrapping_add(HEADER),
    };
    let mtu = device.mtu();
    let fits = len.wrapping_add(diff) <= (mtu as i32).saturating_add(HEADER);
    *mtu_len = mtu;
    Ok(if fits { 0 } else { FRAG_NEEDED })
}
