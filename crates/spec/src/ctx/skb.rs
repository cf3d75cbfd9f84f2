//! The packet as `__sk_buff`: socket filters, tc, cgroups, lightweight tunnels, stream parsers.

use super::rows::{NO, alu_imm, alu_reg, at, field, jump, load, sized, skip, store};
use super::{
    ACCESS, CtxField,
    CtxReg::{Packet, PacketEnd, PacketMeta, SockCommonOrNull},
    Narrow,
    Operation::{Add, And, Eq, Ge, Lsh, Mov, Set, Sub},
    Step,
    Who::{Ax, Ctx, Dst, Tmp, Val},
    Width::{W32, W64},
};

const SKB_LEN: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "len", 0))];
const SKB_PKT_TYPE: &[Step] = &[
    load(1, Dst, Ctx, at("sk_buff", "__pkt_type_offset", 0)),
    alu_imm(W32, And, Dst, 0x7),
];
const SKB_MARK: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "mark", 0))];
const SKB_QUEUE_MAPPING: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "queue_mapping", 0))];
const SKB_PROTOCOL: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "protocol", 0))];
const SKB_VLAN_PRESENT: &[Step] = &[
    load(4, Dst, Ctx, at("sk_buff", "vlan_all", 0)),
    jump(W64, Eq, Dst, 0, 1),
    alu_imm(W32, Mov, Dst, 0x1),
];
const SKB_VLAN_TCI: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "vlan_tci", 0))];
const SKB_VLAN_PROTO: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "vlan_proto", 0))];
const SKB_PRIORITY: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "priority", 0))];
const SKB_INGRESS_IFINDEX: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "skb_iif", 0))];
const SKB_IFINDEX: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "dev", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(4, Dst, Dst, at("net_device", "ifindex", 0)),
];
const SKB_TC_INDEX: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "tc_index", 0))];
const SKB_CB: &[Step] = &[load(ACCESS, Dst, Ctx, at("sk_buff", "cb", 8).each())];
const SKB_CB_STORE: &[Step] = &[store(ACCESS, Ctx, at("sk_buff", "cb", 8).each(), Val)];
const SKB_HASH: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "hash", 0))];
const SKB_NAPI_ID: &[Step] = &[
    load(4, Dst, Ctx, at("sk_buff", "napi_id", 0)),
    jump(W64, Ge, Dst, 257, 1),
    alu_imm(W64, Mov, Dst, 0x0),
];
const SKB_GSO_SEGS: &[Step] = &[
    load(4, Ax, Ctx, at("sk_buff", "end", 0)),
    load(8, Dst, Ctx, at("sk_buff", "head", 0)),
    alu_reg(W64, Add, Dst, Ax),
    load(2, Dst, Dst, at("skb_shared_info", "gso_segs", 0)),
];
const SKB_SK: &[Step] = &[load(8, Dst, Ctx, at("sk_buff", "sk", 0))];
const SKB_GSO_SIZE: &[Step] = &[
    load(4, Ax, Ctx, at("sk_buff", "end", 0)),
    load(8, Dst, Ctx, at("sk_buff", "head", 0)),
    alu_reg(W64, Add, Dst, Ax),
    load(2, Dst, Dst, at("skb_shared_info", "gso_size", 0)),
];
const SKB_MARK_STORE: &[Step] = &[store(4, Ctx, at("sk_buff", "mark", 0), Val)];
const SKB_QUEUE_MAPPING_STORE: &[Step] = &[
    jump(W64, Ge, Val, 65535, 1),
    store(2, Ctx, at("sk_buff", "queue_mapping", 0), Val),
];
const SKB_PRIORITY_STORE: &[Step] = &[store(4, Ctx, at("sk_buff", "priority", 0), Val)];
const SKB_IFINDEX_OF_DEVICE: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "dev", 0)),
    load(4, Dst, Dst, at("net_device", "ifindex", 0)),
];
const SKB_TC_INDEX_STORE: &[Step] = &[store(2, Ctx, at("sk_buff", "tc_index", 0), Val)];
const SKB_TC_CLASSID: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "cb", 6))];
const SKB_TC_CLASSID_STORE: &[Step] = &[store(2, Ctx, at("sk_buff", "cb", 6), Val)];
const SKB_DATA: &[Step] = &[load(8, Dst, Ctx, at("sk_buff", "data", 0))];
const SKB_DATA_END: &[Step] = &[load(8, Dst, Ctx, at("sk_buff", "cb", 40))];
const SKB_DATA_META: &[Step] = &[load(8, Dst, Ctx, at("sk_buff", "cb", 32))];
const SKB_TSTAMP: &[Step] = &[
    load(1, Ax, Ctx, at("sk_buff", "__mono_tc_offset", 0)),
    jump(W32, Set, Ax, 4, 1),
    skip(4),
    jump(W32, Set, Ax, 3, 1),
    skip(2),
    alu_imm(W64, Mov, Dst, 0x0),
    skip(1),
    load(8, Dst, Ctx, at("sk_buff", "tstamp", 0)),
];
const SKB_TSTAMP_STORE: &[Step] = &[
    load(1, Ax, Ctx, at("sk_buff", "__mono_tc_offset", 0)),
    jump(W32, Set, Ax, 4, 1),
    skip(2),
    alu_imm(W32, And, Ax, -4),
    store(1, Ctx, at("sk_buff", "__mono_tc_offset", 0), Ax),
    store(8, Ctx, at("sk_buff", "tstamp", 0), Val),
];
const SKB_WIRE_LEN: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "cb", 0))];
const SKB_TSTAMP_TYPE: &[Step] = &[
    load(1, Dst, Ctx, at("sk_buff", "__mono_tc_offset", 0)),
    alu_imm(W32, And, Dst, 0x3),
];
const SKB_HWTSTAMP: &[Step] = &[
    load(4, Ax, Ctx, at("sk_buff", "end", 0)),
    load(8, Dst, Ctx, at("sk_buff", "head", 0)),
    alu_reg(W64, Add, Dst, Ax),
    load(8, Dst, Dst, at("skb_shared_info", "hwtstamps.hwtstamp", 0)),
];
const SKB_FAMILY: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_family", 0)),
];
const SKB_REMOTE_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_daddr", 0)),
];
const SKB_LOCAL_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_rcv_saddr", 0)),
];
const SKB_REMOTE_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_daddr.in6_u.u6_addr32", 0).each(),
    ),
];
const SKB_LOCAL_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32", 0).each(),
    ),
];
const SKB_REMOTE_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_dport", 0)),
    alu_imm(W32, Lsh, Dst, 0x10),
];
const SKB_LOCAL_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_num", 0)),
];
const SKB_CB_OF_PARSER: &[Step] = &[load(ACCESS, Dst, Ctx, at("sk_buff", "cb", 0).each())];
const SKB_DATA_END_LINEAR: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "data", 0)),
    load(4, Ax, Ctx, at("sk_buff", "len", 0)),
    alu_reg(W64, Add, Dst, Ax),
    load(4, Ax, Ctx, at("sk_buff", "data_len", 0)),
    alu_reg(W64, Sub, Dst, Ax),
];
const SKB_DATA_END_ALIASED: &[Step] = &[
    store(8, Ctx, at("sk_buff", "cb", 40), Tmp),
    load(8, Tmp, Ctx, at("sk_buff", "data", 0)),
    load(4, Ax, Ctx, at("sk_buff", "len", 0)),
    alu_reg(W64, Add, Tmp, Ax),
    load(4, Ax, Ctx, at("sk_buff", "data_len", 0)),
    alu_reg(W64, Sub, Tmp, Ax),
    alu_reg(W64, Mov, Ax, Ctx),
    alu_reg(W64, Mov, Ctx, Tmp),
    load(8, Tmp, Ax, at("sk_buff", "cb", 40)),
];
const SKB_TSTAMP_PLAIN: &[Step] = &[load(8, Dst, Ctx, at("sk_buff", "tstamp", 0))];
const SKB_TSTAMP_PLAIN_STORE: &[Step] = &[store(8, Ctx, at("sk_buff", "tstamp", 0), Val)];

