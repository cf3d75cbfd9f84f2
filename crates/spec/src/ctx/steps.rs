//! How an access to a context field becomes accesses to kernel objects: one constant per sequence.
//!
//! Recorded from `xlated` of Linux 6.18 by loading an access to every field and naming each offset by the kernel's BTF;
//! `Ctx` is the register that holds the context, `Dst` the one loaded into, `Val` what is stored. Jumps count steps.

use super::Operation::*;
use super::Width::*;
use super::{ACCESS, Step, Who::*, alu_imm, alu_reg, at, jump, load, skip, store};

pub(super) const NONE: &[Step] = &[];

pub(super) const SKB_LEN: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "len", 0))];
pub(super) const SKB_PKT_TYPE: &[Step] = &[
    load(1, Dst, Ctx, at("sk_buff", "__pkt_type_offset", 0)),
    alu_imm(W32, And, Dst, 0x7),
];
pub(super) const SKB_MARK: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "mark", 0))];
pub(super) const SKB_QUEUE_MAPPING: &[Step] =
    &[load(2, Dst, Ctx, at("sk_buff", "queue_mapping", 0))];
pub(super) const SKB_PROTOCOL: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "protocol", 0))];
pub(super) const SKB_VLAN_PRESENT: &[Step] = &[
    load(4, Dst, Ctx, at("sk_buff", "vlan_all", 0)),
    jump(W64, Eq, Dst, 0, 1),
    alu_imm(W32, Mov, Dst, 0x1),
];
pub(super) const SKB_VLAN_TCI: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "vlan_tci", 0))];
pub(super) const SKB_VLAN_PROTO: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "vlan_proto", 0))];
pub(super) const SKB_PRIORITY: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "priority", 0))];
pub(super) const SKB_INGRESS_IFINDEX: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "skb_iif", 0))];
pub(super) const SKB_IFINDEX: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "dev", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(4, Dst, Dst, at("net_device", "ifindex", 0)),
];
pub(super) const SKB_TC_INDEX: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "tc_index", 0))];
pub(super) const SKB_CB: &[Step] = &[load(ACCESS, Dst, Ctx, at("sk_buff", "cb", 8).each())];
pub(super) const SKB_CB_STORE: &[Step] = &[store(ACCESS, Ctx, at("sk_buff", "cb", 8).each(), Val)];
pub(super) const SKB_HASH: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "hash", 0))];
pub(super) const SKB_NAPI_ID: &[Step] = &[
    load(4, Dst, Ctx, at("sk_buff", "napi_id", 0)),
    jump(W64, Ge, Dst, 257, 1),
    alu_imm(W64, Mov, Dst, 0x0),
];
pub(super) const SKB_GSO_SEGS: &[Step] = &[
    load(4, Ax, Ctx, at("sk_buff", "end", 0)),
    load(8, Dst, Ctx, at("sk_buff", "head", 0)),
    alu_reg(W64, Add, Dst, Ax),
    load(2, Dst, Dst, at("skb_shared_info", "gso_segs", 0)),
];
pub(super) const SKB_SK: &[Step] = &[load(8, Dst, Ctx, at("sk_buff", "sk", 0))];
pub(super) const SKB_GSO_SIZE: &[Step] = &[
    load(4, Ax, Ctx, at("sk_buff", "end", 0)),
    load(8, Dst, Ctx, at("sk_buff", "head", 0)),
    alu_reg(W64, Add, Dst, Ax),
    load(2, Dst, Dst, at("skb_shared_info", "gso_size", 0)),
];
pub(super) const SKB_MARK_STORE: &[Step] = &[store(4, Ctx, at("sk_buff", "mark", 0), Val)];
pub(super) const SKB_QUEUE_MAPPING_STORE: &[Step] = &[
    jump(W64, Ge, Val, 65535, 1),
    store(2, Ctx, at("sk_buff", "queue_mapping", 0), Val),
];
pub(super) const SKB_PRIORITY_STORE: &[Step] = &[store(4, Ctx, at("sk_buff", "priority", 0), Val)];
pub(super) const SKB_IFINDEX_2: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "dev", 0)),
    load(4, Dst, Dst, at("net_device", "ifindex", 0)),
];
pub(super) const SKB_TC_INDEX_STORE: &[Step] = &[store(2, Ctx, at("sk_buff", "tc_index", 0), Val)];
pub(super) const SKB_TC_CLASSID: &[Step] = &[load(2, Dst, Ctx, at("sk_buff", "cb", 6))];
pub(super) const SKB_TC_CLASSID_STORE: &[Step] = &[store(2, Ctx, at("sk_buff", "cb", 6), Val)];
pub(super) const SKB_DATA: &[Step] = &[load(8, Dst, Ctx, at("sk_buff", "data", 0))];
pub(super) const SKB_DATA_END: &[Step] = &[load(8, Dst, Ctx, at("sk_buff", "cb", 40))];
pub(super) const SKB_DATA_META: &[Step] = &[load(8, Dst, Ctx, at("sk_buff", "cb", 32))];
pub(super) const SKB_TSTAMP: &[Step] = &[
    load(1, Ax, Ctx, at("sk_buff", "__mono_tc_offset", 0)),
    jump(W32, Set, Ax, 4, 1),
    skip(4),
    jump(W32, Set, Ax, 3, 1),
    skip(2),
    alu_imm(W64, Mov, Dst, 0x0),
    skip(1),
    load(8, Dst, Ctx, at("sk_buff", "tstamp", 0)),
];
pub(super) const SKB_TSTAMP_STORE: &[Step] = &[
    load(1, Ax, Ctx, at("sk_buff", "__mono_tc_offset", 0)),
    jump(W32, Set, Ax, 4, 1),
    skip(2),
    alu_imm(W32, And, Ax, -4),
    store(1, Ctx, at("sk_buff", "__mono_tc_offset", 0), Ax),
    store(8, Ctx, at("sk_buff", "tstamp", 0), Val),
];
pub(super) const SKB_WIRE_LEN: &[Step] = &[load(4, Dst, Ctx, at("sk_buff", "cb", 0))];
pub(super) const SKB_TSTAMP_TYPE: &[Step] = &[
    load(1, Dst, Ctx, at("sk_buff", "__mono_tc_offset", 0)),
    alu_imm(W32, And, Dst, 0x3),
];
pub(super) const SKB_HWTSTAMP: &[Step] = &[
    load(4, Ax, Ctx, at("sk_buff", "end", 0)),
    load(8, Dst, Ctx, at("sk_buff", "head", 0)),
    alu_reg(W64, Add, Dst, Ax),
    load(8, Dst, Dst, at("skb_shared_info", "hwtstamps.hwtstamp", 0)),
];
pub(super) const SKB_FAMILY: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_family", 0)),
];
pub(super) const SKB_REMOTE_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_daddr", 0)),
];
pub(super) const SKB_LOCAL_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_rcv_saddr", 0)),
];
pub(super) const SKB_REMOTE_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_daddr.in6_u.u6_addr32", 0).each(),
    ),
];
pub(super) const SKB_LOCAL_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32", 0).each(),
    ),
];
pub(super) const SKB_REMOTE_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_dport", 0)),
    alu_imm(W32, Lsh, Dst, 0x10),
];
pub(super) const SKB_LOCAL_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_num", 0)),
];
pub(super) const SKB_CB_2: &[Step] = &[load(ACCESS, Dst, Ctx, at("sk_buff", "cb", 0).each())];
pub(super) const SKB_DATA_END_2: &[Step] = &[
    load(8, Dst, Ctx, at("sk_buff", "data", 0)),
    load(4, Ax, Ctx, at("sk_buff", "len", 0)),
    alu_reg(W64, Add, Dst, Ax),
    load(4, Ax, Ctx, at("sk_buff", "data_len", 0)),
    alu_reg(W64, Sub, Dst, Ax),
];
pub(super) const SKB_DATA_END_ALIASED: &[Step] = &[
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
pub(super) const FLOW_DATA: &[Step] = &[load(8, Dst, Ctx, at("bpf_flow_dissector", "data", 0))];
pub(super) const FLOW_DATA_END: &[Step] =
    &[load(8, Dst, Ctx, at("bpf_flow_dissector", "data_end", 0))];
pub(super) const FLOW_FLOW_KEYS: &[Step] =
    &[load(8, Dst, Ctx, at("bpf_flow_dissector", "flow_keys", 0))];
pub(super) const XDP_DATA: &[Step] = &[load(8, Dst, Ctx, at("xdp_buff", "data", 0))];
pub(super) const XDP_DATA_END: &[Step] = &[load(8, Dst, Ctx, at("xdp_buff", "data_end", 0))];
pub(super) const XDP_DATA_META: &[Step] = &[load(8, Dst, Ctx, at("xdp_buff", "data_meta", 0))];
pub(super) const XDP_INGRESS_IFINDEX: &[Step] = &[
    load(8, Dst, Ctx, at("xdp_buff", "rxq", 0)),
    load(8, Dst, Dst, at("xdp_rxq_info", "dev", 0)),
    load(4, Dst, Dst, at("net_device", "ifindex", 0)),
];
pub(super) const XDP_RX_QUEUE_INDEX: &[Step] = &[
    load(8, Dst, Ctx, at("xdp_buff", "rxq", 0)),
    load(4, Dst, Dst, at("xdp_rxq_info", "queue_index", 0)),
];
pub(super) const XDP_EGRESS_IFINDEX: &[Step] = &[
    load(8, Dst, Ctx, at("xdp_buff", "txq", 0)),
    load(8, Dst, Dst, at("xdp_txq_info", "dev", 0)),
    load(4, Dst, Dst, at("net_device", "ifindex", 0)),
];
pub(super) const SOCK_BOUND_DEV_IF: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("sock", "__sk_common.skc_bound_dev_if", 0),
)];
pub(super) const SOCK_BOUND_DEV_IF_STORE: &[Step] = &[store(
    4,
    Ctx,
    at("sock", "__sk_common.skc_bound_dev_if", 0),
    Val,
)];
pub(super) const SOCK_FAMILY: &[Step] =
    &[load(2, Dst, Ctx, at("sock", "__sk_common.skc_family", 0))];
