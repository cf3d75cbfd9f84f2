//! Helpers that change the headers of a packet: VLAN tags, protocol, room, type, congestion mark.
//!
//! # Source
//! bpf-helpers(7); errnos and bytes as BPF_PROG_TEST_RUN of Linux 6.18 returns them, recorded in fixtures/oracle/net.

use ring3_uapi::Errno;

use super::skb::{ETH_HEADER_BYTES, LEN_MAX, Skb};

pub(super) const ETH_P_IP: [u8; 2] = [0x08, 0x00];
pub(super) const ETH_P_IPV6: [u8; 2] = [0x86, 0xdd];
const ETH_P_8021Q: [u8; 2] = [0x81, 0x00];
const ETH_P_8021AD: [u8; 2] = [0x88, 0xa8];
const ETH_P_802_3: [u8; 2] = [0, 1];
const ETH_P_802_2: [u8; 2] = [0, 4];
pub(super) const IPV4_BYTES: usize = 20;
pub(super) const IPV6_BYTES: usize = 40;
pub(super) const VLAN_BYTES: usize = 4;
/// Bytes of the two link addresses.
const ADDRESSES_BYTES: usize = 12;

/// Flags of `bpf_skb_adjust_room`.
mod room {
    pub(super) const FIXED_GSO: u64 = 1 << 0;
    pub(super) const ENCAP_L3_IPV4: u64 = 1 << 1;
    pub(super) const ENCAP_L3_IPV6: u64 = 1 << 2;
    pub(super) const ENCAP_L4_GRE: u64 = 1 << 3;
    pub(super) const ENCAP_L4_UDP: u64 = 1 << 4;
    pub(super) const NO_CSUM_RESET: u64 = 1 << 5;
    pub(super) const ENCAP_L2_ETH: u64 = 1 << 6;
    pub(super) const DECAP_L3_IPV4: u64 = 1 << 7;
    pub(super) const DECAP_L3_IPV6: u64 = 1 << 8;
    pub(super) const ENCAP_L2_SHIFT: u32 = 56;
    pub(super) const ENCAP_L3: u64 = ENCAP_L3_IPV4 | ENCAP_L3_IPV6;
    pub(super) const DECAP_L3: u64 = DECAP_L3_IPV4 | DECAP_L3_IPV6;
    pub(super) const KNOWN: u64 = FIXED_GSO
        | ENCAP_L3
        | ENCAP_L4_GRE
        | ENCAP_L4_UDP
        | NO_CSUM_RESET
        | ENCAP_L2_ETH
        | DECAP_L3
        | 0xff << ENCAP_L2_SHIFT;
}

pub(super) fn is_vlan(protocol: [u8; 2]) -> bool {
    protocol == ETH_P_8021Q || protocol == ETH_P_8021AD
}

fn has_vlan(skb: &Skb) -> bool {
    skb.vlan() != ([0, 0], 0)
}

/// `bpf_skb_vlan_push`
pub(super) fn vlan_push(skb: &mut Skb, protocol: [u8; 2], tci: u16) -> Result<(), Errno> {
    let protocol = if is_vlan(protocol) {
        protocol
    } else {
        ETH_P_8021Q
    };
    if has_vlan(skb) {
        let (outer, outer_tci) = skb.vlan();
        insert_tag(skb, outer, outer_tci)?;
    }
    skb.set_vlan(protocol, tci);
    Ok(())
}

/// Writes a tag into the packet, behind the link addresses.
fn insert_tag(skb: &mut Skb, protocol: [u8; 2], tci: u16) -> Result<(), Errno> {
    if skb.data().len() < ETH_HEADER_BYTES {
        return Err(Errno::EINVAL);
    }
    skb.push(VLAN_BYTES);
    let data = skb.data_mut();
    data.copy_within(VLAN_BYTES..VLAN_BYTES + ADDRESSES_BYTES, 0);
    data[12..14].copy_from_slice(&protocol);
    data[14..16].copy_from_slice(&tci.to_be_bytes());
    skb.move_mac_header(-(VLAN_BYTES as i32));
    skb.set_protocol(protocol);
    skb.set_network_offset(skb.network_offset() - VLAN_BYTES as isize);
    Ok(())
}

/// `bpf_skb_vlan_pop`
pub(super) fn vlan_pop(skb: &mut Skb) -> Result<(), Errno> {
    if has_vlan(skb) {
        skb.set_vlan([0, 0], 0);
    } else if is_vlan(skb.protocol()) {
        remove_tag(skb)?;
    } else {
        return Ok(());
    }
    // The next tag takes the place beside the packet.
    let protocol = skb.protocol();
    if is_vlan(protocol) {
        let tci = remove_tag(skb)?;
        skb.set_vlan(protocol, tci);
    }
    Ok(())
}