const LEN: CtxField = field("len", 0, 4, sized(1, 4))
    .loaded(SKB_LEN)
    .narrow(Narrow { unit: 4, target: 4 });
const PKT_TYPE: CtxField = field("pkt_type", 4, 4, sized(1, 4))
    .loaded(SKB_PKT_TYPE)
    .narrow(Narrow { unit: 4, target: 1 });
const QUEUE_MAPPING: CtxField = field("queue_mapping", 12, 4, sized(1, 4))
    .loaded(SKB_QUEUE_MAPPING)
    .narrow(Narrow { unit: 4, target: 2 });
const PROTOCOL: CtxField = field("protocol", 16, 4, sized(1, 4))
    .loaded(SKB_PROTOCOL)
    .narrow(Narrow { unit: 4, target: 2 });
const VLAN_PRESENT: CtxField = field("vlan_present", 20, 4, sized(1, 4))
    .loaded(SKB_VLAN_PRESENT)
    .narrow(Narrow { unit: 4, target: 4 });
const VLAN_TCI: CtxField = field("vlan_tci", 24, 4, sized(1, 4))
    .loaded(SKB_VLAN_TCI)
    .narrow(Narrow { unit: 4, target: 2 });
const VLAN_PROTO: CtxField = field("vlan_proto", 28, 4, sized(1, 4))
    .loaded(SKB_VLAN_PROTO)
    .narrow(Narrow { unit: 4, target: 2 });
