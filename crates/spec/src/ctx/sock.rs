//! Sockets: the context of cgroup programs and what pointers to sockets show.

use ring3_uapi::AttachType as A;

use super::rows::{alu_imm, at, at_start, field, jump, load, sized, store};
use super::{
    CtxField, Narrow,
    Operation::{Mov, Ne},
    Step,
    Who::{Ctx, Dst, Val},
    Width::W64,
};

const SOCK_BOUND_DEV_IF: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("sock", "__sk_common.skc_bound_dev_if", 0),
)];
const SOCK_BOUND_DEV_IF_STORE: &[Step] = &[store(
    4,
    Ctx,
    at("sock", "__sk_common.skc_bound_dev_if", 0),
    Val,
)];
const SOCK_FAMILY: &[Step] = &[load(2, Dst, Ctx, at("sock", "__sk_common.skc_family", 0))];
const SOCK_TYPE: &[Step] = &[load(2, Dst, Ctx, at("sock", "sk_type", 0))];
const SOCK_PROTOCOL: &[Step] = &[load(2, Dst, Ctx, at("sock", "sk_protocol", 0))];
const SOCK_MARK: &[Step] = &[load(4, Dst, Ctx, at("sock", "sk_mark", 0))];
const SOCK_MARK_STORE: &[Step] = &[store(4, Ctx, at("sock", "sk_mark", 0), Val)];
const SOCK_PRIORITY: &[Step] = &[load(4, Dst, Ctx, at("sock", "sk_priority", 0))];
const SOCK_PRIORITY_STORE: &[Step] = &[store(4, Ctx, at("sock", "sk_priority", 0), Val)];
const SOCK_SRC_IP4: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("sock", "__sk_common.skc_rcv_saddr", 0),
)];
const SOCK_SRC_IP6: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("sock", "__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32", 0).each(),
)];
const SOCK_SRC_PORT: &[Step] = &[load(2, Dst, Ctx, at("sock", "__sk_common.skc_num", 0))];
const SOCK_DST_PORT: &[Step] = &[load(2, Dst, Ctx, at("sock", "__sk_common.skc_dport", 0))];
const SOCK_DST_IP4: &[Step] = &[load(4, Dst, Ctx, at("sock", "__sk_common.skc_daddr", 0))];
const SOCK_DST_IP6: &[Step] = &[load(
    4,
    Dst,
    Ctx,
    at("sock", "__sk_common.skc_v6_daddr.in6_u.u6_addr32", 0).each(),
)];
const SOCK_STATE: &[Step] = &[load(1, Dst, Ctx, at("sock", "__sk_common.skc_state", 0))];
const SOCK_RX_QUEUE_MAPPING: &[Step] = &[
    load(
        2,
        Dst,
        Ctx,
        at("sock", "__sk_common.skc_rx_queue_mapping", 0),
    ),
    jump(W64, Ne, Dst, 65535, 1),
    alu_imm(W64, Mov, Dst, -1),
];
const TCP_SND_CWND: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "snd_cwnd", 0))];
const TCP_SRTT_US: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "srtt_us", 0))];
const TCP_RTT_MIN: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "rtt_min.s", 4))];
const TCP_SND_SSTHRESH: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "snd_ssthresh", 0))];
const TCP_RCV_NXT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "rcv_nxt", 0))];
const TCP_SND_NXT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "snd_nxt", 0))];
const TCP_SND_UNA: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "snd_una", 0))];
const TCP_MSS_CACHE: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "mss_cache", 0))];
const TCP_ECN_FLAGS: &[Step] = &[load(1, Dst, Ctx, at("tcp_sock", "ecn_flags", 0))];
const TCP_RATE_DELIVERED: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "rate_delivered", 0))];
const TCP_RATE_INTERVAL_US: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "rate_interval_us", 0))];
const TCP_PACKETS_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "packets_out", 0))];
const TCP_RETRANS_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "retrans_out", 0))];
const TCP_TOTAL_RETRANS: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "total_retrans", 0))];
const TCP_SEGS_IN: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "segs_in", 0))];
const TCP_DATA_SEGS_IN: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "data_segs_in", 0))];
const TCP_SEGS_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "segs_out", 0))];
const TCP_DATA_SEGS_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "data_segs_out", 0))];
const TCP_LOST_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "lost_out", 0))];
const TCP_SACKED_OUT: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "sacked_out", 0))];
const TCP_BYTES_RECEIVED: &[Step] = &[load(8, Dst, Ctx, at("tcp_sock", "bytes_received", 0))];
const TCP_BYTES_ACKED: &[Step] = &[load(8, Dst, Ctx, at("tcp_sock", "bytes_acked", 0))];
const TCP_DSACK_DUPS: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "dsack_dups", 0))];
const TCP_DELIVERED: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "delivered", 0))];
const TCP_DELIVERED_CE: &[Step] = &[load(4, Dst, Ctx, at("tcp_sock", "delivered_ce", 0))];
const TCP_ICSK_RETRANSMITS: &[Step] = &[load(
    1,
    Dst,
    Ctx,
    at("tcp_sock", "inet_conn.icsk_retransmits", 0),
)];
const XSK_QUEUE_ID: &[Step] = &[load(2, Dst, Ctx, at("xdp_sock", "queue_id", 0))];