pub(super) const SOCK_TYPE: &[Step] = &[load(2, Dst, Ctx, at("sock", "sk_type", 0))];
pub(super) const SOCK_PROTOCOL: &[Step] = &[load(2, Dst, Ctx, at("sock", "sk_protocol", 0))];
pub(super) const SOCK_MARK: &[Step] = &[load(4, Dst, Ctx, at("sock", "sk_mark", 0))];
pub(super) const SOCK_MARK_STORE: &[Step] = &[store(4, Ctx, at("sock", "sk_mark", 0), Val)];
pub(super) const SOCK_PRIORITY: &[Step] = &[load(4, Dst, Ctx, at("sock", "sk_priority", 0))];
pub(super) const SOCK_PRIORITY_STORE: &[Step] = &[store(4, Ctx, at("sock", "sk_priority", 0), Val)];
pub(super) const SOCK_SRC_IP4: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("sock", "__sk_common.skc_rcv_saddr", 0),
)];
pub(super) const SOCK_SRC_IP6: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("sock", "__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32", 0).each(),
)];
pub(super) const SOCK_SRC_PORT: &[Step] =
    &[load(2, Dst, Ctx, at("sock", "__sk_common.skc_num", 0))];
pub(super) const SOCK_DST_PORT: &[Step] =
    &[load(2, Dst, Ctx, at("sock", "__sk_common.skc_dport", 0))];