const INGRESS_IFINDEX: CtxField = field("ingress_ifindex", 36, 4, sized(1, 4))
    .loaded(SKB_INGRESS_IFINDEX)
    .narrow(Narrow { unit: 4, target: 4 });
const IFINDEX: CtxField = field("ifindex", 40, 4, sized(1, 4))
    .loaded(SKB_IFINDEX)
    .narrow(Narrow { unit: 4, target: 4 });
const TC_INDEX: CtxField = field("tc_index", 44, 4, sized(1, 4))
    .loaded(SKB_TC_INDEX)
    .narrow(Narrow { unit: 4, target: 2 });
const CB: CtxField = field("cb", 48, 20, sized(1, 8))
    .stored(sized(1, 8), SKB_CB_STORE)
    .loaded(SKB_CB);
const HASH: CtxField = field("hash", 68, 4, sized(1, 4))
    .loaded(SKB_HASH)
    .narrow(Narrow { unit: 4, target: 4 });
const NAPI_ID: CtxField = field("napi_id", 84, 4, sized(1, 4))
    .loaded(SKB_NAPI_ID)
    .narrow(Narrow { unit: 4, target: 4 });
const GSO_SEGS: CtxField = field("gso_segs", 164, 4, sized(1, 4))
    .loaded(SKB_GSO_SEGS)
    .narrow(Narrow { unit: 4, target: 2 });
const SK: CtxField = field("sk", 168, 8, sized(8, 8))
    .yields(SockCommonOrNull)
    .loaded(SKB_SK);
const GSO_SIZE: CtxField = field("gso_size", 176, 4, sized(1, 4))
    .loaded(SKB_GSO_SIZE)
    .narrow(Narrow { unit: 4, target: 2 });
const MARK: CtxField = field("mark", 8, 4, sized(1, 4))
    .stored(sized(4, 4), SKB_MARK_STORE)
    .loaded(SKB_MARK)
    .narrow(Narrow { unit: 4, target: 4 });
const PRIORITY: CtxField = field("priority", 32, 4, sized(1, 4))
    .stored(sized(4, 4), SKB_PRIORITY_STORE)
    .loaded(SKB_PRIORITY)
    .narrow(Narrow { unit: 4, target: 4 });
const TC_INDEX_WRITABLE: CtxField = field("tc_index", 44, 4, sized(1, 4))
    .stored(sized(4, 4), SKB_TC_INDEX_STORE)
    .loaded(SKB_TC_INDEX)
    .narrow(Narrow { unit: 4, target: 2 });
const DATA: CtxField = field("data", 76, 4, sized(4, 4))
    .yields(Packet)
    .loaded(SKB_DATA);
const DATA_END: CtxField = field("data_end", 80, 4, sized(4, 4))
    .yields(PacketEnd)
    .loaded(SKB_DATA_END);
const HWTSTAMP: CtxField = field("hwtstamp", 184, 8, sized(8, 8)).loaded(SKB_HWTSTAMP);
const FAMILY: CtxField = field("family", 88, 4, sized(1, 4))
    .loaded(SKB_FAMILY)
    .narrow(Narrow { unit: 4, target: 2 });
const REMOTE_IP4: CtxField = field("remote_ip4", 92, 4, sized(4, 4)).loaded(SKB_REMOTE_IP4);
const LOCAL_IP4: CtxField = field("local_ip4", 96, 4, sized(4, 4)).loaded(SKB_LOCAL_IP4);
const REMOTE_IP6: CtxField = field("remote_ip6", 100, 16, sized(4, 4)).loaded(SKB_REMOTE_IP6);
const LOCAL_IP6: CtxField = field("local_ip6", 116, 16, sized(4, 4)).loaded(SKB_LOCAL_IP6);
const REMOTE_PORT: CtxField = field("remote_port", 132, 4, sized(1, 4))
    .loaded(SKB_REMOTE_PORT)
    .narrow(Narrow { unit: 4, target: 2 });
const LOCAL_PORT: CtxField = field("local_port", 136, 4, sized(1, 4))
    .loaded(SKB_LOCAL_PORT)
    .narrow(Narrow { unit: 4, target: 2 });

pub(super) const SOCKET_FILTER: &[CtxField] = &[
    LEN,
    PKT_TYPE,
    field("mark", 8, 4, sized(1, 4))
        .loaded(SKB_MARK)
        .narrow(Narrow { unit: 4, target: 4 }),
    QUEUE_MAPPING,
    PROTOCOL,
    VLAN_PRESENT,
    VLAN_TCI,
    VLAN_PROTO,
    field("priority", 32, 4, sized(1, 4))
        .loaded(SKB_PRIORITY)
        .narrow(Narrow { unit: 4, target: 4 }),
    INGRESS_IFINDEX,
    IFINDEX,
    TC_INDEX,
    CB,
    HASH,
    NAPI_ID,
    GSO_SEGS,
    SK,
    GSO_SIZE,
];

