//! Helpers of programs whose context is an skb, and the loads of classic socket filters.
//!
//! # Source
//! bpf-helpers(7); errnos as BPF_PROG_TEST_RUN of Linux 6.18 returns them.

use ring3_uapi::Errno;

use super::{
    csum, fib, flow, headers,
    redirect::{Redirect, set_redirect},
    skb::{LEN_MAX, Skb},
    tunnel, world,
};
use crate::bind::{AnyCtx, bytes, bytes_mut, implement};

/// `BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH` of `bpf_skb_store_bytes`.
const STORE_FLAGS: u64 = 0b11;
const INVALIDATE_HASH: u64 = 0b10;
/// Low bits of the checksum helpers' flags: bytes of the field that changed.
const HDR_FIELD_MASK: u64 = 0xf;
const PSEUDO_HDR: u64 = 1 << 4;
const MARK_MANGLED_0: u64 = 1 << 5;
const MARK_ENFORCE: u64 = 1 << 6;
const CSUM_IPV6: u64 = 1 << 7;
/// What UDP sends for a checksum that is zero. Source: `CSUM_MANGLED_0`.
const CSUM_MANGLED_0: u16 = 0xffff;
/// `BPF_F_INGRESS` of the redirect helpers.
const F_INGRESS: u64 = 1;
/// `TC_ACT_SHOT`
const TC_ACT_SHOT: u64 = 2;
/// `TC_ACT_REDIRECT`
const TC_ACT_REDIRECT: u64 = 7;
/// `linux/filter.h`: `SKF_AD_OFF`, `SKF_NET_OFF`, `SKF_LL_OFF`.
const AD_OFF: i64 = -0x1000;
const NET_OFF: i64 = -0x10_0000;
const LL_OFF: i64 = -0x20_0000;

/// `len` bytes at `offset` of the packet, `None` if they are not all there.
fn range(len_bytes: usize, offset: u32, len: u32) -> Option<std::ops::Range<usize>> {
    let (offset, len) = (offset as usize, len as usize);
    (offset <= i32::MAX as usize && offset + len <= len_bytes).then(|| offset..offset + len)
}

/// The 16-bit checksum field at `offset`.
///
/// # Errors
/// EFAULT: odd, above 65535, or not in the packet.
fn csum_field(skb: &mut Skb, offset: u32) -> Result<&mut [u8; 2], Errno> {
    if offset > 0xffff || offset & 1 != 0 {
        return Err(Errno::EFAULT);
    }
    let range = range(skb.data().len(), offset, 2).ok_or(Errno::EFAULT)?;
    skb.data_mut()[range].first_chunk_mut().ok_or(Errno::EFAULT)
}

fn l3_csum_replace(
    skb: &mut Skb,
    offset: u32,
    from: u64,
    to: u64,
    flags: u64,
) -> Result<(), Errno> {
    if flags & !HDR_FIELD_MASK != 0 {
        return Err(Errno::EINVAL);
    }
    let field = csum_field(skb, offset)?;
    let old = u16::from_ne_bytes(*field);
    *field = replace(old, from, to, flags)?.to_ne_bytes();
    Ok(())
}

/// The new field after `flags & 0xf` bytes changed from `from` to `to`; with 0, `to` is a partial sum.
fn replace(old: u16, from: u64, to: u64, flags: u64) -> Result<u16, Errno> {
    match flags & HDR_FIELD_MASK {
        0 if from == 0 => Ok(csum::replace_by_diff(old, to as u32)),
        2 => Ok(csum::replace2(old, from as u16, to as u16)),
        4 => Ok(csum::replace4(old, from as u32, to as u32)),
        _ => Err(Errno::EINVAL),
    }
}

fn l4_csum_replace(
    skb: &mut Skb,
    offset: u32,
    from: u64,
    to: u64,
    flags: u64,
) -> Result<(), Errno> {
    let known = HDR_FIELD_MASK | PSEUDO_HDR | MARK_MANGLED_0 | MARK_ENFORCE | CSUM_IPV6;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let zero_means_none = flags & MARK_MANGLED_0 != 0;
    let field = csum_field(skb, offset)?;
    let old = u16::from_ne_bytes(*field);
    if zero_means_none && flags & MARK_ENFORCE == 0 && old == 0 {
        return Ok(());
    }
    // The transport checksum of 16 changed bits goes by the 32-bit way, as the kernel's does.
    let mut new = match flags & HDR_FIELD_MASK {
        2 => csum::replace4(old, u32::from(from as u16), u32::from(to as u16)),
        _ => replace(old, from, to, flags)?,
    };
    if zero_means_none && new == 0 {
        new = CSUM_MANGLED_0;
    }
    *field = new.to_ne_bytes();
    Ok(())
}

