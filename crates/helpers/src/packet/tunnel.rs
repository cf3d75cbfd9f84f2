//! Tunnel metadata: the key and options that collect-metadata tunnels read, and the helpers that set and read them.
//!
//! # Source
//! bpf-helpers(7), `struct bpf_tunnel_key` of linux/bpf.h; errnos and what is mirrored as BPF_PROG_TEST_RUN of Linux 6.18 shows.

use ring3_uapi::Errno;

use super::skb::Skb;

/// Bytes of `struct bpf_tunnel_key`.
const KEY_BYTES: usize = 44;
/// Sizes of its earlier forms: up to `local_ipv4`, `tunnel_label`, `tunnel_ext` and the IPv4-only one.
const KEY_BYTES_BEFORE: [usize; 4] = [28, 24, 22, 8];
const IPV6: u64 = 1;
const ZERO_CSUM_TX: u64 = 1 << 1;
const DONT_FRAGMENT: u64 = 1 << 2;
const SEQ_NUMBER: u64 = 1 << 3;
const NO_TUNNEL_KEY: u64 = 1 << 4;
/// `BPF_F_TUNINFO_FLAGS` of the getter.
const TUNINFO_FLAGS: u64 = 1 << 4;
/// Longest options.
const OPTIONS_BYTES_MAX: usize = 255;
/// Bits of `tunnel_flags`, which is in network order: TUNNEL_CSUM, TUNNEL_KEY, TUNNEL_SEQ, TUNNEL_DONT_FRAGMENT, TUNNEL_NOCACHE.
const FLAG_CSUM: u16 = 1 << 0;
const FLAG_KEY: u16 = 1 << 2;
const FLAG_SEQ: u16 = 1 << 3;
const FLAG_DONT_FRAGMENT: u16 = 1 << 8;
const FLAG_NOCACHE: u16 = 1 << 13;

/// Where a packet is tunnelled to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TunnelInfo {
    is_ipv6: bool,
    id: u32,
    tos: u8,
    ttl: u8,
    flags: u16,
    label: u32,
    destination: [u8; 16],
    source: [u8; 16],
    options: Vec<u8>,
}

/// `bpf_skb_set_tunnel_key`
pub(super) fn set_key(skb: &mut Skb, given: &[u8], flags: u64) -> Result<(), Errno> {
    let known = IPV6 | ZERO_CSUM_TX | DONT_FRAGMENT | SEQ_NUMBER | NO_TUNNEL_KEY;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    if given.len() != KEY_BYTES && !KEY_BYTES_BEFORE.contains(&given.len()) {
        return Err(Errno::EINVAL);
    }
    let mut key = [0; KEY_BYTES];
    key[..given.len()].copy_from_slice(given);
    let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| key[at + i]));
    let is_ipv6 = flags & IPV6 != 0;
    let (label, ext) = (word(24), u16::from_ne_bytes([key[22], key[23]]));
    if (!is_ipv6 && label != 0) || ext != 0 {
        return Err(Errno::EINVAL);
    }
    let mut info = TunnelInfo {
        is_ipv6,
        id: word(0),
        tos: key[20],
        ttl: key[21],
        flags: FLAG_KEY | FLAG_CSUM | FLAG_NOCACHE,
        label: label & 0x000f_ffff,
        ..TunnelInfo::default()
    };
    for (bit, is_given) in [(FLAG_DONT_FRAGMENT, DONT_FRAGMENT), (FLAG_SEQ, SEQ_NUMBER)] {
        info.flags |= if flags & is_given != 0 { bit } else { 0 };
    }
    for (bit, is_cleared) in [(FLAG_CSUM, ZERO_CSUM_TX), (FLAG_KEY, NO_TUNNEL_KEY)] {
        info.flags &= if flags & is_cleared != 0 { !bit } else { !0 };
    }
    let address_bytes = if is_ipv6 { 16 } else { 4 };
    info.destination[..address_bytes].copy_from_slice(&key[4..4 + address_bytes]);
    info.source[..address_bytes].copy_from_slice(&key[28..28 + address_bytes]);
    skb.state.tunnel = Some(Box::new(info));
    Ok(())
}

/// `bpf_skb_get_tunnel_key`: the key as the receiving side would see it, so what was set as remote is read as local.
pub(super) fn get_key(skb: &Skb, out: &mut [u8], flags: u64) -> Result<(), Errno> {
    out.fill(0);
    let info = skb.state.tunnel.as_deref().ok_or(Errno::EINVAL)?;
    if flags & !(IPV6 | TUNINFO_FLAGS) != 0 {
        return Err(Errno::EINVAL);
    }
    if info.is_ipv6 != (flags & IPV6 != 0) {
        return Err(Errno::EPROTO);
    }
    if out.len() != KEY_BYTES && !KEY_BYTES_BEFORE.contains(&out.len()) {
        return Err(Errno::EINVAL);
    }
    let mut key = [0; KEY_BYTES];
    key[..4].copy_from_slice(&info.id.to_ne_bytes());
    key[4..20].copy_from_slice(&info.source);
    key[20] = info.tos;
    key[21] = info.ttl;
    if flags & TUNINFO_FLAGS != 0 {
        key[22..24].copy_from_slice(&info.flags.to_be_bytes());
    }
    key[24..28].copy_from_slice(&info.label.to_ne_bytes());
    key[28..44].copy_from_slice(&info.destination);
    let given = out.len();
    out.copy_from_slice(&key[..given]);
    Ok(())
}

/// `bpf_skb_set_tunnel_opt`
pub(super) fn set_options(skb: &mut Skb, options: &[u8]) -> Result<(), Errno> {
    let info = skb.state.tunnel.as_deref_mut().ok_or(Errno::EINVAL)?;
    if !options.len().is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if options.len() > OPTIONS_BYTES_MAX {
        return Err(Errno::ENOMEM);
    }
    info.options = options.to_owned();
    Ok(())
}

/// `bpf_skb_get_tunnel_opt`: how many bytes there are.
pub(super) fn get_options(skb: &Skb, out: &mut [u8]) -> Result<u64, Errno> {
    out.fill(0);
    let options = match skb.state.tunnel.as_deref() {
        Some(info) if !info.options.is_empty() => &info.options,
        _ => return Err(Errno::ENOENT),
    };
    if out.len() < options.len() {
        return Err(Errno::ENOMEM);
    }
    out[..options.len()].copy_from_slice(options);
    Ok(options.len() as u64)
}
