//! The fields of every context: place, sizes that may be loaded and stored, what the load yields, its conversion.
//!
//! Sizes probed on Linux 6.18 over every (program type, attach type, offset, size, load or store); a test compares the
//! rows with the recorded answers (fixtures/oracle/spec/ctx.txt).

use ring3_uapi::AttachType as A;

use super::steps::*;
use super::{CtxField, CtxReg::*, CtxTable, NO, Narrow, at_start, field, sized};
use crate::CtxView;

const SOCKET_FILTER: &[CtxField] = &[
    field("len", 0, 4, sized(1, 4))
        .loaded(SKB_LEN)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("pkt_type", 4, 4, sized(1, 4))
        .loaded(SKB_PKT_TYPE)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("mark", 8, 4, sized(1, 4))
        .loaded(SKB_MARK)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("queue_mapping", 12, 4, sized(1, 4))
        .loaded(SKB_QUEUE_MAPPING)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("protocol", 16, 4, sized(1, 4))
        .loaded(SKB_PROTOCOL)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("vlan_present", 20, 4, sized(1, 4))
        .loaded(SKB_VLAN_PRESENT)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("vlan_tci", 24, 4, sized(1, 4))
        .loaded(SKB_VLAN_TCI)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("vlan_proto", 28, 4, sized(1, 4))
        .loaded(SKB_VLAN_PROTO)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("priority", 32, 4, sized(1, 4))
        .loaded(SKB_PRIORITY)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("ingress_ifindex", 36, 4, sized(1, 4))
        .loaded(SKB_INGRESS_IFINDEX)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("ifindex", 40, 4, sized(1, 4))
        .loaded(SKB_IFINDEX)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("tc_index", 44, 4, sized(1, 4))
        .loaded(SKB_TC_INDEX)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("cb", 48, 20, sized(1, 8))
        .stored(sized(1, 8), SKB_CB_STORE)
        .loaded(SKB_CB),
    field("hash", 68, 4, sized(1, 4))
        .loaded(SKB_HASH)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("napi_id", 84, 4, sized(1, 4))
        .loaded(SKB_NAPI_ID)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("gso_segs", 164, 4, sized(1, 4))
        .loaded(SKB_GSO_SEGS)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("sk", 168, 8, sized(8, 8))
        .yields(SockCommonOrNull)
        .loaded(SKB_SK),
    field("gso_size", 176, 4, sized(1, 4))
        .loaded(SKB_GSO_SIZE)
        .narrow(Narrow { unit: 4, target: 2 }),
];

const TC_CLS_ACT: &[CtxField] = &[
    field("len", 0, 4, sized(1, 4))
        .loaded(SKB_LEN)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("pkt_type", 4, 4, sized(1, 4))
        .loaded(SKB_PKT_TYPE)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("mark", 8, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_MARK_STORE)
        .loaded(SKB_MARK)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("queue_mapping", 12, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_QUEUE_MAPPING_STORE)
        .loaded(SKB_QUEUE_MAPPING)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("protocol", 16, 4, sized(1, 4))
        .loaded(SKB_PROTOCOL)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("vlan_present", 20, 4, sized(1, 4))
        .loaded(SKB_VLAN_PRESENT)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("vlan_tci", 24, 4, sized(1, 4))
        .loaded(SKB_VLAN_TCI)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("vlan_proto", 28, 4, sized(1, 4))
        .loaded(SKB_VLAN_PROTO)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("priority", 32, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_PRIORITY_STORE)
        .loaded(SKB_PRIORITY)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("ingress_ifindex", 36, 4, sized(1, 4))
        .loaded(SKB_INGRESS_IFINDEX)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("ifindex", 40, 4, sized(1, 4))
        .loaded(SKB_IFINDEX_2)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("tc_index", 44, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_TC_INDEX_STORE)
        .loaded(SKB_TC_INDEX)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("cb", 48, 20, sized(1, 8))
        .stored(sized(1, 8), SKB_CB_STORE)
        .loaded(SKB_CB),
    field("hash", 68, 4, sized(1, 4))
        .loaded(SKB_HASH)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("tc_classid", 72, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_TC_CLASSID_STORE)
        .loaded(SKB_TC_CLASSID)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("data", 76, 4, sized(4, 4))
        .yields(Packet)
        .loaded(SKB_DATA),
    field("data_end", 80, 4, sized(4, 4))
        .yields(PacketEnd)
        .loaded(SKB_DATA_END),
    field("napi_id", 84, 4, sized(1, 4))
        .loaded(SKB_NAPI_ID)
        .narrow(Narrow { unit: 4, target: 4 }),
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
    field("gso_segs", 164, 4, sized(1, 4))
        .loaded(SKB_GSO_SEGS)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("sk", 168, 8, sized(8, 8))
        .yields(SockCommonOrNull)
        .loaded(SKB_SK),
    field("gso_size", 176, 4, sized(1, 4))
        .loaded(SKB_GSO_SIZE)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("tstamp_type", 180, 1, sized(1, 1)).loaded(SKB_TSTAMP_TYPE),
    field("hwtstamp", 184, 8, sized(8, 8)).loaded(SKB_HWTSTAMP),
];