/// Takes the outer tag out of the packet.
fn remove_tag(skb: &mut Skb) -> Result<u16, Errno> {
    let data = skb.data();
    let Some(&[a, b, c, d]) = data.get(14..18).and_then(|bytes| bytes.first_chunk()) else {
        return Err(Errno::ENOMEM);
    };
    let tci = u16::from_be_bytes([a, b]);
    let protocol = match u16::from_be_bytes([c, d]) {
        0x0600.. => [c, d],
        _ if data.get(18..20) == Some(&[0xff, 0xff]) => ETH_P_802_3,
        _ => ETH_P_802_2,
    };
    skb.data_mut().copy_within(0..ADDRESSES_BYTES, VLAN_BYTES);
    skb.pull(VLAN_BYTES)?;
    skb.set_protocol(protocol);
    skb.move_mac_header(VLAN_BYTES as i32);
    if skb.network_offset() < ETH_HEADER_BYTES as isize {
        skb.set_network_offset(ETH_HEADER_BYTES as isize);
    }
    skb.reset_mac_len();
    Ok(tci)
}

/// `bpf_skb_change_proto`: makes or takes the room between IPv4 and IPv6; the program writes the header.
pub(super) fn change_proto(skb: &mut Skb, protocol: [u8; 2], flags: u64) -> Result<(), Errno> {
    const DIFFERENCE: usize = IPV6_BYTES - IPV4_BYTES;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let offset = skb.mac_header_len();
    match (skb.protocol(), protocol) {
        (ETH_P_IP, ETH_P_IPV6) => skb.open_behind(offset, DIFFERENCE)?,
        (ETH_P_IPV6, ETH_P_IP) => skb.cut_behind(offset, DIFFERENCE)?,
        _ => return Err(Errno::ENOTSUPP),
    }
    skb.set_protocol(protocol);
    skb.clear_hash();
    Ok(())
}

/// `bpf_skb_change_type`
pub(super) fn change_type(skb: &mut Skb, pkt_type: u32) -> Result<(), Errno> {
    const OTHER_HOST: u32 = 3;
    if skb.pkt_type() > OTHER_HOST || pkt_type > OTHER_HOST {
        return Err(Errno::EINVAL);
    }
    skb.set_pkt_type(pkt_type as u8);
    Ok(())
}

/// Bytes of a network header without options.
fn net_base_len(protocol: [u8; 2]) -> Option<usize> {
    match protocol {
        ETH_P_IP => Some(IPV4_BYTES),
        ETH_P_IPV6 => Some(IPV6_BYTES),
        _ => None,
    }
}

/// `bpf_skb_adjust_room`
pub(super) fn adjust_room(skb: &mut Skb, diff: i32, mode: u32, flags: u64) -> Result<(), Errno> {
    const MODE_NET: u32 = 0;
    const MODE_MAC: u32 = 1;
    const DIFF_MAX: u32 = 0xfff;
    if flags & !room::KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let len = diff.unsigned_abs();
    if len > DIFF_MAX {
        return Err(Errno::EFAULT);
    }
    let protocol = skb.protocol();
    let base = net_base_len(protocol).ok_or(Errno::ENOTSUPP)?;
    let offset = match mode {
        MODE_NET => skb.mac_header_len() + base,
        MODE_MAC => skb.mac_header_len(),
        _ => return Err(Errno::ENOTSUPP),
    };
    let shrinks = diff < 0;
    let len_min = match flags & room::DECAP_L3 {
        0 => base,
        _ if !shrinks => return Err(Errno::EINVAL),
        room::DECAP_L3_IPV4 => IPV4_BYTES,
        room::DECAP_L3_IPV6 => IPV6_BYTES,
        _ => return Err(Errno::EINVAL),
    };
    let len = len as usize;
    let net_len = skb.data().len() as i64 - skb.network_offset() as i64;
    let is_refused = if shrinks {
        len as i64 >= net_len || net_len - (len as i64) < len_min as i64
    } else {
        skb.data().len() + len > LEN_MAX
    };
    if is_refused {
        return Err(Errno::ENOTSUPP);
    }
    if shrinks {
        shrink(skb, offset, len, flags)?;
    } else {
        grow(skb, offset, len, flags)?;
    }
    if flags & room::NO_CSUM_RESET == 0 {
        skb.state.csum_level = None;
    }
    Ok(())
}

fn shrink(skb: &mut Skb, offset: usize, len: usize, flags: u64) -> Result<(), Errno> {
    if flags & !(room::FIXED_GSO | room::DECAP_L3 | room::NO_CSUM_RESET) != 0 {
        return Err(Errno::EINVAL);
    }
    skb.cut_behind(offset, len)?;
    match (skb.protocol(), flags & room::DECAP_L3) {
        (ETH_P_IP, room::DECAP_L3_IPV6) => skb.set_protocol(ETH_P_IPV6),
        (ETH_P_IPV6, room::DECAP_L3_IPV4) => skb.set_protocol(ETH_P_IP),
        _ => {}
    }
    Ok(())
}

