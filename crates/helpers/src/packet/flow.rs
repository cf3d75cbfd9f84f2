//! The flow of a packet: addresses and ports, dissected through VLAN tags, and a hash over them that is the same in both directions.
//!
//! The reference kernel seeds its hash at random at boot; this one is fixed, so that runs repeat.

use super::{
    headers::{ETH_P_IP, ETH_P_IPV6, protocol_behind_vlans},
    skb::Skb,
};

/// What a flow hash is computed from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Flow {
    addresses: [[u8; 16]; 2],
    ports: [u16; 2],
    protocol: u8,
    ether_type: [u8; 2],
}

/// The hash of the packet's flow, never 0.
pub(super) fn hash(skb: &Skb) -> u32 {
    let mut flow = dissect(skb);
    let is_backwards = (flow.addresses[1], flow.ports[1]) < (flow.addresses[0], flow.ports[0]);
    if is_backwards {
        flow.addresses.swap(0, 1);
        flow.ports.swap(0, 1);
    }
    // FNV-1a over the flow, then its bits mixed.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    flow.addresses.iter().flatten().copied().for_each(&mut add);
    flow.ports
        .iter()
        .flat_map(|port| port.to_be_bytes())
        .for_each(&mut add);
    [flow.protocol, flow.ether_type[0], flow.ether_type[1]]
        .into_iter()
        .for_each(&mut add);
    hash ^= hash >> 29;
    ((hash.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32).max(1)
}

fn dissect(skb: &Skb) -> Flow {
    let mut flow = Flow::default();
    let Some(ether_type) = protocol_behind_vlans(skb) else {
        return flow;
    };
    flow.ether_type = ether_type;
    let mut start = skb.network_offset();
    let mut outer = skb.protocol();
    while super::headers::is_vlan(outer) {
        let at = usize::try_from(start + 2).unwrap_or(usize::MAX);
        match skb.data().get(at..at.saturating_add(2)) {
            Some(&[a, b]) => outer = [a, b],
            _ => return flow,
        }
        start += super::headers::VLAN_BYTES as isize;
    }
    let Some(header) = usize::try_from(start)
        .ok()
        .and_then(|start| skb.data().get(start..))
    else {
        return flow;
    };
    match ether_type {
        ETH_P_IP => dissect_ipv4(&mut flow, header),
        ETH_P_IPV6 => dissect_ipv6(&mut flow, header),
        _ => {}
    }
    flow
}

fn dissect_ipv4(flow: &mut Flow, header: &[u8]) {
    let Some((base, _)) = header.split_first_chunk::<20>() else {
        return;
    };
    flow.addresses[0][..4].copy_from_slice(&base[12..16]);
    flow.addresses[1][..4].copy_from_slice(&base[16..20]);
    flow.protocol = base[9];
    let is_fragment = u16::from_be_bytes([base[6], base[7]]) & 0x3fff != 0;
    let len = usize::from(base[0] & 0xf) * 4;
    if !is_fragment && let Some(rest) = header.get(len..) {
        dissect_ports(flow, rest);
    }
}

fn dissect_ipv6(flow: &mut Flow, header: &[u8]) {
    let Some((base, rest)) = header.split_first_chunk::<40>() else {
        return;
    };
    flow.addresses[0].copy_from_slice(&base[8..24]);
    flow.addresses[1].copy_from_slice(&base[24..40]);
    flow.protocol = base[6];
    dissect_ports(flow, rest);
}

fn dissect_ports(flow: &mut Flow, rest: &[u8]) {
    const WITH_PORTS: [u8; 4] = [6, 17, 33, 132];
    if let (true, Some(&[a, b, c, d])) =
        (WITH_PORTS.contains(&flow.protocol), rest.first_chunk::<4>())
    {
        flow.ports = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    }
}