pub(super) const SOCK_DST_IP4: &[Step] =
    &[load(4, Dst, Ctx, at("sock", "__sk_common.skc_daddr", 0))];
pub(super) const SOCK_DST_IP6: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("sock", "__sk_common.skc_v6_daddr.in6_u.u6_addr32", 0).each(),
)];
pub(super) const SOCK_STATE: &[Step] = &[load(1, Dst, Ctx, at("sock", "__sk_common.skc_state", 0))];
pub(super) const SOCK_RX_QUEUE_MAPPING: &[Step] = &[
    load(
        2,
        Dst,
        Ctx,
        at("sock", "__sk_common.skc_rx_queue_mapping", 0),
    ),
    jump(W64, Ne, Dst, 65535, 1),
    alu_imm(W64, Mov, Dst, -1),
];
pub(super) const SOCK_ADDR_USER_FAMILY: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    load(2, Dst, Dst, at("sockaddr_in6", "sin6_family", 0)),
];
pub(super) const SOCK_ADDR_USER_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    load(4, Dst, Dst, at("sockaddr_in", "sin_addr.s_addr", 0)),
];
pub(super) const SOCK_ADDR_USER_IP4_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    store(4, Tmp, at("sockaddr_in", "sin_addr.s_addr", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0)),
];
pub(super) const SOCK_ADDR_USER_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    load(
        ACCESS,
        Dst,
        Dst,
        at("sockaddr_in6", "sin6_addr.in6_u.u6_addr32", 0).each(),
    ),
];
pub(super) const SOCK_ADDR_USER_IP6_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    store(
        ACCESS,
        Tmp,
        at("sockaddr_in6", "sin6_addr.in6_u.u6_addr32", 0).each(),
        Val,
    ),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0)),
];
pub(super) const SOCK_ADDR_USER_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    load(2, Dst, Dst, at("sockaddr_in6", "sin6_port", 0)),
];
pub(super) const SOCK_ADDR_USER_PORT_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "uaddr", 0)),
    store(2, Tmp, at("sockaddr_in6", "sin6_port", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0)),
];
pub(super) const SOCK_ADDR_FAMILY: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_family", 0)),
];
pub(super) const SOCK_ADDR_TYPE: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "sk_type", 0)),
];
pub(super) const SOCK_ADDR_PROTOCOL: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "sk_protocol", 0)),
];
pub(super) const SOCK_ADDR_MSG_SRC_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "t_ctx", 0)),
    load(4, Dst, Dst, at("in_addr", "s_addr", 0)),
];
pub(super) const SOCK_ADDR_MSG_SRC_IP4_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "t_ctx", 0)),
    store(4, Tmp, at("in_addr", "s_addr", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0)),
];
pub(super) const SOCK_ADDR_MSG_SRC_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_addr_kern", "t_ctx", 0)),
    load(
        ACCESS,
        Dst,
        Dst,
        at("in6_addr", "in6_u.u6_addr32", 0).each(),
    ),
];
pub(super) const SOCK_ADDR_MSG_SRC_IP6_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "t_ctx", 0)),
    store(
        ACCESS,
        Tmp,
        at("in6_addr", "in6_u.u6_addr32", 0).each(),
        Val,
    ),
    load(8, Tmp, Ctx, at("bpf_sock_addr_kern", "tmp_reg", 0)),
];
pub(super) const SOCK_ADDR_SK: &[Step] = &[load(8, Dst, Ctx, at("bpf_sock_addr_kern", "sk", 0))];
pub(super) const SOCK_OPS_OP: &[Step] = &[load(1, Dst, Ctx, at("bpf_sock_ops_kern", "op", 0))];
pub(super) const SOCK_OPS_ARGS: &[Step] =
    &[load(4, Dst, Ctx, at("bpf_sock_ops_kern", "args", 0).each())];
