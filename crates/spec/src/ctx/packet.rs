//! Packets before they are an sk_buff, or in other clothes: XDP, the flow dissector, netfilter.

use ring3_uapi::AttachType as A;

use super::rows::{at, field, load, sized};
use super::{
    CtxField,
    CtxReg::{FlowKeys, Packet, PacketEnd, PacketMeta, Trusted},
    Step,
    Who::{Ctx, Dst},
};

const FLOW_DATA: &[Step] = &[load(8, Dst, Ctx, at("bpf_flow_dissector", "data", 0))];
const FLOW_DATA_END: &[Step] = &[load(8, Dst, Ctx, at("bpf_flow_dissector", "data_end", 0))];
const FLOW_FLOW_KEYS: &[Step] = &[load(8, Dst, Ctx, at("bpf_flow_dissector", "flow_keys", 0))];
const XDP_DATA: &[Step] = &[load(8, Dst, Ctx, at("xdp_buff", "data", 0))];
const XDP_DATA_END: &[Step] = &[load(8, Dst, Ctx, at("xdp_buff", "data_end", 0))];
const XDP_DATA_META: &[Step] = &[load(8, Dst, Ctx, at("xdp_buff", "data_meta", 0))];
const XDP_INGRESS_IFINDEX: &[Step] = &[
    load(8, Dst, Ctx, at("xdp_buff", "rxq", 0)),
    load(8, Dst, Dst, at("xdp_rxq_info", "dev", 0)),
    load(4, Dst, Dst, at("net_device", "ifindex", 0)),
];
const XDP_RX_QUEUE_INDEX: &[Step] = &[
    load(8, Dst, Ctx, at("xdp_buff", "rxq", 0)),
    load(4, Dst, Dst, at("xdp_rxq_info", "queue_index", 0)),
];
const XDP_EGRESS_IFINDEX: &[Step] = &[
    load(8, Dst, Ctx, at("xdp_buff", "txq", 0)),
    load(8, Dst, Dst, at("xdp_txq_info", "dev", 0)),
    load(4, Dst, Dst, at("net_device", "ifindex", 0)),
];
const NF_STATE: &[Step] = &[load(8, Dst, Ctx, at("bpf_nf_ctx", "state", 0))];
const NF_SKB: &[Step] = &[load(8, Dst, Ctx, at("bpf_nf_ctx", "skb", 0))];

pub(super) const XDP: &[CtxField] = &[
    field("data", 0, 4, sized(4, 4))
        .yields(Packet)
        .loaded(XDP_DATA),
    field("data_end", 4, 4, sized(4, 4))
        .yields(PacketEnd)
        .loaded(XDP_DATA_END),
    field("data_meta", 8, 4, sized(4, 4))
        .yields(PacketMeta)
        .loaded(XDP_DATA_META),
    field("ingress_ifindex", 12, 4, sized(4, 4)).loaded(XDP_INGRESS_IFINDEX),
    field("rx_queue_index", 16, 4, sized(4, 4)).loaded(XDP_RX_QUEUE_INDEX),
    field("egress_ifindex", 20, 4, sized(4, 4))
        .loaded(XDP_EGRESS_IFINDEX)
        .only(&[A::XdpDevmap]),
];

pub(super) const FLOW_DISSECTOR: &[CtxField] = &[
    field("data", 76, 4, sized(4, 4))
        .yields(Packet)
        .loaded(FLOW_DATA),
    field("data_end", 80, 4, sized(4, 4))
        .yields(PacketEnd)
        .loaded(FLOW_DATA_END),
    field("flow_keys", 144, 8, sized(8, 8))
        .yields(FlowKeys)
        .loaded(FLOW_FLOW_KEYS),
];

pub(super) const NETFILTER: &[CtxField] = &[
    field("state", 0, 8, sized(8, 8))
        .yields(Trusted("nf_hook_state"))
        .loaded(NF_STATE),
    field("skb", 8, 8, sized(8, 8))
        .yields(Trusted("sk_buff"))
        .loaded(NF_SKB),
];

/// Bytes of `bpf_flow_keys`; any access inside is valid.
pub const FLOW_KEYS_BYTES: u32 = 56;