const CGROUP_SKB: &[CtxField] = &[
    field("len", 0, 4, sized(1, 4))
        .loaded(SKB_LEN)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("pkt_type", 4, 4, sized(1, 4))
        .loaded(SKB_PKT_TYPE)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("mark", 8, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_MARK_STORE)
        .loaded(SKB_MARK)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("queue_mapping", 12, 4, sized(1, 4))
        .loaded(SKB_QUEUE_MAPPING)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("protocol", 16, 4, sized(1, 4))
        .loaded(SKB_PROTOCOL)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("vlan_present", 20, 4, sized(1, 4))
        .loaded(SKB_VLAN_PRESENT)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("vlan_tci", 24, 4, sized(1, 4))
        .loaded(SKB_VLAN_TCI)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("vlan_proto", 28, 4, sized(1, 4))
        .loaded(SKB_VLAN_PROTO)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("priority", 32, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_PRIORITY_STORE)
        .loaded(SKB_PRIORITY)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("ingress_ifindex", 36, 4, sized(1, 4))
        .loaded(SKB_INGRESS_IFINDEX)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("ifindex", 40, 4, sized(1, 4))
        .loaded(SKB_IFINDEX)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("tc_index", 44, 4, sized(1, 4))
        .loaded(SKB_TC_INDEX)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("cb", 48, 20, sized(1, 8))
        .stored(sized(1, 8), SKB_CB_STORE)
        .loaded(SKB_CB),
    field("hash", 68, 4, sized(1, 4))
        .loaded(SKB_HASH)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("data", 76, 4, sized(4, 4))
        .yields(Packet)
        .loaded(SKB_DATA)
        .bpf(),
    field("data_end", 80, 4, sized(4, 4))
        .yields(PacketEnd)
        .loaded(SKB_DATA_END)
        .bpf(),
    field("napi_id", 84, 4, sized(1, 4))
        .loaded(SKB_NAPI_ID)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("family", 88, 4, sized(1, 4))
        .loaded(SKB_FAMILY)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("remote_ip4", 92, 4, sized(4, 4)).loaded(SKB_REMOTE_IP4),
    field("local_ip4", 96, 4, sized(4, 4)).loaded(SKB_LOCAL_IP4),
    field("remote_ip6", 100, 16, sized(4, 4)).loaded(SKB_REMOTE_IP6),
    field("local_ip6", 116, 16, sized(4, 4)).loaded(SKB_LOCAL_IP6),
    field("remote_port", 132, 4, sized(1, 4))
        .loaded(SKB_REMOTE_PORT)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("local_port", 136, 4, sized(1, 4))
        .loaded(SKB_LOCAL_PORT)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("tstamp", 152, 8, sized(8, 8)).loaded(SKB_TSTAMP),
    field("tstamp", 152, 8, NO)
        .stored(sized(8, 8), SKB_TSTAMP_STORE)
        .bpf(),
    field("gso_segs", 164, 4, sized(1, 4))
        .loaded(SKB_GSO_SEGS)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("sk", 168, 8, sized(8, 8))
        .yields(SockCommonOrNull)
        .loaded(SKB_SK),
    field("gso_size", 176, 4, sized(1, 4))
        .loaded(SKB_GSO_SIZE)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("hwtstamp", 184, 8, sized(8, 8)).loaded(SKB_HWTSTAMP),
];