pub(super) const SOCK_OPS_ARGS_STORE: &[Step] = &[store(
    4,
    Ctx,
    at("bpf_sock_ops_kern", "args", 0).each(),
    Val,
)];
pub(super) const SOCK_OPS_FAMILY: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_family", 0)),
];
pub(super) const SOCK_OPS_REMOTE_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_daddr", 0)),
];
pub(super) const SOCK_OPS_LOCAL_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_rcv_saddr", 0)),
];
pub(super) const SOCK_OPS_REMOTE_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_daddr.in6_u.u6_addr32", 0).each(),
    ),
];
pub(super) const SOCK_OPS_LOCAL_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32", 0).each(),
    ),
];
pub(super) const SOCK_OPS_REMOTE_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_dport", 0)),
    alu_imm(W32, Lsh, Dst, 0x10),
];
pub(super) const SOCK_OPS_LOCAL_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_num", 0)),
];
pub(super) const SOCK_OPS_IS_FULLSOCK: &[Step] =
    &[load(1, Dst, Ctx, at("bpf_sock_ops_kern", "is_fullsock", 0))];
pub(super) const SOCK_OPS_SND_CWND: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "snd_cwnd", 0)),
];
pub(super) const SOCK_OPS_SND_CWND_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "snd_cwnd", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_SRTT_US: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "srtt_us", 0)),
];
pub(super) const SOCK_OPS_SRTT_US_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "srtt_us", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_BPF_SOCK_OPS_CB_FLAGS: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(1, Dst, Dst, at("tcp_sock", "bpf_sock_ops_cb_flags", 0)),
];
pub(super) const SOCK_OPS_BPF_SOCK_OPS_CB_FLAGS_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(1, Ctx, Ctx, at("tcp_sock", "bpf_sock_ops_cb_flags", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_STATE: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(1, Dst, Dst, at("sock", "__sk_common.skc_state", 0)),
];
pub(super) const SOCK_OPS_RTT_MIN: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "rtt_min.s", 4)),
];
pub(super) const SOCK_OPS_SND_SSTHRESH: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "snd_ssthresh", 0)),
];
pub(super) const SOCK_OPS_SND_SSTHRESH_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "snd_ssthresh", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_RCV_NXT: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "rcv_nxt", 0)),
];
pub(super) const SOCK_OPS_RCV_NXT_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "rcv_nxt", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_SND_NXT: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "snd_nxt", 0)),
];
pub(super) const SOCK_OPS_SND_NXT_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "snd_nxt", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_SND_UNA: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "snd_una", 0)),
];
pub(super) const SOCK_OPS_SND_UNA_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "snd_una", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_MSS_CACHE: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "mss_cache", 0)),
];
pub(super) const SOCK_OPS_MSS_CACHE_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "mss_cache", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_ECN_FLAGS: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(1, Dst, Dst, at("tcp_sock", "ecn_flags", 0)),
];
pub(super) const SOCK_OPS_ECN_FLAGS_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(1, Ctx, Ctx, at("tcp_sock", "ecn_flags", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_RATE_DELIVERED: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "rate_delivered", 0)),
];
pub(super) const SOCK_OPS_RATE_DELIVERED_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "rate_delivered", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_RATE_INTERVAL_US: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "rate_interval_us", 0)),
];
pub(super) const SOCK_OPS_RATE_INTERVAL_US_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "rate_interval_us", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_PACKETS_OUT: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "packets_out", 0)),
];
pub(super) const SOCK_OPS_PACKETS_OUT_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "packets_out", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_RETRANS_OUT: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "retrans_out", 0)),
];
pub(super) const SOCK_OPS_RETRANS_OUT_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "retrans_out", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_TOTAL_RETRANS: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "total_retrans", 0)),
];
pub(super) const SOCK_OPS_TOTAL_RETRANS_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "total_retrans", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_SEGS_IN: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "segs_in", 0)),
];
pub(super) const SOCK_OPS_SEGS_IN_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "segs_in", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_DATA_SEGS_IN: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "data_segs_in", 0)),
];
pub(super) const SOCK_OPS_DATA_SEGS_IN_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "data_segs_in", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_SEGS_OUT: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "segs_out", 0)),
];
pub(super) const SOCK_OPS_SEGS_OUT_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "segs_out", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_DATA_SEGS_OUT: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "data_segs_out", 0)),
];
pub(super) const SOCK_OPS_DATA_SEGS_OUT_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "data_segs_out", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_LOST_OUT: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "lost_out", 0)),
];
pub(super) const SOCK_OPS_LOST_OUT_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "lost_out", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_SACKED_OUT: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "sacked_out", 0)),
];
pub(super) const SOCK_OPS_SACKED_OUT_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("tcp_sock", "sacked_out", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_SK_TXHASH: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("sock", "sk_txhash", 0)),
];
pub(super) const SOCK_OPS_SK_TXHASH_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Ctx, Ctx, at("sock", "sk_txhash", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_SK_TXHASH_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    store(4, Tmp, at("sock", "sk_txhash", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
];
pub(super) const SOCK_OPS_BYTES_RECEIVED: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(8, Dst, Dst, at("tcp_sock", "bytes_received", 0)),
];
pub(super) const SOCK_OPS_BYTES_RECEIVED_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(8, Ctx, Ctx, at("tcp_sock", "bytes_received", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_BYTES_ACKED: &[Step] = &[
    load(
        1,
        Dst,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Dst, 0, 2),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(8, Dst, Dst, at("tcp_sock", "bytes_acked", 0)),
];
pub(super) const SOCK_OPS_BYTES_ACKED_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(
        1,
        Tmp,
        Ctx,
        at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
    ),
    jump(W64, Eq, Tmp, 0, 4),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(8, Ctx, Ctx, at("tcp_sock", "bytes_acked", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_SK: &[Step] = &[
    load(1, Dst, Ctx, at("bpf_sock_ops_kern", "is_fullsock", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
];
pub(super) const SOCK_OPS_SK_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(1, Tmp, Ctx, at("bpf_sock_ops_kern", "is_fullsock", 0)),
    jump(W64, Eq, Tmp, 0, 3),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
pub(super) const SOCK_OPS_SKB_DATA: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "skb", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(8, Dst, Dst, at("sk_buff", "data", 0)),
];
pub(super) const SOCK_OPS_SKB_DATA_END: &[Step] = &[load(
    8,
    Dst,
    Ctx,
    at("bpf_sock_ops_kern", "skb_data_end", 0),
)];
pub(super) const SOCK_OPS_SKB_LEN: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "skb", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(4, Dst, Dst, at("sk_buff", "len", 0)),
];
pub(super) const SOCK_OPS_SKB_TCP_FLAGS: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "skb", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(2, Dst, Dst, at("sk_buff", "cb", 12)),
];
pub(super) const SOCK_OPS_SKB_HWTSTAMP: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "skb", 0)),
    jump(W64, Eq, Dst, 0, 4),
    load(4, Ax, Dst, at("sk_buff", "end", 0)),
    load(8, Dst, Dst, at("sk_buff", "head", 0)),
    alu_reg(W64, Add, Dst, Ax),
    load(8, Dst, Dst, at("skb_shared_info", "hwtstamps.hwtstamp", 0)),
];
pub(super) const SK_MSG_DATA: &[Step] = &[load(8, Dst, Ctx, at("sk_msg", "data", 0))];
pub(super) const SK_MSG_DATA_END: &[Step] = &[load(8, Dst, Ctx, at("sk_msg", "data_end", 0))];
pub(super) const SK_MSG_FAMILY: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_family", 0)),
];
pub(super) const SK_MSG_REMOTE_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_daddr", 0)),
];
pub(super) const SK_MSG_LOCAL_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_rcv_saddr", 0)),
];
pub(super) const SK_MSG_REMOTE_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_daddr.in6_u.u6_addr32", 0).each(),
    ),
];
pub(super) const SK_MSG_LOCAL_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32", 0).each(),
    ),
];
pub(super) const SK_MSG_REMOTE_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_dport", 0)),
    alu_imm(W32, Lsh, Dst, 0x10),
];
pub(super) const SK_MSG_LOCAL_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("sk_msg", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_num", 0)),
];
pub(super) const SK_MSG_SIZE: &[Step] = &[load(4, Dst, Ctx, at("sk_msg", "sg.size", 0))];
pub(super) const SK_MSG_SK: &[Step] = &[load(8, Dst, Ctx, at("sk_msg", "sk", 0))];
pub(super) const REUSEPORT_DATA: &[Step] = &[
    load(8, Dst, Ctx, at("sk_reuseport_kern", "skb", 0)),
    load(8, Dst, Dst, at("sk_buff", "data", 0)),
];
pub(super) const REUSEPORT_DATA_END: &[Step] =
    &[load(8, Dst, Ctx, at("sk_reuseport_kern", "data_end", 0))];