fn change_tail(skb: &mut Skb, len: u32, flags: u64) -> Result<(), Errno> {
    let len = len as usize;
    if flags != 0 || len > LEN_MAX || len < len_min(skb) {
        return Err(Errno::EINVAL);
    }
    skb.set_len(len);
    Ok(())
}

/// The headers that stay: to the network header, or to the transport header where it is known.
fn len_min(skb: &Skb) -> usize {
    let positive = |offset: isize| usize::try_from(offset).ok().filter(|offset| *offset > 0);
    skb.transport_offset()
        .and_then(positive)
        .or_else(|| positive(skb.network_offset()))
        .unwrap_or(0)
}

fn change_head(skb: &mut Skb, len: u32, flags: u64) -> Result<(), Errno> {
    let len = len as usize;
    if flags != 0 || skb.data().len() + len > LEN_MAX {
        return Err(Errno::EINVAL);
    }
    skb.push(len);
    skb.data_mut()[..len].fill(0);
    skb.reset_mac_header();
    Ok(())
}

fn pull_data(skb: &mut Skb, len: u32) -> Result<(), Errno> {
    // Buffers are linear: there is nothing to pull, but asking for more than there is fails as it does there.
    if len as usize > skb.data().len() {
        Err(Errno::ENOMEM)
    } else {
        Ok(())
    }
}

fn csum_diff(from: &[u8], to: &[u8], seed: u32) -> Result<u64, Errno> {
    if !from.len().is_multiple_of(4) || !to.len().is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let sum = match (from.is_empty(), to.is_empty()) {
        (false, false) => csum::sub(csum::partial(to, seed), csum::partial(from, 0)),
        (true, false) => csum::partial(to, seed),
        (false, true) => !csum::partial(from, !seed),
        (true, true) => return Ok(u64::from(seed)),
    };
    Ok(u64::from(csum::from32to16(sum)))
}

/// `bpf_skb_load_bytes_relative`: from the link header (0) or the network header (1).
fn load_relative(skb: &Skb, offset: u32, out: &mut [u8], start: u32) -> Result<(), Errno> {
    const MAC: u32 = 0;
    const NET: u32 = 1;
    let base = match start {
        MAC => Some(skb.mac_offset()),
        NET => Some(skb.network_offset()),
        _ => None,
    };
    // Counted from the start of the whole frame, since the link header may have been pulled.
    let frame = skb.frame();
    let before_data = frame.len() - skb.data().len();
    let found = base
        .filter(|_| offset <= i32::MAX as u32)
        .and_then(|base| usize::try_from(base + before_data as isize).ok())
        .and_then(|base| frame.get(base + offset as usize..)?.get(..out.len()));
    match found {
        Some(bytes) => {
            out.copy_from_slice(bytes);
            Ok(())
        }
        None => {
            out.fill(0);
            Err(Errno::EFAULT)
        }
    }
}

/// `bpf_check_mtu` of an skb; `BPF_MTU_CHK_SEGS` looks at segments, which packets here do not have.
fn check_mtu(
    skb: &Skb,
    ifindex: u32,
    mtu_len: &mut u32,
    diff: i32,
    flags: u64,
) -> Result<u64, Errno> {
    const SEGS: u64 = 1;
    if flags & !SEGS != 0 || (flags & SEGS != 0 && (diff != 0 || *mtu_len != 0)) {
        return Err(Errno::EINVAL);
    }
    fib::check_mtu(skb.device(), ifindex, skb.data().len(), mtu_len, diff)
}

/// `bpf_redirect_neigh` with `struct bpf_redir_neigh`, or without.
fn redirect_neigh(ifindex: u32, params: &[u8], flags: u64) -> u64 {
    const PARAMS_BYTES: usize = 20;
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    if flags != 0 || (!params.is_empty() && params.len() < PARAMS_BYTES) {
        return TC_ACT_SHOT;
    }
    let next_hop = params.split_first_chunk::<4>().and_then(|(family, rest)| {
        let address = *rest.first_chunk::<16>()?;
        match u32::from_ne_bytes(*family) {
            AF_INET => Some((4, address)),
            AF_INET6 => Some((6, address)),
            _ => None,
        }
    });
    set_redirect(Redirect::Neigh { ifindex, next_hop });
    TC_ACT_REDIRECT
}