const FAMILY: CtxField = field("family", 4, 4, at_start(1, 4))
    .loaded(SOCK_FAMILY)
    .narrow(Narrow { unit: 4, target: 2 });
const TYPE: CtxField = field("type", 8, 4, at_start(1, 4))
    .loaded(SOCK_TYPE)
    .narrow(Narrow { unit: 4, target: 2 });
const PROTOCOL: CtxField = field("protocol", 12, 4, at_start(1, 4))
    .loaded(SOCK_PROTOCOL)
    .narrow(Narrow { unit: 4, target: 2 });
const DST_PORT: CtxField = field("dst_port", 48, 2, sized(1, 2))
    .loaded(SOCK_DST_PORT)
    .narrow(Narrow { unit: 2, target: 2 });
const DST_PORT_CGROUP_SOCK: CtxField = field("dst_port", 48, 4, sized(4, 4)).loaded(SOCK_DST_PORT);
const DST_IP4: CtxField = field("dst_ip4", 52, 4, sized(1, 4))
    .loaded(SOCK_DST_IP4)
    .narrow(Narrow { unit: 4, target: 4 });
const DST_IP6: CtxField = field("dst_ip6", 56, 16, sized(1, 4))
    .loaded(SOCK_DST_IP6)
    .narrow(Narrow { unit: 4, target: 4 });
const STATE: CtxField = field("state", 72, 4, at_start(1, 4))
    .loaded(SOCK_STATE)
    .narrow(Narrow { unit: 4, target: 1 });
const RX_QUEUE_MAPPING: CtxField = field("rx_queue_mapping", 76, 4, at_start(1, 4))
    .loaded(SOCK_RX_QUEUE_MAPPING)
    .narrow(Narrow { unit: 4, target: 2 });
const BOUND_DEV_IF: CtxField = field("bound_dev_if", 0, 4, sized(4, 4)).loaded(SOCK_BOUND_DEV_IF);
const SRC_IP4: CtxField = field("src_ip4", 24, 4, sized(1, 4))
    .loaded(SOCK_SRC_IP4)
    .narrow(Narrow { unit: 4, target: 4 });
const SRC_IP6: CtxField = field("src_ip6", 28, 16, sized(1, 4))
    .loaded(SOCK_SRC_IP6)
    .narrow(Narrow { unit: 4, target: 4 });
const SRC_PORT: CtxField = field("src_port", 44, 4, at_start(1, 4))
    .loaded(SOCK_SRC_PORT)
    .narrow(Narrow { unit: 4, target: 2 });

pub(super) const CGROUP_SOCK: &[CtxField] = &[
    field("bound_dev_if", 0, 4, sized(4, 4))
        .stored(sized(4, 4), SOCK_BOUND_DEV_IF_STORE)
        .loaded(SOCK_BOUND_DEV_IF)
        .only(&[A::CgroupInetSockCreate, A::CgroupInetSockRelease]),
    FAMILY,
    TYPE,
    PROTOCOL,
    field("mark", 16, 4, sized(4, 4))
        .stored(sized(4, 4), SOCK_MARK_STORE)
        .loaded(SOCK_MARK)
        .only(&[A::CgroupInetSockCreate, A::CgroupInetSockRelease]),
    field("priority", 20, 4, sized(4, 4))
        .stored(sized(4, 4), SOCK_PRIORITY_STORE)
        .loaded(SOCK_PRIORITY)
        .only(&[A::CgroupInetSockCreate, A::CgroupInetSockRelease]),
    field("src_ip4", 24, 4, sized(1, 4))
        .loaded(SOCK_SRC_IP4)
        .narrow(Narrow { unit: 4, target: 4 })
        .only(&[A::CgroupInet4PostBind]),
    field("src_ip6", 28, 16, sized(1, 4))
        .loaded(SOCK_SRC_IP6)
        .narrow(Narrow { unit: 4, target: 4 })
        .only(&[A::CgroupInet6PostBind]),
    field("src_port", 44, 4, at_start(1, 4))
        .loaded(SOCK_SRC_PORT)
        .narrow(Narrow { unit: 4, target: 2 })
        .only(&[A::CgroupInet4PostBind, A::CgroupInet6PostBind]),
    DST_PORT,
    DST_PORT_CGROUP_SOCK,
    DST_IP4,
    DST_IP6,
    STATE,
    RX_QUEUE_MAPPING,
];

