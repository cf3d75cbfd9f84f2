//! Events of a TCP socket: `bpf_sock_ops`.

use super::rows::{alu_imm, alu_reg, at, at_start, field, jump, load, sized, skip, store};
use super::{
    CtxField,
    CtxReg::{Packet, PacketEnd, SockOrNull},
    Narrow,
    Operation::{Add, Eq, Lsh, Mov},
    Place, Step,
    Who::{Ax, Ctx, Dst, Tmp, Val},
    Width::{W32, W64},
};

/// A load from the TCP socket behind the event, 0 unless the event holds its lock.
const fn locked(bytes: u8, place: Place) -> [Step; 4] {
    [
        load(
            1,
            Dst,
            Ctx,
            at("bpf_sock_ops_kern", "is_locked_tcp_sock", 0),
        ),
        jump(W64, Eq, Dst, 0, 2),
        load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
        load(bytes, Dst, Dst, place),
    ]
}

/// The same load into the context register itself.
const fn locked_aliased(bytes: u8, place: Place) -> [Step; 9] {
    [
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
        load(bytes, Ctx, Ctx, place),
        skip(2),
        load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
        alu_imm(W64, Mov, Ctx, 0),
    ]
}

const SOCK_OPS_OP: &[Step] = &[load(1, Dst, Ctx, at("bpf_sock_ops_kern", "op", 0))];
const SOCK_OPS_ARGS: &[Step] = &[load(4, Dst, Ctx, at("bpf_sock_ops_kern", "args", 0).each())];
const SOCK_OPS_ARGS_STORE: &[Step] = &[store(
    4,
    Ctx,
    at("bpf_sock_ops_kern", "args", 0).each(),
    Val,
)];
const SOCK_OPS_FAMILY: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_family", 0)),
];
const SOCK_OPS_REMOTE_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_daddr", 0)),
];
const SOCK_OPS_LOCAL_IP4: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("sock", "__sk_common.skc_rcv_saddr", 0)),
];
const SOCK_OPS_REMOTE_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_daddr.in6_u.u6_addr32", 0).each(),
    ),
];
const SOCK_OPS_LOCAL_IP6: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(
        4,
        Dst,
        Dst,
        at("sock", "__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32", 0).each(),
    ),
];
const SOCK_OPS_REMOTE_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_dport", 0)),
    alu_imm(W32, Lsh, Dst, 0x10),
];
const SOCK_OPS_LOCAL_PORT: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(2, Dst, Dst, at("sock", "__sk_common.skc_num", 0)),
];
const SOCK_OPS_IS_FULLSOCK: &[Step] =
    &[load(1, Dst, Ctx, at("bpf_sock_ops_kern", "is_fullsock", 0))];
const SOCK_OPS_SND_CWND: &[Step] = &locked(4, at("tcp_sock", "snd_cwnd", 0));
const SOCK_OPS_SND_CWND_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "snd_cwnd", 0));
const SOCK_OPS_SRTT_US: &[Step] = &locked(4, at("tcp_sock", "srtt_us", 0));
const SOCK_OPS_SRTT_US_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "srtt_us", 0));
const SOCK_OPS_BPF_SOCK_OPS_CB_FLAGS: &[Step] =
    &locked(1, at("tcp_sock", "bpf_sock_ops_cb_flags", 0));
const SOCK_OPS_BPF_SOCK_OPS_CB_FLAGS_ALIASED: &[Step] =
    &locked_aliased(1, at("tcp_sock", "bpf_sock_ops_cb_flags", 0));
const SOCK_OPS_STATE: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(1, Dst, Dst, at("sock", "__sk_common.skc_state", 0)),
];
const SOCK_OPS_RTT_MIN: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    load(4, Dst, Dst, at("tcp_sock", "rtt_min.s", 4)),
];
const SOCK_OPS_SND_SSTHRESH: &[Step] = &locked(4, at("tcp_sock", "snd_ssthresh", 0));
const SOCK_OPS_SND_SSTHRESH_ALIASED: &[Step] =
    &locked_aliased(4, at("tcp_sock", "snd_ssthresh", 0));