fn clone_redirect(skb: &Skb, ifindex: u32, flags: u64) -> Result<(), Errno> {
    if flags & !F_INGRESS != 0 {
        return Err(Errno::EINVAL);
    }
    let world = world::current().ok_or(Errno::EINVAL)?;
    world.send_clone(skb.frame(), ifindex, flags & F_INGRESS != 0)
}

/// Whether the packet's socket is in a cgroup of the map, or below it. A packet without a socket is not.
fn under_cgroup(skb: &Skb, map: &ring3_maps::Map, index: u32) -> Result<u64, Errno> {
    let groups = map
        .downcast::<ring3_maps::CgroupArray>()
        .ok_or(Errno::EINVAL)?;
    let wanted = groups.cgroup_id(index)?;
    let socket = skb.state.socket.as_ref();
    Ok(u64::from(
        socket.is_some_and(|sock| sock.spec().cgroups.contains(&wanted)),
    ))
}

fn classid(skb: &Skb) -> u64 {
    let socket = skb.state.socket.as_ref();
    socket.map_or(0, |sock| u64::from(sock.spec().classid))
}

implement! { ROWS:
    /// No packet has been through IPsec here: there is no state of any index.
    SkbGetXfrmState(_skb: &mut Skb, _index: u32, state: *mut u8, size: u32, _flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        unsafe { bytes_mut(state, size) }.fill(0);
        Err::<(), _>(Errno::EINVAL)
    }
    SkbVlanPush(skb: &mut Skb, protocol: u16, tci: u16) { headers::vlan_push(skb, protocol.to_ne_bytes(), tci) }
    SkbVlanPop(skb: &mut Skb) { headers::vlan_pop(skb) }
    SkbChangeProto(skb: &mut Skb, protocol: u16, flags: u64) { headers::change_proto(skb, protocol.to_ne_bytes(), flags) }
    SkbChangeType(skb: &mut Skb, pkt_type: u32) { headers::change_type(skb, pkt_type) }
    SkbAdjustRoom(skb: &mut Skb, diff: i32, mode: u32, flags: u64) { headers::adjust_room(skb, diff, mode, flags) }
    SkbEcnSetCe(skb: &mut Skb) { u64::from(headers::ecn_set_ce(skb)) }
    SkbSetTstamp(skb: &mut Skb, tstamp: u64, kind: u32) { headers::set_tstamp(skb, tstamp, kind) }
    CsumLevel(skb: &mut Skb, action: u64) { headers::csum_level(skb, action) }
    GetHashRecalc(skb: &mut Skb) {
        if !skb.has_hash() {
            let hash = flow::hash(skb);
            skb.set_hash(hash);
        }
        u64::from(skb.hash())
    }
    SkbSetTunnelKey(skb: &mut Skb, key: *const u8, size: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        tunnel::set_key(skb, unsafe { bytes(key, size) }, flags)
    }
    SkbGetTunnelKey(skb: &mut Skb, key: *mut u8, size: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        tunnel::get_key(skb, unsafe { bytes_mut(key, size) }, flags)
    }
    SkbSetTunnelOpt(skb: &mut Skb, options: *const u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        tunnel::set_options(skb, unsafe { bytes(options, size) })
    }
    SkbGetTunnelOpt(skb: &mut Skb, options: *mut u8, size: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        tunnel::get_options(skb, unsafe { bytes_mut(options, size) })
    }
    SkbLoadBytesRelative(skb: &mut Skb, offset: u32, to: *mut u8, len: u32, start: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        load_relative(skb, offset, unsafe { bytes_mut(to, len) }, start)
    }
    FibLookup(skb: &mut Skb, params: *mut u8, size: u32, flags: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM, written, with its size.
        let params = unsafe { bytes_mut(params, size) };
        fib::lookup(params, flags, Some(skb.data().len()))
    }
    CheckMtu(skb: &mut Skb, ifindex: u32, mtu_len: *mut u8, diff: i32, flags: u64) {
        // SAFETY: 1. four bytes, written, by the prototype.
        let out = unsafe { bytes_mut(mtu_len, 4) };
        let mut len = u32::from_ne_bytes([out[0], out[1], out[2], out[3]]);
        let result = check_mtu(skb, ifindex, &mut len, diff, flags);
        out.copy_from_slice(&len.to_ne_bytes());
        result
    }
    RedirectNeigh(ifindex: u32, params: *const u8, size: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_MEM_OR_NULL with its size.
        redirect_neigh(ifindex, unsafe { bytes(params, size) }, flags)
    }
    CloneRedirect(skb: &mut Skb, ifindex: u32, flags: u64) { clone_redirect(skb, ifindex, flags) }
    SkbUnderCgroup(skb: &mut Skb, map: &ring3_maps::Map, index: u32) { under_cgroup(skb, map, index) }
    /// No route leads a packet here to a realm.
    GetRouteRealm(_skb: AnyCtx) { 0u64 }
    GetSocketCookie(skb: &mut Skb) { skb.socket_cookie() }
    GetSocketUid(skb: &mut Skb) { u64::from(skb.socket_uid()) }
    /// There is one network namespace, the initial one.
    GetNetnsCookie(_skb: AnyCtx) { 1u64 }
    SkbCgroupClassid(skb: &mut Skb) { classid(skb) }
    GetCgroupClassid(skb: &mut Skb) { classid(skb) }
    SkbCgroupId(skb: &mut Skb) { skb.cgroup_id(Some) }
    SkbAncestorCgroupId(skb: &mut Skb, level: i32) {
        skb.cgroup_id(|deepest| usize::try_from(level).ok().filter(|level| *level <= deepest))
    }
    SkbLoadBytes(skb: &mut Skb, offset: u32, to: *mut u8, len: u32) {
        // SAFETY: 1. ARG_PTR_TO_UNINIT_MEM with its size.
        let out = unsafe { bytes_mut(to, len) };
        match range(skb.data().len(), offset, len) {
            Some(range) => {
                out.copy_from_slice(&skb.data()[range]);
                Ok(())
            }
            None => {
                out.fill(0);
                Err(Errno::EFAULT)
            }
        }
    }
    SkbStoreBytes(skb: &mut Skb, offset: u32, from: *const u8, len: u32, flags: u64) {
        // SAFETY: 1. ARG_PTR_TO_MEM with its size.
        let bytes = unsafe { bytes(from, len) };
        if flags & !STORE_FLAGS != 0 {
            Err(Errno::EINVAL)
        } else if let Some(range) = range(skb.data().len(), offset, len) {
            skb.data_mut()[range].copy_from_slice(bytes);
            if flags & INVALIDATE_HASH != 0 {
                skb.clear_hash();
            }
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }
    L3CsumReplace(skb: &mut Skb, offset: u32, from: u64, to: u64, flags: u64) {
        l3_csum_replace(skb, offset, from, to, flags)
    }
    L4CsumReplace(skb: &mut Skb, offset: u32, from: u64, to: u64, flags: u64) {
        l4_csum_replace(skb, offset, from, to, flags)
    }
    CsumDiff(from: *const u8, from_size: u32, to: *const u8, to_size: u32, seed: u32) {
        // SAFETY: 1. ARG_PTR_TO_MEM_OR_NULL with their sizes.
        let (from, to) = unsafe { (bytes(from, from_size), bytes(to, to_size)) };
        csum_diff(from, to, seed)
    }
    /// Packets here never carry a checksum computed by a device.
    CsumUpdate(_skb: &mut Skb, _csum: u32) { Err::<(), _>(Errno::ENOTSUPP) }
    SkbPullData(skb: &mut Skb, len: u32) { pull_data(skb, len) }
    SkbChangeTail(skb: &mut Skb, len: u32, flags: u64) { change_tail(skb, len, flags) }
    SkbChangeHead(skb: &mut Skb, len: u32, flags: u64) { change_head(skb, len, flags) }
    SetHash(skb: &mut Skb, hash: u32) {
        skb.set_hash(hash);
        Ok::<(), Errno>(())
    }
    SetHashInvalid(skb: &mut Skb) {
        skb.clear_hash();
        Ok::<(), Errno>(())
    }
    Redirect(ifindex: u32, flags: u64) {
        if flags & !F_INGRESS != 0 {
            TC_ACT_SHOT
        } else {
            set_redirect(Redirect::Device { ifindex, ingress: flags & F_INGRESS != 0 });
            TC_ACT_REDIRECT
        }
    }
    RedirectPeer(ifindex: u32, flags: u64) {
        if flags != 0 {
            TC_ACT_SHOT
        } else {
            set_redirect(Redirect::Peer { ifindex });
            TC_ACT_REDIRECT
        }
    }
}

/// What `LD_ABS` and `LD_IND` call: `size` bytes at `offset` of the packet in host order, or EFAULT.
///
/// # Safety
/// `ctx` is the program pointer of an [`Skb`].
pub unsafe extern "C" fn load_packet(ctx: u64, offset: i64, size: u64) -> i64 {
    // SAFETY: 1. the caller's contract; 2. the program is suspended in the load.
    let skb: &Skb = unsafe { &*std::ptr::with_exposed_provenance(ctx as usize) };
    // Negative offsets count from the network or link header; ancillary data is translated before programs are loaded.
    let start = match offset {
        0.. => offset,
        NET_OFF..AD_OFF => offset - NET_OFF + skb.network_offset() as i64,
        LL_OFF..NET_OFF => offset - LL_OFF + skb.data().len() as i64 - skb.frame().len() as i64,
        _ => return Errno::EFAULT.negated(),
    };
    let data = skb.data();
    let bytes = usize::try_from(start)
        .ok()
        .and_then(|start| data.get(start..start.checked_add(size as usize)?));
    match bytes {
        Some([a]) => i64::from(*a),
        Some([a, b]) => i64::from(u16::from_be_bytes([*a, *b])),
        Some([a, b, c, d]) => i64::from(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => Errno::EFAULT.negated(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::NetDevice;

    fn skb() -> Box<Skb> {
        let mut frame = vec![0u8; 64];
        frame[12] = 8;
        frame[14..34]
            .copy_from_slice(b"\x45\0\0\x32\0\0\x40\0\x40\x11\x3c\xb9\x7f\0\0\x01\x7f\0\0\x01");
        Skb::received(&frame, &NetDevice::new(1, "lo", 1500)).unwrap()
    }

    #[test]
    fn l3_replacement_keeps_the_header_valid() {
        let mut skb = skb();
        let old = u32::from_ne_bytes(*skb.data()[30..34].first_chunk().unwrap());
        let new = u32::from_ne_bytes([10, 1, 2, 3]);
        l3_csum_replace(&mut skb, 24, u64::from(old), u64::from(new), 4).unwrap();
        skb.data_mut()[30..34].copy_from_slice(&new.to_ne_bytes());
        let before = csum::from32to16(csum::partial(&skb.data()[14..34], 0));
        assert_eq!(before, 0xffff);
        assert_eq!(l3_csum_replace(&mut skb, 25, 0, 0, 4), Err(Errno::EFAULT));
        assert_eq!(l3_csum_replace(&mut skb, 63, 0, 0, 2), Err(Errno::EFAULT));
        assert_eq!(l3_csum_replace(&mut skb, 24, 0, 0, 3), Err(Errno::EINVAL));
    }

    #[test]
    fn loads_count_from_the_packet_and_its_headers() {
        let mut skb = skb();
        let ctx = skb.program_ptr();
        // SAFETY: `ctx` is the skb above.
        let load = |offset, size| unsafe { load_packet(ctx, offset, size) };
        assert_eq!(load(12, 2), 0x800);
        assert_eq!(load(NET_OFF, 1), 0x45);
        assert_eq!(load(LL_OFF + 12, 2), 0x800);
        assert_eq!(load(62, 4), Errno::EFAULT.negated());
        assert_eq!(load(-1, 1), Errno::EFAULT.negated());
    }

    #[test]
    fn no_packet_has_ipsec_state() {
        let mut skb = skb();
        let mut state = [7u8; 32];
        let address = state.as_mut_ptr().expose_provenance() as u64;
        let code = crate::find(ring3_uapi::FuncId::SkbGetXfrmState).unwrap();
        // SAFETY: the skb and 28 bytes of the buffer live.
        let answer = unsafe { code(skb.program_ptr(), 0, address, 28, 0) };
        assert_eq!(answer as i64, Errno::EINVAL.negated());
        assert_eq!((&state[..28], &state[28..]), (&[0; 28][..], &[7; 4][..]));
    }

    #[test]
    fn tails_keep_the_network_header() {
        let mut skb = skb();
        assert_eq!(change_tail(&mut skb, 13, 0), Err(Errno::EINVAL));
        assert_eq!(change_tail(&mut skb, 14, 0), Ok(()));
        assert_eq!(change_tail(&mut skb, 100, 0), Ok(()));
        assert_eq!(change_head(&mut skb, 8, 0), Ok(()));
        assert_eq!(skb.data().len(), 108);
        assert_eq!(csum_diff(&[1, 2], &[], 0), Err(Errno::EINVAL));
    }
}
