//! Messages and the choice of a socket for them: `sk_msg_md`, `sk_reuseport_md`, `bpf_sk_lookup`.

use super::rows::{alu_imm, at, field, jump, load, sized};
use super::{
    CtxField,
    CtxReg::{Packet, PacketEnd, Sock, SockCommonOrNull, SockOrNull},
    Narrow,
    Operation::{Eq, Lsh, Mov},
    Step,
    Who::{Ctx, Dst},
    Width::{W32, W64},
};

const SK_MSG_DATA: &[Step] = &[load(8, Dst, Ctx, at("sk_msg", "data", 0))];
const SK_MSG_DATA_END: &[Step] = &[load(8, Dst, Ctx, at("sk_msg", "data_end", 0))];
const SK_MSG_FAMILY: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_family", 0)),
];
const SK_MSG_REMOTE_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_daddr", 0)),
];
const SK_MSG_LOCAL_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_rcv_saddr", 0)),
];
const SK_MSG_REMOTE_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_daddr.in6_u.u6_addr32", 0).each(),
    ),
];
const SK_MSG_LOCAL_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32", 0).each(),
    ),
];
const SK_MSG_REMOTE_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_dport", 0)),
    alu_imm(W32, Lsh, Dst, 0x10),
];
const SK_MSG_LOCAL_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_num", 0)),
];
const SK_MSG_SIZE: &[Step] = &[load(4, Dst, Ctx, at("sk_msg", "sg.size", 0))];
const SK_MSG_SK: &[Step] = &[load(8, Dst, Ctx, at("sk_msg", "sk", 0))];
const REUSEPORT_DATA: &[Step] = &[
    load(8, Dst, Ctx, at("sk_reuseport_kern", "skb", 0)),
    load(8, Dst, Dst, at("sk_buff", "data", 0)),
];
const REUSEPORT_DATA_END: &[Step] = &[load(8, Dst, Ctx, at("sk_reuseport_kern", "data_end", 0))];
const REUSEPORT_LEN: &[Step] = &[
    load(8, Dst, Ctx, at("sk_reuseport_kern", "skb", 0)),
    load(4, Dst, Dst, at("sk_buff", "len", 0)),
];
const REUSEPORT_ETH_PROTOCOL: &[Step] = &[
    load(8, Dst, Ctx, at("sk_reuseport_kern", "skb", 0)),
    load(2, Dst, Dst, at("sk_buff", "protocol", 0)),
];
const REUSEPORT_IP_PROTOCOL: &[Step] = &[
    load(8, Dst, Ctx, at("sk_reuseport_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "sk_protocol", 0)),
];
const REUSEPORT_BIND_INANY: &[Step] =
    &[load(1, Dst, Ctx, at("sk_reuseport_kern", "bind_inany", 0))];
const REUSEPORT_HASH: &[Step] = &[load(4, Dst, Ctx, at("sk_reuseport_kern", "hash", 0))];
const REUSEPORT_SK: &[Step] = &[load(8, Dst, Ctx, at("sk_reuseport_kern", "sk", 0))];
const REUSEPORT_MIGRATING_SK: &[Step] = &[load(
    8,
    Dst,
    Ctx,
    at("sk_reuseport_kern", "migrating_sk", 0),
)];
const SK_LOOKUP_SK: &[Step] = &[load(
    8,
    Dst,
    Ctx,
    at("bpf_sk_lookup_kern", "selected_sk", 0),
)];
const SK_LOOKUP_FAMILY: &[Step] = &[load(2, Dst, Ctx, at("bpf_sk_lookup_kern", "family", 0))];
const SK_LOOKUP_PROTOCOL: &[Step] = &[load(2, Dst, Ctx, at("bpf_sk_lookup_kern", "protocol", 0))];
const SK_LOOKUP_REMOTE_IP4: &[Step] = &[load(4, Dst, Ctx, at("bpf_sk_lookup_kern", "v4.saddr", 0))];
const SK_LOOKUP_REMOTE_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sk_lookup_kern", "v6.saddr", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(4, Dst, Dst, at("in6_addr", "in6_u.u6_addr32", 0).each()),
];
const SK_LOOKUP_REMOTE_PORT: &[Step] = &[load(2, Dst, Ctx, at("bpf_sk_lookup_kern", "sport", 0))];
const SK_LOOKUP_REMOTE_PORT_PADDING: &[Step] = &[alu_imm(W32, Mov, Dst, 0)];
const SK_LOOKUP_LOCAL_IP4: &[Step] = &[load(4, Dst, Ctx, at("bpf_sk_lookup_kern", "v4.daddr", 0))];
const SK_LOOKUP_LOCAL_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sk_lookup_kern", "v6.daddr", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(4, Dst, Dst, at("in6_addr", "in6_u.u6_addr32", 0).each()),
];
const SK_LOOKUP_LOCAL_PORT: &[Step] = &[load(2, Dst, Ctx, at("bpf_sk_lookup_kern", "dport", 0))];
const SK_LOOKUP_INGRESS_IFINDEX: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("bpf_sk_lookup_kern", "ingress_ifindex", 0),
)];