const SOCK_OPS_RCV_NXT: &[Step] = &locked(4, at("tcp_sock", "rcv_nxt", 0));
const SOCK_OPS_RCV_NXT_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "rcv_nxt", 0));
const SOCK_OPS_SND_NXT: &[Step] = &locked(4, at("tcp_sock", "snd_nxt", 0));
const SOCK_OPS_SND_NXT_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "snd_nxt", 0));
const SOCK_OPS_SND_UNA: &[Step] = &locked(4, at("tcp_sock", "snd_una", 0));
const SOCK_OPS_SND_UNA_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "snd_una", 0));
const SOCK_OPS_MSS_CACHE: &[Step] = &locked(4, at("tcp_sock", "mss_cache", 0));
const SOCK_OPS_MSS_CACHE_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "mss_cache", 0));
const SOCK_OPS_ECN_FLAGS: &[Step] = &locked(1, at("tcp_sock", "ecn_flags", 0));
const SOCK_OPS_ECN_FLAGS_ALIASED: &[Step] = &locked_aliased(1, at("tcp_sock", "ecn_flags", 0));
const SOCK_OPS_RATE_DELIVERED: &[Step] = &locked(4, at("tcp_sock", "rate_delivered", 0));
const SOCK_OPS_RATE_DELIVERED_ALIASED: &[Step] =
    &locked_aliased(4, at("tcp_sock", "rate_delivered", 0));
const SOCK_OPS_RATE_INTERVAL_US: &[Step] = &locked(4, at("tcp_sock", "rate_interval_us", 0));
const SOCK_OPS_RATE_INTERVAL_US_ALIASED: &[Step] =
    &locked_aliased(4, at("tcp_sock", "rate_interval_us", 0));
const SOCK_OPS_PACKETS_OUT: &[Step] = &locked(4, at("tcp_sock", "packets_out", 0));
const SOCK_OPS_PACKETS_OUT_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "packets_out", 0));
const SOCK_OPS_RETRANS_OUT: &[Step] = &locked(4, at("tcp_sock", "retrans_out", 0));
const SOCK_OPS_RETRANS_OUT_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "retrans_out", 0));
const SOCK_OPS_TOTAL_RETRANS: &[Step] = &locked(4, at("tcp_sock", "total_retrans", 0));
const SOCK_OPS_TOTAL_RETRANS_ALIASED: &[Step] =
    &locked_aliased(4, at("tcp_sock", "total_retrans", 0));
const SOCK_OPS_SEGS_IN: &[Step] = &locked(4, at("tcp_sock", "segs_in", 0));
const SOCK_OPS_SEGS_IN_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "segs_in", 0));
const SOCK_OPS_DATA_SEGS_IN: &[Step] = &locked(4, at("tcp_sock", "data_segs_in", 0));
const SOCK_OPS_DATA_SEGS_IN_ALIASED: &[Step] =
    &locked_aliased(4, at("tcp_sock", "data_segs_in", 0));
const SOCK_OPS_SEGS_OUT: &[Step] = &locked(4, at("tcp_sock", "segs_out", 0));
const SOCK_OPS_SEGS_OUT_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "segs_out", 0));
const SOCK_OPS_DATA_SEGS_OUT: &[Step] = &locked(4, at("tcp_sock", "data_segs_out", 0));
const SOCK_OPS_DATA_SEGS_OUT_ALIASED: &[Step] =
    &locked_aliased(4, at("tcp_sock", "data_segs_out", 0));