fn grow(skb: &mut Skb, offset: usize, len: usize, flags: u64) -> Result<(), Errno> {
    let has = |bits: u64| flags & bits == bits;
    let encapsulates = flags & room::ENCAP_L3 != 0;
    let mac_len = skb.mac_header_len();
    if encapsulates {
        let inner_mac_len = (flags >> room::ENCAP_L2_SHIFT) as usize;
        if has(room::ENCAP_L3)
            || has(room::ENCAP_L4_GRE | room::ENCAP_L4_UDP)
            || (has(room::ENCAP_L2_ETH) && inner_mac_len < ETH_HEADER_BYTES)
        {
            return Err(Errno::EINVAL);
        }
        if skb.state.is_encapsulated {
            return Err(Errno::EALREADY);
        }
        if inner_mac_len > len {
            return Err(Errno::EINVAL);
        }
    }
    skb.open_behind(offset, len)?;
    if encapsulates {
        skb.state.is_encapsulated = true;
        let (protocol, header) = if has(room::ENCAP_L3_IPV6) {
            (ETH_P_IPV6, IPV6_BYTES)
        } else {
            (ETH_P_IP, IPV4_BYTES)
        };
        skb.set_protocol(protocol);
        skb.set_transport_offset(mac_len + header);
    }
    Ok(())
}

/// The protocol behind VLAN tags that lie in the packet.
pub(super) fn protocol_behind_vlans(skb: &Skb) -> Option<[u8; 2]> {
    /// Tags that are looked behind. Source: `VLAN_MAX_DEPTH`.
    const DEPTH_MAX: usize = 8;
    let mut protocol = skb.protocol();
    let mut at = skb.mac_offset() + ETH_HEADER_BYTES as isize;
    for _ in 0..DEPTH_MAX {
        if !is_vlan(protocol) {
            return Some(protocol);
        }
        let start = usize::try_from(at + 2).ok()?;
        protocol = *skb.data().get(start..start + 2)?.first_chunk()?;
        at += VLAN_BYTES as isize;
    }
    None
}

/// `bpf_skb_ecn_set_ce`: whether the mark could be set.
pub(super) fn ecn_set_ce(skb: &mut Skb) -> bool {
    let Some(protocol) = protocol_behind_vlans(skb) else {
        return false;
    };
    let (Some(header), Ok(start)) = (
        net_base_len(protocol),
        usize::try_from(skb.network_offset()),
    ) else {
        return false;
    };
    let Some(header) = skb.data_mut().get_mut(start..start + header) else {
        return false;
    };
    if protocol == ETH_P_IP {
        set_ce_ipv4(header)
    } else if (header[1] >> 4) & 3 == 0 {
        false
    } else {
        header[1] |= 3 << 4;
        true
    }
}

fn set_ce_ipv4(header: &mut [u8]) -> bool {
    const CE: u8 = 3;
    let ecn = header[1] & CE;
    match ecn {
        0 => return false,
        CE => return true,
        _ => {}
    }
    // The sum of the header grows by what the mark adds, so the field shrinks by it.
    let field = u16::from_be_bytes([header[10], header[11]]);
    let (sum, carry) = field.overflowing_add(0xfffb + u16::from(ecn) + 1);
    header[10..12].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    header[1] |= CE;
    true
}

/// `bpf_csum_level`
pub(super) fn csum_level(skb: &mut Skb, action: u64) -> Result<u64, Errno> {
    const QUERY: u64 = 0;
    const INC: u64 = 1;
    const DEC: u64 = 2;
    const RESET: u64 = 3;
    const LEVEL_MAX: u8 = 3;
    let level = &mut skb.state.csum_level;
    match action {
        QUERY => return level.map(u64::from).ok_or(Errno::EACCES),
        INC => *level = Some(level.map_or(0, |level| (level + 1).min(LEVEL_MAX))),
        DEC => *level = level.and_then(|level| level.checked_sub(1)),
        RESET => *level = None,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `bpf_skb_set_tstamp`
pub(super) fn set_tstamp(skb: &mut Skb, tstamp: u64, kind: u32) -> Result<(), Errno> {
    const REALTIME: u32 = 0;
    const TAI: u32 = 2;
    if net_base_len(skb.protocol()).is_none() {
        return Err(Errno::EOPNOTSUPP);
    }
    if kind > TAI || (kind != REALTIME && tstamp == 0) {
        return Err(Errno::EINVAL);
    }
    skb.set_tstamp(tstamp);
    Ok(())
}