const LWT: &[CtxField] = &[
    field("len", 0, 4, sized(1, 4))
        .loaded(SKB_LEN)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("pkt_type", 4, 4, sized(1, 4))
        .loaded(SKB_PKT_TYPE)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("mark", 8, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_MARK_STORE)
        .loaded(SKB_MARK)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("queue_mapping", 12, 4, sized(1, 4))
        .loaded(SKB_QUEUE_MAPPING)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("protocol", 16, 4, sized(1, 4))
        .loaded(SKB_PROTOCOL)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("vlan_present", 20, 4, sized(1, 4))
        .loaded(SKB_VLAN_PRESENT)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("vlan_tci", 24, 4, sized(1, 4))
        .loaded(SKB_VLAN_TCI)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("vlan_proto", 28, 4, sized(1, 4))
        .loaded(SKB_VLAN_PROTO)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("priority", 32, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_PRIORITY_STORE)
        .loaded(SKB_PRIORITY)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("ingress_ifindex", 36, 4, sized(1, 4))
        .loaded(SKB_INGRESS_IFINDEX)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("ifindex", 40, 4, sized(1, 4))
        .loaded(SKB_IFINDEX)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("tc_index", 44, 4, sized(1, 4))
        .loaded(SKB_TC_INDEX)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("cb", 48, 20, sized(1, 8))
        .stored(sized(1, 8), SKB_CB_STORE)
        .loaded(SKB_CB),
    field("hash", 68, 4, sized(1, 4))
        .loaded(SKB_HASH)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("data", 76, 4, sized(4, 4))
        .yields(Packet)
        .loaded(SKB_DATA),
    field("data_end", 80, 4, sized(4, 4))
        .yields(PacketEnd)
        .loaded(SKB_DATA_END),
    field("napi_id", 84, 4, sized(1, 4))
        .loaded(SKB_NAPI_ID)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("gso_segs", 164, 4, sized(1, 4))
        .loaded(SKB_GSO_SEGS)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("sk", 168, 8, sized(8, 8))
        .yields(SockCommonOrNull)
        .loaded(SKB_SK),
    field("gso_size", 176, 4, sized(1, 4))
        .loaded(SKB_GSO_SIZE)
        .narrow(Narrow { unit: 4, target: 2 }),
];

const SK_SKB: &[CtxField] = &[
    field("len", 0, 4, sized(1, 4))
        .loaded(SKB_LEN)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("pkt_type", 4, 4, sized(1, 4))
        .loaded(SKB_PKT_TYPE)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("queue_mapping", 12, 4, sized(1, 4))
        .loaded(SKB_QUEUE_MAPPING)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("protocol", 16, 4, sized(1, 4))
        .loaded(SKB_PROTOCOL)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("vlan_present", 20, 4, sized(1, 4))
        .loaded(SKB_VLAN_PRESENT)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("vlan_tci", 24, 4, sized(1, 4))
        .loaded(SKB_VLAN_TCI)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("vlan_proto", 28, 4, sized(1, 4))
        .loaded(SKB_VLAN_PROTO)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("priority", 32, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_PRIORITY_STORE)
        .loaded(SKB_PRIORITY)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("ingress_ifindex", 36, 4, sized(1, 4))
        .loaded(SKB_INGRESS_IFINDEX)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("ifindex", 40, 4, sized(1, 4))
        .loaded(SKB_IFINDEX)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("tc_index", 44, 4, sized(1, 4))
        .stored(sized(4, 4), SKB_TC_INDEX_STORE)
        .loaded(SKB_TC_INDEX)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("cb", 48, 20, sized(1, 8)).loaded(SKB_CB_2),
    field("hash", 68, 4, sized(1, 4))
        .loaded(SKB_HASH)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("data", 76, 4, sized(4, 4))
        .yields(Packet)
        .loaded(SKB_DATA),
    field("data_end", 80, 4, sized(4, 4))
        .yields(PacketEnd)
        .loaded(SKB_DATA_END_2)
        .aliased(SKB_DATA_END_ALIASED),
    field("napi_id", 84, 4, sized(1, 4))
        .loaded(SKB_NAPI_ID)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("family", 88, 4, sized(1, 4))
        .loaded(SKB_FAMILY)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("remote_ip4", 92, 4, sized(4, 4)).loaded(SKB_REMOTE_IP4),
    field("local_ip4", 96, 4, sized(4, 4)).loaded(SKB_LOCAL_IP4),
    field("remote_ip6", 100, 16, sized(4, 4)).loaded(SKB_REMOTE_IP6),
    field("local_ip6", 116, 16, sized(4, 4)).loaded(SKB_LOCAL_IP6),
    field("remote_port", 132, 4, sized(1, 4))
        .loaded(SKB_REMOTE_PORT)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("local_port", 136, 4, sized(1, 4))
        .loaded(SKB_LOCAL_PORT)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("gso_segs", 164, 4, sized(1, 4))
        .loaded(SKB_GSO_SEGS)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("sk", 168, 8, sized(8, 8))
        .yields(SockCommonOrNull)
        .loaded(SKB_SK),
    field("gso_size", 176, 4, sized(1, 4))
        .loaded(SKB_GSO_SIZE)
        .narrow(Narrow { unit: 4, target: 2 }),
];