const SOCK_OPS_LOST_OUT: &[Step] = &locked(4, at("tcp_sock", "lost_out", 0));
const SOCK_OPS_LOST_OUT_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "lost_out", 0));
const SOCK_OPS_SACKED_OUT: &[Step] = &locked(4, at("tcp_sock", "sacked_out", 0));
const SOCK_OPS_SACKED_OUT_ALIASED: &[Step] = &locked_aliased(4, at("tcp_sock", "sacked_out", 0));
const SOCK_OPS_SK_TXHASH: &[Step] = &locked(4, at("sock", "sk_txhash", 0));
const SOCK_OPS_SK_TXHASH_ALIASED: &[Step] = &locked_aliased(4, at("sock", "sk_txhash", 0));
const SOCK_OPS_SK_TXHASH_STORE: &[Step] = &[
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
const SOCK_OPS_BYTES_RECEIVED: &[Step] = &locked(8, at("tcp_sock", "bytes_received", 0));
const SOCK_OPS_BYTES_RECEIVED_ALIASED: &[Step] =
    &locked_aliased(8, at("tcp_sock", "bytes_received", 0));
const SOCK_OPS_BYTES_ACKED: &[Step] = &locked(8, at("tcp_sock", "bytes_acked", 0));
const SOCK_OPS_BYTES_ACKED_ALIASED: &[Step] = &locked_aliased(8, at("tcp_sock", "bytes_acked", 0));
const SOCK_OPS_SK: &[Step] = &[
    load(1, Dst, Ctx, at("bpf_sock_ops_kern", "is_fullsock", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
];
const SOCK_OPS_SK_ALIASED: &[Step] = &[
    store(8, Ctx, at("bpf_sock_ops_kern", "temp", 0), Tmp),
    load(1, Tmp, Ctx, at("bpf_sock_ops_kern", "is_fullsock", 0)),
    jump(W64, Eq, Tmp, 0, 3),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    load(8, Ctx, Ctx, at("bpf_sock_ops_kern", "sk", 0)),
    skip(2),
    load(8, Tmp, Ctx, at("bpf_sock_ops_kern", "temp", 0)),
    alu_imm(W64, Mov, Ctx, 0x0),
];
const SOCK_OPS_SKB_DATA: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "skb", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(8, Dst, Dst, at("sk_buff", "data", 0)),
];
const SOCK_OPS_SKB_DATA_END: &[Step] = &[load(
    8,
    Dst,
    Ctx,
    at("bpf_sock_ops_kern", "skb_data_end", 0),
)];
const SOCK_OPS_SKB_LEN: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "skb", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(4, Dst, Dst, at("sk_buff", "len", 0)),
];
const SOCK_OPS_SKB_TCP_FLAGS: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "skb", 0)),
    jump(W64, Eq, Dst, 0, 1),
    load(2, Dst, Dst, at("sk_buff", "cb", 12)),
];
const SOCK_OPS_SKB_HWTSTAMP: &[Step] = &[
    load(8, Dst, Ctx, at("bpf_sock_ops_kern", "skb", 0)),
    jump(W64, Eq, Dst, 0, 4),
    load(4, Ax, Dst, at("sk_buff", "end", 0)),
    load(8, Dst, Dst, at("sk_buff", "head", 0)),
    alu_reg(W64, Add, Dst, Ax),
    load(8, Dst, Dst, at("skb_shared_info", "hwtstamps.hwtstamp", 0)),
];