pub(super) const REUSEPORT_LEN: &[Step] = &[
    load(8, Dst, Ctx, at("sk_reuseport_kern", "skb", 0)),
    load(4, Dst, Dst, at("sk_buff", "len", 0)),
];
pub(super) const REUSEPORT_ETH_PROTOCOL: &[Step] = &[
    load(8, Dst, Ctx, at("sk_reuseport_kern", "skb", 0)),
    load(2, Dst, Dst, at("sk_buff", "protocol", 0)),
];
pub(super) const REUSEPORT_IP_PROTOCOL: &[Step] = &[
    load(8, Dst, Ctx, at("sk_reuseport_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "sk_protocol", 0)),
];
pub(super) const REUSEPORT_BIND_INANY: &[Step] =
    &[load(1, Dst, Ctx, at("sk_reuseport_kern", "bind_inany", 0))];
pub(super) const REUSEPORT_HASH: &[Step] = &[load(4, Dst, Ctx, at("sk_reuseport_kern", "hash", 0))];
pub(super) const REUSEPORT_SK: &[Step] = &[load(8, Dst, Ctx, at("sk_reuseport_kern", "sk", 0))];
pub(super) const REUSEPORT_MIGRATING_SK: &[Step] = &[load(
    8,
    Dst,
    Ctx,
    at("sk_reuseport_kern", "migrating_sk", 0),
)];
pub(super) const SK_LOOKUP_SK: &[Step] = &[load(
    8,
    Dst,
    Ctx,
    at("bpf_sk_lookup_kern", "selected_sk", 0),
)];
pub(super) const SK_LOOKUP_FAMILY: &[Step] =
    &[load(2, Dst, Ctx, at("bpf_sk_lookup_kern", "family", 0))];
pub(super) const SK_LOOKUP_PROTOCOL: &[Step] =
    &[load(2, Dst, Ctx, at("bpf_sk_lookup_kern", "protocol", 0))];
pub(super) const SK_LOOKUP_REMOTE_IP4: &[Step] =
    &[load(4, Dst, Ctx, at("bpf_sk_lookup_kern", "v4.saddr", 0))];
pub(super) const SK_LOOKUP_REMOTE_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sk_lookup_kern", "v6.saddr", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(4, Dst, Dst, at("in6_addr", "in6_u.u6_addr32", 0).each()),
];
pub(super) const SK_LOOKUP_REMOTE_PORT: &[Step] =
    &[load(2, Dst, Ctx, at("bpf_sk_lookup_kern", "sport", 0))];
pub(super) const SK_LOOKUP_REMOTE_PORT_PADDING: &[Step] = &[alu_imm(W32, Mov, Dst, 0)];
pub(super) const SK_LOOKUP_LOCAL_IP4: &[Step] =
    &[load(4, Dst, Ctx, at("bpf_sk_lookup_kern", "v4.daddr", 0))];
pub(super) const SK_LOOKUP_LOCAL_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sk_lookup_kern", "v6.daddr", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(4, Dst, Dst, at("in6_addr", "in6_u.u6_addr32", 0).each()),
];
pub(super) const SK_LOOKUP_LOCAL_PORT: &[Step] =
    &[load(2, Dst, Ctx, at("bpf_sk_lookup_kern", "dport", 0))];