pub(super) const SK_MSG: &[CtxField] = &[
    field("data", 0, 8, sized(8, 8))
        .yields(Packet)
        .loaded(SK_MSG_DATA),
    field("data_end", 8, 8, sized(8, 8))
        .yields(PacketEnd)
        .loaded(SK_MSG_DATA_END),
    field("family", 16, 4, sized(4, 4)).loaded(SK_MSG_FAMILY),
    field("remote_ip4", 20, 4, sized(4, 4)).loaded(SK_MSG_REMOTE_IP4),
    field("local_ip4", 24, 4, sized(4, 4)).loaded(SK_MSG_LOCAL_IP4),
    field("remote_ip6", 28, 16, sized(4, 4)).loaded(SK_MSG_REMOTE_IP6),
    field("local_ip6", 44, 16, sized(4, 4)).loaded(SK_MSG_LOCAL_IP6),
    field("remote_port", 60, 4, sized(4, 4)).loaded(SK_MSG_REMOTE_PORT),
    field("local_port", 64, 4, sized(4, 4)).loaded(SK_MSG_LOCAL_PORT),
    field("size", 68, 4, sized(4, 4)).loaded(SK_MSG_SIZE),
    field("sk", 72, 8, sized(8, 8))
        .yields(Sock)
        .loaded(SK_MSG_SK),
];

pub(super) const SK_REUSEPORT: &[CtxField] = &[
    field("data", 0, 8, sized(8, 8))
        .yields(Packet)
        .loaded(REUSEPORT_DATA),
    field("data_end", 8, 8, sized(8, 8))
        .yields(PacketEnd)
        .loaded(REUSEPORT_DATA_END),
    field("len", 16, 4, sized(1, 4))
        .loaded(REUSEPORT_LEN)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("eth_protocol", 20, 4, sized(2, 4))
        .loaded(REUSEPORT_ETH_PROTOCOL)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("ip_protocol", 24, 4, sized(1, 4))
        .loaded(REUSEPORT_IP_PROTOCOL)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("bind_inany", 28, 4, sized(1, 4))
        .loaded(REUSEPORT_BIND_INANY)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("hash", 32, 4, sized(4, 4)).loaded(REUSEPORT_HASH),
    field("sk", 40, 8, sized(8, 8))
        .yields(Sock)
        .loaded(REUSEPORT_SK),
    field("migrating_sk", 48, 8, sized(8, 8))
        .yields(SockCommonOrNull)
        .loaded(REUSEPORT_MIGRATING_SK),
];

pub(super) const SK_LOOKUP: &[CtxField] = &[
    field("sk", 0, 8, sized(8, 8))
        .yields(SockOrNull)
        .loaded(SK_LOOKUP_SK),
    field("family", 8, 4, sized(1, 4))
        .loaded(SK_LOOKUP_FAMILY)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("protocol", 12, 4, sized(1, 4))
        .loaded(SK_LOOKUP_PROTOCOL)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("remote_ip4", 16, 4, sized(1, 4))
        .loaded(SK_LOOKUP_REMOTE_IP4)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("remote_ip6", 20, 16, sized(1, 4))
        .loaded(SK_LOOKUP_REMOTE_IP6)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("remote_port", 36, 4, sized(4, 4)).loaded(SK_LOOKUP_REMOTE_PORT),
    field("remote_port", 36, 2, sized(1, 2))
        .loaded(SK_LOOKUP_REMOTE_PORT)
        .narrow(Narrow { unit: 2, target: 2 }),
    // The upper half of a port is zero.
    field("remote_port", 38, 2, sized(1, 2))
        .loaded(SK_LOOKUP_REMOTE_PORT_PADDING)
        .narrow(Narrow { unit: 2, target: 2 }),
    field("local_ip4", 40, 4, sized(1, 4))
        .loaded(SK_LOOKUP_LOCAL_IP4)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("local_ip6", 44, 16, sized(1, 4))
        .loaded(SK_LOOKUP_LOCAL_IP6)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("local_port", 60, 4, sized(1, 4))
        .loaded(SK_LOOKUP_LOCAL_PORT)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("ingress_ifindex", 64, 4, sized(1, 4))
        .loaded(SK_LOOKUP_INGRESS_IFINDEX)
        .narrow(Narrow { unit: 4, target: 4 }),
];