pub(super) const SOCK_OPS: &[CtxField] = &[
    field("op", 0, 4, sized(4, 4)).loaded(SOCK_OPS_OP),
    field("args", 4, 16, sized(4, 4))
        .stored(at_start(4, 4), SOCK_OPS_ARGS_STORE)
        .loaded(SOCK_OPS_ARGS),
    field("family", 20, 4, sized(4, 4)).loaded(SOCK_OPS_FAMILY),
    field("remote_ip4", 24, 4, sized(4, 4)).loaded(SOCK_OPS_REMOTE_IP4),
    field("local_ip4", 28, 4, sized(4, 4)).loaded(SOCK_OPS_LOCAL_IP4),
    field("remote_ip6", 32, 16, sized(4, 4)).loaded(SOCK_OPS_REMOTE_IP6),
    field("local_ip6", 48, 16, sized(4, 4)).loaded(SOCK_OPS_LOCAL_IP6),
    field("remote_port", 64, 4, sized(4, 4)).loaded(SOCK_OPS_REMOTE_PORT),
    field("local_port", 68, 4, sized(4, 4)).loaded(SOCK_OPS_LOCAL_PORT),
    field("is_fullsock", 72, 4, sized(4, 4)).loaded(SOCK_OPS_IS_FULLSOCK),
    field("snd_cwnd", 76, 4, sized(4, 4))
        .loaded(SOCK_OPS_SND_CWND)
        .aliased(SOCK_OPS_SND_CWND_ALIASED),
    field("srtt_us", 80, 4, sized(4, 4))
        .loaded(SOCK_OPS_SRTT_US)
        .aliased(SOCK_OPS_SRTT_US_ALIASED),
    field("bpf_sock_ops_cb_flags", 84, 4, sized(4, 4))
        .loaded(SOCK_OPS_BPF_SOCK_OPS_CB_FLAGS)
        .aliased(SOCK_OPS_BPF_SOCK_OPS_CB_FLAGS_ALIASED),
    field("state", 88, 4, sized(4, 4)).loaded(SOCK_OPS_STATE),
    field("rtt_min", 92, 4, sized(4, 4)).loaded(SOCK_OPS_RTT_MIN),
    field("snd_ssthresh", 96, 4, sized(4, 4))
        .loaded(SOCK_OPS_SND_SSTHRESH)
        .aliased(SOCK_OPS_SND_SSTHRESH_ALIASED),
    field("rcv_nxt", 100, 4, sized(4, 4))
        .loaded(SOCK_OPS_RCV_NXT)
        .aliased(SOCK_OPS_RCV_NXT_ALIASED),
    field("snd_nxt", 104, 4, sized(4, 4))
        .loaded(SOCK_OPS_SND_NXT)
        .aliased(SOCK_OPS_SND_NXT_ALIASED),
    field("snd_una", 108, 4, sized(4, 4))
        .loaded(SOCK_OPS_SND_UNA)
        .aliased(SOCK_OPS_SND_UNA_ALIASED),
    field("mss_cache", 112, 4, sized(4, 4))
        .loaded(SOCK_OPS_MSS_CACHE)
        .aliased(SOCK_OPS_MSS_CACHE_ALIASED),
    field("ecn_flags", 116, 4, sized(4, 4))
        .loaded(SOCK_OPS_ECN_FLAGS)
        .aliased(SOCK_OPS_ECN_FLAGS_ALIASED),
    field("rate_delivered", 120, 4, sized(4, 4))
        .loaded(SOCK_OPS_RATE_DELIVERED)
        .aliased(SOCK_OPS_RATE_DELIVERED_ALIASED),
    field("rate_interval_us", 124, 4, sized(4, 4))
        .loaded(SOCK_OPS_RATE_INTERVAL_US)
        .aliased(SOCK_OPS_RATE_INTERVAL_US_ALIASED),
    field("packets_out", 128, 4, sized(4, 4))
        .loaded(SOCK_OPS_PACKETS_OUT)
        .aliased(SOCK_OPS_PACKETS_OUT_ALIASED),
    field("retrans_out", 132, 4, sized(4, 4))
        .loaded(SOCK_OPS_RETRANS_OUT)
        .aliased(SOCK_OPS_RETRANS_OUT_ALIASED),
    field("total_retrans", 136, 4, sized(4, 4))
        .loaded(SOCK_OPS_TOTAL_RETRANS)
        .aliased(SOCK_OPS_TOTAL_RETRANS_ALIASED),
    field("segs_in", 140, 4, sized(4, 4))
        .loaded(SOCK_OPS_SEGS_IN)
        .aliased(SOCK_OPS_SEGS_IN_ALIASED),
    field("data_segs_in", 144, 4, sized(4, 4))
        .loaded(SOCK_OPS_DATA_SEGS_IN)
        .aliased(SOCK_OPS_DATA_SEGS_IN_ALIASED),
    field("segs_out", 148, 4, sized(4, 4))
        .loaded(SOCK_OPS_SEGS_OUT)
        .aliased(SOCK_OPS_SEGS_OUT_ALIASED),
    field("data_segs_out", 152, 4, sized(4, 4))
        .loaded(SOCK_OPS_DATA_SEGS_OUT)
        .aliased(SOCK_OPS_DATA_SEGS_OUT_ALIASED),
    field("lost_out", 156, 4, sized(4, 4))
        .loaded(SOCK_OPS_LOST_OUT)
        .aliased(SOCK_OPS_LOST_OUT_ALIASED),
    field("sacked_out", 160, 4, sized(4, 4))
        .loaded(SOCK_OPS_SACKED_OUT)
        .aliased(SOCK_OPS_SACKED_OUT_ALIASED),
    field("sk_txhash", 164, 4, sized(4, 4))
        .stored(sized(4, 4), SOCK_OPS_SK_TXHASH_STORE)
        .loaded(SOCK_OPS_SK_TXHASH)
        .aliased(SOCK_OPS_SK_TXHASH_ALIASED),
    field("bytes_received", 168, 8, sized(8, 8))
        .loaded(SOCK_OPS_BYTES_RECEIVED)
        .aliased(SOCK_OPS_BYTES_RECEIVED_ALIASED),
    field("bytes_acked", 176, 8, sized(8, 8))
        .loaded(SOCK_OPS_BYTES_ACKED)
        .aliased(SOCK_OPS_BYTES_ACKED_ALIASED),
    field("sk", 184, 8, sized(8, 8))
        .yields(SockOrNull)
        .loaded(SOCK_OPS_SK)
        .aliased(SOCK_OPS_SK_ALIASED),
    field("skb_data", 192, 8, sized(8, 8))
        .yields(Packet)
        .loaded(SOCK_OPS_SKB_DATA),
    field("skb_data_end", 200, 8, sized(8, 8))
        .yields(PacketEnd)
        .loaded(SOCK_OPS_SKB_DATA_END),
    field("skb_len", 208, 4, sized(4, 4)).loaded(SOCK_OPS_SKB_LEN),
    field("skb_tcp_flags", 212, 4, at_start(1, 4))
        .loaded(SOCK_OPS_SKB_TCP_FLAGS)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("skb_hwtstamp", 216, 8, sized(8, 8)).loaded(SOCK_OPS_SKB_HWTSTAMP),
];