pub(super) const SK_LOOKUP_INGRESS_IFINDEX: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("bpf_sk_lookup_kern", "ingress_ifindex", 0),
)];
pub(super) const DEVICE_ACCESS_TYPE: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("bpf_cgroup_dev_ctx", "access_type", 0),
)];
pub(super) const DEVICE_MAJOR: &[Step] = &[load(4, Dst, Ctx, at("bpf_cgroup_dev_ctx", "major", 0))];
pub(super) const DEVICE_MINOR: &[Step] = &[load(4, Dst, Ctx, at("bpf_cgroup_dev_ctx", "minor", 0))];
pub(super) const SYSCTL_WRITE: &[Step] = &[load(4, Dst, Ctx, at("bpf_sysctl_kern", "write", 0))];
pub(super) const SYSCTL_FILE_POS: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sysctl_kern", "ppos", 0)),
    load(4, Dst, Dst, at("", "", 0)),
];
pub(super) const SYSCTL_FILE_POS_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sysctl_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sysctl_kern", "ppos", 0)),
    store(4, Tmp, at("", "", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sysctl_kern", "tmp_reg", 0)),
];
pub(super) const SOCKOPT_SK: &[Step] = &[load(8, Dst, Ctx, at("bpf_sockopt_kern", "sk", 0))];
pub(super) const SOCKOPT_OPTVAL: &[Step] =
    &[load(8, Dst, Ctx, at("bpf_sockopt_kern", "optval", 0))];
pub(super) const SOCKOPT_OPTVAL_END: &[Step] =
    &[load(8, Dst, Ctx, at("bpf_sockopt_kern", "optval_end", 0))];
pub(super) const SOCKOPT_LEVEL: &[Step] = &[load(4, Dst, Ctx, at("bpf_sockopt_kern", "level", 0))];
pub(super) const SOCKOPT_LEVEL_STORE: &[Step] =
    &[store(4, Ctx, at("bpf_sockopt_kern", "level", 0), Val)];
pub(super) const SOCKOPT_OPTNAME: &[Step] =
    &[load(4, Dst, Ctx, at("bpf_sockopt_kern", "optname", 0))];
pub(super) const SOCKOPT_OPTNAME_STORE: &[Step] =
    &[store(4, Ctx, at("bpf_sockopt_kern", "optname", 0), Val)];
pub(super) const SOCKOPT_OPTLEN: &[Step] =
    &[load(4, Dst, Ctx, at("bpf_sockopt_kern", "optlen", 0))];
pub(super) const SOCKOPT_OPTLEN_STORE: &[Step] =
    &[store(4, Ctx, at("bpf_sockopt_kern", "optlen", 0), Val)];
pub(super) const SOCKOPT_RETVAL: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sockopt_kern", "current_task", 0)),
    load(8, Dst, Dst, at("task_struct", "bpf_ctx", 0)),
    load(4, Dst, Dst, at("bpf_cg_run_ctx", "retval", 0)),
];
pub(super) const SOCKOPT_RETVAL_STORE: &[Step] = &[
    store(8, Ctx, at("bpf_sockopt_kern", "tmp_reg", 0), Tmp),
    load(8, Tmp, Ctx, at("bpf_sockopt_kern", "current_task", 0)),
    load(8, Tmp, Tmp, at("task_struct", "bpf_ctx", 0)),
    store(4, Tmp, at("bpf_cg_run_ctx", "retval", 0), Val),
    load(8, Tmp, Ctx, at("bpf_sockopt_kern", "tmp_reg", 0)),
];
pub(super) const PERF_REGS: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_perf_event_data_kern", "regs", 0)),
    load(8, Dst, Dst, at("pt_regs", "r15", 0).each()),
];
pub(super) const PERF_SAMPLE_PERIOD: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_perf_event_data_kern", "data", 0)),
    load(8, Dst, Dst, at("perf_sample_data", "period", 0)),
];
pub(super) const PERF_ADDR: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_perf_event_data_kern", "data", 0)),
    load(8, Dst, Dst, at("perf_sample_data", "addr", 0)),
];
pub(super) const NF_STATE: &[Step] = &[load(8, Dst, Ctx, at("bpf_nf_ctx", "state", 0))];
pub(super) const NF_SKB: &[Step] = &[load(8, Dst, Ctx, at("bpf_nf_ctx", "skb", 0))];
pub(super) const TCP_SND_CWND: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "snd_cwnd", 0))];
pub(super) const TCP_SRTT_US: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "srtt_us", 0))];
pub(super) const TCP_RTT_MIN: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "rtt_min.s", 4))];
pub(super) const TCP_SND_SSTHRESH: &[Step] =
    &[load(4, Dst, Ctx, at("tcp_sock", "snd_ssthresh", 0))];