const FLOW_DISSECTOR: &[CtxField] = &[
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

const XDP: &[CtxField] = &[
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

const CGROUP_SOCK: &[CtxField] = &[
    field("bound_dev_if", 0, 4, sized(4, 4))
        .stored(sized(4, 4), SOCK_BOUND_DEV_IF_STORE)
        .loaded(SOCK_BOUND_DEV_IF)
        .only(&[A::CgroupInetSockCreate, A::CgroupInetSockRelease]),
    field("family", 4, 4, at_start(1, 4))
        .loaded(SOCK_FAMILY)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("type", 8, 4, at_start(1, 4))
        .loaded(SOCK_TYPE)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("protocol", 12, 4, at_start(1, 4))
        .loaded(SOCK_PROTOCOL)
        .narrow(Narrow { unit: 4, target: 2 }),
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
    field("dst_port", 48, 2, sized(1, 2))
        .loaded(SOCK_DST_PORT)
        .narrow(Narrow { unit: 2, target: 2 }),
    field("dst_port", 48, 4, sized(4, 4)).loaded(SOCK_DST_PORT),
    field("dst_ip4", 52, 4, sized(1, 4))
        .loaded(SOCK_DST_IP4)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("dst_ip6", 56, 16, sized(1, 4))
        .loaded(SOCK_DST_IP6)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("state", 72, 4, at_start(1, 4))
        .loaded(SOCK_STATE)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("rx_queue_mapping", 76, 4, at_start(1, 4))
        .loaded(SOCK_RX_QUEUE_MAPPING)
        .narrow(Narrow { unit: 4, target: 2 }),
];

const SOCK_ADDR: &[CtxField] = &[
    field("user_family", 0, 4, sized(4, 4)).loaded(SOCK_ADDR_USER_FAMILY),
    field("user_ip4", 4, 4, sized(1, 4))
        .stored(sized(4, 4), SOCK_ADDR_USER_IP4_STORE)
        .loaded(SOCK_ADDR_USER_IP4)
        .narrow(Narrow { unit: 4, target: 4 })
        .only(&[
            A::CgroupInet4Bind,
            A::CgroupInet4Connect,
            A::CgroupUdp4Sendmsg,
            A::CgroupUdp4Recvmsg,
            A::CgroupInet4Getpeername,
            A::CgroupInet4Getsockname,
        ]),
    field("user_ip6", 8, 16, sized(1, 8))
        .stored(sized(4, 8), SOCK_ADDR_USER_IP6_STORE)
        .loaded(SOCK_ADDR_USER_IP6)
        .narrow(Narrow { unit: 4, target: 4 })
        .only(&[
            A::CgroupInet6Bind,
            A::CgroupInet6Connect,
            A::CgroupUdp6Sendmsg,
            A::CgroupUdp6Recvmsg,
            A::CgroupInet6Getpeername,
            A::CgroupInet6Getsockname,
        ]),
    field("user_port", 24, 4, sized(1, 4))
        .stored(sized(4, 4), SOCK_ADDR_USER_PORT_STORE)
        .loaded(SOCK_ADDR_USER_PORT)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("family", 28, 4, sized(4, 4)).loaded(SOCK_ADDR_FAMILY),
    field("type", 32, 4, sized(4, 4)).loaded(SOCK_ADDR_TYPE),
    field("protocol", 36, 4, sized(4, 4)).loaded(SOCK_ADDR_PROTOCOL),
    field("msg_src_ip4", 40, 4, sized(1, 4))
        .stored(sized(4, 4), SOCK_ADDR_MSG_SRC_IP4_STORE)
        .loaded(SOCK_ADDR_MSG_SRC_IP4)
        .narrow(Narrow { unit: 4, target: 4 })
        .only(&[A::CgroupUdp4Sendmsg]),
    field("msg_src_ip6", 44, 16, sized(1, 8))
        .stored(sized(4, 8), SOCK_ADDR_MSG_SRC_IP6_STORE)
        .loaded(SOCK_ADDR_MSG_SRC_IP6)
        .narrow(Narrow { unit: 4, target: 4 })
        .only(&[A::CgroupUdp6Sendmsg]),
    field("sk", 64, 8, sized(8, 8))
        .yields(Sock)
        .loaded(SOCK_ADDR_SK),
];

const SOCK_OPS: &[CtxField] = &[
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

const SK_MSG: &[CtxField] = &[
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

const SK_REUSEPORT: &[CtxField] = &[
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

const SK_LOOKUP: &[CtxField] = &[
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

const CGROUP_DEVICE: &[CtxField] = &[
    field("access_type", 0, 4, sized(1, 4))
        .loaded(DEVICE_ACCESS_TYPE)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("major", 4, 4, sized(4, 4)).loaded(DEVICE_MAJOR),
    field("minor", 8, 4, sized(4, 4)).loaded(DEVICE_MINOR),
];

const SYSCTL: &[CtxField] = &[
    field("write", 0, 4, sized(1, 4))
        .loaded(SYSCTL_WRITE)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("file_pos", 4, 4, sized(1, 4))
        .stored(sized(4, 4), SYSCTL_FILE_POS_STORE)
        .loaded(SYSCTL_FILE_POS)
        .narrow(Narrow { unit: 4, target: 4 }),
];

const SOCKOPT: &[CtxField] = &[
    field("sk", 0, 8, sized(8, 8))
        .yields(Sock)
        .loaded(SOCKOPT_SK),
    field("optval", 8, 8, sized(8, 8))
        .yields(Packet)
        .loaded(SOCKOPT_OPTVAL),
    field("optval_end", 16, 8, sized(8, 8))
        .yields(PacketEnd)
        .loaded(SOCKOPT_OPTVAL_END),
    field("level", 24, 4, sized(4, 4))
        .loaded(SOCKOPT_LEVEL)
        .only(&[A::CgroupGetsockopt]),
    field("level", 24, 4, sized(4, 4))
        .stored(sized(4, 4), SOCKOPT_LEVEL_STORE)
        .loaded(SOCKOPT_LEVEL)
        .only(&[A::CgroupSetsockopt]),
    field("optname", 28, 4, sized(4, 4))
        .loaded(SOCKOPT_OPTNAME)
        .only(&[A::CgroupGetsockopt]),
    field("optname", 28, 4, sized(4, 4))
        .stored(sized(4, 4), SOCKOPT_OPTNAME_STORE)
        .loaded(SOCKOPT_OPTNAME)
        .only(&[A::CgroupSetsockopt]),
    field("optlen", 32, 4, sized(4, 4))
        .stored(sized(4, 4), SOCKOPT_OPTLEN_STORE)
        .loaded(SOCKOPT_OPTLEN),
    field("retval", 36, 4, sized(4, 4))
        .stored(sized(4, 4), SOCKOPT_RETVAL_STORE)
        .loaded(SOCKOPT_RETVAL)
        .only(&[A::CgroupGetsockopt]),
];

const PERF_EVENT: &[CtxField] = &[
    field("regs", 0, 168, sized(8, 8)).loaded(PERF_REGS),
    field("sample_period", 168, 8, sized(1, 8))
        .loaded(PERF_SAMPLE_PERIOD)
        .narrow(Narrow { unit: 8, target: 8 }),
    field("addr", 176, 8, sized(1, 8))
        .loaded(PERF_ADDR)
        .narrow(Narrow { unit: 8, target: 8 }),
];

const NETFILTER: &[CtxField] = &[
    field("state", 0, 8, sized(8, 8))
        .yields(Trusted("nf_hook_state"))
        .loaded(NF_STATE),
    field("skb", 8, 8, sized(8, 8))
        .yields(Trusted("sk_buff"))
        .loaded(NF_SKB),
];

const SOCK_COMMON: &[CtxField] = &[
    field("bound_dev_if", 0, 4, sized(4, 4)).loaded(SOCK_BOUND_DEV_IF),
    field("family", 4, 4, at_start(1, 4))
        .loaded(SOCK_FAMILY)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("src_ip4", 24, 4, sized(1, 4))
        .loaded(SOCK_SRC_IP4)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("src_ip6", 28, 16, sized(1, 4))
        .loaded(SOCK_SRC_IP6)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("src_port", 44, 4, at_start(1, 4))
        .loaded(SOCK_SRC_PORT)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("dst_port", 48, 2, sized(1, 2))
        .loaded(SOCK_DST_PORT)
        .narrow(Narrow { unit: 2, target: 2 }),
    field("dst_port", 48, 4, sized(4, 4)).loaded(SOCK_DST_PORT),
    field("dst_ip4", 52, 4, sized(1, 4))
        .loaded(SOCK_DST_IP4)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("dst_ip6", 56, 16, sized(1, 4))
        .loaded(SOCK_DST_IP6)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("state", 72, 4, at_start(1, 4))
        .loaded(SOCK_STATE)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("rx_queue_mapping", 76, 4, at_start(1, 4))
        .loaded(SOCK_RX_QUEUE_MAPPING)
        .narrow(Narrow { unit: 4, target: 2 }),
];

const SOCKET: &[CtxField] = &[
    field("bound_dev_if", 0, 4, sized(4, 4)).loaded(SOCK_BOUND_DEV_IF),
    field("family", 4, 4, at_start(1, 4))
        .loaded(SOCK_FAMILY)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("type", 8, 4, at_start(1, 4))
        .loaded(SOCK_TYPE)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("protocol", 12, 4, at_start(1, 4))
        .loaded(SOCK_PROTOCOL)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("mark", 16, 4, sized(4, 4)).loaded(SOCK_MARK),
    field("priority", 20, 4, sized(4, 4)).loaded(SOCK_PRIORITY),
    field("src_ip4", 24, 4, sized(1, 4))
        .loaded(SOCK_SRC_IP4)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("src_ip6", 28, 16, sized(1, 4))
        .loaded(SOCK_SRC_IP6)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("src_port", 44, 4, at_start(1, 4))
        .loaded(SOCK_SRC_PORT)
        .narrow(Narrow { unit: 4, target: 2 }),
    field("dst_port", 48, 2, sized(1, 2))
        .loaded(SOCK_DST_PORT)
        .narrow(Narrow { unit: 2, target: 2 }),
    field("dst_port", 48, 4, sized(4, 4)).loaded(SOCK_DST_PORT),
    field("dst_ip4", 52, 4, sized(1, 4))
        .loaded(SOCK_DST_IP4)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("dst_ip6", 56, 16, sized(1, 4))
        .loaded(SOCK_DST_IP6)
        .narrow(Narrow { unit: 4, target: 4 }),
    field("state", 72, 4, at_start(1, 4))
        .loaded(SOCK_STATE)
        .narrow(Narrow { unit: 4, target: 1 }),
    field("rx_queue_mapping", 76, 4, at_start(1, 4))
        .loaded(SOCK_RX_QUEUE_MAPPING)
        .narrow(Narrow { unit: 4, target: 2 }),
];

const TCP_SOCK: &[CtxField] = &[
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

const XDP_SOCK: &[CtxField] = &[field("queue_id", 0, 4, sized(4, 4)).loaded(XSK_QUEUE_ID)];

const KPROBE: &[CtxField] = &[field("pt_regs", 0, 168, sized(1, 8))];

const TRACEPOINT: &[CtxField] = &[field("record", 8, 8184, sized(1, 8))];

const RAW_TRACEPOINT: &[CtxField] = &[field("args", 0, 96, sized(1, 8))];

const RAW_TRACEPOINT_WRITABLE: &[CtxField] = &[
    field("buffer", 0, 8, sized(8, 8)).yields(TpBuffer),
    field("args", 1, 95, sized(1, 8)),
];

const SYSCALL: &[CtxField] = &[
    field("buffer", 0, 65535, sized(1, 8)).stored(sized(1, 8), NONE),
    field("buffer", 65528, 8, sized(2, 8)).stored(sized(2, 8), NONE),
];

const LIRC: &[CtxField] = &[field("sample", 0, 4, sized(4, 4))];

/// Bytes of `bpf_flow_keys`; any access inside is valid.
pub const FLOW_KEYS_BYTES: u32 = 56;

macro_rules! tables {
    ($($view:ident = $fields:ident, $uapi:literal, $kernel:literal, $bytes:literal;)*) => {
        $(
            const _: () = {
                let mut i = 1;
                while i < $fields.len() {
                    assert!($fields[i - 1].offset <= $fields[i].offset);
                    i += 1;
                }
            };
        )*

        /// The context of a view; none where BTF describes it or there is none.
        pub fn table(view: CtxView) -> Option<&'static CtxTable> {
            match view {
                $(CtxView::$view => {
                    static TABLE: CtxTable = CtxTable {
                        view: Some(CtxView::$view),
                        uapi_struct: $uapi,
                        kernel_struct: $kernel,
                        bytes: $bytes,
                        fields: $fields,
                    };
                    Some(&TABLE)
                })*
                CtxView::Custom(table) => Some(table),
                CtxView::BtfArgs | CtxView::Extended | CtxView::None => None,
            }
        }
    };
}

tables! {
    SocketFilter = SOCKET_FILTER, "__sk_buff", "sk_buff", 192;
    TcClsAct = TC_CLS_ACT, "__sk_buff", "sk_buff", 192;
    CgroupSkb = CGROUP_SKB, "__sk_buff", "sk_buff", 192;
    Lwt = LWT, "__sk_buff", "sk_buff", 192;
    SkSkb = SK_SKB, "__sk_buff", "sk_buff", 192;
    FlowDissector = FLOW_DISSECTOR, "__sk_buff", "bpf_flow_dissector", 192;
    Xdp = XDP, "xdp_md", "xdp_buff", 24;
    CgroupSock = CGROUP_SOCK, "bpf_sock", "sock", 80;
    SockAddr = SOCK_ADDR, "bpf_sock_addr", "bpf_sock_addr_kern", 72;
    SockOps = SOCK_OPS, "bpf_sock_ops", "bpf_sock_ops_kern", 224;
    SkMsg = SK_MSG, "sk_msg_md", "sk_msg", 80;
    SkReuseport = SK_REUSEPORT, "sk_reuseport_md", "sk_reuseport_kern", 56;
    SkLookup = SK_LOOKUP, "bpf_sk_lookup", "bpf_sk_lookup_kern", 72;
    CgroupDevice = CGROUP_DEVICE, "bpf_cgroup_dev_ctx", "bpf_cgroup_dev_ctx", 12;
    Sysctl = SYSCTL, "bpf_sysctl", "bpf_sysctl_kern", 8;
    Sockopt = SOCKOPT, "bpf_sockopt", "bpf_sockopt_kern", 40;
    PerfEvent = PERF_EVENT, "bpf_perf_event_data", "bpf_perf_event_data_kern", 184;
    Netfilter = NETFILTER, "bpf_nf_ctx", "bpf_nf_ctx", 16;
    Kprobe = KPROBE, "pt_regs", "", 168;
    Tracepoint = TRACEPOINT, "", "", 8192;
    RawTracepoint = RAW_TRACEPOINT, "bpf_raw_tracepoint_args", "", 96;
    RawTracepointWritable = RAW_TRACEPOINT_WRITABLE, "bpf_raw_tracepoint_args", "", 96;
    Syscall = SYSCALL, "", "", 65536;
    Lirc = LIRC, "", "", 4;
}

/// Sockets behind pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketView {
    /// `PTR_TO_SOCK_COMMON`
    SockCommon,
    /// `PTR_TO_SOCKET`
    Socket,
    /// `PTR_TO_TCP_SOCK`
    TcpSock,
    /// `PTR_TO_XDP_SOCK`
    XdpSock,
}

/// Their tables, in the order of [`SocketView`].
pub static SOCKET_VIEWS: [CtxTable; 4] = [
    CtxTable {
        view: None,
        uapi_struct: "bpf_sock",
        kernel_struct: "sock",
        bytes: 80,
        fields: SOCK_COMMON,
    },
    CtxTable {
        view: None,
        uapi_struct: "bpf_sock",
        kernel_struct: "sock",
        bytes: 80,
        fields: SOCKET,
    },
    CtxTable {
        view: None,
        uapi_struct: "bpf_tcp_sock",
        kernel_struct: "tcp_sock",
        bytes: 112,
        fields: TCP_SOCK,
    },
    CtxTable {
        view: None,
        uapi_struct: "bpf_xdp_sock",
        kernel_struct: "xdp_sock",
        bytes: 4,
        fields: XDP_SOCK,
    },
];

impl SocketView {
    /// The fields that programs see through such a pointer.
    pub fn table(self) -> &'static CtxTable {
        &SOCKET_VIEWS[self as usize]
    }
}