pub(super) const TC_CLS_ACT: &[CtxField] = &[
    LEN,
    PKT_TYPE,
    MARK,
    field("queue_mapping", 12, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_QUEUE_MAPPING_STORE)
        .loaded(SKB_QUEUE_MAPPING)
        .narrow(Narrow { unit: 4, target: 2 }),
    PROTOCOL,
    VLAN_PRESENT,
    VLAN_TCI,
    VLAN_PROTO,
    PRIORITY,
    INGRESS_IFINDEX,
    field("ifindex", 40, 4, sized(1, 4))
        .loaded(SKB_IFINDEX_OF_DEVICE)
        .narrow(Narrow { unit: 4, target: 4 }),
    TC_INDEX_WRITABLE,
    CB,
    HASH,
    field("tc_classid", 72, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_TC_CLASSID_STORE)
        .loaded(SKB_TC_CLASSID)
        .narrow(Narrow { unit: 4, target: 2 }),
    DATA,
    DATA_END,
    NAPI_ID,
    field("data_meta", 140, 4, sized(4, 4))
        .yields(PacketMeta)
        .loaded(SKB_DATA_META),
    field("tstamp", 152, 8, sized(8, 8))
        .stored(sized(8, 8), SKB_TSTAMP_STORE)
        .loaded(SKB_TSTAMP)
        .with_tstamp_type(SKB_TSTAMP_PLAIN, SKB_TSTAMP_PLAIN_STORE),
    field("wire_len", 160, 4, sized(1, 4))
        .loaded(SKB_WIRE_LEN)
        .narrow(Narrow { unit: 4, target: 4 }),
    GSO_SEGS,
    SK,
    GSO_SIZE,
    field("tstamp_type", 180, 1, sized(1, 1)).loaded(SKB_TSTAMP_TYPE),
    HWTSTAMP,
];

pub(super) const CGROUP_SKB: &[CtxField] = &[
    LEN,
    PKT_TYPE,
    MARK,
    QUEUE_MAPPING,
    PROTOCOL,
    VLAN_PRESENT,
    VLAN_TCI,
    VLAN_PROTO,
    PRIORITY,
    INGRESS_IFINDEX,
    IFINDEX,
    TC_INDEX,
    CB,
    HASH,
    field("data", 76, 4, sized(4, 4))
        .yields(Packet)
        .loaded(SKB_DATA)
        .bpf(),
    field("data_end", 80, 4, sized(4, 4))
        .yields(PacketEnd)
        .loaded(SKB_DATA_END)
        .bpf(),
    NAPI_ID,
    FAMILY,
    REMOTE_IP4,
    LOCAL_IP4,
    REMOTE_IP6,
    LOCAL_IP6,
    REMOTE_PORT,
    LOCAL_PORT,
    field("tstamp", 152, 8, sized(8, 8)).loaded(SKB_TSTAMP),
    field("tstamp", 152, 8, NO)
        .stored(sized(8, 8), SKB_TSTAMP_STORE)
        .bpf(),
    GSO_SEGS,
    SK,
    GSO_SIZE,
    HWTSTAMP,
];

pub(super) const LWT: &[CtxField] = &[
    LEN,
    PKT_TYPE,
    MARK,
    QUEUE_MAPPING,
    PROTOCOL,
    VLAN_PRESENT,
    VLAN_TCI,
    VLAN_PROTO,
    PRIORITY,
    INGRESS_IFINDEX,
    IFINDEX,
    TC_INDEX,
    CB,
    HASH,
    DATA,
    DATA_END,
    NAPI_ID,
    GSO_SEGS,
    SK,
    GSO_SIZE,
];

pub(super) const SK_SKB: &[CtxField] = &[
    LEN,
    PKT_TYPE,
    QUEUE_MAPPING,
    PROTOCOL,
    VLAN_PRESENT,
    VLAN_TCI,
    VLAN_PROTO,
    PRIORITY,
    INGRESS_IFINDEX,
    IFINDEX,
    TC_INDEX_WRITABLE,
    field("cb", 48, 20, sized(1, 8)).loaded(SKB_CB_OF_PARSER),
    HASH,
    DATA,
    field("data_end", 80, 4, sized(4, 4))
        .yields(PacketEnd)
        .loaded(SKB_DATA_END_LINEAR)
        .aliased(SKB_DATA_END_ALIASED),
    NAPI_ID,
    FAMILY,
    REMOTE_IP4,
    LOCAL_IP4,
    REMOTE_IP6,
    LOCAL_IP6,
    REMOTE_PORT,
    LOCAL_PORT,
    GSO_SEGS,
    SK,
    GSO_SIZE,
];