pub(super) const TCP_RCV_NXT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "rcv_nxt", 0))];
pub(super) const TCP_SND_NXT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "snd_nxt", 0))];
pub(super) const TCP_SND_UNA: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "snd_una", 0))];
pub(super) const TCP_MSS_CACHE: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "mss_cache", 0))];
pub(super) const TCP_ECN_FLAGS: &[Step] = &[load(1, Dst, Ctx, at("tcp_sock", "ecn_flags", 0))];
pub(super) const TCP_RATE_DELIVERED: &[Step] =
    &[load(4, Dst, Ctx, at("tcp_sock", "rate_delivered", 0))];
pub(super) const TCP_RATE_INTERVAL_US: &[Step] =
    &[load(4, Dst, Ctx, at("tcp_sock", "rate_interval_us", 0))];
pub(super) const TCP_PACKETS_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "packets_out", 0))];
pub(super) const TCP_RETRANS_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "retrans_out", 0))];
pub(super) const TCP_TOTAL_RETRANS: &[Step] =
    &[load(4, Dst, Ctx, at("tcp_sock", "total_retrans", 0))];
pub(super) const TCP_SEGS_IN: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "segs_in", 0))];
pub(super) const TCP_DATA_SEGS_IN: &[Step] =
    &[load(4, Dst, Ctx, at("tcp_sock", "data_segs_in", 0))];