pub(super) const SOCK_COMMON: &[CtxField] = &[
    BOUND_DEV_IF,
    FAMILY,
    SRC_IP4,
    SRC_IP6,
    SRC_PORT,
    DST_PORT,
    DST_PORT_CGROUP_SOCK,
    DST_IP4,
    DST_IP6,
    STATE,
    RX_QUEUE_MAPPING,
];

pub(super) const SOCKET: &[CtxField] = &[
    BOUND_DEV_IF,
    FAMILY,
    TYPE,
    PROTOCOL,
    field("mark", 16, 4, sized(4, 4)).loaded(SOCK_MARK),
    field("priority", 20, 4, sized(4, 4)).loaded(SOCK_PRIORITY),
    SRC_IP4,
    SRC_IP6,
    SRC_PORT,
    DST_PORT,
    DST_PORT_CGROUP_SOCK,
    DST_IP4,
    DST_IP6,
    STATE,
    RX_QUEUE_MAPPING,
];

pub(super) const TCP_SOCK: &[CtxField] = &[
    field("snd_cwnd", 0, 4, sized(4, 4)).loaded(TCP_SND_CWND),
    field("srtt_us", 4, 4, sized(4, 4)).loaded(TCP_SRTT_US),
    field("rtt_min", 8, 4, sized(4, 4)).loaded(TCP_RTT_MIN),
    field("snd_ssthresh", 12, 4, sized(4, 4)).loaded(TCP_SND_SSTHRESH),
    field("rcv_nxt", 16, 4, sized(4, 4)).loaded(TCP_RCV_NXT),
    field("snd_nxt", 20, 4, sized(4, 4)).loaded(TCP_SND_NXT),
    field("snd_una", 24, 4, sized(4, 4)).loaded(TCP_SND_UNA),
    field("mss_cache", 28, 4, sized(4, 4)).loaded(TCP_MSS_CACHE),
    field("ecn_flags", 32, 4, sized(4, 4)).loaded(TCP_ECN_FLAGS),
    field("rate_delivered", 36, 4, sized(4, 4)).loaded(TCP_RATE_DELIVERED),
    field("rate_interval_us", 40, 4, sized(4, 4)).loaded(TCP_RATE_INTERVAL_US),
    field("packets_out", 44, 4, sized(4, 4)).loaded(TCP_PACKETS_OUT),
    field("retrans_out", 48, 4, sized(4, 4)).loaded(TCP_RETRANS_OUT),
    field("total_retrans", 52, 4, sized(4, 4)).loaded(TCP_TOTAL_RETRANS),
    field("segs_in", 56, 4, sized(4, 4)).loaded(TCP_SEGS_IN),
    field("data_segs_in", 60, 4, sized(4, 4)).loaded(TCP_DATA_SEGS_IN),
    field("segs_out", 64, 4, sized(4, 4)).loaded(TCP_SEGS_OUT),
    field("data_segs_out", 68, 4, sized(4, 4)).loaded(TCP_DATA_SEGS_OUT),
    field("lost_out", 72, 4, sized(4, 4)).loaded(TCP_LOST_OUT),
    field("sacked_out", 76, 4, sized(4, 4)).loaded(TCP_SACKED_OUT),
    field("bytes_received", 80, 8, sized(8, 8)).loaded(TCP_BYTES_RECEIVED),
    field("bytes_acked", 88, 8, sized(8, 8)).loaded(TCP_BYTES_ACKED),
    field("dsack_dups", 96, 4, sized(4, 4)).loaded(TCP_DSACK_DUPS),
    field("delivered", 100, 4, sized(4, 4)).loaded(TCP_DELIVERED),
    field("delivered_ce", 104, 4, sized(4, 4)).loaded(TCP_DELIVERED_CE),
    field("icsk_retransmits", 108, 4, sized(4, 4)).loaded(TCP_ICSK_RETRANSMITS),
];

pub(super) const XDP_SOCK: &[CtxField] =
    &[field("queue_id", 0, 4, sized(4, 4)).loaded(XSK_QUEUE_ID)];