pub(super) const TCP_SEGS_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "segs_out", 0))];
pub(super) const TCP_DATA_SEGS_OUT: &[Step] =
    &[load(4, Dst, Ctx, at("tcp_sock", "data_segs_out", 0))];
pub(super) const TCP_LOST_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "lost_out", 0))];
pub(super) const TCP_SACKED_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "sacked_out", 0))];
pub(super) const TCP_BYTES_RECEIVED: &[Step] =
    &[load(8, Dst, Ctx, at("tcp_sock", "bytes_received", 0))];
pub(super) const TCP_BYTES_ACKED: &[Step] = &[load(8, Dst, Ctx, at("tcp_sock", "bytes_acked", 0))];
pub(super) const TCP_DSACK_DUPS: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "dsack_dups", 0))];
pub(super) const TCP_DELIVERED: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "delivered", 0))];
pub(super) const TCP_DELIVERED_CE: &[Step] =
    &[load(4, Dst, Ctx, at("tcp_sock", "delivered_ce", 0))];
pub(super) const TCP_ICSK_RETRANSMITS: &[Step] = &[load(
    1,
    Dst,
    Ctx,
    at("tcp_sock", "inet_conn.icsk_retransmits", 0),
)];
pub(super) const XSK_QUEUE_ID: &[Step] = &[load(2, Dst, Ctx, at("xdp_sock", "queue_id", 0))];
pub(super) const SKB_TSTAMP_PLAIN: &[Step] = &[load(8, Dst, Ctx, at("sk_buff", "tstamp", 0))];
pub(super) const SKB_TSTAMP_PLAIN_STORE: &[Step] =
    &[store(8, Ctx, at("sk_buff", "tstamp", 0), Val)];
